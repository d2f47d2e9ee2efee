"""The numbers of a trial: the constants of a converted network, in floating point or on an integer grid.

In `float32` and `float64` every constant is rounded to that type, and nothing else is quantised. Thresholds, factors
and weights are computed in float64 and cast once; a bias is cast and then multiplied by 1 / Λ_m.

In the rules below, m is the spiking layer (or the input) in whose unit a node is measured. Thresholds are in that unit
already; weights and biases are those of the ANN, so that a bias is divided by Λ_m.

`fixed16` and `fixed8` put every sum on an integer grid, so that spikes do not depend on the order of addition. They are
the same on every device and in every batch, chunk, shard and thread. `round` rounds halves to even, whereas `>>` after
adding a half rounds halves up.

- Spikes are 0 or 1, and sums over a pooling window stay undivided: a pooling node holds an integer I where the ANN has
  I / divisor.
- A convolution or linear layer has one grid step per output channel, g_c = max |W_c| / LARGEST_WEIGHT. A channel whose
  weights are all zero, so that it has a bias at most, takes 2^-SILENT_BITS of the layer's largest step. A layer of the
  read-out has one grid step for all its outputs. The weights are w_q = round(W / g_c), where W has first been
  multiplied, in float64, by what the entering spikes weigh (see `scales`). The sums of the layer stand for
  I g_c / divisor.
- A weighted layer that reads weighted sums, with no spiking layer in between, multiplies the steps of its input
  channels into W. Channels that only pad have no step, so their weights become 0. If its sums could reach
  2^NARROW_BITS, what it reads is first shifted right, rounding halves up, by as many bits as it takes.
- θ_q = max(1, round(θ divisor / g_c)); b_q = round(b divisor / (Λ_m g_c)); v(0) = min(round(v_init θ_q), θ_q - 1).
- A spiking layer that reads spikes or pooled spikes has no weights whose grid is finer than its threshold. Its current
  and its θ are multiplied by 2^LIFT_BITS.
- A junction takes the grid of one operand. That operand must be in the junction's unit m; if both are, it is the first
  that holds weighted sums. The other operand enters as (M I + 2^15) >> 16 with M =
  round(2^16 (Λ_k / Λ_m) (g_k / g_m)). If the operand that would keep its grid holds spikes rather than weighted sums,
  the junction's grid is 2^12 times finer than that operand's, and both operands enter with a factor M.
- Constant input is x_q = round(2^12 x / Λ_0). A weighted layer that reads it brings its sums to the grid g_c by
  (I + 2^11) >> 12. Poisson input is -1, 0 or 1, drawn as in float32.
- The read-out, which is the layers after the last spikes, reads the spikes added up over steps, so a junction there
  rounds once.

Overflow: every sum of one step must stay below 2^53, and T times that sum below 2^62. The bound of a
weighted sum is Σ |w_q| times the largest input, plus the largest |b_q|. If a bound is too large, CalibrationError is
raised before the settings that share these weights run. The same holds if rounding is expected to move the current of a
layer by more than MOST_DEVIATION thresholds in one step (`Constants.deviation`). The reference keeps potentials in
int64; kernels that keep them in int32 prove that they fit, or detect that they do not (`kernels.POTENTIAL_LIMIT`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_origin, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor

from rmpsweep.engine.network import Node, SpikingNetwork, average_of_max_pool
from rmpsweep.engine.scales import Thresholds, operand_ratios, scaled
from rmpsweep.errors import CalibrationError
from rmpsweep.terms import Numerics, Setting, check_choice, on_grid

DTYPES: dict[Numerics, torch.dtype] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "fixed16": torch.int64,
    "fixed8": torch.int64,
}
LARGEST_WEIGHT: dict[Numerics, int] = {"fixed16": 32639, "fixed8": 127}
"""The largest |w_q|. That of fixed16 is the largest number that 256 hi + lo can reach when hi and lo are both int8."""
INPUT_BITS, FACTOR_BITS, JUNCTION_BITS, LIFT_BITS, SILENT_BITS = 12, 16, 12, 16, 10
NARROW_BITS = 48
"""A weighted node reads weighted sums shifted right as far as it takes to keep its own sums below this power of two."""
MOST_DEVIATION: dict[Numerics, float] = {"fixed16": 1 / 4, "fixed8": 2.0}
"""The largest `Constants.deviation` that is accepted."""
EXACT_SUM, EXACT_TOTAL = 2.0**53, 2.0**62


WORDS = {name: kind for name, kind in get_type_hints(Setting).items() if get_origin(kind) is Literal}


@dataclass(frozen=True, kw_only=True)
class CalibratedSetting(Setting):
    """What one trial simulates: its setting, and the thresholds that the setting's rule has found."""

    thresholds: Thresholds
    """Layer -> θ (0-d or [C]), and "input" -> Λ_0."""
    numerics: Numerics = "float32"

    def __post_init__(self) -> None:
        for name, choices in WORDS.items():
            check_choice(name, getattr(self, name), choices)
        if not 0 <= self.v_init < 1:
            raise ValueError(f"v_init: got {self.v_init}, expected 0 <= v_init < 1 (a fraction of the threshold)")


