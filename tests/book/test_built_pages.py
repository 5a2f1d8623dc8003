"""The built pages in a browser: they compute, lead to the evidence, and are fit to be read.

They are read as files, with the network cut off. `make book` builds them; where it has not, or
where there is no Chromium or Chrome with its driver, these tests are skipped, but never in CI.
"""

import io
import json
import os
import re
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).parents[2]
HTML = ROOT / "_build" / "html"
sys.path.insert(0, str(ROOT / "book"))
import build  # noqa: E402

PAGES = build.built_pages()
WIDE, PHONE = 1366, 390  # pixels
PATIENCE = 60  # seconds
AXE = "axe-core@4.14.1"
AXE_SHA256 = "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745"
# The theme's own, which a page cannot mend: buttons whose shown text is not in their name.
THEME = {"label-content-name-mismatch"}

pytestmark = pytest.mark.slow


def needed(what, there):
    if not there:
        assert not os.environ.get("CI"), f"{what} is needed"
        pytest.skip(f"{what} is not here")
    return there


@pytest.fixture(scope="module")
def browser():
    needed("a built book (`make book`)", (HTML / "index.html").exists())
    names = ("chromium", "google-chrome", "chrome")
    program = needed("Chromium", next(filter(None, map(shutil.which, names)), None))
    driver = needed("chromedriver", shutil.which("chromedriver"))
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        *("headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(driver)
    browser = webdriver.Chrome(options=options, service=service)
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["http://*", "https://*"]})
    yield browser
    browser.quit()


@pytest.fixture
def visit(browser):
    """visit("index.html", width=390): the page by day, once it stands."""

    def go(page, width=WIDE):
        of_width(browser, width)
        by_scheme(browser, "light")
        browser.get_log("browser")
        browser.get(f"{HTML.as_uri()}/{page}")
        typeset = "window.MathJax?.startup?.promise?.then(() => arguments[0]()) ?? arguments[0]()"
        browser.execute_async_script(typeset)
        return browser

    return go


THEME_OF_PAGE = "return document.documentElement.dataset.theme"


