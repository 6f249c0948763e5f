"""The C library, its program and its example, built as a user builds them: here, and for aarch64 under qemu."""

from __future__ import annotations

import ctypes
import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from edge.int8_reference import Reference
from edge.networks import clips, file_of, int8_file, logits_of, network
from ops.contract import assert_within_budget, instruction_set, instruction_sets

from asma_fast import Skeleton, __version__
from asma_fast.data import Preprocessing
from asma_fast.edge import Session
from asma_fast.edge.session import WINDOW

SOURCE = Path(__file__).resolve().parents[2]
CROSS = "aarch64-linux-gnu-"
MOST_BYTES = 600_000  # of the stripped library for aarch64
KINDS = {
    "plain": {},
    "separable": {"separable": True, "taps": 3, "bodies": "present"},
    "wide": {"channels": (32, 64, 64, 96), "strides": (1, 1, 1, 2), "taps": 9},
}


@dataclass(frozen=True)
class Installed:
    """Where the library was installed, how its programs are started, and which instruction sets they have."""

    prefix: Path
    example: Path
    emulator: tuple[str, ...]
    instruction_sets: tuple[str, ...]

    def run(self, program: Path, *words: object, isa: str = "", refused: bool = False) -> str:
        """What the program prints; of one that must refuse, its message."""
        environment = {**os.environ, "ASMA_ISA": isa}
        done = subprocess.run(
            [*self.emulator, str(program), *map(str, words)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode != 0) == refused, done.stderr
        return done.stderr.strip() if refused else done.stdout

    def program(self, *words: object, isa: str = "", refused: bool = False) -> str:
        return self.run(self.prefix / "bin/asma-edge", *words, isa=isa, refused=refused)


def build(source: Path, folder: Path, *options: str, install: bool = False) -> None:
    """Configures and builds with CMake."""
    commands = [["cmake", "-S", str(source), "-B", str(folder), *options], ["cmake", "--build", str(folder), "-j", "2"]]
    if install:
        commands.append(["cmake", "--install", str(folder)])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


@pytest.fixture(scope="module", params=["here", "aarch64"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    emulator: tuple[str, ...] = ()
    cross: tuple[str, ...] = ()
    sets: Sequence[str] = instruction_sets()
    if request.param == "aarch64":
        for tool, package in ((f"{CROSS}g++", "g++-aarch64-linux-gnu"), ("qemu-aarch64", "qemu-user")):
            if shutil.which(tool) is None:
                pytest.skip(f"{tool} is not here; Debian's package {package} has it")
        emulator = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu")
        cross = (
            "-DCMAKE_SYSTEM_NAME=Linux",
            "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
            f"-DCMAKE_CXX_COMPILER={CROSS}g++",
            f"-DCMAKE_C_COMPILER={CROSS}gcc",
        )
        sets = ("generic", "neon")
    folder = tmp_path_factory.mktemp(f"c_library_{request.param}")
    prefix, example = folder / "installed", folder / "example"
    options = ("-DASMA_EDGE_ONLY=ON", f"-DCMAKE_INSTALL_PREFIX={prefix}", "-DCMAKE_INSTALL_LIBDIR=lib")
    python = f"-DPython_EXECUTABLE={sys.executable}"
    build(SOURCE, folder / "build", *options, python, *cross, install=True)
    package = prefix / "lib/cmake/asma_edge"
    build(SOURCE / "csrc/edge/example", example, f"-Dasma_edge_DIR={package}", *cross)
    return Installed(prefix, example, emulator, tuple(sets))


@pytest.mark.parametrize("kind", KINDS)
def test_the_program_says_what_a_session_says(kind, library, tmp_path):
    model = network(**KINDS[kind])
    given = clips(3, 2, 50)
    given[1, 0] = 0
    given[2, 1, 3, 2, 0] = np.nan
    path, numbers = file_of(tmp_path, model), tmp_path / "clips.f32"
    given.tofile(numbers)
    heard = given.copy()
    heard[2, 1, 3] = 0
    exact, reference = (logits_of(model, heard, dtype) for dtype in (torch.float64, torch.float32))
    for isa in library.instruction_sets:
        for threads in (1, 2):
            lines = library.program("run", path, numbers, "-m", 2, "-t", 50, "-j", threads, isa=isa).splitlines()
            logits = np.array([line.split() for line in lines], np.float32)
            assert_within_budget(logits, exact, reference, what=f"logits by {isa}", times=4)
            if not library.emulator:
                with instruction_set(isa):
                    wanted = Session(path, max_clips=3).run(given, preprocessed=True)
                np.testing.assert_array_equal(logits, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_int8_says_the_same_bits_on_every_cpu(kind, library, tmp_path):
    given, numbers = clips(3, 2, 50), tmp_path / "clips.f32"
    given[1, 0] = 0
    given.tofile(numbers)
    path = int8_file(tmp_path, network(**KINDS[kind]), given)
    wanted = Reference(path).logits(given)

    def said(on: Installed, isa: str, refused: bool = False) -> str:
        return on.program("run", path, numbers, "-m", 2, "-t", 50, isa=isa, refused=refused)

    machines = {library: instruction_sets(int8=True)}
    if library.emulator:  # a Raspberry Pi 4's CPU has no dot products, a 5's has
        old, new = (replace(library, emulator=(*library.emulator, "-cpu", f"cortex-a{model}")) for model in (72, 76))
        machines = {old: ["generic", "neon", ""], new: ["neon", "neon_dotprod", ""]}
        assert "instruction set 'neon_dotprod' is not supported by this CPU" in said(old, "neon_dotprod", refused=True)
    for machine, sets in machines.items():
        for isa in sets:
            logits = np.array([line.split() for line in said(machine, isa).splitlines()], np.float32)
            np.testing.assert_array_equal(logits, wanted, err_msg=isa)


def test_the_example_and_the_program_name_the_class_of_a_recording(library, tmp_path):
    skeleton = Skeleton.named("ntu-rgb+d")
    names = ["sit down", "wäve", "throw", "drink"]
    model = network(skeleton)
    path = file_of(tmp_path, model, preprocessing=Preprocessing.named("small"), bodies=2, class_names=names)
    recording, numbers = clips(1, 2, 71, 25)[0], tmp_path / "recording.f32"
    recording[1, 5:9] = np.inf
    recording.tofile(numbers)
    wanted = Session(path).classify(recording, top=3)
    for example in ("classify", "classify_static"):
        name, chance = library.run(library.example / example, path, numbers, 2).rsplit(maxsplit=1)
        assert name == wanted[0].name
        assert float(chance) == pytest.approx(wanted[0].probability, abs=2e-3)
    told = [line.split(" %  ") for line in library.program("classify", path, numbers, "-m", 2, "-k", 3).splitlines()]
    assert [name for _, name in told] == [one.name for one in wanted]
    assert [float(share) for share, _ in told] == pytest.approx([100 * one.probability for one in wanted], abs=0.1)


def test_the_program_tells_of_a_model_and_its_times(library, tmp_path):
    path = file_of(tmp_path, network(), class_names=list("abcd"))
    told = library.program("info", path).splitlines()
    assert told[0].startswith(f"asma-edge {__version__}, instruction set ")
    assert told[1:] == ["7 joints of 3 numbers; takes prepared clips only", *"abcd"]
    told = library.program("bench", path, "-n", 3, "-t", 9, "-m", 1, isa="generic").splitlines()
    assert told[0] == "generic, 1 threads, 1 bodies x 9 frames, 3 runs"
    assert told[1].startswith("p50 ")
    assert told[2].startswith("no continual stream: a continual stream needs a causal network")
    told = library.program("bench", causal_file(tmp_path), "-n", 2, "-m", 2).splitlines()
    assert [line.split(":")[0] for line in told[2:]] == ["continual, each frame", "continual, spread, each frame"]
    assert "mean" in told[2]
    assert "longest" in told[2]


def causal_file(folder: Path) -> Path:
    rules = Preprocessing(16, rotate="none")
    return file_of(folder, network(causal=True), preprocessing=rules, bodies=2, rate=30.0)


def test_the_program_refuses_with_a_sentence(library, tmp_path):
    path, numbers, empty = file_of(tmp_path, network()), tmp_path / "clips.f32", tmp_path / "empty"
    clips(1, 1, 5).tofile(numbers)
    empty.touch()
    for words, message in (
        (("run", path, numbers, "-t", 4), "clips.f32: must hold a multiple of 336 bytes, got 420"),
        (("run", path, empty), "empty: cannot be read, or is empty"),
        (("run", path, tmp_path / "no"), "no: cannot be read, or is empty"),
        (("run", path), "run needs a MODEL and a FILE"),
        (("run", path, numbers, "-t", 0), "-t must be a number from 1 to 1000000, got 0"),
        (("run", path, numbers, "-j", "two"), "-j must be a number from 1 to 256, got two"),
        (("run", path, numbers, "more"), "one argument too many: more"),
        (("classify", path, numbers), "the model tells of no preprocessing"),
        (("bench", numbers), "clips.f32: the model file's header should have"),
        (("info", tmp_path / "no"), "no: cannot be opened"),
        (("sing",), "no verb sing"),
        (("bench",), "bench needs a MODEL"),
    ):
        assert message in library.program(*words, refused=True)
    assert "instruction set must be one of" in library.program("bench", path, isa="mmx", refused=True)
    assert "usage: asma-edge" in library.program("-h")


def test_the_library_is_small_and_shows_its_header_alone(library, tmp_path):
    shared = (library.prefix / "lib/libasma_edge.so").resolve()
    tools = CROSS if library.emulator else ""
    shown = subprocess.run(
        [f"{tools}nm", "-D", "--defined-only", str(shared)], capture_output=True, text=True, check=True
    ).stdout
    names = {line.split()[-1] for line in shown.splitlines()}
    header = (library.prefix / "include/asma_edge.h").read_text()
    assert {name for name in names if name + "(" not in header} == set()
    assert len(names) == header.count("\nASMA_EDGE_API ")
    if library.emulator:
        subprocess.run([f"{tools}strip", "-o", str(tmp_path / "stripped"), str(shared)], check=True)
        assert (tmp_path / "stripped").stat().st_size <= MOST_BYTES


class Settings(ctypes.Structure):
    """Of a stream."""

    _fields_ = [
        ("size", ctypes.c_size_t),
        ("seconds", ctypes.c_double),
        ("least_seconds", ctypes.c_double),
        ("hop", ctypes.c_int64),
        ("bodies", ctypes.c_int64),
        *((name, ctypes.c_double) for name in ("rate", "max_rate", "gap", "smoothing", "unknown_below", "hysteresis")),
        ("mode", ctypes.c_int),
        ("pool", ctypes.c_int64),
        ("spread", ctypes.c_int),
        ("streams", ctypes.c_int64),
    ]


class Calls:
    """The library's functions by ctypes, as a program in C calls them."""

    def __init__(self, library: Installed) -> None:
        self.native = ctypes.CDLL(str(library.prefix / "lib/libasma_edge.so"))
        self.native.asma_edge_load.restype = self.native.asma_edge_open.restype = ctypes.c_void_p
        self.native.asma_edge_class_name.restype = ctypes.c_char_p
        self.native.asma_edge_missing.restype = self.native.asma_edge_stream_missing.restype = ctypes.c_int64
        self.native.asma_edge_stream_restarts.restype = ctypes.c_int64
        self.native.asma_edge_stream_open.restype = ctypes.c_void_p
        self.native.asma_edge_stream_defaults.restype = Settings
        self.error = ctypes.create_string_buffer(256)

    def load(self, path: Path | None, most_frames: int = 50) -> ctypes.c_void_p:
        name = None if path is None else str(path).encode()
        return ctypes.c_void_p(self.native.asma_edge_load(name, ctypes.c_int64(most_frames), self.error, 256))

    def open(self, model: ctypes.c_void_p, *sizes: int, threads: int = 1) -> ctypes.c_void_p:
        return ctypes.c_void_p(
            self.native.asma_edge_open(model, *map(ctypes.c_int64, sizes), ctypes.c_int(threads), self.error, 256)
        )

    def run(self, session: ctypes.c_void_p, given: np.ndarray | None, *sizes: int, logits: np.ndarray | None) -> int:
        pointers = [None if array is None else array.ctypes.data_as(ctypes.c_void_p) for array in (given, logits)]
        return int(
            self.native.asma_edge_run(session, pointers[0], *map(ctypes.c_int64, sizes), pointers[1], self.error, 256)
        )

    def settings(self, **given: float) -> Settings:
        settings = self.native.asma_edge_stream_defaults()
        for name, value in given.items():
            setattr(settings, name, value)
        return settings

    def said(self) -> str:
        told = self.error.value.decode()
        self.error.value = b""
        return told


@pytest.mark.parametrize("library", ["here"], indirect=True)
def test_wrong_calls_are_told_and_change_nothing(library, tmp_path):
    calls, model_file = Calls(library), file_of(tmp_path, network())
    assert not calls.load(None)
    assert calls.said() == "path must not be NULL"
    assert not calls.load(tmp_path / "no")
    assert "no: cannot be opened" in calls.said()
    assert not calls.load(model_file, 0)
    assert calls.said() == "max_frames must be from 1 to 1000000, got 0"
    model = calls.load(model_file)
    assert model
    assert calls.native.asma_edge_class_name(model, ctypes.c_int64(0)) == b"0"
    assert calls.native.asma_edge_class_name(model, ctypes.c_int64(4)) is None
    assert calls.native.asma_edge_class_name(model, ctypes.c_int64(-1)) is None
    assert not calls.open(ctypes.c_void_p(), 1, 1)
    assert calls.said() == "model must not be NULL"
    assert not calls.open(model, 0, 1)
    assert calls.said() == "max_clips must be at least 1, got 0"
    assert not calls.open(model, 1, 1, threads=0)
    assert calls.said() == "threads must be from 1 to 256, got 0"
    session = calls.open(model, 2, 1)
    calls.native.asma_edge_free(model)  # the session keeps what it needs
    given, logits = clips(2, 1, 50), np.full((2, 4), 7, np.float32)
    most = 2**62
    for arrays, sizes, message in (
        ((None, logits), (2, 1, 50), "prepared must not be NULL"),
        ((given, None), (2, 1, 50), "logits must not be NULL"),
        ((given, logits), (3, 1, 50), "the session was made for 2 bodies at once, got 3 clips of 1"),
        ((given, logits), (most, most, 50), "the session was made for 2 bodies at once"),
        ((given, logits), (-1, 1, 50), "clips must have at least one body"),
        ((given, logits), (1, 1, 51), "clips must have from 1 to 50 frames, as the session was made for, got 51"),
        ((given, logits), (1, 1, most), "clips must have from 1 to 50 frames"),
    ):
        assert calls.run(session, arrays[0], *sizes, logits=arrays[1]) == 1
        assert message in calls.said()
    assert calls.run(ctypes.c_void_p(), given, 2, 1, 50, logits=logits) == 1
    assert calls.said() == "session must not be NULL"
    assert (logits == 7).all()
    pointer = given.ctypes.data_as(ctypes.c_void_p)
    for sizes in ((1, 50), (most, most), (0, 0)):
        sizes_c = map(ctypes.c_int64, sizes)
        assert calls.native.asma_edge_classify(session, pointer, *sizes_c, pointer, calls.error, 256) == 1
        assert calls.said()
    # A message that is longer than there is room for is cut; none is asked for.
    assert calls.native.asma_edge_run(session, None, *map(ctypes.c_int64, (2, 1, 50)), None, calls.error, 9) == 1
    assert calls.said() == "prepared"
    assert calls.native.asma_edge_run(session, None, *map(ctypes.c_int64, (2, 1, 50)), None, None, 256) == 1
    given[1, 0, 3, 0, 0] = np.nan
    assert calls.run(session, given, 2, 1, 50, logits=logits) == 0
    assert calls.native.asma_edge_missing(session) == 1
    np.testing.assert_array_equal(logits, Session(model_file, max_clips=2).run(given, preprocessed=True))
    calls.native.asma_edge_close(session)
    calls.native.asma_edge_close(None)
    calls.native.asma_edge_free(None)


@pytest.mark.parametrize("library", ["here"], indirect=True)
def test_a_stream_in_c_is_the_stream_of_python(library, tmp_path):
    calls = Calls(library)
    path = file_of(tmp_path, network(), preprocessing=Preprocessing(16, rotate="none"), bodies=2)
    model = calls.load(path)
    opened = calls.open(model, 1, 2)
    defaults = inspect.signature(Session.stream).parameters
    for name, _ in Settings._fields_:
        if name in defaults:
            wanted = {"mode": 0, "pool": 0, "rate": -1, **WINDOW}.get(name, defaults[name].default)
            assert getattr(calls.settings(), name) == wanted
    old = calls.settings(size=8)
    assert not calls.native.asma_edge_stream_open(opened, ctypes.byref(old), calls.error, 256)
    assert "settings must come from asma_edge_stream_defaults of this version" in calls.said()
    options = {"seconds": 0.5, "least_seconds": 0.2, "hop": 3}
    settings = calls.settings(**options)
    stream = ctypes.c_void_p(calls.native.asma_edge_stream_open(opened, ctypes.byref(settings), calls.error, 256))
    assert stream, calls.said()
    calls.native.asma_edge_close(opened)  # the stream keeps what it needs
    calls.native.asma_edge_free(model)
    probabilities, named = np.zeros(4, np.float32), ctypes.c_int64(7)

    def push(frame: np.ndarray, time: float, ids: Sequence[int]) -> int:
        return int(
            calls.native.asma_edge_stream_push(
                stream,
                frame.ctypes.data_as(ctypes.c_void_p),
                ctypes.c_int64(2),
                ctypes.byref(ctypes.c_double(time)),
                (ctypes.c_int64 * len(ids))(*ids),
                probabilities.ctypes.data_as(ctypes.c_void_p),
                ctypes.byref(named),
                calls.error,
                256,
            )
        )

    like = Session(path).stream(**options)
    answers, recorded = 0, np.ascontiguousarray(clips(40, 2, 1)[:, :, 0])
    recorded[9, 1, 3, 1] = np.nan
    for t, frame in enumerate(recorded):
        result = like.push(frame, t / 30, [5, 4])
        assert push(frame, t / 30, [5, 4]) == (result is not None)
        if result is not None:
            answers += 1
            np.testing.assert_array_equal(probabilities, result.probabilities)
            assert named.value == (-1 if result.name is None else int(result.name))
    assert answers == 12
    assert calls.native.asma_edge_stream_missing(stream) == like.missing == 1
    assert push(recorded[0], 0.0, [5, 4]) == -1
    assert calls.said() == "frames must come in order of time, got 0 after 1.3 seconds"
    assert calls.native.asma_edge_stream_reset(stream, calls.error, 256) == 0
    assert calls.native.asma_edge_stream_restarts(stream) == 0
    assert push(recorded[0], 0.0, [5, 4]) == 0
    nobody = (None, ctypes.c_int64(0), ctypes.byref(ctypes.c_double(0.1)), None)  # neither frame nor ids
    told = (probabilities.ctypes.data_as(ctypes.c_void_p), ctypes.byref(named), calls.error, 256)
    assert calls.native.asma_edge_stream_push(stream, *nobody, *told) == 0, calls.said()
    calls.native.asma_edge_stream_close(stream)
    calls.native.asma_edge_stream_close(None)
    assert calls.native.asma_edge_stream_push(None, *nobody, *told) == -1
    assert calls.said() == "stream must not be NULL"
    assert calls.native.asma_edge_stream_reset(None, calls.error, 256) == 1
    for tell in ("joints", "channels", "classes", "takes_recordings", "missing", "stream_missing", "stream_restarts"):
        assert getattr(calls.native, f"asma_edge_{tell}")(None) == 0
    assert calls.native.asma_edge_class_name(None, ctypes.c_int64(0)) is None


@pytest.mark.parametrize("library", ["here"], indirect=True)
def test_a_continual_stream_in_c_is_the_stream_of_python(library, tmp_path):
    calls, path = Calls(library), causal_file(tmp_path)
    opened = calls.open(calls.load(path), 1, 2)
    for given, message in (
        ({"mode": 2}, "mode must be ASMA_EDGE_WINDOW or ASMA_EDGE_CONTINUAL, got 2"),
        ({"mode": 1, "pool": -1}, "pool must be from 1 to 65536 outputs of the last block, got -1"),
        ({"mode": 1, "size": 500}, "settings must come from asma_edge_stream_defaults of this version"),
    ):
        settings = calls.settings(**given)
        assert not calls.native.asma_edge_stream_open(opened, ctypes.byref(settings), calls.error, 256)
        assert message in calls.said()
    # A program of an earlier header knows nothing of modes: what lies behind its settings is not looked at.
    earlier = calls.settings(mode=7, size=Settings.mode.offset)
    assert calls.native.asma_edge_stream_open(opened, ctypes.byref(earlier), calls.error, 256), calls.said()
    for spread, streams in ((0, 1), (1, 1), (1, 2)):
        settings = calls.settings(mode=1, pool=3, spread=spread, streams=streams)
        stream = ctypes.c_void_p(calls.native.asma_edge_stream_open(opened, ctypes.byref(settings), calls.error, 256))
        assert stream, calls.said()
        like = Session(path).stream("continual", pool=3, spread=bool(spread), n_streams=streams)
        probabilities, named = np.zeros((streams, 4), np.float32), (ctypes.c_int64 * streams)()
        told = (probabilities.ctypes.data_as(ctypes.c_void_p), named, calls.error, 256)
        for frame in clips(20, 2 * streams, 1).reshape(20, streams, 2, 7, 3):
            results, pointer = like.push(frame), frame.ctypes.data_as(ctypes.c_void_p)
            answered = calls.native.asma_edge_stream_push(stream, pointer, ctypes.c_int64(2), None, None, *told)
            assert answered == (results is not None)
            for chances, name, result in zip(probabilities, named, results or [], strict=False):
                np.testing.assert_array_equal(chances, result.probabilities)
                assert name == (-1 if result.name is None else int(result.name))
        calls.native.asma_edge_stream_close(stream)
