"""The figures of the claims: Vega-Lite specifications of a fixed size, made from rows, and their SVG and PNG.

The figures are drawn for print, in the report's style with its light theme, on white.
"""

import json
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from rmpsweep.report.charts import CONFIG, SHAPES, THEMES
from rmpsweep.terms import RESETS

Row = dict[str, Any]
INK = "#1f2a30"
PANEL_WIDTH, PANEL_HEIGHT = 330, 230
PNG_SCALE = 2.0
ZOOM_POINTS = 6.0
"""Height of the panel that shows accuracies close to hard reset's best, in percentage points."""
LOSS_CLASSES = (0.5, 1, 2, 5, 10, 20, 50)
"""Conversion losses at which the colour changes, in percentage points."""


def response_chart(over_ratio: Sequence[Row], over_f_in: Sequence[Row], curves: Sequence[Row]) -> Row:
    """Draw f_out against V_in/V_th at one f_in, and against f_in at several V_in/V_th.

    Curves show the closed forms, points the measurements.

    Args:
        over_ratio: measured points at one f_in, with reset, v_in_over_v_th, f_in and f_out (rates in spikes per step).
        over_f_in: measured points at several V_in/V_th, likewise.
        curves: corners of the closed forms, likewise; the column `over` names the quantity along which a curve runs.
    """
    import altair as alt

    f_in = over_ratio[0]["f_in"]
    ratio_axis = alt.X("v_in_over_v_th:Q", title="V_in / V_th").axis(tickCount=6, labelFlush=False)
    ratio_curve = [row for row in curves if row["over"] == "v_in_over_v_th"]
    bounds = alt.Chart(alt.InlineData(values=[{"v_in_over_v_th": 1, "end": 1 / f_in}])).encode(x=ratio_axis)
    label = "V_th ≤ V_in < V_th / f_in (reconstruction)"
    wide = alt.layer(
        bounds.mark_rect(color=INK, opacity=0.07).encode(x2="end:Q"),
        bounds.mark_text(text=label, align="left", dx=8, fontSize=11).encode(y=alt.value(14)),
        *_response(alt, ratio_axis, over_ratio, ratio_curve, stairs=True),
    ).properties(width=700, height=260, title=_title(f"f_in = {f_in:g}", "curves: closed form, symbols: simulated"))
    f_in_axis = alt.X("f_in:Q", title="Input rate f_in (spikes per step)").axis(tickCount=5, labelFlush=False)
    small = []
    for ratio in dict.fromkeys(row["v_in_over_v_th"] for row in over_f_in):
        points = [row for row in over_f_in if row["v_in_over_v_th"] == ratio]
        curve = [row for row in curves if row["over"] == "f_in" and row["v_in_over_v_th"] == ratio]
        panel = alt.layer(*_response(alt, f_in_axis, points, curve, stairs=False))
        small.append(panel.properties(width=180, height=180, title=_title(f"V_in / V_th = {ratio:g}")))
    return _specification(alt.vconcat(wide, alt.hconcat(*small)), "Output rate of soft and hard reset neurons")


def _response(alt: Any, x: Any, points: Sequence[Row], curve: Sequence[Row], *, stairs: bool) -> list[Any]:
    y = alt.Y("f_out:Q", title="Output rate f_out (spikes per step)").scale(domain=[0, 1.03], nice=False)
    lines = [
        alt.Chart(alt.InlineData(values=[row for row in curve if row["reset"] == reset]))
        .mark_line(strokeWidth=1.5, interpolate="step-after" if stairs and reset == "hard" else "linear")
        .encode(x=x, y=y, color=_reset_colour(alt))
        for reset in RESETS
    ]
    measured = alt.Chart(alt.InlineData(values=list(points))).mark_point(size=26, strokeWidth=1.2, opacity=1)
    return [*lines, measured.encode(x=x, y=y, color=_reset_colour(alt), shape=_reset_shape(alt))]


