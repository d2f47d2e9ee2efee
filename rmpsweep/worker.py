"""One resident network, and the jobs it does: calibrate, and evaluate a unit into a committed file.

A plain class: where it runs (this process, a Ray actor) is decided in `pools`.
"""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from rmpsweep.data import ImageSplit, image_order
from rmpsweep.engine import SpikingNetwork, calibrate, convert, simulate_many, thresholds_from_scales
from rmpsweep.engine.encode import saturated_fraction
from rmpsweep.errors import CalibrationError, NetworkError
from rmpsweep.models.registry import build_any, build_from_module
from rmpsweep.models.weights import count_classes, put_weights, read_weights
from rmpsweep.plan import ANN, Unit
from rmpsweep.results import UNIT_SCHEMA, LayerActivity, Layout, UnitResult, commit_unit, thresholds_digest
from rmpsweep.schema import Setting, Sweep
from rmpsweep.storage import Location
from rmpsweep.terms import INPUT
from rmpsweep.thresholds import GivenThresholds

Thresholds = Mapping[str, Sequence[float]]
ANN_ROWS, ANN_ELEMENTS = 32, 2**20
"""The ANN's batch: so many images, fewer where they are large. Fixed, since floating point depends on it."""


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker needs to start. threads: of the CPU, None for torch's default; device: None for a GPU if any."""

    sweep: Sweep
    weights: Path
    results: Location
    threads: int | None = None
    device: str | None = None


@dataclass(frozen=True)
class CalibrationJob:
    """Find the thresholds of a setting on the images of the calibration split with these ids, or take those given."""

    job_id: str
    setting: Setting
    image_ids: tuple[int, ...]
    given: GivenThresholds | None = None

    @property
    def cost(self) -> float:
        """Roughly in passes over an image: the paper's rule simulates, the others need the ANN's activations."""
        return float(len(self.image_ids) * (100 if self.setting.threshold.startswith("vin") else 1))

    def sparing(self) -> "CalibrationJob":
        """It keeps within the memory plan as it is."""
        return self


@dataclass(frozen=True)
class EvaluationJob:
    """Evaluate a unit; trials: trial_id -> its setting and thresholds; batch_size: rows, None for the sweep's."""

    job_id: str
    unit: Unit
    context: str
    trials: Mapping[str, tuple[Setting, Thresholds]]
    batch_size: int | None = None

    @property
    def cost(self) -> float:
        """Image-steps; something where the ANN is evaluated alone."""
        return float(max(1, self.unit.image_steps))

    def sparing(self) -> "EvaluationJob":
        """One row at a time."""
        return replace(self, batch_size=1)


@dataclass(frozen=True)
class Report:
    """What a finished job tells the driver; thresholds: of a calibration; value: of a job that does itself."""

    seconds: float
    thresholds: Thresholds | None = None
    warnings: tuple[str, ...] = ()
    value: Any = None


