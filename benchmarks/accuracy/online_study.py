"""``python benchmarks/accuracy/online_study.py --work FOLDER``: networks for streams, measured by streams.

PRECOG, untrimmed, persons 1–8 train, 9–12 test: both modes, frame by frame and action by action. NW-UCLA, trimmed,
views 1 and 2 train, view 3 tests: the causal network at a clip's last frame, cold, after a pose that is held for five
seconds, and after another test clip; trained on all that may come before, and cold alone. The window of PRECOG is
chosen on persons 7 and 8, by networks trained on persons 1–6; nothing else is chosen. What is found in the folder is
kept. Recordings are looked for where ``ASMA_DATA`` says. ``ONLINE.md`` tells what came of it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asma_fast.config import build
from asma_fast.data import ClipInfo, PrepareConfig, Store, StoreWriter, prepare
from asma_fast.philox import derive_seed
from asma_fast.training import OnlineConfig, online
from asma_fast.training.bootstrap import Interval, bootstrap_difference
from asma_fast.training.launch import launched
from asma_fast.training.loop import HEAD
from asma_fast.training.models import build_encoder, classifier_network, classifier_over, encoder_network, initial_seed
from asma_fast.training.parts import labelled_parts
from asma_fast.training.recordings import Recordings
from asma_fast.training.records import read_record
from asma_fast.training.streaming import exported, pushed
from asma_fast.training.supervised import fit, predict_logits

SHARED: dict[str, Any] = {"accelerator": "cpu", "progress": False, "save_every": 50}
MODES = {"continual": True, "window": False}
UCLA: dict[str, Any] = {"window": 32, "lr": 1e-2, "shear": 0.1}  # not chosen: as many frames as the preset small has
# What is tried on the inner split of PRECOG, by mode.
GRID: dict[str, tuple[dict[str, Any], ...]] = {
    "continual": (
        {"window": 12, "lr": 1e-2, "shear": 0.1},
        {"window": 24, "lr": 1e-2, "shear": 0.1},
        {"window": 24, "lr": 3e-3, "shear": 0.5},
        {"window": 48, "lr": 3e-3, "shear": 0.5},
    ),
    "window": ({"window": 24, "lr": 1e-2, "shear": 0.1}, {"window": 36, "lr": 1e-2, "shear": 0.1}),
}
PREFIXES = ("cold", "held", "other")
HELD_SECONDS = 5.0
Hits = NDArray[np.float64]


def stores(work: Path, recordings: Path) -> dict[str, Path]:
    """The prepared stores; ``inner`` has the training persons of PRECOG alone."""
    paths = {name: work / f"{name}.safetensors" for name in ("precog", "nw-ucla", "inner")}
    if not paths["precog"].exists():
        prepare(PrepareConfig("precog", paths["precog"], recordings / "precog", cut=False))
    if not paths["nw-ucla"].exists():
        prepare(PrepareConfig("nw-ucla", paths["nw-ucla"], recordings / "nw-ucla" / "all_sqe"))
    if not paths["inner"].exists():
        store = Store.open(paths["precog"])
        with StoreWriter(paths["inner"], dataset="precog", skeleton=store.skeleton, sided=store.sided) as writer:
            for place in store.split("xsub")[0].tolist():
                writer.add(store[place])
            writer.finish(classes=store.classes, splits={"inner": _inner})
    return paths


def _inner(info: ClipInfo) -> Any:
    return "test" if info.subject in (7, 8) else "train"


def trained(out: Path, data: Path, **options: Any) -> dict[str, Any]:
    """The record of a run of the verb; made where it is not there."""
    file = out / "record-online.json"
    if not file.exists():
        online(build(OnlineConfig, ("study", {**SHARED, "data": data, "out": out, **options})))
    return read_record(file)


def chosen(work: Path, inner: Path, mode: str, steps: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The options of the best macro F1 on held-out training persons, and what each came to."""
    found = []
    for number, options in enumerate(GRID[mode]):
        record = trained(work / f"inner-{mode}-{number}", inner, causal=MODES[mode], steps=steps, **options)
        found.append({**options, **{name: record["online"][name] for name in ("accuracy", "macro_f1")}})
    return GRID[mode][int(np.argmax([one["macro_f1"] for one in found]))], found


