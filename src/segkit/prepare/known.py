"""An archive as its owner publishes it, and whether a file is that archive."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from segkit.data.bars import bar
from segkit.data.files import open_file
from segkit.errors import DataError

_CHUNK = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class Budget:
    """What an archive may expand to."""

    bytes: int
    files: int


@dataclass(frozen=True)
class Known:
    """One published archive. ``md5`` and ``sha256`` are "" where no source proves them.

    ``address`` is "" where a login or nothing leads to it. ``hosts`` are those, besides the
    address's own, that its server may send a download on to.
    """

    name: str
    budget: Budget
    md5: str = ""
    sha256: str = ""
    address: str = ""
    hosts: tuple[str, ...] = ()

    def check(self, path: Path, found: "Digests") -> None:
        """``DataError`` with both sums unless ``found`` is what the owner's archive has."""
        for kind, expected in (("sha256", self.sha256), ("md5", self.md5)):
            here = getattr(found, kind)
            if expected and here != expected:
                what = f"{kind} {here}, expected {expected}; not the {self.name} of its owner"
                raise DataError("CHECKSUM", path, what, "get it again: it is cut or altered")


@dataclass(frozen=True)
class Digests:
    """A file's size and sums."""

    bytes: int
    md5: str
    sha256: str


@dataclass
class Hasher:
    """Sums of a stream."""

    count: int = 0
    _md5: "hashlib._Hash" = field(default_factory=lambda: hashlib.md5(usedforsecurity=False))
    _sha256: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def update(self, data: bytes) -> None:
        self.count += len(data)
        self._md5.update(data)
        self._sha256.update(data)

    def digests(self) -> Digests:
        return Digests(self.count, self._md5.hexdigest(), self._sha256.hexdigest())


def digest(path: Path) -> Digests:
    """The sums of a whole file, with a bar."""
    hasher = Hasher()
    with open_file(path) as file, bar(f"check {path.name}", path.stat().st_size, "B") as advance:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
            advance(len(chunk))
    return hasher.digests()
