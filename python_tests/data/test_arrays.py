"""The reader of one's own arrays, and the labels.csv beside them."""

from __future__ import annotations

import io
import json
import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mutations import damaged, read_or_refuse

from asma_fast.data import Clip, FormatError, PrepareConfig, PrepareReport, Store, prepare, read_clip
from asma_fast.data.readers import reader

LAYOUT = {
    "name": "stick",
    "joints": ["hip", "left knee", "right knee"],
    "edges": [[0, 1], [0, 2]],
    "centre": 0,
    "shoulders": [1, [2]],
    "pairs": [[1, 2]],
    "units": "metres",
    "up": "+z",
}


def folder(tmp_path: Path, layout: Any = LAYOUT, **arrays: np.ndarray) -> Path:
    source = tmp_path / "raw"
    source.mkdir()
    (source / "layout.json").write_text(json.dumps(layout))
    for name, array in arrays.items():
        np.save(source / f"{name}.npy", array)
    return source


def run(source: Path, **changes: Any) -> PrepareReport:
    out = source.parent / "out.safetensors"
    return prepare(PrepareConfig(**{"dataset": "arrays", "source": source, "out": out, "missing": "keep", **changes}))


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def clip_of(source: Path, name: str, **changes: Any) -> Clip:
    """One clip as the jobs give it, before missing joints are settled."""
    config = PrepareConfig(**{"dataset": "arrays", "source": source, "out": source / "out", **changes})
    jobs = {job.source: job for job in reader("arrays").plan(config).jobs}
    (clip,) = jobs[name].clips()
    return clip


def test_forms_of_arrays(tmp_path: Path) -> None:
    one, two = numbers(5, 3, 3), numbers(2, 4, 3, 3)
    source = folder(tmp_path, a=one, b=two, c=np.asfortranarray(two), d=one.astype(">f4"), e=np.int16([one * 99]))
    np.savez(source / "f.npz", one)
    np.savez_compressed(source / "g.npz", frames=two, other=one)
    np.savez(source / "h.npz", other=one, keypoints=one)
    text = "\n".join(",".join(map(repr, frame.ravel().tolist())) for frame in one)
    (source / "i.csv").write_text(text)
    (source / "j.csv").write_bytes(b"\xef\xbb\xbf" + (",".join("abcdefghi") + "\r\n" + text).encode() + b"\r\n\r\n")
    (source / "k.csv").write_text(",".join(map(str, range(9))) + "\n" + text)
    (source / "sub").mkdir()
    np.save(source / "sub" / "a.npy", one)
    (source / "notes.txt").write_text("mine")
    report = run(source, fps=50)
    assert report.ok
    assert report.ignored == ("notes.txt",)
    store = Store.open(tmp_path / "out.safetensors")
    assert store.names == (*"abcdefghijk", "sub/a")
    assert (store.skeleton.name, store.skeleton.up, store.bodies, store.fps[0]) == ("stick", "+z", 2, 50)
    for name, clip in zip(store.names, store, strict=True):
        wanted = two if name in "bcg" else np.stack([one, 0 * one])
        if name == "e":
            wanted = np.trunc(wanted * 99)
        np.testing.assert_array_equal(clip.frames, wanted.astype(np.float32), err_msg=name)
    assert (store.classes, store.labels.tolist()) == ((), [-1] * 12)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 5)).flatmap(
        lambda size: hnp.arrays(st.sampled_from(["<f2", "<f4", ">f8", "<i4", "u1"]), (*size, 3, 3))
    )
)
def test_any_numbers_come_back(tmp_path_factory: Any, array: np.ndarray) -> None:
    source = folder(tmp_path_factory.mktemp("arrays"), a=array)
    with np.errstate(over="ignore"):
        wanted = array.astype(np.float32)
    if (np.isinf(wanted) & np.isfinite(array)).any():
        with pytest.raises(FormatError, match="float32 can hold"):
            read_clip(source / "a.npy", "arrays")
    else:
        np.testing.assert_array_equal(read_clip(source / "a.npy", "arrays").frames, wanted)


