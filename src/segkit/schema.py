"""The typed root of every config, as plain dataclasses (nothing imported: ``--help`` reads them).

Hydra merges YAML into these, so that an unknown key or a wrong type is an error with the key's
full name. ``model``, ``backbone``, ``dataset`` and ``loss`` are constructor calls (``_target_`` and
its arguments); their keys are checked against the constructor's own signature by ``instantiate``.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

MISSING: Any = "???"  # OmegaConf's own word for "must be given"


# Keys whose values are a closed vocabulary; ``*`` stands for a number in a list.
CHOICES: dict[str, tuple[str, ...]] = {
    "dataset.cache": ("none", "ram", "disk"),
    "dataset.on_error": ("raise", "skip"),
    "precision": ("auto", "fp32", "bf16"),
    "ckpt_kind": ("last", "best"),
    "tta.fusion": ("mean", "max"),
    "densecrf.backend": ("auto", "pydensecrf", "exact"),
    "densecrf.preset": ("v1_largefov", "v2_vgg", "v2_resnet"),
    "densecrf.normalization": ("after", "before", "symmetric", "none"),
    "checkpoint.on_error": ("stop", "warn"),
    "eval.weights": ("auto", "average", "raw"),
    "eval.window.weighting": ("uniform", "linear"),
    "format": ("onnx", "torch", "both"),
    "outputs": ("logits", "labels"),
    "schedule.policy": ("poly", "step", "constant"),
    "schedule.stages.*.bn": ("train", "frozen_stats", "frozen"),
    "schedule.rules.*.kind": ("any", "weight", "depthwise", "bias", "norm"),
}


def doc(text: str, default: Any = None) -> Any:
    """A field with the one-line help that ``--help`` prints."""
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class Stage:
    """One stage of a schedule. What is left out (null) comes from the groups."""

    name: str = MISSING
    steps: int = MISSING
    lr: float = MISSING
    os: int | None = None
    split: str | None = None
    batch: int | None = None
    bn: str = "train"


@dataclass
class Rule:
    """Learning-rate and decay multipliers of the parameters it matches; the first match wins."""

    pattern: str = "*"
    kind: str = "any"
    lr: float = 1.0
    decay: float = 1.0


@dataclass
class Schedule:
    """Length, stages, batch, learning rate, multipliers and batch norm of a paper's recipe."""

    stages: list[Stage] = field(default_factory=list)
    policy: str = "poly"
    power: float = 0.9
    end_lr: float = 0.0
    step_every: int = 2000
    step_factor: float = 0.1
    warmup_steps: int = 0
    warmup_lr: float = 0.0
    batch: int = 16
    accumulate: int = 1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    bn_momentum: float | None = None
    ema: float | None = doc("decay of an average of the weights, kept beside them (null: none)")
    rules: list[Rule] = field(default_factory=list)


@dataclass
class Augment:
    """Joint augmentation of image and mask, in the papers' order.

    ``one_class_max``: largest share of one class in a crop, else it is drawn again, 10 times at
    most (null: any). ``extra``: albumentations transforms by name.
    """

    crop: int = 513
    scale_min: float = 0.5
    scale_max: float = 2.0
    scale_step: float = 0.0
    flip: float = 0.5
    one_class_max: float | None = None
    extra: list[Any] = field(default_factory=list)


@dataclass
class Window:
    """Sliding-window evaluation. ``size`` is the side of a window in pixels (null: whole images).

    ``overlap`` is the least share of a window that the next one sees again; ``weighting`` how
    windows are joined where they overlap: all alike (uniform), or falling off from the middle of a
    window to its border (linear).
    """

    size: int | None = None
    overlap: float = 0.33
    weighting: str = "uniform"


@dataclass
class Evaluation:
    """What is evaluated, how often, and on which padding."""

    every: int | None = None
    pad: Any = "fit"
    weights: str = doc("average, raw (as trained), or auto: the average where there is one", "auto")
    split: str | None = None
    limit: int | None = None
    pictures: int = 4
    colour_baseline: bool = False
    save_predictions: bool = False
    window: Window = field(default_factory=Window)
    batch: int | None = doc("images of one size evaluated at once (null: 1 on CPU, 8 on CUDA)")
    boundaries: bool = doc("measure near borders too: trimap curve, boundary IoU and F", True)
    report: bool = doc("write report.html beside score.json", True)


@dataclass
class Tta:
    """The scales of ``ms=true`` and how their outputs are joined."""

    scales: list[float] = field(default_factory=lambda: [0.5, 0.75, 1.0, 1.25, 1.5, 1.75])
    fusion: str = "mean"


@dataclass
class DenseCrf:
    """The fully connected CRF of ``crf=true``; the numbers are those of preset v2_resnet."""

    backend: str = doc("auto, pydensecrf (CPU processes) or exact (PyTorch, any device)", "auto")
    preset: str | None = doc("a paper's parameters: v1_largefov, v2_vgg or v2_resnet")
    iterations: int = 10
    bilateral_weight: float = 4.0
    bilateral_xy: float = 67.0
    bilateral_rgb: float = 3.0
    gaussian_weight: float = 3.0
    gaussian_xy: float = 1.0
    normalization: str = "after"


