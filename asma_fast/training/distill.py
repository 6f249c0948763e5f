"""Distillation: a light student learns what a teacher, or the teachers of several streams, say of the clips."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from asma_fast.nn import Classifier, distillation_loss, inference_parameters
from asma_fast.philox import derive_seed
from asma_fast.training.configs_distill import DistillConfig
from asma_fast.training.cost import latencies, multiply_adds
from asma_fast.training.dataset import Batch, Clips
from asma_fast.training.launch import launched, sole
from asma_fast.training.lesson import Lesson, lesson_of
from asma_fast.training.loop import HEAD, PROJECTOR, VIEWS, TrainingRun, train_all
from asma_fast.training.models import (
    build_encoder,
    classifier_network,
    classifier_over,
    encoder_network,
    initial_seed,
)
from asma_fast.training.parts import budget_of, seen_in_training
from asma_fast.training.records import Floats, Scores, scores_of, warnings_of, write_record
from asma_fast.training.supervised import predict_logits, training_seconds
from asma_fast.training.teachers import (
    Answers,
    Teacher,
    Teachers,
    ViewSet,
    Word,
    check_taught,
    clips_by_stream,
    view_sets,
)

NAME = "student"  # of the checkpoint


@dataclass(frozen=True)
class DistillResult:
    """What distillation left; prints as a table.

    Parameters
    ----------
    scores
        Of the student on the test clips; None where these have no labels, or training was stopped before its end.
    record
        All that was measured; empty where training was stopped.
    files
        ``"student"`` → the record's file.
    checkpoint
        Of the student.
    rank
        Of this process among those of the run.
    epochs
        Done.
    """

    checkpoint: Path
    epochs: int
    scores: Scores | None = None
    record: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    rank: int = 0

    def __str__(self) -> str:
        record = self.record
        if not record:
            return f"{NAME}: stopped after {self.epochs} epochs; to be continued"
        student, teacher = record["student"], record["teacher"]
        clips = f"{record['clips']['test']} {'test' if record['held_out'] else 'training'} clips"
        lines = [f"{record['name']}: agrees with its teacher on {100 * record['agreement']:.2f} % of {clips}"]
        if self.scores is not None:
            lines.append(
                f"  accuracy {100 * record['accuracy']:.2f} %, teacher {100 * teacher['accuracy']:.2f} % "
                f"({record['clips']['train']} clips for training)"
            )
        streams = len(teacher["streams"])
        lines += [
            f"  parameters {student['parameters']:,}, {100 * student['share']:.1f} % of the teacher's "
            f"{teacher['parameters']:,}{' of one stream' if streams > 1 else ''}",
            f"  multiply-adds a clip {student['multiply_adds'] / 1e6:.2f} M, teacher "
            f"{teacher['multiply_adds'] / 1e6:.2f} M",
            f"  a clip on one CPU thread {student['latency_ms']:.3g} ms, teacher {teacher['latency_ms']:.3g} ms",
        ]
        return "\n".join([*lines, *(self.scores.table() if self.scores is not None else ()), *warnings_of(record)])


class Student(nn.Module):
    """A student as it is trained: under the views its teacher saw, beside it the map of its features to the teacher's.

    Parameters
    ----------
    network
        What is distilled.
    views
        View sets, by number.
    match
        Linear map of features; None where they are not matched.
    """

    def __init__(self, network: Classifier, views: Sequence[ViewSet], match: nn.Linear | None = None) -> None:
        super().__init__()
        self.network, self.views, self.match = network, tuple(views), match

    def forward(self, batch: Batch, number: int, seed: int) -> tuple[Tensor, Tensor | None]:
        """Logits under the ``number``-th view set, and the mapped features; ``seed`` keys dropout."""
        views = self.views[number]
        view = None if views.augmentation is None else views(batch)
        features = self.network.encoder(batch.x, view, seed=seed, ids=batch.ids)
        return self.network.head(features), None if self.match is None else self.match(features)


def distill(
    config: DistillConfig,
    *,
    teachers: Sequence[Teacher] | None = None,
    cache: MutableMapping[str, Floats] | None = None,
) -> DistillResult:
    """Trains a student on what its teacher says of the clips, and on their labels; measures both, writes a record.

    ``student.safetensors``, metrics, and ``record-student.json`` with the logits of the test clips beside it, go to
    ``config.out``; a run found there is continued. The last epoch is measured, never the best one. The teacher is asked
    once for each view of each clip: the student sees one view set an epoch, in turn.

    Parameters
    ----------
    teachers
        Instead of those that ``config.teacher`` names.
    cache
        Of what teachers said: several distillations that share it, with the same views, ask once.

    Raises
    ------
    ValueError
        If there are no labels and ``alpha`` is below 1, a part has no clips, the classes of store and teacher differ,
        or the options do not fit store and teacher.
    CheckpointError
        If a checkpoint is damaged, gives no logits, does not fit the clips, or is a student of another teacher.
    TrainingError
        If the loss or a weight is no longer finite, or another process is at work in ``config.out``, or one of this run
        has ended.

    Warns
    -----
    UserWarning
        If the student is larger than its teacher.
    """
    with launched(config) as fabric:
        named = teachers if teachers is not None else [Teacher.load(path) for path in config.teacher]
        teacher = Teachers.of(named, config.weights).to(fabric.device)
        lesson = lesson_of(config, teacher)
        config = lesson.parts.config
        seen = clips_by_stream(teacher, lesson.parts, lesson.parts.train)
        with sole(config.out, fabric):
            asked = Answers(teacher, config.batch, fabric, config.beta > 0, {} if cache is None else cache)
            run, student = _taught(config, lesson, asked, seen, fabric)
            if run.epoch < run.epochs:
                return DistillResult(run.path, run.epoch, rank=fabric.global_rank)
            return _measured(config, lesson, asked, run, student)


def _network(config: DistillConfig, train: Clips, classes: int) -> dict[str, Any]:
    return classifier_network(encoder_network(config, train.skeleton, train.x.shape[1]), classes)


def _new_student(config: DistillConfig, train: Clips, teachers: Teachers) -> Student:
    """Untrained; its weights depend on the seed only."""
    encoder = build_encoder(
        config, train.skeleton, train.x.shape[1], initial_seed(config.seed), recompute=config.recompute
    )
    network = classifier_over(encoder, len(teachers.classes), derive_seed(config.seed, HEAD))
    match = None
    if config.beta > 0:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, PROJECTOR))
            match = nn.Linear(encoder.out_channels, teachers.width)
    return Student(network, view_sets(config, train), match)


def _taught(
    config: DistillConfig, lesson: Lesson, asked: Answers, seen: Mapping[str, Clips], fabric: Any
) -> tuple[TrainingRun, Student]:
    teachers, train = asked.teachers, lesson.parts.train
    student = _new_student(config, train, teachers)
    own, theirs = inference_parameters(student.network), teachers.parameters
    if own > theirs and fabric.is_global_zero:
        warnings.warn(f"the student has {own:,} parameters, more than its teacher's {theirs:,}", stacklevel=4)
    path = config.out / f"{NAME}.safetensors"
    check_taught(path, "distill", teachers.fingerprint, "is the student of")
    word = Word(asked, seen, train)

    def step(run: TrainingRun, batch: Batch) -> Mapping[str, Tensor]:
        number = run.epoch % len(student.views)
        logits, mapped = run.model(batch, number, derive_seed(config.seed, VIEWS, run.epoch))
        taught, features = word(number, batch.ids)
        loss = distillation_loss(
            logits,
            taught,
            None if config.label_free else batch.labels,
            temperature=config.temperature,
            alpha=config.alpha,
        )
        if mapped is None:
            return {"loss": loss}
        distance = functional.mse_loss(mapped.float(), features)
        return {"loss": loss + config.beta * distance, "logits": loss, "features": distance}

    run = TrainingRun(
        NAME,
        path,
        student,
        train,
        config,
        fabric,
        step=step,
        kind="distill",
        record={
            "network": _network(config, train, len(teachers.classes)),
            "classes": list(teachers.classes),
            "teacher": teachers.told(),
        },
        free=("name", "teacher"),
    )
    for number in sorted({epoch % len(student.views) for epoch in range(run.epoch, run.stop)}):
        word.ask(number, student.views[number], fabric.device)
    train_all([run], config, fabric, f"distill {config.out}")
    student.eval()
    return run, student


def _measured(
    config: DistillConfig, lesson: Lesson, asked: Answers, run: TrainingRun, student: Student
) -> DistillResult:
    parts, teachers, fabric = lesson.parts, asked.teachers, run.fabric
    logits = predict_logits(student.network, parts.test, config.batch, fabric)
    seen = clips_by_stream(teachers, parts, parts.test)
    theirs = asked(seen)[:, : len(teachers.classes)]
    scores, teachers_scores = (
        scores_of(one, parts.test.labels, teachers.classes) if lesson.labelled else _unknown(teachers.classes)
        for one in (logits, theirs)
    )
    file = config.out / f"record-{NAME}.json"
    record: dict[str, Any] = {}
    if fabric.is_global_zero:
        agreement = float((logits.argmax(1) == theirs.argmax(1)).mean())
        about = {
            **_facts(config, lesson, teachers),
            **_costs(student, teachers, parts.test, seen),
            "agreement": agreement,
            "budget": {"epochs": run.epoch, "steps": run.epoch * len(run.batches), "batch": run.batches.batch},
            "seconds": training_seconds(run),
        }
        about["teacher"]["accuracy"] = teachers_scores.accuracy if lesson.labelled else None
        if not lesson.labelled:
            about["accuracy"] = None  # JSON has no NaN
        record = write_record(file, "distill", scores, config, (parts.train, parts.test), about, logits=logits)
    told = scores if lesson.labelled else None
    return DistillResult(run.path, run.epoch, told, record, {NAME: file}, fabric.global_rank)


def _unknown(classes: tuple[str, ...]) -> Scores:
    """Of clips without labels."""
    nothing = float("nan")
    return Scores(nothing, (nothing,) * len(classes), np.zeros((len(classes),) * 2, np.int64), classes)


def _facts(config: DistillConfig, lesson: Lesson, teachers: Teachers) -> dict[str, Any]:
    parts, records = lesson.parts, [member.record for member in teachers.members]
    # Of an alignment, its encoders' clips too.
    records += [told for record in records for told in record.get("encoders", {}).values()]
    how = ", label-free" if config.label_free else ""
    facts: dict[str, Any] = {
        "name": config.name or f"student ({config.stream}) of {teachers.name}",
        "protocol": f"distill{how}",
        "data": parts.data(),
        "preprocessing": parts.recipe.to_dict(),
        "encoders": {str(member.path): budget_of(member.record) for member in teachers.members},
        "test_clips_seen": seen_in_training(parts.store, records, parts.test) if lesson.held_out else 0,
        "held_out": lesson.held_out,
    }
    if config.label_free:  # classes are the teacher's to name
        facts["untrained_classes"] = []
    return facts


def _costs(student: Student, teachers: Teachers, test: Clips, seen: Mapping[str, Clips]) -> dict[str, Any]:
    """What a record says of both networks."""
    network = student.network.cpu().eval()
    models = [member.model.cpu() for member in teachers.members]
    own, others = test.batch([0]).x, [seen[member.stream].batch([0]).x for member in teachers.members]

    def answer() -> None:
        for model, x in zip(models, others, strict=True):
            model(x)

    taken = latencies({"student": lambda: network(own), "teacher": answer})
    parameters = inference_parameters(network)
    return {
        "student": {
            "parameters": parameters,
            "share": parameters / teachers.parameters,
            "multiply_adds": multiply_adds(network, own),
            "latency_ms": taken["student"],
        },
        "teacher": {
            **teachers.told(),
            "multiply_adds": sum(multiply_adds(model, x) for model, x in zip(models, others, strict=True)),
            "latency_ms": taken["teacher"],
        },
    }
