"""A table as a page: its text, and where Chromium is installed the page as it is seen."""

import re
from html.parser import HTMLParser

import ablation_documents as docs
import pages
import pytest
from chromium import PROGRAM, Chromium

from segkit.report.ablation_page import page


class Page(HTMLParser):
    """Elements in their order, and the ids and targets among them."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.ids, self.targets, self.text = [], set(), set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        self.elements.append((tag, known))
        if "id" in known:
            assert known["id"] not in self.ids
            self.ids.add(known["id"])
        if tag == "a":
            self.targets.add(known["href"])

    def handle_data(self, data):
        self.text += data


def attacked():
    document = docs.document(title=pages.HOSTILE[1], command=pages.HOSTILE[0])
    for row, text in zip(document["rows"], pages.HOSTILE, strict=False):
        row["label"], row["key"] = [text, text, "x" * 200], text
        row["protocol"] = [text]
        for cell in row["numbers"].values():
            for seed in cell["seeds"]:
                seed["run"] = seed["score"] = seed["signature"] = text
    document["columns"][0]["name"] = pages.HOSTILE[2]
    for row in document["rows"]:
        row["numbers"] = {pages.HOSTILE[2]: row["numbers"]["mIoU"], "CRF": row["numbers"]["CRF"]}
    document["rows"][1]["numbers"]["CRF"]["state"] = f"failed 4: {pages.HOSTILE[7]}"
    return document


def test_every_number_leads_to_its_evidence():
    text = page(docs.document(), "0.1.0").decode()
    found = Page(text)
    assert {target[1:] for target in found.targets} <= found.ids
    numbers = [a for tag, a in found.elements if tag == "a" and "title" in a]
    assert len(numbers) == 6, "four scores, a failure and a reason"
    assert f"seed 0: {docs.SIGNATURE}" in numbers[0]["title"]
    evidence = text[text.index('id="evidence"') :]
    for part in (docs.SIGNATURE.replace(">", "&gt;"), "ablation-51.02/score.json", "failed 4: "):
        assert part in evidence


def test_missing_cells_are_marked():
    text = page(docs.document(), "0.1.0").decode()
    marked = re.findall(r'<td class="n ours missing">(.*?)</td>', text)
    assert [re.sub("<.*?>", "", cell) for cell in marked][:3] == [
        "failed 4",
        "running 40 %",
        "not run",
    ]
    assert len(marked) == 8


def test_no_script_is_there_or_allowed():
    text = page(attacked(), "0.1.0").decode()
    assert "<script" not in text
    found = Page(text)
    (policy,) = [a["content"] for tag, a in found.elements if tag == "meta" and "http-equiv" in a]
    assert "default-src 'none'" in policy
    assert "script-src 'none'" in policy
    assert not [a for _, known in found.elements for a in known if a.startswith("on")]
    outside = {"img", "iframe", "object", "embed", "link", "base", "form"}
    assert not {tag for tag, _ in found.elements} & outside
    assert pages.HOSTILE[1] in found.text, "as text"


def test_the_same_document_gives_the_same_bytes():
    assert page(docs.document(), "0.1.0") == page(docs.document(), "0.1.0")


def test_what_is_not_to_be_compared_has_no_difference_order_or_drawing():
    document = docs.document(order=None, words=["backbone=r50_beta"])
    document["scale"]["compare"] = False
    for row in document["rows"]:
        for cell in row["numbers"].values():
            cell["difference"] = None
    text = page(document, "0.1.0").decode()
    assert '51.02 ± 0.41</a></td><td class="n">–</td>' in text
    assert "order of rows" not in text
    assert "h-drawings" not in text
    assert "every training with: backbone=r50_beta" in text


def test_drawings_have_a_place_for_each_number():
    text = page(docs.document(), "0.1.0").decode()
    assert text.count('<circle class="of-paper"') == 1 + 7
    assert text.count('<circle class="of-ours"') == 1 + 4
    nothing = docs.document(
        rows=[docs.row("a", ["", "", ""], mIoU=docs.cell("75.36"), CRF=docs.cell(None))]
    )
    assert "h-drawings" not in page(nothing, "0.1.0").decode()


# -- as it is seen ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    if PROGRAM is None:
        pytest.skip("no Chromium here")
    with Chromium() as found:
        yield found


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    made = {"table": docs.document(), "attacked": attacked()}
    for name, document in made.items():
        (folder / f"{name}.html").write_bytes(page(document, "0.1.0"))
    return {name: folder / f"{name}.html" for name in made}


@pytest.mark.parametrize("name", ["table", "attacked"])
@pytest.mark.parametrize(("width", "dark"), [(320, False), (1200, True)])
def test_it_opens_without_network_complaint_or_overflow(browser, paths, name, width, dark):
    browser.open(paths[name], width=width, dark=dark)
    assert browser.requests == [paths[name].as_uri()]
    assert browser.complaints == []
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("visualViewport.scale") == 1
    colour = browser.run("getComputedStyle(document.body).backgroundColor")
    assert colour == ("rgb(17, 20, 23)" if dark else "rgb(244, 246, 248)")


def test_one_column_of_numbers_fits_on_a_small_phone(browser, tmp_path):
    document = docs.document()
    document["columns"] = document["columns"][:1]
    for row in document["rows"]:
        del row["numbers"]["CRF"]
    path = tmp_path / "table.html"
    path.write_bytes(page(document, "0.1.0"))
    browser.open(path, width=320)
    hidden = "(s => s.scrollWidth - s.clientWidth)(document.querySelector('#table .scroll'))"
    assert browser.run(hidden) == 0
    # A number that is followed shows its evidence, without a script.
    browser.run("document.querySelector('td.ours a').click()")
    assert browser.run("document.querySelector(':target bdi').textContent") == "mg111, mIoU"


def test_it_can_be_printed(browser, paths):
    browser.open(paths["table"])
    browser.ask("Emulation.setEmulatedMedia", media="print")
    shown = browser.run("getComputedStyle(document.querySelector('.scroll')).overflowX")
    browser.ask("Emulation.setEmulatedMedia", media="")
    assert shown == "visible"
