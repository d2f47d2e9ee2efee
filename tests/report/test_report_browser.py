import json
import re
from collections.abc import Iterator
from dataclasses import replace
from operator import itemgetter
from typing import Any

import pytest

from rmpsweep.report import Pictures, render
from rmpsweep.stats import pareto_rows
from tests.helpers.chrome import chrome
from tests.helpers.report_tables import ALPHAS, INFO, RULES, tables

TIME_STEPS = tuple(range(5, 33, 3))
TABLES = tables(time_steps=TIME_STEPS)
"""Ten T, so that the table of trials is wide."""
TRIALS = len(RULES) * len(ALPHAS) * 2
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
PRINTED = 688
"""A4 without the page's margins, in CSS pixels."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chrome(tmp_path_factory.mktemp("profile"), 1200, 900) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    calibration = [{"rule": r, "layer": n, "channel": "", "threshold": 1.5} for r in RULES for n in ("conv1", "fc1")]
    info = replace(INFO, calibration=calibration)
    path.write_text(render(*TABLES, info, lambda ids: Pictures({ids[0]: PIXEL})), "utf-8")
    return path.as_uri()


@pytest.fixture
def opened(browser: Any, page: str) -> Any:
    """The page, fresh, 1200 pixels wide, in light colours."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.get(page)
    drawn(browser)
    return browser


def drawn(browser: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    state = "return document.documentElement.dataset.charts"
    WebDriverWait(browser, 30, 0.05).until(lambda b: b.execute_script(state) == "drawn")


def until(browser: Any, script: str) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 20, 0.05).until(lambda b: b.execute_script(f"return {script}"))


def count(selector: str) -> str:
    return f"document.querySelectorAll({json.dumps(selector)}).length"


LINES = count("#accuracy-chart .lines_marks path")
ROWS = "[...document.querySelectorAll('#trial-rows tr')].filter((row) => !row.hidden).length"


def test_every_chart_is_drawn_quietly_and_nothing_is_fetched(opened: Any):
    charts = opened.execute_script("return [...document.querySelectorAll('.chart')].map((each) => each.id)")
    assert len(charts) == 14
    assert len(charts) == len(set(charts))
    for chart in charts:
        svg = f"#{chart} svg.marks"
        assert opened.execute_script(f"return {count(f'{svg} [aria-roledescription]')}") > 0, chart
        assert opened.execute_script(f"return {count(f'#{chart} [aria-roledescription=visualization][aria-label]')}"), (
            chart
        )
        titles = opened.execute_script(
            f"return [...document.querySelectorAll('{svg} .role-axis-title text')].map((each) => each.textContent)"
        )
        assert len(titles) >= 2, (chart, titles)
    assert opened.execute_script(f"return {LINES}") == TRIALS
    assert opened.execute_script(f"return {ROWS}") == TRIALS
    assert opened.get_log("browser") == []
    assert opened.execute_script("return performance.getEntriesByType('resource').length") == 0


def tooltip(browser: Any, selector: str) -> str:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    target = browser.find_elements(By.CSS_SELECTOR, selector)[-1]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", target)
    ActionChains(browser).move_to_element(target).perform()
    shown = (By.CSS_SELECTOR, "#vg-tooltip-element.visible")
    return WebDriverWait(browser, 20).until(lambda b: b.find_elements(*shown))[0].text


def test_pointing_at_marks_says_their_numbers(opened: Any):
    line = tooltip(opened, "#accuracy-chart [aria-roledescription=point]")
    assert re.search(r"trial 000000000000000\d", line)
    assert re.search(r"accuracy \(95 %\) \d+\.\d\d % \(\d+\.\d\d–\d+\.\d\d %\)", line)
    assert re.search(r"energy \(J\), estimate: 4.6 pJ per MAC, 0.9 pJ per AC \d", line)
    cell = tooltip(opened, "#heat-map .cells_marks path")
    assert re.search(r"accuracy \(%\) \d+\.\d\d", cell)
    assert "undefined" not in line + cell


def front(browser: Any, measure: str) -> list[tuple[float, float]]:
    """(cost, accuracy in percent) of the points that a chart of costs puts on its front."""
    labels = browser.execute_script(
        f"return [...document.querySelectorAll('#cost-{measure} .best_marks path')].map((p) => p.ariaLabel)"
    )
    pairs = [re.match(r".*\(log scale\): ([\d.]+); Accuracy \(%\): ([\d.]+);", label) for label in labels]
    return sorted((float(pair[1]), float(pair[2])) for pair in pairs)


def expected_front(rows: list[dict], cost: str) -> list[tuple[float, float]]:
    best = pareto_rows(rows, itemgetter(cost))
    return sorted({(float(f"{row[cost]:.4g}"), round(100 * row["accuracy"], 3)) for row in best})


