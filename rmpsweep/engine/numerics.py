"""What a trial's numbers are: the constants of a converted network in floating point or on an integer grid.

`float32` and `float64` take the constants as they are, each cast once from float64.

`fixed16` and `fixed8` put every sum on an integer grid, so that spikes are the same in any order of addition: on every
device and in every batch, chunk, shard and thread. The rule, all roundings half to even unless said otherwise:

- Spikes are 0 or 1, sums of a pooling window stay undivided: such a node holds integers I and stands for I / divisor.
- A convolution or linear layer has one grid step per output channel, g_c = max |W_c| / LARGEST_WEIGHT (1 where the
  channel is all zero), the output layer one for all classes; w_q = round(W / g_c). Weights of the spikes that enter,
  by channel or by what was concatenated (see `scales`), are multiplied onto W before, in float64. Its sums stand for
  I g_c / divisor.
- θ_q = max(1, round(θ divisor / g_c)); b_q = round(b divisor / (Λ_m g_c)); v(0) = min(round(v_init θ_q), θ_q - 1).
- At a junction the operand in the node's own unit m keeps its grid (two of them: the first that holds weighted sums),
  the other enters as (M I + 2^15) >> 16 with M = round(2^16 (Λ_k / Λ_m) (g_k / g_m)). Where the operand that keeps its
  grid holds spikes, not weighted sums, the junction's grid is 2^12 times finer than it.
- Constant input: x_q = round(2^12 x / Λ_0); sums of the first weighted layer are brought to its own grid g_c by
  (I + 2^11) >> 12. Poisson input: -1, 0 or 1, drawn as in float32.
- Read-out: the layers after the last spikes see the spikes added up over steps, so a junction there rounds once.

Overflow: every sum of a step must stay below 2^53 and T times it below 2^62, from Σ |w_q| times the largest input;
otherwise CalibrationError, before anything runs. Potentials are int64 here; kernels that keep them in int32 prove or
detect that they fit (`kernels.POTENTIAL_LIMIT`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, assert_never, get_origin, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor

from rmpsweep.engine.network import Node, SpikingNetwork, average_of_max_pool
from rmpsweep.engine.scales import Thresholds, operand_ratios, scaled
from rmpsweep.errors import CalibrationError
from rmpsweep.terms import Numerics, Setting, check_choice

DTYPES: dict[Numerics, torch.dtype] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "fixed16": torch.int64,
    "fixed8": torch.int64,
}
LARGEST_WEIGHT: dict[Numerics, int] = {"fixed16": 32639, "fixed8": 127}
"""|w_q| of fixed16 is what 256 hi + lo reaches with both planes int8."""
INPUT_BITS, FACTOR_BITS, JUNCTION_BITS = 12, 16, 12
EXACT_SUM, EXACT_TOTAL = 2.0**53, 2.0**62


WORDS = {name: kind for name, kind in get_type_hints(Setting).items() if get_origin(kind) is Literal}


def on_grid(numerics: Numerics) -> bool:
    """Whether every number is an integer on a grid; else all are floating point."""
    match numerics:
        case "fixed16" | "fixed8":
            return True
        case "float32" | "float64":
            return False
        case _:
            assert_never(numerics)


@dataclass(frozen=True, kw_only=True)
class CalibratedSetting(Setting):
    """What one trial simulates: its setting, and the thresholds that the setting's rule has found."""

    thresholds: Thresholds
    """layer -> θ (0-d or [C]); "input" -> Λ_0."""
    numerics: Numerics = "float32"

    def __post_init__(self) -> None:
        for name, choices in WORDS.items():
            check_choice(name, getattr(self, name), choices)
        if not 0 <= self.v_init < 1:
            raise ValueError(f"v_init: got {self.v_init}, expected 0 <= v_init < 1 (a fraction of the threshold)")


