"""Labelled clips made by forward kinematics: the data set that comes with the package.

A camera sees people act (:mod:`asma_fast.data.kinematics`) from its side, with the noise and the losses of a depth
sensor. Several actions pass through the same poses (a raised hand and a waving one, the crouch of a jump and a squat),
so that a still picture does not tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from asma_fast.data.clip import Clip
from asma_fast.data.kinematics import (
    ACTIONS,
    ARMS,
    ENDS,
    FPS,
    JOINTS,
    LEGS,
    LIMBS,
    TOGETHER,
    Body,
    Floats,
    Timing,
    Traits,
    rotations,
)
from asma_fast.data.readers.base import DataSet, split_by


@dataclass(frozen=True)
class Synthetic(DataSet):
    """The generated data set: 12 actions on ``ntu-rgb+d``, two bodies in the last, three cameras.

    Subjects differ in the lengths of their limbs, posture, tempo and amplitude; clips in length, in when and how often
    the action happens, in viewpoint, noise, joints lost to occlusion and bodies lost for some frames. Every clip
    depends on the arguments and its index alone.

    Parameters
    ----------
    clips_per_class
        Clips of each action.
    subjects
        Number of subjects; at least 2, for a cross-subject split.
    seed
        From 0.

    Raises
    ------
    ValueError
        If a count or the seed is too small.

    Examples
    --------
    >>> clip = Synthetic(seed=3).clip(0)
    >>> clip.frames.shape[0], clip.frames.shape[2:], clip.label
    (2, (25, 3), 0)
    """

    clips_per_class: int = 36
    subjects: int = 10
    seed: int = 0

    dataset = "synthetic"
    skeleton = "ntu-rgb+d"
    bodies = 2
    fps = FPS
    sided = True
    classes = tuple(name for name, _ in ACTIONS)
    splits = {  # noqa: RUF012
        "xsub": split_by("subject", range(1, 1_000_000, 2)),
        "xview": split_by("camera", {1, 2}),
    }

    def __post_init__(self) -> None:
        for field, least in (("clips_per_class", 1), ("subjects", 2), ("seed", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} must be at least {least}, got {getattr(self, field)}")

    def __len__(self) -> int:
        return self.clips_per_class * len(self.classes)

    def __iter__(self) -> Iterator[Clip]:
        return (self.clip(index) for index in range(len(self)))

    @property
    def names(self) -> tuple[str, ...]:
        """Clip names by index."""
        return tuple(self._name(index) for index in range(len(self)))

    def _facts(self, index: int) -> tuple[int, int, int, int]:
        """Action, repetition, subject and camera (from 0) of a clip."""
        repetition, action = divmod(index, len(self.classes))
        return action, repetition, repetition % self.subjects, (repetition + repetition // self.subjects) % 3

    def _name(self, index: int) -> str:
        action, repetition, subject, camera = self._facts(index)
        return f"a{action + 1:02}_s{subject + 1:03}_c{camera + 1}_r{repetition + 1:04}"

    def clip(self, index: int) -> Clip:
        """The clip of that index, from 0.

        Raises
        ------
        IndexError
            If there is none.
        """
        index = range(len(self))[index]
        action, _, subject, camera = self._facts(index)
        rng = _generator(self.seed, 2, index)
        traits = _traits(self.seed, subject)
        frame_count = int(rng.integers(45, 95))
        people = [_perform(action, traits, frame_count, rng)]
        if self.classes[action] in TOGETHER:
            partner = _traits(self.seed, self.subjects + subject)
            people.append(_opposite(_perform(action, partner, frame_count, rng), rng))
        seen = _record(_view(np.stack(people), camera, rng), rng)
        frames = np.zeros((self.bodies, *seen.shape[1:]), np.float32)
        frames[: len(seen)] = seen
        return Clip(
            frames,
            self.skeleton,
            label=action,
            subject=subject + 1,
            camera=camera + 1,
            name=self._name(index),
            fps=self.fps,
        )


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def _traits(seed: int, subject: int) -> Traits:
    rng = _generator(seed, 1, subject)
    bones = np.full(JOINTS, rng.uniform(0.86, 1.12))
    for group in (ARMS, LEGS):
        bones[list(group)] *= rng.uniform(0.92, 1.08)
    return Traits(bones, rng.uniform(0.75, 1.3), rng.uniform(0.75, 1.2), rng.uniform(-2, 10), rng.uniform(4, 16))


def _perform(action: int, traits: Traits, frames: int, rng: np.random.Generator) -> Floats:
    """One person's joints (T, V, 3), on the spot, facing −z but for a slight turn."""
    body = Body(frames, traits, rng)
    t = np.arange(frames) / FPS
    start = rng.uniform(0.0, 0.3) * t[-1]
    duration = rng.uniform(0.55, 0.7) * t[-1]
    amplitude = traits.amplitude * rng.uniform(0.85, 1.15)
    rate = 1.6 * traits.tempo * rng.uniform(0.85, 1.15)
    ACTIONS[action][1](body, Timing(t, start, start + duration, rate, rng.random(), amplitude))
    joints: Floats = body.joints() @ rotations(np.deg2rad([0, rng.uniform(-15, 15), 0])).T
    return joints


def _opposite(joints: Floats, rng: np.random.Generator) -> Floats:
    """Turned about and set face to face."""
    opposite: Floats = joints * (-1, 1, -1) + (rng.uniform(-0.1, 0.1), 0, -rng.uniform(0.85, 1.1))
    return opposite


def _view(joints: Floats, camera: int, rng: np.random.Generator) -> Floats:
    """What the camera of that number sees: (M, T, V, 3) in its own coordinates."""
    pitch, yaw = rng.uniform(-9, 3), (-45, 0, 45)[camera] + rng.uniform(-25, 25)
    turn = rotations(np.deg2rad([pitch, 0, 0])) @ rotations(np.deg2rad([0, yaw, 0]))
    place = (rng.uniform(-0.5, 0.5), rng.uniform(-1.2, -0.7), rng.uniform(2.4, 4.0))
    seen: Floats = joints @ turn.T + place
    return seen


def _record(joints: Floats, rng: np.random.Generator) -> Floats:
    """A sensor's reading of (M, T, V, 3): jitter, joints stuck while hidden, bodies lost for some frames."""
    bodies, frames = joints.shape[:2]
    seen: Floats = joints.copy()
    jitter = np.full(JOINTS, rng.uniform(0.003, 0.012))
    jitter[list(ENDS)] *= 2
    for body in range(bodies):
        for limb in rng.permutation(len(LIMBS))[: rng.integers(0, 3)]:
            start, length = int(rng.integers(1, frames)), int(rng.integers(3, 12))
            hidden = seen[body, start : start + length]
            hidden[:, list(LIMBS[limb])] = seen[body, start - 1, list(LIMBS[limb])]
    seen += rng.normal(size=seen.shape) * jitter[:, None]
    for body in range(bodies):
        if rng.random() < (0.12 if body == 0 else 0.4):
            start, length = int(rng.integers(0, frames - 12)), int(rng.integers(1, 5 if body == 0 else 12))
            seen[body, start : start + length] = 0
    return seen
