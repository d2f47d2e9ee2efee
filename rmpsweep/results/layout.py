"""The names of everything in a results directory."""

from dataclasses import dataclass

from rmpsweep.storage import Location


@dataclass(frozen=True)
class Layout:
    """Names of everything in a results directory."""

    root: Location

    @property
    def sweep(self) -> Location:
        """The resolved sweep."""
        return self.root / "sweep.yaml"

    @property
    def plan(self) -> Location:
        """Trials with their settings, and what the results depend on."""
        return self.root / "plan.json"

    @property
    def search(self) -> Location:
        """Of an adaptive search: its rounds, and which trials were stopped, when and why."""
        return self.root / "search.json"

    @property
    def units(self) -> Location:
        """The journal: one Parquet file for each committed unit."""
        return self.root / "units"

    @property
    def progress(self) -> Location:
        """How a launch that runs stands."""
        return self.root / "progress.json"

    @property
    def cancel(self) -> Location:
        """Its being there asks the launch that runs to stop."""
        return self.root / "cancel"

    @property
    def logs(self) -> Location:
        """One log for each process of a worker."""
        return self.root / "logs"

    @property
    def index(self) -> Location:
        """One Parquet table for each split of images in files: where they lie, what they are."""
        return self.root / "index"

    @property
    def calibration(self) -> Location:
        """One Parquet table of thresholds for each calibration."""
        return self.root / "calibration"

    @property
    def calibration_csv(self) -> Location:
        """All calibrations in one table for people."""
        return self.root / "calibration.csv"

    @property
    def skipped(self) -> Location:
        """The images left out because they cannot be decoded, and why."""
        return self.root / "skipped.csv"

    @property
    def predictions(self) -> Location:
        """Every (trial, time step, image)."""
        return self.root / "predictions.parquet"

    @property
    def summary(self) -> Location:
        """Every (trial, time step)."""
        return self.root / "summary.parquet"

    @property
    def activity(self) -> Location:
        """Every (trial, layer, time step)."""
        return self.root / "activity.parquet"

    @property
    def report(self) -> Location:
        """The page."""
        return self.root / "report.html"

    @property
    def run(self) -> Location:
        """Versions, devices, timings."""
        return self.root / "run.json"

    @property
    def database(self) -> Location:
        """MLflow's, unless a sweep names another tracking URI or the results lie in an object store."""
        return self.root / "mlflow.db"

    def unit(self, unit_id: str, attempt: str = "") -> Location:
        """The file of a unit, or of one attempt at it where attempts cannot agree on a file (object stores)."""
        return self.units / f"{unit_id}{'.' if attempt else ''}{attempt}.parquet"

    def thresholds(self, calibration_id: str) -> Location:
        """The table of a calibration."""
        return self.calibration / f"{calibration_id}.parquet"