def steps_chart(rows: Sequence[Row], marks: Sequence[Row], ann_accuracy: float) -> Row:
    """Draw accuracy against T in two panels.

    One panel shows every trial as a thin line and the best of each reset in bold; the other one shows only the best,
    with an axis that is limited to accuracies close to hard reset's best.

    Args:
        rows: with reset, trial_id, time_steps, accuracy (fraction) and best_of_reset.
        marks: reset, time_steps and accuracy, first of hard reset's best, then of the first T at which soft reset
            exceeds it, if there is one.
        ann_accuracy: fraction in [0, 1].
    """
    import altair as alt

    values, marked = ([row | {"percent": 100 * row["accuracy"]} for row in each] for each in (rows, marks))
    best, ann = marked[0]["percent"], 100 * ann_accuracy
    top = max(ann, *(row["percent"] for row in values))
    near = (max(0.0, best - 0.8 * ZOOM_POINTS), min(100.0, max(top + 0.1 * ZOOM_POINTS, best + 0.2 * ZOOM_POINTS)))
    ticks = sorted({row["time_steps"] for row in values})
    x = alt.X("time_steps:Q", title="Time steps T (log scale)").scale(type="log", base=2, nice=False, padding=12)
    x = x.axis(values=ticks, format="d", labelFlush=False, labelOverlap=True)
    whole, close = (_accuracy_layers(alt, x, values, ann, domain) for domain in ((0.0, 100.0), near))
    thin = _accuracy_lines(alt, x, values, (0.0, 100.0)).mark_line(strokeWidth=0.8, opacity=0.35)
    dropped = alt.Chart(alt.InlineData(values=marked)).encode(x=x, color=_reset_colour(alt))
    drops = dropped.mark_rule(strokeDash=[1, 3]).encode(y=_percent(alt, near), y2=alt.value(PANEL_HEIGHT))
    level = alt.Chart(alt.InlineData(values=marked[:1])).encode(y=_percent(alt, near), color=_reset_colour(alt))
    after = f"soft reset exceeds it at T = {marked[1]['time_steps']}" if marked[1:] else "soft reset never exceeds it"
    at_best = f"dotted: best of hard reset, {best:.2f} % at T = {marked[0]['time_steps']};"
    panels = [
        alt.layer(thin.encode(detail="trial_id:N"), *whole).properties(
            title=_title("All trials", "bold: the best of each reset at every T;", f"dashed: ANN, {ann:.2f} %")
        ),
        alt.layer(level.mark_rule(strokeDash=[1, 3]), drops, *close).properties(
            title=_title("Near the best of hard reset", at_best, after)
        ),
    ]
    sized = [panel.properties(width=PANEL_WIDTH, height=PANEL_HEIGHT) for panel in panels]
    return _specification(alt.hconcat(*sized), "Accuracy against time steps, soft and hard reset")


def _accuracy_layers(alt: Any, x: Any, values: Sequence[Row], ann: float, domain: tuple[float, float]) -> list[Any]:
    best = _accuracy_lines(alt, x, [row for row in values if row["best_of_reset"]], domain)
    rule = alt.Chart(alt.InlineData(values=[{"percent": ann}])).encode(y=_percent(alt, domain))
    return [
        rule.mark_rule(strokeDash=[5, 4], opacity=0.7),
        best.mark_line(clip=True, strokeWidth=2.2),
        best.mark_point(clip=True, filled=True, size=40, opacity=1).encode(shape=_reset_shape(alt)),
    ]


def _accuracy_lines(alt: Any, x: Any, values: Sequence[Row], domain: tuple[float, float]) -> Any:
    chart = alt.Chart(alt.InlineData(values=list(values)))
    return chart.encode(x=x, y=_percent(alt, domain), color=_reset_colour(alt))


def _percent(alt: Any, domain: tuple[float, float]) -> Any:
    return alt.Y("percent:Q", title="Accuracy (%)").scale(domain=domain, nice=False)


