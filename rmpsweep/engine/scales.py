"""Thresholds, activation scales, and what α does to them.

Λ_ℓ is what one spike of layer ℓ is worth in ANN activation: Λ_0 = input scale, Λ_ℓ = θ_ℓ Λ_m, where m is the unit of
the current that enters ℓ. Per-channel thresholds make Λ_ℓ a vector; its maximum takes the scalar's place as the unit
and a spike of channel j weighs Λ_j / max Λ. Where spikes of several layers are concatenated, those of layer k weigh
Λ_k / Λ_m. A layer that stands for a ReLU with a ceiling has no Λ above it: one spike per step is the ceiling then.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from rmpsweep.engine.network import SpikingNetwork
from rmpsweep.terms import INPUT, AlphaScope, check_choice

Thresholds = Mapping[str, Tensor]
RATIO_BITS = 32


@dataclass(frozen=True)
class LayerScale:
    """One spiking layer at one α, float64: threshold 0-d or [C]; unit Λ (maximum over channels); spike weights [C]."""

    threshold: Tensor
    unit: float
    channel_weight: Tensor | None


def thresholds_from_scales(net: SpikingNetwork, scales: Thresholds) -> dict[str, Tensor]:
    """Thresholds that give every layer the wanted activation scale.

    Args:
        scales: layer -> Λ_ℓ in ANN activation units (0-d or [C]), taken for its ceiling if above; "input" -> Λ_0.
    Returns:
        layer -> θ_ℓ = Λ_ℓ / max Λ_m; "input" -> Λ_0. float64.
    Raises:
        ValueError: a layer is missing, or a scale is not positive and finite.
    """
    checked = _checked(net, scales, "scales")
    checked |= {layer: checked[layer].clamp(max=net.ceiling(layer)) for layer in net.layers}
    result = {INPUT: checked[INPUT]}
    for layer in net.layers:
        result[layer] = checked[layer] / checked[net.scale_of_current(layer)].max()
    return result


def scaled(net: SpikingNetwork, thresholds: Thresholds, alpha: float, scope: AlphaScope) -> dict[str, LayerScale]:
    """Thresholds and units of all layers at α.

    scope "layer": every θ_ℓ times α (the paper), so Λ_ℓ falls as α^depth.
    scope "network": every Λ_ℓ, ℓ >= 1, times α, so θ_ℓ changes only where the current comes from the raw input.
    Then θ_ℓ is lowered, if need be, so that Λ_ℓ is not above the layer's ceiling.

    Raises:
        ValueError: a layer without threshold; a threshold or α not positive and finite; unknown scope.
    """
    check_choice("alpha_scope", scope, AlphaScope)
    if not 0 < alpha < float("inf"):
        raise ValueError(f"alpha: got {alpha}, expected a finite number > 0")
    checked = _checked(net, thresholds, "thresholds")
    input_scale = float(checked[INPUT])
    result = {INPUT: LayerScale(checked[INPUT], input_scale, None)}
    for layer in net.layers:
        source = net.scale_of_current(layer)
        match scope:
            case "layer":
                factor = alpha
            case "network":
                factor = alpha if source == INPUT else 1.0
            case _:
                assert_never(scope)
        threshold, unit, ceiling = checked[layer] * factor, result[source].unit, net.ceiling(layer)
        if float(threshold.max()) * unit > ceiling:
            threshold = threshold.clamp(max=ceiling / unit)
        largest = threshold.max()
        weight = threshold / largest if threshold.dim() else None
        result[layer] = LayerScale(threshold, float(largest) * unit, weight)
    return result


def operand_ratios(net: SpikingNetwork, scales: Mapping[str, LayerScale]) -> dict[str, tuple[float, ...]]:
    """What spikes that are concatenated weigh: Λ_k / Λ_m for each operand of each "concat" node, m being its unit.

    Rounded to RATIO_BITS, so that settings with the same ratios share weights although each has its own α: it cancels
    out, but for the rounding of float64. NaN where a unit left the range of float64.
    """
    return {
        node.name: tuple(
            _rounded_ratio(scales[net.node(i).scale_of].unit, scales[node.scale_of].unit) for i in node.inputs
        )
        for node in net.nodes
        if node.op == "concat"
    }


def _rounded_ratio(own: float, into: float) -> float:
    ratio = own / into if into else math.nan
    if not 0 < ratio < math.inf:
        return math.nan
    mantissa, exponent = math.frexp(ratio)
    return math.ldexp(round(mantissa * 2**RATIO_BITS), exponent - RATIO_BITS)


def _checked(net: SpikingNetwork, values: Thresholds, what: str) -> dict[str, Tensor]:
    result = {}
    for name in [INPUT, *net.layers]:
        if name not in values:
            raise ValueError(f"{what}: no entry for {name!r}; expected one for 'input' and each of net.layers")
        value = torch.as_tensor(values[name], dtype=torch.float64, device="cpu")
        channels = () if name == INPUT else (net.node(name).shape[0],)
        if value.shape not in ((), channels):
            raise ValueError(f"{what}[{name!r}]: got shape {tuple(value.shape)}, expected () or {channels}")
        if not bool((torch.isfinite(value) & (value > 0)).all()):
            raise ValueError(f"{what}[{name!r}]: got {value.tolist()}, expected finite numbers > 0")
        result[name] = value
    return result
