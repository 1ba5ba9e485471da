"""What is wrong, as findings: one a file where it is about a file."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from segkit.check.look import PairFacts
from segkit.check.opening import Fault
from segkit.check.scan import Survey
from segkit.data.tree import shown
from segkit.errors import SegkitError

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

_SHOWN_VALUES = 5


@dataclass(frozen=True)
class Finding:
    """``error``: a reader refuses it, or a score means nothing. ``note``: it is as it may be.

    ``names`` are the samples or classes that it is about, where ``where`` is no file of its own;
    ``values`` what a refused mask holds that is no label, with its pixels, the most frequent first.
    """

    severity: Severity
    id: str
    where: str
    what: str
    fix: str = ""
    split: str = ""
    names: tuple[str, ...] = ()
    values: tuple[tuple[int | tuple[int, int, int], int], ...] = ()

    @property
    def text(self) -> str:
        return f"{self.what}; {self.fix}" if self.fix else self.what


def of_error(
    error: SegkitError, split: str, names: Iterable[str] = (), facts: PairFacts | None = None
) -> Finding:
    """What a reader says, as a finding."""
    what, values = error.what, facts.strange if facts else ()
    if not error.name.startswith(("LABEL", "MASK")):
        values = ()  # it is about the image
    if facts is not None and values:
        what += f". In no class: {_histogram(facts)}"
    return Finding("error", error.id, error.where, what, error.fix, split, tuple(names), values)


def _histogram(facts: PairFacts) -> str:
    """What is no label, with its pixels."""
    told = [f"{value} in {pixels} pixels" for value, pixels in facts.strange[:_SHOWN_VALUES]]
    if facts.strange_kinds > len(told):
        told.append(f"{facts.strange_kinds - len(told)} more")
    return ", ".join(told)


def of_opening(faults: Iterable[Fault], split: str) -> Iterator[Finding]:
    """What the lists and folders have wrong."""
    for error, names in faults:
        yield of_error(error, split, names)


def of_pairs(survey: Survey) -> Iterator[Finding]:
    """What single pairs have wrong, in their order."""
    for index, facts in sorted(survey.faulty.items()):
        for error in facts.faults:
            yield of_error(error, survey.split, facts=facts)
        if facts.orientation != 1:
            what = f"EXIF orientation {facts.orientation}: the image is turned when it is read"
            fix = "the mask must be drawn on the upright image"
            yield Finding("warning", "DATA-EXIF", survey.image(index), what, fix, survey.split)
        if facts.labels and {label for label, _ in facts.labels} == {survey.labels.ignore_label}:
            what = f"every pixel is {survey.labels.ignore_label}: nothing is learned from this pair"
            yield Finding("warning", "DATA-VOID", survey.mask(index), what, "", survey.split)


def of_split(survey: Survey) -> Iterator[Finding]:
    """What only the whole split shows."""
    ignored = survey.labels.ignore_label
    where = place(survey)
    if survey.total and survey.void == survey.total:
        what = (
            f"every pixel of every mask of {survey.split} is {ignored}: nothing to learn or score"
        )
        yield Finding("error", "DATA-VOID-SPLIT", where, what, "", survey.split)
        return
    unused = [name for name, n in zip(survey.labels.names, survey.images, strict=True) if n == 0]
    through_table = any(getattr(survey.dataset, f"{t}_table", None) for t in ("colour", "value"))
    alone = len(unused) == survey.labels.num_classes - 1
    if survey.total and alone and survey.void and not through_table:
        label = int(np.argmax(survey.images))
        what = f"every mask of {survey.split} holds {label} and {ignored} alone"
        fix = f"if {ignored} is a class and not void, give dataset.values or another ignore_label"
        yield Finding("warning", "DATA-BINARY", where, what, fix, survey.split)
    elif survey.total and unused:
        what = f"{len(unused)} of {survey.labels.num_classes} classes have no pixel in "
        what += f"{survey.split}: {shown(unused)}"
        yield Finding("warning", "DATA-UNUSED-CLASS", where, what, "", survey.split, tuple(unused))


def place(survey: Survey) -> str:
    """The data set's folder, or its name where it has none."""
    return str(getattr(survey.dataset, "root", survey.labels.name))
