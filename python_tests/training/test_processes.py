"""Many processes: they train what one process trains, go on in another number, and end together when one dies.

Budget against one process, float32 on toys: losses within 1e-5 of their size, weights after the last step within 1e-4
of the largest of their tensor. Biases that a batch-norm takes out again have no gradient but rounding, which Adam
scales up: they, and the running means that follow them, only have to be finite.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch
from programs import start_verb
from toys import TINY, toy_store

from asma_fast.training.checkpoint import load_checkpoint
from asma_fast.training.pretrain import read_losses

SMOOTH = {**TINY, "lr": 1e-3, "epochs": 3, "encoders": "hl", "split": "half", "frames": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A store, and a run of one process on it."""
    folder = tmp_path_factory.mktemp("processes")
    toy_store(folder / "toy.safetensors", 54)
    finish(start_verb(*words(folder, "one")))
    return folder


def words(folder: Path, out: str, **options: object) -> list[str]:
    given = {**SMOOTH, "data": folder / "toy.safetensors", "out": folder / out, **options}
    return [
        "pretrain",
        "--no-progress",
        *(f"--{key.replace('_', '-')}={text(value)}" for key, value in given.items() if key != "progress"),
    ]


def text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def start_all(count: int, arguments: list[str], last: list[str] | None = None) -> list[subprocess.Popen[str]]:
    """As torchrun starts them; the last one with arguments of its own, if there are any."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    given = [arguments] * (count - 1) + [last or arguments]
    return [start_verb(*some, RANK=str(rank), LOCAL_RANK=str(rank), **place) for rank, some in enumerate(given)]


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def assert_same_run(one: Path, other: Path) -> None:
    losses, others = (read_losses(path / "metrics.jsonl")["hl"] for path in (one, other))
    assert losses == pytest.approx(others, rel=1e-5)
    first, second = (load_checkpoint(path / "hl.safetensors")[0] for path in (one, other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        if not name.startswith("model."):
            continue
        assert torch.isfinite(second[name]).all()
        if name.endswith(("conv.bias", "residual.0.bias", "running_mean")):
            continue
        scale = tensor.abs().max().clamp_min(1e-6).item()
        assert (tensor.double() - second[name].double()).abs().max().item() <= 1e-4 * scale, name


@pytest.mark.parametrize("count", [2, 4])
def test_processes_train_what_one_process_trains(folder, count):
    printed = [finish(process) for process in start_all(count, words(folder, f"ranks{count}"))]
    assert [bool(out) for out in printed] == [True] + [False] * (count - 1)
    assert_same_run(folder / "one", folder / f"ranks{count}")


def test_torchrun_starts_them_and_another_number_goes_on(folder):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    finish(start_verb(*words(folder, "torchrun", stop_after=2), module=torchrun))
    assert load_checkpoint(folder / "torchrun" / "hl.safetensors")[1]["epoch"] == 2
    finish(start_verb(*words(folder, "torchrun")))
    assert_same_run(folder / "one", folder / "torchrun")


def test_when_one_dies_the_other_ends_with_a_sentence(folder):
    processes = start_all(2, words(folder, "dies", epochs=100_000))
    metrics = folder / "dies" / "metrics.jsonl"
    try:
        deadline = time.monotonic() + 90
        while len(read_losses(metrics).get("hl", [])) < 2:
            assert all(process.poll() is None for process in processes), "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        processes[1].send_signal(signal.SIGKILL)
        _, err = processes[0].communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert processes[0].returncode == 2
    last = err.strip().splitlines()[-1]
    assert "asma-fast: process 0 of 2: another process has ended or did not answer in time" in last
    assert "it left no message here; the same command goes on from the newest checkpoint" in last
    assert load_checkpoint(folder / "dies" / "hl.safetensors")[1]["epoch"] >= 1


def test_when_one_fails_the_other_ends_with_its_message(folder):
    missing = str(folder / "missing.safetensors")
    processes = start_all(2, words(folder, "fails"), words(folder, "fails", data=missing))
    (_, err), (_, other) = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    (message,) = [line.removeprefix("asma-fast: ") for line in other.splitlines() if line.startswith("asma-fast: ")]
    assert missing in message
    assert f"another process has ended or did not answer in time; process 1: ValueError: {message}" in err, err


def test_a_number_of_devices_that_is_not_torchruns_is_refused(folder):
    (process, other) = start_all(2, words(folder, "refused", devices=3))
    for one in (process, other):
        _, err = one.communicate(timeout=60)
        assert one.returncode == 2
        assert "devices and nodes must be left out under torchrun, which started 2 processes; got 3 and 1" in err
