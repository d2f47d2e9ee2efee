import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rmpsweep.report import ReportInfo, render
from rmpsweep.stats import best_trials, wilson_interval

IMAGES = 60
ANN_CORRECT = 50
TIME_STEPS = (8, 16, 32)
LAYERS = {"input": 48, "conv1": 512, "fc1": 10}
RULES = ("vin_max", "activation_p99.9")
ALPHAS = (0.5, 1.0)
INFO = ReportInfo(
    name="small sweep",
    network="vgg11",
    dataset="digits",
    ann_correct=ANN_CORRECT,
    ann_images=IMAGES,
    images_planned=IMAGES,
    images_skipped=0,
    versions={"torch": "2.6.0+cpu"},
    hardware="2 cores",
    sweep_yaml="grid:\n  alpha: [0.5, 1.0]\n",
)


def tables(images: int = IMAGES) -> tuple[pa.Table, pa.Table, pa.Table]:
    """summary, activity and predictions of eight trials over the first `images` images."""
    summary, activity, predictions = [], [], []
    trials = [(rule, alpha, reset) for rule in RULES for alpha in ALPHAS for reset in ("hard", "soft")]
    for number, (rule, alpha, reset) in enumerate(trials):
        trial_id = f"{number:016x}"
        for t in TIME_STEPS:
            correct = np.arange(images) < (10 + t) * (1.2 if reset == "soft" else 1) + number
            low, high = wilson_interval(correct.sum(), images)
            spikes = {layer: neurons * t * images // (number + 3) for layer, neurons in LAYERS.items()}
            summary.append(
                {
                    "trial_id": trial_id,
                    "network": INFO.network,
                    "dataset": INFO.dataset,
                    "threshold": rule,
                    "granularity": "layer",
                    "alpha": alpha,
                    "alpha_scope": "network",
                    "reset": reset,
                    "encoding": "constant",
                    "input_scale": 1.0,
                    "v_init": 0.0,
                    "max_pool": "count",
                    "seed": 0,
                    "numerics": "float32",
                    "time_steps": t,
                    "images": images,
                    "images_planned": IMAGES,
                    "correct": int(correct.sum()),
                    "accuracy": correct.mean(),
                    "ci_low": float(low),
                    "ci_high": float(high),
                    "top5": min(1.0, correct.mean() + 0.1),
                    "ann_accuracy": ANN_CORRECT / IMAGES,
                    "spikes_per_image": sum(spikes.values()) / images,
                    "firing_rate": 1 / (number + 3),
                    "synops_per_image": 9 * sum(spikes.values()) / images,
                }
            )
            activity += [
                {"trial_id": trial_id, "layer": layer, "time_steps": t, "neurons": neurons, "images": images}
                | {"spikes": spikes[layer], "synops": 9 * spikes[layer], "saturated": 0}
                for layer, neurons in LAYERS.items()
            ]
            predictions += [
                {"trial_id": trial_id, "image_id": i, "label": 1, "time_steps": t, "prediction": int(right)}
                | {"label_rank": 0 if right else 7, "correct": bool(right)}
                for i, right in enumerate(correct)
            ]
    return tuple(pa.Table.from_pylist(rows) for rows in (summary, activity, predictions))


def text_of(page: str) -> str:
    """What a reader sees: no style, scripts or tags; white space collapsed."""
    without_code = re.sub(r"<(style|script)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", without_code)).split())


def test_page_loads_nothing_and_stays_small():
    page = render(*tables(), INFO)
    assert not re.search(
        r"""<[^>]*\b(src|href)\s*=\s*(?!["']?#)""", re.sub(r"<script\b.*?</script>", "", page, flags=re.S)
    )
    assert not re.search(r"@import|url\(", page[: page.index("</style>")])
    assert "default-src 'none'" in page
    assert page.count("window.vegaEmbed=") == 1
    assert len(page.encode()) < 1_500_000


def test_page_shows_every_trial_and_every_number_of_the_summary():
    summary, activity, predictions = tables()
    text = text_of(render(summary, activity, predictions, INFO))
    for row in summary.to_pylist():
        assert row["trial_id"] in text
        assert f"{100 * row['accuracy']:.2f}" in text
        if row["time_steps"] == max(TIME_STEPS):
            assert f"{100 * row['ci_low']:.2f}–{100 * row['ci_high']:.2f}" in text
            assert f"{100 * row['top5']:.2f}" in text
            assert f"{row['firing_rate']:.4f}" in text
    for expected in (*RULES, "2.6.0+cpu", "2 cores", "alpha: [0.5, 1.0]", "83.33 %", "granularity layer"):
        assert expected in text


