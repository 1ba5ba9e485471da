"""The pool gives the same bits as one call in this process, in order, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from segkit.errors import ConfigError, EnvironmentFault, NumericsError
from segkit.inference.crf import DenseCrf, labels_of
from segkit.inference.crf_pool import CrfPool

pytest.importorskip("pydensecrf.densecrf")


@dataclass(frozen=True, eq=False)
class Photo:
    id: str
    rgb: np.ndarray


def photos(count, classes=4, side=24):
    rng = np.random.default_rng(1)
    for i in range(count):
        size = (side + 3 * i, side + i)
        rgb = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
        probabilities = rng.dirichlet(np.ones(classes), size).astype(np.float32)
        yield Photo(f"photo{i}", rgb), probabilities.transpose(2, 0, 1)


def alive(pids):
    """Those that still run (a zombie has ended)."""
    return [pid for pid in pids if state(pid) not in ("Z", "gone")]


def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "gone"


def pids_of(pool):
    return [worker._process.pid for worker in pool._workers]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("tensors", [False, True])
def test_results_are_those_of_one_process_in_order(workers, tensors):
    crf = DenseCrf(iterations=3, bilateral_xy=9.0)
    work = list(photos(7))
    got = []
    with CrfPool(crf, workers) as pool:
        for photo, probabilities in work:
            pool.submit(photo, torch.from_numpy(probabilities) if tensors else probabilities)
            got += pool.ready()
        got += pool.results()
        assert list(pool.results()) == []
    assert [photo for photo, _ in got] == [photo for photo, _ in work]
    for (photo, probabilities), (_, labels) in zip(work, got, strict=True):
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, labels_of(crf.refine(photo.rgb, probabilities)))


def test_more_than_255_classes_give_16_bit_labels():
    with CrfPool(DenseCrf(iterations=1), 1) as pool:
        pool.submit(*next(photos(1, classes=300, side=4)))
        [(_, labels)] = pool.results()
    assert labels.dtype == np.uint16
    assert labels.max() > 255


def test_submit_waits_for_room():
    with CrfPool(DenseCrf(), 1, max_in_flight=2) as pool:
        for photo, probabilities in photos(6, side=40):
            pool.submit(photo, probabilities)
            assert len(pool._unfinished()) <= 2
        assert len(list(pool.results())) == 6


def test_closing_ends_every_process_and_drops_the_rest():
    with CrfPool(DenseCrf(iterations=1000), 2) as pool:
        for work in photos(4, side=100):
            pool.submit(*work)
        pids = pids_of(pool)
        start = time.monotonic()
    assert time.monotonic() - start < 5
    assert alive(pids) == []
    pool.close()


def test_a_killed_worker_is_an_error_with_the_sample_and_the_signal():
    with CrfPool(DenseCrf(iterations=1000), 1) as pool:
        [work] = photos(1, side=100)
        pool.submit(*work)
        os.kill(pids_of(pool)[0], signal.SIGKILL)
        with pytest.raises(EnvironmentFault, match="SIGKILL") as caught:
            list(pool.results())
        assert caught.value.where == "photo0"
        with pytest.raises(EnvironmentFault):
            pool.submit(*work)


def test_a_fault_in_a_worker_arrives_as_it_was():
    photo, probabilities = next(photos(1))
    probabilities = np.full_like(probabilities, np.nan)
    with CrfPool(DenseCrf(), 1) as pool:
        pool.submit(photo, probabilities)
        with pytest.raises(NumericsError, match="non-finite"):
            list(pool.results())


def test_wrong_arguments():
    with pytest.raises(ConfigError):
        CrfPool(DenseCrf(), 0)


SCRIPT = """
import sys, time
import numpy as np
from segkit.inference.crf import DenseCrf
from segkit.inference.crf_pool import CrfPool

class Photo:
    id = "photo"
    rgb = np.zeros((200, 200, 3), np.uint8)

with CrfPool(DenseCrf(iterations=100000), 2) as pool:
    for _ in range(3):
        pool.submit(Photo, np.ones((9, 200, 200), np.float32) / 9)
    print(*(w._process.pid for w in pool._workers), flush=True)
    list(pool.results())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda n: n.name)
@pytest.mark.skipif(sys.platform != "linux", reason="PDEATHSIG and /proc are Linux")
def test_no_worker_outlives_the_command(number):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert len(alive(workers)) == 2
    time.sleep(0.3)
    os.killpg(parent.pid, number)
    _, complaints = parent.communicate(timeout=10)
    assert complaints.decode().count("Traceback") <= 1, "a worker spoke up beside the parent"
    deadline = time.monotonic() + 5
    while alive(workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive(workers) == []


def test_workers_start_without_torch():
    code = "import sys, segkit.inference.crf_worker; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
