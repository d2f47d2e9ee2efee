"""The report's charts of trials, as Vega-Lite specifications over the data set `charts.POINTS`.

The rows of this data set have the columns of `trials.TrialData`, those of the trial beside those of the point. What
depends on the choice of trials (cells of the heat map, Pareto fronts) is computed in the chart, so that it follows the
filters.
"""

from collections.abc import Mapping
from typing import Any

from rmpsweep.report.charts import (
    ALPHA,
    POINTS,
    Row,
    accuracy_axis,
    alpha_colour,
    faceted,
    fitting,
    lowest_shown,
    reset_shape,
    specification,
    time_steps_axis,
)
from rmpsweep.report.trials import TrialData
from rmpsweep.stats import CONVENTIONS

MEASURES = {
    "T": ["Time steps T (log scale)"],
    "synops": ["Synaptic operations per image (log scale)"],
    **{name: ["Energy per image (J, log scale)", each.label] for name, each in CONVENTIONS.items()},
}
"""Column of the points that measures a cost -> the lines of its axis title."""


def accuracy_chart(data: TrialData, ann_percent: float) -> Row:
    """Draw accuracy against T, with one panel per reset and rule, one line per trial, and the ANN as a dashed line.

    Pointing at a line shows its 95 % interval at every T. The parameter `intervals` shows the intervals of all lines,
    and the axis begins at the parameter `lowest`.
    """
    import altair as alt

    pointed = alt.selection_point(name="pointed", fields=["trial"], on="pointerover", clear="pointerout", empty=False)
    intervals = alt.param(name="intervals", value=False)
    base = alt.Chart().encode(
        x=time_steps_axis(alt, sorted(set(data.points["T"]))),
        y=accuracy_axis(alt, "accuracy", from_lowest=True),
        color=alpha_colour(alt, data.trials["alpha"]),
        detail="trial:N",
    )
    bands = base.mark_area(clip=True).encode(
        y=accuracy_axis(alt, "low", from_lowest=True),
        y2="high:Q",
        opacity=alt.when(pointed).then(alt.value(0.25)).when("intervals").then(alt.value(0.12)).otherwise(alt.value(0)),
    )
    lines = base.mark_line(clip=True).encode(
        strokeWidth=alt.when(pointed)
        .then(alt.value(3.5))
        .when(alt.datum.best)
        .then(alt.value(3))
        .otherwise(alt.value(1.4))
    )
    # Large invisible points, instead of `nearest`, whose tooltips lose nominal fields (vega/altair#3926).
    targets = base.mark_point(clip=True, filled=True, size=400, opacity=0).encode(tooltip=_tooltip(alt, data))
    chart = alt.layer(
        bands.properties(name="bands"),
        *_ann_rule(alt, ann_percent),
        lines.properties(name="lines"),
        base.mark_point(clip=True, filled=True, size=30, opacity=1).properties(name="marks"),
        targets.add_params(pointed).properties(name="targets"),
    ).properties(height=290)
    chart = faceted(alt, chart, data.panels, alt.NamedData(POINTS)).add_params(intervals, lowest_shown(alt))
    chart = _with_texts(chart, ann_percent)
    return specification(
        chart, "Accuracy in percent against time steps T, one line per trial, the ANN as a dashed line"
    )


def heat_map(data: TrialData) -> Row:
    """Draw accuracy by α and T, one panel per reset and rule; trials that differ in the seed alone are averaged."""
    import altair as alt

    low, high = min(data.points["accuracy"]), max(data.points["accuracy"])
    base = (
        alt.Chart()
        .transform_aggregate(
            mean="mean(accuracy)", low="min(low)", high="max(high)", trials="count()", groupby=["panel", "alpha", "T"]
        )
        .encode(
            x=alt.X("T:O", title="Time steps T").axis(labelAngle=0, labelOverlap="greedy"),
            y=alt.Y("alpha:O", title="Threshold scale α", sort="descending").axis(format=ALPHA, labelOverlap="greedy"),
            tooltip=[
                alt.Tooltip("mean:Q", title="accuracy (%)", format=".2f"),
                alt.Tooltip("low:Q", title="95 % interval from (%)", format=".2f"),
                alt.Tooltip("high:Q", title="to (%)", format=".2f"),
                alt.Tooltip("alpha:Q", title="α"),
                alt.Tooltip("T:Q", title="T"),
                alt.Tooltip("trials:Q", title="trials"),
            ],
        )
    )
    colour = alt.Color("mean:Q", title="Accuracy (%)").scale(domain=[low, high], scheme="viridis")
    numbers = base.mark_text(fontSize=10).encode(
        text=alt.Text("mean:Q", format=".1f"),
        color=alt.when(f"datum.mean > {low + 0.55 * (high - low):.4g}")
        .then(alt.value("#0b1a20"))
        .otherwise(alt.value("#ffffff")),
        opacity=fitting(alt, 26),
    )
    cells = base.mark_rect().encode(color=colour.legend(gradientLength=130, gradientThickness=10))
    chart = alt.layer(cells.properties(name="cells"), numbers.properties(name="numbers")).properties(
        height=alt.Step(22)
    )
    chart = faceted(alt, chart, data.panels, alt.NamedData(POINTS))
    return specification(chart, "Accuracy in percent by threshold scale alpha and time steps T")