class Worker:
    """Holds a converted network and the evaluated split from `setup` on."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self._ticks, self._done = 0, 0

    def beat(self) -> tuple[int, float]:
        """How often anything was computed so far, and the image-steps of the present job."""
        return self._ticks, float(self._done)

    def _advance(self, steps: int) -> None:
        self._ticks += 1
        self._done += steps

    def setup(self) -> str:
        """Load everything; returns the device's name. Raises NetworkError, DataError."""
        if self.spec.threads is not None:
            torch.set_num_threads(self.spec.threads)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
        self.device = torch.device(self.spec.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.split = open_evaluated(self.spec.sweep)
        self.ann, self.net = load_network(self.spec.sweep, self.spec.weights, self.split)
        self.ann, self.net = self.ann.to(self.device), self.net.to(self.device)
        if self.device.type == "cpu":
            return "CPU"
        return f"{torch.cuda.get_device_name(self.device)}, TF32 off"

    def run(self, job: Any) -> Report:
        """Do one job; one of a kind that is not known here does itself, by its `run(worker)`."""
        began = time.perf_counter()
        self._done = 0
        thresholds = value = None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            if isinstance(job, CalibrationJob):
                thresholds = self.calibrate(job)
            elif isinstance(job, EvaluationJob):
                commit_unit(Layout(self.spec.results), self.evaluate(job))
            else:
                value = job.run(self)
        return Report(time.perf_counter() - began, thresholds, tuple(str(each.message) for each in caught), value)

    def calibrate(self, job: CalibrationJob) -> dict[str, list[float]]:
        """Thresholds by layer, one value or one per channel. Raises CalibrationError."""
        if job.given is not None:
            return _lists(given_thresholds(self.net, job.given, job.setting))
        data, calibration = self.spec.sweep.data, self.spec.sweep.calibration
        split = data.open(data.calibration_split)
        images, _ = split.load(job.image_ids)
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
                "encoding their rate is clipped at one spike a step", stacklevel=1,
            )  # fmt: skip
        return _lists(found)

    def evaluate(self, job: EvaluationJob) -> UnitResult:
        """Compute every cell of a unit; the ANN sees the very tensors its conversions see."""
        ids = image_order(self.split.num_images)[job.unit.start : job.unit.stop]
        images, labels = self.split.load(ids)
        self._advance(0)
        rows: list[pa.Table] = []
        activity: list[LayerActivity] = []
        for time_steps, members in _together(job):
            if members == [ANN]:
                logits = torch.stack([self._ann_logits(images)])[None]
            else:
                logits, counts = self._simulate(images, ids, time_steps, [job.trials[m] for m in members], job)
                activity += [
                    LayerActivity(member, layer, neurons, time_steps, *map(tuple, counted.tolist()))
                    for k, member in enumerate(members)
                    for (layer, neurons), counted in counts[k].items()
                ]
            for k, member in enumerate(members):
                if not bool(torch.isfinite(logits[k]).all()):
                    raise CalibrationError(
                        f"trial {member}: its output is not finite; thresholds and weights overflow its numerics"
                    )
            rows += [_prediction_rows(m, ids, labels, time_steps, logits[k]) for k, m in enumerate(members)]
        provenance = {trial: thresholds_digest(thresholds) for trial, (_, thresholds) in job.trials.items()}
        return UnitResult(job.unit, job.context, provenance, pa.concat_tables(rows).combine_chunks(), tuple(activity))

    @torch.no_grad()
    def _ann_logits(self, images: Tensor) -> Tensor:
        """[N, classes], in batches padded to one shape."""
        size = max(1, min(ANN_ROWS, ANN_ELEMENTS // images[0].numel()))
        parts = []
        for rows in torch.arange(len(images)).split(size):
            padded = torch.cat([rows, rows[:1].expand(size - len(rows))])
            parts.append(self.ann(images[padded].to(self.device))[: len(rows)].cpu())
            self._advance(0)
        return torch.cat(parts)

    def _simulate(
        self, images: Tensor, ids: np.ndarray, time_steps: tuple[int, ...],
        trials: Sequence[tuple[Setting, Thresholds]], job: EvaluationJob,
    ) -> tuple[Tensor, list[dict[tuple[str, int], Tensor]]]:  # fmt: skip
        """Logits [K, T, N, classes]; for each trial (layer, neurons) -> spikes, synops, saturated neurons [3, T]."""
        settings = [_engine_setting(setting, thresholds) for setting, thresholds in trials]
        rows = job.batch_size or self.spec.sweep.run.batch_size
        sims = simulate_many(
            self.net, images, settings, time_steps, image_ids=torch.from_numpy(ids), batch_size=rows, keep_state=False,
            on_steps=self._advance,
        )  # fmt: skip
        neurons = {node.name: int(np.prod(node.shape)) for node in self.net.nodes if node.op in ("input", "spike")}
        counts: list[dict[tuple[str, int], Tensor]] = []
        for sim in sims:
            spikes = {INPUT: sim.input_spikes, **sim.spike_counts}
            saturated = {INPUT: torch.zeros_like(sim.input_spikes), **sim.saturated}
            counts.append({
                (layer, neurons[layer]): torch.stack([spikes[layer], sim.synops[layer], saturated[layer]])
                for layer in (INPUT, *self.net.layers)
            })  # fmt: skip
        return torch.stack([sim.logits.double() for sim in sims]), counts


def open_evaluated(sweep: Sweep) -> ImageSplit:
    """The split a sweep evaluates. Raises DataError."""
    return sweep.data.open(sweep.data.split)


def load_network(sweep: Sweep, weights: Path, split: ImageSplit) -> tuple[nn.Module, SpikingNetwork]:
    """The trained ANN, in eval mode, and its conversion.

    Raises:
        NetworkError: it cannot be built or converted, its weights do not fit, or it has another number of classes than
            the labels. DataError: the first image cannot be decoded.
    """
    image, _ = split.load([0])
    num_classes = split.num_classes or split.max_label + 1
    network = sweep.network
    state = read_weights(weights)
    if network.module is not None:
        ann = build_from_module(network.module)
    else:
        shape = image.shape[1], (image.shape[2], image.shape[3])
        if split.num_classes is None:  # its labels are a lower bound, the weights say
            with torch.device("meta"):
                num_classes = max(num_classes, count_classes(build_any(network.label, num_classes, *shape), state))
        ann = build_any(network.label, num_classes, *shape)
    put_weights(ann, state, weights)
    del state
    ann.eval()
    net = convert(ann, image)
    outputs = net.node(net.output).shape
    if len(outputs) != 1 or outputs[0] < num_classes or (split.num_classes and outputs[0] != num_classes):
        raise NetworkError(f"{network.label}: its output has shape {list(outputs)}, but {split.name} has "
                           f"{num_classes} classes")  # fmt: skip
    return ann, net


def given_thresholds(net: SpikingNetwork, given: GivenThresholds, setting: Setting) -> dict[str, Tensor]:
    """The thresholds of a file for this network, as `calibrate` returns them.

    Raises:
        CalibrationError: layers are missing or unknown, or do not have the setting's granularity or their channels.
    """
    missing = [layer for layer in net.layers if layer not in given.values]
    unknown = [layer for layer in given.values if layer not in (INPUT, *net.layers)]
    if missing or unknown:
        raise CalibrationError(
            f"{given.path}: missing {', '.join(missing) or 'none'}; unknown {', '.join(unknown) or 'none'}; "
            f"the layers are {', '.join(net.layers)}"
        )
    values = {layer: torch.tensor(value, dtype=torch.float64) for layer, value in given.values.items()}
    if setting.granularity == "layer" and any(value.numel() > 1 for value in values.values()):
        raise CalibrationError(f"{given.path}: has thresholds per channel, the trial has granularity: layer")
    if INPUT not in values and setting.input_scale == "auto":
        raise CalibrationError(f"{given.path}: has no {INPUT!r}, and input_scale is auto; give one of them as a number")
    scalars = {layer: value[0] if value.numel() == 1 else value for layer, value in values.items()}
    complete = {INPUT: torch.as_tensor(setting.input_scale, dtype=torch.float64), **scalars}
    try:
        as_scales = thresholds_from_scales(net, complete)
    except ValueError as error:
        raise CalibrationError(f"{given.path}: {error}") from error
    return as_scales if given.scales else complete


def _lists(thresholds: Mapping[str, Tensor]) -> dict[str, list[float]]:
    return {layer: value.reshape(-1).tolist() for layer, value in thresholds.items()}


def _engine_setting(setting: Setting, thresholds: Thresholds) -> dict[str, object]:
    """What `simulate_many` takes; calibration settings are spent."""
    tensors = {
        layer: torch.tensor(values[0] if len(values) == 1 else list(values), dtype=torch.float64)
        for layer, values in thresholds.items()
    }
    spent = {"threshold", "granularity", "input_scale"}
    return {"thresholds": tensors, **setting.model_dump(exclude=spent)}


def _together(job: EvaluationJob) -> list[tuple[tuple[int, ...], list[str]]]:
    """Trials of a unit with the same time steps, which are simulated together; the ANN alone."""
    groups: dict[tuple[object, ...], tuple[tuple[int, ...], list[str]]] = {}
    for trial, steps in job.unit.work:
        groups.setdefault((trial == ANN, steps), (steps, []))[1].append(trial)
    return list(groups.values())


def _prediction_rows(
    trial: str, ids: np.ndarray, labels: Tensor, time_steps: Sequence[int], logits: Tensor
) -> pa.Table:
    """UNIT_SCHEMA rows of one trial. logits: [T, N, classes]; ties go to the lowest class."""
    own = logits.gather(2, labels.expand(len(logits), -1)[..., None])
    classes = torch.arange(logits.shape[2])
    ahead = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    num = len(ids)
    columns = [
        pa.array([trial] * (num * len(time_steps))),
        np.tile(ids, len(time_steps)),
        np.tile(labels.numpy(), len(time_steps)),
        np.repeat(np.array(time_steps), num),
        logits.argmax(2).flatten().numpy(),
        ahead.sum(2).flatten().numpy(),
    ]
    arrays = [pa.array(column).cast(field.type) for column, field in zip(columns, UNIT_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=UNIT_SCHEMA)
