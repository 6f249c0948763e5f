"""Fine-tuning: an encoder of a pretraining run, or the same network untrained, under a linear head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from asma_fast.nn import STGCN
from asma_fast.philox import derive_seed
from asma_fast.training.checkpoint import CheckpointError
from asma_fast.training.configs_supervised import FinetuneConfig, SupervisedConfig
from asma_fast.training.dataset import Clips, open_data
from asma_fast.training.launch import launched, sole
from asma_fast.training.loop import HEAD, TrainingRun
from asma_fast.training.models import (
    Network,
    build_network,
    check_fits,
    classifier_network,
    classifier_over,
    encoder_files,
    initial_seed,
    load_model,
    recorded_network,
    with_dropout,
)
from asma_fast.training.parts import Parts, budget_of, labelled_parts, seen_in_training
from asma_fast.training.records import Floats, Scores, scores_of, warnings_of, write_record
from asma_fast.training.supervised import fit, predict_logits, training_seconds


@dataclass(frozen=True)
class FinetuneResult:
    """What training with labels left; prints as a table.

    Parameters
    ----------
    scores
        Network → its scores on the test clips.
    records
        Network → its record.
    files
        Network → the record's file.
    checkpoints
        Network → its checkpoint.
    rank
        Of this process among those of the run.
    stopped
        Network → epochs done, of those that ``stop_after`` stopped: they have no scores yet.
    """

    scores: dict[str, Scores]
    records: dict[str, dict[str, Any]]
    files: dict[str, Path]
    checkpoints: dict[str, Path]
    rank: int = 0
    stopped: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{name}: stopped after {epochs} epochs; to be continued" for name, epochs in self.stopped.items()]
        for name, record in self.records.items():
            clips = record["clips"]
            lines.append(
                f"{record['name']}: accuracy {100 * record['accuracy']:.2f} % of {clips['test']} test clips "
                f"({clips['train']} for training)"
            )
            lines += [*self.scores[name].table(), *warnings_of(record)]
        return "\n".join(lines)


@dataclass(frozen=True)
class Source:
    """A network to start from: a checkpoint, and its record."""

    path: Path
    record: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the checkpoint."""
        return self.path.stem

    def network(self, dropout: float | None, classes: int) -> Network:
        """The classifier that is trained, as its record will tell it."""
        network = recorded_network(self.path, self.record)
        encoder = network["encoder"] if network["kind"] == "classifier" else network
        return classifier_network(with_dropout(encoder, dropout), classes)

    def model(self, config: FinetuneConfig, classes: int) -> nn.Module:
        """A classifier over the encoder, trained or untrained; its head is new."""
        network = self.network(config.dropout, classes)["encoder"]
        encoder = build_network(network, initial_seed(config.seed), recompute=config.recompute)
        if config.from_ == "run":
            model: Any = load_model(self.path)[0]
            encoder.load_state_dict((model if isinstance(model, STGCN) else model.encoder).state_dict())
        return classifier_over(encoder, classes, derive_seed(config.seed, HEAD))


# What a record says of the origin of a network that is trained with labels.
Facts = Callable[[FinetuneConfig, Source, Parts[Any]], dict[str, Any]]


def finetune(config: FinetuneConfig) -> FinetuneResult:
    """Trains each encoder of a run, or the alignment of two, with the labels of a split; writes a record for each.

    Checkpoints, metrics, and for each network ``record-NAME.json`` with its logits beside it, go to ``config.out``;
    what is found there is continued. The last epoch is measured, never the best one.

    Raises
    ------
    ValueError
        If there are no labels, one class only, a part without clips, or the options do not fit store and run.
    CheckpointError
        If a checkpoint is damaged, or of another skeleton, preprocessing, number of bodies, or run.
    TrainingError
        If the loss or a weight is no longer finite, or another process is at work in ``config.out``, or one of this run
        has ended.
    """
    with launched(config) as fabric:
        config, sources, parts = prepared(config)
        with sole(config.out, fabric):
            protocol = "fine-tune" if config.freeze == "none" else "head alone"
            return all_labels(config, sources, parts, fabric, "finetune", protocol, facts)


