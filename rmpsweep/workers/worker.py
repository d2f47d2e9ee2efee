"""The worker: it holds one converted network, and calibrates and evaluates units with it.

`Worker` is a plain class. The pools decide where it runs, in this process or in a Ray actor.
"""

import contextlib
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from rmpsweep.data.decoded import DecodedCache
from rmpsweep.data.figures import InputFigures
from rmpsweep.data.prefetch import Chunk, Prefetch
from rmpsweep.engine import calibrate, dense_macs, simulate_many
from rmpsweep.engine.encode import saturated_fraction
from rmpsweep.engine.memory import MOST_ROWS, MOST_ROWS_ON_GPU
from rmpsweep.errors import CalibrationError
from rmpsweep.results import LayerActivity, Layout, UnitResult, thresholds_digest
from rmpsweep.storage import Location
from rmpsweep.sweep.schema import Sweep
from rmpsweep.sweep.thresholds import GivenThresholds
from rmpsweep.terms import ANN, FIGURES, INPUT, Setting
from rmpsweep.workers.gather import Counts, Part, gather
from rmpsweep.workers.jobs import CalibrationJob, EvaluationJob, Job, JobReport, Result, Thresholds
from rmpsweep.workers.loading import given_thresholds, load_network, open_planned, own_thresholds

ANN_ROWS, ANN_ELEMENTS = 32, 2**20
"""The ANN is evaluated on batches of at most ANN_ROWS images and, if images are large, ANN_ELEMENTS input elements. The
size is fixed because floating-point results depend on it."""
CHUNK_BATCHES, CHUNK_BYTES = 4, (2**24, 2**28)
"""A chunk of images that is simulated at a time fills CHUNK_BATCHES of the engine's batches for every thread, as far as
its float32 input has between CHUNK_BYTES[0] and CHUNK_BYTES[1] bytes."""


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker needs to start."""

    sweep: Sweep
    weights: Path
    """The weights file."""
    results: Location
    """The results directory."""
    data_fingerprint: str
    """The fingerprint with which the evaluated split was planned."""
    calibration_fingerprint: str
    """The fingerprint with which the calibration split was planned."""
    threads: int | None = None
    """The number of CPU threads; None for torch's default."""
    device: str | None = None
    """The torch device; None for a GPU if there is one, else the CPU."""