def test_scores_tell_what_is_missing(tmp_path: Path) -> None:
    scored = np.concatenate([numbers(4, 3, 3), np.ones((4, 3, 1))], axis=2)
    scored[1, 2, 3], scored[2, 0], scored[3, 1] = 0.3, np.nan, 0
    source = folder(tmp_path, a=scored)
    for least, missing in ((0.5, [[1, 2], [2, 0], [3, 1]]), (0.2, [[2, 0], [3, 1]]), (0.0, [[3, 1]])):
        clip = clip_of(source, "a.npy", min_score=least)
        assert clip.missing is not None
        assert np.argwhere(clip.missing[0]).tolist() == missing
        assert np.isnan(clip.frames[0, 2, 0, :3]).all()
        assert clip.frames.shape == (1, 4, 3, 4)
    np.save(source / "a.npy", scored[..., :3])
    assert clip_of(source, "a.npy").missing is None


def test_empty_cells_are_unknown(tmp_path: Path) -> None:
    source = folder(tmp_path)
    (source / "a.csv").write_text("1,2,3,,,nan,7,8,9\n")
    frames = clip_of(source, "a.csv").frames.ravel()
    np.testing.assert_array_equal(frames, np.float32([1, 2, 3, *[np.nan] * 3, 7, 8, 9]))


def test_layouts_by_name_and_in_two_dimensions(tmp_path: Path) -> None:
    source = folder(tmp_path, "not used", a=np.abs(numbers(2, 17, 2)) + 1)
    assert run(source, layout="coco").ok
    assert Store.open(tmp_path / "out.safetensors").skeleton.name == "coco"
    (source / "layout.json").unlink()
    with pytest.raises(ValueError, match=r"arrays need a joint layout: one of .*coco.*got none"):
        run(source, overwrite=True)
    with pytest.raises(ValueError, match="layout must be one of"):
        run(source, layout="cocoa", overwrite=True)
    with pytest.raises(ValueError, match="arrays need a joint layout"):
        read_clip(source / "a.npy", "arrays")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edges": None}, "pairs of joints for 'edges', found None"),
        ({"edges": [[0, 1.0]]}, "pairs of joints"),
        ({"edges": [[0, 2_000_000_000]], "joints": []}, r"connected by edges, found 2000000001, 1 edges"),
        ({"edges": [[0, 1]]}, "connected by edges, found 3, 1 edges"),
        ({"edges": [[0, 1], [0, 0]]}, "a joint layout, found .*connected"),
        ({"edgse": 1}, r"found 'edgse' \(did you mean 'edges'\?\)"),
        ({"joints": ["hip", "hip", "hip"]}, "joint names must be distinct"),
        ({"joints": [1, 2, 3]}, "a list of names for 'joints'"),
        ({"dimensions": 4}, "dimensions must be 2 or 3"),
        ({"shoulders": [1]}, "left and right"),
        ({"up": "z"}, "up must be a signed axis"),
        ({"name": "coco"}, "a name of its own, found 'coco', another layout's"),
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    source = folder(tmp_path, {**LAYOUT, **changes}, a=numbers(2, 3, 3))
    with pytest.raises(FormatError, match=message) as caught:
        run(source)
    assert caught.value.file.endswith("layout.json")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (numbers(4, 4, 3), r"\(T, 3, C\) or \(M, T, 3, C\), C 3 or 4, M up to 32, found shape \(4, 4, 3\)"),
        (numbers(4, 3, 5), "found shape"),
        (numbers(4, 3, 2), "found shape"),
        (numbers(4, 9), "found shape"),
        (numbers(0, 3, 3), "found shape"),
        (numbers(33, 1, 3, 3), "found shape"),
        (numbers(2, 3, 3) + 1j, "an array of numbers, found one of complex128"),
        (np.array([[["1"] * 3] * 3]), "an array of numbers, found one of <U1"),
        (np.full((2, 3, 3), 1e39), "float32 can hold, found 1e"),
        (np.zeros(2, [("x", "f4")]), "an array of numbers"),
    ],
)
def test_other_arrays_are_refused_and_the_rest_is_kept(tmp_path: Path, array: np.ndarray, message: str) -> None:
    source = folder(tmp_path, a=numbers(2, 3, 3), b=array)
    report = run(source)
    assert report.clips == 1
    (failure,) = report.failures
    with pytest.raises(FormatError, match=message):
        read_clip(source / "b.npy", "arrays")
    assert "b.npy" in failure.reason


def test_nothing_pickled_is_read(tmp_path: Path) -> None:
    class Boom:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(tmp_path / "run"),)

    source = folder(tmp_path)
    np.save(source / "a.npy", np.array([Boom()], object), allow_pickle=True)
    np.savez(source / "b.npz", np.array([Boom()], object))
    for name in ("a.npy", "b.npz"):
        with pytest.raises(FormatError, match="an array of numbers, found one of object"):
            read_clip(source / name, "arrays")
    assert not (tmp_path / "run").exists()


