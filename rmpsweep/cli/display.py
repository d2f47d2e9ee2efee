"""What the commands show: progress while they run, and tables at the end.

On a terminal, progress is a bar; elsewhere it is a line of text now and then. With --json, a command prints one JSON
document to standard output, and every event as one line of JSON to standard error.
"""

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, assert_never

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from rmpsweep.formats import duration, p_value, quantity
from rmpsweep.stats import CONVENTIONS, best_trials, varying_settings
from rmpsweep.stats.comparison import PAIRED, UNPAIRED, Comparison, energy_text
from rmpsweep.workers.events import (
    Event,
    JobCopied,
    JobDone,
    JobLost,
    JobQuarantined,
    JobRetried,
    StageBegan,
    WorkerChanged,
)

if TYPE_CHECKING:
    from rmpsweep.claims.claim import Claim
    from rmpsweep.engine.agreement import Agreement

LINE_EVERY_S = 5.0
PLAIN_WIDTH = 120
TRIAL_IDS = ("trial_id", "trial")
"""The columns that hold trial ids."""


class Display:
    """The output of one command."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.indexed = time.monotonic()
        self.console = Console(highlight=False, soft_wrap=True)
        if not self.console.is_terminal:
            self.console.width = PLAIN_WIDTH

    def line(self, text: str) -> None:
        """Print one line of text; with --json it becomes an event."""
        if self.as_json:
            self.event({"event": "message", "text": text})
        else:
            self.console.print(text, markup=False)

    def event(self, plain: Mapping[str, Any]) -> None:
        """With --json, print an event and its UNIX time as one line of JSON to standard error."""
        if self.as_json:
            print(json.dumps({"time": round(time.time(), 3), **plain}), file=sys.stderr, flush=True)

    def document(self, value: Any) -> None:
        """Print the JSON document if --json was given."""
        if self.as_json:
            print(json.dumps(value, indent=2, ensure_ascii=False))

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print a table, with numbers aligned to the right. With --json nothing is printed: the document has the rows.

        In a narrow terminal text is folded, but numbers and trial ids, which people copy, stay whole.
        """
        if self.as_json:
            return
        table = Table(
            title=title,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            show_header=any(columns),
            pad_edge=False,
            collapse_padding=True,
        )
        body = [[_cell(value) for value in row] for row in rows]
        for i, column in enumerate(columns):
            numeric = all(row[i].lstrip("+-")[:1].isdigit() or row[i] in ("–", "") for row in body)
            whole = column in TRIAL_IDS or (numeric and not any(" " in row[i] for row in body))
            table.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=whole)
        for row in body:
            table.add_row(*row)
        self.console.print(table, markup=False)

    def trials(self, trials: Sequence[Mapping[str, Any]]) -> None:
        """Print every trial with the settings that vary, then the settings that all trials share."""
        fixed = {k: v for k, v in trials[0].items() if all(trial[k] == v for trial in trials)}
        if len(trials) == 1:
            fixed.pop("trial_id")
        columns = [k for k in trials[0] if k not in fixed]
        self.table("Trials", columns, [[trial[k] for k in columns] for trial in trials])
        self.line("  in every trial: " + ", ".join(f"{k} {v}" for k, v in fixed.items()))

    def clear(self) -> None:
        """Clear the screen if the output is a terminal."""
        if not self.as_json:
            self.console.clear()

    def standing(self, standing: Mapping[str, Any], images: int, time_steps: int) -> None:
        """Print every trial of a status document: its finished cells, and its accuracy so far at the largest T."""
        rows = standing["trials"]
        shown = ["trial_id", "done", "threshold", "reset", "alpha"]
        if standing["running"]:
            shown.insert(2, "in_flight")
        if any(row["failed"] for row in rows):
            shown.insert(2, "failed")
        body = []
        for row in rows:
            accuracy = interval = None
            if row["images"]:
                accuracy = f"{row['accuracy']:.2%}"
                interval = f"{100 * row['ci_low']:.1f}–{100 * row['ci_high']:.1f}"
            coverage = f"{row['images']:,}" + (" (stopped)" if row["trial_id"] in standing["stopped"] else "")
            done = row["done"] if row["done"] == row["cells"] else f"{row['done']:,} of {row['cells']:,}"
            body.append([*((row | {"done": done}).get(key) for key in shown), coverage, accuracy, interval])
        over = f"accuracy at T = {time_steps} over the images done, of {images:,}"
        self.table(f"Sweep {standing['name']}: cells done; {over}", [*shown, "images", "accuracy", "95 %"], body)

    def claim(self, claim: "Claim") -> None:
        """Print a claim, its tables and the findings."""
        self.line(claim.statement)
        for table in claim.tables:
            self.table(table.title, table.columns, table.rows)
        for finding in claim.findings:
            self.line(finding)

    def comparison(self, found: Comparison) -> None:
        """Print every trial against its baseline at each T, then every trial alone. With --json nothing is printed."""
        if self.as_json:
            return
        for name, baseline in dict.fromkeys((each.name, each.baseline) for each in found.differences):
            pair = [each for each in found.differences if (each.name, each.baseline) == (name, baseline)]
            self.table(
                f"{name} against {baseline}, {PAIRED if pair[0].paired else UNPAIRED}",
                ("T", "accuracy", "baseline", "difference", "95 % interval", "p", "p (Holm)", "images"),
                [
                    (
                        each.time_steps,
                        f"{each.accuracy:.2%}",
                        f"{each.accuracy_baseline:.2%}",
                        f"{each.difference_points:+.2f}",
                        f"{each.ci_low_points:+.2f} to {each.ci_high_points:+.2f}",
                        p_value(each.p_value),
                        p_value(each.p_holm),
                        each.images_text,
                    )
                    for each in pair
                ],
            )
        settings = varying_settings([each.settings for each in found.trials])
        columns = ("", "trial", *settings, "ANN", "T to 99 % of ANN", "synops", *CONVENTIONS)
        rows = [
            (
                each.name,
                each.trial_id,
                *(each.settings[name] for name in settings),
                None if each.ann_accuracy is None else f"{each.ann_accuracy:.2%}",
                each.reach_text,
                None if each.synops_per_image is None else quantity(each.synops_per_image),
                *(energy_text(each.energy_estimates.get(key)) for key in CONVENTIONS),
            )
            for each in found.trials
        ]
        self.table("Trials, over all of their images; operations and energy per image up to that T", columns, rows)
        for key, convention in CONVENTIONS.items():
            self.line(f"{key}: {convention.label}")
        for note in found.notes:
            self.line(f"note: {note}")

    def indexing(self, split: str, done: int, total: int | None) -> None:
        """Print how far the index of a split has come, at most every LINE_EVERY_S seconds."""
        if time.monotonic() > self.indexed + LINE_EVERY_S:
            self.indexed = time.monotonic()
            self.line(f"index of {split}: {done:,}" + (" images found" if total is None else f" of {total:,} images"))

    def agreement(self, found: "Agreement") -> None:
        """Print the errors of the spiking layers relative to the ANN's, and the rule that judges them."""
        t = [f"T = {steps}" for steps in found.time_steps]
        rows = [
            (
                layer.layer,
                f"{layer.scale:.4g}",
                _percent(layer.clipped),
                *map(_percent, layer.errors),
                f"{layer.growth:.2f}",
                layer.verdict,
            )
            for layer in found.layers
        ]
        rows.append(("(output)", "", "", *map(_percent, found.output_errors), "", ""))
        self.table(
            "Error of the rates, relative to the ANN's activations",
            ("layer", "Λ", "above Λ", *t, "growth", "verdict"),
            rows,
        )
        self.line(found.rule)

    def epoch(self, report: Any) -> None:
        """Print the results of a training epoch."""
        self.line(
            f"epoch {report.epoch}/{report.epochs}  loss {report.loss:.3f}  train {report.train_accuracy:.2%}  "
            f"test {report.test_accuracy:.2%}  {report.seconds:.1f} s  ETA {duration(report.eta_s)}"
        )

    def units(self) -> "UnitProgress":
        """Return a display of the progress over units."""
        return UnitProgress(self)

    def summary(self, summary: Any) -> None:
        """Print the best trial of each reset."""
        columns = ("reset", "best α", "threshold", "T within 1 point", "accuracy", "ANN", "firing rate", "images")
        rows = []
        for b in best_trials(summary).values():
            accuracy = f"{b.final_accuracy:.2%} at T = {b.time_steps}"
            rate = f"{b.firing_rate:.4f}"
            ann = f"{b.ann_accuracy:.2%}"
            named = (b.setting.reset, f"{b.setting.alpha:g}", b.setting.threshold)
            rows.append((*named, b.time_steps_within_1pt, accuracy, ann, rate, b.images))
        self.table("Best trial of each reset", columns, rows)


