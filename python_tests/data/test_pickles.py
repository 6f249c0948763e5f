"""load_pickle: plain values and arrays come out as they went in, and nothing else ever runs."""

from __future__ import annotations

import builtins
import os
import pickle
import re
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutations import damaged, read_or_refuse
from programs import run_program

from asma_fast.data import FormatError
from asma_fast.data.pickles import load_pickle

PLAIN = [
    0, 255, 256, -5, 2**31, -(2**62), 2**70, True, False, None, 1.5, float("inf"), "aé\n'", "", b"", b"xyz", b"x" * 300,
    [1, [2, []]], {"a": 1, 2: (1, 2, 3, 4), None: ()}, {1, 2}, frozenset(["c"]), bytearray(b"ab"), 1 + 2j,
]  # fmt: skip
ARRAYS = [
    np.arange(6.0).reshape(2, 3),
    np.asfortranarray(np.arange(6.0, dtype=np.float32).reshape(2, 3)),
    np.arange(3, dtype=">i4"),
    np.arange(4, dtype=np.float16),
    np.zeros((2, 0)),
    np.array(5),
    np.array([True, False]),
    np.arange(12.0).reshape(3, 4)[:, ::2],
    np.array(["ab", "c"]),
    np.float32(3),
    np.int64(-3),
    np.str_("abc"),
    np.bool_(True),
]


class Call:
    """Pickled, it tells the reader to call."""

    def __init__(self, callee: Any, *arguments: Any) -> None:
        self.call = callee, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_round_trip(tmp_path: Path, protocol: int) -> None:
    for value in (*PLAIN, PLAIN):
        assert load_pickle(write(tmp_path / "a.pkl", pickle.dumps(value, protocol))) == value
    for array in ARRAYS:
        shared = {"one": array, "again": [array, (array,)]}
        read = load_pickle(write(tmp_path / "a.pkl", pickle.dumps(shared, protocol)))
        for found in (read["one"], *read["again"][:1], *read["again"][1]):
            assert (found.dtype, found.shape, type(found)) == (array.dtype, array.shape, type(array))
            np.testing.assert_array_equal(found, array)


def test_names_of_both_numpy_generations(tmp_path: Path) -> None:
    array = np.arange(5.0)
    own = pickle.dumps(array, 2)
    names = (b"numpy._core.multiarray", b"numpy.core.multiarray")
    for name in names:
        content = own.replace(names[0], name).replace(names[1] if name == names[0] else names[0], name)
        np.testing.assert_array_equal(load_pickle(write(tmp_path / "a.pkl", content)), array)


def test_python_2(tmp_path: Path) -> None:
    protocol_0 = b"((lp0\nS'S001'\np1\naS'it\\'s'\np2\na(lp3\nI3\naL4L\natp4\n."
    assert load_pickle(write(tmp_path / "a.pkl", protocol_0)) == (["S001", "it's"], [3, 4])
    raw = np.arange(2, dtype="<f8").tobytes()
    array = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
        b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U"
    ) + bytes([len(raw)])
    np.testing.assert_array_equal(load_pickle(write(tmp_path / "a.pkl", array + raw + b"tb.")), [0.0, 1.0])


def test_genuine_files(recordings: Path) -> None:
    for name in ("label_list", "pyskl_style_annotations"):
        path = recordings / "formats" / f"{name}.pkl"
        read = load_pickle(path)
        with path.open("rb") as file:
            expected = pickle.load(file)
        if name == "label_list":
            assert read == expected
            continue
        assert read["split"] == expected["split"]
        assert len(read["annotations"]) == len(expected["annotations"]) > 0
        for one, other in zip(read["annotations"], expected["annotations"], strict=True):
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[key], other[key]) for key in one)


