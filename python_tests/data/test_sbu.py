"""The reader of SBU Kinect Interaction."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mutations import assert_refused, damaged, read_or_refuse

from asma_fast.data import FormatError, PrepareConfig, Store, prepare, read_clip
from asma_fast.data.clip import ClipInfo
from asma_fast.data.readers import reader

VALUES = np.random.default_rng(0).uniform(0.1, 1.9, size=(3, 2, 15, 3)).round(5)


def text(values: np.ndarray, first: int = 180) -> str:
    rows = values.reshape(len(values), -1)
    return "".join(f"{first + t}," + ",".join(map(str, row.tolist())) + "\r\n" for t, row in enumerate(rows))


def expected(values: np.ndarray) -> np.ndarray:
    u, v, w = np.moveaxis(values, -1, 0)
    points = np.stack([1280 - 2560 * u, 960 - 1920 * v, 1280 * w], axis=-1)
    return points.transpose(1, 0, 2, 3).astype(np.float32)


def write(root: Path, content: str | bytes, name: str = "s01s02/03/004") -> Path:
    path = root / name / "skeleton_pos.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_genuine_files(recordings: Path) -> None:
    files = sorted((recordings / "sbu").rglob("skeleton_pos.txt"))
    clips = [read_clip(path, "sbu") for path in files]
    assert len(clips) == len({clip.name for clip in clips}) == 282
    assert {clip.label for clip in clips} == set(range(8))
    assert len({clip.subject for clip in clips}) == 21
    for path, clip in zip(files, clips, strict=True):
        raw = np.loadtxt(path, delimiter=",")[:, 1:].reshape(-1, 2, 15, 3)
        np.testing.assert_array_equal(clip.frames, expected(raw))
        assert clip.missing is None
    heights = np.concatenate([clip.frames[..., 1].reshape(-1, 15) for clip in clips])
    assert len(heights) == 13_644
    assert (heights[:, 0] > heights[:, [11, 14]].mean(axis=1)).sum() == 13_640


def test_genuine_folds(recordings: Path, tmp_path: Path) -> None:
    report = prepare(PrepareConfig("sbu", tmp_path / "out", recordings / "sbu"))
    assert report.ok
    sizes = (55, 52, 56, 54, 65)
    assert report.splits == {f"fold{fold}": (282 - size, size) for fold, size in enumerate(sizes, 1)}
    store = Store.open(tmp_path / "out")
    tested = np.concatenate([store.split(f"fold{fold}")[1] for fold in range(1, 6)])
    assert sorted(tested.tolist()) == list(range(282))
    assert {store.names[index][:6] for index in store.split("fold4")[1]} == {"s02s01", "s02s06", "s03s02", "s03s06"}


def test_names_tell_pair_class_and_take(tmp_path: Path) -> None:
    clip = read_clip(write(tmp_path, text(VALUES)), "sbu")
    assert (clip.name, clip.label, clip.subject, clip.camera) == ("s01s02/03/004", 2, 102, None)
    np.testing.assert_array_equal(clip.frames, expected(VALUES))
    mine = tmp_path / "mine.txt"
    mine.write_text(text(VALUES))
    clip = read_clip(mine, "sbu")
    assert (clip.name, clip.label, clip.subject) == ("mine", None, None)


def test_unknown_pairs_are_in_no_fold() -> None:
    splits = reader("sbu").splits
    parts = [rule(ClipInfo("s01s02/01/001", 0, 102)) for rule in splits.values()]
    assert Counter(parts) == {"test": 1, "train": 4}
    assert {rule(ClipInfo("s08s09/01/001", 0, 809)) for rule in splits.values()} == {None}
    assert {rule(ClipInfo("mine")) for rule in splits.values()} == {None}


def test_clips_are_excluded_by_name(tmp_path: Path) -> None:
    for name in ("s01s02/01/001", "s01s02/01/002", "s06s04/08/001"):
        write(tmp_path / "raw", text(VALUES), name)
    (tmp_path / "raw/s01s02/notes.txt").write_text("?")
    (tmp_path / "list.txt").write_text("s01s02/01/002\n")
    config = PrepareConfig("sbu", tmp_path / "out", tmp_path / "raw", exclude=tmp_path / "list.txt")
    report = prepare(config)
    assert report.excluded == ("s01s02/01/002/skeleton_pos.txt",)
    assert report.ignored == ("s01s02/notes.txt",)
    assert Store.open(tmp_path / "out").names == ("s01s02/01/001", "s06s04/08/001")


def test_absent_bodies_are_zeros(tmp_path: Path) -> None:
    values = VALUES.copy()
    values[1, 1] = 0
    frames = read_clip(write(tmp_path, text(values)), "sbu").frames
    assert not frames[1, 1].any()
    np.testing.assert_array_equal(frames[0], expected(values)[0])
    np.testing.assert_array_equal(frames[1, ::2], expected(values)[1, ::2])


def test_line_ends_and_byte_order_marks(tmp_path: Path) -> None:
    good = text(VALUES)
    for variant in (good.replace("\r", ""), "\ufeff" + good, good.strip(), good + "\r\n", good.replace(",", " , ")):
        np.testing.assert_array_equal(read_clip(write(tmp_path, variant), "sbu").frames, expected(VALUES))


GOOD = text(VALUES)
LINES = GOOD.splitlines()


@pytest.mark.parametrize(
    ("content", "line", "wanted", "found"),
    [
        ("", 1, "a line of text", "an empty file"),
        (LINES[0] + ",", 1, "91 numbers", "92"),
        (LINES[0] + "\n1,2,3\n", 2, "91 numbers", "3"),
        (LINES[0] + "\n\n" + LINES[1], 2, "91 numbers", "1"),
        (GOOD.replace("\n181,", "\nx,"), 2, "a number", "'x'"),
        (LINES[0] + "\n181," + "1e36," * 89 + "1e36", 2, "float32", "-2.56e+39"),
        (LINES[0] + "\n181," + "1e39," * 89 + "1", 2, "float32", "'1e39'"),
        (b"\x1f\x8b\x08\x00", None, "plain text", "gzip"),
    ],
)
def test_bad_files_are_told_by_file_and_line(
    tmp_path: Path, content: str | bytes, line: int | None, wanted: str, found: str
) -> None:
    path = write(tmp_path, content)
    assert_refused(lambda: read_clip(path, "sbu"), path, line, wanted, found)


def test_action_beyond_the_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="an action from 1 to 8"):
        read_clip(write(tmp_path, GOOD, "s01s02/09/001"), "sbu")


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    for clip in read_or_refuse(path, damaged(GOOD.encode()), lambda: read_clip(path, "sbu"))[0]:
        assert (clip.frames.shape[0], *clip.frames.shape[2:], clip.frames.dtype) == (2, 15, 3, np.float32)
        assert clip.length <= 6
