"""The page in a real browser, headless: the canvas is drawn, overlays switch, nothing fails, nobody is asked."""

import base64
import io
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bdfm_nnunet.cli import main
from bdfm_nnunet.reports.page_server import PageServer, ServedPage
from bdfm_nnunet.reports.reported_runs import read_runs
from bdfm_nnunet.reports.run_page import PageSettings
from bdfm_nnunet.reports.viewer_script import installed_viewer
from tests.reports.page_cohort import HARMLESS, write_runs

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs Chromium and its driver (Debian: chromium-driver)"),
    pytest.mark.skipif(installed_viewer() is None, reason="needs the report extra"),
]
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader",
           "--enable-unsafe-swiftshader", "--window-size=1200,1000", "--force-prefers-reduced-motion")  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("page")
    assert main(["report", str(runs["scratch"]), str(runs["tuned"]), str(runs["pretraining"]), "-o", str(out)]) == 0
    return (out / "report.html").as_uri()


@pytest.fixture(scope="module")
def chromium():
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(120)
    yield driver
    driver.quit()


class Open:
    """A page in the browser."""

    def __init__(self, driver, address):
        self.driver = driver
        driver.get_log("browser"), driver.get_log("performance")
        driver.get(address)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def find(self, name):
        return self.driver.find_element("id", name)

    def wait_for(self, loaded):
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 120).until(
            lambda _: self.find("viewer-canvas").get_dom_attribute("data-loaded") == loaded
        )

    def picture(self):
        """What the viewer shows, (y, x, 3)."""
        content = base64.b64decode(self.find("viewer-canvas").screenshot_as_base64)
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)

    def errors(self):
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]

    def requests(self):
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        asked = (m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent")
        return {url for url in asked if not url.startswith(("data:", "blob:"))}


def coloured(picture):
    """Number of pixels that are not grey; the cross is, more or less, where it is one pixel wide."""
    return int((picture.max(axis=2) - picture.min(axis=2) > 60).sum())


def crossing(picture):
    """Row and column of the cross, which is blue."""
    blue = (picture[..., 2] > 150) & (picture[..., 2] - picture[..., 0] > 60)
    return int(blue.sum(axis=1).argmax()), int(blue.sum(axis=0).argmax())


def test_canvas_is_drawn_and_overlays_switch(chromium, page):
    shown = Open(chromium, page)
    shown.run("document.getElementById('viewer').scrollIntoView()")
    shown.wait_for("0-1")
    assert "case_1, tuned: 1 of 4 from the worst" in shown.find("viewer-status").text
    with_reference = shown.picture()
    assert with_reference.max() > 100 and with_reference.std() > 10
    shown.find("show-reference").click()
    without = shown.picture()
    assert coloured(with_reference) > 2 * coloured(without) + 100
    shown.find("show-disagreement").click()
    with_disagreement = shown.picture()
    assert coloured(with_disagreement) > coloured(without) + 100
    assert (with_disagreement != with_reference).any(axis=2).sum() > 100
    shown.find("show-image").click()
    assert shown.picture().mean() < without.mean()
    assert shown.errors() == []
    assert shown.requests() == {page}


def test_keys_move_the_cross_and_switch_overlays(chromium, page):
    from selenium.webdriver.common.keys import Keys

    shown = Open(chromium, page)
    look = chromium.find_elements("css selector", "button[data-view]")[1]
    look.send_keys(Keys.ENTER)
    shown.wait_for("1-1")
    canvas = shown.find("viewer-canvas")
    assert chromium.switch_to.active_element == canvas
    before = shown.picture()
    canvas.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.PAGE_UP)
    moved = shown.picture()
    assert (moved != before).any(axis=2).sum() > 100
    canvas.send_keys("2")
    assert not shown.find("show-reference").is_selected() and coloured(shown.picture()) < coloured(moved)
    shown.find("viewer-run").send_keys("scratch")
    shown.wait_for("1-0")
    shown.find("viewer-view").send_keys("axial")
    before = crossing(shown.picture())
    canvas.send_keys(Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_UP)
    after = crossing(shown.picture())
    assert after[0] < before[0] - 10 and after[1] < before[1] - 5  # up and to the left
    shown.find("viewer-view").send_keys("3")
    front = shown.picture()
    canvas.send_keys(Keys.ARROW_LEFT)
    assert (shown.picture() != front).any(axis=2).sum() > 100
    assert shown.errors() == []


