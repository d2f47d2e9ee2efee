"""The report's charts of layers, as Vega-Lite specifications: firing rates, synaptic operations and thresholds."""

from collections.abc import Sequence

from rmpsweep.report.charts import Row, faceted, fitting, reset_colour, reset_shape, specification
from rmpsweep.terms import RESETS

LAYER_HEIGHT = 21
"""Height of the row of a layer, in pixels."""


def rate_chart(activity: Sequence[Row]) -> Row:
    """Draw firing rate by layer and T, with one panel per trial.

    Args:
        activity: rows with panel, layer, time_steps and firing_rate (spikes per neuron per step), layers in forward
            order.
    """
    import altair as alt

    layers = list(dict.fromkeys(row["layer"] for row in activity))
    largest = max(row["firing_rate"] for row in activity)
    base = alt.Chart().encode(
        x=alt.X("time_steps:O", title="Time steps T").axis(labelAngle=0, labelOverlap="greedy"),
        y=alt.Y("layer:N", title="Layer", sort=layers),
        tooltip=[
            alt.Tooltip("layer:N", title="layer"),
            alt.Tooltip("time_steps:Q", title="T"),
            alt.Tooltip("firing_rate:Q", title="firing rate", format=".4f"),
        ],
    )
    cells = base.mark_rect().encode(
        color=alt.Color("firing_rate:Q", title="Firing rate (spikes per neuron per step)")
        .scale(domain=[0, largest])
        .legend(gradientLength=130, gradientThickness=10, titleLimit=0)
    )
    numbers = base.mark_text(fontSize=10).encode(
        text=alt.Text("firing_rate:Q", format=".3f"),
        color=alt.when(alt.datum.firing_rate > largest / 2).then(alt.value("#ffffff")).otherwise(alt.value("#12303f")),
        opacity=fitting(alt, 32),
    )
    chart = alt.layer(cells.properties(name="cells"), numbers.properties(name="numbers"))
    panels = [row["panel"] for row in activity]
    chart = faceted(alt, chart.properties(height=alt.Step(LAYER_HEIGHT)), panels, alt.InlineData(values=list(activity)))
    return specification(chart, "Firing rate by layer and time steps")


def profile_chart(activity: Sequence[Row]) -> Row:
    """Draw the firing rate across layers at one T, with one line per reset.

    Args:
        activity: rows with layer, reset and firing_rate at one T, layers in forward order.
    """
    import altair as alt

    layers = list(dict.fromkeys(row["layer"] for row in activity))
    values = [row | {"depth": layers.index(row["layer"])} for row in activity]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X("firing_rate:Q", title="Firing rate (spikes per neuron per step)").axis(tickCount=6),
        y=alt.Y("layer:N", title="Layer", sort=layers),
        color=reset_colour(alt),
        order="depth:Q",
        tooltip=["layer:N", "reset:N", alt.Tooltip("firing_rate:Q", title="firing rate", format=".4f")],
    )
    points = base.mark_point(filled=True, size=60, opacity=1).encode(shape=reset_shape(alt))
    chart = alt.layer(base.mark_line(strokeWidth=2), points.properties(name="points"))
    chart = chart.properties(height=alt.Step(LAYER_HEIGHT))
    return specification(chart, "Firing rate of each layer of the best trials")


def synops_chart(activity: Sequence[Row]) -> Row:
    """Draw synops per image by the layer that emits the spikes, with one bar per reset.

    Args:
        activity: rows with layer, reset and synops_per_image at one T, layers in forward order.
    """
    import altair as alt

    layers = list(dict.fromkeys(row["layer"] for row in activity))
    chart = (
        alt.Chart(alt.InlineData(values=list(activity)), name="synops")
        .mark_bar(height={"band": 0.9})
        .encode(
            x=alt.X("synops_per_image:Q", title="Synaptic operations per image").axis(format="~s", tickCount=6),
            y=alt.Y("layer:N", title="Layer", sort=layers).scale(paddingInner=0.25),
            yOffset=alt.YOffset("reset:N", sort=RESETS),
            color=reset_colour(alt),
            tooltip=["layer:N", "reset:N", alt.Tooltip("synops_per_image:Q", title="synops per image", format=".4s")],
        )
        .properties(height=LAYER_HEIGHT * len(layers))
    )
    return specification(chart, "Synaptic operations per image by layer")


def threshold_chart(thresholds: Sequence[Row]) -> Row:
    """Draw the thresholds by layer, one colour per rule, with a point for the channels' median and a bar for the range.

    Args:
        thresholds: rows with rule, layer, low, middle and high, layers in forward order.
    """
    import altair as alt

    layers = list(dict.fromkeys(row["layer"] for row in thresholds))
    rules = list(dict.fromkeys(row["rule"] for row in thresholds))
    base = alt.Chart(alt.InlineData(values=list(thresholds))).encode(
        x=alt.X("layer:N", title="Layer, in forward order", sort=layers).axis(labelAngle=-45, labelOverlap="greedy"),
        xOffset=alt.XOffset("rule:N", sort=rules),
        color=alt.Color("rule:N", title="Rule", sort=rules).legend(labelLimit=0, symbolOpacity=1, columns=3),
    )
    scale = alt.Scale(type="log")
    title = "Threshold θ (input current, log scale)"
    bars = base.mark_rule(strokeWidth=2, opacity=0.6).encode(y=alt.Y("low:Q", title=title).scale(scale), y2="high:Q")
    points = base.mark_point(filled=True, size=50, opacity=1).encode(
        y=alt.Y("middle:Q", title=title).scale(scale),
        shape=alt.Shape("rule:N", sort=rules, legend=None),
        tooltip=["rule:N", "layer:N", *(alt.Tooltip(f"{f}:Q", title=t, format=".4g") for f, t in _RANGE.items())],
    )
    chart = alt.layer(bars.properties(name="ranges"), points.properties(name="points")).properties(height=260)
    return specification(chart, "Threshold of each layer by calibration rule")


_RANGE = {"low": "min", "middle": "median", "high": "max"}
