"""The reader of UTD-MHAD's MATLAB files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mutations import damaged, read_or_refuse
from programs import run_program

from asma_fast import data
from asma_fast.data.readers import reader

scipy_io = pytest.importorskip("scipy.io")

FRAMES = np.random.default_rng(0).normal(size=(20, 3, 6))


def write(path: Path, packed: bool = True, **variables: object) -> Path:
    scipy_io.savemat(path, variables, do_compression=packed)
    return path


def test_genuine_files(recordings: Path) -> None:
    files = sorted((recordings / "utd-mhad/Skeleton").glob("*.mat"))
    utd = reader("utd-mhad")
    clips = [data.read_clip(path, "utd-mhad") for path in files]
    parts = [utd.splits["xsub"](clip.info) for clip in clips]
    assert (len(parts), parts.count("train"), parts.count("test")) == (861, 431, 430)
    assert {clip.label for clip in clips} == set(range(27))
    assert min(clip.length for clip in clips) == 41
    assert max(clip.length for clip in clips) == 125
    for path, clip in list(zip(files, clips, strict=True))[::97]:
        raw = scipy_io.loadmat(path)["d_skel"]
        np.testing.assert_array_equal(clip.frames[0], raw.transpose(2, 0, 1).astype(np.float32))
        head, foot = clip.frames[0, :, 0, 1].mean(), clip.frames[0, :, 15, 1].mean()
        assert head > foot


def test_classes_are_sided() -> None:
    assert reader("utd-mhad").sided
    assert not reader("ntu").sided


def test_round_trip(tmp_path: Path) -> None:
    clip = data.read_clip(write(tmp_path / "a27_s8_t4_skeleton.mat", d_skel=FRAMES), "utd-mhad")
    np.testing.assert_array_equal(clip.frames[0], FRAMES.transpose(2, 0, 1).astype(np.float32))
    assert (clip.label, clip.subject, clip.camera, clip.name) == (26, 8, None, "a27_s8_t4")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"other": FRAMES}, "variable 'd_skel', found none"),
        ({"d_skel": FRAMES[:19]}, r"\(frames, 20, 3\), found shape \(6, 19, 3\)"),
        ({"d_skel": FRAMES[..., 0]}, r"\(20, 3, frames\), found shape \(20, 3\)"),
        ({"d_skel": "text"}, "'d_skel' of shape"),
        ({"d_skel": np.full((20, 3, 2), 1e300)}, "float32 can hold"),
        ({"d_skel": FRAMES + 1j}, "expected numbers, found complex128"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, variables: dict[str, object], message: str) -> None:
    path = write(tmp_path / "a1_s1_t1_skeleton.mat", **variables)
    with pytest.raises(data.FormatError, match=message):
        data.read_clip(path, "utd-mhad")


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a1_s1_t1_skeleton.mat"
    contents = [b"MATLAB", b"\x00" * 400, b"1\n1\n25\n" * 50]
    for packed in (True, False):
        contents += damaged(write(path, packed, d_skel=FRAMES).read_bytes(), 300)
    clips, refusals = read_or_refuse(path, contents, lambda: data.read_clip(path, "utd-mhad"))
    assert {clip.frames.shape[2:] for clip in clips} == {(20, 3)}
    assert len(refusals) > 100


def test_action_beyond_the_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(data.FormatError, match="action from 1 to 27"):
        data.read_clip(write(tmp_path / "a28_s1_t1_skeleton.mat", d_skel=FRAMES), "utd-mhad")


def test_missing_scipy_names_the_extra(tmp_path: Path) -> None:
    path = write(tmp_path / "a1_s1_t1_skeleton.mat", d_skel=FRAMES)
    program = "from asma_fast import data\ndata.read_clip(sys.argv[1], 'utd-mhad')"
    done = run_program(program, path, without=["scipy"])
    assert "pip install 'asma-fast[train]'" in done.stderr
