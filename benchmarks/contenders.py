"""The contenders. Each simulates images x steps of the same converted network and sums the logits over the steps.

Peers run in torch.inference_mode, with the batch size, steps per call and memory format that `measure.probe` finds
best. rmpsweep runs as in a worker of a sweep: it gets all images in one call and divides them into batches itself.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol, get_args

import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from benchmarks.networks import Case, Prepared
from benchmarks.twins import spikingjelly_twin
from rmpsweep import terms
from rmpsweep.engine import simulate_many

ANN, SINGLE, MULTI, SNNTORCH = "ANN x T", "SpikingJelly 's'", "SpikingJelly 'm'", "snnTorch"
OURS: dict[str, Any] = {f"rmpsweep {numerics}": numerics for numerics in ("float32", "fixed16", "fixed8")}
CHUNKS = (4, 8, 16)


@dataclass(frozen=True)
class Form:
    """How a contender is run: images per batch, steps per call (chunk) and memory format."""

    batch: int
    chunk: int = 1
    channels_last: bool = False

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format as torch names it."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def __str__(self) -> str:
        chunk = f" x {self.chunk} steps" if self.chunk > 1 else ""
        return f"{self.batch}{chunk}, {'NHWC' if self.channels_last else 'NCHW'}"


class Contender(Protocol):
    """What is timed."""

    forms: list[Form]
    """The forms to choose from."""

    def run(self, images: Tensor, steps: int, form: Form) -> None:
        """Simulate the images [N, C, H, W] for this number of steps; this is the work that is timed."""


class Stepped:
    """A module that is called once per step or chunk of steps, and keeps its own state."""

    def __init__(self, module: nn.Module, reset: Callable[[nn.Module], None], forms: list[Form]) -> None:
        self.module, self.reset, self.forms = module, reset, forms

    def run(self, images: Tensor, steps: int, form: Form) -> None:
        """Sum the logits over the steps, one batch after another."""
        self.module.to(memory_format=form.memory_format)
        with torch.inference_mode():
            for batch in images.split(form.batch):
                self.reset(self.module)
                x = batch.contiguous(memory_format=form.memory_format)
                sum(self.forward(x, form.chunk) for _ in range(0, steps, form.chunk))

    def forward(self, x: Tensor, chunk: int) -> Tensor:
        """The logits [N, classes], summed over a chunk of steps."""
        return self.module(x) if chunk == 1 else self.module(x.expand(chunk, *x.shape)).sum(0)


class Ours:
    """`rmpsweep.engine.simulate_many` in one of its numerics."""

    def __init__(self, prepared: Prepared, numerics: terms.Numerics) -> None:
        self.net, self.setting = prepared.net, {"thresholds": prepared.thresholds, "numerics": numerics}
        self.forms = [Form(len(prepared.images))]

    def run(self, images: Tensor, steps: int, form: Form) -> None:
        """Simulate all images in one call, whatever the form."""
        del form
        simulate_many(self.net, images, [self.setting], [steps], keep_state=False)


def make(label: str, case: Case, prepared: Prepared) -> Contender:
    """Make the contender with this label."""
    ann, thresholds = prepared.ann, prepared.thresholds
    single = [Form(batch, 1, last) for batch, last in product(case.batches, (False, True))]
    if label == ANN:
        return Stepped(ann, lambda _: None, single)
    if label == SINGLE:
        return Stepped(spikingjelly_twin(ann, thresholds, "s"), functional.reset_net, single)
    if label == MULTI:
        sizes = [(b, c) for b, c in product(case.batches, CHUNKS) if c <= case.steps and b * c <= 2 * case.batches[-1]]
        forms = [Form(batch, chunk, last) for (batch, chunk), last in product(sizes, (False, True))]
        return Stepped(spikingjelly_twin(ann, thresholds, "m"), functional.reset_net, forms)
    if label == SNNTORCH:
        from benchmarks.snntorch_twin import reset, snntorch_twin

        return Stepped(snntorch_twin(ann, thresholds), reset, single)
    return Ours(prepared, OURS[label])


def available() -> tuple[list[str], list[str]]:
    """The labels of the contenders that can run here, and a line of text about each that cannot."""
    labels, lines = [ANN, SINGLE, MULTI], []
    if importlib.util.find_spec("snntorch"):
        labels.append(SNNTORCH)
    else:
        lines.append(f"{SNNTORCH} is left out: it is not installed")
    for label, numerics in OURS.items():
        if numerics in get_args(terms.Numerics):
            labels.append(label)
        else:
            lines.append(f"{label} is left out: the engine has no numerics {numerics!r}")
    return labels, lines