def test_counts_in_headers_allocate_nothing(tmp_path: Path) -> None:
    source = folder(tmp_path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 3, 3)})
    (source / "a.npy").write_bytes(header.getvalue() + bytes(72))
    with zipfile.ZipFile(source / "b.npz", "w") as archive:
        archive.writestr("frames.npy", header.getvalue() + bytes(72))
    with zipfile.ZipFile(source / "c.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("frames.npy", header.getvalue() + bytes(1 << 28))
    tracemalloc.start()
    for name, message in (("a.npy", "72000000000 bytes"), ("b.npz", "72000000000 bytes"), ("c.npz", "100 times its")):
        with pytest.raises(FormatError, match=message):
            read_clip(source / name, "arrays")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "columns, or 12 with scores, for 3 joints, found 1|a line a frame, found none"),
        ("1,2,3\n", "9 columns, or 12 with scores, for 3 joints, found 3"),
        ("a,b,c,d,e,f,g,h,i\n", "a line a frame, found none"),
        ("1,2,3,4,5,6,7,8,x\n", "line 1: expected a number, found 'x'"),
        ("1,2,3,4,5,6,7,8,9\n1,2,3\n", "line 2: expected 9 numbers, found 3"),
        ("1,2,3,4,5,6,7,8,9\n\n1,2,3,4,5,6,7,8,9\n", "line 2: expected a frame in each line, found a blank line"),
        ("1,2,3,4,5,6,7,8,1e999\n", "a float can hold, found '1e999'"),
        ("1,2,3,4,5,6,7,8,\u0661\n", "a number"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    source = folder(tmp_path)
    (source / "a.csv").write_text(text)
    with pytest.raises(FormatError, match=message):
        read_clip(source / "a.csv", "arrays")


def test_arrays_of_one_name_are_refused(tmp_path: Path) -> None:
    source, content = folder(tmp_path, a=numbers(2, 3, 3)), io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("frames.npy", (source / "a.npy").read_bytes())
        archive.writestr("frames", (source / "a.npy").read_bytes())
    (source / "b.npz").write_bytes(content.getvalue())
    with pytest.raises(FormatError, match="one array, or one named frames or keypoints, found"):
        read_clip(source / "b.npz", "arrays")


def test_channels_must_agree(tmp_path: Path) -> None:
    source = folder(tmp_path, a=numbers(2, 3, 3), b=numbers(2, 3, 4))
    with pytest.raises(ValueError, match=r"same number of channels, got 3 in a.npy, 4 in b.npy"):
        run(source)


@pytest.mark.parametrize("form", ["npy", "npz", "packed", "csv"])
def test_damaged_files_are_read_or_refused(tmp_path: Path, form: str) -> None:
    source, array = folder(tmp_path), numbers(2, 3, 3, 3)
    path = source / f"a.{'npz' if form == 'packed' else form}"
    if form == "npy":
        np.save(path, array)
    elif form == "csv":
        np.savetxt(path, array[0].reshape(3, 9), delimiter=",", fmt="%.4f")
    else:
        (np.savez_compressed if form == "packed" else np.savez)(path, frames=array)
    clips, refusals = read_or_refuse(path, damaged(path.read_bytes()), lambda: read_clip(path, "arrays"))
    assert len(clips) + len(refusals) == 2000
    assert len(refusals) > 500
    assert all(clip.frames.shape[2:] in ((3, 3), (3, 4)) for clip in clips)
    for content in damaged(path.read_bytes() or b"x", 200, seed=1):
        path.write_bytes(content)
        config = PrepareConfig("arrays", tmp_path / "out", source)
        assert len(reader("arrays").plan(config).jobs) == 1


def test_damaged_numbers_are_those_of_the_file(tmp_path: Path) -> None:
    source, checked = folder(tmp_path), 0
    path = source / "a.npy"
    np.save(path, numbers(2, 3, 3, 3))
    for content in damaged(path.read_bytes(), 500):
        path.write_bytes(content)
        try:
            frames = read_clip(path, "arrays").frames
        except FormatError:
            continue
        wanted = np.load(path, allow_pickle=False)
        np.testing.assert_array_equal(frames, wanted.astype(np.float32).reshape(frames.shape))
        checked += 1
    assert checked > 30


def labelled(tmp_path: Path, table: str, classes: str | None = None) -> Path:
    source = folder(tmp_path, a=numbers(2, 3, 3), b=numbers(3, 3, 3), c=numbers(4, 3, 3))
    (source / "labels.csv").write_bytes(table.encode())
    if classes is not None:
        (source / "classes.txt").write_text(classes)
    return source


def test_labels_of_every_kind(tmp_path: Path) -> None:
    table = (
        "file,label,subject,camera,fps,name,split:one,split:two\r\n"
        'b,"run, fast",2,1,25,renamed,train,test\r\n\r\na.npy,walk,1,,,,test,\r\nc,,,,29.97,,,train\r\n'
    )
    report = run(labelled(tmp_path, table), fps=10, split="subject:1")
    assert report.ok
    assert report.splits == {"one": (1, 1), "two": (1, 1), "xsub": (1, 1)}
    store = Store.open(tmp_path / "out.safetensors")
    assert (store.names, store.classes) == (("a", "renamed", "c"), ("run, fast", "walk"))
    assert (store.labels.tolist(), store.subjects.tolist()) == ([1, 0, -1], [1, 2, -1])
    assert (store.cameras.tolist(), store.fps.tolist()) == ([-1, 1, -1], [10, 25, 29.97])
    assert [part.tolist() for part in store.split("one")] == [[1], [0]]
    assert [part.tolist() for part in store.split("two")] == [[2], [1]]


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        (("2", "0", ""), None, (("0", "1", "2"), [2, 0, -1])),
        (("z", "a", "z"), None, (("a", "z"), [1, 0, 1])),
        (("z", "a", "1"), "z\na\n", (("z", "a"), [0, 1, 1])),
        (("7", "5", "0"), "5\n7\n", (("5", "7"), [1, 0, 0])),
    ],
)
def test_numbers_and_names_of_classes(
    tmp_path: Path, labels: tuple[str, ...], classes: str | None, expected: tuple[tuple[str, ...], list[int]]
) -> None:
    rows = "".join(f"{name},{label}\n" for name, label in zip("abc", labels, strict=True))
    run(labelled(tmp_path, "file,label\n" + rows, classes))
    store = Store.open(tmp_path / "out.safetensors")
    assert (store.classes, store.labels.tolist()) == expected


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "line 1: expected a column 'file', found no header"),
        ("label\nwalk\n", "a column 'file', found label"),
        ("file,lable\n", r"line 1: .* found 'lable' \(did you mean 'label'\?\)"),
        ("file,file\n", "a column 'file' once"),
        ("file;label\n", "found 'file;label'"),
        ("file,label\na,1,2\n", "line 2: expected 2 cells as in the header, found 3"),
        ("file\na\nb\n", "a line for each file, found none for 1: c"),
        ("file" + ",split:x" * 200_000 + "\n", "line 1: expected a column 'split:x' once, found 200000"),
        ("file\na\nb\nc\nd\ne\n", "line 5: expected names of files in the folder, found 2 others: d, e"),
        ("file\na\nb\nc\na.npy\n", "line 5: expected one line a file, found 'a.npy' again, first in line 2"),
        ("file,name\na,x\nb,x\nc,\n", "line 3: expected distinct names, found 'x' again, first in line 2"),
        ("file,name\na,b\nb,\nc,\n", "line 3: expected distinct names, found 'b' again"),
        ("file,name\na,\u202eb\nb,\nc,\n", "a printable name"),
        ("file,label\na,walk\nb,1\nc,\n", "line 3: expected labels that are all numbers from 0, or all names"),
        ("file,label\na,999999999\nb,1\nc,\n", "line 2: expected labels below 100000"),
        ("file,subject\na,-1\nb,1\nc,\n", "line 2: expected a number from 0 for subject, found '-1'"),
        ("file,camera\na,1.5\nb,1\nc,\n", "a number from 0 for camera"),
        ("file,fps\na,0\nb,1\nc,\n", "frames a second above 0 for fps, found '0'"),
        ("file,fps\na,nan\nb,1\nc,\n", "frames a second above 0"),
        ('file,label\na,"x\ny"\nb,\nc,\n', "line 3: expected a printable label"),
        ("file,split:\na,\nb,\nc,\n", "columns of file, label"),
        ("file,split:x\na,train\nb,Test\nc,\n", "line 3: expected train, test or nothing for split:x, found 'Test'"),
        ('file\n"a\nb\nc\n', "comma-separated values"),
    ],
)
def test_other_labels_are_refused(tmp_path: Path, table: str, message: str) -> None:
    source = labelled(tmp_path, table)
    with pytest.raises(FormatError, match=message) as caught:
        run(source)
    assert caught.value.file == str(source / "labels.csv")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            "walk\nrun\n",
            r"labels.csv, line 2: expected a class of classes.txt, found 'walks' \(did you mean 'walk'\?\)",
        ),
        ("walk\n\nrun\n", "classes.txt, line 2: expected a class name"),
        ("walk\nrun\nwalk", "classes.txt, line 3: expected distinct class names"),
    ],
)
def test_other_classes_are_refused(tmp_path: Path, classes: str, message: str) -> None:
    source = labelled(tmp_path, "file,label\na,walks\nb,run\nc,2\n", classes)
    with pytest.raises(FormatError, match=message):
        run(source)


