"""``segkit plan``: its words, what it proposes, what it says where there is no such device."""

import json
import re

import pytest
import torch

from segkit import cli, plan
from segkit.completion import completions
from segkit.errors import ConfigError, EnvironmentFault
from segkit.planning.line import Line, through
from segkit.planning.proposal import Proposal, parts_that_divide, proposed
from segkit.planning.remembered import Remembered
from segkit.planning.schedule import saves, validations
from segkit.planning.speed import smaller
from segkit.planning.update import Size

WORDS = ("backbone=r_tiny", "dataset=camvid", "augment.crop=97", "schedule.batch=8")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_two_points_give_a_line_and_noise_none_below_zero():
    assert through([(10, 3.0), (20, 5.0)]) == Line(1.0, 0.2)
    assert through([(20, 5.0)]) == Line(0.0, 0.25)
    assert through([(10, 6.0), (20, 5.0)]) == Line(0.0, 0.25)
    assert through([(10, 1.0), (20, 5.0)]) == Line(0.0, 0.25)


def test_a_measured_step_is_smaller_than_the_one_that_is_asked_about():
    for images, crop in [(16, 513), (2, 321), (1, 513), (8, 161)]:
        asked = Size(images, 1, crop)
        found = smaller(asked, 1 / 3, 1, whole=False)
        assert found.images * found.crop**2 <= images * crop**2 / 3
        assert (found.crop - 1) % 32 == 0
    assert smaller(Size(16, 1, 513), 1 / 3, 1, whole=True) == Size(5, 1, 513)


def test_parts_divide_every_stages_batch():
    assert parts_that_divide([16], 1, [1]) == [1, 2, 4, 8, 16]
    assert parts_that_divide([16], 1, [2]) == [1, 2, 4, 8]
    assert parts_that_divide([16], 2, [2]) == [1, 2, 4]
    assert parts_that_divide([16, 12], 1, [1, 1]) == [1, 2, 4]
    assert parts_that_divide([16], 3, [1]) == []


def test_the_smallest_accumulation_that_fits():
    def peak(parts):
        return 100 + 1600 // parts

    assert proposed([16], 1, [2], peak, 2000) == Proposal(1, 1700, (16,))
    assert proposed([16], 1, [2], peak, 1700) == Proposal(2, 900, (8,))  # a tenth stays free
    assert proposed([16], 1, [2], peak, 400) == Proposal(8, 300, (2,))
    assert proposed([16], 1, [2], peak, 200) == Proposal(None, 300, ())


def test_moments_of_a_run_are_the_engines():
    values = {"eval": {"every": 40}, "checkpoint": {"every": 30}}
    assert validations(values, [100, 50]) == 5  # 40 80 100 120 150
    assert saves(values, [100, 50]) == 7  # 0 30 60 90 100 120 150
    assert validations({"eval": {"every": None}}, [100]) == 0


def test_what_was_measured_is_remembered_until_it_is_fresh():
    cpu = torch.device("cpu")
    Remembered(cpu).put("about", {"fixed": 1.0})
    assert Remembered(cpu).get("about") == {"fixed": 1.0}
    assert Remembered(cpu).get("another") is None
    assert Remembered(cpu, fresh=True).get("about") is None
    path = Remembered(cpu)._path("about")
    for torn in ("{", "[]", '{"about": "about", "figures": {"fixed": NaN}}'):
        path.write_text(torn)
        assert Remembered(cpu).get("about") is None


def test_a_card_that_is_not_here(capsys):
    assert cli.main(["plan", *WORDS, "--card-memory", "24", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["proposal"]["accumulate"] == 1
    assert found["seconds"] is None
    (stage,) = found["stages"]
    assert (stage["batch"], stage["crop"], stage["seconds"]) == (8, 97, None)
    small = 1.05 * stage["memory"] / 2**30  # a tenth of it stays free
    assert cli.main(["plan", *WORDS, f"--card-memory={small}"]) == 0
    said = capsys.readouterr().out
    (parts,) = re.findall(r"type schedule.accumulate=(\d+) for", said)
    assert int(parts) in (2, 4)
    assert f"batch norm sees {8 // int(parts)} images at a time" in said
    assert "not measured" in said


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["nonsense=1"], "nonsense"),
        (["schedule.accumulate=3"], "accumulate"),
        (["--card-memory", "much"], "--card-memory"),
        (["--card-memory"], "--card-memory"),
        (["-m", "os=8,16"], "plan"),
    ],
)
def test_words_that_are_none(words, where):
    with pytest.raises(ConfigError) as caught:
        plan.main([*WORDS, *words])
    assert where in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_no_card():
    with pytest.raises(EnvironmentFault, match="no CUDA device"):
        plan.main([*WORDS, "device=cuda"])


def test_words_offered(capsys):
    assert "--card-memory" in completions(["plan", "--c"])
    assert completions(["plan", "backbone=r_t"]) == ["backbone=r_tiny"]
    assert "table" in completions(["plan", "ta"])
    assert "v3.t5" in completions(["plan", "table", "v3.t"])
    assert cli.main(["plan", "--help"]) == 0
    assert "--card-memory" in capsys.readouterr().out


@pytest.mark.slow
def test_a_second_plan_remembers(capsys):
    words = ["plan", *WORDS, "device=cpu", "--json"]
    first, second = (cli.main(words), json.loads(capsys.readouterr().out))[1], None
    assert first["seconds"] > 0
    assert "measured now" in first["basis"]
    assert cli.main(words) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["basis"].endswith("(remembered from an earlier plan)")
    assert second["stages"][0]["seconds"] == first["stages"][0]["seconds"]
