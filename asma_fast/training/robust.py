"""Robustness: how much of its accuracy a network keeps when the test recordings get worse."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asma_fast._files import replacing
from asma_fast.training.configs_measure import RobustConfig
from asma_fast.training.dataset import Clips, open_data
from asma_fast.training.frozen import Frozen, extractor, load_frozen
from asma_fast.training.noise import Noise, noisy
from asma_fast.training.parts import labelled_parts
from asma_fast.training.pictures import png, robustness_figure
from asma_fast.training.probe import probe_features
from asma_fast.training.records import Floats, Scores, scores_of, warnings_of, write_record
from asma_fast.training.supervised import predict_logits


@dataclass(frozen=True)
class RobustResult(Scores):
    """What noise left: scores over all conditions together, whose accuracy is the mean over them.

    Parameters
    ----------
    clean
        Accuracy without noise.
    conditions
        Condition → accuracy.
    record
        All of it, as it is written to JSON.
    picture
        The curves.
    """

    clean: float
    conditions: dict[str, float]
    record: dict[str, Any]
    picture: Path

    def __str__(self) -> str:
        rows = {"clean": self.clean, **self.conditions, "mean under noise": self.accuracy}
        lines = [f"{name:<20} {100 * share:6.2f} %" for name, share in rows.items()]
        head = f"{self.record['name']}: {self.record['clips']['test']} test clips"
        return "\n".join([head, *lines, *warnings_of(self.record)])


def robust(config: RobustConfig) -> RobustResult:
    """Measures a network on test recordings with noise: its own head, where the checkpoint has one; else a probe that
    was fitted on the clean training clips. Writes one record, with logits ``(conditions, N, K)``, and the curves.

    Raises
    ------
    ValueError
        As :func:`asma_fast.training.probe` does; and if the store's clips were preprocessed already, or its layout does
        not know what a condition asks for.
    CheckpointError
        If a checkpoint is damaged, or of another skeleton, preprocessing, number of bodies or classes.
    """
    began = time.perf_counter()
    store, frozen = open_data(config), load_frozen(config)
    parts = labelled_parts(config, store, frozen.records, frozen.where)
    config = parts.config
    frozen.check(parts.train)
    tests = [parts.test, *(noisy(parts.test, Noise(name, config.seed)) for name in config.conditions)]
    own = frozen.classifier is not None and config.features == "encoder"
    logits, chosen = (_by_head if own else _by_probe)(config, frozen, parts.train, tests)
    labels, classes = parts.test.labels.numpy(), parts.store.classes
    shares = [scores_of(one, labels, classes).accuracy for one in logits]
    # As many clips under each condition: the score of all together is the mean over them.
    scores = scores_of(np.concatenate(logits[1:]), np.tile(labels, len(logits) - 1), classes)
    how = "own head" if own else f"probe, {config.method}"
    about = {
        "name": config.name or (frozen.named(config) if own else f"{frozen.named(config)} {config.method}"),
        "protocol": f"under noise, {how}",
        **frozen.about(config, parts),
        "chosen": chosen,
        "clean": shares[0],
        "conditions": dict(zip(config.conditions, shares[1:], strict=True)),
        "seconds": round(time.perf_counter() - began, 3),
    }
    record = write_record(
        config.out,
        "robust",
        scores,
        config,
        (parts.train, parts.test),
        about,
        logits=np.stack(logits[1:]),
        beside={"clean_logits": logits[0]},
    )
    picture = config.out.with_suffix(".png")
    with replacing(picture) as temporary:
        temporary.write_bytes(png(robustness_figure({record["name"]: record})))
    return RobustResult(**vars(scores), clean=shares[0], conditions=about["conditions"], record=record, picture=picture)


def _by_head(config: RobustConfig, frozen: Frozen, train: Clips, tests: list[Clips]) -> tuple[list[Floats], Any]:
    classifier = frozen.classifier_of(train.classes)
    return [predict_logits(classifier, clips, config.batch) for clips in tests], {}


def _by_probe(config: RobustConfig, frozen: Frozen, train: Clips, tests: list[Clips]) -> tuple[list[Floats], Any]:
    features = extractor(config, frozen, train)
    found = np.concatenate([features(clips) for clips in tests])
    asked = (found, np.tile(tests[0].labels.numpy(), len(tests)))
    result = probe_features(config, (features(train), train.labels.numpy()), asked, train.classes)
    return list(result.logits.reshape(len(tests), len(tests[0]), -1)), result.chosen