def test_damaged_labels_are_read_or_refused(tmp_path: Path) -> None:
    table = "file,label,subject,camera,fps,name,split:one\na,walk,1,2,25,x,train\nb,run,2,1,30,y,test\nc,sit,3,1,,,\n"
    source = labelled(tmp_path, table)
    refused = []
    config = PrepareConfig("arrays", tmp_path / "out", source)
    for content in damaged(table.encode()):
        (source / "labels.csv").write_bytes(content)
        chosen = reader("arrays")
        try:
            jobs = chosen.plan(config).jobs
        except FormatError as error:
            refused.append(error.file)
            continue
        clips = [clip for job in jobs for clip in job.clips()]
        classes, _ = chosen.protocol([clip.info for clip in clips])
        assert len({clip.name for clip in clips}) == 3
        assert all(clip.label is None or clip.label < len(classes) for clip in clips)
    assert 500 < len(refused) < 1900
    assert set(refused) == {str(source / "labels.csv")}


def test_labels_elsewhere_and_files_left_out(tmp_path: Path) -> None:
    source = labelled(tmp_path, "nonsense")
    (tmp_path / "mine.csv").write_text("file,label\na,x\nb,y\n")
    (tmp_path / "out.txt").write_text("c\n")
    report = run(source, labels=tmp_path / "mine.csv", exclude=tmp_path / "out.txt")
    assert report.ok
    assert (report.clips, report.excluded) == (2, ("c.npy",))


