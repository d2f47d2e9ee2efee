"""The report's chart of classes, as a Vega-Lite specification."""

from collections.abc import Sequence

from rmpsweep.report.charts import Row, reset_colour, reset_shape, specification
from rmpsweep.report.classes import ClassAccuracy


def class_chart(classes: Sequence[ClassAccuracy], names: Sequence[str]) -> Row:
    """Draw accuracy by class, in the order given: a bar for the ANN, and a point for each reset's best trial.

    Args:
        names: the names of these classes.
    """
    import altair as alt

    values = [
        {"class": name, "reset": reset, "accuracy": round(100 * accuracy, 2), "ann": round(100 * each.ann, 2)}
        | {"images": each.images, "to_ann": round(100 * (accuracy - each.ann), 2)}
        for name, each in zip(names, classes, strict=True)
        for reset, accuracy in each.trials.items()
    ]
    base = alt.Chart(alt.InlineData(values=values)).encode(y=alt.Y("class:N", title="Class", sort=list(names)))
    x = alt.X("accuracy:Q", title="Accuracy (%); the bar is the ANN's").scale(zero=False, nice=True, padding=6)
    tooltip = [
        alt.Tooltip("class:N", title="class"),
        alt.Tooltip("reset:N", title="reset"),
        alt.Tooltip("accuracy:Q", title="accuracy (%)", format=".2f"),
        alt.Tooltip("ann:Q", title="ANN (%)", format=".2f"),
        alt.Tooltip("to_ann:Q", title="points to ANN", format="+.2f"),
        alt.Tooltip("images:Q", title="images", format=","),
    ]
    lines = base.mark_rule(opacity=0.3, color="currentColor").encode(x=x, x2="ann:Q")
    ann = base.mark_tick(thickness=3, size=14, color="currentColor", opacity=0.8).encode(x="ann:Q", tooltip=tooltip)
    points = base.mark_point(filled=True, size=70, opacity=0.9).encode(
        x=x, color=reset_colour(alt), shape=reset_shape(alt), tooltip=tooltip
    )
    chart = alt.layer(lines, ann.properties(name="ann"), points.properties(name="points")).properties(
        height=alt.Step(20)
    )
    return specification(chart, "Accuracy in percent by class of the best trials and the ANN, largest loss first")
