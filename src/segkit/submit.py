"""``segkit submit voc|cityscapes``: label maps packed as the server wants them, and checked."""

import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segkit import parts, restored
from segkit.config import Composed
from segkit.data.bars import size as bytes_text
from segkit.engine.signals import StopRequested, stopping
from segkit.errors import ConfigError, DataError, ExitCode, one_line
from segkit.finished import RECORD, Finished
from segkit.record import notice
from segkit.report.names import prediction_path
from segkit.restored import Trained
from segkit.segmenting import Segmenting, Tally, protocol_digest, refuse_several_processes
from segkit.sources import ImageFile
from segkit.submission.check import Checked, check
from segkit.submission.pack import pack
from segkit.submission.servers import CityscapesServer, Server, VocServer
from segkit.whole_files import refuse_links, write_whole

SERVERS: dict[str, type[Server]] = {"voc": VocServer, "cityscapes": CityscapesServer}


def main(composed: Composed) -> int:
    """Write and check an archive, or check one that there is (``check=FILE``)."""
    values = composed.values
    refuse_several_processes(values, "submit")
    name = name_of_server(composed)
    if values["check"]:
        server = server_of(name, composed, None)
        path = restored.typed_path(values["check"])
        own = {".lock", RECORD, server.archive}  # what submit itself writes beside the maps
        return report(path, check(path, server, server.sizes(), own))
    device = parts.device_of(values)
    parts.deterministic(values["deterministic"])
    path = restored.find(values["ckpt"], values["runs"], values["ckpt_kind"])
    print(f"checkpoint: {path}", file=sys.stderr)
    trained = restored.asked_for(composed, path, device)
    check_classes(trained, SERVERS[name])
    server = server_of(name, composed, trained)
    archive = written(trained, restored.protocol(composed, trained.config), server, device)
    report(archive, check(archive, server, server.sizes()))
    print(f"upload it by hand: {server.address}")
    return ExitCode.OK


def name_of_server(composed: Composed) -> str:
    """The server that was typed; ``ConfigError`` for keys that it leaves no choice of."""
    words = composed.values["inputs"]
    if len(words) != 1 or words[0] not in SERVERS:
        what = f"{' '.join(words)!r} is no server" if words else "which server?"
        raise ConfigError("INPUT", "submit", what, f"type segkit submit {' or '.join(SERVERS)}")
    typed = restored.typed_keys(composed) - {"dataset.root"}
    for key in sorted(k for k in typed if k.split(".")[0] == "dataset" or k == "eval.limit"):
        what = "the server says which images: all of the split"
        raise ConfigError("SUBMIT", key, what, "where they are: dataset.root=/path")
    return str(words[0])


def server_of(name: str, composed: Composed, trained: Trained | None) -> Server:
    """The server with the images of its split: where it was typed, or where the run's are."""
    own: dict[str, Any] = {}
    if trained is not None and trained.config.choices["dataset"].startswith(name):
        own = trained.config.values["dataset"]
    root = restored.with_typed({"root": own.get("root")}, composed.typed)["root"]
    split = composed.values["eval"]["split"] or "test"
    server = (
        VocServer(root, split, composed.values["comp"])
        if name == "voc"
        else CityscapesServer(root, split)
    )
    if shortage := server.shortage:
        notice(f"{server.images.root}: {shortage}: the server wants them all")
    return server


def written(trained: Trained, values: parts.Values, server: Server, device: torch.device) -> Path:
    """Segment every image of the split and pack the label maps; the archive."""
    digest = protocol_digest(trained, values, device)
    out = Path(values["out"] or trained.run / "submissions" / name_of(values, server, digest))
    if not values["out"]:
        refuse_links(trained.run, out)
    keeper = LabelMaps(out, server)
    sources = [
        ImageFile(server.images.image_path(index), str(sample))
        for index, sample in enumerate(server.images.ids)
    ]
    tally = Tally(len(sources))
    finished = Finished(out, digest, ["results"])
    with stopping() as stop:
        work = Segmenting(
            trained, values, device, keeper=keeper, finished=finished, tally=tally, stop=stop
        )
        try:
            stop.wait(work.run, sources)
            print(f"{tally} in {out}")
            tally.check()
            members = [server.member(source.name) for source in sources]
            place = Path(server.archive)
            archive = prediction_path(out, place.stem, place.suffix)
            stop.wait(pack, archive, {member: out / member for member in members})
        except StopRequested:
            what = f"stopped after {tally}; no archive is written, what is written is whole"
            raise stop.interrupted(out, what, "the same command does the rest") from None
        finally:
            finished.release()
    return archive


def check_classes(trained: Trained, server: type[Server]) -> None:
    """Refuse a network of other classes than the server's."""
    mine, theirs = trained.labels.names, server.labels.names
    if mine != theirs:
        found = f"the network has {len(mine)} classes ({', '.join(mine[:3])} ...)"
        fix = f"{server.name} has {len(theirs)} ({', '.join(theirs[:3])} ...)"
        raise ConfigError("CLASSES", "ckpt", found, fix)


def name_of(values: parts.Values, server: Server, digest: str) -> str:
    """A folder name for what is submitted: ``voc-comp6-test-os8-ms-1a2b3c``."""
    flags = [flag for flag in ("ms", "flip", "crf") if values[flag]]
    own = [f"os{values['os']}"] if values["os"] else []
    return "-".join([server.task, server.split, *own, *flags, digest[:6]])


def report(path: Path, found: Checked) -> ExitCode:
    """Say what was found; ``DataError`` where a server would not take it."""
    for note in found.notes:
        notice(note)
    for where, what in found.faults:
        print(f"segkit: error[DATA-SUBMISSION]: {one_line(f'{where}: {what}')}", file=sys.stderr)
    if found.faults:
        where, what = found.faults[0]
        count = len(found.faults)
        said = f"{count} fault{'s' if count > 1 else ''}, the first: {where} {what}"
        raise DataError("SUBMISSION", path, said, "the server would not take it")
    packed = f", {bytes_text(path.stat().st_size)}" if path.is_file() else ""
    print(f"{path}: {found.maps} label maps, sound{packed}")
    return ExitCode.OK


class LabelMaps:
    """Writes label maps below ``out`` as they stand in the archive."""

    needs_probabilities = False

    def __init__(self, out: Path, server: Server) -> None:
        self.out, self.server = out, server

    def files(self, name: str) -> list[str]:
        return [self.server.member(name)]

    def refuse(self, name: str) -> None:
        self._place(name)

    def write(
        self,
        name: str,
        rgb: np.ndarray,  # noqa: ARG002
        found: np.ndarray,
        probabilities: np.ndarray | None,  # noqa: ARG002
    ) -> None:
        write_whole(self._place(name), self.server.encoded(found))

    def drop(self, name: str, files: Collection[str]) -> None:
        """Remove the map of another ``comp``; one in the same place is replaced."""
        [own] = self.files(name)
        for file in set(files) - {own}:
            if Path(file).name == Path(own).name:
                prediction_path(self.out, file.removesuffix(".png")).unlink(missing_ok=True)

    def film(self, name: str, frames: Sequence[str], rate: float) -> list[str]:  # noqa: ARG002
        """No server takes videos."""
        return []

    def _place(self, name: str) -> Path:
        member = self.server.member(name)
        return prediction_path(self.out, member.removesuffix(".png"))