def all_labels(
    config: FinetuneConfig,
    sources: list[Source],
    parts: Parts[Any],
    fabric: Any,
    kind: str,
    protocol: str,
    facts: Facts,
) -> FinetuneResult:
    """Each network, trained on all labelled clips; ``kind`` and ``protocol`` are those of the records."""
    result = FinetuneResult({}, {}, {}, {}, fabric.global_rank)
    for source in sources:
        name = named(source, config)
        run, logits = trained(config, source, parts.train, parts.test, fabric, config.out / f"{name}.safetensors")
        about = {**facts(config, source, parts), "protocol": protocol}
        add_result(result, config, run, logits, parts, kind, about)
    return result


def add_result(
    result: FinetuneResult,
    config: SupervisedConfig,
    run: TrainingRun,
    logits: Floats,
    parts: Parts[Any],
    kind: str,
    about: dict[str, Any],
) -> None:
    """Adds what a run came to: scores and a record, or, where it was stopped before its end, how far it is."""
    name = run.name
    result.checkpoints[name] = run.path
    if run.epoch < run.epochs:
        result.stopped[name] = run.epoch
        return
    result.scores[name] = scores_of(logits, parts.test.labels, parts.store.classes)
    result.files[name] = config.out / f"record-{name}.json"
    if run.fabric.is_global_zero:
        result.records[name] = write_record(
            result.files[name],
            kind,
            result.scores[name],
            config,
            (parts.train, parts.test),
            {**about, "budget": budget(run), "seconds": training_seconds(run)},
            logits=logits,
        )


def prepared(
    config: FinetuneConfig, *, foreign: bool = False
) -> tuple[FinetuneConfig, list[Source], Parts[FinetuneConfig]]:
    """What is trained, and on which clips (``foreign`` ones: of another data set); and the config that names the split
    and the recipe.
    """
    store = open_data(config)
    paths = [config.align] if config.align is not None else encoder_files(config.run, config.encoders)
    sources = [Source(path, load_model(path)[1]) for path in paths]
    expected = ("align",) if config.align is not None else ("pretrain", "align")
    for source in sources:
        if source.record.get("kind") not in expected:
            told = " or ".join(f"`asma-fast {verb}`" for verb in expected)
            raise CheckpointError(f"{source.path}: is no checkpoint of {told}")
    records = [source.record for source in sources]
    parts = labelled_parts(config, store, records, config.run, foreign=foreign)
    for source in sources:
        check_fits(source.path, source.record, parts.train, bodies=not foreign)
    return parts.config, sources, parts


def named(source: Source, config: FinetuneConfig) -> str:
    """Name of what is trained among the files of its folder."""
    return source.name if config.from_ == "run" else f"scratch-{source.name}"


def trained(
    config: FinetuneConfig, source: Source, train: Clips, test: Clips, fabric: Any, path: Path
) -> tuple[TrainingRun, Floats]:
    """One network, trained on clips; and its logits of the test clips."""
    classes = len(train.classes)
    model: Any = source.model(config, classes)
    run = fit(
        model,
        train,
        config,
        fabric,
        path,
        kind="finetune",
        record={"network": source.network(config.dropout, classes), "source": source_of(source, config)},
        frozen=[model.encoder] if config.freeze == "encoder" else [],
        free=("encoders", "fractions", "shots", "draws"),
    )
    return run, predict_logits(model, test, config.batch, fabric)


def source_of(source: Source, config: FinetuneConfig) -> dict[str, Any]:
    """What a record says of the weights that training starts from."""
    if config.from_ == "scratch":
        return {"from": "scratch", "widths": source.name}
    return {"from": "run", "encoder": source.name, **budget_of(source.record)}


def facts(config: FinetuneConfig, source: Source, parts: Parts[Any]) -> dict[str, Any]:
    """What the record of any fine-tuned network says of its origin."""
    # Of an alignment, its encoders' clips too.
    records = [source.record, *source.record.get("encoders", {}).values()]
    seen = seen_in_training(parts.store, records, parts.test) if config.from_ == "run" else 0
    return {
        "name": config.name or f"{'fine-tuned' if config.from_ == 'run' else 'from scratch'} {source.name}",
        "data": parts.data(),
        "preprocessing": parts.recipe.to_dict(),
        "encoders": {source.name: budget_of(source.record)} if config.from_ == "run" else {},
        "test_clips_seen": seen,
    }


def budget(run: TrainingRun) -> dict[str, int]:
    """What a record says of how long a network was trained with labels."""
    steps = len(run.batches)
    return {"epochs": run.epoch, "steps": run.epoch * steps, "batch": run.batches.batch}
