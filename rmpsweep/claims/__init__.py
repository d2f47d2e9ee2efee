"""The claims of RMP-SNN (Han, Srinivasan and Roy, arXiv:2003.01811), each compared with our own measurements.

Reading order: ``claim`` (the result), then one module for each claim: ``response``, ``steps``, ``loss`` and
``activity``. These take tables and return values; this module reads the tables and writes the figures, which ``charts``
draws.
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
    """Compare a claim with the merged tables of a sweep. "response" is measured on a single neuron and needs no sweep.

    Args:
        subject: one of SUBJECTS.
        layout: the results of the sweep; None for "response".
    Raises:
        SweepError: the subject is unknown, no results are given, or results are given for "response".
        ResultsError: the tables lack what the claim compares. StorageError: the tables cannot be read.
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
    """Write the figure as SVG and PNG and its points as CSV, in files named after the subject.

    Returns:
        The paths of the three files, in this order.
    Raises:
        StorageError: the folder cannot be written.
    """
    from rmpsweep.claims.charts import render_png, render_svg

    svg, png, table = (folder / f"{claim.subject}.{kind}" for kind in ("svg", "png", "csv"))
    files.write_text(svg, render_svg(claim.chart))
    write_atomic(png, render_png(claim.chart))
    files.write_csv(table, claim.rows)
    return [svg, png, table]
