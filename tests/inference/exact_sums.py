"""Mean field as the reference writes it down: every pair of pixels, in float64."""

import numpy as np
import torch


def softmax(energy):
    weights = np.exp(energy - energy.max(0))
    return weights / weights.sum(0)


def kernel(features):
    """exp of minus half the squared distance of every pair of rows."""
    squared = np.zeros((len(features), len(features)))
    for column in features.T:
        squared += np.subtract.outer(column, column) ** 2
    return np.exp(-squared / 2)


def normalised(weights, how):
    """K̃ out of K, with n = K·1 and ε = 1e-20."""
    n = weights.sum(1) + 1e-20
    if how == "symmetric":
        return weights / np.sqrt(n)[:, None] / np.sqrt(n)
    return {"before": weights / n, "after": weights / n[:, None], "none": weights}[how]


def mean_field(rgb, probabilities, crf):
    """Q after ``crf.iterations`` of A = −U + Σ w·K̃Q, Q = softmax(A); the self term stays."""
    classes, height, width = probabilities.shape
    y, x = (axis.ravel().astype(float) for axis in np.mgrid[:height, :width])
    colour = rgb.reshape(-1, 3).astype(float) / crf.bilateral_rgb
    smooth = kernel(np.stack([x, y], 1) / crf.gaussian_xy)
    appearance = kernel(np.column_stack([x / crf.bilateral_xy, y / crf.bilateral_xy, colour]))
    pairwise = crf.gaussian_weight * normalised(smooth, crf.normalization)
    pairwise += crf.bilateral_weight * normalised(appearance, crf.normalization)
    log_p = np.log(np.clip(probabilities.astype(float), 1e-5, 1)).reshape(classes, -1)
    q = softmax(log_p)
    for _ in range(crf.iterations):
        q = softmax(log_p + q @ pairwise.T)
    return q.reshape(classes, height, width)


def scene(kind, height, width, classes, seed=0):
    """An image and probabilities [C, H, W] that follow its regions badly.

    ``random``: no two pixels alike. ``flat``: one colour and a little noise. ``hard``: noisy
    patches, of colours near one another, and weak evidence.
    """
    rng = np.random.default_rng(seed)
    truth = (np.add.outer(np.arange(height) // 7, np.arange(width) // 9)) % classes
    if kind == "random":
        rgb = rng.integers(0, 256, (height, width, 3))
    elif kind == "flat":
        rgb = 120 + rng.normal(0, 2, (height, width, 3))
    else:
        rgb = rng.integers(40, 215, (classes, 3))[truth] + rng.normal(0, 8, (height, width, 3))
    logits = rng.normal(0, 1.5, (classes, height, width))
    if kind != "flat":
        logits += 1.0 * (np.arange(classes)[:, None, None] == truth)
    return rgb.clip(0, 255).astype(np.uint8), softmax(logits).astype(np.float32)


def cut(rgb, marks, height, width, classes, seed=0):
    """A piece of a photo, and probabilities after its annotation, as weak as in ``scene``."""
    rng = np.random.default_rng(seed)
    top = rng.integers(0, rgb.shape[0] - height + 1)
    left = rng.integers(0, rgb.shape[1] - width + 1)
    piece = np.s_[top : top + height, left : left + width]
    codes = marks[piece].astype(int) @ [65536, 256, 1]
    truth = np.unique(codes, return_inverse=True)[1].reshape(height, width) % classes
    logits = rng.normal(0, 1.5, (classes, height, width))
    logits += 1.0 * (np.arange(classes)[:, None, None] == truth)
    return rgb[piece].copy(), softmax(logits).astype(np.float32)


def three_products(query, key, value, scale):
    """fp32 attention as tensor cores of CUDA do it: each product by three of TF32 (11 bits)."""

    def parts(x):
        high = (x.view(torch.int32) + 0x1000 & ~0x1FFF).view(torch.float32)
        rest = x - high
        return high, (rest.view(torch.int32) + 0x1000 & ~0x1FFF).view(torch.float32)

    def product(a, b):
        (a_high, a_low), (b_high, b_low) = parts(a.contiguous()), parts(b.contiguous())
        return a_high @ b_high + a_high @ b_low + a_low @ b_high

    weights = (product(query, key.transpose(-1, -2)) * scale).exp()
    return product(weights, value) / weights.sum(-1, keepdim=True)


def half(query, key, value, scale):
    """Attention of a half-precision kernel, with logits that are exact."""
    weights = (query @ key.transpose(-1, -2) * scale).exp()
    found = weights.half().float() @ value.half().float()
    return (found / weights.sum(-1, keepdim=True)).half().float()