def precog(work: Path, paths: Mapping[str, Path], seeds: int, steps: int, inner_steps: int) -> dict[str, Any]:
    """Both modes on PRECOG."""
    told: dict[str, Any] = {}
    for mode, causal in MODES.items():
        best, inner = chosen(work, paths["inner"], mode, inner_steps)
        records = [
            trained(work / f"precog-{mode}-{seed}", paths["precog"], causal=causal, steps=steps, seed=seed, **best)
            for seed in range(seeds)
        ]
        told[mode] = {
            "chosen": best,
            "inner": inner,
            "seeds": [record["online"] for record in records],
            "frames": interval(rates(records, "right")),
            "frames_named": interval(rates(records, "right_named")),
            "detected": interval(rates(records, "detected")),
        }
    told["difference"] = {
        name: interval(
            rates([_record(work, "continual", seed) for seed in range(seeds)], name)
            - rates([_record(work, "window", seed) for seed in range(seeds)], name)
        )
        for name in ("right", "detected")
    }
    return told


def _record(work: Path, mode: str, seed: int) -> dict[str, Any]:
    return read_record(work / f"precog-{mode}-{seed}" / "record-online.json")


def rates(records: list[dict[str, Any]], what: str) -> Hits:
    """``(seeds, recordings)``: share of a recording's frames that are right, or of its actions that are detected."""

    def rate(one: Mapping[str, Any]) -> float:
        if what == "detected":
            return float(np.mean([action["delay"] is not None for action in one["actions"]]))
        return float(one[what] / one["frames"])

    return np.array([[rate(one) for one in record["recordings"] if one["actions"]] for record in records])


def interval(parts: Hits) -> tuple[float, Interval]:
    """Mean over seeds and recordings, which weigh alike, and its 95 % bootstrap interval."""
    return bootstrap_difference([parts])


def nw_ucla(work: Path, data: Path, seeds: int, steps: int) -> dict[str, Any]:
    """The causal network on trimmed clips, by what it was trained on and what comes before; and the clip-mode one."""
    hits: dict[str, Hits] = {}
    for name, before in (("context", "real,held,other,cold"), ("cold", "cold")):
        each = []
        for seed in range(seeds):
            out = work / f"nw-ucla-{name}-{steps}-{seed}"
            trained(out, data, before=before, steps=steps, seed=seed, **UCLA)
            if not (out / "ends.npz").exists():
                np.savez(out / "ends.npz", **ends(out, data))
            each.append(dict(np.load(out / "ends.npz")))
        for prefix in each[0]:
            hits[f"{name} {prefix}"] = np.stack([one[prefix] for one in each])
    hits["clip"] = np.stack(
        [of_clips(work / f"nw-ucla-clip-{steps}-{seed}", data, steps, seed) for seed in range(seeds)]
    )
    told: dict[str, Any] = {name: interval(one) for name, one in hits.items()}
    told["context - cold"] = {
        prefix: interval(hits[f"context {prefix}"] - hits[f"cold {prefix}"]) for prefix in PREFIXES
    }
    return told


