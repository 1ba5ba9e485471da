"""A network as a file that runs without segkit: ONNX and torch.export, free in batch and size.

Both are made of the same traced network and given back as bytes; what runs them is asked for the
same images as the network itself (``difference``).
"""

import contextlib
import importlib
import io
import logging
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from segkit.errors import CheckpointError, EnvironmentFault
from segkit.limits import fault_of
from segkit.models.segmenter import Segmenter

Outputs = Literal["logits", "labels"]
Runner = Callable[[Tensor], Tensor]

OPSET = 18  # the first whose Resize is what it is today; ONNX Runtime reads it since 1.14
INPUT = "image"
DESCRIPTION = "segkit.json"  # the file inside a .pt2 that says what the network is

# Largest difference from the network itself, as a share of its largest score. float32 sums in
# another order (batch norm folded into the convolutions, other kernels) give about 1e-6, over a
# hundred layers 1e-5 at most; a resize with other corners, or a border of another size, gives more
# than 1e-2 (tests/models/test_exportable.py).
TOLERANCE = 1e-4


class Answer(nn.Module):
    """The network with the output that is asked for.

    ``labels``: the class of each pixel, ``[B, H, W]``, uint8 up to 256 classes and int32 above.
    """

    def __init__(self, net: Segmenter, outputs: Outputs) -> None:
        super().__init__()
        self.net, self.outputs = net, outputs
        self.dtype = torch.uint8 if net.num_classes <= 256 else torch.int32

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.net(image)
        return logits.argmax(1).to(self.dtype) if self.outputs == "labels" else logits


def smallest_side(output_stride: int) -> int:
    """The least height and width that an exported network is promised to take.

    Three positions at the output stride. Below that torch would compile in that a map has a side of
    one, which is resized and broadcast in another way.
    """
    return 2 * output_stride + 1


