"""Teachers of a distillation: classifiers of one stream or several, and what they say of clips, each asked once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from asma_fast.nn import Classifier, inference_parameters
from asma_fast.philox import derive_seed
from asma_fast.training.augment import Augmentation
from asma_fast.training.checkpoint import CheckpointError, load_checkpoint, tensor_digest
from asma_fast.training.configs import AugmentConfig
from asma_fast.training.configs_distill import DistillConfig
from asma_fast.training.configs_measure import STREAM_WEIGHTS
from asma_fast.training.dataset import Batch, Clips, load_clips
from asma_fast.training.loop import VIEWS
from asma_fast.training.models import check_fits, load_model
from asma_fast.training.parts import Parts
from asma_fast.training.records import Floats
from asma_fast.training.supervised import predict_logits
from asma_fast.view import View


@dataclass(frozen=True, eq=False)
class Teacher:
    """A classifier that teaches.

    Parameters
    ----------
    path
        Where it comes from.
    model
        In eval mode.
    record
        Of its checkpoint.
    """

    path: Path
    model: Classifier
    record: Mapping[str, Any]

    @staticmethod
    def load(path: Path) -> Teacher:
        """The classifier of a checkpoint.

        Raises
        ------
        CheckpointError
            If the file is damaged, or its network gives no logits.
        """
        model, record = load_model(path)
        if not isinstance(model, Classifier):
            raise CheckpointError(
                f"{path}: this checkpoint of `asma-fast {record.get('kind')}` gives no logits; `asma-fast align` or "
                "`finetune` makes a teacher of it"
            )
        return Teacher(path, model, record)

    @property
    def stream(self) -> Any:
        """That it reads."""
        return self.record.get("stream", "joint")

    @property
    def classes(self) -> tuple[str, ...]:
        """Of its logits."""
        return tuple(self.record["classes"])


@dataclass(frozen=True, eq=False)
class Teachers:
    """One teacher, or several whose raw logits are added up.

    Parameters
    ----------
    members
        Of the same classes.
    weights
        Of their logits.
    """

    members: tuple[Teacher, ...]
    weights: tuple[float, ...]

    @staticmethod
    def of(members: Sequence[Teacher], weights: Sequence[float] = ()) -> Teachers:
        """Teachers of the same classes; weights by default 1 of one, and AimCLR's by their streams of several.

        Raises
        ------
        ValueError
            If there is none, or their classes differ.
        """
        if not members:
            raise ValueError("name a teacher's checkpoint with --teacher; `asma-fast align` or `finetune` makes one")
        for member in members[1:]:
            if member.classes != members[0].classes:
                raise ValueError(
                    f"teachers must name the same classes: {members[0].path} has {len(members[0].classes)}, "
                    f"{member.path} {_difference(members[0].classes, member.classes)}"
                )
        chosen = weights or ([1.0] if len(members) == 1 else [STREAM_WEIGHTS[member.stream] for member in members])
        return Teachers(tuple(members), tuple(chosen))

    @property
    def classes(self) -> tuple[str, ...]:
        """Of their logits."""
        return self.members[0].classes

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of weights and networks."""
        digests = [tensor_digest(*member.model.state_dict().values()) for member in self.members]
        return hashlib.sha256(json.dumps([digests, list(self.weights)]).encode()).hexdigest()

    @property
    def name(self) -> str:
        """For tables."""
        return "+".join(dict.fromkeys(f"{member.path.stem} ({member.stream})" for member in self.members))

    @property
    def width(self) -> int:
        """Of the features of all of them, joined."""
        return sum(member.model.encoder.out_channels for member in self.members)

    @property
    def parameters(self) -> int:
        """As exported, of one stream's teacher, of several the smallest: what a student's share is taken of."""
        return min(inference_parameters(member.model) for member in self.members)

    def to(self, device: Any) -> Teachers:
        """The same teachers, there; for good in eval mode and without gradients."""
        for member in self.members:
            member.model.to(device).eval().requires_grad_(False)
        return self

    def told(self) -> dict[str, Any]:
        """What a record says of them."""
        return {
            "name": self.name,
            "files": [str(member.path) for member in self.members],
            "kinds": [member.record.get("kind") for member in self.members],
            "streams": [member.stream for member in self.members],
            "weights": list(self.weights),
            "fingerprint": self.fingerprint,
            "parameters": self.parameters,
        }


def _difference(one: Sequence[str], other: Sequence[str]) -> str:
    if len(one) != len(other):
        return f"has {len(other)}"
    place = next(place for place in range(len(one)) if one[place] != other[place])
    return f"calls class {place} {other[place]!r}, not {one[place]!r}"


def clips_by_stream(teachers: Teachers, parts: Parts[Any], clips: Clips) -> dict[str, Clips]:
    """The clips that a student reads, as each of its teachers reads them.

    Raises
    ------
    CheckpointError
        If a teacher was trained on clips that were prepared in another way.
    """
    config, found = parts.config, {str(clips.stream): clips}
    for member in teachers.members:
        if member.stream not in found:
            found[member.stream] = load_clips(
                parts.store,
                clips.ids.numpy(),
                parts.recipe,
                parts.bodies,
                layout=config.layout,
                stream=member.stream,
                memory=config.memory,
            )
        check_fits(member.path, dict(member.record), found[member.stream])
    return found


