"""The dense CRF against pydensecrf called by hand and against the sum it approximates."""

import sys

import numpy as np
import pytest
from exact_sums import mean_field, softmax

from segkit.errors import ConfigError, DataError, EnvironmentFault, NumericsError
from segkit.inference.crf import NORMALIZATIONS, DenseCrf, labels_of

lattice = pytest.importorskip("pydensecrf.densecrf")

NATIVE = {
    "after": lattice.NORMALIZE_AFTER,
    "before": lattice.NORMALIZE_BEFORE,
    "symmetric": lattice.NORMALIZE_SYMMETRIC,
    "none": lattice.NO_NORMALIZATION,
}


def scene(height, width, classes, seed=0):
    """A photo-like scene: flat noisy regions, and probabilities that follow them badly."""
    rng = np.random.default_rng(seed)
    truth = (np.add.outer(np.arange(height) // 7, np.arange(width) // 9)) % classes
    rgb = truth[..., None] * 40 + 30 + rng.normal(0, 4, (height, width, 3))
    logits = rng.normal(0, 1.5, (classes, height, width))
    logits += 1.5 * (np.arange(classes)[:, None, None] == truth)
    return rgb.clip(0, 255).astype(np.uint8), softmax(logits).astype(np.float32)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_every_parameter_reaches_pydensecrf(normalization):
    rgb, probabilities = scene(20, 30, 4)
    crf = DenseCrf(3, 5.0, 21.0, 7.0, 2.0, 1.5, normalization)
    native = lattice.DenseCRF2D(30, 20, 4)
    native.setUnaryEnergy(-np.log(np.clip(probabilities, 1e-5, 1)).reshape(4, -1))
    native.addPairwiseGaussian(sxy=1.5, compat=2, normalization=NATIVE[normalization])
    native.addPairwiseBilateral(
        sxy=21, srgb=7, rgbim=rgb, compat=5, normalization=NATIVE[normalization]
    )
    want = np.array(native.inference(3)).reshape(4, 20, 30)
    assert np.array_equal(crf.refine(rgb, probabilities), want)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_steps_are_the_states_of_one_run(normalization):
    """v2's Figure 5: the unary and what mean field makes of it after 1, 2, 5 and 10 iterations."""
    rgb, probabilities = scene(17, 23, 5)
    crf = DenseCrf(normalization=normalization)
    states = crf.steps(rgb, probabilities, [0, 1, 2, 5, 10])
    for count, state in zip([0, 1, 2, 5, 10], states, strict=True):
        native = crf._lattice(rgb, probabilities).inference(count)
        assert np.array_equal(state, np.array(native).reshape(5, 17, 23))
    assert np.array_equal(states[-1], crf.refine(rgb, probabilities))
    for wrong in ([2, 1], [1, 1], [-1]):
        with pytest.raises(ConfigError):
            crf.steps(rgb, probabilities, wrong)


@pytest.mark.parametrize(
    "change",
    [
        {"iterations": 2},
        {"bilateral_weight": 9.0},
        {"bilateral_xy": 5.0},
        {"bilateral_rgb": 30.0},
        {"gaussian_weight": 1.0},
        {"gaussian_xy": 3.0},
        {"normalization": "symmetric"},
    ],
    ids=str,
)
def test_every_parameter_matters(change):
    rgb, probabilities = scene(20, 30, 4)
    assert not np.allclose(
        DenseCrf().refine(rgb, probabilities), DenseCrf(**change).refine(rgb, probabilities)
    )


@pytest.mark.parametrize("normalization", ["after", "before", "symmetric"])
def test_labels_agree_with_the_exact_sum(normalization):
    """The lattice only approximates the Gaussian; seen here: 98.9 to 100 % of the labels."""
    crf = DenseCrf(normalization=normalization)
    agreement = []
    for seed in range(4):
        rgb, probabilities = scene(24, 24, 5, seed)
        exact = mean_field(rgb, probabilities, crf).argmax(0)
        agreement.append((crf.refine(rgb, probabilities).argmax(0) == exact).mean())
    assert min(agreement) > 0.98
    assert np.mean(agreement) > 0.99


def test_without_pairwise_terms_or_iterations_the_input_comes_back():
    rgb, probabilities = scene(9, 11, 3)
    for crf in (DenseCrf(iterations=0), DenseCrf(bilateral_weight=0, gaussian_weight=0)):
        np.testing.assert_allclose(crf.refine(rgb, probabilities), probabilities, atol=2e-6)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (17, 23)])
