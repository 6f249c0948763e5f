"""The reader of PKU-MMD: sequences, labels and the lists of its protocols."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
from mutations import assert_refused, damaged, read_or_refuse

from asma_fast.data import FormatError, PrepareConfig, PrepareReport, Store, prepare, read_clip
from asma_fast.data.clip import ClipInfo
from asma_fast.data.readers import reader
from asma_fast.data.readers.base import asked_splits, listed
from asma_fast.data.readers.pku_mmd import PkuMmd


def numbers(frames: int, seed: int = 0) -> np.ndarray:
    """Frames (T, 2, 25, 3) of two bodies, the second absent from the first half."""
    values = np.random.default_rng(seed).normal(size=(frames, 2, 25, 3)).round(6)
    values[: frames // 2, 1] = 0
    return values


def text(values: np.ndarray) -> str:
    return "".join(" ".join(f"{x:.6f}" for x in row) + "\n" for row in values.reshape(len(values), -1))


def expected(values: np.ndarray) -> np.ndarray:
    return values.transpose(1, 0, 2, 3).astype(np.float32)


SEQUENCES = {"0001-L": 60, "0001-M": 400, "0001-R": 30, "A01N13-M": 40}
LABELS = {
    "0001-L": "51,31,60,2\n1,2,30,1\n",
    "0001-M": "7,51,355,1\r\n8,1,50,0\r\n9,356,400,2\r\n",
    "0001-R": "\ufeff3,30,30,1\n",
    "A01N13-M": "20, 1, 40, 1.5\n\n",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four sequences of both parts in ``raw``, their labels in ``labels``."""
    (tmp_path / "raw/part2").mkdir(parents=True)
    (tmp_path / "labels").mkdir()
    for seed, (name, frames) in enumerate(SEQUENCES.items()):
        folder = tmp_path / "raw" / ("part2" if name.startswith("A") else ".")
        (folder / f"{name}.txt").write_text(text(numbers(frames, seed)))
        (tmp_path / "labels" / f"{name}.txt").write_text(LABELS[name], newline="")
    (tmp_path / "raw/cross-view.txt").write_text("Training videos:\n")
    return tmp_path / "raw"


def config(source: Path, **changes: object) -> PrepareConfig:
    usual = {"dataset": "pku-mmd", "source": source, "labels": source.parent / "labels"}
    return PrepareConfig(**{**usual, "out": source.parent / "out", **changes})  # type: ignore[arg-type]


def prepared(source: Path, **changes: object) -> tuple[PrepareReport, Store]:
    report = prepare(config(source, **changes))
    return report, Store.open(source.parent / "out")


def test_genuine_sequence(recordings: Path) -> None:
    path = recordings / "pku-mmd/A10N08-L.txt"
    clip = read_clip(path, "pku-mmd")
    np.testing.assert_array_equal(clip.frames, expected(np.loadtxt(path).reshape(-1, 2, 25, 3)))
    assert (clip.length, clip.label, clip.subject, clip.camera, clip.name) == (1040, None, None, 1, "A10N08-L")
    head, feet = clip.frames[0, :, 3, 1], clip.frames[0, :, [15, 19], 1]
    assert (head > feet).mean() > 0.95
    absent = ~clip.frames[1].any(axis=(1, 2))
    assert 0 < absent.sum() < 1040


def test_labels_cut_sequences_into_clips(source: Path) -> None:
    report, store = prepared(source)
    assert report.ok
    assert report.ignored == ("cross-view.txt",)
    assert store.names == (
        "0001-L#000", "0001-L#001", "0001-M#000", "0001-M#001", "0001-M#002", "0001-R#000", "A01N13-M#000",
    )  # fmt: skip
    assert store.labels.tolist() == [50, 0, 6, 7, 8, 2, 19]
    assert store.cameras.tolist() == [1, 1, 2, 2, 2, 3, 2]
    assert len(store.classes) == len(set(store.classes)) == 51
    # 51 to 355 is 305 frames: the middle 300 begin at frame 53 of 1, 52 of 0.
    parts = [(0, 30, 60), (0, 1, 30), (1, 52, 352), (1, 0, 50), (1, 355, 400), (2, 29, 30), (3, 0, 40)]
    lengths = list(SEQUENCES.values())
    for index, (sequence, start, stop) in enumerate(parts):
        values = numbers(lengths[sequence], sequence)[start:stop]
        np.testing.assert_array_equal(store[index].frames, expected(values))
    assert report.splits == {"xview": (5, 2)}
    assert [store.names[i] for i in store.split("xview")[1]] == ["0001-L#000", "0001-L#001"]


