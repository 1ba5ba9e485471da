"""The bilateral filter of the dense CRF, exact and without ever holding all pairs of pixels.

For features f (position/σ, colour/σ) the row-normalised Gaussian filter is softmax attention: its
logits are −|f_i − f_j|²/2, its values what is filtered. The kernels behind PyTorch's public
attention call go through the pairs in tiles. Two things make that affordable and precise:

- Pixels are put into the order of a k-d tree over their features, in leaves of some dozens. A leaf
  too far from a block of queries to matter to any of them is left out for that block: what is left
  out weighs at most ``LEFT_OUT`` of what a pixel gives to itself.
- The unit of the features is one step of colour, so that all about colours is whole numbers and
  exact; positions are taken relative to the middle of the block, and are small.

All in fp32: half precision rounds the weights, the values and the result, which moves probabilities
by up to 2e-2 in ten iterations (docs/evaluation.md).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pad_sequence

LEAF = 32  # pixels, at most
BLOCK = {"cpu": 512, "cuda": 2048}  # queries, about; small ones need fewer leaves, large ones feed
LEFT_OUT = 1e-6
# Keys of all blocks that are done in one call: a GPU wants many (0.5 GB with 21 classes), a CPU is
# busy with one block.
KEYS_AT_ONCE = {"cpu": 1, "cuda": 2_500_000}
MOST_CLASSES = 64  # filtered at once: wider values have no fast kernel
SILENT = -1e30  # stands for the logit of a key that fills up a leaf or a block
FACTORS = 16  # numbers that a logit is the product of


@dataclass(frozen=True)
class _Group:
    """Blocks of queries that are done in one call, and the leaves of keys each of them needs.

    ``leaves`` [blocks, most]: rows are filled up with the number of a leaf that holds silent keys.
    """

    blocks: Tensor
    leaves: Tensor


class BilateralFilter:
    """``average`` gives Σ_j k_ij v_j / Σ_j k_ij over all pixels j, i included.

    ``rgb`` is uint8 [H, W, 3] on the device of the work; ``xy`` and ``rgb_scale`` are the standard
    deviations of the Gaussian in pixels and in steps of 0..255. Memory: some times the values, and
    on CUDA what ``KEYS_AT_ONCE`` says. Work: the pairs of pixels that are near enough to matter.
    """

    def __init__(self, rgb: Tensor, xy: float, rgb_scale: float) -> None:
        self._size, self._scale = rgb.shape[:2], 1 / (2 * rgb_scale**2)
        features = _features(rgb, rgb_scale / xy)
        self._count = len(features)
        slots = k_d_order(features, LEAF)
        self._pixels = slots.clamp(max=self._count - 1)
        self._features = features[self._pixels]
        filled = slots >= self._count
        self._alive = ~filled.flatten()
        silence = SILENT * filled.float()
        # One more leaf, of keys that nobody hears, fills up the rows of a group.
        self._keys = torch.cat([self._features, self._features[:1]])
        self._silence = torch.cat([silence, torch.full_like(silence[:1], SILENT)])
        leaves = max(1, BLOCK[rgb.device.type] // slots.shape[1])
        self._per_block = min(1 << (leaves.bit_length() - 1), len(slots))
        self._groups = list(self._plan())

    def average(self, values: Tensor) -> Tensor:
        """Row-normalised filter of float [C, H, W], as float32 [C, H, W]."""
        rows = values.flatten(1).float()
        found = [self._filtered(part) for part in rows.split(MOST_CLASSES)]
        return torch.cat(found).unflatten(1, self._size)

    def degrees(self) -> Tensor:
        """Σ_j k_ij, [H, W]: the filter's answer to an image of ones, at least 1."""
        ones = torch.zeros((1, self._count), device=self._pixels.device)
        share = self._filtered(ones, with_unit=True)  # 1 / (1 + Σ_j k_ij)
        return (1 / share - 1)[0].unflatten(0, self._size)

    @property
    def pairs(self) -> float:
        """The share of all pairs of pixels that is gone through."""
        leaves = sum(int((group.leaves < len(self._pixels)).sum()) for group in self._groups)
        return leaves * self._per_block / len(self._pixels) ** 2

    def _plan(self) -> Iterator[_Group]:
        """Which leaves each block needs, and which blocks are done in one call."""
        low, high = self._features.amin(1), self._features.amax(1)
        blocks = torch.arange(len(low), device=low.device).view(-1, self._per_block)
        needed = [self._needed(low, high, block) for block in blocks]
        order = sorted(range(len(blocks)), key=lambda number: len(needed[number]))
        while order:
            keys = len(needed[order[-1]]) * self._features.shape[1]
            count = max(1, KEYS_AT_ONCE[low.device.type] // keys)
            taken, order = order[-count:], order[:-count]
            rows = pad_sequence([needed[n] for n in taken], True, padding_value=len(low))
            yield _Group(torch.tensor(taken, device=low.device), rows)

    def _needed(self, low: Tensor, high: Tensor, block: Tensor) -> Tensor:
        """The leaves that a block cannot do without."""
        gap = (low - high[block].amax(0)).clamp(min=0) + (low[block].amin(0) - high).clamp(min=0)
        bound = (-gap.square().sum(1) * self._scale).exp() * self._features.shape[1]
        ordered, leaves = bound.sort()
        return leaves[_running_sum(ordered) > LEFT_OUT].sort().values

    def _filtered(self, rows: Tensor, *, with_unit: bool = False) -> Tensor:
        """[C, N] -> [C, N]. With ``with_unit`` a key of logit 0, whose value alone is 1, joins."""
        classes = len(rows)
        # The CPU's kernel wants one width for all.
        narrow = FACTORS if rows.is_cuda else max(FACTORS, classes)
        width = -(-classes // 4) * 4 if rows.is_cuda else narrow
        values = F.pad(rows.T, (0, width - classes))[self._pixels]
        values = torch.cat([values, torch.zeros_like(values[:1])])
        found = rows.new_empty((*self._pixels.shape, classes))
        blocks = found.view(-1, self._per_block * found.shape[1], classes)
        for group in self._groups:
            queries = self._features.view(len(blocks), -1, 5)[group.blocks]
            centre = queries.mean(1, keepdim=True).round()
            keys = self._keys[group.leaves].flatten(1, 2)
            silence = self._silence[group.leaves].flatten(1, 2)
            heard = values[group.leaves].flatten(1, 2)
            q, k = _factors(queries - centre, keys - centre, silence, narrow)
            if with_unit:
                k, heard = F.pad(k, (0, 0, 0, 1)), F.pad(heard, (0, 0, 0, 1))
                heard[:, -1] = 1
            with _tiled(rows.device):
                out = F.scaled_dot_product_attention(
                    q[:, None], k[:, None], heard[:, None], scale=self._scale
                )
            blocks[group.blocks] = out[:, 0, :, :classes]
        flat = torch.empty_like(rows)
        flat[:, self._pixels.flatten()[self._alive]] = found.flatten(0, 1)[self._alive].T
        return flat


def k_d_order(features: Tensor, leaf: int) -> Tensor:
    """Rows 0..N-1 of ``features`` [N, D] as the leaves [2^k, size ≤ leaf] of a k-d tree.

    Numbers of N and above fill up the leaves; they stand where the last row does.
    """
    count, depth = len(features), 0
    while -(-count // 2**depth) > leaf:
        depth += 1
    size = -(-count // 2**depth)
    nodes = torch.arange(size * 2**depth, device=features.device)[None]
    for _ in range(depth):
        inside = features[nodes.clamp(max=count - 1)]
        widest = (inside.amax(1) - inside.amin(1)).argmax(1)
        along = inside.gather(2, widest[:, None, None].expand(-1, inside.shape[1], 1))[..., 0]
        nodes = nodes.gather(1, along.argsort(dim=1, stable=True)).view(2 * len(nodes), -1)
    return nodes


def _running_sum(values: Tensor) -> Tensor:
    """Of a vector; on the host where exact kernels are asked for: a GPU has none for it."""
    if torch.are_deterministic_algorithms_enabled():
        return values.cpu().cumsum(0).to(values.device)
    return values.cumsum(0)


def _features(rgb: Tensor, place: float) -> Tensor:
    """(R, G, B, x·place, y·place) of every pixel, float32 [N, 5]."""
    height, width = rgb.shape[:2]
    y, x = torch.meshgrid(
        torch.arange(height, device=rgb.device),
        torch.arange(width, device=rgb.device),
        indexing="ij",
    )
    return torch.cat([rgb.float(), torch.stack([x, y], 2) * place], 2).flatten(0, 1)


def _factors(queries: Tensor, keys: Tensor, silence: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Rows whose product is −|f_i − f_j|².

    First what is made of colours, which cancels to a whole number before what is made of positions
    is added; eight factors each, as tensor cores take them.
    """
    q, k = queries.new_zeros((*queries.shape[:2], width)), keys.new_zeros((*keys.shape[:2], width))
    for start, part in ((0, slice(0, 3)), (8, slice(3, 5))):
        mine, theirs = queries[..., part], keys[..., part]
        end = start + mine.shape[2]
        q[..., start:end], k[..., start:end] = 2 * mine, theirs
        q[..., end], k[..., end] = -mine.square().sum(2), 1
        q[..., end + 1], k[..., end + 1] = 1, -theirs.square().sum(2)
    k[..., 11] += silence
    return q, k


@contextmanager
def _tiled(device: torch.device) -> Iterator[None]:
    """Only the kernel that computes in fp32 and never holds queries × keys."""
    kernel = SDPBackend.EFFICIENT_ATTENTION if device.type == "cuda" else SDPBackend.FLASH_ATTENTION
    with torch.autocast(device.type, enabled=False), sdpa_kernel([kernel]):
        yield
