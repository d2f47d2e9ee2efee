"""compare: against what the synthetic results were made from, and as a command."""

import json
import subprocess
import sys

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest, fisher_exact

from rmpsweep.data import image_order
from rmpsweep.pipeline import publish
from rmpsweep.pipeline.look import look
from rmpsweep.results import Layout, read_table
from rmpsweep.results.tables import ACTIVITY_SCHEMA, PREDICTIONS_SCHEMA, SUMMARY_SCHEMA
from rmpsweep.stats import CONVENTIONS, best_trials, energies, fisher, newcombe_interval, wilson_interval
from rmpsweep.terms import ANN
from tests.helpers.chrome import chrome
from tests.helpers.commands import rmpsweep, run_here
from tests.helpers.synthetic import Synthetic

SWEEPS = {
    "a": Synthetic(images=150),
    "b": Synthetic(images=150, seed=1, alphas=2),
    "few": Synthetic(images=150, seed=2, limit=40),
    "other": Synthetic(images=90, seed=1, data="other images", alphas=9),  # 18 trials: two begin with the same digit
    "late": Synthetic(images=20, time_steps=(64,), alphas=1),
    "unmerged": Synthetic(images=20, time_steps=(4,), alphas=1),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Name -> what is prepared there; merged but for one."""
    root = tmp_path_factory.mktemp("compared")
    prepared = {name: sweep.write(root / name) for name, sweep in SWEEPS.items()}
    for name, each in prepared.items():
        if name != "unmerged":
            publish.merge_tables(look(each))
    return prepared


@pytest.fixture
def compare(results, monkeypatch):
    """The command, run where the results lie."""
    monkeypatch.chdir(results["a"].layout.root.parent)
    return lambda *arguments: rmpsweep("compare", *arguments)


def correct(results, name, trial, t):
    """Whether each image that was evaluated is classified correctly, by image_id."""
    prepared = results[name]
    ids = np.sort(image_order(prepared.plan.facts.num_images)[: prepared.plan.limit])
    return dict(zip(ids.tolist(), (SWEEPS[name].rank(prepared, trial, t) == 0)[ids].tolist(), strict=True))


def trial_of(results, name, reset):
    return best_trials(read_table(results[name].layout.summary, SUMMARY_SCHEMA))[reset].trial_id


@pytest.mark.parametrize("other", ["b", "few"])
def test_trials_on_the_same_data_are_compared_image_by_image_over_what_they_share(results, compare, other):
    found = compare("a", other)
    assert [(each["name"], each["baseline"], each["time_steps"]) for each in found["differences"]] == [
        (f"{other} {reset}", f"a {reset}", t) for reset in ("soft", "hard") for t in (4, 8, 16, 32)
    ]
    for each in found["differences"]:
        reset, t = each["name"].split()[1], each["time_steps"]
        ours, theirs = (correct(results, name, trial_of(results, name, reset), t) for name in (other, "a"))
        shared = sorted(ours.keys() & theirs.keys())
        assert each["paired"]
        assert each["images"] == each["images_baseline"] == len(shared) == (40 if other == "few" else 150)
        assert each["accuracy"] == np.mean([ours[i] for i in shared])
        assert each["accuracy_baseline"] == np.mean([theirs[i] for i in shared])
        only = [sum(ours[i] > theirs[i] for i in shared), sum(ours[i] < theirs[i] for i in shared)]
        difference = 100 * (only[0] - only[1]) / len(shared)
        assert each["difference_points"] == pytest.approx(difference, abs=1e-12)
        assert each["ci_low_points"] < difference < each["ci_high_points"]
        assert each["p_value"] == pytest.approx(binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0, abs=1e-12)
    assert any(each["difference_points"] for each in found["differences"])


def test_holm_is_over_everything_compared(compare):
    found = compare("a", "b", "other")["differences"]
    assert len(found) == 16
    p = sorted(each["p_value"] for each in found)
    steps = [min(1, max(p[j] * (16 - j) for j in range(i + 1))) for i in range(16)]
    assert sorted(each["p_holm"] for each in found) == pytest.approx(steps, abs=1e-12)


def test_other_data_are_independent_images_and_the_comparison_says_so(results, compare):
    found = compare("a", "other", "--at", 8)
    (soft, _) = found["differences"]
    ours, theirs = (
        list(correct(results, name, trial_of(results, name, "soft"), 8).values()) for name in ("other", "a")
    )
    assert not soft["paired"]
    assert (soft["images"], soft["images_baseline"]) == (90, 150)
    assert (soft["accuracy"], soft["accuracy_baseline"]) == (np.mean(ours), np.mean(theirs))
    table = [[sum(each), len(each) - sum(each)] for each in (ours, theirs)]
    assert soft["p_value"] == pytest.approx(fisher_exact(table).pvalue)
    assert any("other soft and a soft have other data; compared as independent samples" in n for n in found["notes"])


def test_newcombes_interval_is_the_one_of_his_paper():
    assert newcombe_interval(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)  # table II, example (a)
    assert newcombe_interval(9, 10, 3, 10) == pytest.approx((0.1705, 0.8090), abs=5e-5)  # (b)
    assert newcombe_interval(10, 10, 0, 20) == pytest.approx((0.6791, 1.0), abs=5e-5)  # (g)
    assert fisher(8, 10, 1, 6) == pytest.approx(0.0350, abs=5e-5)


def test_each_trial_is_shown_by_itself_with_latency_operations_and_estimates(results, compare):
    found = compare("a", "b")
    for each, (name, reset) in zip(found["trials"], [(n, r) for n in "ab" for r in ("soft", "hard")], strict=True):
        layout, trial = results[name].layout, trial_of(results, name, reset)
        assert (each["name"], each["trial_id"], each["settings"]["reset"]) == (f"{name} {reset}", trial, reset)
        counts = {t: sum(correct(results, name, trial, t).values()) for t in (4, 8, 16, 32)}
        ann = sum(correct(results, name, ANN, 0).values())
        reached = [t for t in counts if counts[t] >= 0.99 * ann]
        assert each["reach"]["time_steps"] == (reached[0] if reached else None)
        for row in each["accuracies"]:
            low, high = wilson_interval(counts[row["time_steps"]], 150)
            assert (row["ci_low"], row["accuracy"], row["ci_high"]) == (low, counts[row["time_steps"]] / 150, high)
        summary = read_table(layout.summary, SUMMARY_SCHEMA).filter(pc.field("trial_id") == trial)
        if reached:
            at = summary["time_steps"].to_pylist().index(reached[0])
            assert each["synops_per_image"] == summary["synops_per_image"][at].as_py()
            activity = read_table(layout.activity, ACTIVITY_SCHEMA)
            estimate = energies(summary, activity, CONVENTIONS["flop_sop"])[trial, reached[0]]
            assert each["energy_estimates"]["flop_sop"]["snn_joule"] == estimate.snn_joule
        else:
            assert (each["synops_per_image"], each["energy_estimates"]) == (None, {})
    assert any(each["reach"]["time_steps"] for each in found["trials"])
    assert any("chosen on the images" in note for note in found["notes"])
    assert all("estimate" in label for label in found["conventions"].values())


def test_a_single_trial_is_the_baseline_of_every_reset(results, compare):
    trial = trial_of(results, "a", "hard")
    found = compare(f"a@{trial[:9]}", "b", "--at", 4, "--at", 16)
    assert [(each["name"], each["baseline"]) for each in found["differences"]] == [
        (name, f"a@{trial[:9]}") for name in ("b soft", "b soft", "b hard", "b hard")
    ]
    assert {each["time_steps"] for each in found["differences"]} == {4, 16}
    assert found["trials"][0]["trial_id"] == trial


def test_the_table_shows_what_the_document_holds(compare):
    found = compare("a", "b", "other")
    code, text, _ = run_here(["compare", "a", "b", "other"])
    assert code == 0
    lines = text.splitlines()
    for each in found["differences"]:
        shown = [f"{each['accuracy']:.2%}", f"{each['difference_points']:+.2f}", f"{each['ci_high_points']:+.2f}"]
        assert any(all(part in line for part in shown) for line in lines), shown
    assert "b soft against a soft, paired by image: exact McNemar test, Bonett-Price interval" in text
    assert "mac_ac: estimate: 4.6 pJ per MAC, 0.9 pJ per AC" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], "compare: got 'a' alone, expected at least two"),
        (["a", "nowhere"], "nowhere"),
        (["a", "unmerged"], "unmerged: its results are not merged; rmpsweep merge unmerged makes the tables"),
        (["a", "a@zz"], "a@zz: got 'zz', which begins no trials of a, expected the first digits of one: "),
        (["a", "late"], "late soft and a soft share no time steps (late soft: 64; a soft: 4, 8, 16, 32)"),
        (["a", "b", "--at", "5"], "--at: got 5, expected one of 4, 8, 16, 32, which b soft and a soft share"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(compare, arguments, message):
    code, _, errors = run_here(["compare", *arguments])
    assert code == 2
    assert message in errors


def test_a_prefix_of_several_trials_is_refused_with_their_names(results, compare):
    trials = sorted(trial.trial_id for trial in results["other"].plan.trials)
    digits = [trial[0] for trial in trials]
    several = next(digit for digit in digits if digits.count(digit) > 1)
    code, _, errors = run_here(["compare", "b", f"other@{several}"])
    assert code == 2
    assert f"begins {digits.count(several)} trials of other" in errors
    assert all((trial in errors) == (trial[0] == several) for trial in trials)


def test_only_the_row_groups_of_the_trials_asked_for_are_decoded(results, tmp_path, monkeypatch):
    from rmpsweep.results import tables, write_table

    monkeypatch.setattr(tables, "ROW_GROUP", 600)
    prepared = results["a"]
    whole = read_table(prepared.layout.predictions, PREDICTIONS_SCHEMA)
    path = Layout(tmp_path).predictions
    write_table(path, whole, PREDICTIONS_SCHEMA)
    last = max(trial.trial_id for trial in prepared.plan.trials)
    column = pq.ParquetFile(path).metadata.row_group(0).column(PREDICTIONS_SCHEMA.names.index("prediction"))
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size // 2] ^= 1  # of the first trial
    path.write_bytes(content)
    assert read_table(path, PREDICTIONS_SCHEMA, pc.field("trial_id").isin([last])) == whole.filter(
        pc.field("trial_id") == last
    )
    with pytest.raises(OSError, match="CRC"):
        tables.decode_parquet(path.read_bytes())


@pytest.mark.slow
def test_comparing_loads_neither_torch_nor_ray_nor_mlflow(results):
    script = (
        "import sys, rmpsweep.cli\n"
        "try:\n    rmpsweep.cli.main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'ray', 'mlflow', 'torchvision', 'altair', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    root = results["a"].layout.root.parent
    command = [sys.executable, "-c", script, "compare", "a", "b", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=root)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["differences"]) == 8


@pytest.mark.browser
def test_the_page_draws_every_trial_and_difference_quietly_and_shows_intervals(compare, tmp_path):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    path = tmp_path / "page.html"
    found = compare("a", "b", "other", "--page", path)
    assert path.stat().st_size < 1_500_000
    with chrome(tmp_path / "profile", 1200, 900) as browser:
        browser.get(path.as_uri())
        wait = WebDriverWait(browser, 30)
        wait.until(lambda b: b.execute_script("return document.documentElement.dataset.charts") == "drawn")
        assert len(browser.find_elements(By.CSS_SELECTOR, "#accuracy-chart .mark-line path")) == 6
        points = browser.find_elements(By.CSS_SELECTOR, "#difference-chart [aria-roledescription=point]")
        assert len(points) == 2 * len(found["differences"]) == 32  # marks, and what is pointed at
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", points[-1])
        ActionChains(browser).move_to_element(points[-1]).perform()
        tooltip = wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "#vg-tooltip-element.visible"))[0].text
        last = found["differences"][-1]
        assert f"difference (points) {last['difference_points']:+.2f}".replace("-", "−") in tooltip
        text = browser.find_element(By.TAG_NAME, "body").text
        for each in found["differences"]:
            assert (
                f"{100 * each['accuracy']:.2f}\N{NO-BREAK SPACE}%" in text or f"{100 * each['accuracy']:.2f} %" in text
            )
        assert "estimate: 4.6 pJ per MAC" in text
        assert "other soft and a soft have other data" in text
        assert browser.get_log("browser") == []
        assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