def cost_charts(data: TrialData, ann_percent: float, ann_joules: Mapping[str, float]) -> dict[str, Row]:
    """Draw accuracy against each measure of cost, every trial at every T, with the Pareto front as a line.

    Args:
        ann_percent: the ANN's accuracy, in percent.
        ann_joules: convention -> estimated energy of the ANN for one image, if it is known.
    Returns:
        Name of the measure (see MEASURES) -> specification.
    """
    return {name: _cost_chart(data, name, ann_percent, ann_joules.get(name)) for name in MEASURES}


def _cost_chart(data: TrialData, measure: str, ann_percent: float, ann_joule: float | None) -> Row:
    import altair as alt

    if measure == "T":
        x = time_steps_axis(alt, sorted(set(data.points["T"])))
    else:
        unit = "" if measure == "synops" else " + 'J'"
        x = alt.X(f"{measure}:Q", title=MEASURES[measure]).scale(type="log", nice=False, padding=10)
        x = x.axis(labelExpr=f"format(datum.value, '~s'){unit}", labelOverlap="greedy", labelSeparation=8, tickCount=5)
    y = accuracy_axis(alt, "accuracy", from_lowest=True)
    base = alt.Chart().encode(x=x, y=y)
    # A point is on the front if it is more accurate than all points that cost less. Only points over the most images
    # count, since with fewer images a high accuracy may be due to chance. Of equal points one is drawn.
    most = max(data.points["images"])
    order = {"sort": [alt.SortField(measure), alt.SortField("accuracy", order="descending")]}
    front = (
        base.transform_filter(f"datum.images == {most}")
        .transform_window(**order, frame=[None, 0], ignorePeers=True, so_far="max(accuracy)")
        .transform_window(**order, before="lag(so_far)")
        .transform_filter("datum.before === null || datum.accuracy > datum.before")
    )
    colour = alpha_colour(alt, data.trials["alpha"], narrow=True)
    marks = {"shape": reset_shape(alt), "color": colour}
    layers = [
        base.mark_point(clip=True, filled=True, size=34, opacity=0.4).encode(**marks).properties(name="others"),
        front.mark_line(
            clip=True, interpolate="step-after", color="currentColor", opacity=0.55, strokeWidth=1.3
        ).properties(name="front"),
        front.mark_point(clip=True, filled=True, size=80, opacity=1, stroke="currentColor", strokeWidth=0.8)
        .encode(**marks)
        .properties(name="best"),
        *_ann_rule(alt, ann_percent),
        base.mark_point(clip=True, filled=True, size=200, opacity=0)
        .encode(tooltip=_tooltip(alt, data))
        .properties(name="targets"),
    ]
    if ann_joule is not None:
        ann = alt.Chart(alt.InlineData(values=[{measure: ann_joule, "accuracy": ann_percent}]))
        tooltip = [
            alt.Tooltip("accuracy:Q", title="ANN: accuracy (%)", format=".2f"),
            alt.Tooltip(f"{measure}:Q", title="energy (J), estimate", format=".3s"),
        ]
        layers.append(
            ann.mark_point(
                clip=True, shape="diamond", size=130, strokeWidth=2, color="currentColor", filled=False, opacity=1
            )
            .encode(x=x, y=y, tooltip=tooltip)
            .properties(name="ann_energy")
        )
    chart = alt.layer(*layers, data=alt.NamedData(POINTS)).properties(height=260)
    chart = chart.add_params(lowest_shown(alt))
    if measure != "T":
        chart = chart.transform_filter(f"datum.{measure} > 0")
    return specification(_with_texts(chart, ann_percent), f"Accuracy in percent against {', '.join(MEASURES[measure])}")


def _ann_rule(alt: Any, ann_percent: float) -> list[Any]:
    """Draw the ANN's accuracy as a dashed line with a label."""
    ann = alt.Chart(alt.InlineData(values=[{"ann": ann_percent, "text": f"ANN {ann_percent:.2f} %"}])).encode(y="ann:Q")
    return [
        ann.mark_rule(strokeDash=[5, 4], opacity=0.7).properties(name="ann"),
        ann.mark_text(align="left", baseline="bottom", dy=-3, fontSize=11)
        .encode(x=alt.value(4), text="text:N")
        .properties(name="ann_label"),
    ]


def _with_texts(chart: Any, ann_percent: float) -> Any:
    interval = "format(datum.low, '.2f') + '–' + format(datum.high, '.2f')"
    return chart.transform_calculate(
        accuracy_text=f"format(datum.accuracy, '.2f') + ' % (' + {interval} + ' %)'",
        to_ann=f"datum.accuracy - {ann_percent:.6g}",
    )


def _tooltip(alt: Any, data: TrialData) -> list[Any]:
    settings = [name for name in data.trials if name not in ("trial", "panel", "best", "alpha", "reset")]
    return [
        alt.Tooltip("accuracy_text:N", title="accuracy (95 %)"),
        alt.Tooltip("to_ann:Q", title="points to ANN", format="+.2f"),
        alt.Tooltip("T:Q", title="T"),
        alt.Tooltip("images:Q", title="images", format=","),
        alt.Tooltip("alpha:Q", title="α"),
        alt.Tooltip("reset:N", title="reset"),
        *(alt.Tooltip(f"{name}:N", title=name) for name in settings),
        alt.Tooltip("synops:Q", title="synops per image", format=".3s"),
        *(
            alt.Tooltip(f"{name}:Q", title=f"energy (J), {each.label}", format=".3s")
            for name, each in CONVENTIONS.items()
            if name in data.points
        ),
        alt.Tooltip("trial:N", title="trial"),
    ]