def ends(out: Path, data: Path) -> dict[str, Hits]:
    """What comes before → whether each test clip is named, by the last answer's logits, at its last frame."""
    store = Store.open(data)
    config = build(OnlineConfig, ("study", {"data": data, "out": out, **UCLA}))
    recordings = Recordings.of(config, store, store.split("xview")[1])
    places, found = recordings.places.tolist(), {prefix: list[float]() for prefix in PREFIXES}
    # A cycle in a random order: each clip comes before another one.
    order = np.random.default_rng(0).permutation(len(places))
    former = {places[this]: places[that] for this, that in zip(order, np.roll(order, 1), strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        session = exported(out / "online.safetensors", Path(folder), store.bodies)
        with session.stream("continual") as stream:
            for place in places:
                frames, fps = recordings.frames(place), recordings.fps(place)
                prefixes = {
                    "cold": None,
                    "held": np.repeat(frames[:, :1], round(HELD_SECONDS * fps), axis=1),
                    "other": recordings.frames(former[place]),
                }
                for name, before in prefixes.items():
                    said = pushed(stream, frames, fps, recordings.classes, before=before)
                    found[name].append(float(said.logits.argmax() == store.labels[place]))
    return {name: np.array(one) for name, one in found.items()}


def of_clips(out: Path, data: Path, steps: int, seed: int) -> Hits:
    """The same network, not causal, trained on whole clips stretched to a window: whether each test clip is named."""
    given = {**SHARED, "data": data, "out": out, "causal": False, "steps": steps, "seed": seed, **UCLA}
    config = build(OnlineConfig, ("study", given))
    with launched(config) as fabric:
        parts = labelled_parts(build(OnlineConfig, ("study", {**given, "frames": config.window})), Store.open(data), ())
        skeleton, classes = parts.train.skeleton, len(parts.store.classes)
        encoder = build_encoder(config, skeleton, 3, initial_seed(seed))
        model = classifier_over(encoder, classes, derive_seed(seed, HEAD))
        out.mkdir(parents=True, exist_ok=True)
        network = classifier_network(encoder_network(config, skeleton, 3), classes)
        path = out / "clip.safetensors"
        fit(model, parts.train, parts.config, fabric, path, kind="clip", record={"network": network})
        logits = predict_logits(model, parts.test)
    return (logits.argmax(axis=1) == parts.test.labels.numpy()).astype(np.float64)


def tables(told: Mapping[str, Any]) -> list[str]:
    """The results as Markdown."""
    lines = ["| mode | window | learning rate | shear | frames, inner | macro F1, inner |", "|---|---|---|---|---|---|"]
    for mode in MODES:
        for one in told["precog"][mode]["inner"]:
            scores = " | ".join(_percent(one[name]) for name in ("accuracy", "macro_f1"))
            lines.append(f"| {mode} | {one['window']} | {one['lr']:g} | {one['shear']:g} | {scores} |")
    lines += ["", f"| PRECOG | {' | '.join(MODES)} |", "|---|---|---|"]
    names = ("accuracy", "macro_f1", "accuracy_named", "macro_f1_named", "detected", "delay_mean", "delay_median")
    for name in (*names, "false_alarms_per_minute"):
        cells = []
        for mode in MODES:
            values = [one[name] for one in told["precog"][mode]["seeds"]]
            as_share = name.startswith(("accuracy", "macro", "detected"))
            shown = [
                f"{100 * value:.1f}" if as_share else f"{value:.2f}" for value in [float(np.mean(values)), *values]
            ]
            cells.append(f"{shown[0]} ({', '.join(shown[1:])})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for what in ("frames", "frames_named", "detected"):
        cells = [_interval(told["precog"][mode][what]) for mode in MODES]
        lines.append(f"| {what}, recordings alike | {' | '.join(cells)} |")
    for what, one in told["precog"]["difference"].items():
        lines.append(f"| {what}, difference | {_interval(one)} | |")
    lines += ["", "| NW-UCLA, trained on | cold | after a held pose | after another clip |", "|---|---|---|---|"]
    ucla = told["nw-ucla"]
    for name in ("context", "cold"):
        cells = [_interval(ucla[f"{name} {prefix}"]) for prefix in PREFIXES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append(f"| context − cold | {' | '.join(_interval(ucla['context - cold'][prefix]) for prefix in PREFIXES)} |")
    return [*lines, f"| whole clips, not causal | {_interval(ucla['clip'])} | | |"]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(found: Any) -> str:
    mean, (low, high) = found
    return f"{100 * mean:.1f} ({100 * low:.1f} … {100 * high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of stores, runs and results.json")
    parser.add_argument("--seeds", type=int, default=3, help="of each network of PRECOG (default: 3)")
    parser.add_argument("--seeds-ucla", type=int, default=1, help="of each network of NW-UCLA (default: 1)")
    parser.add_argument("--steps", type=int, default=600, help="of training on PRECOG (default: 600)")
    parser.add_argument("--steps-ucla", type=int, default=600, help="of training on NW-UCLA (default: 600)")
    parser.add_argument("--inner-steps", type=int, default=400, help="the same on the inner split (default: 400)")
    options = parser.parse_args()
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    root = Path(__file__).resolve().parents[2]
    paths = stores(work, Path(os.environ.get("ASMA_DATA") or root / "../shared/data"))
    told = {
        "precog": precog(work, paths, options.seeds, options.steps, options.inner_steps),
        "nw-ucla": nw_ucla(work, paths["nw-ucla"], options.seeds_ucla, options.steps_ucla),
    }
    (work / "results.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    print("\n".join(tables(told)))


if __name__ == "__main__":
    main()
