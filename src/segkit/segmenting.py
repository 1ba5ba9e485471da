"""Pictures through a network and into files, one after another, past those that are broken."""

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from segkit import parts
from segkit.engine.checkpoint import MANIFEST
from segkit.engine.signals import Stop
from segkit.errors import (
    ConfigError,
    DataError,
    EnvironmentFault,
    NumericsError,
    RefusedError,
    SegkitError,
)
from segkit.finished import TAKEN, Finished, digest_of, digest_of_file
from segkit.inference.crf_stage import Taken
from segkit.limits import fault_of
from segkit.protocol import crf_of, crf_stage, predictor_of, scales_of, window_of
from segkit.ranks import place
from segkit.restored import Trained
from segkit.sources import Photo, Source, VideoFile


class Keeper(Protocol):
    """Who writes results: which files there are of a picture, and whether they may be written."""

    @property
    def needs_probabilities(self) -> bool: ...
    def files(self, name: str) -> Collection[str]: ...
    def refuse(self, name: str) -> None: ...
    def write(
        self, name: str, rgb: np.ndarray, found: np.ndarray, probabilities: np.ndarray | None
    ) -> None: ...
    def drop(self, name: str, files: Collection[str]) -> None: ...
    def film(self, name: str, frames: Sequence[str], rate: float) -> Collection[str]: ...


@dataclass
class Tally:
    """What became of the inputs: pictures made now and found from before, inputs that failed."""

    total: int
    made: int = 0
    found: int = 0
    faults: list[SegkitError] = field(default_factory=list)

    def fault(self, error: SegkitError) -> None:
        """Say at once what is wrong with an input; one that is alone has the last line for it."""
        self.faults.append(error)
        if self.total > 1:
            tqdm.write(error.line(), file=sys.stderr)

    @contextmanager
    def input(self, where: Path) -> Iterator[None]:
        """Inside, faults that are this input's alone are counted; all others end the work."""
        try:
            yield
        except Exception as error:
            own = _fault_of_input(error, where)
            if own is None:
                raise
            self.fault(own)

    def __str__(self) -> str:
        """``63 predictions``, and behind it what else there is to be said."""
        text = f"{self.made} prediction{'' if self.made == 1 else 's'}"
        if self.found:
            whole = self.made + self.found + len(self.faults)
            text += f" ({self.found} of {whole} were there already)"
        return text

    def check(self) -> None:
        """Raise the one error that ends a command of which inputs failed.

        Its code is theirs if all failed alike, else that of bad data. It names the first.
        """
        if not self.faults:
            return
        first = self.faults[0]
        if self.total == 1:
            raise first
        alike = len({fault.code for fault in self.faults}) == 1
        kind = type(first) if alike else DataError
        counted = f"{len(self.faults)} of {self.total} inputs failed, this one first"
        raise kind("INPUTS", first.where, f"{first.what}; {counted}", first.fix)


@contextmanager
def room_asked_for() -> Iterator[None]:
    """Inside, a full disk asks for room and the same command: what is written is not redone."""
    try:
        yield
    except EnvironmentFault as fault:
        if fault.name != "DISK-FULL":
            raise
        what = fault.what.replace(": needs 0 bytes,", ":")  # a folder's own are not known
        fix = "make room, then type the command again"
        raise EnvironmentFault(fault.name, fault.where, what, fix) from fault


def _fault_of_input(error: Exception, where: Path) -> SegkitError | None:
    """``error`` as a fault of the input ``where``, or None if others would have it too."""
    found = error if isinstance(error, SegkitError) else fault_of(error)
    own = isinstance(found, DataError | RefusedError | NumericsError)
    memory = isinstance(found, EnvironmentFault) and found.name == "MEMORY"
    if found is None or not (own or memory):
        return None
    if found.where == str(where):
        return found
    what = f"{found.where}: {found.what}" if found.where else found.what
    return type(found)(found.name, where, what, found.fix)


@dataclass(frozen=True)
class Asked:
    """A picture on its way through the CRF."""

    photo: Photo
    source: Path
    probabilities: np.ndarray | None

    @property
    def id(self) -> str:
        return self.photo.id

    @property
    def rgb(self) -> np.ndarray:
        return self.photo.rgb


