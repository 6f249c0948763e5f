"""Transfer: what was pretrained on one data set, fine-tuned and measured on another."""

from __future__ import annotations

from typing import Any

from asma_fast.training.configs_supervised import FinetuneConfig, TransferConfig
from asma_fast.training.finetune import FinetuneResult, Source, all_labels, facts, prepared
from asma_fast.training.launch import launched, sole
from asma_fast.training.parts import Parts
from asma_fast.training.semi import SemiResult, few_labels, settings_of


def transfer(config: TransferConfig) -> FinetuneResult | SemiResult:
    """Fine-tunes each encoder of a run on the store of another data set: on all its labels, or on few.

    The store's clips are prepared by the run's recipe; where their joint layout is another than the encoders', they
    are mapped to it first (:mod:`asma_fast.data.layout_maps`). They keep their own number of bodies. Files as
    :func:`asma_fast.training.finetune` and :func:`asma_fast.training.semi` leave them.

    Raises
    ------
    ValueError
        As fine-tuning does, and if no map leads from the store's joint layout to the encoders'; tells which there are.
    CheckpointError, TrainingError
        As fine-tuning does.
    """
    with launched(config) as fabric:
        ready, sources, parts = prepared(config, foreign=True)
        if settings_of(config):
            return few_labels(ready, sources, parts, fabric, "transfer", _facts)
        with sole(ready.out, fabric):
            protocol = "transfer" if ready.freeze == "none" else "transfer, head alone"
            return all_labels(ready, sources, parts, fabric, "transfer", protocol, _facts)


def _facts(config: FinetuneConfig, source: Source, parts: Parts[Any]) -> dict[str, Any]:
    """What a record says, both sides by name: where the network was pretrained, and where it was fine-tuned."""
    about, record = facts(config, source, parts), source.record
    data = record["config"]["data"]
    pretrained = {
        "data": data,
        "split": record["config"]["split"],
        "store": record["store"],
        "layout": record["skeleton"]["name"],
        "bodies": record["bodies"],
    }
    target = {
        "data": str(config.data),
        "dataset": parts.store.dataset,
        "split": parts.split,
        "store": parts.store.fingerprint,
        "layout": parts.store.skeleton.name,
        "bodies": parts.bodies,
    }
    if config.from_ == "run":
        about["name"] = config.name or f"transferred {source.name}"
    return {**about, "pretrained_on": pretrained, "transferred_to": target}
