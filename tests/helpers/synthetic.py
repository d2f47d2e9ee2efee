"""Makes results directories of any size from real pieces (sweep, plan, units, commits), without simulating a network.

Every image has a difficulty, and every trial at every T a skill. A formula, `rank`, determines the prediction for every
image, so that tables can be compared with what they were made from.
"""

import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from rmpsweep.data import image_order
from rmpsweep.pipeline.compute import save
from rmpsweep.pipeline.look import look
from rmpsweep.pipeline.prepare import Prepared
from rmpsweep.pipeline.weights import Weights
from rmpsweep.results import UNIT_SCHEMA, LayerActivity, Layout, UnitResult, commit_unit, thresholds_digest
from rmpsweep.sweep.file import parse_sweep
from rmpsweep.sweep.plan import Facts, Unit, make_plan, pending
from rmpsweep.terms import ANN

CLASSES = 10
ANN_SKILL = 0.92
SWEEP = """
name: {name}
network: {{name: resnet20, weights: none.safetensors}}
data: {{source: cifar10, path: nowhere, shard_size: {shard_size}}}
grid:
  {{alpha: {{start: 0.5, stop: 1.2, num: {alphas}}}, reset: [soft, hard], threshold: {rules}, encoding: {encodings}}}
time_steps: {time_steps}
"""


@dataclass(frozen=True)
class Synthetic:
    """A sweep that never ran."""

    name: str = "synthetic"
    alphas: int = 3
    rules: tuple[str, ...] = ("vin_max",)
    encodings: tuple[str, ...] = ("constant",)
    time_steps: tuple[int, ...] = (4, 8, 16, 32)
    images: int = 60
    limit: int | None = None
    shard_size: int = 16
    layers: int = 3
    """Number of spiking layers."""
    seed: int = 0
    """Another seed stands for another network."""
    data: str = "images"
    """The fingerprint of the images, from which their difficulties and labels are drawn."""

    def prepare(self, root: Path) -> Prepared:
        """Plan the sweep, without writing anything to disk."""
        text = SWEEP.format(
            name=self.name,
            shard_size=self.shard_size,
            alphas=self.alphas,
            rules=list(self.rules),
            encodings=list(self.encodings),
            time_steps=list(self.time_steps),
        )
        sweep = parse_sweep(text, self.name)
        facts = Facts(f"weights {self.seed}", self.data, "calibration", self.images, self.images)
        plan = make_plan(sweep, facts, self.limit)
        return Prepared(
            sweep=sweep,
            layout=Layout(root),
            plan=plan,
            dataset="cifar10 test",
            weights=Weights(Path(), facts.weights, None),
            given={},
            skipped=(),
        )

    def write(self, root: Path) -> Prepared:
        """Write a results directory in which every unit is committed, and nothing is merged yet."""
        prepared = self.prepare(root)
        thresholds = {t.calibration_id: {layer: [1.0] for layer in self.neurons()} for t in prepared.plan.trials}
        save(prepared, replace(look(prepared), calibrations=thresholds))
        digests = {t.trial_id: thresholds_digest(thresholds[t.calibration_id]) for t in prepared.plan.trials}
        ranks = {(trial, t): self.rank(prepared, trial, t) for trial, steps in prepared.plan.work for t in steps}
        for unit in pending(prepared.plan, []):
            provenance = {trial: digests[trial] for trial, _ in unit.work if trial != ANN}
            rows, activity = self._predictions(unit, ranks), self._activity(prepared, unit)
            commit_unit(prepared.layout, UnitResult(unit, prepared.plan.context, provenance, rows, activity))
        return prepared

    def labels(self) -> np.ndarray:
        """The labels by image_id, int32 [images]."""
        return self._draw(1, self.images, CLASSES).astype(np.int32)

    def rank(self, prepared: Prepared, trial: str, t: int) -> np.ndarray:
        """label_rank by image_id, int16 [images]: 0 where the difficulty, plus a little noise, is below the skill."""
        difficulty = self._draw(2, self.images, 10_000) / 10_000
        skill, shake = ANN_SKILL, 0.0
        if trial != ANN:
            number = [each.trial_id for each in prepared.plan.trials].index(trial)
            setting = prepared.plan.trials[number].setting
            latency = 2 if setting.reset == "soft" else 4
            skill = ANN_SKILL * (1 - (setting.alpha - 0.8) ** 2) * (1 - 2 ** (-t / latency)) - 0.01 * (self.seed % 3)
            shake = (self._draw(10 + 7919 * number + t + 104_729 * self.seed, self.images, 1000) - 500) / 10_000
        wrong = (1 + (difficulty + shake - skill) * 20).astype(np.int16)
        return np.where(difficulty + shake < skill, 0, np.clip(wrong, 1, CLASSES - 1)).astype(np.int16)

    def neurons(self) -> dict[str, int]:
        """The number of neurons of each layer, and of the input's elements."""
        return {"input": 3072, **{f"conv{i}": 4096 >> (i % 4) for i in range(self.layers)}}

    def counts(self, trial_number: int | None, layer_number: int, t: int) -> tuple[int, int, int]:
        """Spikes, synops and saturated neurons of one image; a trial number of None stands for the ANN."""
        if trial_number is None:
            return 0, 10_000 + layer_number, 0
        spikes = t * (100 + trial_number + 10 * layer_number)
        return spikes, 9 * spikes, layer_number

    def _draw(self, key: int, count: int, below: int) -> np.ndarray:
        return np.random.RandomState(zlib.crc32(f"{self.data} {key}".encode())).randint(0, below, count)

    def _predictions(self, unit: Unit, ranks: dict[tuple[str, int], np.ndarray]) -> pa.Table:
        ids = image_order(self.images)[unit.start : unit.stop]
        labels = self.labels()[ids]
        tables = []
        for trial, steps in unit.work:
            for t in steps:
                rank = ranks[trial, t][ids]
                columns = [
                    pa.array([trial] * len(ids)),
                    ids,
                    labels,
                    np.full(len(ids), t),
                    (labels + rank) % CLASSES,
                    rank,
                ]
                arrays = [pa.array(c).cast(field.type) for c, field in zip(columns, UNIT_SCHEMA, strict=True)]
                tables.append(pa.Table.from_arrays(arrays, schema=UNIT_SCHEMA))
        return pa.concat_tables(tables).combine_chunks()

    def _activity(self, prepared: Prepared, unit: Unit) -> tuple[LayerActivity, ...]:
        numbers = {trial.trial_id: i for i, trial in enumerate(prepared.plan.trials)}
        images = unit.stop - unit.start
        return tuple(
            LayerActivity(
                trial,
                layer,
                neurons,
                steps,
                tuple(
                    zip(*([images * n for n in self.counts(numbers.get(trial), number, t)] for t in steps), strict=True)
                ),
            )
            for trial, steps in unit.work
            for number, (layer, neurons) in enumerate(self.neurons().items())
        )
