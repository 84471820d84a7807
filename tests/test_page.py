"""The report page in a real browser: Chromium without a window, by its own driver."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from experiments import elu
from relujax import records, report
from relujax.study import Reported
from relujax.trial import RunResult

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1000,1400"
)


def run(label, seed, loss):
    history = ({"epoch": 1, "train_loss": loss + seed / 100, "test_error": loss / 20, "seconds": 1.0},)
    return RunResult(trial_id=f"MLP-{label}", seed=seed, status="done", history=history, environment={"device": "cpu"})


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of two studies, whose losses are in no order: 10, 9.5, and a row without any run."""
    workdir = tmp_path_factory.mktemp("page")
    study = replace(
        elu.fig_2_median_activation(), metrics=("train_loss", "test_error"), reported={"ELU": Reported(9.0)}
    )
    results = {
        "ReLU": [run("ReLU", s, 10.0) for s in range(3)],
        "LReLU": [],
        "ELU": [run("ELU", s, 9.5) for s in (1, 0)],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "read_results", lambda *args: results)
        return report.write({"elu.first": study, "elu.second": replace(study, panels=study.panels[:1])}, workdir)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in paths:
        pytest.skip("no chromium with chromedriver on this machine")
    options = selenium.ChromeOptions()
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.binary_location = paths[0]
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = selenium.Chrome(options, selenium.ChromeService(paths[1]))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, page):
    browser.get(page.as_uri())
    return browser


def emulate(browser, theme="light", width=1000):
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    )
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def column(browser, place):
    return [
        cell.text for cell in browser.find_elements("css selector", f"[id='elu.first'] .numbers td:nth-child({place})")
    ]


def heads(browser):
    return browser.find_elements("css selector", "[id='elu.first'] .numbers thead th")


def test_it_asks_nothing_of_the_network_and_reports_no_error(opened, page):
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    requests = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    asked = {request["request"]["url"] for request in requests if request["documentURL"] == page.as_uri()}
    assert page.as_uri() in asked and all(url == page.as_uri() or url.startswith("data:") for url in asked)
    assert not opened.get_log("browser")


def test_a_click_sorts_numbers_up_down_and_back_with_missing_ones_last(opened):
    as_printed = column(opened, 2)
    assert [cell[:4] for cell in as_printed] == ["10.0", "–", "9.50"]
    button = heads(opened)[1].find_element("tag name", "button")
    for state, expected in (
        ("ascending", ["9.50", "10.0", "–"]),
        ("descending", ["10.0", "9.50", "–"]),
        ("none", None),
    ):
        button.click()
        assert heads(opened)[1].get_attribute("aria-sort") == state
        assert [cell[:4] for cell in column(opened, 2)] == (expected or [cell[:4] for cell in as_printed])
    assert {head.get_attribute("aria-sort") for head in heads(opened)} == {"none"}


def test_the_keyboard_sorts_too(opened):
    from selenium.webdriver.common.keys import Keys

    heads(opened)[0].find_element("tag name", "button").send_keys(Keys.ENTER)
    rows = opened.find_elements("css selector", "[id='elu.first'] .numbers tbody th")
    assert [row.text for row in rows] == ["ELU", "LReLU", "ReLU"]


@pytest.mark.parametrize("theme, brightness", [("light", 255), ("dark", 22)])
def test_the_page_has_the_systems_theme_and_a_switch_that_stays(opened, tmp_path, theme, brightness):
    emulate(opened, theme)
    opened.execute_script("localStorage.clear()")
    opened.refresh()

    def corner():
        opened.save_screenshot(str(tmp_path / "page.png"))
        return Image.open(tmp_path / "page.png").convert("RGB").getpixel((2, 2))[0]

    assert corner() == brightness
    opened.find_element("id", "theme").click()
    assert corner() == 277 - brightness
    opened.refresh()
    assert corner() == 277 - brightness
    opened.execute_script("localStorage.clear()")


def test_figures_are_drawn_and_legible_on_dark(opened):
    emulate(opened, "dark")
    figures = opened.find_elements("css selector", ".figure svg")
    assert len(figures) == 2
    for figure in figures:
        colours = {text.value_of_css_property("fill") for text in figure.find_elements("tag name", "text")}
        assert colours and all(min(map(int, colour.strip("rgb()").split(", "))) > 120 for colour in colours)
    duplicated = "ids = [...document.querySelectorAll('[id]')].map(e => e.id); return ids.length - new Set(ids).size"
    assert opened.execute_script(duplicated) == 0


def test_on_a_phone_only_tables_and_figures_scroll(opened, tmp_path):
    emulate(opened, width=390)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= 390
    wide = "return [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
    assert opened.execute_script(wide) > 0
    opened.save_screenshot(str(tmp_path / "phone.png"))
    assert len(np.unique(np.asarray(Image.open(tmp_path / "phone.png").convert("L")))) > 20  # something is drawn


def test_on_paper_the_details_are_open(opened):
    assert not opened.find_element("css selector", "details table").is_displayed()
    opened.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert opened.find_element("css selector", "details table").is_displayed()
    opened.execute_script("dispatchEvent(new Event('afterprint'))")
    assert not opened.find_element("css selector", "details table").is_displayed()