@dataclass(frozen=True)
class ViewSet:
    """How clips are seen: as they are, or one augmented view of each.

    Parameters
    ----------
    augmentation
        None: the clips as they are.
    seed
        Of the views.
    """

    augmentation: Augmentation | None = None
    seed: int = 0

    def __call__(self, batch: Batch) -> View:
        """Of a batch's clips."""
        assert self.augmentation is not None
        return self.augmentation.view(batch.x.shape[2], seed=self.seed, ids=batch.ids)

    def key(self) -> Any:
        """All that decides the views, besides the clips."""
        if self.augmentation is None:
            return None
        config = self.augmentation.config
        options = {name: getattr(config, name) for name in AugmentConfig.__dataclass_fields__}
        return [self.seed, {**options, "flip": self.augmentation.flip}]


def view_sets(config: DistillConfig, clips: Clips) -> tuple[ViewSet, ...]:
    """Those that teacher and student see: ``config.views`` augmented ones by the seed, or the clips as they are."""
    if config.views == 0:
        return (ViewSet(),)
    augmentation = Augmentation(config, clips.skeleton, clips.sided)
    return tuple(ViewSet(augmentation, derive_seed(config.seed, VIEWS, number)) for number in range(config.views))


@dataclass
class Answers:
    """What teachers say of clips, a view set at a time, each asked for once.

    Parameters
    ----------
    teachers, batch, fabric
        Who is asked, of how many clips at a time, and over which processes.
    features
        Whether their features are wanted too.
    cache
        Fingerprint of teachers, clips and views → answer ``(N, K + D)``; may be shared by several distillations.
    """

    teachers: Teachers
    batch: int = 128
    fabric: Any = None
    features: bool = False
    cache: MutableMapping[str, Floats] = field(default_factory=dict)

    def key(self, clips: Mapping[str, Clips], views: ViewSet) -> str:
        """Fingerprint of an answer."""
        prints = {stream: part.fingerprint for stream, part in clips.items()}
        streams = {member.stream: prints[member.stream] for member in self.teachers.members}
        told = [self.teachers.fingerprint, streams, views.key(), self.features]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def __call__(self, clips: Mapping[str, Clips], views: ViewSet | None = None) -> Floats:
        """``(N, K)``: the weighted sum of logits; where features are wanted, these behind it, joined: ``(N, K + D)``.

        Parameters
        ----------
        clips
            Stream → the same clips.
        """
        views = views or ViewSet()
        key = self.key(clips, views)
        if key not in self.cache:
            self.cache[key] = self._asked(clips, views)
        return self.cache[key]

    def _asked(self, clips: Mapping[str, Clips], views: ViewSet) -> Floats:
        view: Callable[[Batch], View] | None = None if views.augmentation is None else views
        count, summed, features = len(self.teachers.classes), 0.0, []
        for member, weight in zip(self.teachers.members, self.teachers.weights, strict=True):
            model = _WithFeatures(member.model) if self.features else member.model
            given = predict_logits(model, clips[member.stream], self.batch, self.fabric, view=view)
            summed = summed + np.float32(weight) * given[:, :count]
            features.append(given[:, count:])
        return np.concatenate([summed, *features], axis=1)


class Word:
    """What the teachers say of training clips, by view set and clip, on a device."""

    def __init__(self, asked: Answers, seen: Mapping[str, Clips], train: Clips) -> None:
        self.asked, self.seen = asked, seen
        self.order = train.ids.argsort()
        self.ids = train.ids[self.order]
        self.tables: dict[int, Tensor] = {}

    def ask(self, number: int, views: ViewSet, device: Any) -> None:
        """Has the answer for a view set at hand."""
        self.ids = self.ids.to(device)
        self.tables[number] = torch.from_numpy(self.asked(self.seen, views))[self.order].to(device)

    def __call__(self, number: int, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and features of clips."""
        rows = self.tables[number][torch.searchsorted(self.ids, ids)]
        classes = len(self.asked.teachers.classes)
        return rows[:, :classes], rows[:, classes:]


class _WithFeatures(nn.Module):
    """A classifier's logits, its features behind them."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip: Tensor, view: View | None = None) -> Tensor:
        features = self.model.encoder(clip, view)
        return torch.cat([self.model.head(features), features], dim=1)


def check_taught(path: Path, kind: str, fingerprint: str | None, how: str) -> None:
    """A checkpoint of that kind that is found was taught by the same, or by none as well; ``how`` tells of its own.

    Raises
    ------
    CheckpointError
        If not.
    """
    if not path.exists():
        return
    record = load_checkpoint(path)[1]
    if record.get("kind") == kind and (record.get("teacher") or {}).get("fingerprint") != fingerprint:
        raise CheckpointError(f"{path}: {how} another teacher; choose another --out")