def test_whole_sequences_carry_a_class_for_each_frame(source: Path) -> None:
    report, store = prepared(source, cut=False)
    assert (report.ok, report.clips, store.names) == (True, 4, ("0001-L", "0001-M", "0001-R", "A01N13-M"))
    first, second, third, _ = (store[index] for index in range(4))
    assert first.frame_labels is not None
    assert first.frame_labels.tolist() == [-1] + [0] * 29 + [50] * 30
    assert second.frame_labels is not None
    assert second.frame_labels.tolist() == [7] * 50 + [6] * 305 + [8] * 45
    assert third.frame_labels is not None
    assert third.frame_labels.tolist() == [-1] * 29 + [2]
    assert first.label is None
    np.testing.assert_array_equal(second.frames, expected(numbers(400, 1)))


def test_whole_sequences_do_without_labels(source: Path) -> None:
    report, store = prepared(source, cut=False, labels=None)
    assert (report.ok, report.clips) == (True, 4)
    assert store[0].frame_labels is None


def test_cutting_asks_for_a_folder_of_labels(source: Path) -> None:
    with pytest.raises(ValueError, match="labels must be the folder of the label files, got None"):
        prepare(config(source, labels=None))
    with pytest.raises(ValueError, match=r"labels must be the folder of PKU-MMD's label files, got .*0001-L.txt"):
        prepare(config(source, labels=source / "0001-L.txt"))
    with pytest.raises(ValueError, match="labels and source must be two folders"):
        prepare(config(source, labels=source))


@pytest.mark.parametrize("inside", ["labels", "sequences"])
def test_one_folder_may_lie_in_the_other(source: Path, inside: str) -> None:
    labels = source.parent / "labels"
    if inside == "labels":
        labels = labels.rename(source / "Label")
        report, store = prepared(source, labels=labels)
    else:
        source = source.rename(labels / "raw")
        report = prepare(config(source, labels=labels, out=labels / "out"))
        store = Store.open(labels / "out")
    assert report.ok
    assert (len(store), report.excluded) == (7, ())


def test_excluded_sequences_leave_their_labels_alone(source: Path) -> None:
    names = source.parent / "without.txt"
    names.write_text("0001-M.txt\nA01N13-M\n")
    report, store = prepared(source, exclude=names)
    assert report.ok
    assert report.excluded == ("0001-M.txt", "part2/A01N13-M.txt")
    assert set(store.names) == {"0001-L#000", "0001-L#001", "0001-R#000"}


def test_sequences_and_labels_must_meet(source: Path) -> None:
    (source.parent / "labels/0001-L.txt").unlink()
    (source / "0001-R.txt").unlink()
    report, store = prepared(source)
    assert {failure.file for failure in report.failures} == {"0001-L.txt", "labels/0001-R"}
    lonely_sequence, lonely_labels = (failure.reason for failure in report.failures)
    assert "raw/0001-L.txt: expected a label file" in lonely_sequence
    assert "labels/0001-R.txt: expected a sequence of that name" in lonely_labels
    assert len(store) == 4


def test_two_label_files_of_a_sequence_are_refused(source: Path) -> None:
    more = source.parent / "labels/more"
    more.mkdir()
    (more / "0001-L.txt").write_text("1,1,2,1\n")
    with pytest.raises(ValueError, match="one file a sequence"):
        prepare(config(source))


