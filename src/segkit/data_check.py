"""``segkit data check`` and ``segkit data stats``: a data set is decoded once, and told about."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.conf_files import nearest
from segkit.doctor import say
from segkit.errors import ConfigError, DataError, ExitCode, one_line

if TYPE_CHECKING:  # help and words that are not understood need none of it, nor torch behind it
    from segkit.check.findings import Finding
    from segkit.check.scan import Survey
    from segkit.check.stats import Stats
    from segkit.data.dataset import Dataset

CHECK_USAGE = """\
segkit data check dataset=NAME [dataset.KEY=VALUE ...] [split=train,val] [--json]
segkit data check FOLDER [dataset.KEY=VALUE ...]        for dataset=folder dataset.root=FOLDER

  split=LIST   the splits to look at, separated by commas; train and val are those of the data set
               (voc_aug: trainaug and val), all is both and what is looked at by default
  workers=N    processes that decode (one for each core)
  --json       all findings as one JSON object: {verdict, errors, warnings, notes, splits, findings}

Every pair is decoded. Told are: images and masks that are damaged, missing or of two sizes, labels
that are in no class (with what the mask holds), EXIF rotation, masks that are void all over, unused
classes, names that stand twice or differ in case alone, files without a partner, equal images, and
what is in training and in val: by name, by its pixels, by its looks.

Exit code 0 where nothing is an error (warnings may be), 3 otherwise."""

STATS_USAGE = """\
segkit data stats dataset=NAME [dataset.KEY=VALUE ...] [split=train] [out=FILE.png] [--json]
segkit data stats FOLDER [dataset.KEY=VALUE ...]        for dataset=folder dataset.root=FOLDER

  split=NAME   one split; train and val are those of the data set
  out=FILE     the picture, .png or .svg (default: stats-NAME-SPLIT.png here; none with --json)
  workers=N    processes that decode (one for each core)
  --json       {dataset, split, samples, classes, void_share, mean, std, sizes, weights}

Pixels and images of every class, void, sizes, mean and standard deviation of the colours (0..1),
and class weights by median frequency, with the words to type to use them."""

ALL = "all"


def check(words: Sequence[str]) -> int:
    """Print all findings; raises ``DataError`` DATA-CHECK where one of them is an error."""
    if {"-h", "--help"} & set(words):
        print(CHECK_USAGE)
        return ExitCode.OK
    asked = understood(words, "check")
    splits = asked.splits(default=ALL)
    from segkit.check import verdict
    from segkit.check.findings import of_error, place
    from segkit.check.scan import scan

    surveys: list[Survey] = []
    unopened: list[tuple[str, DataError]] = []
    for split in splits:
        try:
            dataset = opened(asked, split)
        except DataError as error:
            unopened.append((split, error))
            continue
        surveys.append(scan(split, dataset, asked.workers))
    if not surveys:  # then it is not there, or nothing is known of its classes
        raise unopened[0][1]
    found: list[Finding] = [of_error(error, split) for split, error in unopened]
    scored = str(asked.values["dataset"]["val_split"])
    found = verdict.ordered([*found, *verdict.findings_of(surveys, scored)])
    if asked.json:
        print(json.dumps(verdict.as_json(surveys, found), indent=2))
    else:
        for line in [*verdict.lines(surveys, found), verdict.verdict(surveys, found)]:
            say(line)
    if any(finding.severity == "error" for finding in found):
        fix = "training stops at the first of the errors"
        raise DataError("CHECK", place(surveys[0]), verdict.verdict(surveys, found), fix)
    return ExitCode.OK


def statistics(words: Sequence[str]) -> int:
    """Print and draw what a split is made of; raises the first fault of its files."""
    if {"-h", "--help"} & set(words):
        print(STATS_USAGE)
        return ExitCode.OK
    asked = understood(words, "stats")
    split, *more = asked.splits(default="train")
    if more:
        raise ConfigError("USAGE", "split", "one at a time", "split=train")
    out = picture_path(asked, split)
    from segkit.check import stats
    from segkit.check.scan import scan

    survey = scan(split, opened(asked, split), asked.workers)
    refuse_faults(survey, asked)
    found = stats.stats_of(survey)
    if asked.json:
        facts = {"dataset": asked.name, "split": split, **stats.as_json(found)}
        print(json.dumps(facts, indent=2))
    else:
        say(f"{one_line(asked.name)} {one_line(split)}: {found.samples} images\n")
        say(stats.table(found))
        say(f"\nto use the weights: segkit train {asked.retyped} {stats.weights_line(found)}")
    if out is not None:
        draw(out, survey, found, f"{asked.name} {split}: {found.samples} images")
        if not asked.json:
            say(f"picture: {out}")
    return ExitCode.OK


def refuse_faults(survey: "Survey", asked: "Asked") -> None:
    """Numbers of half a data set are the numbers of another one."""
    faults = [error for _, facts in sorted(survey.faulty.items()) for error in facts.faults]
    noted = [error for error, _ in getattr(survey.dataset, "opening_faults", ())]
    if errors := [*noted, *faults]:
        first = errors[0]
        more = f"{first.fix}; " if first.fix else ""
        fix = f"{more}all {len(errors)} faults: segkit data check {asked.retyped}"
        raise type(first)(first.name, first.where, first.what, fix)
    if not survey.total:
        raise DataError("EMPTY-SPLIT", asked.name, f"{survey.split} holds no mask")


def picture_path(asked: "Asked", split: str) -> Path | None:
    """Where the picture goes; ``ConfigError`` for a format that is not drawn."""
    typed = asked.own.get("out")
    if typed is None:
        name = one_line(f"stats-{asked.name}-{split}.png").replace("/", "-")
        return None if asked.json else Path(name)
    path = Path(typed).expanduser()
    if path.suffix.lower() not in (".png", ".svg"):
        raise ConfigError("USAGE", "out", f"{typed!r}", "a .png or .svg")
    if not path.parent.is_dir():
        raise ConfigError("USAGE", "out", f"{path.parent} is no folder", "make it first")
    return path


def draw(path: Path, survey: "Survey", found: "Stats", title: str) -> None:
    """A bar for each class."""
    from segkit.report.class_shares import write_class_shares

    rows = [
        (facts.name, facts.share or 0.0, facts.image_share, colour)
        for facts, colour in zip(found.classes, survey.labels.colours, strict=True)
    ]
    write_class_shares(path, rows, title)


# -- the command line ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """The words of a line, and the config that they compose."""

    own: Mapping[str, str]
    overrides: tuple[str, ...]
    options: tuple[str, ...]
    values: Mapping[str, Any]

    @property
    def json(self) -> bool:
        return "--json" in self.own

    @property
    def name(self) -> str:
        return str(self.values["dataset"]["name"])

    @property
    def retyped(self) -> str:
        """The words that name the same data set on another line."""
        words = [word for word in self.overrides if not word.startswith("workers=")]
        return shlex.join([*words, *self.options])

    @property
    def workers(self) -> int:
        from segkit.parts import workers_of

        return workers_of(self.values)

    def splits(self, default: str) -> list[str]:
        """The data set's own names of the splits that are asked for, each once."""
        node = self.values["dataset"]
        both = [str(node["train_split"]), str(node["val_split"])]
        own = {"train": both[:1], "val": both[1:], ALL: both}
        typed = self.own.get("split", default).strip("[]")
        words = [word.strip() for word in typed.split(",") if word.strip()]
        if not words:
            raise ConfigError("USAGE", "split", "names none", "split=train,val")
        return list(dict.fromkeys(name for word in words for name in own.get(word, [word])))


