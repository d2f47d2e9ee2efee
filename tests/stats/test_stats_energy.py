"""Energy estimates, what they are drawn on, and what is not beaten in accuracy and energy."""

from operator import itemgetter

import numpy as np
import pyarrow as pa
import pytest

from rmpsweep.stats import (
    CONVENTIONS,
    correct_by_cell,
    energies,
    energy_per_image,
    on_common_images,
    pareto_front,
    pareto_rows,
)

MAC_AC, FLOP_SOP = CONVENTIONS["mac_ac"], CONVENTIONS["flop_sop"]
ANN_LAYERS = [
    {"layer": "input", "images": 20, "synops": 20 * 1_000},
    {"layer": "conv", "images": 20, "synops": 20 * 500},
]


def layers(time_steps: int, images: int = 10) -> list[dict[str, object]]:
    """Of a trial: 800 operations a step on nonzero pixels, 50 on spikes of conv, 7 of fc, for each image."""
    per_step = {"input": 800, "conv": 50, "fc": 7}
    return [
        {"layer": layer, "time_steps": time_steps, "images": images, "synops": n * time_steps * images}
        for layer, n in per_step.items()
    ]


def test_conventions_say_that_they_are_estimates_and_hold_the_published_figures():
    assert all("estimate" in convention.label for convention in CONVENTIONS.values())
    assert [(each.dense_joule, each.spike_joule) for each in CONVENTIONS.values()] == [
        (4.6e-12, 0.9e-12),
        (12.5e-12, 77e-15),
    ]


@pytest.mark.parametrize("convention", CONVENTIONS.values(), ids=CONVENTIONS)
def test_analog_input_costs_its_dense_macs_once_and_spikes_cost_additions(convention):
    for time_steps in (1, 16):
        found = energy_per_image(layers(time_steps), ANN_LAYERS, "constant", convention)
        expected = 1_000 * convention.dense_joule + 57 * time_steps * convention.spike_joule
        assert found.snn_joule == pytest.approx(expected)
        assert found.ann_joule == pytest.approx(1_500 * convention.dense_joule)


def test_spikes_of_poisson_input_cost_additions_at_every_step():
    found = energy_per_image(layers(16), ANN_LAYERS, "poisson", MAC_AC)
    assert found.snn_joule == pytest.approx(857 * 16 * 0.9e-12)


def test_without_the_anns_operations_nonzero_pixels_stand_for_the_input_and_the_ann_has_no_energy():
    found = energy_per_image(layers(16), [], "constant", MAC_AC)
    assert found.snn_joule == pytest.approx(800 * 4.6e-12 + 57 * 16 * 0.9e-12)
    assert found.ann_joule is None


def test_a_mac_is_one_flop_as_in_the_published_figures():
    """LTB, CVPR 2025, table S4: ResNet-34 at 22 images per joule, its SNN with 20.86 G operations at 622."""
    ann = [{"layer": "conv", "images": 1, "synops": 3.6e9}]
    snn = [{"layer": "conv", "images": 1, "synops": 20.86e9, "time_steps": 64}]
    found = energy_per_image(snn, ann, "constant", FLOP_SOP)
    assert found.ann_joule is not None
    assert (int(1 / found.ann_joule), int(1 / found.snn_joule)) == (22, 622)


def test_energies_of_a_table_are_those_of_each_trial_and_t():
    rows = [{"trial_id": "ann", "time_steps": 0, **row} for row in ANN_LAYERS]
    rows += [{"trial_id": trial, **row} for trial in ("a", "b") for t in (4, 8) for row in layers(t)]
    summary = pa.table(
        {"trial_id": ["a", "a", "b", "b"], "time_steps": [4, 8, 4, 8], "encoding": ["constant"] * 2 + ["poisson"] * 2}
    )
    found = energies(summary, pa.Table.from_pylist(rows), MAC_AC)
    assert found == {
        (trial, t): energy_per_image(layers(t), ANN_LAYERS, encoding, MAC_AC)
        for trial, encoding in (("a", "constant"), ("b", "poisson"))
        for t in (4, 8)
    }
    assert found["a", 8] != found["a", 4] != found["b", 4]


def test_pareto_rows_are_those_of_the_front_over_any_cost():
    rng = np.random.default_rng(0)
    rows = [
        {"accuracy": a, "time_steps": t, "synops_per_image": s} for a, t, s in rng.integers(0, 9, size=(40, 3)).tolist()
    ]
    for cost in (itemgetter("time_steps"), itemgetter("synops_per_image"), lambda row: -row["time_steps"]):
        front = pareto_front([(row["accuracy"], cost(row)) for row in rows])
        assert pareto_rows(rows, cost) == [rows[i] for i in front]
    assert pareto_rows([], itemgetter("time_steps")) == []


def predictions(cells: dict[tuple[str, int], dict[int, bool]]) -> pa.Table:
    rows = [
        {"trial_id": trial, "time_steps": t, "image_id": image, "correct": ok}
        for (trial, t), images in sorted(cells.items())
        for image, ok in sorted(images.items())
    ]
    return pa.Table.from_pylist(rows)


def test_cells_hold_what_the_table_says_and_share_images():
    rng = np.random.default_rng(1)
    cells = {
        (trial, t): {int(i): bool(rng.random() < 0.5) for i in rng.permutation(40)[: 30 if trial == "b" else 40]}
        for trial, steps in (("a", (4, 8)), ("b", (8, 16)), ("c", (0,)))
        for t in steps
    }
    found = correct_by_cell(predictions(cells))
    assert {key: dict(zip(*map(np.ndarray.tolist, cell), strict=True)) for key, cell in found.items()} == cells
    common, correct = on_common_images([found[key] for key in cells])
    expected = sorted(set.intersection(*(set(images) for images in cells.values())))
    assert 0 < len(expected) < 30
    assert common.tolist() == expected
    assert correct.tolist() == [[images[i] for i in expected] for images in cells.values()]
    assert on_common_images([found["a", 4]])[1].shape == (1, 40)
    assert correct_by_cell(predictions({("a", 4): {0: True}}).slice(1)) == {}
    with pytest.raises(ValueError, match="got none"):
        on_common_images([])
