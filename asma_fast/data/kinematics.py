"""People who move: joint angles over time, bones turned by them, and the actions of the synthetic data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Joints of NTU RGB+D's layout, parents before children, with the bone from the parent in metres for a person of 1.75 m
# who stands upright: x to the right, y up, −z ahead (towards the camera).
_BONES: tuple[tuple[int, int, tuple[float, float, float]], ...] = (
    (1, 0, (0, 0.30, 0)), (20, 1, (0, 0.22, 0)), (2, 20, (0, 0.07, 0)), (3, 2, (0, 0.15, -0.02)),
    (4, 20, (-0.17, -0.03, 0)), (5, 4, (0, -0.28, 0)), (6, 5, (0, -0.25, 0)), (7, 6, (0, -0.07, 0)),
    (21, 7, (0, -0.08, 0)), (22, 7, (0.03, -0.04, -0.03)),
    (8, 20, (0.17, -0.03, 0)), (9, 8, (0, -0.28, 0)), (10, 9, (0, -0.25, 0)), (11, 10, (0, -0.07, 0)),
    (23, 11, (0, -0.08, 0)), (24, 11, (-0.03, -0.04, -0.03)),
    (12, 0, (-0.09, -0.04, 0)), (13, 12, (0, -0.41, 0)), (14, 13, (0, -0.40, 0)), (15, 14, (0, -0.06, -0.13)),
    (16, 0, (0.09, -0.04, 0)), (17, 16, (0, -0.41, 0)), (18, 17, (0, -0.40, 0)), (19, 18, (0, -0.06, -0.13)),
)  # fmt: skip
JOINTS = 25
ARMS, LEGS = (4, 5, 6, 7, 8, 9, 10, 11, 21, 22, 23, 24), (12, 13, 14, 15, 16, 17, 18, 19)
_FEET, ENDS = (14, 15, 18, 19), (6, 7, 10, 11, 14, 15, 18, 19, 21, 22, 23, 24)
LIMBS = ((5, 6, 7, 21, 22), (9, 10, 11, 23, 24), (13, 14, 15), (17, 18, 19))
_RIGHT, _LEFT = 1.0, -1.0
FPS = 30.0


class Traits(NamedTuple):
    """What stays with a subject."""

    bones: Floats  # (V,) factor of each bone's length
    tempo: float
    amplitude: float
    stoop: float  # degrees
    arms_apart: float  # degrees


class Body:
    """Angles in degrees of one person over T frames, and where the body goes; posed by the actions."""

    def __init__(self, frames: int, traits: Traits, rng: np.random.Generator) -> None:
        self.traits = traits
        self.angles = np.zeros((frames, JOINTS, 3))
        self.lift = np.zeros(frames)
        self.ahead = np.zeros(frames)
        t = np.arange(frames)[:, None, None] / FPS
        shape = (1, JOINTS, 3)
        for slow in (0.3, 0.9):
            sway = rng.normal(0, 1.5, shape) * np.sin(2 * np.pi * (slow * t + rng.random(shape)))
            self.angles[:, [0, 1, 20, 2, 4, 5, 8, 9]] += sway[:, [0, 1, 20, 2, 4, 5, 8, 9]]
        self.trunk(bend=traits.stoop)
        for side in (_LEFT, _RIGHT):
            self.arm(side, aside=traits.arms_apart, elbow=12.0)

    def arm(
        self,
        side: float,
        *,
        forward: Floats | float = 0.0,
        aside: Floats | float = 0.0,
        elbow: Floats | float = 0.0,
        elbow_aside: Floats | float = 0.0,
    ) -> None:
        shoulder = 8 if side == _RIGHT else 4
        self.angles[:, shoulder, 0] += forward
        self.angles[:, shoulder, 2] += side * np.asarray(aside)
        self.angles[:, shoulder + 1, 0] += elbow
        self.angles[:, shoulder + 1, 2] += side * np.asarray(elbow_aside)

    def leg(self, side: float, *, forward: Floats | float = 0.0, knee: Floats | float = 0.0) -> None:
        hip = 16 if side == _RIGHT else 12
        self.angles[:, hip, 0] += forward
        self.angles[:, hip + 1, 0] -= knee
        self.angles[:, hip + 2, 0] += np.asarray(knee) - forward

    def trunk(self, *, bend: Floats | float = 0.0, turn: Floats | float = 0.0) -> None:
        for joint, share in ((0, 0.5), (1, 0.3), (20, 0.2)):
            self.angles[:, joint, 0] -= share * np.asarray(bend)
            self.angles[:, joint, 1] += share * np.asarray(turn)
        for hip in (12, 16):  # the legs stay where they are
            self.angles[:, hip, 0] += 0.5 * np.asarray(bend)

    def joints(self) -> Floats:
        """(T, V, 3) metres, the lower foot on the ground unless the body is lifted."""
        local = rotations(np.deg2rad(self.angles))
        turned, place = local.copy(), np.zeros((*self.angles.shape[:2], 3))
        for joint, parent, bone in _BONES:
            length = np.asarray(bone) * self.traits.bones[joint]
            place[:, joint] = place[:, parent] + turned[:, parent] @ length
            turned[:, joint] = turned[:, parent] @ local[:, joint]
        place[..., 1] += (self.lift - place[:, _FEET, 1].min(axis=1))[:, None]
        place[..., 2] -= self.ahead[:, None]
        return place


class Timing(NamedTuple):
    """When a clip's action happens, and how."""

    t: Floats  # (T,) seconds
    start: float
    end: float
    rate: float  # cycles a second
    phase: float  # cycles
    amplitude: float

    def envelope(self, ease: float = 0.35) -> Floats:
        """0 before the action and after it, 1 during it."""
        return _smooth((self.t - self.start) / ease) * _smooth((self.end - self.t) / ease)

    def wave(self, shift: float = 0.0) -> Floats:
        """−1…1, at the action's own rate."""
        return np.sin(2 * np.pi * (self.rate * (self.t - self.start) + self.phase + shift))

    def once(self, begin: float, length: float) -> Floats:
        """0…1 within a part of the action, in shares of its duration."""
        duration = self.end - self.start
        return _smooth((self.t - self.start - begin * duration) / (length * duration))


