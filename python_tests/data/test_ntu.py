"""The reader of NTU RGB+D's raw text: exact on genuine files, orderly on everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from programs import program_output

from asma_fast import data
from asma_fast.data.clip import ClipInfo
from asma_fast.data.readers import reader

BODY = "72057594037931101 0 1 1 1 1 0 0.02764709 0.05745083 2"
TAIL = "277.419 191.8218 1036.233 519.1677 -0.2059419 0.05349901 0.9692109 -0.1239193 2"


def document(bodies_of_frames: list[int]) -> str:
    """A well-formed file; joint v of body m in frame t stands at (t, m, v / 100)."""
    lines = [str(len(bodies_of_frames))]
    for t, bodies in enumerate(bodies_of_frames):
        lines.append(str(bodies))
        for m in range(bodies):
            lines += [BODY, "25", *(f"{t} {m} {v / 100} {TAIL}" for v in range(25))]
    return "\n".join(lines) + "\n"


def expected_frames(bodies_of_frames: list[int]) -> np.ndarray:
    frames = np.zeros((2, len(bodies_of_frames), 25, 3), np.float32)
    for t, bodies in enumerate(bodies_of_frames):
        for m in range(min(bodies, 2)):
            frames[m, t] = np.stack(np.broadcast_arrays(t, m, np.arange(25) / 100), axis=-1)
    return frames


@pytest.fixture
def write(tmp_path: Path):  # type: ignore[no-untyped-def]
    def to_file(content: str | bytes, name: str = "S001C002P003R002A013.skeleton") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return to_file


def test_genuine_files(recordings: Path) -> None:
    lengths = {"A001": 103, "A002": 158, "A003": 104, "A004": 99, "A005": 54, "A011": 82, "A058": 70}
    files = sorted((recordings / "ntu-raw").glob("*.skeleton"))
    assert len(files) == 7
    for path in files:
        clip = data.read_clip(path, "ntu")
        lines = path.read_text().splitlines()
        assert clip.frames.shape == (2, lengths[path.stem[16:]], 25, 3)
        first = np.array([line.split()[:3] for line in lines[4:29]], dtype=np.float64)
        np.testing.assert_array_equal(clip.frames[0, 0], first.astype(np.float32))
        assert clip.frames[1].any() == (path.stem == "S001C003P008R002A058")
        assert clip.name == path.stem


def test_name_tells_label_subject_and_camera(write) -> None:  # type: ignore[no-untyped-def]
    clip = data.read_clip(write(document([1])), "ntu")
    assert (clip.label, clip.subject, clip.camera) == (12, 3, 2)
    assert clip.skeleton == "ntu-rgb+d"
    other = data.read_clip(str(write(document([1]), "my recording.txt")), "ntu")
    assert (other.label, other.subject, other.camera) == (None, None, None)


@pytest.mark.parametrize("bodies", [[1], [2, 1], [0, 1, 0], [3, 2, 4], [0], [1, 0, 2]])
def test_first_two_bodies_in_the_order_of_the_file(write, bodies: list[int]) -> None:  # type: ignore[no-untyped-def]
    np.testing.assert_array_equal(data.read_clip(write(document(bodies)), "ntu").frames, expected_frames(bodies))


def test_line_ends_byte_order_mark_signs_and_blank_tail(write) -> None:  # type: ignore[no-untyped-def]
    text = document([1, 2])
    variants = (
        text.replace("\n", "\r\n"),
        "\ufeff" + text,
        text.rstrip("\n"),
        text + "\n  \n",
        text.replace(" ", "\t "),
        text.replace(" 0.2 277", " +2e-1 277"),
    )
    for variant in variants:
        np.testing.assert_array_equal(data.read_clip(write(variant), "ntu").frames, expected_frames([1, 2]))


GOOD = document([1, 1])
LINES = GOOD.splitlines()


def changed(line: int, content: str) -> str:
    return "\n".join([*LINES[: line - 1], content, *LINES[line:]])


@pytest.mark.parametrize(
    ("content", "line", "expected", "found"),
    [
        ("", 1, "frame count", "end of the file"),
        ("\n", 1, "frame count", "end of the line"),
        ("abc\n", 1, "frame count", "'abc'"),
        ("0\n", 1, "from 1 to", "'0'"),
        ("-3\n", 1, "from 1 to", "'-3'"),
        ("1.5\n", 1, "frame count", "'1.5'"),
        ("99999999999999999999\n1\n", 1, "frame count", "'99999999999999999999'"),
        ("100000\n1\n", 3, "a body's 10 numbers", "end of the file"),
        ("2 2\n", 1, "alone", "'2'"),
        (changed(2, "2147483648"), 2, "body count", "'2147483648'"),
        (changed(2, "2147483647"), 30, "10 numbers", "end of the line"),
        (changed(2, "-1"), 2, "body count", "'-1'"),
        (changed(3, BODY + " 4"), 3, "10 numbers a body", "'4'"),
        (changed(4, "24"), 4, "joint count of 25", "'24'"),
        (changed(7, "0 0 x " + TAIL), 7, "coordinate", "'x'"),
        (changed(7, "0 0 nan " + TAIL), 7, "finite", "'nan'"),
        (changed(7, "0 0 1e39 " + TAIL), 7, "finite", "'1e39'"),
        (changed(7, "0 0 1e999 " + TAIL), 7, "coordinate", "'1e999'"),
        (changed(7, "0 0 0 " + TAIL + " 5"), 7, "12 numbers", "'5'"),
        (changed(7, "0 0 0"), 7, "12 numbers", "end of the line"),
        (changed(7, "0 0 0 " + TAIL.replace("191.8218", "\x00\x01")), 7, "12 numbers", "'??'"),
        ("\n".join(LINES[:40]), 41, "joint's 12", "end of the file"),
        (GOOD + "1\n", 58, "end of the file", "'1'"),
        ('{"file_name": "a01"}', 1, "frame count", "'{\"file_name\":'"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe\x00", 1, "frame count", "'?PNG'"),
    ],
)
def test_errors_name_file_line_expected_and_found(  # type: ignore[no-untyped-def]
    write, content: str | bytes, line: int, expected: str, found: str
) -> None:
    path = write(content)
    with pytest.raises(data.FormatError) as caught:
        data.read_clip(path, "ntu")
    error = caught.value
    assert (error.file, error.line) == (str(path), line)
    assert expected in error.expected
    assert found in error.found
    assert str(path) in str(error)
    assert f"line {line}" in str(error)


def test_mutated_files_are_read_or_refused(write) -> None:  # type: ignore[no-untyped-def]
    """No mutation crashes, hangs, takes memory beyond the text's own or yields anything but finite numbers."""
    rng = np.random.default_rng(0)
    original = document([2, 0, 1]).encode()
    hostile = [b"", b"\n", b" ", b"-", b"99999999", b"1e400", b"nan", b"inf", b"\x00", b"\xff\xfe", b"25", b"0"]
    refused: list[data.FormatError] = []
    for _ in range(1500):
        content = bytearray(original)
        for _ in range(rng.integers(1, 4)):
            place, size = int(rng.integers(len(content))), int(rng.integers(0, 12))
            if rng.random() < 0.15:
                del content[place:]
                content = content or bytearray(b"\n")
            elif rng.random() < 0.5:
                content[place : place + size] = hostile[rng.integers(len(hostile))]
            else:
                content[place] = rng.integers(256)
        path = write(bytes(content), "mutated.skeleton")
        try:
            frames = data.read_clip(path, "ntu").frames
        except data.FormatError as error:
            refused.append(error)
        else:
            assert np.isfinite(frames).all()
            assert frames.shape[1] <= content.count(b"\n") + 1
    assert all(error.line is not None and error.expected and error.found for error in refused)
    assert 500 < len(refused) < 1500


