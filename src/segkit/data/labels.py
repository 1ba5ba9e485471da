"""Label sets: one table per data set is the only truth about its classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segkit.errors import ConfigError

Colour = tuple[int, int, int]

MAX_CLASSES = 65535  # labels are at most uint16, and one value must stay free for void


@dataclass(frozen=True)
class LabelSet:
    """The classes 0..C-1 of a data set, their RGB colours, and the value of "do not count".

    ``ignore_label`` is 255 (65535 with more than 255 classes) unless given. Raises ``ConfigError``
    for fewer than 2 classes, names not unique or empty, an ignore label that is also a class.
    """

    name: str
    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    ignore_label: int = -1

    def __post_init__(self) -> None:
        if self.ignore_label == -1:
            object.__setattr__(self, "ignore_label", default_ignore_label(len(self.names)))
        _check_names(self.names)
        _check_colours(self.names, self.colours)
        _check_ignore_label(self.ignore_label, len(self.names))

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def dtype(self) -> str:
        """``uint8`` where every label and the ignore label fit, else ``uint16``."""
        return "uint8" if self.ignore_label <= 255 and self.num_classes <= 256 else "uint16"

    @property
    def allowed(self) -> str:
        """For messages: ``0..20 and 255 (dataset.ignore_label)``."""
        return f"0..{self.num_classes - 1} and {self.ignore_label} (dataset.ignore_label)"

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and integers, for checkpoints and score files."""
        return {
            "name": self.name,
            "names": list(self.names),
            "colours": [list(colour) for colour in self.colours],
            "ignore_label": self.ignore_label,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "LabelSet":
        """The inverse of ``to_dict``; the mapping may come from a file and is not trusted."""
        expected = {"name", "names", "colours", "ignore_label"}
        if not isinstance(plain, Mapping) or set(plain) != expected:
            raise ConfigError("LABELS", "labels", "not a label set", f"keys {sorted(expected)}")
        if not isinstance(plain["name"], str) or not _is_list(plain["names"]):
            raise ConfigError("LABELS", "labels.names", "not a list of class names")
        if not _is_list(plain["colours"]) or not all(_is_list(c) for c in plain["colours"]):
            raise ConfigError("LABELS", "labels.colours", "not a list of RGB triples")
        if not _is_int(plain["ignore_label"]) or plain["ignore_label"] < 0:
            raise ConfigError("LABELS", "labels.ignore_label", "not a whole number from 0 on")
        colours = tuple(tuple(colour) for colour in plain["colours"])
        return cls(plain["name"], tuple(plain["names"]), colours, plain["ignore_label"])


def default_ignore_label(num_classes: int) -> int:
    return 255 if num_classes <= 255 else 65535


def interleaved_colour(label: int) -> Colour:
    """The PASCAL VOC colour of a label: bit 0, 1, 2 of the id become the top bits of R, G, B,
    the next three bits the bits below, and so on (VOC devkit; facts 5.1)."""
    channels = [0, 0, 0]
    for bit in range(7, -1, -1):
        for channel in range(3):
            channels[channel] |= (label >> channel & 1) << bit
        label >>= 3
    return channels[0], channels[1], channels[2]


def label_set(name: str, names: Sequence[str]) -> LabelSet:
    """A label set in VOC's colours."""
    return LabelSet(name, tuple(names), tuple(interleaved_colour(i) for i in range(len(names))))


def _check_names(names: tuple[str, ...]) -> None:
    where = "dataset.classes"
    if not 2 <= len(names) <= MAX_CLASSES:
        raise ConfigError("CLASSES", where, f"{len(names)} classes", f"2 to {MAX_CLASSES}")
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise ConfigError("CLASSES", where, "a class name is empty or not text", "name every class")
    twice = sorted({name for name in names if names.count(name) > 1}) if _repeats(names) else []
    if twice:
        raise ConfigError("CLASSES", where, f"names used twice: {', '.join(twice)}")


def _check_colours(names: tuple[str, ...], colours: tuple[Colour, ...]) -> None:
    if len(colours) != len(names):
        what = f"{len(colours)} colours for the {len(names)} names of dataset.classes"
        raise ConfigError("CLASSES", "dataset.colours", what, "one RGB triple per class")
    for colour in colours:
        if len(colour) != 3 or not all(_is_int(c) and 0 <= c <= 255 for c in colour):
            raise ConfigError(
                "CLASSES", "dataset.colours", f"{colour!r} is no RGB triple", "0..255"
            )


def _check_ignore_label(ignore_label: int, num_classes: int) -> None:
    if not num_classes <= ignore_label <= 65535:
        what = f"{ignore_label} with {num_classes} dataset.classes"
        fix = f"a value outside 0..{num_classes - 1} and at most 65535"
        raise ConfigError("IGNORE-LABEL", "dataset.ignore_label", what, fix)


def _repeats(names: tuple[str, ...]) -> bool:
    return len(set(names)) != len(names)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# PASCAL VOC 2012, 20 objects and background (facts 5.1).
VOC = label_set(
    "voc",
    (
        "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat",
        "chair", "cow", "dining table", "dog", "horse", "motorbike", "person", "potted plant",
        "sheep", "sofa", "train", "tv/monitor",
    ),
)  # fmt: skip

# CamVid in the 11 classes of the SegNet split (Badrinarayanan et al. 2017), CamVid's own colours.
CAMVID = LabelSet(
    "camvid",
    (
        "sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car",
        "pedestrian", "bicyclist",
    ),
    (
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
)  # fmt: skip

# Cityscapes: every official label as (labelId, name, trainId, colour), from cityscapesScripts'
# helpers/labels.py (facts 5.2). The trainIds 255 and -1 do not count, in training or evaluation.
CITYSCAPES_TABLE: tuple[tuple[int, str, int, Colour], ...] = (
    (-1, "license plate", -1, (0, 0, 142)),
    (0, "unlabeled", 255, (0, 0, 0)),
    (1, "ego vehicle", 255, (0, 0, 0)),
    (2, "rectification border", 255, (0, 0, 0)),
    (3, "out of roi", 255, (0, 0, 0)),
    (4, "static", 255, (0, 0, 0)),
    (5, "dynamic", 255, (111, 74, 0)),
    (6, "ground", 255, (81, 0, 81)),
    (7, "road", 0, (128, 64, 128)),
    (8, "sidewalk", 1, (244, 35, 232)),
    (9, "parking", 255, (250, 170, 160)),
    (10, "rail track", 255, (230, 150, 140)),
    (11, "building", 2, (70, 70, 70)),
    (12, "wall", 3, (102, 102, 156)),
    (13, "fence", 4, (190, 153, 153)),
    (14, "guard rail", 255, (180, 165, 180)),
    (15, "bridge", 255, (150, 100, 100)),
    (16, "tunnel", 255, (150, 120, 90)),
    (17, "pole", 5, (153, 153, 153)),
    (18, "polegroup", 255, (153, 153, 153)),
    (19, "traffic light", 6, (250, 170, 30)),
    (20, "traffic sign", 7, (220, 220, 0)),
    (21, "vegetation", 8, (107, 142, 35)),
    (22, "terrain", 9, (152, 251, 152)),
    (23, "sky", 10, (70, 130, 180)),
    (24, "person", 11, (220, 20, 60)),
    (25, "rider", 12, (255, 0, 0)),
    (26, "car", 13, (0, 0, 142)),
    (27, "truck", 14, (0, 0, 70)),
    (28, "bus", 15, (0, 60, 100)),
    (29, "caravan", 255, (0, 0, 90)),
    (30, "trailer", 255, (0, 0, 110)),
    (31, "train", 16, (0, 80, 100)),
    (32, "motorcycle", 17, (0, 0, 230)),
    (33, "bicycle", 18, (119, 11, 32)),
)

_COUNTED = sorted((row for row in CITYSCAPES_TABLE if 0 <= row[2] < 255), key=lambda row: row[2])
CITYSCAPES = LabelSet(
    "cityscapes",
    tuple(name for _, name, _, _ in _COUNTED),
    tuple(colour for *_, colour in _COUNTED),
)

# labelId -> class, for reading masks. An 8-bit mask can hold -1 (license plate) only as 255.
CITYSCAPES_CLASS_OF = {
    label_id: train_id if 0 <= train_id < 255 else CITYSCAPES.ignore_label
    for label_id, _, train_id, _ in CITYSCAPES_TABLE
} | {255: CITYSCAPES.ignore_label}

# class -> labelId, for the benchmark's server: it takes labelIds, never trainIds.
CITYSCAPES_IDS = tuple(label_id for label_id, *_ in _COUNTED)

# Category of each class in cityscapesScripts' helpers/labels.py; the eighth, void, has no class.
CITYSCAPES_CATEGORIES = (
    *("flat",) * 2, *("construction",) * 3, *("object",) * 3, *("nature",) * 2, "sky",
    *("human",) * 2, *("vehicle",) * 6,
)  # fmt: skip


def categories_of(labels: LabelSet) -> tuple[str, ...] | None:
    """The category of every class; None where the label set has no categories."""
    return CITYSCAPES_CATEGORIES if labels.names == CITYSCAPES.names else None
