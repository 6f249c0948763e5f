"""``python benchmarks/accuracy/edge_accuracy.py RUN …``: accuracy of exported students on real test clips.

RUN is a folder that ``asma-fast run`` filled. Of its student, on the test clips of its split: the accuracy by torch, as
the run recorded it; by the engine, from recorded frames, in float32 and in int8 (calibrated on the training clips); by
ONNX Runtime; and how often each names the class that torch names.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asma_fast.data import Preprocessing, Store
from asma_fast.data.layout_maps import layout_map
from asma_fast.edge import Session, export, export_onnx
from asma_fast.nn import Classifier
from asma_fast.training.dataset import load_clips
from asma_fast.training.models import load_model
from asma_fast.training.records import read_logits, read_record

Logits = NDArray[np.float32]


def measured(run: Path, folder: Path) -> list[str]:
    """Lines of the table."""
    store = Store.open(run / "prepare" / "store.safetensors")
    told = read_record(run / "distill" / "record-student.json")
    wanted, labels, ids = read_logits(run / "distill" / "record-student.json")
    model, record = load_model(run / "distill" / "student.safetensors")
    assert isinstance(model, Classifier)
    recipe, bodies = Preprocessing.from_dict(record["preprocessing"]), record["bodies"]
    layout = None if model.encoder.skeleton == store.skeleton else model.encoder.skeleton.name
    train = store.split(told["data"]["split"])[0]
    clips, calibration = (load_clips(store, rows, recipe, bodies, layout=layout).x for rows in (ids, train))
    name, shared = folder / run.name, {"preprocessing": recipe, "bodies": bodies, "class_names": store.classes}
    found = {
        "torch": wanted,
        "engine, float32": _of_recordings(export(model, name.with_suffix(".safetensors"), **shared), store, ids),
        "engine, int8": _of_recordings(
            export(model, folder / "int8.safetensors", precision="int8", calibration=calibration, **shared), store, ids
        ),
        "ONNX Runtime": Session(export_onnx(model, name.with_suffix(".onnx")), runtime="onnxruntime").run(
            clips.permute(0, 4, 2, 3, 1).contiguous().numpy(), preprocessed=True
        ),
    }
    lines = []
    for runtime, logits in found.items():
        right = 100 * (logits.argmax(1) == labels).mean()
        agrees = 100 * (logits.argmax(1) == wanted.argmax(1)).mean()
        off = np.abs(logits - wanted).max()
        lines.append(f"| {store.dataset} | {len(ids)} | {runtime} | {right:.2f} % | {agrees:.2f} % | {off:.1e} |")
    return lines


def _of_recordings(file: Path, store: Store, rows: NDArray[np.int64]) -> Logits:
    recordings = [store[int(row)].frames for row in rows]
    most = max(frames.shape[1] for frames in recordings), max(frames.shape[0] for frames in recordings)
    session = Session(file, max_frames=most[0], max_bodies=most[1])
    source = store.skeleton
    if session.skeleton != source:
        mapped = layout_map(source, session.skeleton)
        recordings = [mapped(frames) for frames in recordings]
    return np.concatenate([session.run(np.ascontiguousarray(frames)[None]) for frames in recordings])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Accuracy of exported students on real test clips.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders that `asma-fast run` filled")
    given = parser.parse_args(arguments)
    print("| data set | test clips | runtime | accuracy | names torch's class | largest difference of a logit |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for run in given.runs:
            print("\n".join(measured(run, Path(folder))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