def test_action_beyond_the_data_set_is_refused(write) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(data.FormatError, match="action from 1 to 120"):
        data.read_clip(write(GOOD, "S001C001P001R001A121.skeleton"), "ntu")


def test_bad_arguments(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = write(GOOD)
    with pytest.raises(ValueError, match="dataset must be one of ntu"):
        data.read_clip(path, "kinetics")
    with pytest.raises(ValueError, match="bodies must be one of file-order"):
        data.read_clip(path, "ntu", bodies="loudest")
    with pytest.raises(FileNotFoundError):
        data.read_clip(tmp_path / "nowhere.skeleton", "ntu")


@pytest.mark.parametrize(
    ("release", "split", "sizes"),
    [
        ("ntu60", "xsub", (40_091, 16_487)),
        ("ntu60", "xview", (37_646, 18_932)),
        ("ntu120", "xsub", (63_026, 50_919)),
        ("ntu120", "xset", (54_468, 59_477)),
    ],
)
def test_splits_have_the_published_sizes(recordings: Path, release: str, split: str, sizes: tuple[int, int]) -> None:
    ntu = reader("ntu")
    names = (recordings / "ntu-raw/statistics" / release / "skes_available_name.txt").read_text().split()
    clips = []
    for name in names:
        numbers = ntu.numbers(Path(name + ".skeleton"))
        clips.append(ClipInfo(name, numbers["action"] - 1, numbers["subject"], numbers["camera"]))
    classes, splits = ntu.protocol(clips)
    assert len(classes) == {"ntu60": 60, "ntu120": 120}[release]
    parts = [splits[split](clip) for clip in clips]
    assert (parts.count("train"), parts.count("test")) == sizes


def test_reading_needs_numpy_alone(write) -> None:  # type: ignore[no-untyped-def]
    program = "from asma_fast import data\nprint(data.read_clip(sys.argv[1], 'ntu').frames.shape)\n"
    extras = ("torch", "scipy", "safetensors", "numba", "sklearn")
    assert program_output(program, write(GOOD), without=extras) == "(2, 2, 25, 3)"
