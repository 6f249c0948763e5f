"""The reader of PRECOG: continuous sequences with a class on every frame."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from mutations import assert_refused, damaged, read_or_refuse

from asma_fast.data import PrepareConfig, PrepareReport, Store, prepare, read_clip
from asma_fast.data.readers import reader

HEADER = (
    "HipCenter; Spine; ShoulderCenter; Head; ShoulderLeft; ElbowLeft; WristLeft; HandLeft; ShoulderRight; ElbowRight; "
    "WristRight; HandRight; HipLeft; KneeLeft; AnkleLeft; FootLeft; HipRight; KneeRight; AnkleRight; FootRight"
)
LABELS = [0, 0, 1, 1, 1, 0, 8, 8, 2, 2]


def numbers(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(LABELS), 20, 3)).round(6)


def text(values: np.ndarray, labels: list[int] = LABELS) -> str:
    lines = [HEADER]
    for frame, label in zip(values, labels, strict=True):
        lines.append(";".join([*(" ".join(map(str, joint.tolist())) for joint in frame), str(label)]))
    return "\n".join(lines)


def expected(values: np.ndarray) -> np.ndarray:
    return values[None].astype(np.float32)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A sequence of each of persons 1, 8, 9 and 12."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for person in (1, 8, 9, 12):
        (folder / f"Seq3_{person}.csv").write_text(text(numbers(person)))
    return folder


def prepared(source: Path, out: Path, **changes: object) -> tuple[PrepareReport, Store]:
    report = prepare(PrepareConfig("precog", out, source, **changes))  # type: ignore[arg-type]
    return report, Store.open(out)


def test_genuine_files(recordings: Path) -> None:
    files = sorted((recordings / "precog").glob("*.csv"))
    assert len(files) == 72
    frames, lengths, classes, empty = 0, [], set(), []
    for path in files:
        clip = read_clip(path, "precog")
        cells = [line.split(";") for line in path.read_text().splitlines()[1:]]
        raw = np.array([[joint.split() for joint in row[:20]] for row in cells], np.float64)
        np.testing.assert_array_equal(clip.frames, expected(raw))
        assert clip.frame_labels is not None
        assert clip.frame_labels.tolist() == [int(row[20]) for row in cells]
        assert (clip.label, clip.subject) == (None, int(path.stem.partition("_")[2]))
        frames += clip.length
        lengths.append(clip.length)
        classes |= set(clip.frame_labels.tolist())
        if not clip.frames.any():
            empty.append(clip.name)
    assert (frames, min(lengths), max(lengths)) == (19_219, 142, 504)
    assert classes == set(range(9))
    assert empty == ["Seq2_10", "Seq4_10"]


@pytest.mark.parametrize("cut", [True, False])
def test_genuine_split(recordings: Path, tmp_path: Path, cut: bool) -> None:
    report, store = prepared(recordings / "precog", tmp_path / "out", cut=cut)
    # Two recordings are zeros from beginning to end.
    for failure, name, frames in zip(report.failures, ("Seq2_10.csv", "Seq4_10.csv"), (206, 229), strict=True):
        reason = f"expected a body in some frame, found none in {frames} frames"
        assert failure.file == name
        assert reason in failure.reason
    assert report.splits == {"xsub": (482, 238) if cut else (48, 22)}
    assert set(store.subjects[store.split("xsub")[1]].tolist()) == {9, 10, 11, 12}
    assert (store.frame_labels is None) == cut
    if cut:
        actions = store.labels > 0
        assert (actions.sum(), set(store.labels.tolist())) == (363 - 10, set(range(9)))


def test_cut_makes_a_clip_of_each_run(source: Path, tmp_path: Path) -> None:
    report, store = prepared(source, tmp_path / "out")
    assert report.ok
    assert report.splits == {"xsub": (10, 10)}
    runs = [(0, 2), (2, 5), (5, 6), (6, 8), (8, 10)]
    first = [index for index, name in enumerate(store.names) if name.startswith("Seq3_9#")]
    assert [store.names[index] for index in first] == [f"Seq3_9#{number:03}" for number in range(5)]
    for index, (start, stop) in zip(first, runs, strict=True):
        np.testing.assert_array_equal(store[index].frames, expected(numbers(9)[start:stop]))
        assert store[index].label == LABELS[start]
        assert store[index].subject == 9
    assert store.classes[0] == "none"


def test_whole_sequences_carry_a_class_for_each_frame(source: Path, tmp_path: Path) -> None:
    report, store = prepared(source, tmp_path / "out", cut=False)
    assert report.splits == {"xsub": (2, 2)}
    assert store.names == ("Seq3_1", "Seq3_12", "Seq3_8", "Seq3_9")
    clip = store[0]
    assert clip.frame_labels is not None
    assert (clip.label, clip.frame_labels.tolist()) == (None, LABELS)
    np.testing.assert_array_equal(clip.frames, expected(numbers(1)))


def test_jobs_can_be_sent_to_other_processes_and_tell_cut_from_whole(source: Path, tmp_path: Path) -> None:
    plans = []
    for cut, clips in ((True, 5), (False, 1)):
        plan = reader("precog").plan(PrepareConfig("precog", tmp_path / "out", source, cut=cut))
        assert len(pickle.loads(pickle.dumps(plan.jobs[0])).clips()) == clips
        plans.append({job.token for job in plan.jobs})
    assert not plans[0] & plans[1]


def test_line_ends_byte_order_marks_and_other_names(tmp_path: Path) -> None:
    values = numbers()
    good = text(values)
    path = tmp_path / "mine.csv"
    for variant in (good.replace("\n", "\r\n"), "\ufeff" + good, good + "\n\n", good.replace("; ", ";")):
        path.write_bytes(variant.encode())
        clip = read_clip(path, "precog")
        np.testing.assert_array_equal(clip.frames, expected(values))
        assert (clip.name, clip.subject) == ("mine", None)
    assert reader("precog").sided


GOOD = text(numbers())
LINES = GOOD.splitlines()


@pytest.mark.parametrize(
    ("content", "line", "wanted", "found"),
    [
        ("", 1, "a line of text", "an empty file"),
        (HEADER, 2, "a frame", "the end of the file"),
        (GOOD.replace("Head;", "Hand;", 1), 1, "20 joints, HipCenter; Spine", "'HipCenter;"),
        ("\n".join(LINES[1:]), 1, "20 joints, HipCenter; Spine", ""),
        (GOOD.rpartition(";")[0], 11, "20 joints and a label", "20"),
        (GOOD + ";", 11, "20 joints and a label", "22"),
        (GOOD.rpartition(";")[0] + ";9", 11, "a label from 0 to 8", "'9'"),
        (GOOD.rpartition(";")[0] + ";-1", 11, "a label from 0 to 8", "'-1'"),
        (GOOD.rpartition(";")[0] + ";", 11, "a label from 0 to 8", "''"),
        ("\n".join([HEADER, LINES[1], "", *LINES[2:]]), 3, "20 joints and a label", "1"),
        ("\n".join([HEADER, "1 2;" + LINES[1].partition(";")[2]]), 2, "a joint's x y z", "'1 2'"),
        ("\n".join([HEADER, "1 2,5 3;" + LINES[1].partition(";")[2]]), 2, "a number", "'2,5'"),
        ("\n".join([HEADER, "1 2 1e39;" + LINES[1].partition(";")[2]]), 2, "float32", "'1e39'"),
        (b"\x1f\x8b\x08\x00", None, "plain text", "gzip"),
    ],
)
def test_bad_files_are_told_by_file_and_line(
    tmp_path: Path, content: str | bytes, line: int | None, wanted: str, found: str
) -> None:
    path = tmp_path / "Seq1_1.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert_refused(lambda: read_clip(path, "precog"), path, line, wanted, found)


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "Seq1_1.csv"
    precog = reader("precog")
    contents = damaged("\n".join(LINES[:5]).encode())
    for clips in read_or_refuse(path, contents, lambda: precog.clips(path, "file-order"))[0]:
        assert sum(clip.length for clip in clips) <= 7
        for clip in clips:
            assert (clip.frames.shape[0], *clip.frames.shape[2:], clip.frames.dtype) == (1, 20, 3, np.float32)
            assert clip.label in range(9)
