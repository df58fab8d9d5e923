"""The page of the benchmark: its moving pictures, and all of it in a browser if there is one."""

import itertools
import json
import math
import shutil

import pytest
from riemopt_bench.page import animation, drawing, experiment
from riemopt_bench.page.report import write_report

from tests.test_bench_run import finished  # noqa: F401  (a fixture)

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def frames():
    return experiment.frames()


def norms(points):
    return [math.hypot(*point) for point in points]


def test_the_original_drifts_and_a_stored_point_does_not(frames):
    runs = frames["circle"]["runs"]
    assert max(abs(n - 1) for n in norms(runs["riemopt"]["stored"])) < 1e-4  # five digits are kept
    grown = norms(runs["parametrize"]["stored"])
    assert all(b > a - 1e-4 for a, b in itertools.pairwise(grown))
    assert grown[-1] > 2
    again = norms(runs["reimposed"]["stored"])
    assert max(abs(n - 1) for n in again[:: experiment.REIMPOSED_EVERY]) < 1e-4
    assert max(again) > 1.3


def test_decay_takes_what_parametrize_stores(frames):
    unused, layer = frames["unused"]["runs"], frames["layer"]["runs"]
    assert unused["parametrize"][-1]["used"] is None  # nan
    assert unused["riemopt"][-1] == {"step": experiment.UNUSED_STEPS, "stored": 1.0, "used": 1.0}
    assert layer["parametrize"][1]["norm"] == 0
    assert all(abs(row["norm"] - 8**0.5) < 1e-3 for row in layer["riemopt"])
    assert layer["riemopt"][-1]["loss"] < 0.5 * layer["parametrize"][-1]["loss"]


def test_what_is_stored_of_a_symmetric_weight(frames):
    runs = frames["symmetric"]["runs"]

    def asymmetry(matrix):
        return max(abs(matrix[i][j] - matrix[j][i]) for i in range(3) for j in range(3))

    assert asymmetry(runs["parametrize"]["stored"][-1]) > 0.1
    assert all(asymmetry(runs[name]["used"][-1]) == 0 for name in runs)
    assert all(asymmetry(matrix) == 0 for matrix in runs["riemopt"]["stored"])


def test_what_json_has_no_word_for_is_none():
    given = {"a": [1.0, math.nan, {"b": math.inf}], "c": 3, "d": 1 / 3}
    assert experiment._finite(given) == {"a": [1.0, None, {"b": None}], "c": 3, "d": 0.33333}


def test_a_line_grows_by_its_length():
    path = animation._path([(0, 0), (3, 4), (3, 4), (3, 9)])
    assert path.offsets == "1.000;0.500;0.500;0.000"
    assert path.last == ("3.0", "9.0")


def test_the_names_of_series_are_those_of_the_drawing():
    from matplotlib.figure import Figure

    figure = Figure()
    axis = figure.subplots()
    axis.plot([1, 2, 3], [4, 5, 6], label="a")
    axis.plot([1, 2, 3], [4, 5, 6])
    (series,) = drawing.name_series(figure, "name")
    assert series == {"id": "name-series-0", "label": "a", "x": [1, 2, 3], "y": [4, 5, 6]}
    text = drawing.inline(drawing.document(figure, "name"), "a picture")
    drawn = text.split('id="name-series-0"')[1].split("</g>")[0]
    assert drawn.count("M ") + drawn.count("L ") == 3


# --- in a browser: by `make test-page` ---------------------------------------------------------

slow = pytest.mark.slow


@pytest.fixture(scope="module", params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
def browser(request):
    """A headless browser that shows the page, and what it says went wrong."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver")
    directory, keys, _ = request.getfixturevalue("finished")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    width, height = request.param
    sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
    driver.get(write_report(directory, prefer=keys).resolve().as_uri())
    yield driver
    driver.quit()


@slow
def test_the_page_loads_without_an_error_and_asks_for_nothing(browser):
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if "requestWillBeSent" in m["method"]]
    assert {url.partition(":")[0] for url in asked} == {"file"}
    assert len({url for url in asked if not url.endswith("favicon.ico")}) == 1


@slow
def test_nothing_is_wider_than_the_window(browser):
    wide = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0


@slow
def test_every_picture_is_drawn(browser):
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('svg')].map((svg) => {"
        "  const seen = svg.getBBox(); return [seen.width, seen.height, svg.clientWidth]; });"
    )
    assert len(sizes) > 9 + 10
    assert all(width > 50 and height > 10 and shown > 200 for width, height, shown in sizes)


@slow
def test_a_table_is_sorted_by_a_click(browser):
    click = (
        "const table = document.querySelector('table.sortable');"
        "table.tHead.querySelectorAll('button')[2].click();"
        "return [...table.tBodies[0].rows].map((row) => Number(row.cells[2].dataset.value));"
    )
    up, down, original = (browser.execute_script(click) for _ in range(3))
    assert up == sorted(up)
    assert down == up[::-1]
    assert sorted(original) == up


@slow
def test_values_are_shown_under_the_pointer_and_by_keys(browser):
    show = (
        "const svg = document.querySelector('#digits figure[data-series] svg[tabindex]');"
        "svg.focus(); svg.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}));"
        "const tip = document.querySelector('.tip'); return tip.hidden ? '' : tip.textContent;"
    )
    assert ": " in browser.execute_script(show)


@slow
def test_moving_pictures_stop_at_a_place(browser):
    place = (
        "const act = document.querySelectorAll('.act')[1];"
        "const slider = act.querySelector('input'); slider.value = 0.25;"
        "slider.dispatchEvent(new Event('input'));"
        "const time = act.querySelector('svg').getCurrentTime();"
        "return [act.querySelector('button').textContent, time];"
    )
    assert browser.execute_script(place) == ["Play", pytest.approx(4.0)]
