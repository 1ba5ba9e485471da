"""``segkit predict INPUT...``: pictures and videos -> index PNGs, overlays and more."""

import sys
from pathlib import Path

from segkit import parts, restored
from segkit.config import Composed
from segkit.engine.signals import StopRequested, stopping
from segkit.errors import ExitCode
from segkit.finished import Finished
from segkit.outputs import KINDS, Outputs
from segkit.protocol import mean_field_of
from segkit.segmenting import (
    Segmenting,
    Tally,
    protocol_digest,
    refuse_several_processes,
    room_asked_for,
)
from segkit.sources import sources_of
from segkit.whole_files import refuse_links


def main(composed: Composed) -> int:
    """Write ``labels/NAME.png`` (class indices), ``overlay/NAME.png`` ... for every input.

    A second call does what the first did not, or would do otherwise.
    """
    values = composed.values
    refuse_several_processes(values, "predict")
    found = sources_of(values["inputs"], values["every"])
    tally = Tally(found.total)
    for fault in found.faults:
        tally.fault(fault)
    if not found.sources:
        tally.check()
    device = parts.device_of(values)
    parts.deterministic(values["deterministic"])
    path = restored.find(values["ckpt"], values["runs"], values["ckpt_kind"])
    print(f"checkpoint: {path}", file=sys.stderr)
    trained = restored.asked_for(composed, path, device)
    if trained.scored:
        print(f"weights: {trained.scored}", file=sys.stderr)
    values = restored.protocol(composed, trained.config)
    out = Path(values["out"]) if values["out"] else trained.run / "predictions"
    if not values["out"]:
        refuse_links(trained.run, out)
    kinds = ["labels", *(k for k in ("overlay", "probabilities", "strip") if values[k])]
    with room_asked_for():
        finished = Finished(out, protocol_digest(trained, values, device), KINDS)
    with room_asked_for(), stopping() as stop:
        work = Segmenting(
            trained,
            values,
            device,
            keeper=Outputs(out, trained.labels, kinds, mean_field_of(values, device)),
            finished=finished,
            tally=tally,
            stop=stop,
        )
        try:
            stop.wait(work.run, found.sources)
        except StopRequested:
            raise stop.interrupted(
                out,
                f"prediction stopped after {tally}; what is written is whole",
                "the same command does the rest",
            ) from None
        finally:
            finished.release()
    print(f"{tally} in {out}")
    tally.check()
    return ExitCode.OK
