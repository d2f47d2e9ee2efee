"""The claim "response": the output rate of a neuron follows a line with soft reset, and a staircase with hard reset.

Every point is simulated and compared with a closed form.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, floor
from typing import assert_never

from rmpsweep.claims.charts import response_chart
from rmpsweep.claims.claim import Claim, Row, ShownTable
from rmpsweep.terms import RESETS, Reset

STATEMENT = (
    "RMP-SNN (arXiv:2003.01811): with soft reset f_out is proportional to f_in over a wide range of V_in/V_th. "
    "Operating range (a reconstruction of Eq. 6 and 7, not the paper's typography): V_th <= V_in < V_th/f_in, that is "
    "f_in V_in < V_th <= V_in."
)
TIME_STEPS = 200
F_IN = Fraction(1, 2)
"""The input rate of the points that are drawn over V_in/V_th."""
RATIOS = tuple(Fraction(k, 32) for k in range(1, 81))
"""V_in/V_th of these points."""

CHOSEN_RATIOS = (Fraction(3, 8), Fraction(3, 4), Fraction(3, 2))
"""V_in/V_th of the points that are drawn over f_in."""
INPUT_RATES = tuple(Fraction(j, 20) for j in range(21))
"""f_in of these points."""
TABLE_RATIOS = tuple(Fraction(k, 8) for k in (2, 3, 4, 6, 8, 12, 15, 16, 20))
"""V_in/V_th of the rows of the table, some of RATIOS."""


def closed_form_spikes(ratio: Fraction, f_in: Fraction, time_steps: int, reset: Reset) -> int:
    """The number of output spikes for a regular input spike train that begins at the first step.

    soft: min(T, floor(T f_in V_in/V_th))        hard: floor(T f_in / ceil(V_th/V_in))

    The form for soft reset: let A(t) be the input up to step t, in units of the threshold. The count is the minimum
    over s <= T of floor(A(s)) + T - s. As the train begins at once, A(s) >= s f_in V_in/V_th, so the minimum is at
    s = 0 or s = T.

    Args:
        ratio: V_in/V_th, greater than 0.
        f_in: input spikes per step, in [0, 1]; time_steps x f_in must be whole.
    """
    input_spikes = time_steps * f_in
    assert input_spikes.denominator == 1, "time_steps x f_in must be whole"
    match reset:
        case "soft":
            return min(time_steps, floor(input_spikes * ratio))
        case "hard":
            return floor(input_spikes / ceil(1 / ratio))
        case _:
            assert_never(reset)


def closed_form_rate(ratio: Fraction, f_in: Fraction, reset: Reset) -> Fraction:
    """The limit of the output rate, in spikes per step, as T grows.

    It is min(1, (V_in/V_th) f_in) for soft reset and f_in / ceil(V_th/V_in) for hard reset.
    """
    match reset:
        case "soft":
            return min(Fraction(1), ratio * f_in)
        case "hard":
            return f_in / ceil(1 / ratio)
        case _:
            assert_never(reset)


def _corners(reset: Reset) -> list[Fraction]:
    """The V_in/V_th at which the curve of `closed_form_rate` for f_in = F_IN begins, bends or jumps, and ends."""
    match reset:
        case "soft":
            return [Fraction(0), 1 / F_IN, RATIOS[-1]]
        case "hard":
            return [*(Fraction(1, n) for n in range(int(1 / RATIOS[0]), 0, -1)), RATIOS[-1]]
        case _:
            assert_never(reset)


def in_operating_range(ratio: Fraction, f_in: Fraction) -> bool:
    """Whether V_th <= V_in < V_th/f_in; without input (f_in = 0) there is no upper bound."""
    return ratio >= 1 and ratio * f_in < 1


def response_claim() -> Claim:
    """Simulate neurons and compare their responses with the claim; no results are needed."""
    over_ratio = _measure([(ratio, F_IN) for ratio in RATIOS])
    over_f_in = _measure([(ratio, f_in) for f_in in INPUT_RATES for ratio in CHOSEN_RATIOS])
    rows = over_ratio + over_f_in
    equal = sum(row["spikes"] == row["closed_form_spikes"] for row in rows)
    soft = [row for row in rows if row["reset"] == "soft" and row["f_in"] > 0]
    inside = [row for row in soft if row["in_operating_range"]]
    kept = sum((row["f_in"] <= row["f_out"] < 1) == row["in_operating_range"] for row in soft)
    return Claim(
        subject="response",
        statement=STATEMENT,
        tables=[_table(over_ratio)],
        findings=[
            f"{equal} of {len(rows)} measured points equal their closed form exactly (T = {TIME_STEPS}: soft "
            "min(T, floor(T f_in V_in/V_th)), hard floor(T f_in / ceil(V_th/V_in)) spikes).",
            f"Soft reset: at {kept} of {len(soft)} points f_in <= f_out < 1 holds where the reconstructed bounds do "
            f"({len(inside)} points) and fails where they do not.",
        ],
        statistics={
            "points": len(rows),
            "points_equal": equal,
            "soft_points": len(soft),
            "soft_points_in_range": len(inside),
            "soft_points_as_bounds_say": kept,
        },
        rows=rows,
        chart=response_chart(over_ratio, over_f_in, _curves()),
    )


def _measure(points: Sequence[tuple[Fraction, Fraction]]) -> list[Row]:
    """Simulate a neuron for each reset and each (V_in/V_th, f_in), and make a row of each.

    The threshold is 1, so that V_in is a dyadic fraction and every sum is exact.
    """
    import torch

    from rmpsweep.engine.response import output_spikes, regular_train

    v_in = torch.tensor([float(ratio) for ratio, _ in points], dtype=torch.float64)
    trains = torch.stack([regular_train(f_in, TIME_STEPS) for _, f_in in points], dim=1)
    return [
        {
            "reset": reset,
            "v_in_over_v_th": float(ratio),
            "f_in": float(f_in),
            "time_steps": TIME_STEPS,
            "input_spikes": int(TIME_STEPS * f_in),
            "spikes": spikes,
            "closed_form_spikes": closed_form_spikes(ratio, f_in, TIME_STEPS, reset),
            "f_out": spikes / TIME_STEPS,
            "closed_form_rate": float(closed_form_rate(ratio, f_in, reset)),
            "in_operating_range": in_operating_range(ratio, f_in),
        }
        for reset in RESETS
        for (ratio, f_in), spikes in zip(points, output_spikes(v_in, 1.0, trains, reset).tolist(), strict=True)
    ]


def _curves() -> list[Row]:
    """Corners of the curves of `closed_form_rate`: over V_in/V_th at F_IN, and over f_in at the chosen ratios."""
    over_ratio = [_curve(reset, ratio, F_IN, over="v_in_over_v_th") for reset in RESETS for ratio in _corners(reset)]
    over_f_in = [
        _curve(reset, ratio, f_in, over="f_in")
        for reset in RESETS
        for ratio in CHOSEN_RATIOS
        for f_in in sorted({Fraction(0), min(Fraction(1), 1 / ratio), Fraction(1)})
    ]
    return over_ratio + over_f_in


def _curve(reset: Reset, ratio: Fraction, f_in: Fraction, *, over: str) -> Row:
    f_out = float(closed_form_rate(ratio, f_in, reset))
    return {"over": over, "reset": reset, "v_in_over_v_th": float(ratio), "f_in": float(f_in), "f_out": f_out}


def _table(over_ratio: list[Row]) -> ShownTable:
    found = {(row["reset"], row["v_in_over_v_th"]): row for row in over_ratio}
    body = []
    for ratio in TABLE_RATIOS:
        pair = [found[reset, float(ratio)] for reset in RESETS]
        spikes = [row[key] for row in pair for key in ("spikes", "closed_form_spikes")]
        rates = [f"{row['f_out']:.3f}" for row in pair]
        body.append((f"{float(ratio):.3f}", *spikes, *rates, "yes" if pair[0]["in_operating_range"] else "no"))
    return ShownTable(
        title=f"Output spikes in {TIME_STEPS} steps, f_in = {F_IN}",
        columns=(
            "V_in/V_th",
            *(column for reset in RESETS for column in (reset, "closed form")),
            *(f"{reset} f_out" for reset in RESETS),
            "within bounds",
        ),
        rows=body,
    )