@dataclass
class Checkpoints:
    """How often a checkpoint is written and how many are kept (the best one always is).

    ``on_error``: a failed save ends the run (stop), or three in a row are only told (warn).
    ``background``: training goes on while one is written, for a copy of the state in memory.
    """

    every: int | None = None
    keep: int = 2
    on_error: str = "stop"
    background: bool = True


@dataclass
class Log:
    """How often buffered values reach the disk and how many pictures a validation shows."""

    every: int = 20
    images: int = 4
    tensorboard: bool = True


@dataclass
class Common:
    """What every command understands."""

    runs: str = doc("folder that holds the runs", "runs")
    device: str = doc("auto, cpu, cuda or cuda:N", "auto")
    workers: int | None = doc("data loader processes (null: one per core, at most 8)")
    devices: int = doc("processes on this machine, one for each GPU", 1)
    rank_timeout: float = doc("seconds without progress after which a process hangs", 120.0)
    worker_timeout: float = doc("seconds after which a silent worker process is given up", 300.0)
    precision: str = doc("auto, fp32 or bf16 (auto: bf16 on CUDA, fp32 on CPU)", "auto")
    deterministic: bool = doc("slow exact kernels (auto is then fp32)", False)
    dataset: Any = None
    tta: Tta = field(default_factory=Tta)
    densecrf: DenseCrf = field(default_factory=DenseCrf)


@dataclass
class Duplicate:
    """Samples that show one of ``classes`` (by name) come ``times`` times in an epoch."""

    classes: list[str] = field(default_factory=list)
    times: int = 2


@dataclass
class Feeding:
    """How a data set's training split is read, whichever it is; beside the keys of its own.

    ``cache``: samples decoded once into memory (ram) or a file below ``cache_dir`` (disk; null:
    $XDG_CACHE_HOME/segkit or ~/.cache/segkit). ``on_error``: up to ``max_skipped`` unreadable
    samples may be skipped, each with a substitute.
    """

    cache: str = "none"
    cache_dir: str | None = None
    on_error: str = "raise"
    max_skipped: int = 10
    duplicate: Duplicate = field(default_factory=Duplicate)


FEEDING_KEYS = tuple(f.name for f in fields(Feeding))


@dataclass
class Train(Common):
    """``segkit train``."""

    dataset: Any = field(default_factory=lambda: asdict(Feeding()))
    name: str | None = doc("run folder's own name (null: made from the config)")
    seed: int = doc("every random draw is a function of it", 0)
    sync_bn: bool = doc("train batch norm over the images of all GPUs", True)
    recompute: float = doc("0 to 1: units recomputed backward; less memory, same numbers", 0.0)
    compile: bool = doc("torch.compile the network (CUDA)", False)
    resume: bool = doc("go on where the same command stopped", False)
    resume_allow: list[str] = doc("keys that may differ on resume", [])  # noqa: RUF009
    pretrained: str = doc("imagenet, none, a run or a file", "imagenet")
    pretrained_strict: bool = doc("every backbone key must be in the file", True)
    model: Any = MISSING
    backbone: Any = MISSING
    os: int = MISSING
    multi_grid: Any = MISSING
    loss: Any = MISSING
    schedule: Schedule = field(default_factory=Schedule)
    augment: Augment = field(default_factory=Augment)
    eval: Evaluation = field(default_factory=Evaluation)
    checkpoint: Checkpoints = field(default_factory=Checkpoints)
    log: Log = field(default_factory=Log)


@dataclass
class Given:
    """A trained network: which checkpoint, at which stride, and where results go."""

    ckpt: str | None = doc("run or checkpoint folder (null: the newest finished run)")
    ckpt_kind: str = doc("last or best", "last")
    os: int | None = doc("output stride (null: the run's own)")
    out: str | None = doc("output folder (null: inside the run)")


@dataclass
class Infer(Given, Common):
    """What eval and predict share: a checkpoint and a protocol."""

    ms: bool = doc("multi-scale inputs (tta.scales)", False)
    flip: bool = doc("add the mirrored image", False)
    crf: bool = doc("dense CRF afterwards (densecrf.*)", False)
    eval: Evaluation = field(default_factory=Evaluation)


@dataclass
class Eval(Infer):
    """``segkit eval``."""


@dataclass
class Predict(Infer):
    """``segkit predict INPUT...``.

    INPUT is an image (PNG, JPEG), a video, a folder of them, a quoted pattern ("photos/**/*.jpg"),
    or - for a list on standard input, a path a line. Each picture NAME becomes labels/NAME.png
    (class indices) and overlay/NAME.png; a frame of a video, NAME/frame-000123. Broken inputs are
    named and left out. Typed again, the command does what is missing or would come out otherwise.
    """

    inputs: list[str] = field(default_factory=list)
    overlay: bool = doc("write the picture under its label colours", True)
    probabilities: bool = doc("write the class probabilities as .npz (float16)", False)
    every: int = doc("of a video, every n-th frame", 1)
    strip: bool = doc("with crf=true: unary and mean field after 1, 2, 5, 10 iterations", False)


