"""NTU RGB+D 60 and 120 (Shahroudy et al., CVPR 2016; Liu et al., TPAMI 2020): raw ``.skeleton`` text, Kinect v2."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from asma_fast._backends import native
from asma_fast.data.bodies import BODIES, BODY_RULES, RecordedBodies, choose_bodies
from asma_fast.data.clip import Clip, ClipInfo, Part, SplitRule
from asma_fast.data.readers.base import Reader, split_by
from asma_fast.data.readers.text import plain_bytes

# The training subjects of NTU-120; those up to 40 are NTU-60's.
_TRAIN_SUBJECTS = frozenset(
    {1, 2, 4, 5, 8, 9, *range(13, 20), 25, 27, 28, 31, 34, 35, 38, 45, 46, 47, 49, 50, *range(52, 60)}
    | {70, 74, 78, *range(80, 87), 89, *range(91, 96), 97, 98, 100, 103}
)
_NTU60_CLASSES = 60


class Ntu(Reader):
    """``SsssCcccPpppRrrrAaaa.skeleton``: setup, camera, performer, replication, action.

    Joints that the sensor did not track are marked missing; those it inferred are not.
    """

    dataset = "ntu"
    skeleton = "ntu-rgb+d"
    bodies = BODIES
    body_rules = tuple(BODY_RULES)
    fps = 30.0
    pattern = re.compile(r"S(?P<setup>\d{3})C(?P<camera>\d{3})P(?P<subject>\d{3})R\d{3}A(?P<action>\d{3})\.skeleton")
    classes = (
        "drink water", "eat meal", "brush teeth", "brush hair", "drop", "pick up", "throw", "sit down", "stand up",
        "clapping", "reading", "writing", "tear up paper", "put on jacket", "take off jacket", "put on a shoe",
        "take off a shoe", "put on glasses", "take off glasses", "put on a hat or cap", "take off a hat or cap",
        "cheer up", "hand waving", "kicking something", "reach into pocket", "hopping", "jump up", "phone call",
        "play with phone or tablet", "type on a keyboard", "point to something", "taking a selfie",
        "check time on a watch", "rub two hands", "nod head or bow", "shake head", "wipe face", "salute",
        "put palms together", "cross hands in front", "sneeze or cough", "staggering", "falling down", "headache",
        "chest pain", "back pain", "neck pain", "nausea or vomiting", "fan self", "punch or slap",
        "kicking another person", "pushing another person", "pat on the back", "point at another person", "hugging",
        "giving an object", "touch another person's pocket", "shaking hands", "walking towards", "walking apart",
        "put on headphone", "take off headphone", "shoot at basket", "bounce ball", "tennis bat swing",
        "juggle table tennis ball", "hush", "flick hair", "thumb up", "thumb down", "make OK sign",
        "make victory sign", "staple book", "counting money", "cutting nails", "cutting paper", "snap fingers",
        "open bottle", "sniff or smell", "squat down", "toss a coin", "fold paper", "ball up paper", "play magic cube",
        "apply cream on face", "apply cream on hand", "put on bag", "take off bag", "put object into bag",
        "take object out of bag", "open a box", "move heavy objects", "shake fist", "throw up cap or hat",
        "capitulate", "cross arms", "arm circles", "arm swings", "run on the spot", "butt kicks", "cross toe touch",
        "side kick", "yawn", "stretch oneself", "blow nose", "hit with object", "wield knife", "knock over",
        "grab stuff", "shoot with gun", "step on foot", "high-five", "cheers and drink", "carry object",
        "take a photo", "follow", "whisper", "exchange things", "support somebody", "rock-paper-scissors",
    )  # fmt: skip
    splits = {"xsub": split_by("subject", _TRAIN_SUBJECTS), "xview": split_by("camera", {2, 3})}  # noqa: RUF012

    def read(self, path: Path, bodies: str) -> Clip:
        numbers = self.numbers(path)
        label = self.label_from_name(path, numbers.get("action"))
        recorded = RecordedBodies(path, *native().read_ntu_skeleton(plain_bytes(path), str(path)))
        frames, missing = choose_bodies(recorded, bodies)
        return Clip(
            frames,
            self.skeleton,
            label=label,
            subject=numbers.get("subject"),
            camera=numbers.get("camera"),
            name=path.stem,
            fps=self.fps,
            missing=missing if missing.any() else None,
        )

    def protocol(self, clips: Collection[ClipInfo]) -> tuple[tuple[str, ...], Mapping[str, SplitRule]]:
        """NTU-60's 60 classes, xsub and xview; with any later action, NTU-120's 120, xsub and xset."""
        if all(clip.label is None or clip.label < _NTU60_CLASSES for clip in clips):
            return self.classes[:_NTU60_CLASSES], self.splits
        return self.classes, {"xsub": self.splits["xsub"], "xset": _even_setups_train}


def _even_setups_train(clip: ClipInfo) -> Part:
    return "train" if int(clip.name[1:4]) % 2 == 0 else "test"
