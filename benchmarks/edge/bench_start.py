"""From the start of a process to its first answer, and the most memory that it held: the student on one thread.

Beside the rivals stands Python with NumPy alone, below which no Python program can be.
"""

import subprocess
import sys

import numpy as np
import pytest
import torch
from edge_rivals import EAGER, ONNXRUNTIME, OPENVINO, OURS, RIVALS, Network
from programs import program_environment
from race import limit, ours, rival
from rivals import random_clips

NUMPY = "import of NumPy"
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


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name in (NUMPY, OURS, *RIVALS)])
def test_start(race, name, tmp_path):
    def start():
        network, clips = Network("student", tmp_path), tmp_path / "clips.npy"
        np.save(clips, random_clips(1).numpy())
        torch.save(network.plain, tmp_path / "plain.pt")
        files = [str(path) for path in (clips, network.file, network.onnx, tmp_path / "plain.pt")]

        def run(program):
            # Another working folder: the checkout's package would come before the tested one.
            command, place = [sys.executable, "-c", program, *files], {"cwd": tmp_path, "env": program_environment()}
            return subprocess.run(command, check=True, capture_output=True, text=True, **place).stdout

        kinds = {OURS: ours, NUMPY: limit}
        names = [name for name in PROGRAMS if name in (NUMPY, OURS, *RIVALS)]
        return {
            name: kinds.get(name, rival)(
                lambda program=PROGRAMS[name]: run(program),
                note={"peak MB": round(float(run(PROGRAMS[name] + _PEAK)), 1)},
            )
            for name in names
        }

    race(name, "edge: student, process start to first answer", start, threads=1, seconds=15.0)