def attacks(marker: Path) -> list[tuple[str, bytes]]:
    """The global that is found, and a file that would leave a marker if anything in it ran."""
    touch = f"touch {marker}"
    text = b"S'" + touch.encode() + b"'\n"
    nested: Any = Call(os.system, touch)
    for _ in range(20):
        nested = [{"a": (nested,)}]
    by_getattr = b"c__builtin__\ngetattr\n(c__builtin__\n__import__\n(S'os'\ntRS'system'\ntR(" + text + b"tR."
    return [
        ("posix.system", pickle.dumps(Call(os.system, touch))),
        ("posix.system", pickle.dumps(nested)),
        ("os.system", b"cos\nsystem\n(" + text + b"tR."),
        ("os.system", b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(touch)]) + touch.encode() + b"\x85R."),
        ("os.system", b"(" + text + b"ios\nsystem\n."),
        ("os.system", b"(cos\nsystem\n" + text + b"o."),
        ("builtins.getattr", by_getattr),
        ("builtins.eval", pickle.dumps(Call(builtins.eval, f"__import__('os').system({touch!r})"))),
        ("builtins.type", b"\x80\x02c__builtin__\ntype\n)\x81."),
        ("numpy.memmap", b"cnumpy\nmemmap\n(S'" + str(marker).encode() + b"'\nS'u1'\nS'w+'\ntR."),
        ("numpy.core.multiarray.fromfile", b"cnumpy.core.multiarray\nfromfile\n(" + text + b"tR."),
        ("numpy.ndarray.tofile", b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."),
        ("copy_reg._reconstructor", b"ccopy_reg\n_reconstructor\n(cos\nsystem\nc__builtin__\nobject\nNtR."),
    ]


