"""A table as Markdown, CSV and plain text."""

import csv
import io
import re

import ablation_documents as docs
import pytest

from segkit.report.ablation_text import (
    CSV_COLUMNS,
    csv_text,
    markdown,
    markdown_grid,
    order_sentence,
    terminal,
)

HOSTILE = ("</script><b>", "a|b", "=1+1", "`x` *y*", "line\nbreak\u2028x", "\x1b[31mred", "![i](u)")


@pytest.fixture
def hostile():
    document = docs.document(title="</script>|# x\n# y")
    for row, text in zip(document["rows"], HOSTILE, strict=False):
        row["label"] = [text, text, text]
        row["key"] = text
    return document


def cells(line):
    """A Markdown row's cells, at the pipes that are no text."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_has_paper_ours_and_difference():
    lines = markdown_grid(docs.document()).splitlines()
    assert cells(lines[0])[:6] == [
        *("multi-grid", "ASPP rates", "image pooling"),
        *("mIoU: paper", "mIoU: ours", "difference"),
    ]
    assert cells(lines[2])[3:6] == ["75.36", "51.02 ± 0.41", "-24.34"]
    assert cells(lines[3])[3:6] == ["75.93", "*\\[running 40 %\\]*", ""]
    assert cells(lines[7])[3:6] == ["82.70", "*\\[blocked\\]*", ""]
    assert cells(lines[3])[-2:] == ["–", "–"], "a row with a missing cell has no hours"
    assert len({len(cells(line)) for line in lines}) == 1


def test_markdown_says_what_numbers_are_of():
    text = markdown(docs.document())
    assert "    segkit table v3.t5 scale=camvid seeds=[0,1]\n" in text
    assert (
        "- order of rows: 2 of 3 pairs as in the paper, 1 closer than the spread (pool / mg124)"
        in text
    )
    assert "- scale camvid: CamVid (367 training images) instead of VOC" in text
    assert "- jft: blocked: JFT is not public" in text
    assert "- mg111: failed 4: error\\[CKPT-DAMAGED\\]: a\\|b.json: is torn" in text
    assert "- one training, several rows: mg124, pool" in text
    assert text.count(docs.SIGNATURE) == len(set(re.findall(r"v3\S+score\.json", text)))


def test_a_column_that_the_paper_has_no_number_of_is_one_column():
    document = docs.document()
    for row in document["rows"]:
        row["numbers"]["CRF"] |= {"paper": None, "printed": None}
    header = cells(markdown_grid(document).splitlines()[0])
    assert header[3:7] == ["mIoU: paper", "mIoU: ours", "difference", "CRF"]


def test_names_are_text_in_markdown(hostile):
    text = markdown(hostile)
    lines = markdown_grid(hostile).splitlines()
    assert len({len(cells(line)) for line in lines}) == 1
    assert len(lines) == 2 + len(hostile["rows"])
    outside = [line for line in text.splitlines() if not line.startswith("    ")]
    assert not [line for line in outside if re.search(r"(?<!\\)[<`]", line)]
    assert "\x1b" not in text
    assert "\u2028" not in text
    assert [line for line in text.splitlines() if line.startswith("#")] == [text.splitlines()[0]]


def test_csv_is_tidy():
    text = csv_text(docs.document())
    assert text.count("\r\n") == len(text.splitlines())
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert tuple(rows[0]) == CSV_COLUMNS
    first = [row for row in rows if (row["row"], row["column"]) == ("mg111", "mIoU")]
    assert [row["seed"] for row in first] == ["0", "1"]
    assert {(row["paper"], row["mean"], row["spread"]) for row in first} == {
        ("75.36", "51.02", "0.41")
    }
    assert [float(row["value"]) for row in first] == [51.021, 51.021]
    assert first[0]["difference"] == "-24.34", "a number, no formula"
    assert first[0]["label"] == "multi-grid: (1,1,1); ASPP rates: 6, 12, 18"
    (jft,) = [row for row in rows if (row["row"], row["column"]) == ("jft", "mIoU")]
    assert (jft["seed"], jft["value"], jft["state"]) == ("", "", "blocked: JFT is not public")


def test_csv_keeps_texts_whole_and_starts_no_formula(hostile):
    rows = list(csv.DictReader(io.StringIO(csv_text(hostile), newline="")))
    assert {row["row"] for row in rows} >= {"</script><b>", "a|b", "'=1+1", "`x` *y*"}
    numeric = {"paper", "value", "mean", "spread", "difference"}
    for row in rows:
        assert None not in row
        assert not any(row[name].startswith(("=", "+", "@")) for name in row if name not in numeric)


def test_plain_text_fits_a_hundred_columns(hostile):
    long = docs.document(labels=["x" * 60, "y" * 60, "z" * 60], setting="word " * 60)
    long["rows"][0]["label"] = ["w" * 120, "6, 12, 18, " * 10, ""]
    for document in (docs.document(), hostile, long):
        text = terminal(document)
        assert max(map(len, text.splitlines())) <= 100
        assert "\x1b" not in text
    text = terminal(docs.document())
    (line,) = [line for line in text.splitlines() if "75.36" in line]
    assert line.split() == [
        *("(1,1,1)", "·", "6,", "12,", "18", "·", "–"),
        *("75.36", "51.02", "+-", "0.41", "-24.34", "–", "–"),
    ]
    assert "[running 40 %]" in text
    assert len({line.index("·") for line in text.splitlines() if line.startswith("(1,")}) == 1


def test_the_sentence_about_the_order():
    order = docs.document()["order"]
    assert order_sentence(order) == (
        "order of rows: 2 of 3 pairs as in the paper, 1 closer than the spread (pool / mg124); "
        "Kendall's tau 0.67; best row: same"
    )
    other = order | {"undecided": [], "best_of_ours": ["mg111"]}
    assert order_sentence(other).endswith("tau 0.67; best row: other (mg111, not pool)")
    assert order_sentence(None) == ""


def test_the_sentence_about_the_order_says_no_more_than_is_known():
    order = docs.document()["order"] | {"undecided": [], "equal": [["pool", "mg124"]]}
    alone = order | {"one_seed": ["pool", "mg124", "mg111"], "of": 5}
    assert order_sentence(alone) == (
        "order of rows: 2 of 3 pairs as in the paper, of 3 of 5 rows, 1 equal (pool / mg124); "
        "Kendall's tau 0.67; best of these rows: same; one seed: its noise is not known"
    )
    some = order_sentence(order | {"one_seed": ["pool"]})
    assert some.endswith("; rows of one seed, whose noise is not known: pool")


def test_what_is_not_to_be_compared_has_a_dash_for_a_difference():
    document = docs.document(order=None)
    document["scale"]["compare"] = False
    for row in document["rows"]:
        row["numbers"]["mIoU"]["difference"] = None
    assert cells(markdown_grid(document).splitlines()[2])[3:6] == ["75.36", "51.02 ± 0.41", "–"]
    assert "order of rows" not in markdown(document)
    rows = list(csv.DictReader(io.StringIO(csv_text(document), newline="")))
    assert [row["difference"] for row in rows[:2]] == ["–", "–"]
    (line,) = [line for line in terminal(document).splitlines() if "75.36" in line]
    assert line.split()[-5:] == ["+-", "0.41", "–", "–", "–"]


def test_words_that_change_every_training_are_said():
    document = docs.document(words=["backbone=r50_beta", "scale.lr=2.0"])
    assert "every training with: backbone=r50\\_beta scale.lr=2.0" in markdown(document)
    assert "every training with: backbone=r50_beta scale.lr=2.0" in terminal(document)
    first = next(csv.DictReader(io.StringIO(csv_text(document), newline="")))
    assert first["words"] == "backbone=r50_beta scale.lr=2.0"
