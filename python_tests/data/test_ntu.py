"""The reader of NTU RGB+D's raw text: exact on genuine files, orderly on everything else."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mutations import TOKENS, damaged, read_or_refuse
from programs import program_output

from asma_fast import data
from asma_fast._backends import native
from asma_fast.data.bodies import BODY_RULES
from asma_fast.data.clip import ClipInfo
from asma_fast.data.readers import reader
from asma_fast.data.readers.base import listed

BODY = "72057594037931101 0 1 1 1 1 0 0.02764709 0.05745083 2"
TAIL = "277.419 191.8218 1036.233 519.1677 -0.2059419 0.05349901 0.9692109 -0.1239193 2"


def document(bodies_of_frames: list[int]) -> str:
    """A well-formed file; joint v of body m in frame t stands at (t, m, v / 100)."""
    lines = [str(len(bodies_of_frames))]
    for t, bodies in enumerate(bodies_of_frames):
        lines.append(str(bodies))
        for m in range(bodies):
            body = BODY.replace("72057594037931101", str(72057594037931101 + m))
            lines += [body, "25", *(f"{t} {m} {v / 100} {TAIL}" for v in range(25))]
    return "\n".join(lines) + "\n"


GOOD = document([1, 1])
LINES = GOOD.splitlines()


def changed(line: int, content: str) -> str:
    return "\n".join([*LINES[: line - 1], content, *LINES[line:]])


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


def with_state(text: str, joint: int, state: int) -> str:
    """The text with another tracking state at a joint of the first body."""
    lines = text.splitlines()
    lines[4 + joint] = lines[4 + joint][:-1] + str(state)
    return "\n".join(lines)


def test_joints_not_tracked_are_missing_and_inferred_ones_are_not(write) -> None:  # type: ignore[no-untyped-def]
    assert data.read_clip(write(document([1, 2])), "ntu").missing is None
    assert data.read_clip(write(with_state(document([1, 2]), 7, 1)), "ntu").missing is None
    clip = data.read_clip(write(with_state(document([1, 2]), 7, 0)), "ntu")
    assert clip.missing is not None
    assert np.argwhere(clip.missing).tolist() == [[0, 0, 7]]
    np.testing.assert_array_equal(clip.frames, expected_frames([1, 2]))


@pytest.mark.parametrize("word", ["nan", "NaN", "-nan", "inf", "-inf", "Infinity", "-infinity"])
def test_coordinates_that_are_not_finite_are_kept(write, word: str) -> None:  # type: ignore[no-untyped-def]
    frames = data.read_clip(write(changed(7, f"0 {word} 0 {TAIL}")), "ntu").frames
    assert np.argwhere(~np.isfinite(frames)).tolist() == [[0, 0, 2, 1]]
    np.testing.assert_array_equal(np.abs(frames[0, 0, 2, 1]), np.abs(np.float32(word)))


def test_the_largest_float32_as_it_is_written_in_short(write) -> None:  # type: ignore[no-untyped-def]
    frames = data.read_clip(write(changed(7, f"0 -3.4028235E+38 0 {TAIL}")), "ntu").frames
    assert frames[0, 0, 2, 1] == np.finfo(np.float32).min


def test_every_body_is_read_with_its_id_and_states() -> None:
    lines = document([6, 0, 1]).splitlines()
    bodies = [i for i, line in enumerate(lines) if line.startswith("7205")]
    ids = [2**64 - 1, 0, 72057594037931101, 72057594037931102, 7, 99999999999999999, 7]
    for place, number in zip(bodies, ids, strict=True):
        lines[place] = f"{number} {lines[place].partition(' ')[2]}"
    counts, found, coordinates, states = native().read_ntu_skeleton("\n".join(lines).encode(), "made")
    assert counts.tolist() == [6, 0, 1]
    assert found.dtype == np.uint64
    assert found.tolist() == ids
    np.testing.assert_array_equal(coordinates[:, 3], np.float32([*([0, m, 0.03] for m in range(6)), [2, 0, 0.03]]))
    np.testing.assert_array_equal(states, np.full((7, 25), 2))


finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
form = st.sampled_from(["{!r}", "{:.7g}", "{:.9e}", "{:.12f}", "{:+.8G}"])


@given(st.lists(st.lists(st.tuples(finite, finite, finite, form), max_size=3), min_size=1, max_size=5), st.data())
@settings(deadline=None, max_examples=150)
def test_numbers_are_read_as_python_reads_them(bodies_of_frames: list[list[tuple]], draw: st.DataObject) -> None:  # type: ignore[type-arg]
    lines, expected = [str(len(bodies_of_frames))], []
    for bodies in bodies_of_frames:
        lines.append(str(len(bodies)))
        for *numbers, how in bodies:
            words = [how.format(number) for number in numbers]
            tail = " ".join(how.format(draw.draw(finite)) for _ in range(8))
            lines += [BODY, "25", *(f"{' '.join(words)} {tail} {v % 3}" for v in range(25))]
            with np.errstate(over="ignore"):
                expected.append([[np.float32(float(word)) for word in words]] * 25)
    assume(np.isfinite(np.array(expected)).all())
    counts, _, coordinates, states = native().read_ntu_skeleton("\n".join(lines).encode(), "made")
    assert counts.tolist() == [len(bodies) for bodies in bodies_of_frames]
    np.testing.assert_array_equal(coordinates, np.array(expected, np.float32).reshape(-1, 25, 3))
    assert (states == np.arange(25) % 3).all()


@given(st.text("0123456789.-+eE", min_size=1, max_size=14), st.integers(0, 10), st.sampled_from([" ", "\t", "  "]))
@settings(deadline=None, max_examples=1500)
def test_a_word_in_any_column_is_a_number_where_python_says_so(word: str, column: int, blank: str) -> None:
    """In the columns that no clip holds as in the others."""
    try:
        value = abs(float(word))
    except ValueError:
        number = False
    else:
        number = True
        assume(value == 0 or 1e-30 < value < 1e30)
        assume(value != 0 or "e" not in word.lower())
    words = f"0 0 0 {TAIL}".split()
    words[column] = word
    text = changed(7, blank.join(words)).encode()
    if number:
        native().read_ntu_skeleton(text, "made")
    else:
        with pytest.raises(data.FormatError) as caught:
            native().read_ntu_skeleton(text, "made")
        assert caught.value.line == 7


@given(st.one_of(st.binary(max_size=300), st.text("0123456789 .-\n", max_size=300).map(str.encode)))
@settings(deadline=None)
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        counts, ids, coordinates, states = native().read_ntu_skeleton(content, "made")
    except data.FormatError:
        return
    assert counts.sum() == len(ids) == len(coordinates) == len(states)


def test_compressed_files_are_refused_in_a_sentence(write) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(data.FormatError, match=r"expected plain text, found a file compressed by gzip"):
        data.read_clip(write(gzip.compress(document([1]).encode())), "ntu")


@pytest.mark.parametrize("rule", sorted(BODY_RULES))
def test_prepare_by_every_body_rule(write, tmp_path: Path, rule: str) -> None:  # type: ignore[no-untyped-def]
    path = write(document([2] * 20), "S001C001P001R001A050.skeleton")
    write(document([0] * 20), "S001C001P002R001A050.skeleton")
    report = data.prepare(data.PrepareConfig("ntu", tmp_path / "store.safetensors", tmp_path, bodies=rule))
    assert report.clips == 1
    assert len(report.failures) == 1
    assert "a body in some frame" in report.failures[0].reason
    store = data.Store.open(tmp_path / "store.safetensors")
    assert store.body_rule == rule
    np.testing.assert_array_equal(store[0].frames, data.read_clip(path, "ntu", bodies=rule).frames)


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
        (changed(2, "101"), 2, "from 0 to 100", "'101'"),
        (changed(2, "100"), 30, "10 numbers", "end of the line"),
        (changed(2, "-1"), 2, "body count", "'-1'"),
        (changed(3, BODY.replace("72057594037931101", "-7")), 3, "its id", "'-7'"),
        (changed(3, BODY.replace("72057594037931101", "1.5")), 3, "its id", "'1.5'"),
        (changed(3, BODY.replace("72057594037931101", str(2**64))), 3, "its id", f"'{2**64}'"),
        (changed(3, BODY.replace("0.0276", "O.0276")), 3, "10 numbers", "'O.02764709'"),
        (changed(3, BODY + " 4"), 3, "10 numbers a body", "'4'"),
        (changed(4, "24"), 4, "joint count of 25", "'24'"),
        (changed(7, "0 0 x " + TAIL), 7, "coordinate", "'x'"),
        (changed(7, "0 0 1e39 " + TAIL), 7, "within float32", "'1e39'"),
        (changed(7, "0 0 -3.4028236e38 " + TAIL), 7, "within float32", "'-3.4028236e38'"),
        (changed(7, "0 0 nano " + TAIL), 7, "coordinate", "'nano'"),
        (changed(7, "0 0 +-1 " + TAIL), 7, "coordinate", "'+-1'"),
        (changed(7, "0 0 1e999 " + TAIL), 7, "coordinate", "'1e999'"),
        (changed(7, "0 0 0 " + TAIL + " 5"), 7, "12 numbers", "'5'"),
        (changed(7, "0 0 0 " + TAIL[:-1] + "3"), 7, "tracking state 0 to 2", "'3'"),
        (changed(7, "0 0 0 " + TAIL[:-1] + "2.0"), 7, "tracking state 0 to 2", "'2.0'"),
        (changed(7, "0 0 0 " + TAIL[:-2]), 7, "tracking state", "end of the line"),
        (changed(7, "0 0 0 " + TAIL.replace("191.8218", "191.82.18")), 7, "12 numbers", "'191.82.18'"),
        (changed(7, "0 0 0 " + TAIL.replace("191.8218", "191-8218")), 7, "12 numbers", "'191-8218'"),
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
    """No mutation crashes, hangs, takes memory beyond the text's own or yields another shape."""
    original = document([2, 0, 1]).encode()
    path = write(original, "mutated.skeleton")

    def read() -> None:
        frames = data.read_clip(path, "ntu").frames
        assert frames.shape == (2, frames.shape[1], 25, 3)
        assert frames.shape[1] <= path.read_bytes().count(b"\n") + 1

    _, refusals = read_or_refuse(path, damaged(original, tokens=(*TOKENS, b"99999999", b"inf")), read)
    packed = f"{path}: expected plain text"
    assert all(refusal.startswith((f"{path}, line ", packed)) for refusal in refusals)
    assert 500 < len(refusals) < 1900


