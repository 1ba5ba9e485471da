"""segkit doctor: every verdict from a faked fact, crashes from real processes."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
import tomllib
from collections import namedtuple
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from segkit import cli, doctor, probes
from segkit.doctor import Finding

ROOT = Path(__file__).parents[1]
NO_CUDA: dict[str, Any] = {"built_for": None, "devices": [], "why": "it sees none"}
FOR_CUDA = {**NO_CUDA, "built_for": "CUDA 12.8"}
H200 = {"name": "cuda:0 NVIDIA H200 (139.8 GiB)", "fault": None}
DISOWNED = {**H200, "fault": "CUDA error: no kernel image is available"}
NODE = ["/dev/nvidia0"]
NMS = {"fault": "RuntimeError: operator torchvision::nms does not exist"}
NO_CRF = {"fault": "crf=true: pydensecrf cannot be imported (No module named 'pydensecrf')"}
SETS = {"sets": ["camvid (367 train, 101 val)"], "absent": ["voc"], "faults": []}
GONE = "/nowhere/at/all"
CRASH = {"fault": "the process was ended by SIGSEGV"}
UNLIMITED = resource.RLIM_INFINITY


def files(cache: str) -> dict[str, Any]:
    return {"cache": cache, "weights": {"r18": ["r18.pth"], "mnv2": ["a.pth", "b.pth"]}}


def cuda(answer: Mapping[str, Any], nodes: list[str], **env: str) -> Finding:
    return doctor.cuda(answer, nodes, "driver 570.86", env)


# -- one line of the table for each verdict a check can give -----------------------------------

VERDICTS: list[tuple[str, Callable[[], Finding], str]] = [
    ("ok", lambda: doctor.python("3.12.1", "/bin/python"), "3.12.1 (/bin/python)"),
    ("bad", lambda: doctor.python("3.10.14", "/bin/python"), "below 3.11"),
    ("ok", lambda: doctor.machine("Linux", 8, "0.1.0"), "of 8 cores"),
    ("ok", lambda: doctor.version("torch", "2.11.0+cu128"), "2.11.0+cu128"),
    ("ok", lambda: doctor.version("torch", "2.12.0a0+git1234"), ">=2.11"),
    ("bad", lambda: doctor.version("torch", "2.9.1"), "pip install 'torch>=2.11'"),
    ("bad", lambda: doctor.version("pillow", "12.2.0"), "below 12.3"),
    ("bad", lambda: doctor.version("hydra-core", "1.3.2"), "below 1.3.4"),
    ("bad", lambda: doctor.version("safetensors", None), "not installed"),
    ("ok", lambda: doctor.version("albumentations", "2.0.8"), "<2.1"),
    ("bad", lambda: doctor.version("albumentations", "2.1.0"), "not below 2.1"),
    ("ok", lambda: doctor.opencv(["opencv-python"]), "opencv-python"),
    ("warn", lambda: doctor.opencv(["opencv-python", "opencv-contrib-python"]), "uninstall"),
    ("ok", lambda: cuda(NO_CUDA, []), "CPU build, which is fine"),
    ("ok", lambda: cuda(FOR_CUDA, []), "built for CUDA 12.8, which is fine"),
    ("ok", lambda: cuda({**FOR_CUDA, "devices": [H200]}, NODE), "H200"),
    ("warn", lambda: cuda(NO_CUDA, NODE), "but torch is a CPU build"),
    ("warn", lambda: cuda(FOR_CUDA, NODE, CUDA_VISIBLE_DEVICES=""), "unset CUDA_VISIBLE"),
    ("bad", lambda: cuda({**FOR_CUDA, "why": "driver is too old"}, NODE), "update the driver"),
    ("bad", lambda: cuda({**FOR_CUDA, "devices": [H200, DISOWNED]}, NODE), "no kernel image"),
    ("bad", lambda: cuda(CRASH, []), "SIGSEGV"),
    ("ok", lambda: doctor.torchvision({"version": "0.26.0"}), "0.26.0"),
    ("bad", lambda: doctor.torchvision(NMS), "builds that do not belong together"),
    ("bad", lambda: doctor.torchvision(CRASH), "force-reinstall torch torchvision"),
    ("ok", lambda: doctor.pydensecrf({}), "an image was refined"),
    ("warn", lambda: doctor.pydensecrf(NO_CRF), "pip install 'segkit[crf]'"),
    ("bad", lambda: doctor.pydensecrf(CRASH), "SIGSEGV"),
    ("ok", lambda: doctor.compiler("c++", "g++ 12", True, crf=NO_CRF), "g++ 12"),
    ("ok", lambda: doctor.compiler("", None, True, crf={}), "not needed"),
    ("warn", lambda: doctor.compiler("", None, True, crf=NO_CRF), "none found; only the crf"),
    ("warn", lambda: doctor.compiler("c++", None, True, crf=NO_CRF), "c++ does not run"),
    ("warn", lambda: doctor.compiler("c++", "g++ 12", False, crf=NO_CRF), "python3-dev"),
    ("ok", lambda: doctor.data(SETS, None), "camvid (367 train, 101 val); not there: voc"),
    ("warn", lambda: doctor.data({**SETS, "sets": []}, None), "dataset=shapes"),
    ("bad", lambda: doctor.data(SETS, GONE), "is not a folder"),
    ("bad", lambda: doctor.data({**SETS, "faults": ["camvid: torn"]}, None), "camvid: torn"),
    ("bad", lambda: doctor.data({"fault": "no answer within 9 s"}, None), "no answer"),
    ("warn", lambda: doctor.weights(files(GONE), None), "none for r18, mnv2"),
    ("bad", lambda: doctor.weights(files(GONE), GONE), "is not a folder"),
    ("bad", lambda: doctor.weights(CRASH, None), "SIGSEGV"),
    ("bad", lambda: doctor.weights({"weights": {"fault": "KeyError: 1"}}, None), "KeyError"),
    ("warn", lambda: doctor.shared_memory(Path(GONE)), "--shm-size=1g"),
    ("bad", lambda: doctor.disk(Path("/dev/null/runs")), "cannot be written"),
    ("ok", lambda: doctor.open_files((1024, 4096)), "1024"),
    ("ok", lambda: doctor.open_files((UNLIMITED, UNLIMITED)), "no limit"),
    ("warn", lambda: doctor.open_files((256, UNLIMITED)), "ulimit -n 1024"),
    ("bad", lambda: doctor.open_files((64, 64)), "an administrator"),
    ("ok", lambda: doctor.encodings("utf-8", "C.UTF-8"), "utf-8"),
    ("warn", lambda: doctor.encodings("ascii", "C"), "PYTHONUTF8=1"),
    ("ok", lambda: doctor.stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")), "not a terminal"),
    ("warn", lambda: doctor.stdout(io.TextIOWrapper(io.BytesIO(), "latin-1")), "PYTHONIOENC"),
    ("warn", lambda: doctor.stdout(None), "closed"),
]


@pytest.mark.parametrize(
    ("verdict", "check", "said"), VERDICTS, ids=[f"{v}-{s}" for v, _, s in VERDICTS]
)
def test_verdict(verdict: str, check: Callable[[], Finding], said: str) -> None:
    finding = check()
    assert finding.verdict == verdict
    assert said in finding.line()
    assert verdict == "ok" or finding.fix, "what is not right says what to type"


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("check", "free", "verdict"),
    [
        (doctor.disk, 2**28, "bad"),
        (doctor.disk, 2**30, "warn"),
        (doctor.disk, 2**33, "ok"),
        (doctor.shared_memory, 2**26, "warn"),
        (doctor.shared_memory, 2**30, "ok"),
    ],
)
def test_free_space(
    check: Callable[[Path], Finding], free: int, verdict: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(2**40, 0, free))
    assert check(tmp_path).verdict == verdict


def test_disk_looks_at_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    assert f"in {tmp_path}," in doctor.disk(tmp_path / "not" / "yet").found
    assert not list(tmp_path.iterdir())


def test_weights_in_the_folder_and_in_the_cache(tmp_path: Path) -> None:
    (tmp_path / "b.pth").touch()
    for finding in (
        doctor.weights(files(GONE), str(tmp_path)),
        doctor.weights(files(str(tmp_path)), None),
    ):
        assert finding.verdict == "ok"
        assert finding.found.endswith("for mnv2; not there: r18")


def test_bounds_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, (floor, ceiling) in doctor.VERSIONS.items():
        bounds = f">={floor}" + (f",<{ceiling}" if ceiling else "")
        assert f"{name}{bounds}" in project["dependencies"]
    assert project["requires-python"] == f">={doctor.PYTHON_FLOOR}"


# -- the command -------------------------------------------------------------------------------


class Told:
    """A probe that was told its answer."""

    answers: Mapping[str, Mapping[str, Any]] = {
        "torch": {**NO_CUDA, **files(GONE)},
        "torchvision": {"version": "0.26.0"},
        "crf": {},
        "data": SETS,
    }

    def __init__(self, name: str) -> None:
        self.name = name

    def answer(self) -> Mapping[str, Any]:
        return self.answers[self.name]

    def end(self) -> None:
        pass


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A doctor that starts no process, on a machine where nothing is bad."""
    monkeypatch.setattr(doctor, "Probe", Told)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(2**40, 0, 2**40))
    monkeypatch.chdir(tmp_path)
    for name in ("SEGKIT_DATA", "SEGKIT_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_line_each_then_the_count(
    told: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told.setattr(doctor, "installed", lambda _: "99")
    told.setattr(doctor, "VERSIONS", {"torch": ("2.11", None)})
    assert cli.main(["doctor"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "warn"}
    warned = sum(line.startswith("warn") for line in lines)
    assert last == f"segkit doctor: {len(lines) - warned} ok, {warned} warn, 0 bad"


def test_json_is_one_document_and_bad_is_exit_6(
    told: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told.setenv("SEGKIT_DATA", GONE)
    assert cli.main(["doctor", "--json"]) == 6
    found = json.loads(capsys.readouterr().out)
    assert all(set(f) == {"subject", "verdict", "found", "fix"} for f in found)
    assert [f["verdict"] for f in found if f["subject"] == "data"] == ["bad"]
    assert len({f["subject"] for f in found}) == len(found) > 20


@pytest.mark.parametrize("broken", ["python", "cuda", "weights", "disk", "stdout"])
def test_a_check_that_breaks_is_a_bad_line(
    broken: str, told: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(*_: object) -> Finding:
        raise ZeroDivisionError("twice\nover")

    told.setattr(doctor, broken, breaks)
    assert cli.main(["doctor"]) == 6
    lines = capsys.readouterr().out.splitlines()
    bad = [line for line in lines if line.startswith("bad") and broken in line]
    assert len(bad) == 1
    assert "ZeroDivisionError: twice;" in bad[0]
    assert lines[-1].startswith("segkit doctor:"), "the others were still looked at"


def test_no_name_breaks_the_lines(told: pytest.MonkeyPatch) -> None:
    """A narrow output and a folder with a line break and a letter beyond it."""
    narrow = io.TextIOWrapper(io.BytesIO(), "ascii")
    told.setattr(sys, "stdout", narrow)
    told.setenv("SEGKIT_DATA", "/é\nok    data is fine")
    assert cli.main(["doctor"]) == 6
    narrow.flush()
    text = narrow.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert r"SEGKIT_DATA=/\xe9\nok    data" in text
    assert text.count("\n") == len(doctor.checks({}, Path())) + 1


def test_a_reader_that_leaves_does_not_change_the_verdict(told: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=1) as gone:  # noqa: PTH123
        told.setattr(sys, "stdout", gone)
        told.setenv("SEGKIT_DATA", GONE)
        assert cli.main(["doctor"]) == 6


@pytest.mark.parametrize("word", ["--jsno", "os=8", "runs=", "now"])
def test_what_is_not_understood_is_usage(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", word]) == 2
    assert f"error[CFG-USAGE]: {word}: not understood" in capsys.readouterr().err


def test_help_starts_no_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "Probe", None)
    assert cli.main(["doctor", "--help"]) == 0
    assert "6 otherwise" in capsys.readouterr().out


def test_the_command_itself_imports_nothing_heavy() -> None:
    code = "import segkit.doctor, sys; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["torch", "numpy", "PIL", "hydra", "omegaconf", "yaml", "cv2", "torchvision"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True)
    assert done.stdout == "[]\n"


# -- processes that crash, hang, answer --------------------------------------------------------


def fake(folder: Path, module: str, code: str) -> None:
    path = folder / f"{module.replace('.', '/')}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "__init__.py").touch()
    path.write_text(code)


KILLED = "import os, signal; os.kill(os.getpid(), signal.{})"
OLD_DRIVER = """\
class version: cuda, hip = "13.2", None
class cuda:
    @staticmethod
    def init(): raise RuntimeError("The NVIDIA driver on your system is too old (found 11040)")
class hub: get_dir = staticmethod(lambda: "/cache")
"""
CASES = [
    ("crf", "pydensecrf.densecrf", KILLED.format("SIGSEGV"), "ended by SIGSEGV"),
    ("crf", "pydensecrf.densecrf", KILLED.format("SIGILL"), "ended by SIGILL"),
    ("crf", "pydensecrf.densecrf", "raise ImportError('numpy ABI\\nlong story')", "numpy ABI"),
    ("crf", "pydensecrf.densecrf", "import os; os._exit(3)", "exit code 3"),
    ("crf", "pydensecrf.densecrf", "raise SystemExit('bye')", "bye"),
    ("torchvision", "torchvision", f"raise RuntimeError('{NMS['fault'][14:]}')", NMS["fault"]),
    ("torchvision", "torchvision", "import time; time.sleep(60)", "no answer within 2 s"),
    ("torch", "torch", "raise OSError('libcudart.so.13: cannot open')", "libcudart.so.13"),
    ("data", "yaml", "raise SyntaxError('half a file')", "SyntaxError: half a file"),
]


@pytest.mark.parametrize(
    ("probe", "module", "code", "said"), CASES, ids=[f"{c[0]}-{c[3]}" for c in CASES]
)
def test_a_crash_is_an_answer(
    probe: str, module: str, code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, module, code) if "." in module else (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(probes, "PROBE_SECONDS", 2 if "sleep" in code else 60)
    assert said in probes.Probe(probe).answer()["fault"]


def test_an_old_driver_is_told_from_no_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text(OLD_DRIVER)
    monkeypatch.syspath_prepend(tmp_path)
    answer = probes.Probe("torch").answer()
    assert cuda(answer, []).verdict == "ok"
    finding = cuda(answer, NODE)
    assert finding.verdict == "bad"
    assert "too old (found 11040)" in finding.found
    assert "fault" in answer["weights"], "no list of weights from this torch, and no crash"


def test_noise_on_stdout_is_not_the_answer() -> None:
    assert probes.understood(0, 'loading...\n{"version": "1"}\n', "warning") == {"version": "1"}


def test_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", GONE)
    probe = probes.Probe("crf")
    probe.end()
    assert probe.answer() == {"fault": "no process could be started: No such file or directory"}


def test_no_probe_outlives_a_killed_doctor(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    hang = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    (tmp_path / "torchvision.py").write_text(hang)
    code = "from segkit.probes import Probe; Probe('torchvision').answer()"
    parent = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    wait_until(lambda: mark.exists() and mark.read_text() != "", 30)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not alive(int(mark.read_text())), 5)


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """A zombie that nobody in this container collects does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_known_sets_by_their_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train", "val"):
        (tmp_path / "camvid").mkdir(exist_ok=True)
        (tmp_path / "camvid" / f"{name}.txt").write_text(f"{name}1\n{name}2\n")
        for folder, suffix in (("images", "jpg"), ("labels", "png")):
            (tmp_path / "camvid" / folder).mkdir(exist_ok=True)
            for number in (1, 2):
                (tmp_path / "camvid" / folder / f"{name}{number}.{suffix}").touch()
    monkeypatch.setenv("SEGKIT_DATA", str(tmp_path))
    finding = doctor.data(probes.probe_data(), str(tmp_path))
    assert finding.verdict == "ok"
    assert "camvid (2 train, 2 val); not there: cityscapes, cityscapes_coarse, voc" in finding.found

    (tmp_path / "camvid" / "labels" / "val2.png").unlink()
    finding = doctor.data(probes.probe_data(), str(tmp_path))
    assert finding.verdict == "bad"
    assert "val2.png" in finding.found


def test_the_known_weights_are_those_of_the_shipped_backbones() -> None:
    answer = probes.probe_torch()
    assert answer["weights"]["r101"] == ["resnet101-63fe2227.pth"]
    assert "mobilenet_v2_tf2ptq_fp16.pth" in answer["weights"]["mnv2"]
    assert "r_tiny" not in answer["weights"], "there are none for it"


@pytest.mark.slow
def test_on_this_very_machine(tmp_path: Path) -> None:
    """Real probes: a machine whose tests pass has nothing bad."""
    done = subprocess.run(
        [sys.executable, "-m", "segkit", "doctor"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1].endswith(" 0 bad"), done.stdout
    assert done.returncode == 0
