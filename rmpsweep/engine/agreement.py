"""Compares the rates of the spiking layers with the ANN's activations, layer by layer.

The law. Consider constant input and soft reset. A neuron whose activation is a, and whose spikes are worth Λ, should
have spiked T·a/Λ times after T steps; it can, as long as a ≤ Λ, since it spikes at most once in a step. Charge is
conserved and the potential that remains is bounded. Once the neuron fires regularly, the error of its spike count
therefore stays bounded, and the error of its rate falls as 1/T (law 3 in tests/engine). In contrast, the count of a
neuron that spikes at random times would be off by about √T, and the count of a neuron whose rate is wrong would be off
by an amount proportional to T.

The rule. A layer agrees with the ANN if the mean error of its neurons' spike counts grows by a factor of at most
2^(1/4) from T/2 to T. The error of its rate then falls at least as T^(-3/4), whose exponent is halfway between those of
1/T and 1/√T. A larger factor is accepted if the excess, averaged over all pairs of image and neuron that take part, is
at most three standard errors above 0.

The start-up lag. A neuron that waits L steps for the layers before it misses L·a/Λ spikes. A neuron has "begun" once it
has at least half of its expected spikes; the rule leaves out the others. A layer is "starting", which means that more
time steps are needed for a verdict, in three cases:

- Most of the layer's expected spikes belong to neurons that have not begun. A layer whose rates stay below half of what
  they should be is therefore called "starting" at every T.
- The layer does not meet the rule yet, but the error of its rates still falls at least as T^(-1/4), and
  error(T) / error(T/2) is below 0.95 times error(T/2) / error(T/4). While a lag ends, the error falls faster and
  faster; while it approaches a bias that stays, it falls more and more slowly.
- The layer is silent, and a layer before it is starting.

`Verdict` lists the other verdicts. "silent" and "saturated" are decided before the rule.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, assert_never

import torch
from torch import Tensor

from rmpsweep.engine.network import SpikingNetwork, activations, per_channel
from rmpsweep.engine.reference import State
from rmpsweep.engine.scales import scaled
from rmpsweep.engine.simulate import simulate
from rmpsweep.terms import AlphaScope, MaxPool, Numerics, Reset

Verdict = Literal["ok", "starting", "silent", "saturated", "parts here", "follows"]
"""The verdict on a layer.

- "ok": the layer meets the rule.
- "starting": more time steps are needed.
- "silent": the layer has not spiked, although the ANN's activations are not all 0.
- "saturated": the error comes for the greater part from activations above Λ, and falls too slowly.
- "parts here": the layer does not meet the rule.
- "follows": the layer does not meet the rule either, but a layer before it already disagrees.
"""
DISAGREE: tuple[Verdict, ...] = ("silent", "saturated", "parts here")
LARGEST_GROWTH = 2 ** (1 / 4)
"""The factor by which errors of spike counts may grow from T/2 to T."""
FALLING = 2 ** (-1 / 4)
FASTER = 0.95
ROUNDING = 1e-9
"""An activation exceeds Λ only if it does so by more than this fraction."""
STANDARD_ERRORS = 3.0
FRACTIONS = (4, 2, 1)
"""Rates are compared at T/4, T/2 and T."""
NEURONS = 2**23
"""As many images are simulated together as have at most this many neurons in total."""


@dataclass(frozen=True)
class LayerAgreement:
    """How well one spiking layer agrees with the ANN's layer."""

    layer: str
    scale: float
    """Λ, the largest over channels."""
    errors: tuple[float, ...]
    """At T/4, T/2 and T: mean |Λ x spikes / T - activation|, divided by the mean activation."""
    growth: float
    """Mean spike-count error at T divided by that at T/2, over the neurons that have begun."""
    begun: float
    """The share of the layer's expected spikes that belong to neurons that have begun."""
    clipped: float
    """The error that no number of steps removes: mean excess of activations over Λ, divided by the mean activation."""
    verdict: Verdict


@dataclass(frozen=True)
class Agreement:
    """How well a spiking network agrees with its ANN."""

    time_steps: tuple[int, ...]
    """T/4, T/2 and T."""
    images: int
    """The number of images."""
    layers: tuple[LayerAgreement, ...]
    """Every spiking layer, in forward order."""
    output_errors: tuple[float, ...]
    """The errors of the logits at each of `time_steps`, divided by the mean size of the ANN's logits."""
    causes: tuple[str, ...] = ()
    """Likely causes of the first disagreement, the likeliest first."""
    rule: ClassVar[str] = (
        "growth: mean spike-count error at T divided by that at T/2, over neurons that have at least half of their "
        "expected spikes; 1 if the error of their rate falls as 1/T, 2 if it stays the same; a layer is ok up to "
        f"{LARGEST_GROWTH:.2f} (2^(1/4)), or if {STANDARD_ERRORS:.0f} standard errors explain the excess"
    )

    @property
    def parting(self) -> LayerAgreement | None:
        """The first layer that disagrees with the ANN's layer; None if no layer is known to disagree."""
        return next((layer for layer in self.layers if layer.verdict in DISAGREE), None)


