"""The dense CRF's parameters as the authors released them. Plain data: nothing is imported.

Neither paper prints what its search found. ``pos`` and ``bi`` in the files are the Gaussian and the
bilateral kernel here; all take ten iterations (v1 §5, v2 §4) and divide after filtering, as the
authors' densecrf does.
"""

from collections.abc import Collection, Mapping
from typing import Any

_ALL = {"iterations": 10, "normalization": "after"}

PRESETS: dict[str, dict[str, Any]] = {
    # DeepLab-LargeFOV, test.prototxt: pos_w 3, pos_xy_std 3; bi_w 5, bi_xy_std 50, bi_rgb_std 10.
    "v1_largefov": {
        **_ALL,
        "gaussian_weight": 3.0,
        "gaussian_xy": 3.0,
        "bilateral_weight": 5.0,
        "bilateral_xy": 50.0,
        "bilateral_rgb": 10.0,
    },
    # DeepLabv2_VGG16 (ASPP), test.prototxt: pos 2, 2; bi 4, 65, 3.
    "v2_vgg": {
        **_ALL,
        "gaussian_weight": 2.0,
        "gaussian_xy": 2.0,
        "bilateral_weight": 4.0,
        "bilateral_xy": 65.0,
        "bilateral_rgb": 3.0,
    },
    # DeepLabv2_ResNet101, test.prototxt: pos 3, 1; bi 4, 67, 3. The defaults of the schema.
    "v2_resnet": {
        **_ALL,
        "gaussian_weight": 3.0,
        "gaussian_xy": 1.0,
        "bilateral_weight": 4.0,
        "bilateral_xy": 67.0,
        "bilateral_rgb": 3.0,
    },
}

PARAMETERS = tuple(PRESETS["v2_resnet"])


def keys_of(typed: Collection[str]) -> set[str]:
    """The keys ``densecrf.*`` that were typed; a preset types all parameters."""
    given = {f"densecrf.{name}" for name in PARAMETERS if "densecrf.preset" in typed}
    return given | {key for key in typed if key.startswith("densecrf.")}


def with_preset(node: Mapping[str, Any], typed: Collection[str]) -> dict[str, Any]:
    """The node ``densecrf`` with its preset's parameters, save those that were typed themselves.

    A preset out of a file leaves alone what the file changed, too. An unknown one is left to the
    rules.
    """
    preset = PRESETS.get(str(node["preset"]), {})
    from_file = "densecrf.preset" not in typed
    changed = {k for k in PARAMETERS if from_file and node[k] != PRESETS["v2_resnet"][k]}
    kept = changed | {key.removeprefix("densecrf.") for key in typed}
    return {**node, **{k: v for k, v in preset.items() if k not in kept}}
