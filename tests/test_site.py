"""The site in a headless browser, read from its files, as `make docs` builds it.

By `make test-site`: mkdocs, Chromium and its driver must be there.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WIDTHS = {"phone": 390, "desktop": 1200}
STIEFEL = {
    "catalogue.html": "#stiefel",
    "reference/riemopt.manifolds.html": "#riemopt.manifolds.Stiefel",
}
"""Where the word must be found, among others."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of a site that was built now."""
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def driver():
    webdriver = pytest.importorskip("selenium.webdriver")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def resize(driver, width):
    sizes = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)


def prefer(driver, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def schemes_asked(driver):
    """The schemes of all addresses that were asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if "requestWillBeSent" in m["method"]]
    return {url.partition(":")[0] for url in asked}


def pages(site):
    return sorted(path for path in site.rglob("*.html") if path.name != "404.html")


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_every_page_loads_without_an_error_and_fits(site, driver, width):
    """And asks the network for nothing."""
    resize(driver, width)
    driver.get_log("performance"), driver.get_log("browser")
    for page in pages(site):
        driver.get(page.as_uri())
        wide = driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, page
        assert driver.get_log("browser") == [], page
        assert schemes_asked(driver) <= {"file", "data", "blob", "about"}, page


@pytest.mark.parametrize("page", ["index.html", "reference/riemopt.manifolds.html"])
def test_search_finds_words_without_a_server(site, driver, page):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    resize(driver, WIDTHS["desktop"])
    driver.get((site / page).as_uri())
    driver.get_log("performance"), driver.get_log("browser")
    box = driver.find_element(By.CSS_SELECTOR, "input.md-search__input")
    driver.execute_script("arguments[0].focus()", box)
    box.send_keys("Stiefel")

    def addresses(driver):  # which change while one types
        links = "return Array.from(document.querySelectorAll(arguments[0]), link => link.href)"
        found = driver.execute_script(links, ".md-search-result__item a[href]")
        return {re.sub(r"\?[^#]*", "", address) for address in found}

    wanted = {(site / path).as_uri() + anchor for path, anchor in STIEFEL.items()}
    WebDriverWait(driver, 60).until(lambda driver: wanted <= addresses(driver))
    assert driver.get_log("browser") == []
    assert schemes_asked(driver) <= {"file", "data", "blob", "about"}


@pytest.mark.parametrize("page", ["index.html", "catalogue.html"])
def test_the_site_is_dark_where_the_reader_wants_it(site, driver, page):
    resize(driver, WIDTHS["desktop"])
    brightness = {}
    for scheme in ("light", "dark"):
        prefer(driver, scheme)
        driver.get((site / page).as_uri())
        driver.execute_script("localStorage.clear()")
        driver.refresh()
        colour = "return getComputedStyle(document.body).getPropertyValue(arguments[0])"
        colours = [driver.execute_script(colour, name) for name in ("background-color", "color")]
        brightness[scheme] = [sum(_channels(driver, c)) for c in colours]
    prefer(driver, "")
    light, dark = brightness["light"], brightness["dark"]
    assert light[0] > light[1]
    assert dark[0] < dark[1]


def _channels(driver, colour):
    """Red, green and blue of a colour of CSS, laid on white."""
    draw = """
        const context = document.createElement("canvas").getContext("2d");
        context.fillStyle = "white"; context.fillRect(0, 0, 1, 1);
        context.fillStyle = arguments[0]; context.fillRect(0, 0, 1, 1);
        return Array.from(context.getImageData(0, 0, 1, 1).data).slice(0, 3);
    """
    return driver.execute_script(draw, colour)