def test_action_beyond_the_data_set_is_refused(write) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(data.FormatError, match="action from 1 to 120"):
        data.read_clip(write(GOOD, "S001C001P001R001A121.skeleton"), "ntu")


def test_bad_arguments(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = write(GOOD)
    with pytest.raises(ValueError, match="dataset must be one of ntu"):
        data.read_clip(path, "kinetics")
    with pytest.raises(ValueError, match="bodies must be one of file-order, denoised, energy for ntu; got 'loudest'"):
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


@pytest.mark.parametrize(
    ("release", "missing", "published"),
    [
        ("ntu60", "samples_with_missing_skeletons.txt", 56_880),
        ("ntu120", "NTU_RGBD120_samples_with_missing_skeletons.txt", 114_480),
    ],
)
def test_official_lists_of_missing_skeletons(recordings: Path, release: str, missing: str, published: int) -> None:
    folder = recordings / "ntu-raw/statistics" / release
    left_out = listed(folder / missing)
    names = listed(folder / "skes_available_name.txt")
    assert not left_out & names
    assert len(left_out) + len(names) == published
    assert all(reader("ntu").numbers(Path(name + ".skeleton")) for name in left_out | names)


def test_excluded_names_may_stand_below_a_heading(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for subject in (1, 2, 3, 4):
        write(GOOD, f"S001C001P00{subject}R001A001.skeleton")
    names = tmp_path / "missing.txt"
    heading = "\ufeffSamples that have no skeleton:\r\n\r\n"
    names.write_bytes(f"{heading}S001C001P002R001A001\r\n  S001C001P004R001A001.skeleton \r\n".encode())
    report = data.prepare(data.PrepareConfig("ntu", tmp_path / "store.safetensors", tmp_path, exclude=names))
    assert report.excluded == ("S001C001P002R001A001.skeleton", "S001C001P004R001A001.skeleton")
    assert report.clips == 2


def test_reading_needs_numpy_alone(write) -> None:  # type: ignore[no-untyped-def]
    program = "from asma_fast import data\nprint(data.read_clip(sys.argv[1], 'ntu').frames.shape)\n"
    extras = ("torch", "scipy", "safetensors", "numba", "sklearn")
    assert program_output(program, write(GOOD), without=extras) == "(2, 2, 25, 3)"
