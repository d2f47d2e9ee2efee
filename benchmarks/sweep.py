"""Times a sweep of 16 trials (8 α, both resets) x 5 T on resnet20, against the best SpikingJelly script for it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import torch
from spikingjelly.activation_based import functional
from torch import Tensor

from benchmarks import measure
from benchmarks.contenders import MULTI, OURS, SINGLE, Form
from benchmarks.networks import CASES, prepare
from benchmarks.twins import set_trial, spikingjelly_twin
from rmpsweep.engine import simulate_many
from rmpsweep.terms import Reset

CASE = CASES["resnet20"]
ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
RESETS: tuple[Reset, ...] = ("soft", "hard")
TRIALS = tuple(product(ALPHAS, RESETS))
TIME_STEPS = (16, 32, 64, 128, 256)


def run(labels: Sequence[str], num_images: int, peer: tuple[str, Form]) -> list[dict[str, object]]:
    """Run each contender once.

    Args:
        labels: the contenders that are ours.
        num_images: number of images that each trial evaluates.
        peer: SpikingJelly's best label and form, found on the same network.
    Returns:
        A row for each contender: seconds, image-steps per second, speed divided by SpikingJelly's, and the fraction of
        predictions that are equal to SpikingJelly's.
    """
    prepared = prepare(CASE, num_images)
    images, thresholds = prepared.images, prepared.thresholds
    label, form = peer[0], replace(peer[1], batch=min(peer[1].batch, num_images))
    mode = {SINGLE: "s", MULTI: "m"}[label]
    twin = spikingjelly_twin(prepared.ann, thresholds, mode).to(memory_format=form.memory_format)
    predicted: dict[str, Tensor] = {}

    def theirs() -> None:
        predicted[label] = torch.stack([_one_trial(twin, thresholds, images, trial, form) for trial in TRIALS])

    def ours(name: str, images: Tensor, steps: Sequence[int]) -> None:
        settings = [
            {"thresholds": thresholds, "alpha": alpha, "reset": reset, "numerics": OURS[name]}
            for alpha, reset in TRIALS
        ]
        done = simulate_many(prepared.net, images, settings, steps, keep_state=False)
        predicted[name] = torch.stack([simulation.logits.argmax(-1) for simulation in done])

    for name in labels:
        ours(name, images[:2], [4])  # the first call compiles
    works = {label: theirs} | {name: partial(ours, name, images, TIME_STEPS) for name in labels}
    times = {name: measure.seconds(work) for name, work in works.items()}
    image_steps = len(TRIALS) * TIME_STEPS[-1] * num_images
    return [
        {
            "contender": name,
            "form": str(form) if name == label else "its own plan",
            "seconds": times[name],
            "image_steps_per_s": image_steps / times[name],
            "to_spikingjelly": times[label] / times[name],
            "equal_predictions": float((predicted[name] == predicted[label]).double().mean()),
        }
        for name in works
    ]


@torch.inference_mode()
def _one_trial(
    twin: torch.nn.Module, thresholds: dict[str, Tensor], images: Tensor, trial: tuple[float, Reset], form: Form
) -> Tensor:
    """The predicted classes at every T, [len(TIME_STEPS), N], all read off one run."""
    set_trial(twin, thresholds, *trial)
    parts = []
    for batch in images.split(form.batch):
        functional.reset_net(twin)
        x = batch.contiguous(memory_format=form.memory_format)
        x = x if form.chunk == 1 else x.expand(form.chunk, *x.shape)
        logits, read = torch.zeros(()), []
        for t in range(form.chunk, TIME_STEPS[-1] + 1, form.chunk):
            out = twin(x)
            logits = logits + (out if form.chunk == 1 else out.sum(0))
            if t in TIME_STEPS:
                read.append(logits.argmax(-1))
        parts.append(torch.stack(read))
    return torch.cat(parts, 1)
