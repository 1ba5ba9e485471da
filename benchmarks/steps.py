"""Both sides of a training step: ours, and the plain one that torchvision's references take.

No row of its own: ``train_step``, ``growth`` and the guard use it.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v2, resnet50, resnet101
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3

from segkit import parts, train
from segkit.config import compose
from segkit.data.labels import LabelSet
from segkit.engine import loop
from segkit.engine.signals import Stop
from segkit.engine.team import ALONE

VOID = 255
RESNETS = {"r50": resnet50, "r101": resnet101}


@dataclass(frozen=True)
class Size:
    """Of a batch: ``crop`` is the side of its ``batch`` images."""

    crop: int
    batch: int
    classes: int = 21


# -- ours --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bytes:
    """A batch as the loader gives it: uint8 in channels last, labels of one byte."""

    images: Tensor
    labels: Tensor
    ids: Sequence[str] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NoImages:
    """A data set of which a plan asks the labels only: the batches are made here."""

    labels: LabelSet


class OurStep:
    """``Update`` of the engine, made of a composed config as ``segkit train`` makes it."""

    def __init__(self, words: Sequence[str], size: Size, device: str = "cpu") -> None:
        sizes = [f"schedule.batch={size.batch}", f"augment.crop={size.crop}"]
        words = ["pretrained=none", f"device={device}", *sizes, *words]
        values = compose("train", words).values
        (stage, *_) = parts.stages_of(values)
        torch.manual_seed(0)
        net = parts.network_of(values, size.classes, stage["os"])
        data: Any = NoImages(labels_of(size.classes))
        plan = train.plan(0, stage, values, data, net, Stop(), ALONE)
        settings = train.settings_of(values, torch.device(device))
        loop._tune(settings.device)
        self.net: Any = loop._model(plan, None, settings, "", ALONE)
        self._update = loop.Update(self.net, plan.make_optimizer(self.net), plan, settings)
        self._batch = batch_of_bytes(size, pinned=device == "cuda")

    def __call__(self) -> None:
        self._update(self._batch, 0, 0)


def labels_of(classes: int) -> LabelSet:
    """So many classes, with nothing else to say of them."""
    names = tuple(f"class{number}" for number in range(classes))
    colours = tuple((number % 256, number // 256, 0) for number in range(classes))
    return LabelSet("drawn", names, colours)


def batch_of_bytes(size: Size, *, pinned: bool) -> Bytes:
    rng = torch.Generator().manual_seed(0)
    sides = (size.batch, size.crop, size.crop)
    images = torch.randint(0, 256, (*sides, 3), dtype=torch.uint8, generator=rng)
    kind = torch.uint8 if size.classes <= 255 else torch.int32
    labels = torch.randint(0, size.classes, sides, dtype=kind, generator=rng)
    if pinned:
        images, labels = images.pin_memory(), labels.pin_memory()
    return Bytes(images.permute(0, 3, 1, 2), labels)


# -- theirs ------------------------------------------------------------------------------------


class ReferenceStep:
    """torchvision's ``references/segmentation``: NCHW, full-size logits, the loss read each step.

    On CUDA with its ``--amp``: fp16 autocast and a gradient scaler, cuDNN's search for kernels.
    ``net`` gives logits at the size of the images.
    """

    def __init__(self, net: nn.Module, size: Size, device: str = "cpu") -> None:
        self.net = net.train().to(device)
        self._device = device
        self._optimizer = torch.optim.SGD(
            net.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4
        )
        self._scaler = torch.amp.GradScaler() if device == "cuda" else None
        if device == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("highest")  # torch's default, which ours is not
        rng = torch.Generator().manual_seed(0)
        sides = (size.crop, size.crop)
        self._images = torch.randn(size.batch, 3, *sides, generator=rng)
        self._labels = torch.randint(0, size.classes, (size.batch, *sides), generator=rng)
        if device == "cuda":
            self._images, self._labels = self._images.pin_memory(), self._labels.pin_memory()

    def __call__(self) -> None:
        images, labels = self._images.to(self._device), self._labels.to(self._device)
        with torch.autocast("cuda", torch.float16) if self._scaler else nullcontext():
            found = self.net(images)
            logits = found["out"] if isinstance(found, dict) else found
            loss = F.cross_entropy(logits, labels, ignore_index=VOID)
        self._optimizer.zero_grad()
        if self._scaler:
            self._scaler.scale(loss).backward()
            self._scaler.step(self._optimizer)
            self._scaler.update()
        else:
            loss.backward()
            self._optimizer.step()
        loss.item()


def torchvision_v3(backbone: str, output_stride: int, classes: int = 21) -> nn.Module:
    """torchvision's DeepLabV3 at any output stride by its own flags, without auxiliary head.

    Of MobileNetV2 it has none: its classifier's layers up to the 320 channels, dilated the way its
    ResNets are, under its head.
    """
    rates = tuple(rate * 8 // output_stride for rate in (12, 24, 36))
    if backbone == "mnv2":
        layers, channels = dilated(mobilenet_v2(), output_stride), 320
        return DeepLabV3(layers, DeepLabHead(channels, classes, rates), None)
    dilate = [False, output_stride == 8, True]
    resnet = RESNETS[backbone](replace_stride_with_dilation=dilate)
    layers = IntermediateLayerGetter(resnet, {"layer4": "out"})
    return DeepLabV3(layers, DeepLabHead(2048, classes, rates), None)


class Out(nn.Module):
    """Layers whose result DeepLabV3 finds under ``out``."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.layers(x)}


