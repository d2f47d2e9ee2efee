"""The report's charts of layers: firing rates, synaptic operations and thresholds -> Vega-Lite specifications."""

from collections.abc import Mapping, Sequence
from typing import Any

from rmpsweep.report.charts import Row, faceted, specification
from rmpsweep.stats import RESETS

_RANGE = ("min", "median", "max")


def rate_chart(activity: Sequence[Row]) -> Row:
    """Firing rate, layer × T, one panel per trial.

    Args:
        activity: rows with panel, layer, time_steps and firing_rate (spikes per neuron per step), layers in forward
            order.
    """
    import altair as alt

    layers = list(dict.fromkeys(row["layer"] for row in activity))
    largest = max(row["firing_rate"] for row in activity)
    base = alt.Chart().encode(
        x=alt.X("time_steps:O", title="Time steps T").axis(labelAngle=0),
        y=alt.Y("layer:N", title=None, sort=layers),
        tooltip=[
            alt.Tooltip("layer:N", title="layer"),
            alt.Tooltip("time_steps:Q", title="T"),
            alt.Tooltip("firing_rate:Q", title="firing rate", format=".4f"),
        ],
    )
    cells = base.mark_rect().encode(
        color=alt.Color("firing_rate:Q", title="Spikes per neuron per step").scale(domain=[0, largest])
    )
    numbers = base.mark_text(fontSize=10).encode(
        text=alt.Text("firing_rate:Q", format=".3f"),
        color=alt.when(alt.datum.firing_rate > largest / 2).then(alt.value("#ffffff")).otherwise(alt.value("#12303f")),
    )
    chart = alt.layer(cells.properties(name="cells"), numbers.properties(name="numbers"))
    chart = faceted(alt, chart.properties(height=alt.Step(22)), activity)
    return specification(chart, "Firing rate by layer and time steps")


def synops_chart(activity: Sequence[Row]) -> Row:
    """Synops per image by emitting layer, one bar per reset.

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
            y=alt.Y("layer:N", title=None, sort=layers).scale(paddingInner=0.25),
            yOffset=alt.YOffset("reset:N", sort=RESETS),
            color=alt.Color("reset:N", title="Reset", sort=RESETS),
            tooltip=["layer:N", "reset:N", alt.Tooltip("synops_per_image:Q", title="synops per image", format=".4s")],
        )
        .properties(height=alt.Step(11))
    )
    return specification(chart, "Synaptic operations per image by layer")


def threshold_chart(calibration: Sequence[Mapping[str, Any]]) -> Row:
    """Threshold by layer, one colour per rule: a point at the median of the channels, a bar over their range.

    Args:
        calibration: rows with rule, layer and threshold, layers in forward order.
    """
    import altair as alt

    layers = list(dict.fromkeys(row["layer"] for row in calibration))
    rules = list(dict.fromkeys(row["rule"] for row in calibration))
    base = alt.Chart(alt.InlineData(values=list(calibration))).encode(
        x=alt.X("layer:N", title=None, sort=layers).axis(labelAngle=-45),
        xOffset=alt.XOffset("rule:N", sort=rules),
        color=alt.Color("rule:N", title="Rule", sort=rules),
    )
    scale = alt.Scale(type="log")
    bars = base.mark_rule(strokeWidth=2, opacity=0.6).encode(
        y=alt.Y("min(threshold):Q", title="Threshold θ (log scale)").scale(scale), y2="max(threshold):Q"
    )
    points = base.mark_point(filled=True, size=40).encode(
        y=alt.Y("median(threshold):Q").scale(scale),
        tooltip=["rule:N", "layer:N", *(alt.Tooltip(f"{f}(threshold):Q", title=f, format=".4g") for f in _RANGE)],
    )
    chart = alt.layer(bars.properties(name="ranges"), points.properties(name="points")).properties(height=260)
    return specification(chart, "Threshold of each layer by calibration rule")
