"""The names of everything in a results directory."""

from dataclasses import dataclass

from rmpsweep.storage import Location


@dataclass(frozen=True)
class Layout:
    """The paths of everything in a results directory."""

    root: Location
    """The results directory itself."""

    @property
    def sweep(self) -> Location:
        """The resolved sweep, with every default written out."""
        return self.root / "sweep.yaml"

    @property
    def plan(self) -> Location:
        """The trials with their settings, and what the results depend on."""
        return self.root / "plan.json"

    @property
    def search(self) -> Location:
        """The rounds of an adaptive search, and which trials it stopped, when and why."""
        return self.root / "search.json"

    @property
    def units(self) -> Location:
        """The journal, a folder with one Parquet file for each committed unit."""
        return self.root / "units"

    @property
    def progress(self) -> Location:
        """The state of the running launch."""
        return self.root / "progress.json"

    @property
    def cancel(self) -> Location:
        """While this file exists, the running launch is asked to stop."""
        return self.root / "cancel"

    @property
    def logs(self) -> Location:
        """A folder with one log for each worker process."""
        return self.root / "logs"

    @property
    def index(self) -> Location:
        """A folder with one Parquet table for each split of images in files; it lists the files and what they hold."""
        return self.root / "index"

    @property
    def calibration(self) -> Location:
        """A folder with one Parquet table of thresholds for each calibration."""
        return self.root / "calibration"

    @property
    def calibration_csv(self) -> Location:
        """The thresholds of all calibrations in one table, for people."""
        return self.root / "calibration.csv"

    @property
    def skipped(self) -> Location:
        """The images that are left out because they cannot be decoded, with the reasons."""
        return self.root / "skipped.csv"

    @property
    def predictions(self) -> Location:
        """The table with a row for each (trial, time step, image)."""
        return self.root / "predictions.parquet"

    @property
    def summary(self) -> Location:
        """The table with a row for each (trial, time step)."""
        return self.root / "summary.parquet"

    @property
    def activity(self) -> Location:
        """The table with a row for each (trial, layer, time step)."""
        return self.root / "activity.parquet"

    @property
    def report(self) -> Location:
        """The report, one HTML page."""
        return self.root / "report.html"

    @property
    def run(self) -> Location:
        """The record of the launches: versions, devices, timings, warnings."""
        return self.root / "run.json"

    @property
    def database(self) -> Location:
        """MLflow's database, unless the sweep names another tracking URI or the results lie in an object store."""
        return self.root / "mlflow.db"

    def unit(self, unit_id: str, attempt: str = "") -> Location:
        """Return the path of a unit's file.

        Args:
            attempt: the name of one attempt, for object stores, where each attempt has its own file.
        """
        return self.units / f"{unit_id}{'.' if attempt else ''}{attempt}.parquet"

    def thresholds(self, calibration_id: str) -> Location:
        """Return the path of a calibration's table."""
        return self.calibration / f"{calibration_id}.parquet"
