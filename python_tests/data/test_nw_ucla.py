"""The reader of NW-UCLA's JSON."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from asma_fast import Skeleton, data

FRAMES = np.random.default_rng(0).normal(size=(4, 20, 3)).round(4)


def record(**changes: object) -> bytes:
    return json.dumps({"file_name": "x", "label": 7, "skeletons": FRAMES.tolist(), **changes}).encode()


def test_genuine_files(recordings: Path) -> None:
    files = sorted((recordings / "nw-ucla/all_sqe").glob("*.json"))
    cameras = Counter(path.stem[-1] for path in files)
    assert (len(files), cameras["1"] + cameras["2"], cameras["3"]) == (1484, 1020, 464)
    for path in [*files[::101], *(path for path in files if path.stem in ("a02_s09_e04_v02", "a02_s09_e04_v03"))]:
        clip, raw = data.read_clip(path, "nw-ucla"), json.loads(path.read_text())
        np.testing.assert_array_equal(clip.frames[0], np.array(raw["skeletons"], np.float32))
        assert clip.frames.shape[0] == 1
        assert (clip.label, clip.subject, clip.camera) == (raw["label"] - 1, int(path.stem[5:7]), int(path.stem[-1]))
        assert clip.skeleton == "kinect-v1"


def test_byte_order_mark_and_other_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(b"\xef\xbb\xbf" + record())
    clip = data.read_clip(path, "nw-ucla")
    assert (clip.label, clip.subject, clip.camera) == (6, None, None)
    np.testing.assert_array_equal(clip.frames[0], FRAMES.astype(np.float32))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"line 1: expected JSON .*found the end of the file"),
        (record()[:200], r"line 1: expected JSON"),
        (b"\xff\xfe\x00", r"expected JSON"),
        (b"103\n1\n", r"line 2: expected JSON"),
        (b"[1, 2]", r"object with 'label' and 'skeletons'.*\[1, 2\]"),
        (b"{}", r"object with 'label' and 'skeletons'"),
        (b"[" * 100_000, r"expected JSON"),
        (record(label=11), r"label from 1 to 10, found 11"),
        (record(label="7"), r"label from 1 to 10, found '7'"),
        (record(label=True), r"label from 1 to 10, found True"),
        (record(skeletons=[]), r"\(frames, 20, 3\), found shape \(0,\)"),
        (record(skeletons=FRAMES[:, :19].tolist()), r"found shape \(4, 19, 3\)"),
        (record(skeletons=[*FRAMES.tolist(), [[0, 0, 0]]]), r"lists of unequal lengths"),
        (record(skeletons=[[["a"] * 3] * 20]), r"expected numbers"),
        (record(skeletons=[[[10**400] * 3] * 20]), r"expected"),
        (record(skeletons=[[[None] * 3] * 20]), r"expected numbers"),
        (b"\x1f\x8b\x08\x00", r"plain text, found a file compressed by gzip"),
        (record().replace(b"[[[", b"[[[1e999, "), r"1e999 is beyond any float"),
        (record(skeletons=[[[1e300] * 3] * 20]), r"float32 can hold, found 1e\+300 in frame 0, joint 0"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a01_s01_e00_v01.json"
    path.write_bytes(content)
    with pytest.raises(data.FormatError, match=message) as caught:
        data.read_clip(path, "nw-ucla")
    assert caught.value.file == str(path)


def test_what_is_not_finite_is_a_missing_joint(tmp_path: Path) -> None:
    frames = FRAMES.copy()
    frames[1, 7, 2] = np.nan
    frames[2, 3] = np.inf
    path = tmp_path / "a01_s01_e00_v01.json"
    path.write_bytes(record(skeletons=frames.tolist()))
    clip = data.read_clip(path, "nw-ucla")
    np.testing.assert_array_equal(clip.frames[0], frames.astype(np.float32))
    filled = data.fill_missing(clip, Skeleton.named("kinect-v1"))
    assert filled.missing_joints == 2
    np.testing.assert_allclose(filled.frames[0, 1, 7], (FRAMES[0, 7] + FRAMES[2, 7]) / 2, rtol=1e-6)
