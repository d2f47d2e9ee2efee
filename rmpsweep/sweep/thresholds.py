"""Thresholds from a file, rules from outside the package, and named methods as settings of a grid."""

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
    """Thresholds that a threshold file gives, or a rule from outside the package has found."""

    origin: str
    """The file or the rule, for messages."""
    scales: bool
    """Whether the values are Λ in ANN activation units, not θ."""
    values: Mapping[str, tuple[float, ...]]
    """layer -> one value, or one per channel; "input" may be among the layers."""

    def digest(self) -> str:
        """SHA-256 (hex) of the values, whatever the file is called and however it is laid out."""
        text = json.dumps([self.scales, {layer: [v.hex() for v in value] for layer, value in self.values.items()}])
        return hashlib.sha256(text.encode()).hexdigest()


def read_threshold_file(path: Path) -> GivenThresholds:
    """Read {"thresholds": {layer: θ or [θ per channel]}} or {"scales": {layer: Λ or [Λ per channel]}} from JSON.

    Raises:
        CalibrationError: unreadable, of another form, or a value that is not finite and greater than 0.
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
    """A threshold rule from outside the package: `rule(net, images, granularity) -> {layer: θ}`."""

    spec: str
    """Its name, "package.module:function"."""
    source: str
    """SHA-256 (hex) of the source of its module."""

    def digest(self) -> str:
        """What thresholds depend on besides the rule's name: an edited rule is another one."""
        return self.source


def find_own_rule(spec: str) -> OwnRule:
    """The rule that "package.module:function" names. Raises CalibrationError: it cannot be imported."""
    find_function(spec, "grid.threshold", CalibrationError)
    return OwnRule(spec=spec, source=source_digest(spec))


def find_given(settings: Iterable[Setting]) -> dict[str, GivenThresholds | OwnRule]:
    """What gives the thresholds of settings that name a file or a rule of their own, by `Setting.given_by`.

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
    """A published method as settings. grid, calibration: defaults, which a sweep file may override.

    needs: settings without a default, which the sweep file must give.
    """

    description: str
    grid: Mapping[str, Any]
    calibration: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


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
