"""The released TensorFlow networks, as arrays under the layer names of bonlime's Keras code.

From its ``model.py`` and ``extract_weights.py`` (keras-deeplab-v3-plus, commit 69a547c): v3+ on
Xception-65 and v3 on MobileNetV2. A name is the layer's and the weight's
(``entry_flow_conv1_1_kernel``): the files of its ``weights`` folder, in one ``.npz``. Kernels are
[height, width, in, out], depthwise ones [height, width, channels, 1]. TensorFlow's "SAME" padding
equals the symmetric one here where a map's side is odd, as all sides of a 16k + 1 image are.
"""

from collections.abc import Iterator

from torch import Tensor

from segkit.models.foreign.source import Source, Tensors

# A layer, where its kernel lies here, and its batch norm.
Layer = tuple[str, str, str]

_XCEPTION, _MOBILENET = "entry_flow_conv1_1_kernel", "Conv_kernel"
_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# Epsilons of MobileNetV2's batch norms, there and here.
_THEIRS, _OURS = 1e-3, 1e-5


def mobilenetv2_layers() -> Iterator[Layer]:
    yield "Conv", "backbone.layers.0.0", "backbone.layers.0.1"
    for unit in range(17):
        name = f"expanded_conv_{unit}" if unit else "expanded_conv"
        place = f"backbone.layers.{unit + 1}.conv"
        steps = ["expand", "depthwise"] if unit else ["depthwise"]
        for number, step in enumerate(steps):
            yield f"{name}_{step}", f"{place}.{number}.0", f"{place}.{number}.1"
        yield f"{name}_project", f"{place}.{len(steps)}", f"{place}.{len(steps) + 1}"


def xception_layers() -> Iterator[Layer]:
    for number in (0, 1):
        stem = f"backbone.stem.{number}"
        yield f"entry_flow_conv1_{number + 1}", f"{stem}.conv", f"{stem}.bn"
    blocks = [
        *(f"entry_flow_block{n}" for n in (1, 2, 3)),
        *(f"middle_flow_unit_{n}" for n in range(1, 17)),
        *(f"exit_flow_block{n}" for n in (1, 2)),
    ]
    for number, block in enumerate(blocks):
        place = f"backbone.blocks.{number}"
        yield f"{block}_shortcut", f"{place}.shortcut.conv", f"{place}.shortcut.bn"
        for n in (1, 2, 3):
            for step, short in (("depthwise", "dw"), ("pointwise", "pw")):
                conv = f"{place}.stack.conv{n}"
                yield (
                    f"{block}_separable_conv{n}_{step}",
                    f"{conv}.conv_{short}",
                    f"{conv}.bn_{short}",
                )


def head_layers() -> Iterator[Layer]:
    """Of both networks: what one of them lacks is in no file of it."""
    aspp = "head.aspp.branches"
    yield "image_pooling", f"{aspp}.0.0", f"{aspp}.0.1"
    yield "aspp0", f"{aspp}.1.0", f"{aspp}.1.1"
    separable = [(f"aspp{n}", f"{aspp}.{n + 1}") for n in (1, 2, 3)]
    separable += [(f"decoder_conv{n}", f"head.joins.low.refine.{n}") for n in (0, 1)]
    for name, place in separable:
        yield f"{name}_depthwise", f"{place}.0", f"{place}.1"
        yield f"{name}_pointwise", f"{place}.3", f"{place}.4"
    yield "concat_projection", "head.aspp.project.0", "head.aspp.project.1"
    yield "feature_projection0", "head.joins.low.reduce.0", "head.joins.low.reduce.1"
    for name in ("logits_semantic", "custom_logits_semantic"):
        yield name, "head.classifier", ""


def names() -> dict[str, str]:
    """Their name of every array, and the tensor's here."""
    found: dict[str, str] = {}
    for layer, conv, norm in (*mobilenetv2_layers(), *xception_layers(), *head_layers()):
        kernel = "depthwise_kernel" if layer.endswith("depthwise") else "kernel"
        found |= {f"{layer}_{kernel}": f"{conv}.weight", f"{layer}_bias": f"{conv}.bias"}
        found |= {f"{layer}_BN_{theirs}": f"{norm}.{ours}" for theirs, ours in _NORM.items()}
    return found


def rename(tensors: Tensors) -> dict[str, Tensor]:
    known = names()
    ours: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        place = known.get(key, key)
        if key.endswith("kernel") and tensor.ndim == 4:
            order = (2, 3, 0, 1) if key.endswith("depthwise_kernel") else (3, 2, 0, 1)
            tensor = tensor.permute(order).contiguous()
        elif place.startswith("backbone.layers.") and place.endswith("running_var"):
            tensor = tensor + (_THEIRS - _OURS)  # their epsilon on top of ours
        ours[place] = tensor
    return ours


KERAS = Source(
    name="keras",
    recognises=lambda tensors: _XCEPTION in tensors or _MOBILENET in tensors,
    overrides=lambda tensors: (
        ["model=v3plus_xception"] if _XCEPTION in tensors else ["model=v3_mnv2", "backbone=mnv2_tf"]
    ),
    rename=rename,
    unused=("global_step",),
    assumed="output stride: 16, as released; its MobileNetV2 runs at 8, which is os=8",
)
