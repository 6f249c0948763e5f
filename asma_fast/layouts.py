"""The joint layouts that come with the package. Sources: the data sets' and pose estimators' own documentation."""

from __future__ import annotations

from asma_fast.skeleton import Skeleton


def _one_based(text: str) -> tuple[tuple[int, int], ...]:
    """Edges from ``"2-1 3-2"``, joints counted from 1 as the data sets' documents do."""
    pairs = (edge.split("-") for edge in text.split())
    return tuple((int(a) - 1, int(b) - 1) for a, b in pairs)


def _sides(joints: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Pairs of joints whose names differ in ``left`` and ``right`` only."""
    return tuple(
        (index, joints.index(name.replace("left", "right"))) for index, name in enumerate(joints) if "left" in name
    )


_NTU = (
    "spine base", "spine mid", "neck", "head",
    "left shoulder", "left elbow", "left wrist", "left hand",
    "right shoulder", "right elbow", "right wrist", "right hand",
    "left hip", "left knee", "left ankle", "left foot",
    "right hip", "right knee", "right ankle", "right foot",
    "spine shoulder", "left hand tip", "left thumb", "right hand tip", "right thumb",
)  # fmt: skip
_LIMBS = (
    "left shoulder", "left elbow", "left wrist", "left hand",
    "right shoulder", "right elbow", "right wrist", "right hand",
    "left hip", "left knee", "left ankle", "left foot",
    "right hip", "right knee", "right ankle", "right foot",
)  # fmt: skip
_KINECT_V1 = ("hip centre", "spine", "shoulder centre", "head", *_LIMBS)
_UTD_MHAD = ("head", "shoulder centre", "spine", "hip centre", *_LIMBS)
_FIFTEEN = (
    "head", "neck", "torso",
    "left shoulder", "left elbow", "left hand", "right shoulder", "right elbow", "right hand",
    "left hip", "left knee", "left foot", "right hip", "right knee", "right foot",
)  # fmt: skip
_COCO = (
    "nose", "left eye", "right eye", "left ear", "right ear",
    "left shoulder", "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist",
    "left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle",
)  # fmt: skip
_OPENPOSE = (
    "nose", "neck",
    "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist",
    "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle",
    "right eye", "left eye", "right ear", "left ear",
)  # fmt: skip
_MEDIAPIPE = (
    "nose", "left eye inner", "left eye", "left eye outer", "right eye inner", "right eye", "right eye outer",
    "left ear", "right ear", "left mouth", "right mouth",
    "left shoulder", "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist",
    "left pinky", "right pinky", "left index", "right index", "left thumb", "right thumb",
    "left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle",
    "left heel", "right heel", "left foot index", "right foot index",
)  # fmt: skip

_NTU_EDGES = _one_based(
    "1-2 2-21 3-21 4-3 5-21 6-5 7-6 8-7 9-21 10-9 11-10 12-11 13-1 14-13 15-14 16-15 17-1 18-17 19-18 20-19 "
    "22-23 23-8 24-25 25-12"
)
_FIFTEEN_EDGES = _one_based("1-2 2-3 4-2 5-4 6-5 7-2 8-7 9-8 10-3 11-10 12-11 13-3 14-13 15-14")

_ALL = (
    Skeleton(
        name="ntu-rgb+d", joints=_NTU, edges=_NTU_EDGES, centre=(20,), shoulders=((4,), (8,)), pairs=_sides(_NTU),
        units="metres",
    ),
    Skeleton(
        name="ntu-rgb+d-pyskl", joints=_NTU, centre=(20,), shoulders=((4,), (8,)), pairs=_sides(_NTU), units="metres",
        edges=_one_based(
            "1-2 2-21 3-21 4-3 5-21 6-5 7-6 8-7 9-21 10-9 11-10 12-11 13-1 14-13 15-14 16-15 17-1 18-17 19-18 20-19 "
            "22-8 23-8 24-12 25-12"
        ),
    ),
    Skeleton(
        name="kinect-v1", joints=_KINECT_V1, centre=(1,), shoulders=((4,), (8,)), pairs=_sides(_KINECT_V1),
        units="metres",
        edges=_one_based(
            "2-1 3-2 4-3 5-3 6-5 7-6 8-7 9-3 10-9 11-10 12-11 13-1 14-13 15-14 16-15 17-1 18-17 19-18 20-19"
        ),
    ),
    Skeleton(
        name="utd-mhad", joints=_UTD_MHAD, centre=(2,), shoulders=((4,), (8,)), pairs=_sides(_UTD_MHAD), units="metres",
        edges=_one_based(
            "1-2 2-3 3-4 5-2 6-5 7-6 8-7 9-2 10-9 11-10 12-11 13-4 14-13 15-14 16-15 17-4 18-17 19-18 20-19"
        ),
    ),
    Skeleton(
        name="sbu", joints=_FIFTEEN, edges=_FIFTEEN_EDGES, centre=(2,), shoulders=((3,), (6,)), pairs=_sides(_FIFTEEN),
        units="millimetres",
    ),
    Skeleton(
        name="common-15", joints=_FIFTEEN, edges=_FIFTEEN_EDGES, centre=(2,), shoulders=((3,), (6,)),
        pairs=_sides(_FIFTEEN), units="metres",
    ),
    Skeleton(
        name="coco", joints=_COCO, centre=(11, 12), shoulders=((5,), (6,)), pairs=_sides(_COCO), units="pixels",
        up="-y", dimensions=2,
        edges=_one_based("16-14 14-12 17-15 15-13 12-13 6-12 7-13 6-7 8-6 9-7 10-8 11-9 2-3 2-1 3-1 4-2 5-3 4-6 5-7"),
    ),
    Skeleton(
        name="openpose", joints=_OPENPOSE, centre=(1,), shoulders=((5,), (2,)), pairs=_sides(_OPENPOSE),
        units="pixels", up="-y", dimensions=2,
        edges=_one_based("5-4 4-3 8-7 7-6 14-13 13-12 11-10 10-9 12-6 9-3 6-2 3-2 1-2 15-1 16-1 17-15 18-16"),
    ),
    Skeleton(
        name="mediapipe", joints=_MEDIAPIPE, centre=(23, 24), shoulders=((11,), (12,)), pairs=_sides(_MEDIAPIPE),
        units="metres", up="-y",
        # MediaPipe draws the face apart from the body; the last four edges join nose, mouth and shoulders.
        edges=(
            (0, 1), (1, 2), (2, 3), (3, 7), (0, 4), (4, 5), (5, 6), (6, 8), (9, 10),
            (11, 12), (11, 13), (13, 15), (15, 17), (15, 19), (15, 21), (17, 19),
            (12, 14), (14, 16), (16, 18), (16, 20), (16, 22), (18, 20),
            (11, 23), (12, 24), (23, 24), (23, 25), (24, 26), (25, 27), (26, 28), (27, 29), (28, 30),
            (29, 31), (30, 32), (27, 31), (28, 32), (0, 9), (0, 10), (9, 11), (10, 12),
        ),
    ),
)  # fmt: skip

LAYOUTS: dict[str, Skeleton] = {layout.name: layout for layout in _ALL}
