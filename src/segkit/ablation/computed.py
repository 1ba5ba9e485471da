"""The numbers of a table that need no training: they follow from the network alone.

Always at the papers' own words: what a network costs does not depend on how long it is trained, nor
on the scale of the table.
"""

import json
from functools import cache
from typing import TYPE_CHECKING

import yaml

from segkit.ablation.asked import Size, asked
from segkit.ablation.book import Column, Row, Table, merged
from segkit.ablation.plan import composed
from segkit.config import Composed
from segkit.errors import ConfigError

if TYPE_CHECKING:
    from segkit.models.segmenter import Segmenter

# Of PASCAL VOC, whatever the row is trained on: the papers' columns and the facts' are of it.
CLASSES = 21
# The side of the map of v3's Figure 4.
VALID_MAP = 65


def number(
    row: Row, column: Column, table: Table, *, config_dir: str | None = None
) -> float | None:
    """The value of a computed ``column``; None where nothing of ours answers to it.

    ``params`` in millions. ``macs`` in billions: the convolutions of the row's whole evaluation of
    one image, all scales and mirror images, with TensorFlow's space-to-batch padding (facts §4.4).
    ``fov`` in pixels. ``valid:N`` in percent of the positions of a 65×65 map. Raises ConfigError
    for words that do not compose, and TABLE for a row that the column cannot be computed of.
    """
    if column.kind == "params":
        return _parameters(_network(row, None, config_dir)) / 1e6
    if column.kind == "macs":
        seen = asked(_training(row, config_dir), _words(row, column), config_dir)
        network = _network(row, seen.output_stride, config_dir)
        once = sum(_macs(network, size) for size in seen.sizes)
        return once * (1 + seen.flip) * seen.windows / 1e9
    if column.kind == "fov":
        return _field_of_view(row, table, config_dir)
    if column.kind == "valid":
        return _valid(row, column, table)
    return None


def _words(row: Row, column: Column) -> tuple[str, ...]:
    return merged(row.evaluate, column.evaluate)


def _training(row: Row, config_dir: str | None) -> Composed:
    """Where the weights come from changes no network, and may not be on this machine."""
    words = [word for word in row.train if not word.startswith("pretrained=")]
    return composed(tuple(words), config_dir)


# -- parameters and multiply-adds ------------------------------------------------------------------


def _network(row: Row, output_stride: int | None, config_dir: str | None) -> str:
    """What makes the row's network, as a text to remember it by."""
    values = _training(row, config_dir).values
    keys = {key: values[key] for key in ("model", "backbone", "multi_grid", "os")}
    return json.dumps(keys | ({"os": output_stride} if output_stride else {}), sort_keys=True)


@cache
def _made(network: str) -> "Segmenter":
    import torch

    from segkit.parts import network_of

    values = json.loads(network)
    with torch.device("meta"):
        return network_of(values, CLASSES, values["os"])


@cache
def _parameters(network: str) -> int:
    return sum(parameter.numel() for parameter in _made(network).parameters())


@cache
def _macs(network: str, size: Size) -> int:
    from segkit.models.cost import inference_cost

    return inference_cost(_made(network), size).macs_space_to_batch


# -- v1's field of view, v3's valid weights --------------------------------------------------------


def _field_of_view(row: Row, table: Table, config_dir: str | None) -> float:
    """v1, Table 2: 8·(k_e + 3), with the effective kernel k_e = k + (k - 1)(r - 1) of fc6."""
    model = _training(row, config_dir).values["model"]
    if not {"kernel", "rate"} <= model.keys():
        raise _not_of(row, table, "field of view is one of fc6: model=v1 and its kin")
    kernel, rate = model["kernel"], model["rate"]
    return float(8 * (kernel + (kernel - 1) * (rate - 1) + 3))


def _valid(row: Row, column: Column, table: Table) -> float:
    from segkit.report.valid_weights import shares

    asked_for = [word for word in row.train if word.startswith("model.rates=")]
    rates = yaml.safe_load(asked_for[-1].partition("=")[2]) if asked_for else []
    if len(rates) != 1:
        raise _not_of(row, table, "valid taps are those of one rate: model.rates=[6]")
    return 100 * float(shares(VALID_MAP, rates[0])[int(column.measure.partition(":")[2])])


def _not_of(row: Row, table: Table, fix: str) -> ConfigError:
    return ConfigError("TABLE", f"{table.id}, row {row.key}", "cannot be computed of it", fix)