@torch.no_grad()
def compare_layers(
    net: SpikingNetwork,
    images: Tensor,
    thresholds: Mapping[str, Tensor],
    time_steps: int,
    *,
    alpha: float = 1.0,
    alpha_scope: AlphaScope = "layer",
    reset: Reset = "soft",
    max_pool: MaxPool = "count",
    numerics: Numerics = "float64",
) -> Agreement:
    """Simulate under constant input, and compare every layer with the ANN's on the same images.

    Args:
        images: [N, C, H, W], as the ANN receives them.
        thresholds: layer -> θ, "input" -> Λ_0, as `engine.calibrate` returns them.
        time_steps: T, a multiple of 4.
    Raises:
        ValueError: T is not a multiple of 4, or `engine.simulate` refuses an argument.
        CalibrationError: the numerics cannot hold the network, as from `engine.simulate`.
    """
    if time_steps < 4 or time_steps % 4:
        raise ValueError(f"time_steps: got {time_steps}, expected a multiple of 4")
    steps = tuple(time_steps // fraction for fraction in FRACTIONS)
    setting: dict[str, Any] = {
        "alpha": alpha,
        "alpha_scope": alpha_scope,
        "reset": reset,
        "max_pool": max_pool,
        "numerics": numerics,
    }
    scales = scaled(net, thresholds, alpha, alpha_scope)
    worth = {}
    for layer in net.layers:
        weight = scales[layer].channel_weight
        channels = torch.ones(1, dtype=torch.float64) if weight is None else weight
        worth[layer] = per_channel(scales[layer].unit * channels, len(net.node(layer).shape) + 1)
    sums = {layer: LayerSums() for layer in net.layers}
    output = [0.0] * (len(steps) + 1)
    wide = net.to(dtype=torch.float64)
    neurons = sum(math.prod(net.node(layer).shape) for layer in net.layers)
    for part in images.split(max(1, NEURONS // neurons)):
        ann = activations(wide, part.to(net.device, torch.float64), [*net.layers, net.output])
        ann = {name: value.cpu() for name, value in ann.items()}
        counts: list[dict[str, Tensor]] = []
        state: State | None = None
        for k, t in enumerate(steps):
            sim = simulate(net, part, thresholds, [t], state=state, start=0 if state is None else state.t, **setting)
            state = sim.state
            assert state is not None
            counts.append({layer: state.counts[layer].double().cpu() for layer in net.layers})
            output[k] += float((sim.logits[0].double() - ann[net.output]).abs().sum())
        output[-1] += float(ann[net.output].abs().sum())
        for layer in net.layers:
            sums[layer].add(ann[layer], [count[layer] for count in counts], worth[layer], steps)
    layers = tuple(sums[layer].agreement(layer, scales[layer].unit) for layer in net.layers)
    found = Agreement(
        steps, len(images), _first_parts(layers), tuple(each / (output[-1] or 1.0) for each in output[:-1])
    )
    return replace(found, causes=_causes(net, found, setting))


@dataclass
class LayerSums:
    """What the verdict on one layer needs, summed over neurons and images."""

    activation: float = 0.0
    """The ANN's activations."""
    spikes: float = 0.0
    """The spikes at T."""
    clipped: float = 0.0
    """The excess of activations over Λ."""
    errors: list[float] = field(default_factory=lambda: [0.0] * len(FRACTIONS))
    """At T/4, T/2 and T: |Λ x spikes / T - activation|."""
    expected: float = 0.0
    """The expected spikes at T."""
    expected_begun: float = 0.0
    """The expected spikes at T of neurons that have begun."""
    off_half: float = 0.0
    """The spike-count errors at T/2 of neurons that have begun."""
    off: float = 0.0
    """The same at T."""
    growing: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Over neurons that have begun: their number, and the sum and the sum of squares of by how much their error at T
    exceeds LARGEST_GROWTH x their error at T/2."""

    def add(self, ann: Tensor, counts: Sequence[Tensor], worth: Tensor, steps: Sequence[int]) -> None:
        """Add some images. ann, and counts at each of the steps: [N, ...]; worth: Λ of each channel."""
        self.activation += float(ann.sum())
        self.spikes += float(counts[-1].sum())
        self.clipped += float((ann - worth * (1 + ROUNDING)).relu().sum())
        for k, (count, t) in enumerate(zip(counts, steps, strict=True)):
            self.errors[k] += float((count * worth / t - ann).abs().sum())
        rate = ann / worth
        expected = rate * steps[-1]
        begun = counts[-1] >= expected / 2
        half, off = ((count - rate * t).abs()[begun] for count, t in zip(counts[-2:], steps[-2:], strict=True))
        excess = off - LARGEST_GROWTH * half
        self.expected += float(expected.sum())
        self.expected_begun += float(expected[begun].sum())
        self.off_half += float(half.sum())
        self.off += float(off.sum())
        terms = (float(len(excess)), float(excess.sum()), float(excess.square().sum()))
        self.growing = [total + term for total, term in zip(self.growing, terms, strict=True)]

    def agreement(self, layer: str, scale: float) -> LayerAgreement:
        """Return the figures and the verdict.

        If the layer's activations are all 0, its errors are sums and not relative.
        """
        activation = self.activation or 1.0
        errors = tuple(error / activation for error in self.errors)
        growth = self.off / self.off_half if self.off_half else (math.inf if self.off else 0.0)
        begun = self.expected_begun / self.expected if self.expected else 1.0
        clipped = self.clipped / activation
        verdict: Verdict = "ok"
        if self.spikes == 0 and self.activation:
            verdict = "silent"
        elif 2 * clipped > errors[-1] and errors[-1] > LARGEST_GROWTH / 2 * errors[-2]:
            verdict = "saturated"
        elif begun < 1 / 2:
            verdict = "starting"
        elif self._grows():
            first, second, last = self.errors
            falls_ever_faster = last < FALLING * second and last / second < FASTER * second / first
            verdict = "starting" if falls_ever_faster else "parts here"
        return LayerAgreement(layer, scale, errors, growth, begun, clipped, verdict)

    def _grows(self) -> bool:
        n, total, squares = self.growing
        mean = total / n
        return mean > STANDARD_ERRORS * math.sqrt(max(0.0, squares / n - mean**2) / n)


def _first_parts(layers: Sequence[LayerAgreement]) -> tuple[LayerAgreement, ...]:
    """Mark the layers whose own verdict cannot be told because of a layer before them.

    After a layer that disagrees, another layer that does not meet the rule "follows". After a layer that is starting, a
    silent layer may be starting too.
    """
    marked: list[LayerAgreement] = []
    for layer in layers:
        before = {each.verdict for each in marked}
        if layer.verdict == "parts here" and before & set(DISAGREE):
            layer = replace(layer, verdict="follows")
        if layer.verdict == "silent" and "starting" in before:
            layer = replace(layer, verdict="starting")
        marked.append(layer)
    return tuple(marked)


def biased_pools(net: SpikingNetwork, max_pool: MaxPool) -> list[str]:
    """Return the max-pool nodes that `max_pool` does not compute as the ANN does."""
    return [] if max_pool == "count" else [node.name for node in net.nodes if node.op == "max_pool"]


def biased_reset(reset: Reset) -> str | None:
    """Return what a reset does that keeps rates from converging to the ANN's activations as T grows; None if they
    converge."""
    match reset:
        case "soft":
            return None
        case "hard":
            return "forgets what is left of the potential at every spike"
        case _:
            assert_never(reset)


def _causes(net: SpikingNetwork, found: Agreement, setting: Mapping[str, Any]) -> tuple[str, ...]:
    """Return likely causes of the first disagreement, the likeliest first."""
    first = found.parting
    if first is None:
        return ()
    steps = found.time_steps[-1]
    causes = []
    upto = found.layers[: found.layers.index(first) + 1]
    stays = max(0.0, 2 * first.errors[-1] - first.errors[-2])  # the part of its error that is not c / T
    if sum(layer.clipped for layer in upto) > stays / 4:
        most = sorted((layer for layer in upto if layer.clipped), key=lambda layer: -layer.clipped)[:3]
        shares = ", ".join(f"{layer.clipped:.2%} ({layer.layer})" for layer in most)
        causes.append(
            f"activations exceed the largest rate, one spike (worth Λ) per step, by {shares}: thresholds, or α, are "
            "too low; calibrate with activation_max or a higher percentile"
        )
    above = set(_between(net, first.layer))
    pools = [pool for pool in biased_pools(net, setting["max_pool"]) if pool in above]
    if pools:
        causes.append(
            f"max_pool: {setting['max_pool']} at {', '.join(map(repr, pools))} does not pass the largest rate on; use "
            "max_pool: count"
        )
    if why := biased_reset(setting["reset"]):
        causes.append(f"reset: {setting['reset']} {why}; use reset: soft")
    if setting["numerics"] != "float64":
        causes.append(f"numerics: {setting['numerics']} rounds weights and thresholds; compare with float64")
    if first.verdict == "silent":
        causes.append(f"no spike in {steps} steps: its threshold is too high, or --time-steps {4 * steps} is needed")
    if not causes:
        causes.append(
            f"the layer settles more slowly than the rule expects: see whether --time-steps {4 * steps} confirms this"
        )
    return tuple(causes)


def _between(net: SpikingNetwork, layer: str) -> list[str]:
    """Return the nodes between a spiking layer and the spiking layers before it."""
    wanted, between = set(net.node(layer).inputs), []
    for node in reversed(net.nodes):
        if node.name in wanted and node.op not in ("spike", "input"):
            between.append(node.name)
            wanted.update(node.inputs)
    return between