@dataclass(frozen=True)
class Constants:
    """The numbers of K settings that share weights, encoding, max_pool and numerics.

    weights: node -> as the ANN's, in `dtype`; integers w_q in fixed numerics. threshold, start: layer -> [K, 1 or C];
    bias: weighted node -> [K, C]; factor: (junction, operand) -> [K, 1 or C], M in fixed numerics, absent where the
    operand enters as it is; multiplier: pooling node -> [1, *shape] or a number, what its window sums are multiplied
    with to share one divisor (fixed numerics); rounded: weighted nodes on constant input, whose sums lose INPUT_BITS.
    input_scale: [K]; output_scale: [K, 1 or classes], float64: logits = output_scale x output summed over T / T.
    largest: node -> bound of |value| in one step (fixed numerics); kind: their `weights_kind`.
    """

    net: SpikingNetwork
    settings: tuple[CalibratedSetting, ...]
    weights: Mapping[str, Tensor]
    threshold: Mapping[str, Tensor]
    start: Mapping[str, Tensor]
    bias: Mapping[str, Tensor]
    factor: Mapping[tuple[str, int], Tensor]
    multiplier: Mapping[str, Tensor | int]
    rounded: frozenset[str]
    input_scale: Tensor
    output_scale: Tensor
    largest: Mapping[str, float]
    kind: object

    @property
    def numerics(self) -> Numerics:
        """Of all settings."""
        return self.settings[0].numerics

    @property
    def dtype(self) -> torch.dtype:
        """Of potentials and sums in the reference."""
        return DTYPES[self.numerics]

    def check_steps(self, time_steps: int) -> None:
        """Raises CalibrationError if sums over that many steps could overflow int64."""
        for name, largest in self.largest.items():
            if largest * time_steps >= EXACT_TOTAL:
                raise CalibrationError(
                    f"{name}: its sums over {time_steps} steps may reach {largest * time_steps:.3g}, out of the range "
                    f"of {self.numerics}; use numerics: float32 or float64"
                )

    @property
    def is_fixed(self) -> bool:
        """Whether everything is an integer."""
        return on_grid(self.numerics)

    def to(self, device: torch.device) -> "Constants":
        """A copy on that device."""

        def moved(values: Mapping[Any, Any]) -> dict[Any, Any]:
            return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in values.items()}

        return Constants(
            self.net,
            self.settings,
            moved(self.weights),
            moved(self.threshold),
            moved(self.start),
            moved(self.bias),
            moved(self.factor),
            moved(self.multiplier),
            self.rounded,
            self.input_scale.to(device),
            self.output_scale.to(device),
            self.largest,
            self.kind,
        )


def weights_kind(net: SpikingNetwork, setting: CalibratedSetting) -> tuple[object, ...]:
    """What settings must have in common to share weights: all that is quantised or folded into these.

    Spikes of layers with per-channel thresholds weigh differently by channel, spikes of layers that are concatenated by
    layer, which is part of the weights.
    """
    scales = scaled(net, setting.thresholds, setting.alpha, setting.alpha_scope)
    weights = (scales[layer].channel_weight for layer in net.layers)
    spikes = tuple(b"" if w is None else w.numpy().tobytes() for w in weights)
    ratios = tuple(operand_ratios(net, scales).items())
    return setting.encoding, setting.max_pool, setting.numerics, spikes, ratios


def quantize_input(images: Tensor, input_scale: Tensor) -> Tensor:
    """x_q = round(2^12 x / Λ_0) as int64. images [N, ...]; input_scale [N]."""
    scale = input_scale.double().view(-1, *[1] * (images.dim() - 1))
    return (images.double() * 2.0**INPUT_BITS / scale).round().to(torch.int64)


def common_divisor(net: SpikingNetwork, node: Node) -> tuple[int, Tensor, Tensor]:
    """Average pooling as sums: the least common multiple D of the windows' divisors, by what each sum is multiplied
    so that it is short of D, and how many inputs each window holds; both [Ho, Wo]."""
    ones = torch.ones(1, 1, *net.node(node.inputs[0]).shape[1:], dtype=torch.float64)
    if node.op == "max_pool":
        average, count = average_of_max_pool(node, ones), average_of_max_pool(node, ones, divisor=1)
    else:
        average = F.avg_pool2d(ones, **node.options)
        count = F.avg_pool2d(ones, **{**node.options, "divisor_override": 1})
    divisors = (count / average).round().to(torch.int64)[0, 0]
    divisor = math.lcm(*torch.unique(divisors).tolist())
    return divisor, divisor // divisors, count[0, 0].round().to(torch.int64)
