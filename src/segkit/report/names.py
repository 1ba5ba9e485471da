"""Where results of a prediction are written: inside the output folder, one name per input."""

import os
import unicodedata
from collections.abc import Container, Sequence, Set
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from segkit.errors import EnvironmentFault, RefusedError
from segkit.whole_files import faults

# Device names that Windows reserves in every folder, with any extension.
_DEVICES = {"CON", "PRN", "AUX", "NUL"}
_DEVICES |= {f"{device}{digit}" for device in ("COM", "LPT") for digit in "123456789¹²³"}

# What a result's file may end in; an input's folder of such a name must not stand in its way.
_ENDINGS = (".png", ".npz", ".mp4")

_LONGEST = 255  # bytes of one name on the usual file systems


def relative_names(inputs: Sequence[Path], videos: Container[Path] = ()) -> list[PurePosixPath]:
    """One name (without suffix) per input file, relative to the folder the inputs have in common.

    ``a/x.jpg b/x.jpg`` become ``a/x`` and ``b/x``; ``x.jpg x.png`` keep their suffixes. Names also
    differ on file systems that ignore case. The same file given twice has the same name twice.
    ``videos`` have results of their own below their names, where no other input's may come; and no
    folder has the name of a result: ``pic.jpg pic.png/z.jpg`` become ``pic.jpg`` and ``pic.png/z``.
    """
    absolute = [Path(os.path.normpath(path.absolute())) for path in inputs]
    distinct = list(dict.fromkeys(absolute))
    if not distinct:
        return []
    common = os.path.commonpath([path.parent for path in distinct])
    full = {path: PurePosixPath(path.relative_to(common).as_posix()) for path in distinct}
    short = {path: name.with_suffix("") for path, name in full.items()}
    crowded = _repeated([_key(name) for name in short.values()])
    films = {path for path, given in zip(absolute, inputs, strict=True) if given in videos}
    folders = {_key(parent) for name in full.values() for parent in name.parents}
    taken, results = set[str](), set[str]()
    names = {}
    # Videos first: their names are folders, too.
    for path in sorted(distinct, key=lambda path: path not in films):
        blocked = folders | results if path in films else set[str]()
        name = full[path] if _key(short[path]) in crowded else short[path]
        if not _is_free(name, blocked, folders):
            name = full[path]
        names[path] = _free(name, blocked | taken, folders)
        taken.add(_key(names[path]))
        results.update(_results(names[path]))
        if path in films:
            folders.add(_key(names[path]))
    return [names[path] for path in absolute]


def prediction_path(out: Path, name: PurePath | str, suffix: str = ".png") -> Path:
    """``out``/``name`` + ``suffix``, with its folders made and nothing on the way followed.

    Raises RefusedError for a name that is absolute, climbs, is reserved or unprintable on some
    system, and where a link stands below ``out`` or at the target itself.
    """
    parts = _checked_parts(str(name), suffix)
    folder = out
    make_folder(folder)
    for part in parts[:-1]:
        folder = folder / part
        if folder.is_symlink():
            raise RefusedError("PATH-LINK", folder, "is a link", "remove it or choose another out=")
        make_folder(folder)
    path = folder / (parts[-1] + suffix)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise RefusedError("PATH-LINK", path, "is not a plain file", "remove it or choose out=")
    return path


def _checked_parts(name: str, suffix: str) -> tuple[str, ...]:
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    parts = posix.parts
    if posix.is_absolute() or windows.drive or windows.root:
        raise _refused(name, "is absolute")
    if not parts or ".." in windows.parts or not windows.parts:
        raise _refused(name, "does not name a file inside the output folder")
    for part in parts:
        if part.split(".")[0].rstrip().upper() in _DEVICES:
            raise _refused(name, f"{part} is reserved on Windows")
        if not part.isprintable() or part != part.rstrip(" ."):
            raise _refused(name, "has unprintable characters or ends in a space or dot")
        if len(os.fsencode(part + suffix)) > _LONGEST:
            raise _refused(name, f"is longer than {_LONGEST} bytes")
    return parts


def _refused(name: str, what: str) -> RefusedError:
    return RefusedError("PATH", name, what, "rename the input")


def make_folder(folder: Path) -> None:
    """Raises ``EnvironmentFault`` where no folder can be made there."""
    try:
        with faults(folder, 0):
            folder.mkdir(parents=True, exist_ok=True)
    except EnvironmentFault as fault:
        if fault.name not in ("WRITE", "RUN-GONE"):
            raise
        what = "no folder can be made here"
        if isinstance(fault.__cause__, OSError):
            what = f"{what} ({fault.__cause__.strerror})"
        fix = "choose another place, such as out=/tmp/NAME"
        raise EnvironmentFault("WRITE", folder, what, fix) from fault


def _key(name: PurePosixPath) -> str:
    """Equal for names that one file system or another takes for the same."""
    return unicodedata.normalize("NFC", str(name)).casefold()


def _repeated(keys: Sequence[str]) -> set[str]:
    seen: set[str] = set()
    return {key for key in keys if key in seen or seen.add(key)}  # type: ignore[func-returns-value]


def _results(name: PurePosixPath) -> set[str]:
    return {_key(name) + ending for ending in _ENDINGS}


def _is_free(name: PurePosixPath, taken: Set[str], folders: Set[str]) -> bool:
    return _key(name) not in taken and not _results(name) & folders


def _free(name: PurePosixPath, taken: Set[str], folders: Set[str]) -> PurePosixPath:
    candidate, count = name, 1
    while not _is_free(candidate, taken, folders):
        count += 1
        candidate = name.with_name(f"{name.name}-{count}")
    return candidate
