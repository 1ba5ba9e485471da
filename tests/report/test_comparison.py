"""Two scores: what must agree, and the bootstrap against closed forms."""

import numpy as np
import pages
import pytest

from segkit.report import comparison
from segkit.report.comparison import Counts, Difference, Scored, Side, differences, resampled

IDS = tuple(f"image {n}" for n in range(400))


def scored(right, union, ids=None, path="a/score.json", **changed) -> Scored:
    """A score of counts [images, classes]."""
    right, union = np.asarray(right, float), np.asarray(union, float)
    sums = zip(right.sum(0), union.sum(0), strict=True)
    iou = {f"class {n}": r / u if u else None for n, (r, u) in enumerate(sums)}
    known = [value for value in iou.values() if value is not None]
    counts = Counts(ids or IDS[: len(right)], right, union)
    found = pages.signature(**changed).to_dict()
    return Scored(path, found, sum(known) / len(known) if known else None, iou, counts)


def drawn(images: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    union = rng.integers(1, 1000, (images, classes))
    return rng.binomial(union, 0.7), union


def sides(*scores: Scored) -> list[Side]:
    return [Side(letter, [score]) for letter, score in zip("ABCDEF", scores, strict=False)]


# -- the bootstrap ---------------------------------------------------------------------------------


def test_equal_scores_do_not_differ():
    one = scored(*drawn(40, 3, 0))
    (found,) = differences(sides(one, one), resamples=500)
    assert found.value == 0
    assert found.interval == (0, 0)
    assert found.verdict().startswith("no difference shown: B - A = +0.00 [0.00, 0.00] ")


def test_each_resample_is_the_score_of_the_drawn_images():
    right, union = drawn(9, 4, 1)
    union[:, 3] = 0
    right[:, 3] = 0
    union[0, 3], right[0, 3] = 10, 5  # a class that only one image has
    found = resampled(sides(scored(right, union)), 200, seed=3)[:, 0]
    places = np.random.default_rng(3).integers(0, 9, (200, 9))
    expected = []
    for row in places:
        r, u = right[row].sum(0), union[row].sum(0)
        expected.append(np.mean([a / b for a, b in zip(r, u, strict=True) if b]))
    assert found == pytest.approx(expected, rel=1e-12)


def test_chunks_change_nothing(monkeypatch):
    pair = sides(scored(*drawn(50, 3, 0)), scored(*drawn(50, 3, 1)))
    whole = resampled(pair, 101, 0)
    monkeypatch.setattr(comparison, "_CHUNK", 50 * 7)
    assert np.array_equal(resampled(pair, 101, 0), whole)


def test_the_interval_of_a_mean_has_its_closed_form():
    """One class that fills each image: mIoU is a mean, whose standard error is s / sqrt(n)."""
    rng = np.random.default_rng(0)
    union = np.full((400, 1), 1000)
    one, other = rng.binomial(1000, 0.5, (2, 400, 1))
    (found,) = differences(sides(scored(one, union), scored(other, union)))
    apart = (other - one)[:, 0] / 1000
    error = apart.std() / np.sqrt(400)
    low, high = found.interval
    assert found.value == pytest.approx(apart.mean(), abs=1e-12)
    assert low == pytest.approx(apart.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(apart.mean() + 1.96 * error, abs=0.1 * error)


def test_what_all_images_share_is_no_uncertainty():
    """Paired: images of very different difficulty, and a gain that is the same in all."""
    rng = np.random.default_rng(0)
    union = np.full((100, 1), 1000)
    one = rng.integers(100, 900, (100, 1))
    (found,) = differences(sides(scored(one, union), scored(one + 10, union)), resamples=1000)
    assert found.interval == pytest.approx((0.01, 0.01))
    assert found.verdict() == "B is 1.00 [1.00, 1.00] over A (95 %, images resampled)"


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        gain = rng.normal(0.02, 0.1, (60, 2))  # the truth: 2 points
        union = np.full((60, 2), 10_000.0)
        base = rng.uniform(3000, 6000, (60, 2))
        pair = sides(scored(base, union), scored(base + 10_000 * gain, union))
        (found,) = differences(pair, resamples=400, seed=trial)
        covered += found.interval[0] <= 0.02 <= found.interval[1]
    assert 0.91 <= covered / 300 <= 0.98


def test_the_same_draws_for_all_and_the_same_every_time():
    three = sides(*(scored(*drawn(50, 3, seed)) for seed in range(3)))
    found = differences(three, resamples=300)
    assert found == differences(three, resamples=300)
    assert found[1] == differences([three[0], three[2]], resamples=300)[0] or (
        found[1].interval == differences([three[0], three[2]], resamples=300)[0].interval
    )


def test_seeds_of_a_side_are_averaged():
    one, two, three = (scored(*drawn(50, 3, seed)) for seed in range(3))
    many = [Side("A", [one]), Side("B", [two, three])]
    assert many[0].spread is None
    assert many[1].miou == pytest.approx((two.miou + three.miou) / 2)
    assert many[1].spread == pytest.approx(abs(two.miou - three.miou) / 2**0.5)
    alone = [resampled([Side("A", [s])], 200, 0)[:, 0] for s in (two, three)]
    assert resampled(many, 200, 0)[:, 1] == pytest.approx((alone[0] + alone[1]) / 2)


def test_without_images_there_is_no_interval():
    one, other = scored(*drawn(9, 2, 0)), scored(*drawn(9, 2, 1))
    bare = Scored("old/score.json", other.signature, other.miou, other.iou)
    (found,) = differences(sides(one, bare))
    assert found.interval is None
    assert found.verdict("old").endswith("; no interval: old")


def test_no_class_at_all():
    nothing = scored(np.zeros((3, 2)), np.zeros((3, 2)))
    (found,) = differences(sides(nothing, nothing), resamples=10)
    assert found.value is None
    assert found.verdict() == "no difference can be told: A or B has no mIoU"


@pytest.mark.parametrize(
    ("value", "interval", "words"),
    [
        (0.0123, (0.008, 0.0166), "B is 1.23 [0.80, 1.66] over A (95 %, images resampled)"),
        (-0.0123, (-0.0166, -0.008), "B is 1.23 [0.80, 1.66] under A (95 %, images resampled)"),
        (0.001, (-0.00001, 0.002), "no difference shown: B - A = +0.10 [0.00, 0.20] (95 %, "),
    ],
)
def test_verdicts(value, interval, words):
    a, b = Side("A", []), Side("B", [])
    assert Difference(a, b, value, interval).verdict().startswith(words)


@pytest.mark.slow
def test_five_thousand_images_and_150_classes():
    import time

    pair = sides(*(scored(*drawn(5000, 150, n), ids=tuple(map(str, range(5000)))) for n in (0, 1)))
    began = time.monotonic()
    (found,) = differences(pair)
    assert time.monotonic() - began < 60
    assert found.interval is not None


# -- what must agree -------------------------------------------------------------------------------

FREE = {
    "model": "v2", "backbone": "r101", "train_os": (8,), "multi_grid": (1, 2, 4), "weights": "x",
    "checkpoint": "best", "step": 7, "scored": "average", "seed": 3, "precision": "bf16",
    "device": "cuda", "segkit": "9", "torch": "9", "config": "abc",
}  # fmt: skip
BOUND = {
    "dataset": "voc", "split": "test", "images": 7, "eval_os": 16, "pad": 513, "fusion": "max",
    "scales": (0.5, 1.0), "flip": True, "absent": "kept", "skipped": 1,
    "crf": {"backend": "exact", "iterations": 10},
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [*FREE.items(), *BOUND.items()])
def test_which_fields_must_agree(name, value):
    views = {"scales": (0.5, 0.75)} if name == "fusion" else {}  # of one view it is nothing
    pair = sides(scored(*drawn(5, 2, 0), **views), scored(*drawn(5, 2, 0), **views | {name: value}))
    protocol = comparison.differing(pair, Scored.protocol)
    network = comparison.differing(pair, Scored.network)
    found, other = (network, protocol) if name in FREE else (protocol, network)
    assert [key.split(".")[0] for key in found] in ([name], [name] * 2)
    assert not other


def test_every_field_of_the_signature_is_one_or_the_other():
    assert FREE.keys() | BOUND.keys() >= pages.signature().to_dict().keys()


@pytest.mark.parametrize(
    ("views", "differ"),
    [({}, False), ({"scales": (1,)}, False), ({"flip": True}, True), ({"scales": (1, 2)}, True)],
    ids=str,
)
def test_fusion_of_one_view_is_nothing(views, differ):
    one, other = scored(*drawn(5, 2, 0), **views), scored(*drawn(5, 2, 0), **views, fusion="max")
    one.signature["scales"] = [float(scale) for scale in one.signature["scales"]]
    found = comparison.differing(sides(one, other), Scored.protocol)
    assert found == ({"fusion": ["mean", "max"]} if differ else {})


def test_zero_is_a_number():
    crf = {"backend": "exact", "gaussian_weight": 3}
    one = scored(*drawn(5, 2, 0), seed=0, crf=crf | {"gaussian_weight": 0})
    other = scored(*drawn(5, 2, 0), seed=1, crf=crf)
    pair = sides(one, other)
    assert comparison.differing(pair, Scored.network) == {"seed": ["0", "1"]}
    assert comparison.differing(pair, Scored.protocol) == {"crf.gaussian_weight": ["0", "3"]}


def test_a_field_that_only_later_scores_have():
    """Off in the later score, it says nothing; on, it is another protocol."""
    old, new = scored(*drawn(5, 2, 0)), scored(*drawn(5, 2, 0))
    for off in (None, False, 0):
        new.signature["window"] = off
        assert comparison.differing(sides(old, new), Scored.protocol) == {}
    new.signature["window"] = {"size": 513}
    found = comparison.differing(sides(old, new), Scored.protocol)
    assert found == {"window.size": ["none", "513"]}


def test_other_classes_and_other_images():
    one, other = scored(*drawn(5, 2, 0)), scored(*drawn(5, 3, 0))
    assert list(comparison.differing(sides(one, other), Scored.protocol)) == ["classes"]
    assert comparison.same_images(sides(one, one))
    assert not comparison.same_images(sides(one, scored(*drawn(5, 2, 0), ids=IDS[1:6])))


def test_the_table():
    one, two = scored([[50, 0]], [[100, 0]]), scored([[75, 0]], [[100, 0]])
    lines = comparison.text([Side("A", [one]), Side("B", [two, two])], comparable=True).splitlines()
    assert [line.split() for line in lines[3:]] == [
        ["class", "A", "B", "B", "-", "A"],
        ["class", "0", "50.00", "75.00", "+25.00"],
        ["class", "1", "n/a", "n/a", "n/a"],
        ["mean", "50.00", "75.00", "+25.00"],
        ["sd", "0.00"],
    ]
    shown = comparison.text([Side("A", [one]), Side("B", [two])], comparable=False)
    assert "75.00" in shown
    assert "25.00" not in shown, "no difference is called"