def _wave_hand(side: float) -> Callable[[Body, Timing], None]:
    def act(body: Body, when: Timing) -> None:
        up = when.envelope() * when.amplitude
        swing = 28 * when.wave() * when.envelope()
        body.arm(side, aside=72 * up, elbow_aside=75 * up + swing)

    return act


def _raise_hand(body: Body, when: Timing) -> None:
    up = when.envelope() * when.amplitude
    body.arm(_RIGHT, aside=72 * up, elbow_aside=75 * up)


def _clap(body: Body, when: Timing) -> None:
    up = when.envelope()
    for side in (_LEFT, _RIGHT):
        body.arm(side, forward=48 * up, elbow=52 * up, aside=-up * (6 + 15 * when.amplitude * when.wave()))


def _punch(body: Body, when: Timing) -> None:
    up = when.envelope()
    out = up * np.maximum(when.wave(), 0) ** 2 * when.amplitude
    body.arm(_LEFT, forward=40 * up, elbow=85 * up)
    body.arm(_RIGHT, forward=40 * up + 42 * out, elbow=85 * up - 90 * out)
    body.trunk(turn=22 * out)


def _throw(body: Body, when: Timing) -> None:
    back, swing, down = when.once(0, 0.45), when.once(0.5, 0.2), when.once(0.75, 0.25)
    body.arm(
        _RIGHT,
        aside=72 * back * (1 - swing),
        elbow_aside=75 * back * (1 - swing),
        forward=75 * swing * (1 - down) * when.amplitude,
    )
    body.trunk(turn=-18 * back + 40 * swing - 22 * down, bend=14 * swing * (1 - down))


