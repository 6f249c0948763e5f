"""Reading an NTU RGB+D file of 300 frames, beside two plain Python readers: one that, like ours, checks every number of
a line, and one that looks only at those a clip keeps."""

import numpy as np
import pytest
from rates import note_rate

from asma_fast import data

FRAMES = 300


@pytest.fixture(scope="module", params=[1, 2], ids=["one body", "two bodies"])
def recording(request, tmp_path_factory):
    """A made file with as many digits as the genuine ones have."""
    rng = np.random.default_rng(0)
    lines = [str(FRAMES)]
    for _ in range(FRAMES):
        lines.append(str(request.param))
        for body in range(request.param):
            lines += [f"{72057594037931101 + body} 0 1 1 1 1 0 {rng.normal():.7g} {rng.normal():.7g} 2", "25"]
            places = rng.normal((0, 0, 3.5), (0.5, 0.5, 0.3), (25, 3))
            pixels = rng.uniform(0, (512, 424, 1920, 1080), (25, 4))
            turns = rng.normal(size=(25, 4)) / 2 * (rng.random((25, 1)) > 0.2)
            states = rng.choice(3, 25, p=(0.01, 0.1, 0.89))
            for row, state in zip(np.hstack([places, pixels, turns]), states, strict=True):
                lines.append(f"{' '.join(f'{number:.7g}' for number in row)} {state}")
    path = tmp_path_factory.mktemp("ntu") / "S001C001P001R001A001.skeleton"
    path.write_text("\n".join(lines) + "\n")
    return path


def _ours(path):
    clip = data.read_clip(path, "ntu")
    return clip.frames, clip.missing


def _python(path):
    return _plain(path, lambda line: [float(word) for word in line.split()])


def _python_kept(path):
    def numbers(line):
        words = line.split()
        return [float(words[0]), float(words[1]), float(words[2]), float(words[-1])]

    return _plain(path, numbers)


def _plain(path, numbers):
    with open(path) as lines:
        count = int(next(lines))
        frames, missing = np.zeros((2, count, 25, 3), np.float32), np.zeros((2, count, 25), bool)
        for t in range(count):
            for m in range(int(next(lines))):
                numbers(next(lines))
                joints = [numbers(next(lines)) for _ in range(int(next(lines)))]
                if m < 2:
                    frames[m, t] = [joint[:3] for joint in joints]
                    missing[m, t] = [joint[-1] == 0 for joint in joints]
    return frames, missing


READERS = {"asma": _ours, "python": _python, "python, kept columns": _python_kept}


@pytest.mark.parametrize("who", READERS)
def test_read_clip(benchmark, who, recording):
    benchmark.group = f"read_clip ntu {recording.stat().st_size / 1e6:.1f} MB"
    for found, expected in zip(READERS[who](recording), _python(recording), strict=True):
        np.testing.assert_array_equal(found, expected)
    benchmark(READERS[who], recording)
    note_rate(benchmark, "GB/s", recording.stat().st_size)
