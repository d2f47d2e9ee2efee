"""The page of `rmpsweep compare`: trials side by side, in the look of the report, laid out in page/compare.html.j2."""

from collections.abc import Sequence
from typing import Any

from rmpsweep.report.charts import (
    CONFIG,
    THEMES,
    Row,
    accuracy_axis,
    faceted,
    specification,
    time_steps_axis,
    unchecked,
)
from rmpsweep.report.templates import environment, library
from rmpsweep.stats import CONVENTIONS, varying_settings
from rmpsweep.stats.comparison import PAIRED, UNPAIRED, Comparison, Difference


def render(found: Comparison) -> str:
    """Render a comparison as one self-contained HTML page."""
    pairs: dict[tuple[str, str], list[Difference]] = {}
    for each in found.differences:
        pairs.setdefault((each.name, each.baseline), []).append(each)
    with unchecked():
        charts = {"accuracy-chart": accuracy_chart(found), "difference-chart": difference_chart(found.differences)}
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            found=found,
            pairs=pairs,
            settings=varying_settings([trial.settings for trial in found.trials]),
            conventions=CONVENTIONS,
            paired=PAIRED,
            unpaired=UNPAIRED,
            charts=charts,
            config=CONFIG,
            themes=THEMES,
            library=library(),
        )
    )


def accuracy_chart(found: Comparison) -> Row:
    """Draw the accuracy of every trial against T, with its 95 % interval."""
    import altair as alt

    rows: list[Row] = [
        {
            "trial": trial.name,
            "T": each.time_steps,
            "images": each.images,
            **{
                name: round(100 * value, 3)
                for name, value in (("accuracy", each.accuracy), ("low", each.ci_low), ("high", each.ci_high))
            },
        }
        for trial in found.trials
        for each in trial.accuracies
    ]
    names = [trial.name for trial in found.trials]
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=time_steps_axis(alt, sorted({row["T"] for row in rows})),
        color=alt.Color("trial:N", title=None, sort=names).scale(domain=names).legend(labelLimit=0, symbolOpacity=1),
    )
    y = accuracy_axis(alt, "accuracy")
    tooltip = [alt.Tooltip("trial:N"), alt.Tooltip("T:Q"), *_interval(alt, "accuracy", ".2f", "%"), "images:Q"]
    chart = alt.layer(
        base.mark_area(opacity=0.13).encode(y=accuracy_axis(alt, "low"), y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=y),
        base.mark_point(filled=True, size=50, opacity=1).encode(y=y),
        base.mark_point(filled=True, size=400, opacity=0).encode(y=y, tooltip=tooltip).properties(name="targets"),
    ).properties(height=300)
    return specification(chart, "Accuracy in percent against time steps T, one line per trial with its 95 % interval")


def difference_chart(differences: Sequence[Difference]) -> Row:
    """Draw accuracy minus that of the baseline at every T, with a panel for each trial and its baseline.

    Points are filled where the Holm-adjusted p is below 0.05.
    """
    import altair as alt

    rows: list[Row] = [
        {
            "panel": f"{each.name} minus {each.baseline}",
            "T": each.time_steps,
            "difference": round(each.difference_points, 3),
            "low": round(each.ci_low_points, 3),
            "high": round(each.ci_high_points, 3),
            "p": each.p_holm,
            "images": each.images_text,
        }
        for each in differences
    ]
    base = alt.Chart().encode(x=time_steps_axis(alt, sorted({row["T"] for row in rows})))
    title = "Difference (percentage points)"
    tooltip = [
        alt.Tooltip("T:Q"),
        *_interval(alt, "difference", "+.2f", "points"),
        alt.Tooltip("p:Q", title="p (Holm)", format=".3g"),
        "images:N",
    ]
    filled = alt.when("datum.p < 0.05").then(alt.value(1)).otherwise(alt.value(0))
    y = alt.Y("difference:Q", title=title)
    chart = alt.layer(
        alt.Chart().mark_rule(strokeDash=[5, 4], opacity=0.7).encode(y=alt.YDatum(0)),
        base.mark_rule(strokeWidth=2.5, opacity=0.6).encode(y=alt.Y("low:Q", title=title), y2="high:Q"),
        base.mark_point(size=75, strokeWidth=2, opacity=1, color="currentColor", filled=True).encode(
            y=y, fillOpacity=filled, stroke=alt.value("currentColor")
        ),
        base.mark_point(filled=True, size=400, opacity=0).encode(y=y, tooltip=tooltip).properties(name="targets"),
    ).properties(height=220)
    chart = faceted(alt, chart, [str(row["panel"]) for row in rows], alt.InlineData(values=rows))
    return specification(chart, "Accuracy of every trial minus that of its baseline, against time steps T")


def _interval(alt: Any, field: str, form: str, unit: str) -> list[Any]:
    return [
        alt.Tooltip(f"{field}:Q", title=f"{field} ({unit})", format=form),
        alt.Tooltip("low:Q", title="95 % interval from", format=form),
        alt.Tooltip("high:Q", title="to", format=form),
    ]
