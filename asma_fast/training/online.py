"""Online recognition: one network for streams, trained on windows of recordings, measured by the streams themselves."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from asma_fast.data import Preprocessing, Store
from asma_fast.nn import STGCN, Classifier, distillation_loss, inference_parameters
from asma_fast.philox import derive_seed
from asma_fast.training.checkpoint import CheckpointError
from asma_fast.training.configs_online import OnlineConfig
from asma_fast.training.dataset import open_data, split_of
from asma_fast.training.finetune import budget
from asma_fast.training.launch import launched, sole
from asma_fast.training.loop import HEAD, TrainingRun
from asma_fast.training.models import (
    build_encoder,
    classifier_network,
    classifier_over,
    encoder_network,
    initial_seed,
)
from asma_fast.training.online_scores import OnlineScores, online_scores
from asma_fast.training.recordings import Recordings, Windows, windows_of
from asma_fast.training.records import Scores, check_labels, make_record, saved, untrained_classes, warnings_of
from asma_fast.training.streaming import exported, tracks_of
from asma_fast.training.supervised import fit, training_seconds
from asma_fast.training.teachers import Teacher, Teachers, check_taught
from asma_fast.view import View

NAME = "online"  # of the checkpoint


@dataclass(frozen=True)
class OnlineResult:
    """What training for streams left; prints as a table.

    Parameters
    ----------
    checkpoint
        Of the network.
    epochs
        Done.
    scores
        Of the test recordings; None where training was stopped before its end.
    record
        All that was measured; empty where training was stopped.
    files
        ``"online"`` → the record's file.
    rank
        Of this process among those of the run.
    """

    checkpoint: Path
    epochs: int
    scores: OnlineScores | None = None
    record: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    rank: int = 0

    def __str__(self) -> str:
        record = self.record
        if not record:
            return f"{NAME}: stopped after {self.epochs} epochs; to be continued"
        told, clips = record["online"], record["clips"]
        lines = [
            f"{record['name']}: {record['mode']} stream over {clips['test']} test recordings, {told['minutes']:.1f} "
            f"minutes ({clips['train']} for training)",
            f"  frames: accuracy {100 * told['accuracy']:.2f} %, macro F1 {100 * told['macro_f1']:.2f} %; as named "
            f"{100 * told['accuracy_named']:.2f} %, {100 * told['macro_f1_named']:.2f} %",
        ]
        if told["actions"]:
            delay = "" if told["delay_mean"] is None else f", after {told['delay_mean']:.2f} s (mean)"
            lines.append(
                f"  actions: {100 * told['detected']:.1f} % of {told['actions']} detected{delay}; "
                f"{told['false_alarms_per_minute']:.2f} false alarms a minute"
            )
        if told["accuracy_end"] is not None:
            lines.append(f"  at the last frame: accuracy {100 * told['accuracy_end']:.2f} %")
        return "\n".join([*lines, *warnings_of(record)])


class LastOutputs(nn.Module):
    """A causal classifier as a continual stream runs it: its head reads the average of the last outputs alone.

    Parameters
    ----------
    network
        What is trained.
    pool
        How many outputs of the last block are averaged.
    """

    def __init__(self, network: Classifier, pool: int) -> None:
        super().__init__()
        self.network, self.pool = network, pool

    def forward(self, clip: Tensor, view: View | None = None, *, seed: int | None = None, ids: Any = None) -> Tensor:
        """Logits ``(N, classes)``."""
        encoder = self.network.encoder
        assert isinstance(encoder, STGCN)
        logits: Tensor = self.network.head(encoder(clip, view, last=self.pool, seed=seed, ids=ids))
        return logits


def online(config: OnlineConfig) -> OnlineResult:
    """Trains one network for streams with the labels of recordings, or of trimmed clips; measures it by its stream.

    ``online.safetensors``, metrics and ``record-online.json`` go to ``config.out``; a run found there is continued. The
    last epoch is measured, never the best one: the checkpoint is exported, and each test recording pushed frame by
    frame through :meth:`asma_fast.edge.Session.stream` of the mode that the network is for.

    Raises
    ------
    ValueError
        If there are no labels, one class only, a part without recordings, the store was prepared already, or the
        options do not fit each other, the store or the teachers.
    CheckpointError
        If a checkpoint is damaged, or of another run, or a teacher's network does not fit.
    TrainingError
        If the loss or a weight is no longer finite, or another process is at work in ``config.out``, or one of this run
        has ended.
    """
    with launched(config) as fabric:
        config, train, test = _parts(config)
        teachers = _teachers(config, train)
        windows = windows_of(train, config, None if teachers is None else _recipe(teachers.members[0]))
        with sole(config.out, fabric):
            run, network = _trained(config, windows, None if teachers is None else teachers.to(fabric.device), fabric)
            if run.epoch < run.epochs:
                return OnlineResult(run.path, run.epoch, rank=fabric.global_rank)
            if not fabric.is_global_zero:
                return OnlineResult(run.path, run.epoch, rank=fabric.global_rank)
            return _measured(config, run, network, train, test, teachers)


def _parts(config: OnlineConfig) -> tuple[OnlineConfig, Recordings, Recordings]:
    """Training and test recordings, and the config that names the split."""
    store = open_data(config)
    if store.frame_labels is None and (store.labels < 0).all():
        raise ValueError(
            f"{config.data}: the store has labels neither of frames nor of recordings; training for streams needs them"
        )
    split = split_of(store, config.split)
    train, test = (Recordings.of(config, store, places) for places in store.split(split))
    check_labels(_labels(train), _labels(test), train.classes)
    return replace(config, split=split, frames=config.window), train, test


def _labels(recordings: Recordings) -> Any:
    """Of all frames of all recordings."""
    labels = [recordings.labels(place) for place in recordings.places.tolist()]
    return np.concatenate(labels) if labels else np.array([], np.int64)


def _recipe(teacher: Teacher) -> Preprocessing:
    return Preprocessing.from_dict(teacher.record["preprocessing"])


def _teachers(config: OnlineConfig, train: Recordings) -> Teachers | None:
    """Those of the config, of which the mean of the logits teaches; they read windows as the first one's recipe has it.

    Raises
    ------
    ValueError, CheckpointError
        If one does not fit the recordings.
    """
    if not config.teacher:
        return None
    members = [Teacher.load(path) for path in config.teacher]
    bodies = train.frames(int(train.places[0]), np.array([0])).shape[0]
    for member in members:
        for what, found, wanted in (
            ("classes", member.classes, train.classes),
            ("joint layout", member.record["skeleton"]["name"], train.skeleton.name),
            ("bodies", member.record["bodies"], bodies),
            ("stream", member.stream, "joint"),
            ("frames a clip", _recipe(member).frames, config.window),
            ("preprocessing", _recipe(member), _recipe(members[0])),
        ):
            if found != wanted:
                raise CheckpointError(f"{member.path}: a teacher's {what} must be {wanted}, got {found}")
    return Teachers.of(members, [1 / len(members)] * len(members))


def _trained(
    config: OnlineConfig, windows: Windows, teachers: Teachers | None, fabric: Any
) -> tuple[TrainingRun, Classifier]:
    coordinates = windows.x.shape[1]
    encoder = build_encoder(
        config, windows.skeleton, coordinates, initial_seed(config.seed), recompute=config.recompute
    )
    network = classifier_over(encoder, len(windows.classes), derive_seed(config.seed, HEAD))
    path = config.out / f"{NAME}.safetensors"
    told = None if teachers is None else teachers.told()
    check_taught(path, "online", None if teachers is None else teachers.fingerprint, "was trained with")

    def loss(logits: Tensor, batch: Any) -> Tensor:
        if teachers is None:
            return functional.cross_entropy(logits, batch.labels, label_smoothing=config.label_smoothing)
        with torch.no_grad():
            word = torch.stack(
                [
                    weight * member.model(batch.windows).float()
                    for member, weight in zip(teachers.members, teachers.weights, strict=True)
                ]
            ).sum(0)
        return distillation_loss(logits, word, batch.labels, temperature=config.temperature, alpha=config.alpha)

    run = fit(
        LastOutputs(network, config.outputs) if config.causal else network,  # type: ignore[arg-type,unused-ignore]
        windows,
        config,
        fabric,
        path,
        kind="online",
        record={
            "network": classifier_network(encoder_network(config, windows.skeleton, coordinates), len(windows.classes)),
            "rate": config.rate,
            "mode": config.mode,
            "teacher": told,
        },
        loss=loss,
        saved=network,
        free=("hop", "teacher"),
    )
    return run, network


def _measured(
    config: OnlineConfig,
    run: TrainingRun,
    network: Classifier,
    train: Recordings,
    test: Recordings,
    teachers: Teachers | None,
) -> OnlineResult:
    settings = config.streamed(test.trimmed)
    with tempfile.TemporaryDirectory() as folder:
        session = exported(run.path, Path(folder), run.clips.x.shape[4])
        tracks = tracks_of(session, test, config.mode, settings)
    scores = online_scores(tracks, len(test.classes), test.background)
    confusion = scores.confusion
    totals = confusion.sum(axis=1)
    shares = tuple(
        float(hit / total) if total else float("nan") for hit, total in zip(confusion.diagonal(), totals, strict=True)
    )
    end = float(np.mean([track.likeliest[-1] == track.truth[-1] for track in tracks])) if test.trimmed else None
    store: Store = test.store
    about = {
        "name": config.name or f"{config.mode} stream",
        "protocol": f"online, {config.mode} stream, frames",
        "mode": config.mode,
        "data": {
            "dataset": store.dataset,
            "fingerprint": store.fingerprint,
            "split": config.split,
            "protocol": config.protocol,
            "layout": config.layout,
        },
        "preprocessing": test.maker.preprocessing.to_dict(),
        "teacher": None if teachers is None else teachers.told(),
        "untrained_classes": untrained_classes(_labels(train), _labels(test), test.classes),
        "background": test.classes[test.background] if test.background >= 0 else None,
        "settings": settings,
        "parameters": inference_parameters(network),
        "online": {**scores.told(), "accuracy_end": end},
        "recordings": [
            {
                "name": store.names[place],
                "subject": int(store.subjects[place]),
                "frames": one.frames,
                "right": one.right,
                "right_named": one.right_named,
                "false_alarms": one.false_alarms,
                "seconds": one.seconds,
                "actions": [
                    {"class": test.classes[action.label], "start": action.start, "delay": action.delay}
                    for action in one.actions
                ],
            }
            for place, one in zip(test.places.tolist(), scores.tracks, strict=True)
        ],
        "budget": budget(run),
        "seconds": training_seconds(run),
    }
    told = Scores(scores.accuracy, shares, confusion[:, :-1], test.classes)  # its last column: no class
    clips = {"train": len(train.places), "test": len(test.places)}
    file = config.out / f"record-{NAME}.json"
    record = saved(file, make_record("online", told, config, clips, about))
    return OnlineResult(run.path, run.epoch, scores, record, {NAME: file}, run.fabric.global_rank)
