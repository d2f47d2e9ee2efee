"""What the report's charts share: style, axes and panels.

Text and rules take the colour of the page (`currentColor`), and series take theirs from the ranges of `THEMES`, so that
one specification serves light, dark and print. The page sets the widths of the panels and the number of columns, which
is at most the given one. Charts of trials name their data set `POINTS`: the page holds it once, filters it, and gives
it to each of these charts.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rmpsweep.terms import RESETS

Row = dict[str, Any]

POINTS = "points"
"""The data set of the charts of trials: what `trials.TrialData` holds, with a row for each point."""
ALPHA = ".4~g"
"""How α is written on axes and in legends."""
MANY = 9
"""From this number of values on, a colour bar is easier to read than a symbol for each value."""

SHAPES = ["circle", "triangle-up", "square", "diamond", "cross", "triangle-down"]
"""The symbols of the resets, in the order of RESETS."""

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
        "ramp": {"scheme": "viridis", "extent": [0.0, 0.85]},
        "heatmap": {"scheme": "tealblues"},
        "category": ["#2f6f9f", "#b5651d", "#009e73", "#aa4499", "#999933", "#882255", "#44aa99"],
    },
    "dark": {
        "ordinal": {"scheme": "viridis", "extent": [0.25, 1.0]},
        "ramp": {"scheme": "viridis", "extent": [0.25, 1.0]},
        "heatmap": {"scheme": "tealblues"},
        "category": ["#6fb1de", "#e09a55", "#2fc39a", "#d98cc5", "#d6cf5a", "#d2748d", "#88ccee"],
    },
}


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Within this context, Altair does not check charts against the schema of Vega-Lite, which takes half of its time.

    A test draws every chart with the checks.
    """
    from altair.utils.schemapi import debug_mode

    with debug_mode(False):
        yield


def accuracy_axis(alt: Any, field: str, from_lowest: bool = False) -> Any:
    """The axis of accuracies in percent, which does not begin at zero.

    Args:
        from_lowest: whether the axis begins at the value of the parameter `lowest` (see `lowest_shown`).
    """
    lowest = {"domainMin": alt.ExprRef("lowest")} if from_lowest else {}
    return alt.Y(f"{field}:Q", title="Accuracy (%)").scale(zero=False, nice=True, **lowest)


def lowest_shown(alt: Any) -> Any:
    """The parameter at which an `accuracy_axis` begins; the page sets its value."""
    return alt.param(name="lowest", value=0)


def time_steps_axis(alt: Any, ticks: Sequence[int], field: str = "T") -> Any:
    """The axis of T on a log scale, with a tick for each T that is reported."""
    return (
        alt.X(f"{field}:Q", title="Time steps T (log scale)")
        .scale(type="log", base=2, nice=False, padding=10)
        .axis(values=list(ticks), format="d", labelFlush=False, labelOverlap="greedy")
    )


def alpha_colour(alt: Any, alphas: Sequence[float], narrow: bool = False) -> Any:
    """Colours for α (viridis), which stay the same whatever trials are filtered out.

    Args:
        narrow: whether the legend stands beside another one and has to be narrow.
    """
    domain = sorted(set(alphas))
    if len(domain) < MANY:
        colour = alt.Color("alpha:O", title="Threshold scale α").scale(domain=domain)
        columns = {"columns": 3} if narrow else {}
        return colour.legend(symbolType="circle", symbolOpacity=1, format=ALPHA, **columns)
    return (
        alt.Color("alpha:Q", title="Threshold scale α")
        .scale(domain=[domain[0], domain[-1]])
        .legend(gradientLength=130, gradientThickness=10, format=ALPHA, gradientOpacity=1)
    )


def reset_colour(alt: Any) -> Any:
    """A colour for each reset; those of soft and hard can be told apart by everybody, colour-blind or not."""
    return alt.Color("reset:N", title="Reset", sort=RESETS).scale(domain=RESETS).legend(symbolOpacity=1)


def reset_shape(alt: Any) -> Any:
    """A symbol for each reset: a circle for soft, a triangle for hard, and others for other resets."""
    shape = alt.Shape("reset:N", title="Reset", sort=RESETS).legend(symbolOpacity=1)
    return shape.scale(domain=RESETS, range=SHAPES[: len(RESETS)])


def fitting(alt: Any, pixels: int) -> Any:
    """The opacity of numbers in cells, which hides them where cells are narrower than `pixels` or too low."""
    return alt.when(f"bandwidth('x') >= {pixels} && bandwidth('y') >= 12").then(alt.value(1)).otherwise(alt.value(0))


def faceted(alt: Any, chart: Any, panels: Iterable[str], data: Any) -> Any:
    """Divide a chart into panels, one for each title in `panels`, in this order, by the column `panel` of the data."""
    order = list(dict.fromkeys(panels))
    facets = alt.Facet("panel:N", title=None, sort=order)
    return chart.properties(data=data).facet(facets, columns=min(2, len(order)))


def specification(chart: Any, description: str) -> Row:
    """Turn a chart into JSON, with a description for screen readers. The page sets style and widths."""
    import altair as alt

    with alt.data_transformers.enable(consolidate_datasets=False, max_rows=None):
        spec: Row = chart.to_dict(validate=False)
    return {**spec, "description": description, "config": {}}