class Segmenting:
    """One pass over ``sources``; the CRF works beside the network.

    ``run`` raises what ends the whole work: a full disk, a CRF process that died, ``StopRequested``
    between pictures. What is wrong with an input alone is left to ``tally``.
    """

    def __init__(
        self,
        trained: Trained,
        values: parts.Values,
        device: torch.device,
        *,
        keeper: Keeper,
        finished: Finished,
        tally: Tally,
        stop: Stop,
    ) -> None:
        self.trained, self.values, self.device = trained, values, device
        self.keeper, self.finished, self.tally, self.stop = keeper, finished, tally, stop
        self.predictor = predictor_of(trained, values, device)
        self.pool: Any = None
        self.bar: Any = None

    def run(self, sources: Sequence[Source]) -> None:
        with ExitStack() as stack:
            silent = not sys.stderr.isatty()
            self.bar = stack.enter_context(tqdm(total=len(sources), unit="img", disable=silent))
            if self.values["crf"]:
                self.pool = stack.enter_context(crf_stage(self.values, self.device, self.stop))
            for source in sources:
                with self.tally.input(source.where):
                    self._source(source)
            self._flush()

    def _source(self, source: Source) -> None:
        expected = source.expected

        def is_done(name: str, content: str) -> bool:
            self.stop.check()
            if isinstance(source, VideoFile):
                self.finished.refuse(source.name, content, source.where)  # its film has that name
            self.finished.refuse(name, content, source.where)
            return self._is_done(name, content)

        try:
            for photo in source.photos(is_done):
                self.stop.check()
                if source.expected != expected:
                    self.bar.total += source.expected - expected
                    expected = source.expected
                self._photo(photo, source.where)
        except DataError as fault:
            if not isinstance(source, VideoFile) or not source.frames or fault.name == TAKEN:
                raise
            self._tidy(source)
            what = f"{fault.what}; no film is made of its {len(source.frames)} frames"
            raise DataError(fault.name, fault.where, what, fault.fix) from fault
        if isinstance(source, VideoFile):
            self._tidy(source)
            self._flush()
            self._film(source)

    def _is_done(self, name: str, content: str) -> bool:
        done = self.finished.has(name, content, self.keeper.files(name))
        if done:
            self.tally.found += 1
            self.bar.update()
        return done

    def _tidy(self, source: VideoFile) -> None:
        """Remove what an earlier call made otherwise of a video and this one does not replace."""
        frames = set(source.frames)
        for name in self.finished.outdated(source.name, source.content, source.where):
            if name not in frames:
                self.finished.remove(name)

    def _photo(self, photo: Photo, source: Path) -> None:
        self.keeper.refuse(photo.id)
        image = tensor(photo.rgb)
        keeps = self.keeper.needs_probabilities
        if self.pool is None and not keeps:
            [labels] = self.predictor.labels([image])
            self._write(Asked(photo, source, None), labels.cpu().numpy())
            return
        probabilities = self.predictor(image)
        asked = Asked(photo, source, probabilities.cpu().numpy() if keeps else None)
        if self.pool is None:
            self._write(asked, probabilities.argmax(0).cpu().numpy())
            return
        self.pool.submit(asked, probabilities)
        for done, labels in self.pool.ready():
            self._refined(done, labels)

    def _flush(self) -> None:
        for done, labels in self.pool.results() if self.pool else ():
            self._refined(done, labels)
        self.stop.check()  # the pool's waits end early at a stop

    def _refined(self, asked: Asked, labels: np.ndarray) -> None:
        with self.tally.input(asked.source):  # not of the one that is under way by now
            self._write(asked, labels)

    def _write(self, asked: Asked, labels: np.ndarray) -> None:
        name, content = asked.id, asked.photo.content
        self.keeper.drop(name, self.finished.before(name))
        self.keeper.write(name, asked.rgb, labels, asked.probabilities)
        self.finished.add(name, content, self.keeper.files(name), asked.source)
        self.tally.made += 1
        self.bar.update()

    def _film(self, source: VideoFile) -> None:
        before = self.finished.before(source.name)
        if before and self.finished.has(source.name, source.content, before):
            return
        files = self.keeper.film(source.name, source.frames, source.rate)
        if files:
            self.finished.add(source.name, source.content, files, source.where)


def tensor(rgb: np.ndarray) -> Tensor:
    """The picture as the predictor takes it: the same bytes, uint8 [3, H, W]."""
    return torch.from_numpy(rgb if rgb.flags.writeable else rgb.copy()).permute(2, 0, 1)


def protocol_digest(trained: Trained, values: parts.Values, device: torch.device) -> str:
    """A digest of all that a label map depends on, besides the picture."""
    backend = Taken(values["densecrf"]["backend"], device)
    asked = {
        "checkpoint": digest_of_file(trained.path / MANIFEST),  # it has the sums of the weights
        "scored": trained.scored,
        "os": trained.net.output_stride,
        "scales": scales_of(values),
        "flip": values["flip"],
        "fusion": values["tta"]["fusion"],
        "pad": values["eval"]["pad"],
        "window": window_of(values),
        "crf": [crf_of(values), backend.largest] if values["crf"] else None,
        "precision": parts.precision_of(values, device),
        **({"deterministic": True} if values["deterministic"] else {}),
        "device": device.type,
        **parts.versions(),
    }
    return digest_of(asked)


def refuse_several_processes(values: parts.Values, command: str) -> None:
    """Raise ``ConfigError`` where more than one process was asked for: each would do everything."""
    if values["devices"] > 1 or place().size > 1:
        what = f"segkit {command} works in one process"
        raise ConfigError("DEVICES", "devices", what, "leave it out; share the inputs among calls")
