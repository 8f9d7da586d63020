"""The page in headless Chromium; skipped where there is none."""

import shutil

import pytest
from browser.staged import PLANTED, TABLES, a_figure, staged_study

from bench.report.page import write_page

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver")
FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking".split()
COMMAND = (
    "python -m bench.run +experiments=paper/staged method=hu rank=r8 train.learning_rate=0.001 seed=1 hydra.mode=RUN"
)


class Browser:
    """A window with one page."""

    def __init__(self, driver):
        self.driver = driver

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def click(self, selector):
        self.run("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", selector)
        self.driver.find_element("css selector", selector).click()
        self.driver.execute_async_script("setTimeout(arguments[0], 50)")  # DataTables sorts after the click's event

    def column(self, number, table="#tables"):
        script = "return [...document.querySelectorAll(arguments[0])].map((cell) => cell.innerText)"
        return self.run(script, f"{table} tbody td:nth-child({number + 1})")

    def choose(self, column, *values):
        """Of a column of the list of runs, in its filter."""
        self.click(f"#runs thead th:nth-child({column + 1}) .dtcc-button_dropdown")
        for button in self.driver.find_elements("css selector", ".dtcc-dropdown .dtcc-list-buttons button"):
            if button.text in values:
                button.click()
        self.click("h1")

    @property
    def count(self):
        return self.run("return document.querySelector('.dt-info').textContent.trim()")


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    driver.implicitly_wait(5)
    figure = a_figure(tmp_path / "page" / "figures" / "loss.png")
    driver.get(write_page(staged_study(tmp_path), TABLES, [figure], tmp_path / "page").as_uri())
    driver.find_element("css selector", ".dt-info")  # DataTables has run
    yield Browser(driver)
    driver.quit()


def test_the_page_sorts_searches_filters_and_opens_runs_without_a_network(browser):
    assert browser.count == "12 of 12 runs"

    browser.click("#tables th:nth-child(2)")
    assert browser.column(1) == ["–", "9.7 [1.0, 20.0] †", "12.5", "86.2 [72.5, 99.8]"]
    browser.click("#tables th:nth-child(4)")
    assert browser.column(3)[2:] == ["r8", "r16"]
    browser.click("#runs th:nth-child(10) .dt-column-title")
    browser.click("#runs th:nth-child(10) .dt-column-title")
    scores = [text.split()[0] for text in browser.column(9, "#runs")]
    assert scores == ["80.0", "70.0", "61.0", "60.0", "40.0", "9.7"] + ["–"] * 6

    search = browser.driver.find_element("css selector", ".dt-search input")
    search.send_keys("finite lora_ga")  # of the error and the method's name
    assert browser.count == "1 of 12 runs"
    search.clear()
    search.send_keys(" ")

    browser.choose(1, "LoRA", PLANTED)
    assert browser.count == "8 of 12 runs"
    browser.choose(2, "completed", "failed")
    browser.choose(6, "1")
    assert browser.count == "2 of 12 runs"
    assert browser.column(6, "#runs") == ["1", "1"]

    browser.click("#runs summary")
    command = browser.driver.find_element("css selector", "pre.command")
    assert (command.is_displayed(), command.text) == (True, COMMAND)
    assert command.value_of_css_property("user-select") == "all"  # a click selects it whole
    assert '"max_steps": 90' in browser.driver.find_element("css selector", ".details").text

    assert browser.driver.title == "staged"  # no planted script ran
    assert not browser.run("return [...document.images].some((image) => image.getAttribute('src') === 'x')")
    loaded = browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [address for address in loaded if not address.startswith(("blob:", "data:"))] == []
    assert browser.driver.get_log("browser") == []  # no error, nothing that the policy had to block


def test_the_page_does_not_scroll_sideways_on_a_phone(browser):
    size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.click("#runs summary")
    assert browser.run("return document.scrollingElement.scrollWidth") == 400
    assert browser.run("return document.querySelector('.details').getBoundingClientRect().right") <= 400
    assert browser.run("return document.querySelector('#runs table').parentElement.scrollWidth") > 400
