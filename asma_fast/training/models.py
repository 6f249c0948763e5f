"""Networks out of checkpoints or untrained: what a record tells of a network, and the network again from that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asma_fast.config import build
from asma_fast.nn import STGCN, AlignedEncoders, Classifier, FeatureAlignment
from asma_fast.philox import derive_seed
from asma_fast.skeleton import Skeleton
from asma_fast.training.checkpoint import CheckpointError, load_checkpoint, restore
from asma_fast.training.configs import EncoderConfig
from asma_fast.training.dataset import Clips

Network = dict[str, Any]
# Where a checkpoint has its network, if what only the training needed is beside it: a projector, a map of features.
PLACES = {"pretrain": "model.encoder.", "distill": "model.network."}


def initial_seed(seed: int) -> int:
    """Seed of the initial weights of a run: all its encoders, and the untrained one beside them, start alike."""
    return derive_seed(seed, 0)


def build_encoder(
    config: EncoderConfig, skeleton: Skeleton, coordinates: int, seed: int, *, recompute: bool = False
) -> STGCN:
    """An untrained encoder; its weights depend on ``seed`` only, and torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return STGCN(
            skeleton,
            config.channels,
            strides=config.strides,
            in_channels=coordinates,
            dropout=config.dropout,
            bodies=config.pool,
            taps=config.taps,
            separable=config.separable,
            causal=config.causal,
            recompute=recompute,
        )


def encoder_network(config: EncoderConfig, skeleton: Skeleton, coordinates: int) -> Network:
    """What a record says of an encoder, under ``"network"``: enough to build it again."""
    shape = {name: getattr(config, name) for name in EncoderConfig.__dataclass_fields__}
    return {"kind": "encoder", **shape, "skeleton": asdict(skeleton), "coordinates": coordinates}


def classifier_network(encoder: Network, classes: int) -> Network:
    """What a record says of a classifier over that encoder."""
    return {"kind": "classifier", "encoder": encoder, "classes": classes}


def aligned_network(first: Network, second: Network, alignment: Mapping[str, Any], tokens: str) -> Network:
    """What a record says of two encoders and their alignment, whose options are those of ``nn.FeatureAlignment``."""
    weighs = tokens == "joint" and alignment["mode"] not in ("concat", "mean")
    options = {**alignment, "joints": len(first["skeleton"]["joints"]) if weighs else None}
    return {"kind": "aligned", "first": first, "second": second, "alignment": options, "tokens": tokens}


def with_dropout(network: Mapping[str, Any], dropout: float | None) -> Network:
    """A network, the dropout of its encoders replaced where one is named."""
    if dropout is None:
        return dict(network)
    if "dropout" in network:
        return {**network, "dropout": dropout}
    return {
        key: with_dropout(value, dropout) if key in ("first", "second") else value for key, value in network.items()
    }


def build_network(network: Mapping[str, Any], seed: int, *, recompute: bool = False) -> nn.Module:
    """An untrained network of what a record says under ``"network"``; weights depend on ``seed`` only.

    Raises
    ------
    ValueError
        If this release knows no such network.
    """
    kind = network.get("kind")
    if kind not in BUILDERS:
        raise ValueError(f"a network is one of {', '.join(BUILDERS)}; got {kind!r}")
    return BUILDERS[kind](network, seed, recompute)


