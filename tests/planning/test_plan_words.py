"""``segkit plan``: its words, what it proposes, what it says where there is no such device."""

import json
import re
from dataclasses import replace

import pytest
import torch

from segkit import cli, plan
from segkit.completion import completions
from segkit.config import compose
from segkit.errors import ConfigError, EnvironmentFault
from segkit.planning import proposal as proposals
from segkit.planning import speed as speeds
from segkit.planning.line import Line, through
from segkit.planning.proposal import Proposal, parts_that_divide, proposal
from segkit.planning.remembered import Remembered
from segkit.planning.schedule import saves, validations
from segkit.planning.speed import smaller
from segkit.planning.update import Size, Step

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
    for images, crop in [(16, 513), (2, 321), (1, 513), (8, 161), (3, 97)]:
        for share in (1 / 2, 1 / 8):
            found = smaller(Size(images, 1, crop), share, min(2, images), crop)
            assert found.images * found.crop**2 <= share * images * crop**2
            assert (found.crop - 1) % 16 == 0
    # Images first, so that the maps stay as large as those of the asked step.
    assert smaller(Size(16, 1, 513), 1 / 2, 2, 513) == Size(8, 1, 513)
    assert smaller(Size(4, 1, 321), 1 / 2, 2, 321) == Size(2, 1, 321)
    assert smaller(Size(4, 1, 321), 1 / 8, 2, 65) == Size(2, 1, 65)
    assert smaller(Size(2, 1, 161), 1 / 2, 2, 161) == Size(2, 1, 113)


def test_points_lie_apart_and_none_takes_long(monkeypatch):
    """A pass of 0.2 s and 1 s for each unit of work, on a device that never errs."""
    seconds = lambda macs: 0.2 + macs  # noqa: E731
    ran = []

    def each(works, _):
        ran.extend(work() for work in works)
        return [seconds(work()) for work in works]

    monkeypatch.setattr(speeds, "seconds_of_each", each)
    monkeypatch.setattr(speeds, "seconds_of", lambda work, device: each([work], device)[0])
    speed = speeds.Speed(torch.device("cpu"), "fp32", Remembered(torch.device("cpu")))
    for asked in (0.5, 2.0, 10.0, 100.0):
        ran.clear()
        small = min(asked / 8, 0.3)

        def work(share, side, asked=asked, small=small):
            macs = small if side == speeds.LEAST_SIDE else share * asked
            return macs, lambda: macs

        found = speed._points(work, lambda share, asked=asked: share * asked)
        assert through(found).at(asked) == pytest.approx(seconds(asked))
        assert max(ran) <= asked / 2
        assert max(seconds(macs) for macs in ran) <= speeds.AT_MOST
        assert max(ran) >= min(asked / 2, 0.4 * speeds.AT_MOST)


def test_parts_divide_every_stages_batch():
    assert parts_that_divide([16], 1, [1]) == [1, 2, 4, 8, 16]
    assert parts_that_divide([16], 1, [2]) == [1, 2, 4, 8]
    assert parts_that_divide([16], 2, [2]) == [1, 2, 4]
    assert parts_that_divide([16, 12], 1, [1, 1]) == [1, 2, 4]
    assert parts_that_divide([16], 3, [1]) == []


def asked_of(monkeypatch, free, *words, device="cuda"):
    """The proposal where a stage holds 100 bytes, 100 for each image at a time and, of those, half
    as many for the share that is recomputed."""

    def step(values, _, size, *__, **___):
        held = 100 * size.images * (1 - values["recompute"] / 2)
        return Step(0, 0, int(100 + held))

    monkeypatch.setattr(proposals, "step_of", step)
    values = compose("train", (*WORDS, *words)).values
    return proposal(replace(compose("train", WORDS), values=values), device, "bf16", free)


def test_every_way_that_fits(monkeypatch):
    assert asked_of(monkeypatch, 1000) == Proposal(True, 900)  # a tenth stays free
    found = asked_of(monkeypatch, 800)
    assert (found.fits, found.peak) == (False, 900)
    assert {way.words: (way.peak, way.batch_norm) for way in found.ways} == {
        ("recompute=0.5",): (700, 8),
        ("schedule.accumulate=2",): (500, 4),
        ("devices=2",): (500, 8),  # of all cards together
    }
    again, *others = found.ways
    assert 0.02 < again.longer < 1 / 3  # at most one forward pass of three
    assert [way.longer for way in others] == pytest.approx([0, 0], abs=1e-3)
    # Neither is enough, both are.
    both = asked_of(monkeypatch, 230, device="cpu")
    assert [way.words for way in both.ways] == [("recompute=1", "schedule.accumulate=4")]
    assert asked_of(monkeypatch, 100).ways == ()


def test_frozen_statistics_do_not_see_the_parts(monkeypatch):
    found = asked_of(monkeypatch, 800, "schedule.stages.0.bn=frozen", device="cpu")
    parts, again = found.ways
    assert (parts.words, parts.batch_norm) == (("schedule.accumulate=2",), None)
    assert again.words == ("recompute=0.5",)


def test_a_backbone_without_units_is_not_recomputed(monkeypatch):
    words = ("model=v1", "backbone=vgg16")
    found = asked_of(monkeypatch, 800, *words, device="cpu")
    assert [way.words for way in found.ways] == [("schedule.accumulate=2",)]


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


def test_a_card_that_is_not_here(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("SEGKIT_DATA", str(tmp_path))
    assert cli.main(["plan", *WORDS, "--card-memory", "24", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["proposal"]["fits"]
    assert found["seconds"] is None
    (stage,) = found["stages"]
    assert (stage["batch"], stage["crop"], stage["seconds"]) == (8, 97, None)
    small = 1.05 * stage["memory"] / 2**30  # a tenth of it stays free
    assert cli.main(["plan", *WORDS, f"--card-memory={small}"]) == 0
    said = capsys.readouterr().out
    (parts,) = re.findall(r"^  schedule.accumulate=(\d+) ", said, re.MULTILINE)
    assert int(parts) in (2, 4)
    assert f"batch norm sees {8 // int(parts)} images at a time" in said
    assert re.search(
        r"^  recompute=\S+ .*% more work, batch norm sees 8 images", said, re.MULTILINE
    )
    assert "camvid is not here: assumed are 11 classes and, to validate on, 101 pictures" in said
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