def test_what_an_injected_script_or_picture_would_do_is_stopped(chromium, page, tmp_path):
    """Were a text not escaped, the policy of the page would still keep it from running and from asking anybody."""
    text = Path(page.removeprefix("file://")).read_text(encoding="utf-8")
    bad = (
        "<script>document.title='x'</script><img src=x onerror=\"document.title='x'\"><img src='https://example.org/'>"
    )
    (tmp_path / "bad.html").write_text(text.replace("<main", f"{bad}<main", 1))
    shown = Open(chromium, (tmp_path / "bad.html").as_uri())
    assert chromium.title == "scratch and tuned and fold_0"
    assert sum("violates the following Content Security Policy" in error for error in shown.errors()) == 4


def test_table_sorts_finds_and_runs_no_name(chromium, page):
    shown = Open(chromium, page)
    first = "return document.querySelector('.cases tbody tr:not([hidden]) th').dataset.value"
    assert shown.run(first) == "case_1"
    heading = chromium.find_elements("css selector", ".cases thead button")[0]
    heading.click()
    assert shown.run(first) == HARMLESS  # by name
    heading.click()
    assert shown.run(first) == "case_2"
    assert shown.run("return document.querySelector('.cases thead th').getAttribute('aria-sort')") == "descending"
    shown.find("find-case").send_keys("ALERT")
    assert shown.run(first) == HARMLESS
    assert shown.run("return document.querySelectorAll('.cases tbody tr:not([hidden])').length") == 1
    assert shown.errors() == []


def test_theme_changes_and_a_narrow_window_does_not_scroll_sideways(chromium, page):
    shown = Open(chromium, page)
    colours = []
    for _ in range(2):
        shown.find("theme").click()
        colours.append(shown.run("return getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        shown = Open(chromium, page)
        assert shown.run("return document.documentElement.scrollWidth") <= 390
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


CONTRAST = """
const parts = (text) => text.match(/[\\d.]+/g).map(Number);
const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => [r, g, b].map((v) => linear(v / 255))
  .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
const paper = (node) => {
  for (let at = node; at; at = at.parentElement) {
    const found = parts(getComputedStyle(at).backgroundColor);
    if (found.length === 3 || found[3] > 0) return found;
  }
  return [255, 255, 255];
};
document.querySelectorAll("details").forEach((each) => { each.open = true; });
return [...document.querySelectorAll("body *")]
  .filter((node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()))
  .filter((node) => node.checkVisibility() && !["SCRIPT", "OPTION"].includes(node.tagName))
  .map((node) => {
    const style = getComputedStyle(node);
    const inks = [light(parts(node.namespaceURI.includes("svg") ? style.fill : style.color)), light(paper(node))];
    return [node.tagName, (Math.max(...inks) + 0.05) / (Math.min(...inks) + 0.05)];
  })
  .filter(([, contrast]) => contrast < 4.5);
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_contrast_and_controls_have_names(chromium, page, theme):
    shown = Open(chromium, page)
    shown.run("document.documentElement.dataset.theme = arguments[0]", theme)
    assert shown.run(CONTRAST) == []
    controls = chromium.find_elements("css selector", "button, select, input, canvas, img, svg[role]")
    assert len(controls) > 20 and all(each.accessible_name for each in controls if each.is_displayed())


def test_served_page_shows_every_case(chromium, runs):
    page = ServedPage(read_runs([str(runs["scratch"]), str(runs["tuned"])]), PageSettings(), viewer=installed_viewer())
    with PageServer(page) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        shown = Open(chromium, server.address)
        chromium.find_elements("css selector", "button[data-view]")[3].click()
        shown.wait_for("3-1")
        assert coloured(shown.picture()) > 100
        assert all(url.startswith(server.address) for url in shown.requests())
        assert shown.errors() == []
        server.shutdown()
        thread.join(10)


def test_page_without_webgl_says_so(page, tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for option in (*OPTIONS[:3], "--disable-gpu", "--disable-3d-apis", f"--user-data-dir={tmp_path}"):
        options.add_argument(option)
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER)) as driver:
        from selenium.webdriver.support.ui import WebDriverWait

        shown = Open.__new__(Open)
        shown.driver = driver
        driver.get(page)
        shown.run("document.getElementById('viewer').scrollIntoView()")
        WebDriverWait(driver, 60).until(lambda _: "it needs a browser with WebGL 2" in shown.find("viewer-status").text)


@pytest.mark.skipif("BDFM_TEST_NIIVUE" not in os.environ, reason="name dist/index.js of @niivue/niivue there")
def test_the_script_of_the_npm_package_does_as_well(chromium, runs, tmp_path):
    viewer = os.environ["BDFM_TEST_NIIVUE"]
    assert main(["report", str(runs["tuned"]), "--viewer", viewer, "-o", str(tmp_path)]) == 0
    shown = Open(chromium, (tmp_path / "report.html").as_uri())
    chromium.find_elements("css selector", "button[data-view]")[0].click()
    shown.wait_for("0-0")
    assert coloured(shown.picture()) > 100 and shown.errors() == []
