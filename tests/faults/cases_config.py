"""G rows: configs that are refused, with code 2 and the key or file."""

from cases import Case, Prepare, typed
from sandbox import TINY, Sandbox

BOMB = (
    "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "seed: 1\n"
)


def own_file(content: str | bytes, *words: str, name: str = "experiment/mine.yaml") -> Prepare:
    """A training with a ``--config-dir`` of the user's, in which one file is at fault.

    It stands on the command line where TINY names the shipped experiment.
    """

    def prepare(box: Sandbox) -> tuple[str, ...]:
        path = box.work / "conf" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return ("train", "--config-dir", "conf", "experiment=mine", *words)

    return prepare


def mine(text: str) -> str:
    return f"# @package _global_\n{text}"


def yaml(name: str, content: str | bytes, place: str, seconds: float = 20.0) -> Case:
    path = f"conf/experiment/mine.yaml{place}"
    return Case("G6", name, own_file(content), 2, "CFG-YAML", path, seconds=seconds)


def own_key(name: str, text: str, error: str, names: str) -> Case:
    return Case("G6", name, own_file(mine(text)), 2, error, names)


def broken(row: str, name: str, word: str, error: str, names: str) -> Case:
    return Case(row, name, typed(*TINY, word), 2, error, names)


def no_folder(box: Sandbox) -> tuple[str, ...]:
    (box.work / "conf").write_text("a file")
    return (*TINY, "--config-dir", "conf")


def long_name(box: Sandbox) -> tuple[str, ...]:  # noqa: ARG001
    return (*TINY, f"name={'x' * 256}")


def file_in_the_way(box: Sandbox) -> tuple[str, ...]:
    (box.work / "runs").write_text("a file")
    return TINY


CASES = [
    broken("G1", "unknown-key", "augment.cropp=33", "CFG-UNKNOWN-KEY", "augment.cropp"),
    yaml("syntax", mine("seed: [1, 2\n"), ":3:1"),
    yaml("tab", mine("schedule:\n\tbatch: 3\n"), ":3:1"),
    yaml("doubled-key", mine("seed: 1\nseed: 2\n"), ":3:1"),
    yaml("not-utf8", mine("name: ").encode() + b"\xff\n", ":2:7"),
    yaml("control-character", mine("name: \x07\n"), ""),
    yaml("alias-bomb", mine(BOMB), ":", seconds=2.0),
    yaml("alias-of-itself", mine("a: &a [*a]\n"), ":2:4"),
    yaml("tag", mine("seed: !!python/object/apply:os.mkdir [canary]\n"), ":2:7"),
    yaml("deep", mine("a: " + "[" * 5000 + "]" * 5000), ""),
    yaml("huge", mine("# " + "x" * 300_000), ""),
    yaml("not-a-mapping", mine("[1, 2]\n"), ""),
    own_key(
        "misspelt",
        "sede: 1\n",
        "CFG-UNKNOWN-KEY",
        "sede: no such key (conf/experiment/mine.yaml:2:1)",
    ),
    own_key("misspelt-inside", "augment:\n  cropp: 1\n", "CFG-UNKNOWN-KEY", "mine.yaml:3:3"),
    own_key("misspelt-argument", "model:\n  dropuot: 0.5\n", "CFG-UNKNOWN-KEY", "mine.yaml:3:3"),
    own_key(
        "type",
        "seed: abc\n",
        "CFG-TYPE",
        "seed: 'abc' is not an int (conf/experiment/mine.yaml:2:1)",
    ),
    Case("G6", "no-folder", no_folder, 2, "CFG-CONFIG-DIR", "conf is not a folder"),
    own_key("cycle", "name: ${pretrained}\npretrained: ${name}\n", "CFG-INTERPOLATION", "name"),
    own_key("unset-variable", "name: ${oc.env:NOT_SET}\n", "CFG-INTERPOLATION", "name"),
    own_key("unknown-resolver", "name: ${eval:1}\n", "CFG-INTERPOLATION", "name"),
    broken("G10", "like-an-interpolation", "runs=${x", "CFG-SYNTAX", "runs=${x"),
    broken("G10", "not-utf8", "runs=\udcff", "CFG-SYNTAX", "runs"),
    broken("G10", "name-climbs", "name=../x", "CFG-NAME", "name"),
    broken("G10", "name-absolute", "name=/tmp/x", "CFG-NAME", "name"),
    broken("G10", "name-dots", "name=..", "CFG-NAME", "name"),
    Case("G10", "name-too-long", long_name, 6, "ENV-WRITE", "xxxx"),
    Case("G10", "runs-is-a-file", file_in_the_way, 6, "ENV-NO-FOLDER", "runs"),
    Case("G10", "input-like-an-option", typed("predict", "--x.png"), 2, "CFG-USAGE", "--x.png"),
    broken("S2", "no-such-module", "--trust=nonexist", "CFG-TRUST", "'nonexist'"),
]
