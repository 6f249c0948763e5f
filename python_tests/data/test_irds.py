"""The reader of IntelliRehabDS."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from mutations import assert_refused, damaged, read_or_refuse

from asma_fast.data import FormatError, PrepareConfig, Store, prepare, read_clip
from asma_fast.data.clip import ClipInfo
from asma_fast.data.readers import reader

JOINTS = [
    "SpineBase", "SpineMid", "Neck", "Head", "ShoulderLeft", "ElbowLeft", "WristLeft", "HandLeft",
    "ShoulderRight", "ElbowRight", "WristRight", "HandRight", "HipLeft", "KneeLeft", "AnkleLeft", "FootLeft",
    "HipRight", "KneeRight", "AnkleRight", "FootRight", "SpineShoulder", "HandTipLeft", "ThumbLeft", "HandTipRight",
    "ThumbRight",
]  # fmt: skip
STATES = ("Tracked", "Inferred", "NotTracked")
RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(3, 25, 5)).round(6)
TRACKING = np.where(RNG.random((3, 25)) < 0.8, 0, RNG.integers(1, 3, size=(3, 25)))


def text(values: np.ndarray = VALUES, tracking: np.ndarray = TRACKING) -> str:
    lines = ["Version0.1"]
    for t, (frame, states) in enumerate(zip(values, tracking, strict=True)):
        joints = (
            f"({name},{STATES[state]},{','.join(map(str, joint.tolist()))})"
            for name, joint, state in zip(JOINTS, frame, states, strict=True)
        )
        lines.append(",".join([str(664 + t), "3", str(22566 + 33 * t), *joints]))
    return "".join(line + "\r\n" for line in lines)


def write(root: Path, content: str | bytes, name: str = "215_18_7_10_2_wheelchair.txt") -> Path:
    root.mkdir(exist_ok=True)
    path = root / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_genuine_files(recordings: Path) -> None:
    files = sorted((recordings / "irds").rglob("*.txt"))
    assert len(files) == 188
    for path in files[::5]:
        clip = read_clip(path, "irds")
        lines = path.read_text().splitlines()[1:]
        assert clip.frames.shape == (1, len(lines), 25, 3)
        for frame, line in list(zip(clip.frames[0], lines, strict=True))[::9]:
            tuples = re.findall(r"\((\w+),(\w+),([^,]+),([^,]+),([^,]+),[^,]+,[^,]+\)", line)
            assert [joint[0] for joint in tuples] == JOINTS
            assert "NotTracked" not in [joint[1] for joint in tuples]
            np.testing.assert_array_equal(frame, np.array([joint[2:] for joint in tuples], np.float64).astype("f4"))
        assert clip.missing is None
        assert (clip.name, clip.subject, clip.label) == (path.stem, int(path.stem[:3]), int(path.stem[7]))


def test_genuine_splits(recordings: Path, tmp_path: Path) -> None:
    report = prepare(PrepareConfig("irds", tmp_path / "out", recordings / "irds"))
    assert report.ok
    assert (report.clips, report.ignored) == (188, ())
    assert report.splits == {"subject215": (115, 73), "subject216": (134, 54), "subject217": (127, 61)}
    store = Store.open(tmp_path / "out")
    assert set(store.labels.tolist()) == set(range(9))
    assert set(store.subjects[store.split("subject216")[1]].tolist()) == {216}
    assert len(store.classes) == 9


def test_untracked_joints_are_missing(tmp_path: Path) -> None:
    clip = read_clip(write(tmp_path, text()), "irds")
    np.testing.assert_array_equal(clip.frames[0], VALUES[..., :3].astype(np.float32))
    assert clip.missing is not None
    np.testing.assert_array_equal(clip.missing[0], TRACKING == 2)
    assert (clip.label, clip.subject, clip.camera, clip.name) == (7, 215, None, "215_18_7_10_2_wheelchair")
    inferred = read_clip(write(tmp_path, text(tracking=TRACKING % 2)), "irds")
    assert inferred.missing is None


def test_places_in_the_image_may_be_infinite(tmp_path: Path) -> None:
    values = VALUES.copy()
    values[1, 3, 3:] = -np.inf, np.nan
    np.testing.assert_array_equal(
        read_clip(write(tmp_path, text(values)), "irds").frames[0], VALUES[..., :3].astype("f4")
    )


def test_other_names(tmp_path: Path) -> None:
    clip = read_clip(write(tmp_path, text(), "mine.txt"), "irds")
    assert (clip.label, clip.subject, clip.name) == (None, None, "mine")
    with pytest.raises(FormatError, match="a gesture from 0 to 8 in the file's name, found 9"):
        read_clip(write(tmp_path, text(), "215_18_9_1_1_stand.txt"), "irds")
    irds = reader("irds")
    assert irds.sided
    for name in ("101_18_0_1_3_stand-frame.txt", "301_5_8_12_1_chair.txt"):
        assert irds.matches(Path(name))


def test_one_subject_is_left_out() -> None:
    irds = reader("irds")
    clips = [ClipInfo(f"{n}", 0, n) for n in (7, 9, 9, 12)]
    classes, splits = irds.protocol(clips)
    assert len(classes) == 9
    assert list(splits) == ["subject7", "subject9", "subject12"]
    assert [splits["subject9"](clip) for clip in clips] == ["train", "test", "test", "train"]
    assert splits["subject9"](ClipInfo("mine")) is None
    assert irds.protocol(clips[:1])[1] == {}


def test_line_ends_and_byte_order_marks(tmp_path: Path) -> None:
    good = text()
    for variant in (good.replace("\r", ""), "\ufeff" + good, good.strip(), good + "\r\n \r\n"):
        clip = read_clip(write(tmp_path, variant), "irds")
        np.testing.assert_array_equal(clip.frames[0], VALUES[..., :3].astype(np.float32))


GOOD = text()


@pytest.mark.parametrize(
    ("content", "line", "wanted", "found"),
    [
        ("", 1, "a line of text", "an empty file"),
        ("Version0.1\n", 2, "a frame", "the end of the file"),
        (GOOD.replace("Version0.1\r\n", ""), 1, "a version", "'664,3,22566"),
        ("Version0.1 beta\n" + GOOD, 1, "a version", "beta"),
        (GOOD.replace("665,3,", "665,"), 3, "3 time stamps and 25 joints", "2 and 25"),
        (GOOD.replace("665,3,", "665,3,3,"), 3, "3 time stamps and 25 joints", "4 and 25"),
        (GOOD.replace("665,3,", "665,x,"), 3, "a number", "'x'"),
        (GOOD[: GOOD.rindex(",(")], 4, "3 time stamps and 25 joints", "3 and 24"),
        (GOOD[: GOOD.rindex(",")], 4, "(ThumbRight,Tracked|Inferred|NotTracked,x,y,z,u,v)", "'(ThumbRight,"),
        (GOOD.strip()[:-1], 4, "(ThumbRight,", "(ThumbRight,"),
        (GOOD.replace("(Neck,", "(Nick,", 1), 2, "(Neck,", "'(Nick,"),
        (GOOD.replace("(Head,Tracked", "(Head,tracked", 1), 2, "(Head,", "'(Head,tracked"),
        (GOOD + "\n" + GOOD, 5, "3 time stamps and 25 joints", "1 and 0"),
        (GOOD.replace(f",{VALUES[1, 3, 0]},", ",2e39,"), 3, "float32", "'2e39'"),
        (b"\x1f\x8b\x08\x00", None, "plain text", "gzip"),
    ],
)
def test_bad_files_are_told_by_file_and_line(
    tmp_path: Path, content: str | bytes, line: int | None, wanted: str, found: str
) -> None:
    path = write(tmp_path, content)
    assert_refused(lambda: read_clip(path, "irds"), path, line, wanted, found)


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    for clip in read_or_refuse(path, damaged(GOOD.encode()), lambda: read_clip(path, "irds"))[0]:
        assert (clip.frames.shape[0], *clip.frames.shape[2:], clip.frames.dtype) == (1, 25, 3, np.float32)
        assert clip.length <= 6