def test_nothing_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for name, content in attacks(marker):
        path = write(tmp_path / "a.pkl", content)
        with pytest.raises(
            FormatError, match=rf"NumPy arrays only, found the global {re.escape(name)}; nothing was run"
        ):
            load_pickle(path)
        assert not marker.exists(), name
    with pytest.raises(FormatError, match="a call that makes an array"):  # the class itself is a name, not to be called
        load_pickle(write(path, b"cnumpy\nndarray\n((I9\nttR."))
    for _, content in attacks(marker)[:2]:
        pickle.loads(content)
        assert marker.exists()
        marker.unlink()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"\x1f\x8b\x08\x00", "compressed by gzip"),
        (b"Pid\n.", "a persistent id"),
        (b"\x80\x02K\x01Q.", "a persistent id"),
        (b"\x80\x02\x82\x01.", "operation 0x82"),
        (b"\x80\x09N.", "protocol 5 at most, found 9"),
        (b"hello", "LookupError|KeyError"),
        (b"(lp0\nI1\n", "the end of the file"),
        (b"I1\nI2\n.", "one whole value"),
        (b"cnumpy\nndarray\n.", "one whole value"),
        (b"\x80\x02B\xff\xff\xff\x7f", "the end of the file"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", "the end of the file"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f", "integer of at most 16 bytes"),
        (b"I" + b"9" * 100_000 + b"\n.", "an integer"),
        (b"\x80\x02]]a", "the end of the file"),
        (b"\x80\x02}]K\x01s.", "keys that are numbers or strings"),
        (b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s.", "keys that are numbers or strings"),
        (b"\x80\x02N}b.", "state of an array"),
        (b"c_codecs\nencode\n(VA\nS'zip'\ntR.", "bytes written as Latin-1"),
        (b"c_codecs\nencode\n(VA\nVlatin1\nK\x01tR.", "arguments of _codecs.encode"),
        (b"c__builtin__\nbytearray\n(I1000000000\ntR.", "bytes written as Latin-1"),
        (b"c__builtin__\nbytes\n(I1000000000\ntR.", "bytes written as Latin-1"),
        (b"c__builtin__\nset\n(I5\ntR.", "members of a set"),
        (b"c__builtin__\ncomplex\n(S'1'\nF1\ntR.", "two floats"),
        (b"cnumpy\ndtype\n(S'O8'\ntR.", "numbers or strings, found 'dtype O8'"),
        (b"cnumpy\ndtype\n(S'V8'\ntR.", "numbers or strings"),
        (b"cnumpy\ndtype\n((lS'a'\natR.", "numbers or strings"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I9999999999\ntS'b'\ntR.", "of numpy.ndarray"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I9999999999\ntS'b'\ntR.", "one whole value"),
        (b"cnumpy.core.multiarray\nscalar\n(I1\nI2\ntR.", "shape and dtype"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    with pytest.raises(FormatError, match=found):
        load_pickle(write(tmp_path / "a.pkl", content))


def test_arrays_must_be_there(tmp_path: Path) -> None:
    content = pickle.dumps(np.arange(100, dtype=np.int64), 3)
    shape = content.index(b"Kd\x85")
    for size in (b"J\xff\xff\xff\x7f", b"K\x63", b"J\xff\xff\xff\xff"):
        changed = content[:shape] + size + content[shape + 2 :]
        with pytest.raises(FormatError, match=r"bytes for an array|shape and dtype"):
            load_pickle(write(tmp_path / "a.pkl", changed))
    objects = pickle.dumps(np.array([None, 1], object), 3)
    with pytest.raises(FormatError, match="numbers or strings, found 'dtype O8'"):
        load_pickle(write(tmp_path / "a.pkl", objects))
    for record in (np.zeros(2, [("a", "f4")]), np.zeros(2, "M8[s]")):
        with pytest.raises(FormatError, match="numbers or strings"):
            load_pickle(write(tmp_path / "a.pkl", pickle.dumps(record, 3)))


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of a process's memory")
def test_small_files_take_little_memory(tmp_path: Path) -> None:
    """Values that are copied over and over, memo places far out, and lengths of gigabytes, under 400 MB of memory."""
    text = 100_000
    copies = b"\x80\x02X" + struct.pack("<I", text) + b"a" * text + b"q\x00" + b"0"
    copies += b"]" + b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86Ra" * 40_000 + b"."
    sets = b"\x80\x02](" + b"".join(b"M" + struct.pack("<H", n) for n in range(60_000)) + b"eq\x000]"
    sets += b"c__builtin__\nset\nh\x00\x85Ra" * 20_000 + b"."
    far = b"\x80\x02Nr\xff\xff\xff\xff."
    laughs = b"\x80\x02)" + b"q\x00h\x00h\x00\x87" * 10_000 + b"."
    for name, content in (("copies", copies), ("sets", sets), ("far", far), ("laughs", laughs)):
        write(tmp_path / name, content)
    program = """
        from pathlib import Path
        from asma_fast.data import FormatError
        from asma_fast.data.pickles import load_pickle
        for name in ("copies", "sets", "far", "laughs"):
            try:
                load_pickle(Path(sys.argv[1], name))
                print(name, "read")
            except FormatError as error:
                print(name, str(error)[-40:])
        status = Path("/proc/self/status").read_text()  # rusage's figure would include the parent's, inherited by fork
        print(int(status.split("VmHWM:")[1].split()[0]) // 1024)
    """
    done = run_program(program, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "copies read" not in done.stdout
    assert "sets read" not in done.stdout
    assert "far read" in done.stdout
    assert int(done.stdout.split()[-1]) < 400


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    value = {"a": [np.arange(4.0), 1, (2.5, "x")], "b": {1, 2}, "c": np.float32(1), "names": ["S001", "S002"], 3: b"xy"}
    contents = (copy for protocol in range(6) for copy in damaged(pickle.dumps(value, protocol), 400, seed=protocol))
    path = tmp_path / "a.pkl"
    values, refusals = read_or_refuse(path, contents, lambda: load_pickle(path))
    assert len(values) + len(refusals) == 2400
    assert len(refusals) > 1000
    assert max(map(len, refusals)) < 600
