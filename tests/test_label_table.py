"""tools/label_table.py, on a file of the form of cityscapesScripts' labels.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from segkit.data.labels import CITYSCAPES_TABLE

TOOL = Path(__file__).parents[1] / "tools/label_table.py"


def said(*words: str) -> tuple[int, str]:
    ended = subprocess.run(
        [sys.executable, str(TOOL), *words], capture_output=True, text=True, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


def owners_file(folder: Path, before: str = "", after: str = "") -> Path:
    rows = "".join(
        f"    Label(  {name!r} , {i} , {train_id} , 'void' , 0 , False , True , {colour} ),\n"
        for i, name, train_id, colour in reversed(CITYSCAPES_TABLE)
    )
    path = folder / "helpers/labels.py"
    path.parent.mkdir(parents=True)
    text = f"raise SystemExit('run')\nlabels = [\n{rows}]\nname2label = {{}}\n"
    path.write_text(text.replace(before, after) if before else text)
    return path


def test_the_table_as_data() -> None:
    code, out = said()
    rows = json.loads(out)
    assert code == 0
    assert [row["id"] for row in rows] == list(range(-1, 34))
    assert rows[8] == {"id": 7, "name": "road", "train_id": 0, "colour": [128, 64, 128]}


def test_the_same_table_in_another_order_agrees_and_is_not_run(tmp_path: Path) -> None:
    path = owners_file(tmp_path)
    assert said("--compare", str(path)) == (0, "all 35 labels agree\n")
    assert said("--compare", str(tmp_path))[0] == 0


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("(244, 35, 232)", "(244, 35, 231)", "id 8 (sidewalk): colour (244, 35, 232), theirs"),
        ("'sky' , 23 , 10", "'sky' , 23 , 11", "id 23 (sky): train id 10, theirs 11"),
        ("'wall'", "'walls'", "id 12 (wall): name wall, theirs walls"),
        ("'bicycle' , 33", "'bicycle' , 34", "id 34: only theirs"),
        ("'bicycle' , 33", "print , 33", "not the arguments of a Label"),
    ],
)
def test_each_difference_is_a_line(tmp_path: Path, before: str, after: str, told: str) -> None:
    code, out = said("--compare", str(owners_file(tmp_path, before, after)))
    assert code == 1
    assert told in out


def test_nothing_to_compare_with(tmp_path: Path) -> None:
    assert "no labels.py there" in said("--compare", str(tmp_path))[1]