def of_width(browser, width):
    size = {"width": width, "height": 768, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def by_scheme(browser, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


@pytest.fixture
def axe(browser, axe_source):
    """axe(): the rules that the page breaks, of WCAG 2.1 A and AA or of those given, with the
    elements."""

    def run(rules=("wcag2a", "wcag2aa", "wcag21a", "wcag21aa")):
        browser.execute_script(f"if (!window.axe) {{ {axe_source} }}")
        found = browser.execute_async_script(
            "axe.run({runOnly: arguments[0]}).then(({violations}) => arguments[1](violations"
            ".map(({id, nodes}) => [id, nodes.map(node => node.html.slice(0, 200))])))",
            list(rules),
        )
        return {rule: nodes for rule, nodes in found if rule not in THEME}

    return run


@pytest.fixture(scope="module")
def axe_source():
    archive = needed("npm", build.npm_archive(AXE, AXE_SHA256))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.extractfile("package/axe.min.js").read().decode("utf-8")


def text(browser, name):
    return browser.find_element(By.ID, name).get_attribute("textContent")


def click(browser, name):
    browser.execute_script("arguments[0].click()", browser.find_element(By.ID, name))


def wait(browser, until):
    passed_over = [NoSuchElementException]
    return WebDriverWait(browser, PATIENCE, 0.1, passed_over).until(until)


def is_enabled(browser, name):
    return browser.find_element(By.ID, name).is_enabled()


def percent(browser, name):
    """What an element says, which is a number and a per cent sign alone."""
    (number,) = re.fullmatch(r"(\d+\.\d) %", text(browser, name)).groups()
    return float(number)


def trained(page, button="train-go"):
    """The accuracy that the button leads to."""
    click(page, button)
    wait(page, lambda page: is_enabled(page, button))
    return percent(page, "train-accuracy")


class TestTraining:
    def test_ten_images_train_the_network_they_are_made_for_and_no_other(self, visit):
        page = visit("index.html")
        assert percent(page, "train-accuracy") == 12.8
        assert trained(page) == 94.4
        bars = page.find_elements(By.CSS_SELECTOR, "#train-bars li span:last-child")
        shown = [bar.get_attribute("textContent") for bar in bars]
        assert shown[0] == "12.8 %" and shown[-1] == "94.4 %" and len(shown) == 4
        assert trained(page, "train-other") < 30

    def test_without_steps_or_with_other_labels_it_learns_nothing(self, visit):
        page = visit("index.html")
        page.execute_script("document.querySelectorAll('.dd-rate input').forEach(i => i.value = 0)")
        assert trained(page) == 12.8
        click(page, "train-reset")
        click(page, "train-shuffled")
        assert trained(page) < 30

    def test_what_was_changed_is_set_back_and_digits_are_read(self, visit):
        page = visit("index.html")
        page.execute_script("document.querySelectorAll('.dd-rate input').forEach(i => i.value = 0)")
        click(page, "train-shuffled")
        click(page, "train-reset")
        assert trained(page) == 94.4
        assert text(page, "train-read-after") == "-"
        page.execute_script(
            """
            const pad = document.getElementById("train-pad");
            pad.closest("details").open = true;
            const {left, top} = pad.getBoundingClientRect();
            const send = (type, x, y) => pad.dispatchEvent(
              new PointerEvent(type, {clientX: left + x, clientY: top + y, buttons: 1}));
            pad.setPointerCapture = () => {};  // there is no pointer
            send("pointerdown", 98, 40);
            send("pointermove", 98, 159);
            send("pointerup", 98, 159);
            """
        )
        assert text(page, "train-read-after") == "1"
        click(page, "train-clear")
        assert text(page, "train-read-after") == "-"
        click(page, "train-sample")
        wait(page, lambda page: text(page, "train-read-after").isdigit())


class TestDistilling:
    def settings(self, page, **values):
        for name, value in values.items():
            field = page.find_element(By.NAME, name)
            page.execute_script("arguments[0].value = arguments[1]", field, value)

    def test_both_sides_learn_and_stop_and_go_on(self, visit):
        page = visit("index.html")
        assert percent(page, "distill-accuracy") == 12.8 and text(page, "distill-step") == "0"
        self.settings(page, epochs=1, iterations=10)
        click(page, "distill-go")
        wait(page, lambda page: int(text(page, "distill-step")) > 0)
        click(page, "distill-stop")
        wait(page, lambda page: is_enabled(page, "distill-go"))
        assert text(page, "distill-go") == "Go on"
        click(page, "distill-go")
        wait(page, lambda page: text(page, "distill-go") == "Distil again")
        assert text(page, "distill-step") == text(page, "distill-new-step") == "10"
        assert percent(page, "distill-accuracy") != 12.8
        percent(page, "distill-new-accuracy")

    def test_a_loss_that_diverges_is_told(self, visit):
        page = visit("index.html")
        field = page.find_element(By.NAME, "imageRate")
        page.execute_script("arguments[0].max = arguments[0].value = 1e300", field)
        click(page, "distill-go")
        wait(page, lambda page: "diverged" in text(page, "distill-said"))
        assert is_enabled(page, "distill-go")

    def test_an_impossible_setting_is_refused(self, visit):
        page = visit("index.html")
        self.settings(page, epochs=99)
        click(page, "distill-go")
        assert is_enabled(page, "distill-go") and text(page, "distill-step") == "0"


class TestSliders:
    def test_a_slider_has_a_name_and_moves_by_keys(self, visit):
        page = visit("notebooks/01-introduction.html")
        page.execute_script(
            "document.querySelector('#what-happens-in-the-three-steps').scrollIntoView()"
        )
        handle = wait(page, lambda page: page.find_element(By.CSS_SELECTOR, "[role=slider]"))
        wait(page, lambda page: handle.get_attribute("aria-label") == "gradient step")
        handle.send_keys(Keys.ARROW_RIGHT)
        shown = ".widget-html:not([style*='none']) figcaption"
        wait(page, lambda page: "after 1 of" in page.find_element(By.CSS_SELECTOR, shown).text)

    def test_its_figure_is_drawn_once(self, visit):
        page = visit("notebooks/01-introduction.html")
        still = page.find_element(By.CSS_SELECTOR, ".tag_static .cell_output")
        assert not still.is_displayed() and still.find_elements(By.TAG_NAME, "img")


class TestEvidence:
    def test_a_cell_of_a_table_leads_to_its_record(self, visit):
        page = visit("notebooks/04-2-poisoning.html")
        cell = page.find_element(By.LINK_TEXT, "3.84 ± 10.54 (4.71 ± 12.31)")
        address = cell.get_attribute("href")
        assert address.endswith("evidence/poisoning.html#table3-mnist-10")
        page = visit(address.removeprefix(f"{HTML.as_uri()}/"))
        heading = page.find_element(By.ID, "table3-mnist-10")
        assert abs(heading.rect["y"] - page.execute_script("return scrollY")) < 200

    def test_claims_are_filtered(self, visit):
        page = visit("claims.html")
        words = page.find_element(By.CSS_SELECTOR, "#claims-filter input")
        words.send_keys("93.76")
        rows = page.find_elements(By.CSS_SELECTOR, ".dd-claims[open] tbody tr:not([hidden])")
        assert rows and all("93.76" in row.text for row in rows)

    def test_claims_are_ten_screens_at_most(self, visit):
        page = visit("claims.html")
        assert page.execute_script("return document.documentElement.scrollHeight") <= 10 * 768

    def test_a_verdict_is_seen_on_a_phone(self, visit):
        page = visit("claims.html", width=PHONE)
        page.execute_script("document.querySelectorAll('.dd-claims').forEach(d => d.open = true)")
        for cell in page.find_elements(
            By.CSS_SELECTOR, ".dd-claims tr:first-child td:nth-child(2)"
        ):
            assert cell.rect["x"] + cell.rect["width"] <= PHONE


def test_programs_read_the_results():
    needed("a built book (`make book`)", (HTML / "index.html").exists())
    written = json.loads((HTML / "results.json").read_text("utf-8"))
    assert written == build.ledger.entries(build.ledger.Judge())


@pytest.mark.parametrize("page", PAGES)
def test_every_page(visit, axe, page):
    """By day: nothing from outside, no complaint, every formula readable, a description, nothing
    that keeps somebody out. At night: contrasts, and no filter on pictures, which hold data. On a
    phone: nothing wider than the screen."""
    browser = visit(page)
    complaints = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert complaints == []
    assert browser.find_elements(By.CSS_SELECTOR, "mjx-merror") == []
    numbers = browser.find_elements(By.CSS_SELECTOR, ".caption-number")
    assert not any(number.is_displayed() for number in numbers)  # the paper has its own
    description = browser.find_element(By.CSS_SELECTOR, "meta[name=description]")
    assert len(description.get_attribute("content")) > 40
    assert browser.find_elements(By.CSS_SELECTOR, "meta[property='og:image']")
    assert axe() == {}

    browser.execute_script(
        "document.head.append(Object.assign(document.createElement('style'),"
        " {textContent: '* {transition: none !important}'}))"
    )
    by_scheme(browser, "dark")
    wait(browser, lambda browser: browser.execute_script(THEME_OF_PAGE) == "dark")
    filters = browser.execute_script(
        "return [...document.querySelectorAll('article img, article canvas')]"
        ".map(image => getComputedStyle(image).filter)"
    )
    assert set(filters) <= {"none"}
    assert axe(["color-contrast"]) == {}

    of_width(browser, PHONE)
    lefts = browser.execute_script(
        "return [...document.querySelectorAll('article div.math > mjx-container')]"
        ".map(formula => formula.getBoundingClientRect().left)"
    )
    assert min(lefts, default=0) >= 0  # a formula begins within the page, and scrolls
    widths = browser.execute_script(
        "return [...document.querySelectorAll('.cell_output a > img')]"
        ".filter(image => image.offsetParent).map(image => image.width)"
    )
    assert min(widths, default=640) >= 640  # labels of nine pixels, and a figure scrolls
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE


@pytest.mark.parametrize(
    ("words", "page"),
    [
        pytest.param("93.76", "claims.html", id="a number"),
        pytest.param("how to rerun", "index.html", id="a question"),
        pytest.param("safetensors", "images.html", id="a word"),
    ],
)
def test_search_finds(visit, words, page):
    browser = visit(f"search.html?q={words}")
    wait(browser, lambda browser: browser.find_elements(By.CSS_SELECTOR, f"li a[href*='{page}']"))
