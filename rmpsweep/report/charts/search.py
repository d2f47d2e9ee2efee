"""What the page says about an adaptive search: how far each trial was evaluated, and why trials were stopped."""

from collections.abc import Mapping
from dataclasses import asdict

from rmpsweep.report.charts import ALPHA, Row, faceted, specification
from rmpsweep.report.info import SearchInfo
from rmpsweep.report.trials import TrialData


def stopped_rows(search: SearchInfo, trials: Mapping[str, Mapping[int, Row]]) -> list[Row]:
    """A row for each stopped trial and each of its defeats, one at each T of interest, with the rival that beat it.

    The trials that were evaluated on the most images come first.

    Args:
        trials: from `trials.by_trial`.
    """
    furthest = sorted(search.stopped.items(), key=lambda item: -max(defeat.images for defeat in item[1]))
    return [
        {
            "trial": next(iter(trials[trial_id].values())),
            "rival_trial": next(iter(trials[defeat.rival].values())),
            **asdict(defeat),
        }
        for trial_id, defeats in furthest
        for defeat in defeats
    ]


def extent_chart(search: SearchInfo, data: TrialData) -> Row:
    """Draw the number of images on which each trial was evaluated against α, with a panel for each reset and rule."""
    import altair as alt

    columns = zip(*(data.trials[name] for name in ("trial", "panel", "alpha")), strict=True)
    values = [
        {
            "panel": panel,
            "alpha": alpha,
            "images": max((defeat.images for defeat in search.stopped.get(trial, ())), default=search.images),
            "end": "stopped" if trial in search.stopped else "all images",
        }
        for trial, panel, alpha in columns
    ]
    ends = ["all images", "stopped"]
    base = alt.Chart().encode(
        x=alt.X("alpha:Q", title="Threshold scale α").scale(zero=False, nice=False, padding=14),
        y=alt.Y("images:Q", title="Images evaluated").axis(format="~s"),
        color=alt.Color("end:N", title="Evaluated on", sort=ends).scale(domain=ends).legend(symbolOpacity=1),
    )
    tooltip = [
        alt.Tooltip("alpha:Q", title="α", format=ALPHA),
        alt.Tooltip("images:Q", title="images", format=","),
        alt.Tooltip("end:N", title="evaluated on"),
    ]
    chart = alt.layer(
        base.mark_rule(strokeWidth=2).encode(y2=alt.value("height")),
        base.mark_point(filled=True, size=60, opacity=1).encode(tooltip=tooltip),
    ).properties(height=150)
    chart = faceted(alt, chart, data.panels, alt.InlineData(values=values))
    return specification(chart, "Images that each trial was evaluated on, against alpha, by reset and threshold rule")
