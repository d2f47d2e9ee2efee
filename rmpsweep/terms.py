"""The field's words as types and the settings of a trial, shared by the sweep file and the engine.

Nothing heavy is imported here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Lt

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

FILE = "file:"
RuleKind = Literal["vin", "activation", "activation_ema", "file", "own"]
_OWN = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A way to find thresholds, of which a name in a sweep file is an instance."""

    kind: RuleKind
    forms: Mapping[str, str]
    """How the rule is written -> what it does."""
    pattern: str
    """A regular expression for all forms; its group, where there is one and it took part, is a percentage."""
    simulates: bool = False
    """Whether spikes drive it: then its thresholds depend on encoding, time steps and max pooling."""
    cost: float = 1.0
    """Roughly how many passes over an image it takes."""

    def percent(self, name: str) -> Fraction | None:
        """The percentage in a name of this rule, 100 where it has none; None for another rule's name."""
        found = re.fullmatch(self.pattern, name)
        percent = Fraction((found.groups() and found[1]) or 100) if found else Fraction(0)
        return percent if 0 < percent <= 100 else None


_PERCENT = r"p(\d{1,3}(?:\.\d+)?)"
RULES = (
    Rule(
        kind="vin",
        forms={
            "vin_max": "largest current into the layer, driven by spikes of the layers before (Han et al. 2020)",
            "vin_p<percent>": "a percentile of that current, e.g. vin_p99.7",
        },
        pattern=f"vin_(?:max|{_PERCENT})",
        simulates=True,
        cost=100.0,
    ),
    Rule(
        kind="activation",
        forms={
            "activation_max": "largest ReLU output of the ANN (Diehl et al. 2015)",
            "activation_p<percent>": "a percentile of the ReLU outputs, e.g. activation_p99.9 (Rueckauer et al. 2017)",
        },
        pattern=f"activation_(?:max|{_PERCENT})",
    ),
    Rule(
        kind="activation_ema",
        forms={"activation_max_ema": "moving average of the maxima of batches, as SpikingJelly 2.0's mode 'Max'"},
        pattern="activation_max_ema",
    ),
    Rule(
        kind="file",
        forms={
            "file:<path>": (
                "JSON: {thresholds: {layer: θ}}, or {scales: {layer: Λ}} in ANN activations; a list is per channel"
            )
        },
        pattern=f"{FILE}(?:.*)",
    ),
    Rule(
        kind="own",
        forms={"<package.module>:<function>": "a function of your own, as docs/extending.md describes it"},
        pattern=_OWN,
        cost=100.0,
    ),
)
THRESHOLD_METHODS = {form: what for rule in RULES for form, what in rule.forms.items()}
"""How a threshold rule is written in a sweep file -> what it does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """The settings of one trial, which are everything but the time step.

    Types say what is allowed; the sweep file and the engine check it where settings enter. The order of the fields is
    the order of trials in a grid, slowest first: trials that can share a batch come one after another.
    """

    encoding: Encoding = "constant"
    max_pool: MaxPool = "count"
    numerics: Numerics = "fixed16"
    reset: Reset = "soft"
    threshold: str = "vin_max"
    """The rule that finds the thresholds; see THRESHOLD_METHODS."""
    granularity: Granularity = "layer"
    input_scale: Annotated[float, Gt(0)] | Literal["auto"] = 1.0
    alpha_scope: AlphaScope = "layer"
    v_init: Annotated[float, Ge(0), Lt(1)] = 0.0
    """The initial potential, as a fraction of the threshold."""
    alpha: Annotated[float, Gt(0)] = 1.0
    seed: Annotated[int, Ge(0), Lt(2**31)] = 0

    __pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}  # noqa: RUF012 (read by pydantic)

    def __post_init__(self) -> None:
        parse_rule(self.threshold)

    @property
    def rule(self) -> Rule:
        """The rule that `threshold` names."""
        return parse_rule(self.threshold)[0]

    @property
    def threshold_file(self) -> Path | None:
        """Where the thresholds are given; None where they are found by calibration."""
        return Path(self.threshold.removeprefix(FILE)) if self.threshold.startswith(FILE) else None

    @property
    def given_by(self) -> str | None:
        """The file, or the function from outside the package, that gives the thresholds; None where neither does."""
        return str(self.threshold_file) if self.threshold_file else self.threshold if is_own(self.threshold) else None

    def identity(self) -> dict[str, Any]:
        """The values that a trial's id is a digest of, by field.

        A field that was added since version 1 is left out while it has its default, so results from before still count.
        """
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: value for name, (value, default) in values.items() if name in _VERSION_1 or value != default}


_VERSION_1 = (
    "threshold",
    "granularity",
    "alpha",
    "alpha_scope",
    "reset",
    "encoding",
    "input_scale",
    "v_init",
    "max_pool",
    "seed",
    "numerics",
)
SETTINGS = (*_VERSION_1, *(field.name for field in fields(Setting) if field.name not in _VERSION_1))
"""The fields of `Setting` in the order of the summary's columns; those added since version 1 come last."""


def is_own(name: str) -> bool:
    """Whether a name has the form of a function from outside the package, "package.module:function"."""
    return not name.startswith(FILE) and re.fullmatch(_OWN, name) is not None


def check_choice(name: str, value: object, choices: object) -> None:
    """Raises ValueError unless `value` is one of the words of a Literal type."""
    allowed = get_args(choices)
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, allowed))}")


def parse_rule(name: object) -> tuple[Rule, Fraction]:
    """The rule of a name, and its percentage: "vin_p99.7" -> (vin, 997/10), "vin_max" -> (vin, 100).

    Raises:
        ValueError: there is no such rule, or the percentage is outside (0, 100].
    """
    for rule in RULES:
        if (percent := rule.percent(str(name))) is not None:
            return rule, percent
    raise ValueError(f"threshold: got {name!r}, expected one of {', '.join(THRESHOLD_METHODS)}")