def classifier_over(encoder: nn.Module, classes: int, seed: int) -> Classifier:
    """An encoder under a new head, whose weights depend on ``seed`` only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Classifier(encoder, classes)  # type: ignore[arg-type,unused-ignore]


def _encoder(network: Mapping[str, Any], seed: int, recompute: bool) -> STGCN:
    # What a record of an earlier release does not tell was then as it is by default.
    shape = {name: network[name] for name in EncoderConfig.__dataclass_fields__ if name in network}
    config = build(EncoderConfig, ("network", shape))
    return build_encoder(config, Skeleton(**network["skeleton"]), network["coordinates"], seed, recompute=recompute)


def _classifier(network: Mapping[str, Any], seed: int, recompute: bool) -> Classifier:
    encoder = build_network(network["encoder"], seed, recompute=recompute)
    return classifier_over(encoder, network["classes"], derive_seed(seed, 1))


def _aligned(network: Mapping[str, Any], seed: int, recompute: bool) -> AlignedEncoders:
    first, second = (
        _encoder(network["first"], seed, recompute),
        _encoder(network["second"], derive_seed(seed, 2), recompute),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, 3))
        alignment = FeatureAlignment((first.out_channels, second.out_channels), **network["alignment"])
    return AlignedEncoders(first, second, alignment, tokens=network["tokens"])


BUILDERS: dict[str, Callable[[Mapping[str, Any], int, bool], nn.Module]] = {
    "encoder": _encoder,
    "aligned": _aligned,
    "classifier": _classifier,
}


def recorded_network(path: Path, record: Mapping[str, Any]) -> Network:
    """The network of a checkpoint.

    Raises
    ------
    CheckpointError
        If the record tells of none.
    """
    network: Network | None = record.get("network")
    if network is None:
        raise CheckpointError(f"{path}: its record does not tell what network it holds")
    return network


def load_model(path: Path, *, recompute: bool = False) -> tuple[nn.Module, dict[str, Any]]:
    """The network of any checkpoint of ours, in eval mode, and the checkpoint's record.

    The encoder of a pretraining checkpoint, without its projector; else the classifier that was trained.

    Raises
    ------
    CheckpointError
        If the file is damaged, or holds no network of ours.
    """
    tensors, record = load_checkpoint(path)
    try:
        model = build_network(recorded_network(path, record), 0, recompute=recompute)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its record tells of no network that can be built: {error}") from error
    restore(path, model, tensors, PLACES.get(str(record.get("kind")), "model."))
    return model.eval(), record


def load_encoder(path: Path, *, recompute: bool = False) -> tuple[STGCN, dict[str, Any]]:
    """The encoder of a pretraining checkpoint, in eval mode, and the checkpoint's record.

    Raises
    ------
    CheckpointError
        If the file is damaged, or no pretraining checkpoint.
    """
    model, record = load_model(path, recompute=recompute)
    if record.get("kind") != "pretrain" or not isinstance(model, STGCN):
        raise CheckpointError(f"{path}: is no pretraining checkpoint")
    return model, record


def encoder_files(run: Path, named: tuple[str, ...] = ()) -> list[Path]:
    """Checkpoints of the encoders of a pretraining run; all of them, or those named.

    Raises
    ------
    CheckpointError
        If there are none.
    ValueError
        If one that is named is not there.
    """
    known = sorted(path.stem for path in run.glob("*.safetensors"))
    if not known:
        raise CheckpointError(f"{run}: holds no encoders; `asma-fast pretrain --out {run}` makes them")
    for name in named:
        if name not in known:
            raise ValueError(f"encoders must be among {', '.join(known)}, those in {run}; got {name!r}")
    return [run / f"{name}.safetensors" for name in named or known]


def described(clips: Clips) -> dict[str, Any]:
    """What a checkpoint's record says of the clips it was trained on."""
    return {
        "coordinates": clips.x.shape[1],
        "bodies": clips.x.shape[4],
        "skeleton": asdict(clips.skeleton),
        "preprocessing": clips.preprocessing.to_dict(),
        "fingerprint": clips.fingerprint,
        "store": clips.store,
        "stream": clips.stream,
        "classes": list(clips.classes),
    }


def check_fits(path: Path, record: dict[str, Any], clips: Clips, *, bodies: bool = True) -> None:
    """A network's clips were like these; with ``bodies=False``, but for the number of bodies.

    Raises
    ------
    CheckpointError
        If skeleton, preprocessing, stream or the number of bodies differ.
    """
    if record["skeleton"]["name"] != clips.skeleton.name or len(record["skeleton"]["joints"]) != len(clips.skeleton):
        raise CheckpointError(
            f"{path}: was trained on skeleton {record['skeleton']['name']}, the store has {clips.skeleton.name}; "
            "--layout maps one layout to another, where a map is known"
        )
    if record["preprocessing"] != clips.preprocessing.to_dict():
        raise CheckpointError(
            f"{path}: was trained on clips preprocessed by {record['preprocessing']}, "
            f"these were by {clips.preprocessing.to_dict()}"
        )
    stream = record.get("stream", "joint")
    if stream != clips.stream:
        raise CheckpointError(f"{path}: was trained on the {stream} stream, these clips are of the {clips.stream} one")
    if bodies and record["bodies"] != clips.x.shape[4]:
        raise CheckpointError(f"{path}: was trained on {record['bodies']} bodies a clip, these have {clips.x.shape[4]}")