@dataclass(frozen=True)
class Constants:
    """The numbers of K settings that share weights, encoding, max_pool and numerics."""

    net: SpikingNetwork
    settings: tuple[CalibratedSetting, ...]
    weights: Mapping[str, Tensor]
    """Weighted node -> its weights in the shape of the ANN's: in `dtype`, or in fixed numerics the integers w_q, which
    are stored as int16 or int8."""
    threshold: Mapping[str, Tensor]
    """Spiking layer -> θ under each setting, [K, 1 or C]."""
    start: Mapping[str, Tensor]
    """Spiking layer -> the initial potential under each setting, [K, 1 or C]."""
    bias: Mapping[str, Tensor]
    """Weighted node -> its bias under each setting, [K, C]. A node without bias has no entry."""
    factor: Mapping[tuple[str, int], Tensor]
    """(junction, operand) -> what the operand is multiplied by, [K, 1 or C]; in fixed numerics this is M. An operand
    that enters as it is has no entry."""
    multiplier: Mapping[str, Tensor | int]
    """Pooling node -> what its window sums are multiplied by so that all share one divisor: [Ho, Wo], or 1 if they
    already do. There are entries in fixed numerics only."""
    rounded: frozenset[str]
    """The weighted nodes that read constant input, whose sums are shifted right by INPUT_BITS (fixed numerics)."""
    narrowed: Mapping[str, int]
    """Weighted node -> by how many bits what it reads is first shifted right. There are entries in fixed numerics only,
    for weighted nodes that read weighted sums too large for them."""
    lifted: frozenset[str]
    """The spiking layers that read spikes or pooled spikes with no weight in between, whose current is multiplied by
    2^LIFT_BITS (fixed numerics)."""
    input_scale: Tensor
    """Λ_0 of each setting, float64 [K]."""
    output_scale: Tensor
    """Float64 [K, 1 or classes]: logits = output_scale x output summed over T steps / T."""
    largest: Mapping[str, float]
    """Node -> upper bound of |value| in one step (fixed numerics)."""
    error: Mapping[str, float]
    """Spiking layer -> upper bound of what rounding changes in its current in one step, given the same spikes and
    images, in thresholds (of the channel with the largest one); output of the network, unless it is a spiking layer ->
    the same, as a fraction of the largest value that it can have (fixed numerics)."""
    deviation: Mapping[str, float]
    """What `error` holds, but the standard deviation instead of the bound, if all inputs spike and all roundings are
    independent."""
    kind: object
    """The `weights_kind` of all settings."""

    @property
    def numerics(self) -> Numerics:
        """The numerics that all settings share."""
        return self.settings[0].numerics

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of potentials and sums in the reference."""
        return DTYPES[self.numerics]

    def check_steps(self, time_steps: int) -> None:
        """Raise CalibrationError if sums over that many steps could overflow int64."""
        for name, largest in self.largest.items():
            if largest * time_steps >= EXACT_TOTAL:
                raise CalibrationError(
                    f"{name}: its sums over {time_steps} steps may reach {largest * time_steps:.3g}, out of the range "
                    f"of {self.numerics}; use numerics: float32 or float64"
                )

    @property
    def is_fixed(self) -> bool:
        """Whether every number is an integer."""
        return on_grid(self.numerics)

    def to(self, device: torch.device) -> "Constants":
        """Return a copy whose tensors are on that device."""

        def moved(values: Mapping[Any, Any]) -> dict[Any, Any]:
            return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in values.items()}

        return replace(
            self,
            weights=moved(self.weights),
            threshold=moved(self.threshold),
            start=moved(self.start),
            bias=moved(self.bias),
            factor=moved(self.factor),
            multiplier=moved(self.multiplier),
            input_scale=self.input_scale.to(device),
            output_scale=self.output_scale.to(device),
        )


def weights_kind(net: SpikingNetwork, setting: CalibratedSetting) -> tuple[object, ...]:
    """Return what settings must have in common to share weights: all that is quantised or folded into the weights.

    Spikes of a layer with per-channel thresholds weigh differently by channel, and concatenated spikes weigh
    differently by layer. Both are folded into the weights that read the spikes.
    """
    scales = scaled(net, setting.thresholds, setting.alpha, setting.alpha_scope)
    weights = (scales[layer].channel_weight for layer in net.layers)
    spikes = tuple(b"" if w is None else w.numpy().tobytes() for w in weights)
    ratios = tuple(operand_ratios(net, scales).items())
    return setting.encoding, setting.max_pool, setting.numerics, spikes, ratios


def quantize_input(images: Tensor, input_scale: Tensor) -> Tensor:
    """Return x_q = round(2^12 x / Λ_0) as int64. images: [N, ...]; input_scale: Λ_0 of each image, [N]."""
    scale = input_scale.double().view(-1, *[1] * (images.dim() - 1))
    return (images.double() * 2.0**INPUT_BITS / scale).round().to(torch.int64)


def common_divisor(net: SpikingNetwork, node: Node) -> tuple[int, Tensor, Tensor]:
    """Describe average pooling as sums over windows.

    Returns:
        The least common multiple D of the windows' divisors; what the sum of each window is multiplied by so that its
        divisor becomes D; and how many inputs each window holds. The last two are int64 [Ho, Wo].
    """
    ones = torch.ones(1, 1, *net.node(node.inputs[0]).shape[1:], dtype=torch.float64)
    if node.op == "max_pool":
        average, count = average_of_max_pool(node, ones), average_of_max_pool(node, ones, divisor=1)
    else:
        average = F.avg_pool2d(ones, **node.options)
        count = F.avg_pool2d(ones, **{**node.options, "divisor_override": 1})
    divisors = (count / average).round().to(torch.int64)[0, 0]
    divisor = math.lcm(*torch.unique(divisors).tolist())
    return divisor, divisor // divisors, count[0, 0].round().to(torch.int64)
