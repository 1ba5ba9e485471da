"""Images that are there twice: within a split, and, what spoils a score, in training and in val.

Equal means equal decoded pixels. A copy that was made smaller or encoded anew has other pixels; of
such ones the look (``look.look_of``) differs in a few of its 256 bits, and they are told as a
warning, for frames of one film are as like each other.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from segkit.check.findings import Finding, place
from segkit.check.look import LOOK_BYTES
from segkit.check.scan import Survey
from segkit.data.tree import shown

ALIKE_BITS = 12
LOOK_BITS = 8 * LOOK_BYTES
_BLOCK = 2048


def twins(survey: Survey) -> Iterator[Finding]:
    """Equal images within a split."""
    for group in _groups(survey).values():
        if len(group) < 2:
            continue
        names = tuple(survey.id(index) for index in group)
        differ = len({survey.mask_digests[index].tobytes() for index in group}) > 1
        masks = "; their masks differ" if differ else ""
        what = f"{len(names)} equal images: {shown(names)}{masks}"
        yield Finding(
            "warning", "DATA-TWINS", survey.image(group[0]), what, "", survey.split, names
        )


def leaks(scored: Survey, others: Sequence[Survey]) -> Iterator[Finding]:
    """What is in the scored split and in another one."""
    for other in others:
        yield from _by_id(scored, other)
        yield from _by_content(scored, other)
        yield from _by_look(scored, other)


def _by_id(scored: Survey, other: Survey) -> Iterator[Finding]:
    shared = tuple(
        sorted({str(i) for i in scored.dataset.ids} & {str(i) for i in other.dataset.ids})
    )
    if shared:
        what = f"{len(shared)} ids are in {other.split} and in {scored.split}: {shown(shared)}"
        fix = f"take them out of {other.split}"
        yield Finding("error", "DATA-LEAK", place(scored), what, fix, scored.split, shared)


def _by_content(scored: Survey, other: Survey) -> Iterator[Finding]:
    here, there = _groups(scored), _groups(other)
    for digest in here.keys() & there.keys():
        ours, theirs = here[digest], there[digest]
        known = {scored.id(a) for a in ours} & {other.id(b) for b in theirs}  # the id has told it
        new = [a for a in ours if scored.id(a) not in known]
        also = [b for b in theirs if new or other.id(b) not in known]
        if not also:
            continue
        told = new or ours
        names = [tuple(scored.id(a) for a in told), tuple(other.id(b) for b in also)]
        what = f"the same image as {names[1][0]} of {other.split}"
        if len(told) + len(also) > 2:
            what = (
                f"one image is {len(told)} times in {scored.split} ({shown(names[0])}) and "
                f"{len(also)} times in {other.split} ({shown(names[1])})"
            )
        both = names[0] + names[1]
        where = scored.image(told[0])
        yield Finding("error", "DATA-LEAK-IMAGE", where, what, "", scored.split, both)


def _by_look(scored: Survey, other: Survey) -> Iterator[Finding]:
    for a, b, bits in alike(scored.looks, other.looks):
        same = scored.digests[a].tobytes() == other.digests[b].tobytes()
        if not same and scored.id(a) != other.id(b):
            what = f"looks like {other.id(b)} of {other.split} ({bits} of 256 bits differ)"
            names = (scored.id(a), other.id(b))
            where = scored.image(a)
            yield Finding("warning", "DATA-LEAK-LOOK", where, what, "", scored.split, names)


def alike(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Rows of two arrays of looks [n,32] with at most ``ALIKE_BITS`` bits between them: (row of the
    first, its nearest row of the second, bits). Rows of zeros are no looks."""
    rows, candidates = (np.flatnonzero(looks.any(axis=1)) for looks in (first, second))
    bits = np.full(len(rows), LOOK_BITS + 1)
    nearest = np.zeros(len(rows), np.int64)
    for chunk in _blocks(candidates):
        pool = _signs(second[chunk]).T
        for start, block in zip(range(0, len(rows), _BLOCK), _blocks(rows), strict=True):
            # Two vectors of signs have the product (equal signs) - (different signs).
            distance = (LOOK_BITS - _signs(first[block]) @ pool) / 2
            best = distance.argmin(axis=1)
            found = distance[np.arange(len(block)), best].astype(int)
            place = start + np.flatnonzero(found < bits[start : start + len(block)])
            bits[place] = found[place - start]
            nearest[place] = chunk[best[place - start]]
    for row in np.flatnonzero(bits <= ALIKE_BITS).tolist():
        yield int(rows[row]), int(nearest[row]), int(bits[row])


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK))


def _signs(looks: np.ndarray) -> np.ndarray:
    """Bits as -1 and 1, float32 [n,256]."""
    return np.unpackbits(looks, axis=1).astype(np.float32) * 2 - 1


def _groups(survey: Survey) -> dict[bytes, list[int]]:
    """Digest -> the samples that have it."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index, digest in enumerate(survey.digests):
        if digest.any():
            groups[digest.tobytes()].append(index)
    return groups