def test_headline_and_comparison_speak_of_the_best_trials():
    summary, activity, predictions = tables()
    text = text_of(render(summary, activity, predictions, INFO))
    best = best_trials(summary)
    assert (best["soft"].time_steps_within_1pt, best["hard"].time_steps_within_1pt) == (32, None)
    assert "Best α is 1.0 (activation_p99.9): it comes within 1 point of the ANN at T = 32 and ends at 96.67 %" in text
    assert "Best α is 1.0 (activation_p99.9): it does not come within 1 point of the ANN and ends at 80.00 %" in text
    # Soft is right wherever hard is, and on 5, 7 and 10 images more: p = 2 / 2^5, 2 / 2^7, 2 / 2^10 before Holm.
    assert "8 48.33 % 40.00 % +8.33 0.062 60" in text
    assert "16 65.00 % 53.33 % +11.67 0.031 60" in text
    assert "32 96.67 % 80.00 % +16.67 0.006 60" in text


def test_partial_coverage_quarantine_and_warnings_are_announced():
    complete = text_of(render(*tables(), INFO))
    assert "Partial results" not in complete
    assert "Quarantined" not in complete
    info = replace(INFO, quarantined=[("unit-7", "worker died")], warnings=["conv1: silent channels"])
    partial = text_of(render(*tables(images=45), info))
    assert "Partial results. 0 of 8 trials cover all 60 planned images; the least covered has 45 (75.00 %)" in partial
    assert "unit-7 : worker died" in partial
    assert "conv1: silent channels" in partial


def test_empty_tables_give_a_page_that_says_so():
    summary, activity, predictions = (table.slice(0, 0) for table in tables())
    text = text_of(render(summary, activity, predictions, replace(INFO, ann_correct=0, ann_images=0)))
    assert "No results yet" in text
    assert "ANN not evaluated yet" in text


def test_names_cannot_break_out_of_the_page():
    hostile = "</script><script>alert(1)</script>\"'<b>"
    info = replace(INFO, name=hostile, hardware=hostile, sweep_yaml=hostile, warnings=[hostile])
    summary, activity, predictions = tables()
    thresholds = pa.array([hostile if rule == "vin_max" else rule for rule in summary["threshold"].to_pylist()])
    summary = summary.set_column(summary.column_names.index("threshold"), "threshold", thresholds)
    page = render(summary, activity, predictions, info)
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert page.count("</script>") == render(*tables(), INFO).count("</script>")


def test_equal_tables_give_equal_pages():
    assert render(*tables(), INFO) == render(*tables(), INFO)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator:
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("chromium and chromedriver are not on PATH")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "window-size=1200,900",
        f"user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def test_browser_draws_every_line_quietly_and_shows_a_tooltip(browser, tmp_path: Path):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    (tmp_path / "report.html").write_text(render(*tables(), INFO), "utf-8")
    browser.get((tmp_path / "report.html").as_uri())
    wait = WebDriverWait(browser, 30)
    wait.until(lambda b: b.execute_script("return document.documentElement.dataset.charts") == "drawn")

    lines = browser.find_elements(By.CSS_SELECTOR, "#accuracy-chart .mark-line path")
    assert len(lines) == len(RULES) * len(ALPHAS) * 2
    assert all("L" in line.get_attribute("d") for line in lines)
    for chart in ("cost-chart", "rate-chart", "synops-chart"):
        assert browser.find_elements(By.CSS_SELECTOR, f"#{chart} svg [aria-roledescription]")

    target = browser.find_elements(By.CSS_SELECTOR, "#accuracy-chart [aria-roledescription=point]")[-1]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", target)
    ActionChains(browser).move_to_element(target).perform()
    tooltip = wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "#vg-tooltip-element.visible"))[0].text
    assert re.search(r"trial 000000000000000\d", tooltip)
    assert re.search(r"accuracy \(95 %\) \d+\.\d\d % \(\d+\.\d\d–\d+\.\d\d %\)", tooltip)
    assert "undefined" not in tooltip

    browser.find_elements(By.CSS_SELECTOR, "#accuracy-chart .role-legend-symbol path")[0].click()
    wait.until(lambda b: sum(line.get_attribute("opacity") == "0.1" for line in lines) == len(lines) // len(ALPHAS))

    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
