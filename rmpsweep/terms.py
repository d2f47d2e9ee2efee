"""The field's terms as types, and the settings of a trial. The sweep file and the engine share them.

This module imports no heavy library.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, assert_never, get_args

from annotated_types import Ge, Gt, Lt

Reset = Literal["soft", "hard"]
Encoding = Literal["constant", "poisson"]
MaxPool = Literal["count", "spike", "average"]
AlphaScope = Literal["layer", "network"]
Granularity = Literal["layer", "channel"]
Numerics = Literal["float32", "float64", "fixed16", "fixed8"]

RESETS: tuple[Reset, ...] = get_args(Reset)
"""The resets in the order in which tables and charts show them."""

INPUT = "input"
"""The name under which the network's input appears among its layers."""

ANN = "ann"
"""The trial id of the ANN, the network before conversion. Its results have time step 0."""

SATURATED_RATE = 0.95
"""A neuron that fires at least this many spikes per step counts as saturated: no rate exceeds one per step."""

FIGURES = ("spikes", "synops", "saturated")
"""What is counted for every layer, each summed over neurons: spikes; synaptic operations, which are the additions that
these spikes cause (`engine.activity.fan_out`); and saturated neurons. For the input, "spikes" are its nonzero elements,
"synops" are counted from these in the same way, and "saturated" is 0."""

ENGINE_VERSION = "2"
"""The engine's version, part of every trial's identity. Raise it with any change that alters a count."""

GRID_VERSION = "2"
"""The version of the rules of the integer grid, part of the identity of trials on the grid whose network is of the
user's own. Version 1 miscounted networks of forms that the networks known by name do not have (decision 0017)."""

FILE = "file:"
RuleKind = Literal["vin", "activation", "activation_ema", "file", "own"]
_OWN = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A way to find thresholds. A sweep file names it in one of the rule's forms, such as "vin_p99.7"."""

    kind: RuleKind
    forms: Mapping[str, str]
    """Every form in which a sweep file can write the rule -> what that form does."""
    pattern: str
    """A regular expression for all forms. Its group, where one exists and took part in the match, is a percentage."""
    simulates: bool = False
    """Whether the rule simulates spikes. Its thresholds then depend on encoding, time steps and max pooling."""
    cost: float = 1.0
    """Roughly how many passes over each image the rule takes."""

    def percent(self, name: str) -> Fraction | None:
        """Return the percentage in a name of this rule, or 100 if the name contains none.

        Return None if the name is not one of this rule, or if the percentage is outside (0, 100].
        """
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
"""Every form of a threshold rule in a sweep file -> what that form does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """The settings of one trial: everything but the time step.

    The types state which values are allowed; the sweep file and the engine check values where settings enter. The
    fields are in the order in which a grid lists its trials, the slowest-changing field first, so that trials that can
    share a batch follow one another.
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
        """The file that gives the thresholds; None under any other kind of rule."""
        return Path(self.threshold.removeprefix(FILE)) if self.threshold.startswith(FILE) else None

    @property
    def given_by(self) -> str | None:
        """The file or the function of the user's own that gives the thresholds; None under any other kind of rule."""
        return str(self.threshold_file) if self.threshold_file else self.threshold if is_own(self.threshold) else None

    def identity(self) -> dict[str, Any]:
        """Return the setting's part of a trial's identity, whose digest is the trial's id: values by field name.

        A field that was added after version 1 is left out while it has its default, so that results from before the
        field existed still count.
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
"""The fields of `Setting` in the order of the summary's columns: first those of version 1, then all later ones."""


def is_own(name: str) -> bool:
    """Whether a name has the form of a function from outside the package, "package.module:function"."""
    return not name.startswith(FILE) and re.fullmatch(_OWN, name) is not None


def on_grid(numerics: Numerics) -> bool:
    """Whether every number is an integer on a grid. Otherwise all numbers are floating point."""
    match numerics:
        case "fixed16" | "fixed8":
            return True
        case "float32" | "float64":
            return False
        case _:
            assert_never(numerics)


def check_choice(name: str, value: object, choices: object) -> None:
    """Raise ValueError unless `value` is one of the words of a Literal type."""
    allowed = get_args(choices)
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, allowed))}")


def parse_rule(name: object) -> tuple[Rule, Fraction]:
    """Return the rule that a name belongs to, and the percentage in the name.

    For example, "vin_p99.7" gives the rule "vin" and 997/10, and "vin_max" gives the rule "vin" and 100.

    Raises:
        ValueError: no rule has such a name, or the percentage is outside (0, 100].
    """
    for rule in RULES:
        if (percent := rule.percent(str(name))) is not None:
            return rule, percent
    raise ValueError(f"threshold: got {name!r}, expected one of {', '.join(THRESHOLD_METHODS)}")