class Worker:
    """A worker, which holds a converted network and the evaluated split once `setup` has run."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec, self.layout = spec, Layout(spec.results)
        self._ticks, self._done = 0, 0
        self._input = InputFigures()

    def beat(self) -> tuple[int, float]:
        """Return a count of all progress so far, and the image-steps done of the current job (0 in a calibration)."""
        return self._ticks, float(self._done)

    def _advance(self, steps: int) -> None:
        self._tick()
        self._done += steps

    def _tick(self) -> None:
        self._ticks += 1

    def setup(self) -> str:
        """Load the images and the network, and return the name of the device.

        Raises:
            NetworkError: the network or its weights cannot be used.
            DataError: the images cannot be used, or are not those that were planned.
        """
        if self.spec.threads is not None:
            torch.set_num_threads(self.spec.threads)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
        self.device = torch.device(self.spec.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        sweep = self.spec.sweep
        split = open_planned(sweep.data, sweep.data.split, self.layout.index, self.spec.data_fingerprint)
        cache = DecodedCache(split, int(sweep.run.decoded_cache_gb * 1e9)) if sweep.run.decoded_cache_gb else None
        self.images = Prefetch(split, torch.get_num_threads(), cache, self._tick)
        self.ann, self.net = load_network(sweep, self.spec.weights, split)
        self.ann, self.net = self.ann.to(self.device), self.net.to(self.device)
        self.macs = dense_macs(self.net)
        self.neurons = {name: math.prod(self.net.node(name).shape) for name in self.macs}
        if self.device.type == "cpu":
            return "CPU"
        return f"{torch.cuda.get_device_name(self.device)}, TF32 off"

    def run(self, job: Job[Result]) -> JobReport[Result]:
        """Run one job, and return its report. Raises what the job raises."""
        began = time.perf_counter()
        self._done, self._input = 0, InputFigures()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            value = job.run(self)
        messages = tuple(str(each.message) for each in caught)
        return JobReport(value=value, seconds=time.perf_counter() - began, warnings=messages, input=self._input)

    def calibrate(self, job: CalibrationJob) -> dict[str, list[float]]:
        """Find the thresholds of a job's setting: layer -> one value, or one per channel; "input" -> Λ_0.

        Raises:
            CalibrationError: thresholds cannot be found, or given ones do not fit the network.
            DataError: the calibration images cannot be used, or are not those that were planned.
        """
        if isinstance(job.given, GivenThresholds):
            return _lists(given_thresholds(self.net, job.given, job.setting))
        data, calibration = self.spec.sweep.data, self.spec.sweep.calibration
        index = self.layout.index
        split = open_planned(data, data.calibration_split, index, self.spec.calibration_fingerprint)
        images, _ = split.load(job.image_ids)
        if job.given is not None:
            return _lists(own_thresholds(self.net, images, job.given, job.setting))
        found = calibrate(
            self.net,
            images,
            job.setting.threshold,
            job.setting.granularity,
            calibration.encoding or job.setting.encoding,
            calibration.time_steps,
            job.setting.input_scale,
            calibration.seed,
            max_pool=job.setting.max_pool,
            image_ids=job.image_ids,
            on_steps=lambda _: self._advance(0),
        )
        clipped = saturated_fraction(images, float(found[INPUT]))
        if job.setting.encoding == "poisson" and clipped:
            warnings.warn(
                f"{clipped:.2%} of the input elements exceed the input scale {float(found[INPUT]):g}: under poisson "
                "encoding their rate is clipped at one spike a step",
                stacklevel=1,
            )
        return _lists(found)

    def evaluate(self, job: EvaluationJob) -> UnitResult:
        """Compute every cell of a unit. The ANN gets the very tensors that its conversions get.

        Background threads decode images while earlier images are simulated. Each image is decoded once for all trials.

        Raises:
            CalibrationError: an output is not finite.
            DataError: an image cannot be decoded.
        """
        unit, groups = job.unit, _together(job)
        parts: list[list[Part]] = [[] for _ in groups]
        size = self._chunk_size(job, max(len(members) for _, members in groups))
        with contextlib.closing(self.images.chunks(unit.start, unit.stop, size, self._input)) as chunks:
            for chunk in chunks:
                for (time_steps, members), found in zip(groups, parts, strict=True):
                    found.append(self._compute(chunk, time_steps, members, job))
        rows: list[pa.Table] = []
        activity: list[LayerActivity] = []
        for (time_steps, members), found in zip(groups, parts, strict=True):
            tables, counted = gather(members, time_steps, found)
            rows += tables
            activity += counted
        provenance = {trial: thresholds_digest(thresholds) for trial, (_, thresholds) in job.trials.items()}
        return UnitResult(unit, job.context, provenance, pa.concat_tables(rows).combine_chunks(), tuple(activity))

    def _chunk_size(self, job: EvaluationJob, trials: int) -> int:
        """Choose how many images are simulated at a time: enough to fill the engine's batches, and few enough that the
        first chunk is decoded soon."""
        on_gpu = self.device.type == "cuda"
        batch = job.batch_size or self.spec.sweep.run.batch_size or (MOST_ROWS_ON_GPU if on_gpu else MOST_ROWS)
        rows = CHUNK_BATCHES * batch * (1 if on_gpu else torch.get_num_threads())
        least, most = (max(1, limit // (4 * math.prod(self.images.split.image_shape))) for limit in CHUNK_BYTES)
        return min(most, max(least, -(-rows // trials)))

    def _compute(self, chunk: Chunk, time_steps: tuple[int, ...], members: Sequence[str], job: EvaluationJob) -> Part:
        """Compute the cells of a chunk of images. Raises CalibrationError if an output is not finite."""
        if members == [ANN]:
            logits, counts = self._ann_logits(chunk.images)[None, None], [self._ann_counts(len(chunk.ids))]
        else:
            logits, counts = self._simulate(chunk, time_steps, [job.trials[m] for m in members], job)
        for k, member in enumerate(members):
            if not bool(torch.isfinite(logits[k]).all()):
                raise CalibrationError(
                    f"trial {member}: its output is not finite; thresholds and weights overflow its numerics"
                )
        return Part(chunk.ids, chunk.labels, logits, counts)

    @torch.no_grad()
    def _ann_logits(self, images: Tensor) -> Tensor:
        """Return the ANN's logits [N, classes], computed in batches that are padded to one shape."""
        size = max(1, min(ANN_ROWS, ANN_ELEMENTS // images[0].numel()))
        parts = []
        for rows in torch.arange(len(images)).split(size):
            padded = torch.cat([rows, rows[:1].expand(size - len(rows))])
            parts.append(self.ann(images[padded].to(self.device))[: len(rows)].cpu())
            self._advance(0)
        return torch.cat(parts)

    def _ann_counts(self, images: int) -> Counts:
        """Return the counts of the ANN: multiply-accumulates in place of synaptic operations, zeros for the rest."""
        return {
            (layer, self.neurons[layer]): torch.tensor([[images * n if each == "synops" else 0] for each in FIGURES])
            for layer, n in self.macs.items()
        }

    def _simulate(
        self,
        chunk: Chunk,
        time_steps: tuple[int, ...],
        trials: Sequence[tuple[Setting, Thresholds]],
        job: EvaluationJob,
    ) -> tuple[Tensor, list[Counts]]:
        """Simulate K trials. Return their logits, float64 [K, T, N, classes], and the counts of each trial."""
        settings = [{**asdict(setting), "thresholds": _tensors(thresholds)} for setting, thresholds in trials]
        rows = job.batch_size or self.spec.sweep.run.batch_size
        sims = simulate_many(
            self.net,
            chunk.images,
            settings,
            time_steps,
            image_ids=torch.from_numpy(chunk.ids),
            batch_size=rows,
            keep_state=False,
            on_steps=self._advance,
        )
        layers = (INPUT, *self.net.layers)
        counts = [{(layer, self.neurons[layer]): sim.figures[layer] for layer in layers} for sim in sims]
        return torch.stack([sim.logits.double() for sim in sims]), counts


def _lists(thresholds: Mapping[str, Tensor]) -> dict[str, list[float]]:
    return {layer: value.reshape(-1).tolist() for layer, value in thresholds.items()}


def _tensors(thresholds: Thresholds) -> dict[str, Tensor]:
    return {
        layer: torch.tensor(values[0] if len(values) == 1 else list(values), dtype=torch.float64)
        for layer, values in thresholds.items()
    }


def _together(job: EvaluationJob) -> list[tuple[tuple[int, ...], list[str]]]:
    """Group the trials of a unit that have the same time steps and are simulated together; the ANN is a group alone."""
    groups: dict[tuple[object, ...], tuple[tuple[int, ...], list[str]]] = {}
    for trial, steps in job.unit.work:
        groups.setdefault((trial == ANN, steps), (steps, []))[1].append(trial)
    return list(groups.values())
