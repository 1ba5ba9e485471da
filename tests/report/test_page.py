"""report.html as text: what is on it, and that no name gets out of its place."""

import base64
import hashlib
import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pages
import pytest
import torch

from segkit.errors import hide
from segkit.report import charts, gallery
from segkit.report.gallery import Group
from segkit.report.log_lines import WHOLE, log_lines
from segkit.report.page import page

VOID = {"img", "input", "meta", "br", "link"}


class Parsed(HTMLParser):
    """Elements with their attributes and texts, as a browser would find them."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(data.decode())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, {name: value or "" for name, value in attributes}))

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop() == tag, "elements do not nest"

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def handlers(self) -> int:
        return sum(name.startswith("on") for _, a in self.elements for name in a)


# -- escaping (row S12) ----------------------------------------------------------------------------


def hostile() -> bytes:
    names = pages.HOSTILE
    attacked = pages.document(
        names, images=names, title=names[2], dataset=names[0], weights=names[1], crf=None
    )
    attacked.score["signature"][names[3]] = {names[1]: names[0]}
    attacked.score["trimap"]["around"] = names[1]
    attacked.settings[names[1]] = "\n".join(names)
    attacked.environment[names[6]] = [names[7]]
    attacked.gallery.append(Group(names[1], [pages.picture(names[2])], left_out=2))
    return page(attacked)


def clean() -> bytes:
    names = tuple("abcdefgh")
    sound = pages.document(names, images=names)
    sound.score["signature"]["later"] = {"a": "b"}
    sound.settings["other"] = "text"
    sound.environment["other"] = ["text"]
    sound.gallery.append(Group("more", [pages.picture("x")], left_out=2))
    return page(sound)


def test_no_name_becomes_an_element_or_a_handler():
    attacked, sound = Parsed(hostile()), Parsed(clean())
    assert [tag for tag, _ in attacked.elements] == [tag for tag, _ in sound.elements]
    assert attacked.handlers() == sound.handlers() == 0
    assert len(attacked.all("script")) == 2
    assert not attacked.open
    told = "".join(attacked.texts["main"])
    for name in pages.HOSTILE:
        assert name.replace(pages.LINE_SEPARATOR, "\\u2028") in told, "it is there, as text"


def test_nothing_is_fetched_and_nothing_leads_away():
    for element, attributes in Parsed(hostile()).elements:
        assert element not in ("link", "iframe", "object", "embed", "base", "form")
        for name in attributes.keys() & {"src", "href", "srcset", "action", "poster", "data"}:
            start = "#" if element == "a" else "data:image/"
            assert attributes[name].startswith(start), (element, attributes[name][:40])
        assert "style" not in attributes, "the policy has no place for it"


def test_the_policy_names_the_one_style_and_the_one_script():
    found = Parsed(hostile())
    (policy,) = (m["content"] for m in found.all("meta") if m.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy
    for kind, text in (("style", found.texts["style"][0]), ("script", found.texts["script"][1])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_json_in_the_script_is_ascii_and_whole():
    text = Parsed(hostile()).texts["script"][0]
    assert text.isascii()
    assert not set(text) & set("<>&")
    names = [name.replace(pages.LINE_SEPARATOR, "\\u2028") for name in pages.HOSTILE]
    assert json.loads(text)["names"] == names


def test_no_secret_of_the_environment_is_on_it():
    hide("correct-horse", "${oc.env:TOKEN}")
    text = page(pages.document(title="run correct-horse")).decode()
    assert "correct-horse" not in text
    assert "${oc.env:TOKEN}" in text


# -- content ---------------------------------------------------------------------------------------


def test_the_same_document_gives_the_same_bytes():
    assert hostile() == hostile()


def test_seconds_are_not_on_it():
    one, other = pages.document(), pages.document()
    other.score["seconds"]["total"] = 77.0
    assert page(one) == page(other)


def test_score_signature_and_classes():
    matrix = np.array([[90, 10, 0], [30, 60, 10], [0, 0, 0]])
    found = Parsed(page(pages.document(matrix=matrix, skipped=2)))
    assert found.texts["dd"][0] == f"{100 * (90 / 130 + 60 / 110 + 0) / 3:.2f}"
    rows = dict(zip(found.texts["dt"], found.texts["dd"], strict=True))
    assert rows["output stride here"] == "8"
    assert rows["images left out (unreadable)"] == "2"
    assert rows["output stride in training"] == "16, 8"
    cells = found.texts["td"]
    assert [c for c in cells if c in ("69.23", "54.55", "0.00")][:3] == ["69.23", "54.55", "0.00"]


def test_every_field_of_the_signature_is_told():
    found = pages.document()
    found.score["signature"]["window"] = {"size": 513}
    rows = Parsed(page(found))
    told = dict(zip(rows.texts["dt"], rows.texts["dd"], strict=True))
    assert told["window"] == "size 513"


def cells(data: bytes) -> list[list[str]]:
    text = data.decode()
    table = text[text.index('class="matrix') :]
    rows = table[: table.index("</table>")].split("<tr>")[2:]
    return [re.findall(r'<td class="(\w+)">(.*?)</td>', row) for row in rows]


def test_the_matrix_is_in_percent_of_its_rows():
    matrix = np.array([[90, 10, 0], [1, 998, 1], [0, 0, 0]])
    assert cells(page(pages.document(matrix=matrix))) == [
        [("s18", "90"), ("s2", "10"), ("s0", "")],
        [("s1", "0"), ("s20", "100"), ("s1", "0")],
        [("empty", "")] * 3,
    ]


@pytest.mark.parametrize(("classes", "numbers"), [(2, True), (24, True), (25, False), (150, False)])
def test_the_matrix_of_many_classes(classes, numbers):
    names = tuple(f"class {n}" for n in range(classes))
    data = page(pages.document(names, images=()))
    found = cells(data)
    assert [len(row) for row in found] == [classes] * classes
    assert any(text for _, text in found[0]) == numbers
    assert len(data) < 2_000_000


def test_no_class_counts():
    data = page(pages.document(matrix=np.zeros((3, 3), int), images=()))
    assert Parsed(data).texts["dd"][0] == "n/a"
    assert b"Largest confusions" not in data


@pytest.mark.parametrize(
    ("size", "shown"),
    [((1, 1), "8 8"), ((30, 40), "320 240"), ((60, 80), "480 360"), ((240, 480), "480 240"),
     ((720, 2), "2 720"), ((720, 360), "360 720")],
)  # fmt: skip
def test_small_images_are_not_blown_up(size, shown):
    rgb = np.zeros((*size, 3), np.uint8)
    with gallery.Spool() as spool:
        spool.keep(0, torch.zeros(size, dtype=torch.uint8))
        made = gallery.exhibit(
            "a", rgb, rgb[..., 0], spool.taken(0), miou=1, accuracy=1, colours=[(1, 2, 3)], ignore=9
        )
    found = pages.document(images=())
    images = Parsed(page(replace(found, gallery=[Group("all", [made])]))).all("img")
    assert {f"{image['width']} {image['height']}" for image in images} == {shown}


def test_boundaries_are_told_in_percent():
    notes = Parsed(page(pages.document())).texts["p"]
    assert [note for note in notes if "within 2 % of" in note and "within 0.75 % of" in note]


@pytest.mark.parametrize("images", [(), ("the only one",)])
def test_few_images(images):
    found = Parsed(page(pages.document(images=images)))
    assert len(found.all("figure")) == len(images)


def test_names_in_any_script():
    names = ("طريق", "🚲 bicycle", "道路")
    found = Parsed(page(pages.document(names, images=names)))
    assert all(name in found.texts["bdi"] for name in names)


def test_the_curve_near_borders():
    chart = charts.line_chart({"mIoU": [(1, 40.0), (5, 60.0), (11, 50.0)]}, "x", "y")
    places = [(x, y) for x, y, _ in chart.curves[0].points]
    assert [x for x, _ in places] == [
        chart.left,
        chart.left + 0.4 * (chart.right - chart.left),
        chart.right,
    ]
    assert [y for _, y in places] == [chart.bottom, chart.top, (chart.top + chart.bottom) / 2]
    assert charts.line_chart({"mIoU": [(1, 40.0)]}, "x", "y") is None
    assert charts.line_chart({"mIoU": [(1, 40.0), (2, 40.0)]}, "x", "y") is not None


@pytest.mark.parametrize("span", [(0, 1), (41.3, 88.2), (99.99, 99.991), (0, 0), (0, 1e6), (3, 97)])
def test_round_ticks(span):
    found = charts.round_ticks(*span)
    assert found[0] <= span[0] + 1e-9
    assert found[-1] >= span[1] - 1e-9
    assert 2 <= len(found) <= 6
    assert len(set(found)) == len(found)


def test_a_score_without_all_this_has_a_page():
    old = pages.document(images=())
    for key in ("trimap", "boundary", "categories", "iiou"):
        del old.score[key]
    found = Parsed(page(pages.Document(title="x", score=old.score, line="y", colours=old.colours)))
    anchors = [a["href"][1:] for a in found.all("a")]
    assert anchors == ["score", "classes", "confusion", "settings", "environment"]


# -- reading it ------------------------------------------------------------------------------------


def test_headings_labels_and_tables():
    found = Parsed(page(pages.document()))
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels)), "a level is left out"
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in found.all("a")} <= set(ids)
    labelled = {a["for"] for a in found.all("label")}
    for control in found.all("input"):
        assert control.get("id") in labelled or control["aria-label"]
    assert all(image["alt"] for image in found.all("img"))
    assert all(cell.get("scope") in ("row", "col") for cell in found.all("th"))
    assert all(a.get("aria-hidden") or a.get("aria-label") for a in found.all("svg"))


@pytest.mark.parametrize("theme", [charts.LIGHT, charts.DARK])
def test_contrast_of_every_shade(theme):
    for number in range(charts.SHADES):
        ground, text = charts.shade(number / (charts.SHADES - 1), theme)
        assert charts.contrast(ground, text) >= 4.5


def test_contrast_of_the_page():
    css = Parsed(page(pages.document())).texts["style"][0]
    themes = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    assert len(themes) == 2
    for theme in themes:
        colour = {
            name: tuple(bytes.fromhex(value))
            for name, value in re.findall(r"--(\w+): #(\w{6});", theme)
        }
        for ground in ("page", "card"):
            for text in ("ink", "faint", "accent", "second", "third"):
                assert charts.contrast(colour[text], colour[ground]) >= 4.5, (text, ground)


def test_contrast_is_that_of_wcag():
    assert charts.contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert charts.contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.005)


# -- the log ---------------------------------------------------------------------------------------


def test_a_log_up_to_the_step_that_was_scored(tmp_path):
    log = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"step": s, "loss": 1.0}) for s in range(10)]
    log.write_text("\n".join([*rows, "[1]", '{"step": 3, "lo', "nonsense"]))
    assert [row["step"] for row in log_lines(log, 6)] == list(range(7))
    assert log_lines(tmp_path / "none", 6) == []


def test_a_long_log_is_read_in_stretches(tmp_path):
    log = tmp_path / "metrics.jsonl"
    line = json.dumps({"step": 0, "loss": 1.0, "pad": "x" * 180})
    with log.open("w") as file:
        file.writelines(line.replace("0", str(step), 1) + "\n" for step in range(200_000))
    assert log.stat().st_size > 10 * WHOLE
    began = time.monotonic()
    found = [row["step"] for row in log_lines(log, 10**9)]
    assert time.monotonic() - began < 2
    assert found == sorted(found)
    assert found[0] == 0
    assert found[-1] > 199_000
    assert 500 < len(found) <= 1501
    assert max(b - a for a, b in pairwise(found)) < 2000


# -- row L7 ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_five_thousand_images():
    classes, size = 21, (375, 500)
    drawn = np.random.default_rng(0)
    rgb = drawn.integers(0, 256, (*size, 3)).astype(np.uint8)
    truth = np.kron(drawn.integers(0, classes, (15, 20)), np.ones((25, 25), np.int64))
    predictions = [torch.from_numpy(np.roll(truth, shift, 1)) for shift in range(20)]
    names = tuple(f"class {n}" for n in range(classes))
    began = time.monotonic()
    with gallery.Spool() as spool:
        for index in range(5000):
            spool.keep(index, predictions[index % 20])
        groups = gallery.choose(drawn.random(5000).tolist())
        found = pages.document(names, images=())
        found.gallery.extend(
            Group(
                title,
                [
                    gallery.exhibit(
                        f"{i}", rgb, truth, spool.taken(i),
                        miou=0.1, accuracy=0.2, colours=pages.COLOURS[:classes], ignore=255,
                    )
                    for i in group
                ],
            )
            for title, group in groups.items()
        )  # fmt: skip
        data = page(found)
    assert time.monotonic() - began < 60
    assert len(data) < 20_000_000
    assert len(Parsed(data).all("figure")) == 12