def test_the_keyboard_filters_charts_and_rows(opened: Any):
    from selenium.webdriver import ActionChains, Keys

    def press(*keys: str) -> Any:
        ActionChains(opened).send_keys(*keys).perform()
        return opened.switch_to.active_element

    assert press(Keys.TAB).get_attribute("class") == "skip"
    press(Keys.ENTER)
    assert opened.execute_script("return document.activeElement.id") == "answer"
    for _ in range(60):
        focused = press(Keys.TAB)
        if focused.get_attribute("name") == "reset":
            break
    assert opened.execute_script("return document.activeElement.matches(':focus-visible')")
    press(Keys.TAB, Keys.SPACE)  # from soft to hard
    until(opened, f"{LINES} === {TRIALS // 2}")
    until(opened, f"{ROWS} === {TRIALS // 2}")
    resets = (
        "[...document.querySelectorAll('#trial-rows tr')].filter((r) => !r.hidden).map((r) => r.cells[1].innerText)"
    )
    assert set(opened.execute_script(f"return {resets}")) == {"soft"}
    assert opened.execute_script("return document.getElementById('shown').textContent") == "4 of 8 trials shown"
    assert opened.execute_script(f"return {count('#heat-map .cells_marks path')}") == TRIALS // 2 * 10
    summary = [row for row in TABLES[0].to_pylist() if row["reset"] == "soft"]
    assert front(opened, "T") == expected_front(summary, "time_steps")
    assert front(opened, "synops") == expected_front(summary, "synops_per_image")
    opened.execute_script("document.querySelector('fieldset[data-setting=reset] input').click()")
    until(opened, f"{ROWS} === 0")
    assert opened.execute_script("return document.getElementById('heat-map').textContent") == "No trial is chosen."
    assert opened.get_log("browser") == []


def test_the_axis_of_accuracy_can_start_near_the_ann(opened: Any):
    lowest = "[...document.querySelectorAll('#accuracy-chart .role-axis-label text')].map((each) => each.textContent)"
    assert "30" in opened.execute_script(f"return {lowest}")
    choose = (
        "const s = document.getElementById('below-ann'); s.value = 5; s.dispatchEvent(new Event('change', BUBBLES))"
    )
    opened.execute_script(choose.replace("BUBBLES", "{bubbles: true}"))
    until(opened, f"!({lowest}).includes('30')")
    assert "80" in opened.execute_script(f"return {lowest}")


def luminance(colour: str) -> float:
    red, green, blue = (int(part) for part in re.findall(r"\d+", colour)[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


def test_dark_mode_turns_page_and_charts(opened: Any):
    colours = """[getComputedStyle(document.body).backgroundColor,
        getComputedStyle(document.querySelector('#best-chart .role-axis-title text')).fill,
        document.querySelector('#best-chart .mark-line path').getAttribute('stroke')]"""
    page, text, line = opened.execute_script(f"return {colours}")
    assert luminance(page) > 0.9 > 0.3 > luminance(text)
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    until(opened, f"({colours})[2] !== {json.dumps(line)}")
    page, text, _ = opened.execute_script(f"return {colours}")
    assert luminance(page) < 0.15 < 0.8 < luminance(text)


CUT_OFF = """[...document.querySelectorAll('.chart svg.marks')].filter((svg) => {
    const place = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll('text:not([opacity="0"])')].map((each) => each.getBoundingClientRect());
    return place.width < 0.9 * svg.getAttribute('width') || place.right > innerWidth
        || texts.some((text) => text.left < place.left - 1 || text.right > place.right + 1);
}).map((svg) => svg.closest('.chart').id)"""
"""Charts that reach past the page, are shrunk by more than a tenth to fit it, or have text beyond their edges."""


def test_a_telephone_shows_everything_without_scrolling_sideways(opened: Any):
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    until(opened, f"({CUT_OFF}).length === 0")
    assert opened.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [390, 390]
    unreachable = "[...document.querySelectorAll('.scroll')].filter((each) => each.tabIndex !== 0).length"
    assert opened.execute_script(f"return {unreachable}") == 0


def test_paper_takes_every_chart_and_table_whole(opened: Any):
    opened.execute_script("dispatchEvent(new Event('beforeprint'))")
    size = {"width": PRINTED, "height": 1017, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert opened.execute_script(f"return {CUT_OFF}") == []
    wide = "[...document.querySelectorAll('table')].filter((each) => each.getBoundingClientRect().right > innerWidth)"
    assert opened.execute_script(f"return ({wide}).map((each) => each.parentElement.ariaLabel)") == []
    heights = "[...document.querySelectorAll('.chart svg.marks')].map((svg) => svg.getBoundingClientRect().height)"
    assert max(opened.execute_script(f"return {heights}")) < 960
    assert opened.execute_script("return document.getElementById('filters').offsetHeight") == 0
    assert opened.execute_script(f"return {count('#provenance details[open]')}") == 1
    opened.execute_script("dispatchEvent(new Event('afterprint'))")
    assert opened.execute_script(f"return {count('#provenance details[open]')}") == 0
