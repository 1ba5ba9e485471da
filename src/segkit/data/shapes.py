"""Shapes: a segmentation data set that is drawn, not downloaded.

Each class has a shape and a texture of its own. Colours say nothing: background, clutter and every
object take their colours from one distribution, drawn anew for each of them.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from segkit.data.labels import LabelSet, label_set
from segkit.errors import ConfigError
from segkit.randomness import generator

# A field over object coordinates u, v (float32 arrays, the object's radius is 1). An outline is
# positive inside, about the distance to the edge; a texture is positive or negative, 1 apart.
Field = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _disc(u: np.ndarray, v: np.ndarray, radius: float = 1.0) -> np.ndarray:
    return radius - np.hypot(u, v)


def _box(u: np.ndarray, v: np.ndarray, half_u: float, half_v: float) -> np.ndarray:
    return np.minimum(half_u - np.abs(u), half_v - np.abs(v))


def _polygon(u: np.ndarray, v: np.ndarray, sides: int, apothem: float) -> np.ndarray:
    """A regular polygon around the origin; ``apothem`` is the distance of its sides."""
    turns = 2 * np.pi * np.arange(sides) / sides
    edges = [apothem - (u * np.cos(t) + v * np.sin(t)).astype(np.float32) for t in turns]
    return np.minimum.reduce(edges)


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 0.24 - np.abs(np.hypot(u, v) - 0.74)


def _pierced_disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    angles = 2 * np.pi * np.arange(3) / 3
    holes = [_disc(u - 0.5 * np.cos(a), v - 0.5 * np.sin(a), 0.22) for a in angles]
    return np.minimum(_disc(u, v, 0.9), -np.maximum.reduce(holes)).astype(np.float32)


def _bar(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A plank with a thin mast."""
    return np.maximum(_box(u, v, 0.9, 0.42), _box(u - 0.3, v - 0.6, 0.08, 0.35))


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Five arms, folded onto the half of one: the edge from its tip (1, 0) to the notch."""
    sector = np.float32(2 * np.pi / 5)
    angle = np.abs((np.arctan2(v, u) + sector / 2) % sector - sector / 2)
    notch = 0.5 * np.exp(0.5j * sector)
    normal = -1j * (notch - 1) / abs(notch - 1)
    radius = np.hypot(u, v)
    along = radius * np.cos(angle) - 1
    return (along * -normal.real - radius * np.sin(angle) * normal.imag).astype(np.float32)


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _box(u, v, 0.7, 0.7)


def _triangle_frame(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.minimum(_polygon(u, v, 3, 0.5), -_polygon(u, v, 3, 0.15))


def _spokes(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sin(12 * np.arctan2(v, u))


def _circles(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sin(22 * np.hypot(u, v))


def _stripes(u: np.ndarray, v: np.ndarray) -> np.ndarray:  # noqa: ARG001
    return np.sin(16 * u)


def _dots(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.cos(17 * u) + np.cos(17 * v) - 0.9


def _checks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sin(13 * u) * np.sin(13 * v)


def _bricks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Thin joints on a plain face."""
    return np.minimum(np.cos(20 * u), np.cos(20 * v)) + 0.75


OBJECTS: dict[str, tuple[Field, Field]] = {
    "ring": (_ring, _spokes),
    "disc": (_pierced_disc, _circles),
    "bar": (_bar, _stripes),
    "star": (_star, _dots),
    "square": (_square, _checks),
    "triangle": (_triangle_frame, _bricks),
}