def preferred_sides(output_stride: int) -> list[int]:
    """Sides near what the papers evaluate at: OS·k + 1, where aligned corners hit exact pixels."""
    return [(side // output_stride) * output_stride + 1 for side in (320, 512, 768, 1024)]


# -- making ------------------------------------------------------------------------------------


def to_onnx(net: Answer, description: str) -> bytes:
    """An ONNX file with ``description`` as its metadata entry ``segkit``.

    Input ``image`` [batch, 3, height, width], output named as ``net.outputs``. Raises
    ``CheckpointError`` CKPT-EXPORT where an operator of the network has no counterpart,
    ``EnvironmentFault`` ENV-EXTRA without the packages.
    """
    onnx = extra("onnx")
    extra("onnxscript")
    names = {0: "batch", 2: "height", 3: "width"}
    with quiet(), told("onnx"):
        program: Any = torch.onnx.export(
            net,
            (example(net),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[net.outputs],
            dynamic_shapes=(names,),
            verbose=False,
        )
        model = program.model_proto
        forget_places(model.graph)
        model.metadata_props.add(key="segkit", value=description)
        onnx.checker.check_model(model)
        data: bytes = model.SerializeToString()
    return data


def to_torch(net: Answer, description: str) -> bytes:
    """A torch.export file (.pt2) with ``description`` as its extra file ``segkit.json``.

    Raises ``CheckpointError`` CKPT-EXPORT where torch cannot trace it.
    """
    with quiet(), told("torch"):
        program = traced(net)
        round_up_in_whole_numbers(program.graph)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # places on this machine
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files={DESCRIPTION: description})
    return buffer.getvalue()


def traced(net: Answer) -> ExportedProgram:
    """``net`` as torch.export sees it, at any size from the smallest on.

    Where torch cannot prove that (an average pool that rounds up), the program has guards, which
    may hold nevertheless: ``probes`` has an image of every size up to the stride.
    """
    side = smallest_side(net.net.output_stride)
    proven = {0: Dim("batch"), 2: Dim("height", min=side), 3: Dim("width", min=side)}
    guarded = dict.fromkeys(proven, Dim.DYNAMIC)
    try:
        return torch.export.export(net, (example(net),), dynamic_shapes=(proven,), strict=False)
    except (RuntimeError, ValueError, AssertionError):
        return torch.export.export(net, (example(net),), dynamic_shapes=(guarded,), strict=False)


def round_up_in_whole_numbers(graph: fx.Graph) -> None:
    """ceil(a / b), as networks that pad like TensorFlow write it, into −(−a // b).

    torch.export traces the former and cannot save it.
    """
    for node in list(graph.nodes):
        quotient = node.args[0] if node.target is math.ceil else None
        if not isinstance(quotient, fx.Node) or quotient.target is not operator.truediv:
            continue
        with graph.inserting_before(node):
            below = called(graph, operator.neg, quotient.args[0])
            whole = called(graph, operator.floordiv, below, quotient.args[1])
            above = called(graph, operator.neg, whole)
        node.replace_all_uses_with(above)
        graph.erase_node(node)
        if not quotient.users:
            graph.erase_node(quotient)


def called(graph: fx.Graph, function: Callable[..., Any], *of: Any) -> fx.Node:
    """A node with its value beside it, which saving asks for."""
    made = graph.call_function(function, of)
    values = [part.meta["val"] if isinstance(part, fx.Node) else part for part in of]
    made.meta["val"] = function(*values)
    return made


def example(net: Answer) -> Tensor:
    """What the network is traced with: sides that are no preferred ones, and differ."""
    side = smallest_side(net.net.output_stride)
    return torch.zeros(2, 3, 2 * side + 3, 2 * side + 10)


def forget_places(graph: Any) -> None:
    """Take out where on this machine each node's line of code stands."""
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*graph.input, *graph.output, *graph.value_info]:
        del value.metadata_props[:]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporters tell their steps and their own deprecations; errors still arrive."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def told(kind: str) -> Iterator[None]:
    """An exporter's own exception, in one line: no two of its stages raise the same."""
    try:
        yield
    except Exception as fault:
        if limit := fault_of(fault):
            raise limit from fault
        reason = " ".join(str(fault).split())[:200] or type(fault).__name__
        who, other = {"onnx": ("ONNX", "torch"), "torch": ("torch.export", "onnx")}[kind]
        what = f"{who} has no form of this network ({reason})"
        raise CheckpointError("EXPORT", f"format={kind}", what, f"format={other}") from fault


# -- running -----------------------------------------------------------------------------------


def onnx_runner(data: bytes) -> Runner:
    """ONNX Runtime on the CPU, as plain as its users call it."""
    runtime = extra("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (output,) = session.run(None, {INPUT: images.numpy()})
        return torch.from_numpy(output)

    return run


def torch_runner(data: bytes) -> Runner:
    """What ``torch.export.load`` gives."""
    with quiet():
        program: ExportedProgram = torch.export.load(io.BytesIO(data))
        module = program.module()

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            output: Tensor = module(images)
        return output

    return run


def difference(logits: Tensor, output: Tensor) -> float:
    """How far ``output`` is from the network's own ``logits``, as a share of the largest of them.

    Of labels: by how much the worst of them misses the best score of its pixel. Two classes that
    are as good as equal may change places, others not. Infinite where an output is none.
    """
    scale = float(logits.abs().max().clamp_min(torch.finfo(torch.float32).tiny))
    if output.dtype.is_floating_point:
        gap = (output - logits).abs().max() if output.shape == logits.shape else None
    else:
        fits = output.shape == logits[:, 0].shape and int(output.max()) < logits.shape[1]
        best = logits.amax(1)
        gap = (best - logits.gather(1, output.long()[:, None])[:, 0]).max() if fits else None
    found = float("inf") if gap is None else float(gap) / scale
    return found if found == found else float("inf")  # NaN compares with nothing


def labels_of(output: Tensor) -> Tensor:
    """Logits or labels -> labels."""
    return output.argmax(1) if output.dtype.is_floating_point else output.long()


def probes(output_stride: int, generator: torch.Generator) -> Sequence[Tensor]:
    """Random images: the smallest one and its neighbours, whatever the stride leaves of a side, a
    preferred size, one image and several."""
    side = smallest_side(output_stride)
    shapes = [
        (1, 3, 4 * output_stride + 1, 6 * output_stride + 1),
        (3, 3, side, side + 1),
        (2, 3, 5 * output_stride, 3 * output_stride + 4),
        *((1, 3, side + more, side + output_stride - more) for more in range(output_stride)),
    ]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def extra(name: str) -> Any:
    """A package that only exporting needs. Raises ``EnvironmentFault`` ENV-EXTRA.

    One whose shared library is cut or of another machine raises ``OSError``.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as fault:
        what = f"{name} cannot be imported ({fault})"
        raise EnvironmentFault(
            "EXTRA", "format=onnx", what, "pip install 'segkit[onnx]', or format=torch"
        ) from fault
