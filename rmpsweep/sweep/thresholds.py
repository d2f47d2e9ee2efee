"""Thresholds from files, threshold rules from outside the package, and presets for published methods."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rmpsweep.environment import find_function, source_digest
from rmpsweep.errors import CalibrationError
from rmpsweep.terms import Setting


@dataclass(frozen=True)
class GivenThresholds:
    """Thresholds that come from a threshold file, or that a rule from outside the package has found."""

    origin: str
    """The name of the file or rule, for messages."""
    scales: bool
    """Whether the values are scales Λ, in units of the ANN's activations, rather than thresholds θ."""
    values: Mapping[str, tuple[float, ...]]
    """layer -> one value, or one per channel. "input" -> Λ_0, which may be missing."""

    def digest(self) -> str:
        """Return the SHA-256 (hex) of the values, which does not depend on the name or layout of the file."""
        text = json.dumps([self.scales, {layer: [v.hex() for v in value] for layer, value in self.values.items()}])
        return hashlib.sha256(text.encode()).hexdigest()


def read_threshold_file(path: Path) -> GivenThresholds:
    """Read {"thresholds": {layer: θ or [θ per channel]}} or {"scales": {layer: Λ or [Λ per channel]}} from JSON.

    Raises:
        CalibrationError: the file cannot be read or has another form, or a value is not finite and greater than 0.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CalibrationError(f"{path}: cannot be read as JSON: {reason}") from error
    kind = next(iter(content)) if isinstance(content, dict) and len(content) == 1 else None
    if kind not in ("thresholds", "scales") or not isinstance(content[kind], dict):
        raise CalibrationError(f'{path}: expected {{"thresholds": {{layer: value}}}} or {{"scales": {{layer: value}}}}')
    values = {}
    for layer, value in content[kind].items():
        numbers = value if isinstance(value, list) else [value]
        if not numbers or not all(_positive(number) for number in numbers):
            raise CalibrationError(f"{path}: {layer}: got {value!r}, expected one number > 0, or one per channel")
        values[layer] = tuple(float(number) for number in numbers)
    return GivenThresholds(str(path), kind == "scales", values)


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnRule:
    """A threshold rule from outside the package, a function `rule(net, images, granularity) -> {layer: θ}`."""

    spec: str
    """The name of the function, "package.module:function"."""
    source: str
    """The SHA-256 (hex) of the source of the function's module."""

    def digest(self) -> str:
        """Return what thresholds depend on besides the name of the rule. An edited rule counts as another rule."""
        return self.source


def find_own_rule(spec: str) -> OwnRule:
    """Find the rule that "package.module:function" names. Raises CalibrationError if it cannot be imported."""
    find_function(spec, "grid.threshold", CalibrationError)
    return OwnRule(spec=spec, source=source_digest(spec))


def find_given(settings: Iterable[Setting]) -> dict[str, GivenThresholds | OwnRule]:
    """Find the threshold files, and the rules from outside the package, that settings name.

    Returns:
        `Setting.given_by` -> the thresholds of the file, or the rule.
    Raises:
        CalibrationError: a file cannot be read, or a rule cannot be imported.
    """
    found: dict[str, GivenThresholds | OwnRule] = {}
    for setting in settings:
        if setting.given_by and setting.given_by not in found:
            file = setting.threshold_file
            found[setting.given_by] = read_threshold_file(file) if file else find_own_rule(setting.given_by)
    return dict(sorted(found.items()))


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


@dataclass(frozen=True)
class Preset:
    """The settings of a published method."""

    description: str
    grid: Mapping[str, Any]
    """Defaults of the grid, which a sweep file may override."""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    """Defaults of the calibration, which a sweep file may override."""
    needs: tuple[str, ...] = ()
    """Settings of the grid without a default, which the sweep file must give."""


_PLAIN = {
    "granularity": "layer",
    "alpha": 1.0,
    "alpha_scope": "layer",
    "reset": "soft",
    "v_init": 0.0,
    "encoding": "constant",
    "input_scale": 1.0,
}

PRESETS: dict[str, Preset] = {
    "purdue-search": Preset(
        "threshold search of nitin-rathi/hybrid-snn-conversion: layer after layer, largest current in 1,000 Poisson "
        "steps of 512 images, the scale 0.7 put on all thresholds at the end",
        {**_PLAIN, "threshold": "vin_max", "alpha": 0.7, "encoding": "poisson"},
        {"images": 512, "time_steps": 1000},
    ),
    "robust-norm": Preset(
        "99.9th percentile of the ANN's activations (Rueckauer et al. 2017)",
        {**_PLAIN, "threshold": "activation_p99.9"},
    ),
    "qcfs": Preset(
        "thresholds learnt in training, given as a file of scales, and v_init 1/2 (Bu et al. 2022)",
        {**_PLAIN, "v_init": 0.5},
        needs=("threshold",),
    ),
    "spikingjelly-max": Preset(
        "mode 'Max' of SpikingJelly 2.0: moving average (momentum 0.1) of the maxima of batches of 64 images",
        {**_PLAIN, "threshold": "activation_max_ema"},
    ),
}