def understood(words: Sequence[str], command: str) -> Asked:
    """A line taken apart and composed as for training; ``ConfigError`` names what is not known."""
    from segkit import cli, instantiate
    from segkit.config import compose
    from segkit.model import taken

    keys = ("split", "--json") if command == "check" else ("split", "out", "--json")
    own, rest = taken(words, keys)
    call = cli.parse(["train", *rest])
    folders = [word for word in call.overrides if "=" not in word or Path(word).is_dir()]
    overrides = [word for word in call.overrides if word not in folders]
    groups = [word for word in overrides if word.startswith("dataset=")]
    hint = f"see segkit data {command} --help"
    if call.multirun or call.show:
        raise ConfigError("USAGE", "-m" if call.multirun else "--cfg", "not here", hint)
    if len(folders) + len(groups) != 1:
        what = "names no data set" if not folders and not groups else "names more than one data set"
        raise ConfigError("USAGE", f"data {command}", what, f"dataset=NAME or a folder; {hint}")
    for word in overrides:
        key = word.partition("=")[0]
        if key not in ("dataset", "workers") and not key.lstrip("+~").startswith("dataset."):
            known = (*keys, "dataset", "dataset.root", "workers")
            raise ConfigError(
                "UNKNOWN-KEY", key, "no such key here", f"{hint}{nearest(key, known)}"
            )
    if folders:
        overrides = ["dataset=folder", f"dataset.root={folders[0]}", *overrides]
    instantiate.trust(call.trust)
    values = compose("train", overrides, call.config_dir).values
    options = [f"--config-dir={call.config_dir}"] if call.config_dir else []
    options += [f"--trust={module}" for module in call.trust]
    return Asked(own, tuple(overrides), tuple(options), values)


def opened(asked: Asked, split: str) -> "Dataset":
    """The split, by a reader that goes on past what is wrong with its lists and folders."""
    from segkit import instantiate
    from segkit.check.opening import noting
    from segkit.config import placed
    from segkit.parts import dataset_node

    try:
        made = instantiate.partial(dataset_node(asked.values, split), "dataset")
        dataset: Dataset = noting(made.func)(*made.args, **made.keywords, split=split)
    except ConfigError as error:
        raise placed(error, asked.overrides) from error
    return dataset