@pytest.mark.parametrize(
    ("content", "line", "wanted", "found"),
    [
        ("", 1, "a line of text", "an empty file"),
        ("1,1,5,1\n\n2,6,9,1\n", 2, "action,start,end,confidence", "''"),
        ("1,1,5\n", 1, "action,start,end,confidence", "'1,1,5'"),
        ("1,1,5,1,1\n", 1, "action,start,end,confidence", "1,1,5,1,1"),
        ("1 1 5 1\n", 1, "action,start,end,confidence", "1 1 5 1"),
        ("1,1,5,1\n0,6,9,1\n", 2, "an action from 1 to 51", "'0'"),
        ("52,6,9,1\n", 1, "an action from 1 to 51", "'52'"),
        ("1.0,6,9,1\n", 1, "an action from 1 to 51", "'1.0'"),
        ("1_0,6,9,1\n", 1, "an action from 1 to 51", "'1_0'"),
        ("1,0,9,1\n", 1, "a first frame from 1 to 60", "'0'"),
        ("1,-3,9,1\n", 1, "a first frame from 1 to 60", "'-3'"),
        ("1,61,62,1\n", 1, "a first frame from 1 to 60", "'61'"),
        ("1,9,8,1\n", 1, "a last frame from 9 to 60", "'8'"),
        ("1,9,61,1\n", 1, "a last frame from 9 to 60", "'61'"),
        ("1,9," + "9" * 5000 + ",1\n", 1, "a last frame from 9 to 60", "999…"),
        ("1,9,10,high\n", 1, "a confidence", "'high'"),
        ("1,9,20,1\n2,1,9,1\n", 2, "do not overlap", "frames 1 to 9, which line 1 has too"),
        ("1,1,60,1\n2,1,60,1\n", 2, "do not overlap", "frames 1 to 60, which line 1 has too"),
        ("1,40,60,1\n3,1,5,1\n2,5,7,1\n", 3, "do not overlap", "frames 5 to 7, which line 2 has too"),
    ],
)
@pytest.mark.parametrize("cut", [True, False])
def test_bad_labels_are_told_by_file_and_line(
    source: Path, content: str, line: int, wanted: str, found: str, cut: bool
) -> None:
    path = source.parent / "labels/0001-L.txt"
    path.write_text(content)
    pku = reader("pku-mmd")
    jobs = {job.source: job for job in pku.plan(config(source, cut=cut)).jobs}
    assert_refused(jobs["0001-L.txt"].clips, path, line, wanted, found)


def test_jobs_can_be_sent_to_other_processes_and_notice_changes(source: Path) -> None:
    before = reader("pku-mmd").plan(config(source)).jobs
    again = pickle.loads(pickle.dumps(before))
    assert [clip.name for clip in again[0].clips()] == ["0001-L#000", "0001-L#001"]
    (source.parent / "labels/0001-L.txt").write_text("1,1,2,1\n")
    after = reader("pku-mmd").plan(config(source)).jobs
    assert [old.token == new.token for old, new in zip(before, after, strict=True)] == [False, True, True, True]
    whole = reader("pku-mmd").plan(config(source, cut=False)).jobs
    assert not {job.token for job in whole} & {job.token for job in after}


GOOD = text(numbers(3))
LINES = GOOD.splitlines()


@pytest.mark.parametrize(
    ("content", "line", "wanted", "found"),
    [
        (b"", 1, "a line of text", "an empty file"),
        (b"\n \n", 1, "a line of text", "an empty file"),
        (LINES[0].rpartition(" ")[0].encode(), 1, "150 numbers", "149"),
        (f"{LINES[0]} 0\n".encode(), 1, "150 numbers", "151"),
        (f"{LINES[0]}\n\n{LINES[1]}\n".encode(), 2, "150 numbers", "0"),
        (f"{LINES[0]}\n1e39{LINES[1][9:]}\n".encode(), 2, "float32", "'1e39"),
        (f"{LINES[0]}\nx {LINES[1].partition(' ')[2]}\n".encode(), 2, "a number", "'x'"),
        (f"1_0 {LINES[1].partition(' ')[2]}\n".encode(), 1, "a number", "'1_0'"),
        (f"1e999 {LINES[1].partition(' ')[2]}\n".encode(), 1, "float32", "'1e999'"),
        (GOOD.encode("utf-16"), None, "UTF-8", "UTF-16"),
    ],
)
def test_bad_sequences_are_told_by_file_and_line(
    tmp_path: Path, content: bytes, line: int | None, wanted: str, found: str
) -> None:
    path = tmp_path / "0001-L.txt"
    path.write_bytes(content)
    assert_refused(lambda: read_clip(path, "pku-mmd"), path, line, wanted, found)


