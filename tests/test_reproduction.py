"""tools/reproduction.py: docs/reproduction.md from conf/ablation/ and kept tables."""

import json
import runpy
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "report"))
import ablation_documents as docs

from segkit.ablation import book

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/reproduction.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tool():
    return runpy.run_path(str(ROOT / "tools/reproduction.py"))


@pytest.fixture
def checkout(tmp_path):
    """A folder with a page and one source."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "conf/ablation").mkdir(parents=True)
    (tmp_path / "conf/ablation/v3.t5.yaml").write_text("title: one\n")
    return tmp_path


def test_this_repository_s_page_is_of_its_sources(tool, capsys):
    """After a change of conf/, of kept tables or of what counts: python tools/reproduction.py."""
    assert tool["main"](["--stamp"]) == 0, capsys.readouterr().err


@pytest.mark.slow
def test_this_repository_s_page_is_what_the_tool_makes(tool, capsys):
    assert tool["main"](["--check"]) == 0, capsys.readouterr().err


def test_every_table_has_a_section_and_its_numbers():
    for table_id in book.table_ids():
        table = book.read(table_id)
        _, _, section = PAGE.partition(f"\n### {table_id}: ")
        section = section.partition("\n### ")[0]
        assert f"    segkit table {table_id} " in section
        for row in table.rows:
            for number in row.paper.values():
                assert f"| {number.text} |" in section, (table_id, row.key)


def test_the_page_compares_the_multiply_adds_and_parameters_of_every_row():
    block = PAGE.partition("<!-- computed:begin -->")[2].partition("<!-- computed:end -->")[0]
    for table_id in book.table_ids():
        table = book.read(table_id)
        for name in (column.name for column in table.columns if column.kind in ("macs", "params")):
            for row in table.rows:
                key = row.key.replace("_", "\\_")
                (line,) = [
                    li for li in block.splitlines() if f" {table_id} | {key} | {name} " in li
                ]
                paper, ours = (float(cell) for cell in line.split("|")[4:6])
                assert paper == row.paper[name]
                assert abs(ours / paper - 1) < 0.015, "another network"


def test_the_share_is_that_of_the_number_before_it_is_rounded(tool):
    """134.347 M against 134.3 M is 0.03 % more, though both are printed as 134.3."""
    table = book.read("v1.t2")
    column = next(c for c in table.columns if c.kind == "params")
    said = [tool["apart_text"](row, column, table) for row in table.rows]
    assert said == ["+0.03 %", "+0.06 %", "+0.06 %", "+0.03 %"]


def test_every_row_that_cannot_be_run_is_listed_with_its_reason():
    block = PAGE.partition("<!-- blocked:begin -->")[2]
    keys = {key.strip() for cell in block.split("|") for key in cell.split(",")}
    for table_id in book.table_ids():
        for row in book.read(table_id).rows:
            key = row.key.replace("_", "\\_")
            listed = f"{table_id} {key}" in keys
            assert listed == bool(row.blocked or row.needs), (table_id, row.key)


def test_a_changed_source_is_noticed(tool, checkout, capsys):
    page = checkout / "docs/reproduction.md"
    page.write_text(f"<!-- made of {tool['stamp'](checkout)} -->")
    assert tool["main"](["--stamp", "--root", str(checkout)]) == 0
    (checkout / "conf/ablation/v3.t5.yaml").write_text("title: two\n")
    assert tool["main"](["--stamp", "--root", str(checkout)]) == 1
    assert "run: python tools/reproduction.py" in capsys.readouterr().err


def test_a_page_without_marks_is_named(tool, checkout):
    with pytest.raises(Exception, match="has no pair of marks"):
        tool["replace_block"](checkout / "docs/reproduction.md", "text", "tables", "x")
    text = "a\n<!-- t:begin -->\nold\n<!-- t:end -->\nb"
    made = tool["replace_block"](checkout, text, "t", "new")
    assert made == "a\n<!-- t:begin -->\nnew\n<!-- t:end -->\nb"


def test_a_kept_table_stands_in_its_section_with_signatures(tool, checkout):
    folder = checkout / "runs/tables/v3.t4-camvid"
    folder.mkdir(parents=True)
    (folder / "table.json").write_text(json.dumps(docs.document(table="v3.t4")))
    kept = checkout / "docs/results/tables"
    tool["keep"](folder, kept)
    found = tool["read_kept"](kept)
    assert list(found) == ["v3.t4"]
    table = book.read("v3.t4")
    text = tool["section"](table, {}, found["v3.t4"])
    assert "Trainings at the paper's scale: 1 (1 x 30,000 steps of batch 16, crop 513)" in text
    assert "    segkit table v3.t5 scale=camvid seeds=[0,1]" in text
    assert "51.02 ± 0.41" in text
    assert docs.SIGNATURE in text
    assert "order of rows: 2 of 3 pairs as in the paper" in text
    (kept / "broken.json").write_text("[")
    with pytest.raises(Exception, match=r"broken\.json: cannot be read"):
        tool["read_kept"](kept)


def test_a_table_shares_its_trainings(tool):
    assert tool["cost"](book.read("v3.t10")).startswith("Trainings at the paper's scale: 3 (")
    assert tool["cost"](book.read("v2.t6")) == "No row can be run."
    assert tool["cost"](book.read("v3.f4")) == "Needs no training."
