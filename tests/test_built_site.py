"""The built site has no fault; opened as files, its pages can be searched and ask nobody."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docs.site import build

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(sys.executable).with_name("zensical").exists(), reason="needs the extra docs"),
]


@pytest.fixture(scope="module")
def site() -> Path:
    assert build.main() == 0
    return build.SITE


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (BROWSER and DRIVER):
        pytest.skip("needs Chromium and its driver (Debian: chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def test_site_has_every_page(site: Path) -> None:
    pages = {path.relative_to(build.PAGES).with_suffix(".html") for path in build.PAGES.rglob("*.md")}
    assert pages and not {page for page in pages if not (site / page).exists()}
    python = (site / "reference/python.html").read_text(encoding="utf-8")
    assert all(f'id="bdfm_nnunet.{name}"' in python for name in ("losses.focal_frequency_loss", "errors.InputError"))


@pytest.mark.parametrize("page", ["index.html", "tutorials/brats.html"])
def test_pages_are_searched_without_server_or_internet(site: Path, chromium: Any, page: str) -> None:
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    chromium.get_log("browser"), chromium.get_log("performance")
    chromium.get((site / page).as_uri())
    wait = WebDriverWait(chromium, 60)
    wait.until(lambda driver: driver.execute_script("return document.readyState") == "complete")
    chromium.find_element("tag name", "body").send_keys(Keys.CONTROL, "k")
    field = wait.until(lambda driver: driver.execute_script("return document.activeElement.shadowRoot?.activeElement"))
    field.send_keys("wheelhouse")
    found = "return [...document.activeElement.shadowRoot.querySelectorAll('a')].map(each => each.innerText).join(' ')"
    wait.until(lambda driver: "wheelhouse" in driver.execute_script(found))
    assert [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"] == []
    events = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    assert asked and all(address.startswith(("file:", "data:", "blob:", "about:")) for address in asked)