class Shapes:
    """``count`` drawn samples of ``split`` (any name; each is a stream of its own).

    ``size`` is a side or (height, width). An image shows between ``objects[0]`` and ``objects[1]``
    objects, whose radius is between ``radius[0]`` and ``radius[1]`` of the shorter side. ``border``
    is the half width in pixels of the void band around them. ``classes`` picks from ``OBJECTS``;
    background is always class 0. A sample follows from (seed, split, index) and the arguments.
    """

    def __init__(
        self,
        split: str = "train",
        size: int | Sequence[int] = 129,
        count: int = 400,
        seed: int = 0,
        objects: Sequence[int] = (1, 3),
        radius: Sequence[float] = (0.25, 0.45),
        border: int = 1,
        classes: Sequence[str] = tuple(OBJECTS),
    ) -> None:
        self.split, self.seed, self.border = split, seed, border
        self.size = _checked_size(size)
        self.objects = _checked_range("objects", objects, 0, 100)
        self.radius = _checked_range("radius", radius, 0.01, 1)
        self.labels = _labels(classes)
        if count < 1 or border < 0:
            key = "count" if count < 1 else "border"
            raise ConfigError("RANGE", f"dataset.{key}", "too small", "count >= 1, border >= 0")
        self.ids = np.array([f"{split}-{i:06d}" for i in range(count)])

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """RGB uint8 [H,W,3] and labels uint8 [H,W] with 255 in the border band."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = generator(self.seed, f"shapes {self.split}", index)
        picture = _background(rng, self.size)
        label = np.zeros(self.size, np.uint8)
        for centre, radius in self._places(rng):
            kind = int(rng.integers(1, self.labels.num_classes))
            _draw(rng, picture, label, kind, self.labels.names[kind], centre, radius)
        return _grain(rng, picture), self._with_border(label)

    def _places(self, rng: np.random.Generator) -> list[tuple[tuple[float, float], float]]:
        """Centres (y, x) and radii; of a few tries each, those that cover one another least."""
        height, width = self.size
        places: list[tuple[tuple[float, float], float]] = []
        for _ in range(int(rng.integers(self.objects[0], self.objects[1], endpoint=True))):
            radius = min(self.size) * float(np.exp(rng.uniform(*np.log(self.radius))))
            tries = rng.uniform(0.1, 0.9, (6, 2)) * (height, width)
            room = [
                min((np.hypot(*(t - c)) - radius - r for c, r in places), default=0.0)
                for t in tries
            ]
            y, x = tries[int(np.argmax(room))]
            places.append(((float(y), float(x)), radius))
        return places

    def _with_border(self, label: np.ndarray) -> np.ndarray:
        if not self.border:
            return label
        kernel = np.ones((2 * self.border + 1, 2 * self.border + 1), np.uint8)
        edge = cv2.morphologyEx(label, cv2.MORPH_GRADIENT, kernel)
        label[edge > 0] = self.labels.ignore_label
        return label


def _background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """float32 RGB [H,W,3]: two colours in clouds, with strokes of more colours as clutter."""
    height, width = size
    clouds = _clouds(rng, size, cells=4) + 0.7 * _clouds(rng, size, cells=14)
    picture = _blend(_two_colours(rng), np.clip(0.5 + clouds, 0, 1))
    for _ in range(int(rng.integers(3, 8))):
        y0, x0, y1, x1 = (rng.uniform(-0.1, 1.1, 4) * (height, width, height, width)).astype(int)
        thickness = int(rng.integers(1, max(2, min(size) // 25)))
        colour = rng.uniform(0, 255, 3).tolist()
        cv2.line(picture, (int(x0), int(y0)), (int(x1), int(y1)), colour, thickness, cv2.LINE_AA)
    return picture


def _draw(
    rng: np.random.Generator,
    picture: np.ndarray,
    label: np.ndarray,
    kind: int,
    name: str,
    centre: tuple[float, float],
    radius: float,
) -> None:
    """Paint one object, at a random angle, over what is there."""
    top, left = (max(0, int(c - radius)) for c in centre)
    patch = (slice(top, int(centre[0] + radius) + 2), slice(left, int(centre[1] + radius) + 2))
    height, width = label[patch].shape
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.float32(np.cos(angle) / radius), np.float32(np.sin(angle) / radius)
    y = (np.arange(top, top + height, dtype=np.float32) - np.float32(centre[0]))[:, None]
    x = (np.arange(left, left + width, dtype=np.float32) - np.float32(centre[1]))[None]
    u, v = x * cos + y * sin, y * cos - x * sin
    outline, texture = OBJECTS[name]
    distance = outline(u, v)
    colours = _two_colours(rng)
    # Half a pixel of transition on each side of an edge, as a camera would see it.
    paint = _blend(colours, np.clip(0.5 + 3 * texture(u, v), 0, 1))
    cover = np.clip(0.5 + distance * np.float32(radius), 0, 1)[..., None]
    picture[patch] += cover * (paint - picture[patch])
    label[patch][distance > 0] = kind


def _grain(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Light that falls off across the picture, and sensor noise."""
    size = picture.shape[:2]
    picture *= (1 + 0.5 * _clouds(rng, size, cells=2))[..., None]
    noise = np.frombuffer(rng.bytes(picture.size), np.int8).reshape(picture.shape)
    picture += noise * np.float32(rng.uniform(0.02, 0.15))
    return np.clip(picture, 0, 255).astype(np.uint8)


def _clouds(rng: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    """Smooth noise of about −0.5..0.5, float32 [H,W]; ``cells`` along the shorter side."""
    rows, cols = (max(2, round(cells * side / min(size))) for side in size)
    grid = rng.uniform(-0.5, 0.5, (rows, cols)).astype(np.float32)
    return cv2.resize(grid, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)


def _two_colours(rng: np.random.Generator) -> np.ndarray:
    """Two RGB colours that can be told apart, float32 [2,3]; every pair comes from here."""
    for _ in range(20):
        colours = rng.uniform(0, 255, (2, 3))
        if np.abs(colours[0] - colours[1]).sum() > 200:
            break
    return colours.astype(np.float32)


def _blend(colours: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return colours[0] + weight.astype(np.float32)[..., None] * (colours[1] - colours[0])


def _labels(classes: Sequence[str]) -> LabelSet:
    unknown = [name for name in classes if name not in OBJECTS]
    if unknown:
        what = f"no such shape: {', '.join(map(str, unknown))}"
        raise ConfigError("CLASSES", "dataset.classes", what, f"choose from {', '.join(OBJECTS)}")
    return label_set("shapes", ("background", *classes))


def _checked_size(size: int | Sequence[int]) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and 8 <= side <= 8192 for side in sides):
        raise ConfigError("RANGE", "dataset.size", f"{size!r}", "a side of 8 to 8192, or two")
    return sides[0], sides[1]


def _checked_range(key: str, bounds: Sequence[float], low: float, high: float) -> tuple:
    values = tuple(bounds)
    if len(values) != 2 or not low <= values[0] <= values[1] <= high:
        allowed = f"[a, b] with {low} <= a <= b <= {high}"
        raise ConfigError("RANGE", f"dataset.{key}", f"{list(values)}", allowed)
    return values