def test_a_whole_name_goes_before_one_without_ending(tmp_path: Path) -> None:
    source = folder(tmp_path, x=numbers(2, 3, 3))
    (source / "x.npy.csv").write_text("1,2,3,4,5,6,7,8,9")
    (source / ".x.npy").write_bytes(b"what some systems leave beside every file")
    (source / "labels.csv").write_text("file,label\nx.npy.csv,1\nx.npy,0\n")
    assert run(source).ignored == (".x.npy",)
    store = Store.open(tmp_path / "out.safetensors")
    assert dict(zip(store.names, store.labels.tolist(), strict=True)) == {"x": 0, "x.npy": 1}


def test_names_are_distinct_and_printable(tmp_path: Path) -> None:
    source = folder(tmp_path)
    odd = os.fsencode(source) + b"/a\xff\n.npy"
    with open(odd, "wb") as file:
        np.save(file, numbers(2, 3, 3))
    (source / "labels.csv").write_text("file,label\na\\udcff\\n,walk\n")
    assert run(source).ok
    assert Store.open(tmp_path / "out.safetensors").names == ("a\\udcff\\n",)
    (source / "labels.csv").unlink()
    np.save(source / "b.npy", numbers(2, 3, 3))
    (source / "b.csv").write_text("1,2,3,4,5,6,7,8,9")
    with pytest.raises(ValueError, match=r"clip names must be distinct, got 'b' for b.csv, b.npy"):
        run(source, overwrite=True)


def test_a_resumed_run_notices_what_has_changed(tmp_path: Path) -> None:
    source = labelled(tmp_path, "file,label\na,x\nb,x\nc,y\n")

    def tokens() -> list[str]:
        return [job.token for job in reader("arrays").plan(PrepareConfig("arrays", tmp_path / "o", source)).jobs]

    before = tokens()
    assert tokens() == before
    (source / "labels.csv").write_text("file,label\nc,y\nb,y\na,x\n")
    assert [new == old for new, old in zip(tokens(), before, strict=True)] == [True, False, True]
    before = tokens()
    np.save(source / "a.npy", numbers(2, 4, 3, 3))
    assert not set(tokens()) & set(before)
