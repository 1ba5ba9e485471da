"""report.html in a real browser: headless Chromium, where it is installed."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pages
import pytest
from chromium import PROGRAM, Chromium
from PIL import Image

from segkit.report.gallery import Group
from segkit.report.page import page

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here")

FIGURE = "document.querySelector('figure.exhibit')"


@pytest.fixture(scope="module")
def browser():
    with Chromium() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_bytes(page(pages.document(("sky", "road", "tree", "car"), trained=True)))
    return path


@pytest.fixture(scope="module")
def attacked(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("attacked") / "<b onclick=alert(1)>.html"
    names = (*pages.HOSTILE, "x" * 300, "طريق 🚲")
    path.write_bytes(page(pages.document(names, images=names[:4], title=names[1] + "y" * 200)))
    return path


def pixels(shot: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


@pytest.mark.parametrize("name", ["report", "attacked"])
def test_it_opens_from_disk_without_network_or_complaint(browser, request, name):
    path = request.getfixturevalue(name)
    browser.open(path)
    fetched = [url for url in browser.requests if not url.startswith("data:")]
    assert fetched == [path.as_uri()]
    assert browser.complaints == []
    assert browser.run("document.documentElement.className") == "js", "the script ran"
    assert browser.run("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    assert browser.run("getComputedStyle(document.querySelector('section')).borderRadius") != "0px"


def test_the_policy_stops_what_is_not_on_the_page(browser, report):
    """If a name got out after all, it would still neither run nor load."""
    browser.open(report)
    browser.run(
        "document.body.insertAdjacentHTML('beforeend',"
        '\'<img src="https://example.invalid/x.png" onerror="window.ran = 1">\'),'
        "document.body.appendChild(document.createElement('script')).textContent = 'window.ran=1'"
    )
    browser.run("new Promise((done) => setTimeout(done, 200))")
    assert browser.run("window.ran === undefined")
    assert not [url for url in browser.requests if url.startswith("http")]
    assert browser.complaints, "the browser says what it blocked"


@pytest.mark.parametrize("name", ["report", "attacked"])
@pytest.mark.parametrize("width", [320, 1200])
def test_nothing_sticks_out(browser, request, name, width):
    browser.open(request.getfixturevalue(name), width=width)
    assert browser.run("document.documentElement.scrollWidth") <= width
    # A phone widens its layout where something does not fit; this is what would tell.
    assert browser.run("visualViewport.scale") == 1
    assert browser.run("document.documentElement.clientWidth") <= width


def test_tables_fit_on_a_small_phone(browser, tmp_path):
    path = tmp_path / "report.html"
    names = ("sky", "sign_symbol", "traffic light or sign", "motorcyclist-" * 3)
    path.write_bytes(page(pages.document(names)))
    browser.open(path, width=320)
    browser.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    hidden = "[...document.querySelectorAll('.scroll')].map((s) => s.scrollWidth - s.clientWidth)"
    assert browser.run(hidden) == [0] * browser.run("document.querySelectorAll('.scroll').length")
    apart = browser.run(
        "[...document.querySelectorAll('.classes tbody th')].map((th) =>"
        "th.querySelector('svg').getBoundingClientRect().top"
        "- th.querySelector('bdi').getClientRects()[0].top)"
    )
    assert len(apart) == 4
    assert all(0 <= distance < 10 for distance in apart), "a swatch is on its name's first line"


def test_tiny_pictures_stay_small(browser, tmp_path):
    path = tmp_path / "report.html"
    found = pages.document(images=())
    tiny = pages.picture("tiny", size=(10, 1))
    path.write_bytes(page(replace(found, gallery=[Group("all", [tiny, pages.picture("plain")])])))
    browser.open(path)
    boxes = browser.run(
        "[...document.querySelectorAll('.layers')].map((layers) => [layers,"
        "...layers.querySelectorAll('img')].map((e) => e.getBoundingClientRect())"
        ".map((box) => [box.x, box.width, box.height].map(Math.round).join(' ')))"
    )
    small, plain = (set(own) for own in boxes)
    assert len(small) == len(plain) == 1, "all layers have one place"
    assert small.pop().split()[1:] == ["8", "80"]
    assert int(plain.pop().split()[1]) >= 380


def test_a_class_without_truth_is_told(browser, tmp_path):
    path = tmp_path / "report.html"
    matrix = np.array([[90, 10, 0], [30, 60, 10], [0, 0, 0]])
    path.write_bytes(page(pages.document(matrix=matrix)))
    browser.open(path)
    for cell in (6, 8):
        browser.run(f"document.querySelectorAll('.matrix td')[{cell}].click()")
        told = browser.run("document.getElementById('readout').textContent")
        assert told == "tree: there is none in the truth, so nothing could be found or mistaken"


def test_light_and_dark(browser, report):
    browser.open(report)
    light = pixels(browser.screenshot())
    browser.open(report, dark=True)
    dark = pixels(browser.screenshot())
    assert light.mean() > 170
    assert dark.mean() < 90


def test_the_matrix_by_keyboard(browser, report):
    browser.open(report)
    browser.run("document.querySelector('.matrix td[tabindex=\"0\"]').focus()")
    told = "document.getElementById('readout').textContent"
    first = browser.run(told)
    assert first.startswith("sky: ")
    assert " found (" in first
    browser.press("ArrowRight", "ArrowDown", "ArrowDown")
    assert "tree: " in browser.run(told)
    assert "taken for road" in browser.run(told)
    assert browser.run("document.activeElement.getAttribute('aria-label')") == browser.run(told)
    browser.press("End")
    assert "taken for car" in browser.run(told)
    browser.press("ArrowRight", "ArrowDown", "ArrowDown")
    assert browser.run(told).startswith("car: ")
    assert browser.run("document.querySelectorAll('.matrix td[tabindex=\"0\"]').length") == 1
    browser.press("Tab")
    assert browser.run("document.activeElement.closest('.matrix') === null"), "no trap"


def test_the_matrix_under_the_mouse(browser, report):
    browser.open(report)
    place = browser.run(
        "(() => { const cell = document.querySelectorAll('.matrix td')[6];"
        "cell.scrollIntoView({block: 'center', behavior: 'instant'});"
        "const box = cell.getBoundingClientRect(); return [box.x + 5, box.y + 5]; })()"
    )
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
    told = browser.run("document.getElementById('readout').textContent")
    assert told.startswith("road: ")
    assert "taken for tree" in told


def shares(browser: Chromium) -> list[float]:
    """How much of the width each picture of the first exhibit covers, in percent."""
    return browser.run(
        f"[...{FIGURE}.querySelectorAll('.layers img')].map((i) =>"
        "100 - Number((i.style.clipPath.match(/inset\\(0(?:px|%)? ([\\d.]+)%/) || [0, 0])[1]))"
    )


def test_the_pictures_by_keyboard(browser, report):
    browser.open(report)
    checked = f"[...{FIGURE}.querySelectorAll('.tabs input')].findIndex((r) => r.checked)"
    assert browser.run(checked) == 2
    assert shares(browser) == [100, 100, 100, 0]
    browser.run(f"{FIGURE}.querySelector('.tabs input:checked').focus()")
    browser.press("ArrowRight")
    assert browser.run(checked) == 3
    assert shares(browser) == [100, 100, 100, 100]
    browser.press("ArrowLeft", "ArrowLeft", "ArrowLeft")
    assert shares(browser) == [100, 0, 0, 0]
    browser.press("Tab", "ArrowRight", "ArrowRight")
    assert browser.run("document.activeElement.type") == "range"
    assert shares(browser) == pytest.approx([100, 10, 0, 0])
    browser.press("End")
    assert shares(browser) == [100, 100, 100, 100]
    assert browser.run(checked) == 3


def test_the_pictures_are_what_they_are_called(browser, report):
    """Image, truth, prediction and error differ on the screen, each with its own tab."""
    browser.open(report)
    shots = []
    for number in range(4):
        browser.run(f"{FIGURE}.querySelector('.r{number}').click()")
        browser.run(f"{FIGURE}.scrollIntoView({{block: 'start', behavior: 'instant'}})")
        box = browser.run(
            f"(() => {{ const b = {FIGURE}.querySelector('.layers').getBoundingClientRect();"
            "return [b.x, b.y, b.right, b.bottom].map(Math.round); })()"
        )
        image = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
        shots.append(np.asarray(image.crop(box)).astype(int))
    for one in range(4):
        for other in range(one):
            assert np.abs(shots[one] - shots[other]).mean() > 2
    assert len(np.unique(shots[3].reshape(-1, 3) // 64, axis=0)) < 40, "few colours: right, wrong"


def test_without_scripts_the_tabs_still_work(browser, report):
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(report)
        assert browser.run("document.documentElement.className") == ""
        layer = f"getComputedStyle({FIGURE}.querySelector('.l{{}}')).visibility"
        assert browser.run(layer.format(2)) == "visible"
        browser.run(f"{FIGURE}.querySelector('.r1').focus()")
        browser.press(" ")
        assert browser.run(layer.format(1)) == "visible"
        assert browser.run(layer.format(2)) == "hidden"
    finally:
        browser.ask("Emulation.setScriptExecutionDisabled", value=False)


def test_the_signed_line_is_copied(browser, report):
    browser.open(report)
    browser.run("document.querySelector('[data-copies]').focus()")
    browser.press("Enter")
    browser.run("new Promise((done) => setTimeout(done, 100))")
    line = browser.run("document.getElementById('signed').textContent")
    assert browser.run("getSelection().toString()").split() == line.split()
    assert browser.run("document.querySelector('[data-copies]').textContent") in (
        "Copied",
        "Selected",
    )


def test_it_prints(browser, report):
    browser.open(report)
    printed = browser.ask("Page.printToPDF")["data"]
    assert len(printed) > 20_000
