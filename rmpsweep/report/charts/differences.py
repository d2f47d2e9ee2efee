"""The report's charts of the best trials, as Vega-Lite specifications: their accuracies, and differences of these."""

from collections.abc import Mapping, Sequence
from typing import Any

from rmpsweep.report.charts import Row, accuracy_axis, reset_colour, reset_shape, specification, time_steps_axis
from rmpsweep.report.differences import ResetComparison, Rivals
from rmpsweep.stats import BestTrial


def best_chart(
    best: Mapping[str, BestTrial], rows: Sequence[Row], ann_percent: float, ann_interval: tuple[float, float]
) -> Row:
    """Draw the accuracy of the best trials against T with 95 % intervals, and that of the ANN as a band.

    Args:
        rows: the rows of the summary.
        ann_percent: the ANN's accuracy, in percent.
        ann_interval: the bounds of the 95 % interval of the ANN's accuracy, in percent.
    """
    import altair as alt

    chosen = {trial.trial_id: reset for reset, trial in best.items()}
    values = [
        {
            "reset": row["reset"],
            "T": row["time_steps"],
            **{name: round(100 * row[key], 3) for name, key in _INTERVAL.items()},
        }
        for row in rows
        if row["trial_id"] in chosen
    ]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=time_steps_axis(alt, sorted({row["T"] for row in values})), color=reset_colour(alt)
    )
    y = accuracy_axis(alt, "accuracy")
    tooltip = [
        alt.Tooltip("reset:N", title="reset"),
        alt.Tooltip("T:Q", title="T"),
        *(alt.Tooltip(f"{name}:Q", title=title, format=".2f") for name, title in _TITLES.items()),
    ]
    ann = {"ann": ann_percent, "low": ann_interval[0], "high": ann_interval[1], "text": f"ANN {ann_percent:.2f} %"}
    reference = alt.Chart(alt.InlineData(values=[ann])).encode(y="ann:Q")
    chart = alt.layer(
        reference.mark_rect(opacity=0.08, color="currentColor").encode(y="low:Q", y2="high:Q"),
        reference.mark_rule(strokeDash=[5, 4], opacity=0.7),
        reference.mark_text(align="left", baseline="bottom", dy=-3, fontSize=11).encode(x=alt.value(4), text="text:N"),
        base.mark_area(opacity=0.2).encode(y=accuracy_axis(alt, "low"), y2="high:Q"),
        base.mark_line(strokeWidth=2.5).encode(y=y),
        base.mark_point(filled=True, size=70, opacity=1).encode(y=y, shape=reset_shape(alt)),
        base.mark_point(filled=True, size=400, opacity=0).encode(y=y, tooltip=tooltip).properties(name="targets"),
    ).properties(height=270)
    return specification(
        chart, "Accuracy in percent of the best trial of each reset against time steps T, and the ANN's"
    )


def paired_chart(compared: ResetComparison) -> Row:
    """Draw the first reset minus the other one at every T, in percentage points, with 95 % intervals."""
    import altair as alt

    values: list[Row] = [
        {
            "T": each.time_steps,
            "difference": round(each.difference_points, 3),
            "low": round(each.ci_low_points, 3),
            "high": round(each.ci_high_points, 3),
            "p": each.p_holm,
        }
        for each in compared.at
    ]
    first, other = compared.first, compared.other
    title = f"{first.capitalize()} minus {other} (percentage points)"
    x = time_steps_axis(alt, [row["T"] for row in values])
    chart = _intervals(alt, values, x, [alt.Tooltip("T:Q", title="T")], title)
    return specification(
        chart, f"Accuracy of the best {first} trial minus that of the best {other} trial, against time steps T"
    )


def rivals_chart(found: Rivals) -> Row:
    """Draw every α minus the most accurate one at one T, in percentage points, with 95 % intervals."""
    import altair as alt

    values: list[Row] = [
        {
            "alpha": found.alphas[each.name],
            "difference": round(each.difference_points, 3),
            "low": round(each.ci_low_points, 3),
            "high": round(each.ci_high_points, 3),
            "p": each.p_holm,
        }
        for each in found.compared
    ]
    values.append({"alpha": found.alphas[found.best], "difference": 0.0, "low": 0.0, "high": 0.0, "p": None})
    x = alt.X("alpha:Q", title="Threshold scale α").scale(zero=False, padding=14)
    title = f"Minus α = {found.alphas[found.best]:g} (percentage points)"
    chart = _intervals(alt, values, x, [alt.Tooltip("alpha:Q", title="α")], title)
    return specification(chart, f"Accuracy of every alpha minus that of the most accurate at T = {found.time_steps}")


def _intervals(alt: Any, values: Sequence[Row], x: Any, first: Sequence[Any], title: str) -> Any:
    """Draw a point and a bar for each row, and a line at zero. Points with a Holm-adjusted p below 0.05 are filled."""
    base = alt.Chart(alt.InlineData(values=list(values))).encode(x=x)
    tooltip = [
        *first,
        alt.Tooltip("difference:Q", title="difference (points)", format="+.2f"),
        alt.Tooltip("low:Q", title="95 % interval from", format="+.2f"),
        alt.Tooltip("high:Q", title="to", format="+.2f"),
        alt.Tooltip("p:Q", title="p (Holm)", format=".3g"),
    ]
    y = alt.Y("difference:Q", title=title)
    zero = alt.Chart(alt.InlineData(values=[{"zero": 0}])).mark_rule(strokeDash=[5, 4], opacity=0.7)
    return alt.layer(
        zero.encode(y="zero:Q"),
        base.mark_rule(strokeWidth=2.5, color="currentColor", opacity=0.6).encode(
            y=alt.Y("low:Q", title=title), y2="high:Q"
        ),
        base.mark_point(size=75, strokeWidth=2, opacity=1, color="currentColor", filled=True).encode(
            y=y,
            fillOpacity=alt.when("isValid(datum.p) && datum.p < 0.05").then(alt.value(1)).otherwise(alt.value(0)),
            stroke=alt.value("currentColor"),
        ),
        base.mark_point(filled=True, size=400, opacity=0).encode(y=y, tooltip=tooltip).properties(name="targets"),
    ).properties(height=240)


_INTERVAL = {"accuracy": "accuracy", "low": "ci_low", "high": "ci_high"}
_TITLES = {"accuracy": "accuracy (%)", "low": "95 % interval from (%)", "high": "to (%)"}