def loss_chart(rows: Sequence[Row], panels: Sequence[str]) -> Row:
    """Draw conversion loss by α and T as coloured cells that show the numbers, with one panel per reset and rule.

    Args:
        rows: with panel, alpha, time_steps and loss_points (percentage points).
        panels: the titles of the panels, in the order in which they are drawn.
    """
    import altair as alt

    texts = [
        f"< {LOSS_CLASSES[0]:g}",
        *[f"{a:g} – {b:g}" for a, b in pairwise(LOSS_CLASSES)],
        f"≥ {LOSS_CLASSES[-1]:g}",
    ]
    values = [row | {"class": texts[bisect_right(LOSS_CLASSES, row["loss_points"])]} for row in rows]
    base = alt.Chart().encode(
        x=alt.X("time_steps:O", title="Time steps T").axis(labelAngle=0),
        y=alt.Y("alpha:O", title="Threshold scale α", sort="descending"),
    )
    colour = alt.Color("class:O", title="Conversion loss (percentage points)", sort=texts)
    colour = colour.scale(domain=texts, scheme="tealblues").legend(symbolType="square", titleLimit=0)
    dark = alt.datum.loss_points >= LOSS_CLASSES[-4]
    numbers = base.mark_text(fontSize=10).encode(
        text=alt.Text("loss_points:Q", format=".1f"),
        color=alt.when(dark).then(alt.value("#ffffff")).otherwise(alt.value(INK)),
    )
    chart = alt.layer(base.mark_rect(opacity=1).encode(color=colour), numbers)
    chart = chart.properties(width=alt.Step(40), height=alt.Step(24))
    return _specification(_faceted(alt, chart, values, panels), "Conversion loss against α and time steps")


def activity_chart(rows: Sequence[Row], panels: Sequence[str]) -> Row:
    """Draw the firing rate of every layer, with one line per α and one panel per reset and rule.

    Args:
        rows: with panel, alpha, layer, time_steps and firing_rate (spikes per neuron per step), layers in forward
            order.
        panels: the titles of the panels, in the order in which they are drawn.
    """
    import altair as alt

    layers = list(dict.fromkeys(row["layer"] for row in rows))
    largest = " or ".join(str(t) for t in sorted({row["time_steps"] for row in rows}))
    base = alt.Chart().encode(
        x=alt.X("firing_rate:Q", title=f"Firing rate at T = {largest} (spikes per neuron per step)")
        .scale(zero=True)
        .axis(labelFlush=False, tickCount=6),
        y=alt.Y("layer:N", title="Layer", sort=layers),
        color=alt.Color("alpha:O", title="Threshold scale α").legend(symbolType="circle", symbolOpacity=1),
        order=alt.Order("depth:Q"),
    )
    values = [row | {"depth": layers.index(row["layer"])} for row in rows]
    chart = alt.layer(base.mark_line(strokeWidth=1.5), base.mark_point(filled=True, size=40, opacity=1))
    chart = chart.properties(width=PANEL_WIDTH, height=alt.Step(24))
    return _specification(_faceted(alt, chart, values, panels), "Firing rate of each layer")


def render_svg(chart: Row) -> str:
    """Render a figure as SVG."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(chart))


def render_png(chart: Row) -> bytes:
    """Render a figure as PNG, PNG_SCALE pixels wide and high for each pixel of the specification."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(chart, scale=PNG_SCALE))


def _title(text: str, *subtitle: str) -> Row:
    style = {"anchor": "start", "frame": "group", "fontSize": 13, "fontWeight": 600, "color": INK, "subtitleColor": INK}
    return {"text": text, "subtitle": subtitle, **style}


def _reset_colour(alt: Any) -> Any:
    colour = alt.Color("reset:N", title="Reset", sort=RESETS).legend(symbolOpacity=1)
    return colour.scale(domain=RESETS, range=THEMES["light"]["category"])


def _reset_shape(alt: Any) -> Any:
    return alt.Shape("reset:N", title="Reset", sort=RESETS).scale(domain=RESETS, range=SHAPES[: len(RESETS)])


def _faceted(alt: Any, chart: Any, rows: Sequence[Row], panels: Sequence[str]) -> Any:
    facets = alt.Facet("panel:N", title=None, sort=list(panels))
    faceted = chart.properties(data=alt.InlineData(values=list(rows))).facet(facets, columns=2)
    return faceted.resolve_axis(x="independent", y="independent")


def _specification(chart: Any, description: str) -> Row:
    import altair as alt

    style = json.loads(json.dumps(CONFIG).replace("currentColor", INK))
    style |= {"background": "#ffffff", "padding": 12, "range": THEMES["light"]}
    with alt.data_transformers.enable(consolidate_datasets=False, max_rows=None):
        spec: Row = chart.to_dict()
    return {**spec, "description": description, "config": style}
