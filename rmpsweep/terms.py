"""The field's words as types, shared by the sweep file and the engine. Imports nothing heavy."""

import re
from fractions import Fraction
from typing import Literal, get_args

Reset = Literal["soft", "hard"]
Encoding = Literal["constant", "poisson"]
MaxPool = Literal["count", "spike", "average"]
AlphaScope = Literal["layer", "network"]
Granularity = Literal["layer", "channel"]
Numerics = Literal["float32", "float64", "fixed16", "fixed8"]

RESETS: tuple[Reset, ...] = get_args(Reset)
"""In the order in which tables and charts show them."""

INPUT = "input"
"""The name that stands for the network's input among its layers."""

ANN = "ann"
"""The trial id of the network before conversion; its time step is 0."""

SATURATED_RATE = 0.95
"""Spikes per step from which a neuron counts as saturated: it cannot say more than one spike per step."""

FIGURES = ("spikes", "synops", "saturated")
"""What is counted of every layer, summed over neurons: spikes, additions these cause (`engine.activity.fan_out`), and
neurons that are saturated. Of the input: nonzero elements, the same, and 0."""

ENGINE_VERSION = "2"
"""Part of every trial's identity; raised by any change of the engine that alters a count."""

THRESHOLD_METHODS = {
    "vin_max": "largest current into the layer, driven by spikes of the layers before (Han et al. 2020)",
    "vin_p<percent>": "a percentile of that current, e.g. vin_p99.7",
    "activation_max": "largest ReLU output of the ANN (Diehl et al. 2015)",
    "activation_p<percent>": "a percentile of the ReLU outputs, e.g. activation_p99.9 (Rueckauer et al. 2017)",
    "activation_max_ema": "moving average of the maxima of batches, as SpikingJelly 2.0's mode 'Max'",
    "file:<path>": "JSON: {thresholds: {layer: θ}}, or {scales: {layer: Λ}} in ANN activations; a list is per channel",
}
FILE = "file:"
_THRESHOLD_METHOD = re.compile(r"(vin|activation)_(max|p(\d{1,3}(?:\.\d+)?))|(activation_max_ema)")


def check_choice(name: str, value: object, choices: object) -> None:
    """Raises ValueError unless `value` is one of the words of a Literal type."""
    allowed = get_args(choices)
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, allowed))}")


def parse_threshold_method(method: str) -> tuple[str, Fraction]:
    """ "vin_p99.7" -> ("vin", 997/10); "…_max" is 100 percent; "activation_max_ema" -> ("activation_ema", 100).

    Raises:
        ValueError: unknown method, or a percentage outside (0, 100].
    """
    match = _THRESHOLD_METHOD.fullmatch(method)
    percent = Fraction(match[3] or 100) if match else Fraction(0)
    if not match or not 0 < percent <= 100:
        raise ValueError(f"threshold: got {method!r}, expected one of {', '.join(THRESHOLD_METHODS)}")
    return match[1] or "activation_ema", percent
