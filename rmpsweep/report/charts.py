"""The report's charts: rows of the tables -> Vega-Lite specifications.

Text and rules take the colour of the page (`currentColor`); series take theirs from the ranges of `THEMES`, so one
specification serves light, dark and print. The page sets the panels' widths and their columns, at most those given.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from rmpsweep.stats import RESETS, SETTINGS, pareto_front, varying_settings

Row = dict[str, Any]

CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif",
    "view": {"stroke": "currentColor", "strokeOpacity": 0.15},
    "axis": {
        "domain": False,
        "gridColor": "currentColor",
        "gridOpacity": 0.1,
        "labelColor": "currentColor",
        "labelFontSize": 11,
        "labelOpacity": 0.75,
        "labelPadding": 6,
        "ticks": False,
        "titleColor": "currentColor",
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    },
    "header": {
        "labelAnchor": "start",
        "labelColor": "currentColor",
        "labelFontSize": 13,
        "labelFontWeight": 600,
        "title": None,
    },
    "legend": {
        "labelColor": "currentColor",
        "labelFontSize": 12,
        "orient": "top",
        "symbolBaseFillColor": "currentColor",
        "titleColor": "currentColor",
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
    "rule": {"color": "currentColor"},
    "text": {"color": "currentColor"},
}
THEMES: dict[str, dict[str, Any]] = {
    "light": {
        "ordinal": {"scheme": "viridis", "extent": [0.0, 0.85]},
        "heatmap": {"scheme": "tealblues"},
        "category": ["#2f6f9f", "#b5651d"],
    },
    "dark": {
        "ordinal": {"scheme": "viridis", "extent": [0.25, 1.0]},
        "heatmap": {"scheme": "tealblues"},
        "category": ["#6fb1de", "#e09a55"],
    },
}


def accuracy_chart(summary: Sequence[Row], ann_accuracy: float) -> Row:
    """Accuracy against T: one panel per reset and rule, one line per trial, the ANN as a dashed rule.

    Pointing at a line shows its 95 % interval at every T; clicking an entry of the legend keeps that α.

    Args:
        summary: rows of the summary table, at least one.
        ann_accuracy: fraction in [0, 1].
    """
    import altair as alt

    rows = _trial_rows(summary, ann_accuracy)
    ticks = sorted({row["T"] for row in rows})
    pointed = alt.selection_point(name="pointed", fields=["trial"], on="pointerover", clear="pointerout", empty=False)
    chosen = alt.selection_point(name="chosen", fields=["alpha"], bind="legend")
    base = alt.Chart().encode(
        x=alt.X("T:Q", title="Time steps T (log scale)")
        .scale(type="log", base=2, nice=False, padding=10)
        .axis(values=ticks, format="d", labelFlush=False),
        y=_accuracy_axis(alt, "accuracy"),
        color=_alpha_colour(alt),
        detail="trial:N",
    )
    interval = base.mark_area().encode(
        y=_accuracy_axis(alt, "low"),
        y2="high:Q",
        opacity=alt.when(pointed).then(alt.value(0.2)).otherwise(alt.value(0)),
    )
    lines = base.mark_line(strokeWidth=2).encode(
        opacity=alt.when(chosen).then(alt.value(1)).otherwise(alt.value(0.1)),
        strokeWidth=alt.when(pointed).then(alt.value(3.5)).otherwise(alt.value(1.8)),
    )
    points = base.mark_point(filled=True, size=36).encode(
        opacity=alt.when(chosen).then(alt.value(1)).otherwise(alt.value(0.1))
    )
    # Invisible and large instead of `nearest`, whose tooltips lose nominal fields (vega/altair#3926).
    targets = base.mark_point(filled=True, size=500, opacity=0).encode(tooltip=_tooltip(rows))
    ann = alt.Chart().transform_aggregate(count="count()", groupby=["ann", "ann_label"]).encode(y="ann:Q")
    chart = alt.layer(
        interval.properties(name="interval"),
        ann.mark_rule(strokeDash=[5, 4], opacity=0.7).properties(name="ann"),
        ann.mark_text(align="left", baseline="bottom", dy=-3, fontSize=11)
        .encode(x=alt.value(4), text="ann_label:N")
        .properties(name="ann_label"),
        lines.add_params(chosen).properties(name="lines"),
        points.properties(name="points"),
        targets.add_params(pointed).properties(name="targets"),
    ).properties(height=290)
    return specification(faceted(alt, chart, rows), "Accuracy against time steps, one line per trial")


def cost_chart(summary: Sequence[Row], ann_accuracy: float) -> Row:
    """Accuracy against synops per image, every trial at every T, with the Pareto front as a line.

    Args:
        summary: rows of the summary table, at least one; rows without synops are left out (log axis).
        ann_accuracy: fraction in [0, 1].
    """
    import altair as alt

    rows = [row for row in _trial_rows(summary, ann_accuracy) if row["synops"] > 0]
    front = [rows[i] for i in pareto_front([(row["accuracy"], row["synops"]) for row in rows])]
    x = (
        alt.X("synops:Q", title="Synaptic operations per image (log scale)")
        .scale(type="log", nice=False, padding=10)
        .axis(format="~s")
    )
    points = (
        alt.Chart(alt.InlineData(values=rows), name="points")
        .mark_point(filled=True, size=46, opacity=0.85)
        .encode(
            x=x,
            y=_accuracy_axis(alt, "accuracy"),
            color=_alpha_colour(alt),
            shape=alt.Shape("reset:N", title="Reset").scale(domain=RESETS, range=["circle", "triangle-up"]),
            tooltip=_tooltip(rows),
        )
    )
    line = (
        alt.Chart(alt.InlineData(values=front), name="front")
        .mark_line(interpolate="step-after", color="currentColor", opacity=0.45, strokeWidth=1.2)
        .encode(x=x, y=_accuracy_axis(alt, "accuracy"))
    )
    chart = alt.layer(line, points).properties(height=300)
    return specification(chart, "Accuracy against synaptic operations per image")


def _trial_rows(summary: Sequence[Row], ann_accuracy: float) -> list[Row]:
    """What the charts of trials need of each summary row: percentages, and texts for the tooltip."""
    names = varying_settings(summary, apart_from=("alpha", "reset", "seed"))
    return [
        {
            "trial": row["trial_id"],
            "panel": " · ".join([f"{row['reset'].capitalize()} reset", *(f"{row[name]}" for name in names)]),
            "reset": row["reset"],
            "alpha": row["alpha"],
            "seed": row["seed"],
            **{name: row[name] for name in names},
            "T": row["time_steps"],
            "images": row["images"],
            "accuracy": 100 * row["accuracy"],
            "low": 100 * row["ci_low"],
            "high": 100 * row["ci_high"],
            "accuracy_text": f"{100 * row['accuracy']:.2f} % ({100 * row['ci_low']:.2f}–{100 * row['ci_high']:.2f} %)",
            "to_ann": 100 * (row["accuracy"] - ann_accuracy),
            "synops": row["synops_per_image"],
            "ann": 100 * ann_accuracy,
            "ann_label": f"ANN {100 * ann_accuracy:.2f} %",
        }
        for row in summary
    ]


def _tooltip(rows: Sequence[Row]) -> list[Any]:
    import altair as alt

    settings = [name for name in SETTINGS if name in rows[0] and name not in ("alpha", "reset")]
    return [
        alt.Tooltip("accuracy_text:N", title="accuracy (95 %)"),
        alt.Tooltip("to_ann:Q", title="points to ANN", format="+.2f"),
        alt.Tooltip("T:Q", title="T"),
        alt.Tooltip("images:Q", title="images", format=","),
        alt.Tooltip("alpha:Q", title="α"),
        alt.Tooltip("reset:N", title="reset"),
        *(alt.Tooltip(f"{name}:N", title=name) for name in settings),
        alt.Tooltip("synops:Q", title="synops per image", format=".3s"),
        alt.Tooltip("trial:N", title="trial"),
    ]


def _accuracy_axis(alt: Any, field: str) -> Any:
    return alt.Y(f"{field}:Q", title="Accuracy (%)").scale(zero=False, nice=True)


def _alpha_colour(alt: Any) -> Any:
    return alt.Color("alpha:O", title="Threshold scale α").legend(symbolType="circle", symbolOpacity=1)


def faceted(alt: Any, chart: Any, rows: Iterable[Row]) -> Any:
    """One panel per value of `panel`, in the order of first appearance."""
    rows = list(rows)
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    facets = alt.Facet("panel:N", title=None, sort=panels)
    return chart.properties(data=alt.InlineData(values=rows)).facet(facets, columns=min(2, len(panels)))


def specification(chart: Any, description: str) -> Row:
    """The chart as JSON with its description for screen readers; the page sets style and widths."""
    import altair as alt

    with alt.data_transformers.enable(consolidate_datasets=False, max_rows=None):
        spec: Row = chart.to_dict()
    return {**spec, "description": description, "config": {}}