@dataclass
class Submit(Infer):
    """``segkit submit voc|cityscapes``.

    Segments the test split (eval.split=val: another), packs the label maps as the server wants them
    and checks the archive. The upload is by hand, with an account of the server's:
      voc         results.tgz: results/VOC2012/Segmentation/comp6_test_cls/ID.png, palette PNGs of
                  the classes 0..20, each of its image's size (host.robots.ox.ac.uk:8080)
      cityscapes  results.zip: CITY_SEQUENCE_FRAME_leftImg8bit.png, grey PNGs of labelIds (never
                  trainIds), 2048x1024 (www.cityscapes-dataset.com)
    check=FILE looks at an archive or a folder from anywhere; dataset.root=/path says where the
    images are.
    """

    inputs: list[str] = field(default_factory=list)
    check: str | None = doc("validate this archive or folder instead of writing one")
    comp: int = doc("voc: 6 (trained on anything), or 5 where VOC alone was trained on", 6)


@dataclass
class Crf(Infer):
    """``segkit crf tune``.

    Asks the network once about n images, spread evenly over the val split (eval.split=another),
    then scores the papers' grid: v1's for a v1, v2's for all others, and half its steps around its
    best. The Gaussian kernel is 3/3 as there, unless typed. Writes tune.md, tune.json and a config,
    and prints what to type. Stopped or killed, the same command goes on.
    """

    inputs: list[str] = field(default_factory=list)
    n: int = doc("images that the search sees", 100)


@dataclass
class Weights:
    """Of an evaluation's keys the one that says which network is meant."""

    weights: str = doc("average, raw (as trained), or auto: the average where there is one", "auto")


@dataclass
class Export(Given):
    """``segkit export``. It works on the CPU, and asks the network in no way of its own."""

    runs: str = doc("folder that holds the runs", "runs")
    dataset: Any = None
    format: str = doc("onnx, torch (torch.export) or both", "onnx")
    outputs: str = doc("logits [B,C,H,W], or labels [B,H,W]", "logits")
    check: str | None = doc("image the file is checked on (null: one of the run's own data)")
    eval: Weights = field(default_factory=Weights)


@dataclass
class Scale:
    """How large the papers' trainings are made: factors on what a row asks for, and further words.

    A crop of 1 + 512 becomes 1 + 512 x ``crop``, down to a multiple of ``crop_step``, and no
    smaller than ``crop_at_least``. ``train`` and ``eval`` are words for every training (over the
    row's own) and every evaluation (under them). ``backbones`` takes one backbone for another.
    ``compare=false`` where numbers are too small a training's to stand beside the paper's.
    """

    name: str = "paper"
    dataset: str | None = None
    backbones: dict[str, str] = field(default_factory=dict)
    steps: float = 1.0
    steps_at_most: int | None = None
    lr: float = 1.0
    batch: float = 1.0
    batch_at_least: int = 1
    batch_at_most: int | None = None
    crop: float = 1.0
    crop_step: int = 1
    crop_at_least: int = 1
    train: list[str] = field(default_factory=list)
    eval: list[str] = field(default_factory=list)
    tune: int | None = None
    keep_weights: bool = True
    compare: bool = True
    note: str = ""


@dataclass
class Engine:
    """Where the trainings of a table run.

    ``per_device``: so many at once on each device of this machine (local, ray). ``isolate``: each
    in a process of its own. ``options`` are the launcher's own keys (slurm: partition, timeout_min,
    gpus_per_node ...; ray: the init node).
    """

    name: str = "local"
    per_device: int = 1
    isolate: bool = True
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Table:
    """``segkit table ID...``.

    ID is a table (v3.t5), a paper (v1, v2, v3, v3plus) or all. Trains what is missing, goes on
    where it was interrupted, scores, and writes the table beside the paper's numbers as Markdown,
    CSV, HTML and JSON. Rows that are one training share it, over tables and calls.
      --list               every table and what it varies
      --plan               runs, memory and hours; nothing is started
      --status             how the rows stand
      --check              every number of the written table again from its score files
      --only ROW           this row alone (several times: these)
      -- key=value ...     further words for every training: segkit table v3.t5 -- backbone=r50
    """

    runs: str = doc("folder that holds the runs", "runs")
    out: str | None = doc("folder for the tables (null: RUNS/tables)")
    seeds: list[int] = doc("a training for each; the table shows mean and spread", [0])  # noqa: RUF009
    coco: str | None = doc("weights pretrained on MS-COCO, for the rows that begin with them")
    device: str = doc("auto, cpu, cuda or cuda:N", "auto")
    devices: int = doc("processes for each training", 1)
    workers: int | None = doc("data loader processes of each training (null: one per core)")
    precision: str = doc("auto, fp32 or bf16", "auto")
    scale: Scale = field(default_factory=Scale)
    engine: Engine = field(default_factory=Engine)


ROOTS: dict[str, type] = {
    "train": Train,
    "eval": Eval,
    "predict": Predict,
    "submit": Submit,
    "crf": Crf,
    "export": Export,
    "table": Table,
}