def test_compressed_sequences_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "0001-L.txt"
    path.write_bytes(gzip.compress(GOOD.encode()))
    with pytest.raises(FormatError, match="expected plain text, found a file compressed by gzip"):
        read_clip(path, "pku-mmd")


def test_line_ends_and_byte_order_marks(tmp_path: Path) -> None:
    path = tmp_path / "any name.txt"
    for variant in (GOOD.replace("\n", "\r\n"), "\ufeff" + GOOD, GOOD.rstrip("\n"), GOOD + "\n \n", " " + GOOD):
        path.write_bytes(variant.encode())
        clip = read_clip(path, "pku-mmd")
        np.testing.assert_array_equal(clip.frames, expected(numbers(3)))
        assert (clip.camera, clip.name) == (None, "any name")


def test_spelt_out_infinities_and_nan_stay(tmp_path: Path) -> None:
    path = tmp_path / "0001-L.txt"
    path.write_text("nan -inf Infinity " + LINES[0].split(" ", 3)[3])
    joint = read_clip(path, "pku-mmd").frames[0, 0, 0]
    np.testing.assert_array_equal(joint, np.array([np.nan, -np.inf, np.inf], np.float32))


def test_mutated_sequences_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "0001-L.txt"
    for clip in read_or_refuse(path, damaged(GOOD.encode()), lambda: read_clip(path, "pku-mmd"))[0]:
        assert (clip.frames.shape[0], *clip.frames.shape[2:], clip.frames.dtype) == (2, 25, 3, np.float32)
        assert clip.length <= 6


def test_mutated_labels_are_read_or_refused(source: Path) -> None:
    path = source.parent / "labels/0001-L.txt"
    pku = PkuMmd()
    original = b"5,1,10,2\n7,12,30,1\n51,31,60,2\n"
    for segments in read_or_refuse(path, damaged(original), lambda: pku.segments(path, 60))[0]:
        used = [frame for segment in segments for frame in range(segment.start, segment.stop)]
        assert len(used) == len(set(used)) > 0
        assert set(used) <= set(range(60))
        assert all(0 <= segment.label < 51 for segment in segments)


OFFICIAL = "Training videos: \n0001-M, 0001-R, A01N13-M\n\nValidataion videos: \n0001-L, 0002-L\n"


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (OFFICIAL, {"0001-M", "0001-R", "A01N13-M"}),
        ("\ufeff" + OFFICIAL.replace("\n", "\r\n"), {"0001-M", "0001-R", "A01N13-M"}),
        ("Validation videos: 0001-L,\nTRAINING VIDEOS: 0001-M\n0001-R,", {"0001-M", "0001-R"}),
        ("0001-M\n\n  0001-R.txt \n", {"0001-M", "0001-R.txt"}),
        ("training-001\n", {"training-001"}),
        ("0001-M, 0001-R\n", {"0001-M, 0001-R", "0001-M", "0001-R"}),
    ],
)
def test_lists_of_names(tmp_path: Path, content: str, names: set[str]) -> None:
    path = tmp_path / "cross-subject.txt"
    path.write_bytes(content.encode())
    found = listed(path)
    assert names <= found
    assert {name for name in found if "," not in name} <= names


def test_lists_without_training_names_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("Validataion videos:\n0001-L\n")
    with pytest.raises(
        ValueError, match=r"list.txt: expected a head like 'Training videos:', found Validataion videos"
    ):
        listed(path)


def test_official_lists_split(source: Path) -> None:
    path = source.parent / "cross-subject.txt"
    path.write_text(OFFICIAL)
    report, store = prepared(source, split=f"list:{path}")
    assert report.splits == {"xview": (5, 2), "cross-subject": (5, 2)}
    assert [store.names[i] for i in store.split("cross-subject")[1]] == ["0001-L#000", "0001-L#001"]
    (rule,) = asked_splits(f"list:{path}").values()
    assert [rule(ClipInfo(name)) for name in ("A01N13-M", "0001-R#012", "0009-R#000")] == ["train", "train", "test"]