@pytest.mark.parametrize("classes", [1, 2, 21])
def test_flat_input_stays_flat_and_sums_to_one(normalization, size, classes):
    rgb = np.full((*size, 3), 200, np.uint8)
    ramp = np.arange(1, classes + 1, dtype=np.float32)
    constant = np.broadcast_to((ramp / ramp.sum())[:, None, None], (classes, *size))
    one_class = np.zeros((classes, *size), np.float32)
    one_class[classes // 2] = 1
    for probabilities, label in ((constant, classes - 1), (one_class, classes // 2)):
        refined = DenseCrf(normalization=normalization).refine(rgb, probabilities)
        assert np.isfinite(refined).all()
        np.testing.assert_allclose(refined.sum(0), 1, atol=1e-6)
        assert (refined.argmax(0) == label).all()
        if normalization == "after":
            # The one mode whose filter keeps constants; the others weaken at the border.
            assert np.ptp(refined.reshape(classes, -1), axis=1).max() < 1e-6


def test_the_image_is_only_read_however_it_lies_in_memory():
    rgb, probabilities = scene(12, 15, 3)
    want = DenseCrf().refine(rgb, probabilities)
    wide = np.zeros((12, 30, 3), np.uint8)
    wide[:, ::2] = rgb
    frozen = rgb.copy()
    frozen.flags.writeable = False
    for same in (wide[:, ::2], np.asfortranarray(rgb), frozen):
        assert np.array_equal(DenseCrf().refine(same, probabilities), want)
    assert np.array_equal(DenseCrf().refine(rgb, np.asfortranarray(probabilities)), want)


@pytest.mark.parametrize(
    ("rgb", "probabilities"),
    [
        (np.zeros((4, 5, 3), np.float32), np.ones((2, 4, 5), np.float32)),
        (np.zeros((4, 5), np.uint8), np.ones((2, 4, 5), np.float32)),
        (np.zeros((4, 5, 4), np.uint8), np.ones((2, 4, 5), np.float32)),
        (np.zeros((4, 5, 3), np.uint8), np.ones((2, 5, 4), np.float32)),
        (np.zeros((4, 5, 3), np.uint8), np.ones((4, 5), np.float32)),
        (np.zeros((0, 5, 3), np.uint8), np.ones((2, 0, 5), np.float32)),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(rgb, probabilities):
    with pytest.raises(DataError):
        DenseCrf().refine(rgb, probabilities)


def test_non_finite_probabilities_are_refused():
    rgb, probabilities = scene(4, 5, 2)
    probabilities[0, 1, 1] = np.nan
    with pytest.raises(NumericsError):
        DenseCrf().refine(rgb, probabilities)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("iterations", -1),
        ("iterations", True),
        ("bilateral_weight", -1.0),
        ("gaussian_weight", float("nan")),
        ("bilateral_xy", 0.0),
        ("bilateral_rgb", float("inf")),
        ("gaussian_xy", -3.0),
        ("normalization", "AFTER"),
    ],
)
def test_wrong_parameters_name_their_key(key, value):
    with pytest.raises(ConfigError) as caught:
        DenseCrf(**{key: value})
    assert caught.value.where == f"densecrf.{key}"


def test_a_missing_pydensecrf_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    rgb, probabilities = scene(4, 5, 2)
    with pytest.raises(EnvironmentFault, match=r"pip install 'segkit\[crf\]'") as caught:
        DenseCrf().refine(rgb, probabilities)
    assert caught.value.id == "ENV-CRF-MISSING"


@pytest.mark.parametrize(("classes", "dtype"), [(2, "uint8"), (255, "uint8"), (256, "uint16")])
def test_label_maps_are_as_wide_as_they_must_be(classes, dtype):
    probabilities = np.zeros((classes, 2, 3), np.float32)
    probabilities[-1] = 1
    labels = labels_of(probabilities)
    assert labels.dtype == dtype
    assert (labels == classes - 1).all()
