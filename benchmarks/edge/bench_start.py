"""From the start of a process to its first answer, and the most memory that it held: the student on one thread.

Beside the rivals stand Python with NumPy alone, below which no Python program can be, and the program without Python.
"""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from edge.test_c_library import SOURCE, build
from edge_rivals import EAGER, ONNXRUNTIME, OPENVINO, OURS, RIVALS, Network
from programs import program_environment
from race import limit, ours, rival
from rivals import random_clips

NUMPY, WITHOUT_PYTHON = "import of NumPy", "asma-edge, without Python"
_PEAK = """
print(next(int(line.split()[1]) / 1e3 for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""
PROGRAMS = {
    NUMPY: "import numpy",
    OURS: """
import numpy as np, sys
from asma_fast.edge import Session
clips = np.load(sys.argv[1]).transpose(0, 4, 2, 3, 1).copy()
assert Session(sys.argv[2]).run(clips, preprocessed=True).shape == (1, 60)
""",
    ONNXRUNTIME: """
import numpy as np, sys
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[3], options, providers=["CPUExecutionProvider"])
assert session.run(None, {"clips": np.load(sys.argv[1])})[0].shape == (1, 60)
""",
    OPENVINO: """
import numpy as np, sys
import openvino
model = openvino.Core().read_model(sys.argv[3])
model.reshape([1, 3, 50, 25, 2])
options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
compiled = openvino.Core().compile_model(model, "CPU", options)
assert compiled(np.load(sys.argv[1]))[0].shape == (1, 60)
""",
    EAGER: """
import numpy as np, sys
import torch
torch.set_num_threads(1)
model = torch.load(sys.argv[4], weights_only=False)
with torch.inference_mode():
    assert model(torch.from_numpy(np.load(sys.argv[1]))).shape == (1, 60)
""",
}


NAMES = [name for name in PROGRAMS if name in (NUMPY, OURS, *RIVALS)]


def without_python(network, clips, folder):
    """The program and its words, and the most memory that it takes, in MB."""
    build(SOURCE, folder, "-DASMA_EDGE_ONLY=ON", f"-DPython_EXECUTABLE={sys.executable}")
    program, numbers = folder / "csrc/edge/asma-edge", folder / "clips.f32"
    clips.permute(0, 4, 2, 3, 1).contiguous().numpy().tofile(numbers)
    told = subprocess.run([program, "bench", network.file, "-n", "1"], check=True, capture_output=True, text=True)
    peak = re.search(r"([\d.]+) MiB at most", told.stdout)
    assert peak, told.stdout
    return [program, "run", network.file, numbers, "-m", "2"], float(peak[1]) * 2**20 / 1e6


@pytest.mark.parametrize("name", [*NAMES, pytest.param(WITHOUT_PYTHON, marks=pytest.mark.large)])
def test_start(race, name, tmp_path):
    def start():
        network, clips = Network("student", tmp_path), tmp_path / "clips.npy"
        np.save(clips, random_clips(1).numpy())
        torch.save(network.plain, tmp_path / "plain.pt")
        files = [str(path) for path in (clips, network.file, network.onnx, tmp_path / "plain.pt")]

        def run(command):
            # Another working folder: the checkout's package would come before the tested one.
            place = {"cwd": tmp_path, "env": program_environment()}
            return subprocess.run(command, check=True, capture_output=True, text=True, **place).stdout

        def program(code):
            return [sys.executable, "-c", code, *files]

        def entry(kind, command, peak):
            return kind(lambda: run(command), note={"peak MB": round(peak, 1)})

        kinds = {OURS: ours, NUMPY: limit}
        entries = {
            name: entry(kinds.get(name, rival), program(PROGRAMS[name]), float(run(program(PROGRAMS[name] + _PEAK))))
            for name in NAMES
        }
        if race.full:
            entries[WITHOUT_PYTHON] = entry(ours, *without_python(network, random_clips(1), tmp_path / "build"))
        return entries

    race(name, "edge: student, process start to first answer", start, threads=1, seconds=15.0)
