"""The page in headless Chromium; skipped where there is none."""

import shutil

import pytest
from browser.staged import PLANTED, TABLES, a_figure, many_runs, staged_study

from bench.report.page import write_page

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
)


class Browser:
    """A window with the page of the staged study, and what its tests ask of it."""

    def __init__(self, driver, address):
        self.driver, self.address = driver, address

    def open(self, hash_="", address=None):
        self.driver.get("about:blank")  # else a new hash would not load the page again
        self.driver.get((address or self.address) + hash_)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def texts(self, selector):
        return self.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def column(self, number, table="#tables table"):
        return self.texts(f"{table} tbody tr:not(.opened) > :nth-child({number})")

    def click_heading(self, number, table="#tables table"):
        self.one(f"{table} thead th:nth-child({number}) button").click()

    def sorting(self, number, table="#tables table"):
        return self.one(f"{table} thead th:nth-child({number})").get_attribute("aria-sort")

    def choose(self, name, value):
        box = f'input[name="{name}"][value="{value}"]'
        if not self.one(box).is_displayed():
            self.run("arguments[0].closest('details').querySelector('summary').click()", self.one(box))
        self.one(box).click()

    def open_run(self, number):
        self.driver.find_elements("css selector", "button.open")[number].click()

    @property
    def count(self):
        return self.one("#count").text

    @property
    def hash(self):
        return self.run("return location.hash")

    def resize(self, width, height=800):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    root = tmp_path_factory.mktemp("browser")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={root / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    driver.implicitly_wait(0)
    study = staged_study(root)
    page = write_page(study, TABLES, [a_figure(root / "page" / "figures" / "loss.png")], root / "page")
    yield Browser(driver, page.as_uri())
    driver.quit()


@pytest.fixture
def browser(session):
    session.resize(1200)
    session.open()
    yield session
    assert session.driver.get_log("browser") == []  # no error, no violation of the policy, in any test


def test_the_page_loads_with_its_tables_figures_and_runs(browser):
    assert browser.driver.title == "staged"
    assert browser.column(1) == ["Pretrained", "LoRA", PLANTED, "Full FT"]
    assert browser.count == "12 of 12 runs"
    assert browser.run("return document.querySelector('.enlarge img').naturalWidth") == 40


def test_planted_markup_stays_text(browser):
    browser.choose("status", "failed")
    browser.open_run(0)
    assert browser.driver.title == "staged"
    assert browser.texts(".detail dd")[1] == f"RuntimeError: loss is not finite {PLANTED} (step 7)"
    assert browser.one("#tables .note").text == f"A note with code, weight and {PLANTED}"
    assert browser.run("return [...document.images].filter((i) => i.getAttribute('src') === 'x').length") == 0
    assert browser.run("return document.scripts.length") == 2


def test_numbers_sort_by_their_mean_and_missing_ones_come_last(browser):
    browser.click_heading(2)
    assert browser.column(2) == ["9.7 [1.0, 20.0] †", "12.5", "86.2 [72.5, 99.8]", "–"]
    assert browser.sorting(2) == "ascending"
    browser.click_heading(2)
    assert browser.column(2) == ["86.2 [72.5, 99.8]", "12.5", "9.7 [1.0, 20.0] †", "–"]
    assert browser.texts("#tables tbody strong") == ["86.2 [72.5, 99.8]"]
    browser.click_heading(3)
    assert browser.column(3) == ["0", "1,792", "74,752", "803,968"]
    assert (browser.sorting(2), browser.sorting(3)) == ("none", "ascending")


def test_texts_sort_with_their_numbers_in_order_and_a_third_click_gives_the_methods_order_back(browser):
    browser.click_heading(4)
    assert browser.column(4) == ["r8", "r16", "–", "–"]
    browser.click_heading(4)
    browser.click_heading(4)
    assert browser.column(4) == ["–", "r8", "r16", "–"]
    assert browser.sorting(4) == "none"


def test_a_table_sorts_from_the_keyboard(browser):
    browser.run("document.querySelector('#tables thead th:nth-child(3) button').focus()")
    from selenium.webdriver.common.keys import Keys

    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.sorting(3) == "ascending"


def test_runs_sort_by_score(browser):
    browser.click_heading(9, "#runs table")
    browser.click_heading(9, "#runs table")
    scores = [text.split(" ")[0] for text in browser.column(9, "#runs table")]
    assert scores == ["80.0", "70.0", "61.0", "60.0", "40.0", "9.7"] + ["–"] * 6


def test_each_filter_leaves_the_runs_that_it_names(browser):
    expected = {
        ("method", "lora_ga"): 2, ("rank", "r16"): 1, ("task", "t"): 12, ("model", "m"): 12, ("seed", "100"): 2,
        ("stage", "shared"): 2, ("status", "missing"): 2,
    }  # fmt: skip
    for (name, value), count in expected.items():
        browser.choose(name, value)
        assert (name, browser.count) == (name, f"{count} of 12 runs")
        assert len(browser.column(1, "#runs table")) == count
        assert browser.hash == f"#{name}={value}"
        browser.run("document.querySelector('#reset').click()")  # which the open filter may cover


def test_filters_combine_and_values_of_one_add_up(browser):
    browser.choose("method", "hu")
    assert browser.count == "6 of 12 runs"
    browser.choose("method", "lora_ga")
    assert browser.count == "8 of 12 runs"
    browser.choose("seed", "0")
    assert browser.count == "3 of 12 runs"
    browser.choose("status", "completed")
    assert browser.count == "2 of 12 runs"
    assert browser.hash == "#method=hu&method=lora_ga&seed=0&status=completed"


def test_a_search_finds_words_in_any_order_also_in_errors(browser):
    box = browser.one("#search")
    box.send_keys("finite lora_ga")
    assert browser.count == "1 of 12 runs"
    box.clear()
    box.send_keys("no such words")
    assert browser.count == "0 of 12 runs"


def test_the_address_restores_a_view(browser):
    browser.open("#method=hu&stage=tuned&search=completed&sort=-seed")
    assert browser.count == "2 of 12 runs"
    assert browser.column(6, "#runs table") == ["1", "0"]
    assert browser.sorting(6, "#runs table") == "descending"
    assert browser.one("#search").get_attribute("value") == "completed"
    browser.run("location.hash = '#method=eva'")
    browser.run("return new Promise((done) => setTimeout(done, 50))")
    assert browser.count == "1 of 12 runs"


def test_an_address_with_unknown_values_shows_everything(browser):
    browser.open("#method=no_such_method&sort=nothing&%E0%A4%A")
    assert browser.count == "12 of 12 runs"


def test_reset_shows_everything_again(browser):
    browser.open("#method=hu&search=completed&sort=-seed")
    browser.one("#reset").click()
    assert browser.count == "12 of 12 runs"
    assert browser.hash == ""
    assert browser.run("return document.querySelectorAll('#filters :checked').length") == 0


def test_a_run_opens_to_its_scores_configuration_and_command(browser):
    browser.choose("seed", "1")
    browser.choose("status", "completed")
    browser.one("#count").click()
    browser.open_run(0)
    assert browser.one("button.open").get_attribute("aria-expanded") == "true"
    assert browser.texts(".detail dt") == ["run", "acc", "f1"]
    assert browser.one(".command code").text == (
        "python -m bench.run +experiments=paper/staged method=hu rank=r8 train.learning_rate=0.001 seed=1 "
        "hydra.mode=RUN"
    )
    assert not browser.one(".detail details pre").is_displayed()
    browser.one(".detail details summary").click()
    assert browser.one(".detail details pre").text.startswith('{\n  "seed": 1,\n')
    assert '"max_steps": 90' in browser.one(".detail details pre").text
    browser.open_run(0)
    assert browser.texts(".detail") == []


def test_the_command_is_copied(browser):
    granted = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.driver.execute_cdp_cmd("Browser.grantPermissions", granted)
    browser.open("#method=full_ft&status=missing")
    browser.open_run(0)
    browser.one("button.copy").click()
    browser.run("return new Promise((done) => setTimeout(done, 100))")
    assert browser.one("button.copy").text == "Copied"
    assert browser.run("return navigator.clipboard.readText()") == browser.one(".command code").text


def test_a_figure_is_enlarged_and_closes_with_escape(browser):
    from selenium.webdriver.common.keys import Keys

    browser.one("button.enlarge").click()
    assert browser.one("dialog").is_displayed()
    assert browser.one("dialog img").get_attribute("alt") == "loss"
    browser.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not browser.one("dialog").is_displayed()


def test_a_jump_to_a_section_keeps_the_filters(browser):
    browser.open("#method=hu")
    browser.one("nav a[data-jump=runs]").click()
    assert browser.hash == "#method=hu"
    assert browser.run("return document.activeElement.id") == "runs"


@pytest.mark.parametrize("width", [400, 320])
def test_the_page_does_not_scroll_sideways_on_a_phone(browser, width):
    browser.resize(width)
    browser.open_run(0)
    browser.one(".detail details summary").click()
    browser.run("for (const filter of document.querySelectorAll('.filter')) filter.open = true")
    assert browser.run("return document.scrollingElement.scrollWidth") <= width
    assert browser.run("return document.querySelector('.detail').getBoundingClientRect().width") <= width
    assert browser.run("return document.querySelector('#runs .scroll').scrollWidth") > width  # it has its own scroll


def luminance(colour):
    channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_that_wcag_asks_for(browser, scheme):
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.open_run(0)
    pairs = browser.run("""
        const back = (e) => {
          for (; e; e = e.parentElement) {
            const colour = getComputedStyle(e).backgroundColor;
            if (!colour.endsWith(", 0)")) return colour;
          }
        };
        return [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility()
          && [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
          .map((e) => [e.tagName, e.textContent.slice(0, 30), getComputedStyle(e).color, back(e)])
    """)
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(pairs) > 100
    for *where, text, back in pairs:
        light, dark = sorted((luminance(text), luminance(back)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (where, text, back)


def test_thousands_of_runs_are_listed_a_hundred_at_a_time(browser, tmp_path):
    study = many_runs(tmp_path, 3_000)
    browser.open(address=write_page(study, [], [], tmp_path / "many").as_uri())
    assert browser.count.startswith("3,")
    assert len(browser.column(1, "#runs table")) == 100
    browser.one("#more button").click()
    assert len(browser.column(1, "#runs table")) == 200
    began = browser.run("return performance.now()")
    browser.one("#search").send_keys("00000777")
    assert browser.count.startswith("1 of 3,")
    assert browser.run("return performance.now()") - began < 3000
    assert not browser.one("#tables").is_displayed()
