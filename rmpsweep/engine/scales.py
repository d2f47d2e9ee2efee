"""Thresholds, activation scales, and what α does to them.

Λ_ℓ is what one spike of layer ℓ is worth in ANN activation. Λ_0 is the input scale, and Λ_ℓ = θ_ℓ Λ_m, where m is the
layer (or the input) in whose unit the current into ℓ is measured.

Per-channel thresholds make Λ_ℓ a vector. Its maximum then serves as the layer's unit, and a spike of channel j weighs
Λ_j / max Λ. Where spikes of several layers are concatenated, those of layer k weigh Λ_k / Λ_m, where m is the layer in
whose unit the concatenation is measured. For a layer that stands for a ReLU with a ceiling, Λ never exceeds the
ceiling: at Λ = ceiling, one spike per step already represents the largest activation.
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
    """The scale of one spiking layer at one α, or of the input, whose threshold and unit are both Λ_0.

    All values are float64.
    """

    threshold: Tensor
    """θ, 0-d or [C]."""
    unit: float
    """Λ; with per-channel thresholds, its maximum over channels."""
    channel_weight: Tensor | None
    """What a spike of each channel weighs, as a fraction of `unit`, [C]; None if the threshold is 0-d."""


def thresholds_from_scales(net: SpikingNetwork, scales: Thresholds) -> dict[str, Tensor]:
    """Return the thresholds that give every layer the wanted activation scale.

    Args:
        scales: layer -> Λ_ℓ in ANN activation (0-d or [C]), lowered to the layer's ceiling if it is above; "input" ->
        Λ_0.
    Returns:
        layer -> θ_ℓ = Λ_ℓ / max Λ_m; "input" -> Λ_0. All are float64.
    Raises:
        ValueError: a layer is missing, or a scale has the wrong shape or is not positive and finite.
    """
    checked = _checked(net, scales, "scales")
    checked |= {layer: checked[layer].clamp(max=net.ceiling(layer)) for layer in net.layers}
    result = {INPUT: checked[INPUT]}
    for layer in net.layers:
        result[layer] = checked[layer] / checked[net.scale_of_current(layer)].max()
    return result


def scaled(net: SpikingNetwork, thresholds: Thresholds, alpha: float, scope: AlphaScope) -> dict[str, LayerScale]:
    """Return the thresholds and units of all layers at α.

    With scope "layer", every θ_ℓ is multiplied by α (as in the paper), so Λ_ℓ is multiplied by α^depth. With scope
    "network", every Λ_ℓ with ℓ >= 1 is multiplied by α, so θ_ℓ changes only where the current comes from the raw input.
    Under both scopes θ_ℓ is then lowered, if need be, so that Λ_ℓ does not exceed the layer's ceiling.

    Raises:
        ValueError: a layer has no threshold; a threshold has the wrong shape; a threshold or α is not positive and
        finite; or the scope is unknown.
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
    """Return what concatenated spikes weigh: for each operand of each "concat" node Λ_k / Λ_m, k being the operand's
    unit and m the node's.

    Settings with equal ratios share weights. Where α cancels out of a ratio, it does so only up to the rounding of
    float64, so the ratios are rounded to RATIO_BITS to make those of different α equal. A ratio is NaN where a unit
    left the range of float64.
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