def _kick(body: Body, when: Timing) -> None:
    up, out = when.once(0, 0.4), when.once(0.4, 0.2)
    back = 1 - when.once(0.65, 0.35)
    body.leg(_RIGHT, forward=(-18 * up + 85 * out * when.amplitude) * back, knee=(70 * up - 62 * out) * back)
    body.leg(_LEFT, forward=8 * up * back, knee=16 * up * back)
    body.trunk(bend=-10 * out * back)


def _squat(body: Body, when: Timing) -> None:
    down = when.envelope(0.6) * when.amplitude * (0.8 + 0.2 * when.wave())
    for side in (_LEFT, _RIGHT):
        body.leg(side, forward=62 * down, knee=95 * down)
        body.arm(side, forward=55 * down)
    body.trunk(bend=24 * down)


def _jump(body: Body, when: Timing) -> None:
    cycle = np.mod(when.rate * 0.8 * np.maximum(when.t - when.start, 0), 1)
    on = when.envelope(0.2)
    crouch = on * np.exp(-(((cycle - 0.35) / 0.14) ** 2)) * when.amplitude
    flight = np.clip((cycle - 0.5) / 0.4, 0, 1)
    for side in (_LEFT, _RIGHT):
        body.leg(side, forward=58 * crouch, knee=90 * crouch)
        body.arm(side, forward=-25 * crouch + 60 * on * np.sin(np.pi * flight))
    body.trunk(bend=22 * crouch)
    body.lift += 4 * 0.22 * when.amplitude * on * flight * (1 - flight)


def _walk(body: Body, when: Timing) -> None:
    on = when.envelope()
    for side, shift in ((_LEFT, 0.0), (_RIGHT, 0.5)):
        swing = on * when.wave(shift) * when.amplitude
        body.leg(side, forward=26 * swing, knee=on * (14 + 26 * np.maximum(when.wave(shift - 0.2), 0)))
        body.arm(side, forward=-20 * swing, elbow=8 * on)
    body.ahead += np.cumsum(on) / FPS * 0.8 * when.rate * when.amplitude


def _bow(body: Body, when: Timing) -> None:
    down = when.envelope(0.7) * when.amplitude
    body.trunk(bend=58 * down)
    for side in (_LEFT, _RIGHT):
        body.arm(side, forward=35 * down)


def _shake_hands(body: Body, when: Timing) -> None:
    up = when.envelope()
    body.arm(_RIGHT, forward=38 * up + 7 * up * when.wave() * when.amplitude, elbow=44 * up)
    body.trunk(bend=6 * up)


ACTIONS: tuple[tuple[str, Callable[[Body, Timing], None]], ...] = (
    ("wave left hand", _wave_hand(_LEFT)),
    ("wave right hand", _wave_hand(_RIGHT)),
    ("raise right hand", _raise_hand),
    ("clap", _clap),
    ("punch", _punch),
    ("throw", _throw),
    ("kick", _kick),
    ("squat", _squat),
    ("jump", _jump),
    ("walk", _walk),
    ("bow", _bow),
    ("shake hands", _shake_hands),
)
TOGETHER = frozenset({"shake hands"})


def _smooth(x: Floats) -> Floats:
    """0 up to 0, 1 from 1, and a smooth step between."""
    x = np.clip(x, 0.0, 1.0)
    eased: Floats = x * x * (3 - 2 * x)
    return eased


def rotations(angles: Floats) -> Floats:
    """Rz · Rx · Ry of angles (…, 3) in radians about x, y, z → (…, 3, 3)."""
    (cx, cy, cz), (sx, sy, sz) = np.moveaxis(np.cos(angles), -1, 0), np.moveaxis(np.sin(angles), -1, 0)
    rows = (
        (cz * cy - sz * sx * sy, -sz * cx, cz * sy + sz * sx * cy),
        (sz * cy + cz * sx * sy, cz * cx, sz * sy - cz * sx * cy),
        (-cx * sy, sx, cx * cy),
    )
    matrices: Floats = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
    return matrices
