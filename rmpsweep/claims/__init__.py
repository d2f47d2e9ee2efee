"""The claims of RMP-SNN (Han, Srinivasan and Roy, arXiv:2003.01811), each held against our own figures.

Reading order: claim (what comes out), then one file per claim: response, steps, loss, activity. They take tables and
return values; this file reads the tables and writes the figures.
"""

from rmpsweep import results as files
from rmpsweep.claims.activity import activity_claim
from rmpsweep.claims.claim import Claim
from rmpsweep.claims.loss import loss_claim
from rmpsweep.claims.response import response_claim
from rmpsweep.claims.steps import steps_claim
from rmpsweep.errors import SweepError
from rmpsweep.results import Layout
from rmpsweep.storage import Location, write_atomic

SUBJECTS = ("response", "steps", "loss", "activity")


def examine(subject: str, layout: Layout | None) -> Claim:
    """Hold a claim against the merged tables of a sweep; "response" is measured on the neuron and takes none.

    Raises:
        SweepError: unknown subject; no results given, or given to "response".
        ResultsError: the tables lack what the claim compares. StorageError: they cannot be read.
    """
    if subject not in SUBJECTS:
        raise SweepError(f"claims: got {subject!r}, expected one of {', '.join(SUBJECTS)}")
    if (subject == "response") != (layout is None):
        expected = "no sweep: it measures the neuron" if layout else "a sweep or a results directory after it"
        raise SweepError(f"claims {subject}: expected {expected}")
    if layout is None:
        return response_claim()
    summary = files.read_table(layout.summary, files.SUMMARY_SCHEMA)
    if subject == "activity":
        return activity_claim(summary, files.read_table(layout.activity, files.ACTIVITY_SCHEMA))
    there = layout.predictions.is_file()
    predictions = files.read_table(layout.predictions, files.PREDICTIONS_SCHEMA) if there else None
    return steps_claim(summary, predictions) if subject == "steps" else loss_claim(summary, predictions)


def write(claim: Claim, folder: Location) -> list[Location]:
    """Write the figure as SVG and PNG and its points as CSV, each named after the subject. Raises StorageError."""
    from rmpsweep.claims.charts import render_png, render_svg

    svg, png, table = (folder / f"{claim.subject}.{kind}" for kind in ("svg", "png", "csv"))
    files.write_text(svg, render_svg(claim.chart))
    write_atomic(png, render_png(claim.chart))
    files.write_csv(table, claim.rows)
    return [svg, png, table]
