"""Read a results directory in Python."""

from functools import cached_property
from os import PathLike, fspath

import pyarrow as pa

from rmpsweep.errors import ResultsError
from rmpsweep.results.layout import Layout
from rmpsweep.results.records import PlanFile
from rmpsweep.results.tables import ACTIVITY_SCHEMA, PREDICTIONS_SCHEMA, SUMMARY_SCHEMA, read_table
from rmpsweep.stats import BestTrial, best_trials
from rmpsweep.storage import Location, locate
from rmpsweep.sweep.file import parse_sweep
from rmpsweep.sweep.plan import Plan, Trial
from rmpsweep.sweep.schema import Sweep


class Results:
    """The results of a sweep. Each part is read from the directory when it is first used, and then kept.

    Tables are Arrow tables: use `results.summary.to_pandas()` or `polars.from_arrow(results.summary)`, or query them
    with DuckDB as they are. What has been read does not change when the directory changes; open the results again to
    see later ones.

    Raises (when a table is read):
        ResultsError: nothing has been merged yet.
        StorageError: a file cannot be read.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    @classmethod
    def open(cls, path: str | PathLike[str]) -> "Results":
        """Open the results of a sweep.

        Args:
            path: the results directory: a folder, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER.
        Raises:
            ResultsError: no sweep has been launched there.
            StorageError: the directory cannot be read.
        """
        results = cls(Layout(locate(fspath(path))))
        results._planned  # noqa: B018
        return results

    @property
    def path(self) -> Location:
        """The results directory."""
        return self._layout.root

    @cached_property
    def sweep(self) -> Sweep:
        """The sweep as it was launched, with every default filled in."""
        file = self._layout.sweep
        return parse_sweep(file.read_text(encoding="utf-8"), str(file))

    @property
    def plan(self) -> Plan:
        """The trials, the time steps, the number of images, and what the results depend on."""
        return self._planned.plan

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials with their settings; the ANN is not among them."""
        return self.plan.trials

    @cached_property
    def summary(self) -> pa.Table:
        """The summary (`summary.parquet`), one row for each (trial, T): settings, accuracy, spikes and operations."""
        return self._table(self._layout.summary, SUMMARY_SCHEMA)

    @cached_property
    def predictions(self) -> pa.Table:
        """The predictions (`predictions.parquet`), one row for each (trial, T, image). The ANN is "ann" at T = 0."""
        return self._table(self._layout.predictions, PREDICTIONS_SCHEMA)

    @cached_property
    def activity(self) -> pa.Table:
        """The activity (`activity.parquet`), one row for each (trial, layer, T): counts added over images."""
        return self._table(self._layout.activity, ACTIVITY_SCHEMA)

    @cached_property
    def best(self) -> dict[str, BestTrial]:
        """Reset mode -> its best trial, which is the one that the report and `rmpsweep launch` name."""
        return dict(best_trials(self.summary))

    @cached_property
    def _planned(self) -> PlanFile:
        return PlanFile.read(self._layout)

    def _table(self, file: Location, schema: pa.Schema) -> pa.Table:
        if not file.is_file():
            raise ResultsError(
                f"{self.path}: the results are not merged yet ({file.name} is missing); launch the sweep to its end, "
                f"or make tables of what is there: rmpsweep merge {self.path} --allow-partial"
            )
        return read_table(file, schema)

    def __repr__(self) -> str:
        plan, steps = self.plan, self.plan.time_steps
        range_of_t = f"T = {steps[0]}" if len(steps) == 1 else f"T = {steps[0]} to {steps[-1]}"
        merged = "" if self._layout.summary.is_file() else ", not merged yet"
        extent = f"{len(plan.trials)} trials on {plan.limit:,} images, {range_of_t}{merged}"
        return f"<Results of {self.sweep.name} in {self.path}: {extent}>"
