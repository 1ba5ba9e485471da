"""What ``segkit predict`` writes of a picture: a file of each kind, all under its name."""

import io
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from segkit.data.images import read_image
from segkit.data.labels import LabelSet
from segkit.inference.crf_stage import MeanField
from segkit.report.names import prediction_path
from segkit.report.pictures import encode_labels, encode_png, overlay, strip
from segkit.report.video import write_video
from segkit.whole_files import write_whole

# Folders below the output folder, and how the names of the files in them end.
KINDS = {"labels": ".png", "overlay": ".png", "probabilities": ".npz", "strip": ".png"}
FILM = ".mp4"
# The states of the mean field that the papers show (v1 Fig. 2, v2 Fig. 5).
STATES = (1, 2, 5, 10)


class Outputs:
    """Writes the files of ``kinds`` below ``out``; ``crf`` is what a strip is made with."""

    def __init__(
        self, out: Path, labels: LabelSet, kinds: Sequence[str], crf: MeanField | None = None
    ) -> None:
        self.out, self.labels, self.kinds, self.crf = out, labels, tuple(kinds), crf

    @property
    def needs_probabilities(self) -> bool:
        return "probabilities" in self.kinds or "strip" in self.kinds

    def files(self, name: str) -> list[str]:
        """The files of the picture ``name``, relative to ``out``."""
        return [f"{kind}/{name}{KINDS[kind]}" for kind in self.kinds]

    def refuse(self, name: str) -> None:
        """Raise ``RefusedError`` if a file of the picture ``name`` may not be written."""
        for kind in self.kinds:
            self._place(kind, name)

    def write(
        self, name: str, rgb: np.ndarray, found: np.ndarray, probabilities: np.ndarray | None
    ) -> None:
        """``found`` are labels [H, W], ``probabilities`` [C, H, W] where they are needed."""
        colours, ignore = self.labels.colours, self.labels.ignore_label
        for kind in self.kinds:
            if kind == "labels":
                data = encode_labels(found, colours, ignore)
            elif kind == "overlay":
                picture = overlay(rgb, found, colours, ignore=ignore)
                data = encode_png(Image.fromarray(picture))
            elif kind == "probabilities":
                assert probabilities is not None
                data = _packed(probabilities, self.labels.names)
            else:
                assert probabilities is not None
                data = encode_png(self._strip(name, rgb, probabilities))
            write_whole(self._place(kind, name), data)

    def drop(self, name: str, files: Collection[str]) -> None:
        """Remove those of ``files`` that are another protocol's results for the picture ``name``,
        and would lie beside the new ones as if they belonged to them."""
        for kind, suffix in KINDS.items():
            if kind not in self.kinds and f"{kind}/{name}{suffix}" in files:
                self._place(kind, name).unlink(missing_ok=True)

    def film(self, name: str, frames: Sequence[str], rate: float) -> list[str]:
        """Join the overlays of a video's frames; the file, or nothing where there is no codec."""
        if "overlay" not in self.kinds:
            return []
        path = prediction_path(self.out, f"overlay/{name}", FILM)
        written = write_video(path, self._overlays(frames), rate)
        return [f"overlay/{name}{FILM}"] if written else []

    def _overlays(self, frames: Sequence[str]) -> Iterator[np.ndarray]:
        for frame in frames:
            path = self._place("overlay", frame)
            if path.is_file():
                yield read_image(path)

    def _strip(self, name: str, rgb: np.ndarray, probabilities: np.ndarray) -> Image.Image:
        assert self.crf is not None
        states = self.crf.steps(rgb, probabilities, STATES)
        maps = {"unary": probabilities.argmax(0)}
        for count, marginals in zip(STATES, states, strict=True):
            maps[f"{count} iteration{'s' if count > 1 else ''}"] = marginals.argmax(0)
        return strip(rgb, maps, colours=self.labels.colours, names=self.labels.names, title=name)

    def _place(self, kind: str, name: str) -> Path:
        return prediction_path(self.out, f"{kind}/{name}", KINDS[kind])


def _packed(probabilities: np.ndarray, names: Sequence[str]) -> bytes:
    """An .npz with ``probabilities`` float16 [C, H, W] and ``names``, read without pickle."""
    buffer = io.BytesIO()
    half = probabilities.astype(np.float16)
    np.savez_compressed(buffer, probabilities=half, names=np.array(names))
    return buffer.getvalue()
