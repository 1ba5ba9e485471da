"""``deterministic=true``: the slow exact path, by one flag of torch, and a score that says so."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import segkit
from segkit import cli, parts, protocol
from segkit.models.segmenter import Segmenter
from segkit.report.signature import Signature

TINY = [
    *("experiment=quickstart", "dataset.size=33", "dataset.count=8", "dataset.val.count=2"),
    *("augment.crop=33", "schedule.batch=4", "workers=0", "device=cpu", "log.tensorboard=false"),
    *("schedule.stages.0.steps=3", "schedule.stages.1.steps=2", "eval.every=null"),
]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    parts.deterministic(False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert cli.main(["train", *TINY, "name=run", f"runs={folder}"]) == 0
    return folder / "run"


@pytest.fixture
def asked(monkeypatch) -> list[nn.Module]:
    """The networks that predictors are given."""
    found: list[nn.Module] = []

    def quickest(net: Segmenter) -> Segmenter:
        found.append(before(net))
        return found[-1]

    before = protocol.quickest
    monkeypatch.setattr(protocol, "quickest", quickest)
    return found


def norms(net: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in net.modules())


def evaluated(run: Path, out: Path, *words: str) -> dict:
    assert cli.main(["eval", f"ckpt={run}", "device=cpu", "workers=0", f"out={out}", *words]) == 0
    return json.loads((out / "score.json").read_text())


def test_an_evaluation(run, tmp_path, asked, capsys) -> None:
    quick = evaluated(run, tmp_path / "quick")
    exact = evaluated(run, tmp_path / "exact", "deterministic=true")
    assert torch.are_deterministic_algorithms_enabled()
    assert capsys.readouterr().out.splitlines()[-1].count("| fp32 cpu deterministic |") == 1
    assert [norms(net) > 0 for net in asked] == [False, True]
    assert "deterministic" not in quick["signature"], "what is not, older scores do not have"
    assert exact["signature"]["deterministic"] is True
    assert quick["confusion"] == exact["confusion"]
    for document in (quick, exact):
        assert Signature.from_dict(document["signature"]).to_dict() == document["signature"]

    compared = ["compare", str(tmp_path / "quick"), str(tmp_path / "exact")]
    assert cli.main(compared) == 0, "the protocol is the same"


def test_an_evaluation_is_never_the_other_ones_folder(run) -> None:
    for words in ((), ("deterministic=true",)):
        assert cli.main(["eval", f"ckpt={run}", "device=cpu", "workers=0", *words]) == 0
    assert len(list((run / "scores").iterdir())) == 2


def test_a_prediction_is_made_again(run, tmp_path, asked, capsys) -> None:
    from PIL import Image

    Image.new("RGB", (40, 30), (200, 10, 10)).save(tmp_path / "a.png")
    words = [str(tmp_path / "a.png"), f"ckpt={run}", "device=cpu", f"out={tmp_path / 'out'}"]
    told = []
    for more in ([], [], ["deterministic=true"]):
        assert cli.main(["predict", *words, *more]) == 0
        told.append(capsys.readouterr().out)
    assert ["1 of 1 were there" in text for text in told] == [False, True, False]
    assert norms(asked[0]) == 0 < norms(asked[-1])


def test_one_flag_of_torch_says_it() -> None:
    net = segkit.build("v3", "r_tiny", num_classes=3)
    assert norms(protocol.quickest(net)) == 0
    parts.deterministic(True)
    assert protocol.quickest(net) is net
    assert not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"
    parts.deterministic(False)
    assert torch.backends.cudnn.allow_tf32


def test_auto_is_fp32_where_exact_kernels_are_asked_for() -> None:
    cuda = torch.device("cuda")
    for words, wanted in (
        ({"precision": "auto"}, "bf16"),
        ({"precision": "auto", "deterministic": True}, "fp32"),
        ({"precision": "bf16", "deterministic": True}, "bf16"),
    ):
        assert parts.precision_of(words, cuda) == wanted


def test_a_network_that_cannot_be_copied_is_asked_itself(capsys) -> None:
    net = segkit.build("v3", "r_tiny", num_classes=3)
    net.mine = (part for part in "ab")  # type: ignore[assignment]
    assert protocol.quickest(net) is net
    assert protocol.quickest(net) is net
    assert capsys.readouterr().err.count("batch norms stay as they are") == 1


@pytest.mark.gpu
def test_the_same_bits_twice_on_a_gpu(run, tmp_path) -> None:
    words = ("device=cuda", "deterministic=true", "eval.save_predictions=true")
    first, second = (evaluated(run, tmp_path / name, *words) for name in "ab")
    assert first["confusion"] == second["confusion"]
    assert first["signature"]["precision"] == "fp32"
    net = segkit.build("v3", "r50", os=8, num_classes=21).cuda().eval()
    images = torch.randn(2, 3, 129, 129, device="cuda")
    with torch.inference_mode():
        assert torch.equal(net.scores(images)["out"], net.scores(images)["out"])


class Sized(torch.nn.Module):
    """What a user may write: another path for large pictures, which one look does not see."""

    def __init__(self, head: torch.nn.Module) -> None:
        super().__init__()
        self.head = head


def test_a_network_with_modules_of_the_users_own_is_asked_as_it_is() -> None:
    net = segkit.build("v3", "r_tiny", num_classes=3)
    assert norms(protocol.quickest(net)) == 0
    net.head.extra = Sized(torch.nn.Identity())  # type: ignore[assignment]
    assert protocol.quickest(net) is net
