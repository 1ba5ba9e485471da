"""Tables for people and for Markdown, with names that try to break out."""

import io

import pytest

from segkit.report.tables import (
    class_table,
    markdown_table,
    markdown_text,
    print_class_table,
)

IOU = {"sky": 0.9, "road": None, "traffic sign": 0.123456, "void?": float("nan")}


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


def test_plain_table():
    lines = class_table(IOU, 0.5117).splitlines()
    assert [line.split() for line in lines] == [
        ["class", "IoU"],
        ["sky", "90.00", "#" * 22],
        ["road", "n/a"],
        ["traffic", "sign", "12.35", "#" * 3],
        ["void?", "n/a"],
        ["mean", "51.17"],
    ]


@pytest.mark.parametrize("kind", [io.TextIOWrapper, Terminal])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_every_stream_takes_every_name(kind, encoding):
    stream = kind(io.BytesIO(), encoding=encoding)
    print_class_table({"[red]ü→\x1b[2J": 0.5, "b\nc": None}, None, stream)
    stream.flush()
    shown = stream.buffer.getvalue()
    assert b"[red]" in shown, "taken for markup"
    assert b"\x1b[2J" not in shown
    assert b"50.00" in shown
    assert b"mean" in shown


def test_an_empty_table_has_a_head_and_a_mean():
    assert class_table({}, None).split() == ["class", "IoU", "mean", "n/a"]


def test_markdown_table():
    assert markdown_table(["a", "b"], [["1", "2"]], "lr") == "| a | b |\n| --- | ---: |\n| 1 | 2 |"
    with pytest.raises(ValueError, match="1 cells under 2 columns"):
        markdown_table(["a", "b"], [["1"]])


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain-name_1.pth", r"plain-name\_1.pth"),
        ("a|b", r"a\|b"),
        ("<script>", r"\<script\>"),
        ("[x](javascript:1)", r"\[x\](javascript:1)"),
        ("a\nb", r"a\\nb"),
        ("*b* `c`", r"\*b\* \`c\`"),
    ],
)
def test_markdown_text(text, escaped):
    assert markdown_text(text) == escaped