class UnitProgress:
    """Shows how many image-steps are done, the rate and the ETA, and failures as they happen. A context manager."""

    def __init__(self, display: Display) -> None:
        self.display = display
        self.num_units = self.failures = 0
        self.task = TaskID(0)
        self.said = ""
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=display.console,
            disable=display.as_json or not display.console.is_terminal,
        )

    def __enter__(self) -> "UnitProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def _say(self, about: str, message: str) -> None:
        """Print a message once, since the loss of a worker and that of its job come with the same message."""
        if message != self.said:
            self.said = message
            self.display.line(about + message)

    def event(self, event: Event) -> None:
        """Show an event of a launch."""
        self.display.event(event.plain())
        match event:
            case StageBegan(stage="evaluating"):
                self._begin(event.jobs, event.image_steps)
                return
            case JobQuarantined() if not self.num_units:
                return  # a calibration: its error ends the launch and is printed then
            case JobLost():
                self.failures += 1
                self._say(f"{event.job}: lost: ", event.message)
            case JobQuarantined():
                self.failures += 1
                self._say(f"{event.job}: quarantined: ", event.message)
            case JobRetried():
                self._say(f"{event.job}: retry: ", event.message)
            case WorkerChanged(change="gone" | "refused"):
                self._say(f"{event.worker}: ", event.about)
            case JobDone() if self.num_units:
                self.units += 1
                self.done += event.cost
            case StageBegan() | WorkerChanged() | JobCopied() | JobDone():
                pass
            case _:
                assert_never(event)
        if self.num_units:
            self._show()

    def _begin(self, num_units: int, image_steps: int) -> None:
        if self.num_units:
            self.bar.remove_task(self.task)
        self.num_units, self.total = num_units, image_steps
        self.units, self.done = 0, 0.0
        self.began = self.shown = time.monotonic()
        self.task = self.bar.add_task(f"{num_units} units", total=image_steps, rate="")
        self.bar.start()

    def _show(self) -> None:
        elapsed = time.monotonic() - self.began
        rate = self.done / elapsed if elapsed else 0.0
        shown_rate = f"{quantity(rate)} image-steps/s" + (f", {self.failures} failed" if self.failures else "")
        self.bar.update(self.task, completed=self.done, rate=shown_rate)
        due = time.monotonic() > self.shown + LINE_EVERY_S or self.units == self.num_units
        if self.bar.disable and due and rate:
            self.shown = time.monotonic()
            eta = duration((self.total - self.done) / rate)
            self.display.line(f"{self.units}/{self.num_units} units  {shown_rate}  ETA {eta}")


def plan_rows(estimate: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures of a plan as rows (name, value)."""
    return [(key.replace("_", " "), _cell(value)) for key, value in estimate.items()]


def _percent(value: float) -> str:
    return f"{100 * value:.3g}%"


def error(message: str) -> None:
    """Print an error to standard error."""
    print(f"error: {message}", file=sys.stderr)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