def dilated(net: nn.Module, output_stride: int) -> nn.Module:
    """``features`` of a MobileNetV2 without its last 1x1; strides behind the first become rates."""
    layers = nn.Sequential(*list(net.features)[:-1])  # type: ignore[arg-type]
    stride = rate = 1
    for layer in layers.modules():
        if not isinstance(layer, nn.Conv2d) or layer.kernel_size != (3, 3):
            continue
        layer.dilation, layer.padding = (rate, rate), (rate, rate)
        if layer.stride == (2, 2) and stride == output_stride:
            layer.stride, rate = (1, 1), 2 * rate
        elif layer.stride == (2, 2):
            stride *= 2
    return Out(layers)


def smp_v3plus(backbone: str, output_stride: int, classes: int = 21) -> nn.Module:
    """segmentation_models_pytorch's DeepLabV3Plus, with the rates that the output stride wants."""
    import segmentation_models_pytorch as smp

    return smp.DeepLabV3Plus(
        {"r50": "resnet50", "r101": "resnet101"}[backbone],
        encoder_weights=None,
        encoder_output_stride=output_stride,
        decoder_atrous_rates=tuple(rate * 16 // output_stride for rate in (12, 24, 36)),
        classes=classes,
    )


# -- the same network --------------------------------------------------------------------------


AGREE = 1e-3  # of the largest logit


def require_same(ours: Any, theirs: nn.Module, crop: int, aligned: bool) -> None:
    """SystemExit unless both are the same network: times of different ones say nothing.

    Tensors are paired in order, which must give the same shapes; theirs is given the values of
    ours, and the logits of one drawn image [1, 3, crop, crop] are compared, in fp32 and eval mode,
    at its size. ``aligned`` says how theirs resizes them.
    """
    mine, others = ours.state_dict(), theirs.state_dict()
    if [v.shape for v in mine.values()] != [v.shape for v in others.values()]:
        raise SystemExit(f"not the same network: {len(mine)} tensors of ours, {len(others)}")
    theirs.load_state_dict(dict(zip(others, mine.values(), strict=True)))
    image = torch.randn(1, 3, crop, crop, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        scores, want = ours.eval().scores(image)["out"], theirs.eval()(image)
    found = F.interpolate(scores, image.shape[2:], mode="bilinear", align_corners=aligned)
    want = want["out"] if isinstance(want, dict) else want
    apart = ((found - want).abs().max() / want.abs().max()).item()
    if not apart <= AGREE:
        raise SystemExit(f"not the same network: logits differ by {apart:.2g} of the largest")
