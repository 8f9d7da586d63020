"""The leaderboard in headless Chromium; skipped where there is none."""

import pytest
from browser.test_browser import CHROMEDRIVER, CHROMIUM, FLAGS, Browser

from bench.report.board import Board, write_board
from bench.report.board.rows import Column, Entry

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
pytestmark = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver")
PLANTED = "<img src=x onerror=\"document.title='taken'\">"


def entry(method, mean, place, label=None, trainable=100, forgetting=0.5):
    text = f"{mean:.1f} [{mean - 1:.1f}, {mean + 1:.1f}]"
    ends = (mean - 1, mean + 1)
    return Entry(
        method, label or method, 8, "", place, mean, *ends, text, 3, trainable, 0.1, forgetting, forgetting, forgetting
    )


BOARD = Board(
    (
        Column(
            "mine", "t", "m", "embedded", "", "t acc %", True, False,
            (entry("hu", 50, (2, 3)), entry("lora_ga", 90, (1, 1), trainable=50), entry("lora_xs", 60, (2, 3))),
        ),
        Column(
            "community/theirs/t", "u", "m2", "local", "max_steps 50", "u loss", False, True,
            (entry("hu", 3, (1, 2), forgetting=None), entry("other", 2, (1, 2), PLANTED, forgetting=None)),
        ),
    ),
    (("rates", "no score"),),
)  # fmt: skip


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    driver.get(write_board(BOARD, tmp_path).as_uri())
    yield Browser(driver)
    driver.quit()


def shown(browser):
    """Titles of the rows that are seen, in their order."""
    script = (
        "return [...document.querySelectorAll('#board tbody tr')].filter((row) => !row.hidden)"
        ".map((row) => row.cells[0].innerText)"
    )
    return browser.run(script)


def set_value(browser, name, value):
    script = (
        "const field = document.querySelector(`[name=${arguments[0]}]`); field.value = arguments[1];"
        "field.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    browser.run(script, name, value)


def test_the_page_filters_sorts_by_place_and_draws_without_a_network(browser):
    assert shown(browser) == ["hu", "lora_ga", "lora_xs", PLANTED]
    browser.click("#board th:nth-child(2) button")
    assert shown(browser) == ["lora_ga", "hu", "lora_xs", PLANTED]  # a tie keeps the methods' order, not the means'
    browser.click("#board th:nth-child(2) button")
    assert shown(browser) == ["hu", "lora_ga", "lora_xs", PLANTED]

    set_value(browser, "task", "u")
    assert shown(browser) == ["hu", PLANTED]
    assert browser.run("return document.querySelector('#plot select').value") == "1"
    set_value(browser, "method", "lora, other")
    assert shown(browser) == []
    set_value(browser, "task", "")
    assert shown(browser) == ["lora_ga", "lora_xs"]
    set_value(browser, "method", "")

    set_value(browser, "column", "0")
    circles = "return document.querySelectorAll('#scatter circle').length"
    assert browser.run(circles) == 3
    assert browser.run("return document.querySelectorAll('#scatter .front').length") == 0  # lora_ga beats both
    set_value(browser, "column", "1")
    assert browser.run(circles) == 2
    set_value(browser, "across", "forgetting")
    assert browser.run("return document.querySelector('#said').textContent") == "No record of this column has it."

    assert browser.driver.title == "Leaderboard"  # no planted script ran
    assert browser.run("return performance.getEntriesByType('resource').length") == 0
    assert browser.driver.get_log("browser") == []  # no error, nothing that the policy had to block


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_does_not_scroll_sideways(browser, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert browser.run("return document.scrollingElement.scrollWidth") <= width
    assert browser.run("return document.querySelector('#scatter').getBoundingClientRect().right") <= width
