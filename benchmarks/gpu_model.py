"""``python benchmarks/gpu_model.py``: writes ``benchmarks/GPU_MODEL.md``, what a GPU is predicted to take, on paper.

The parent's code and ours are counted (``gpu_parent.py``, ``gpu_ours.py``), times follow by ``gpu_roofline.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import gpu_ours
import gpu_parent
import torch
from gpu_parent import ADAM, BODIES, CLIPS, COORDINATES, JOINTS, REST, ROWS, STREAMS, Counts, Stream
from gpu_roofline import CORES, DEVICES, FULL_WIDTH, H100, LAUNCH, MEMORY, PRECISIONS, RTX_4090, TENSOR_CORES
from gpu_traffic import Kernel, count
from works import FirstLayer

HERE = Path(__file__).resolve().parent
PAGE = HERE / "GPU_MODEL.md"
#: Seconds between kernels of a captured CUDA graph.
CAPTURED = 1e-6
DECIMALS = ((100, 0), (10, 1), (0, 2))


def main() -> int:
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


def page(text: str | None = None) -> str:
    """The page with every table written anew."""
    text = PAGE.read_text(encoding="utf-8") if text is None else text
    for name, lines in TABLES.items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not mark or not end:
            raise ValueError(f"{PAGE.name} has no place for {name}")
        text = f"{before}{mark}{chr(10).join(lines())}\n{end}{after}"
    return text


# ---- tables ----


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    marks = ["---"] * left + ["---:"] * (len(header) - left)
    return [f"| {' | '.join(cells)} |" for cells in (header, marks, *rows)]


def number(value: float) -> str:
    """About three digits."""
    for least, digits in DECIMALS:
        if value >= least:
            return f"{value:,.{digits}f}" if value >= 0.01 or value == 0 else f"{value:.1g}"
    raise ValueError(f"value must not be negative, got {value}")


def _factor(theirs: float, own: float) -> str:
    return f"{theirs / own:.1f}×" if own else ""


def _moved(kernels: Iterable[Kernel]) -> float:
    return sum(one.moved for one in kernels)


def _flop(kernels: Iterable[Kernel]) -> float:
    return sum(one.flop for one in kernels)


@lru_cache
def eval_traffic(stream: Stream) -> tuple[float, float, float, list[Kernel]]:
    """Bytes of a batch's view, input normalisation in eval mode and first graph convolution: one read of the kept
    frames and one write of the result; ours; the moments pass that training adds; and the parent's kernels."""
    layer = FirstLayer(stream.name, CLIPS)
    layer.draws = gpu_parent.half_flipped(CLIPS)
    with torch.no_grad():
        theirs = count(layer.eager)
    frames_read = 4.0 * CLIPS * BODIES * COORDINATES * JOINTS * stream.frames
    forward, _, passes = gpu_ours.encoder_pass(stream)
    (own,) = (one.moved for one in forward if one.name == "first graph_conv")
    sums = 8.0 * 2 * FirstLayer.channels
    (moments,) = (one.moved for one in passes.cached if one.name == "moments")
    return frames_read + layer.result_bytes, own - sums, moments, theirs


def first_convolution() -> list[str]:
    rows = []
    for stream in STREAMS:
        floor, own, moments, theirs = eval_traffic(stream)
        cells = [stream.name, *(number(value / 1e6) for value in (floor, own, moments, _moved(theirs)))]
        cells += [f"{own / floor:.2f}×", f"{moments / own:.0%}", f"{_moved(theirs) / floor:.1f}×"]
        rows.append([*cells, str(len(theirs))])
    header = ["stream", "floor, MB", "ours, MB", "moments, MB", "parent's, MB", "ours / floor", "moments / ours"]
    return _table([*header, "parent's / floor", "parent's kernels"], rows)


def single_ops() -> list[str]:
    """Forward passes of one op each."""
    forward, _, passes = gpu_ours.encoder_pass(STREAMS[0])
    rows = []
    masks, at_least = gpu_ours.masks()
    rows.append(_single("motion, sampling, both gathered", "", gpu_parent.masks(), masks, at_least.least))
    own = {name: iter([one for one in forward if one.name == name]) for name in ("graph_conv", "temporal_conv")}
    floor = {name: iter([one for one in passes.least[: len(passes.least) // 2] if one.name == name]) for name in own}
    for name, sizes, theirs in gpu_parent.layers():
        row = _single(name, sizes, theirs, [next(own[name])], [next(floor[name])])
        if row not in rows:
            rows.append(row)
    rows.append(_single("Barlow Twins", "both losses, both ways", *_losses()))
    header = ["op", "sizes", "MB parent", "ours", "least", "GFLOP parent", "ours", "least"]
    return _table([*header, "H100 µs parent", "ours", "roof", "of the roof"], rows, left=2)


def _losses() -> tuple[list[Kernel], list[Kernel], list[Kernel]]:
    return gpu_parent.loss(), gpu_ours.loss(), gpu_ours.least_loss()


def _single(
    name: str, sizes: str, theirs: Sequence[Kernel], own: Sequence[Kernel], least: Sequence[Kernel]
) -> list[str]:
    each = (theirs, own, least)
    seconds = [H100.seconds(kernels, "TF32") for kernels in (theirs, own)]
    roof = H100.ceiling(least, "TF32")
    cells = [name, sizes, *(number(_moved(one) / 1e6) for one in each), *(number(_flop(one) / 1e9) for one in each)]
    return [*cells, *(number(value * 1e6) for value in (*seconds, roof)), f"{roof / seconds[1]:.0%}"]


def _total(parts: Counts) -> list[Kernel]:
    return [kernel for kernels in parts.values() for kernel in kernels]


def step_counts() -> list[str]:
    parent, ours, least = gpu_parent.step(), gpu_ours.step(), gpu_ours.least()
    rows = []
    for row in (*ROWS, "**sum**"):
        each = [_total(parts) if row == "**sum**" else parts[row] for parts in (parent, ours, least)]
        cells = [number(_moved(one) / 1e9) for one in each] + [number(_flop(one) / 1e9) for one in each]
        rows.append([row, *cells, f"{len(each[0]):,}", f"{len(each[1]):,}"])
    header = ["part", "GB parent", "ours", "least", "GFLOP parent", "ours", "least", "kernels parent", "ours"]
    return _table(header, rows)


def step_times() -> list[str]:
    parent, ours, least = gpu_parent.step(), gpu_ours.step(), gpu_ours.least()
    rows = []
    for row in (*ROWS, "**sum**"):
        theirs, own, floor = (_total(parts) if row == "**sum**" else parts[row] for parts in (parent, ours, least))
        cells = [row]
        for device in DEVICES:
            before, after = (device.seconds(kernels, "TF32") for kernels in (theirs, own))
            roof = device.ceiling(floor, "TF32") if floor else 0.0
            share = f"{roof / after:.0%}" if floor else ""
            cells += [number(before * 1e3), number(after * 1e3), _factor(before, after), share]
        rows.append(cells)
    header = [f"{H100.name}: ms parent", "ours", "factor", "of the roof"]
    return _table(["part", *header, f"{RTX_4090.name}: ms parent", *header[1:]], rows)


def whole_step() -> list[str]:
    rows = []
    for device in DEVICES:
        for precision in PRECISIONS:
            half = precision == "bfloat16"
            maps = 0.5 if half else 1.0
            parent = gpu_parent.step(torch.bfloat16 if half else torch.float32)
            theirs, fused = _total(parent), _total(parent | {ADAM: gpu_ours.least_adam()})
            own, better, least = (_total(made(maps)) for made in (gpu_ours.step, gpu_ours.improved, gpu_ours.least))
            cells = [device.name, precision]
            times = [[device.seconds(one, precision, launch) for one in (theirs, own)] for launch in (LAUNCH, CAPTURED)]
            for before, after in times:
                cells += [number(before * 1e3), number(after * 1e3), _factor(before, after)]
            last, roof = device.seconds(better, precision, CAPTURED), device.ceiling(least, precision)
            before = device.seconds(fused, precision, CAPTURED)
            cells += [number(last * 1e3), _factor(before, last), number(roof * 1e3), f"{roof / last:.0%}"]
            rows.append(cells)
    header = ["device", "precision", "ms parent", "ours", "factor", "captured: parent", "ours", "factor"]
    return _table([*header, "ours, improved", "factor", "roof", "of the roof"], rows, left=2)


def assumptions() -> list[str]:
    """What ``gpu_roofline`` takes for granted."""
    rows = []
    for device in DEVICES:
        rates = [number(device.flop[precision] / 1e12) for precision in PRECISIONS]
        rows.append([device.name, number(device.memory / 1e12), *rates])
    lines = _table(["data sheet", "TB/s", *(f"{precision}, TFLOP/s" for precision in PRECISIONS)], rows)
    return [
        f"Counted on torch {torch.__version__.partition('+')[0]} on a CPU.",
        "",
        *lines,
        "",
        f"- A kernel reaches {MEMORY:.0%} of the memory's rate, {TENSOR_CORES:.0%} of the tensor cores' in a product "
        f"whose narrowest side is at least {FULL_WIDTH}, proportionally less in a narrower one or {CORES:.0%} of the "
        f"other cores', whichever is faster; the next kernel starts {LAUNCH * 1e6:.0f} µs after it at the earliest.",
    ]


def summary() -> list[str]:
    """The page in a few lines."""
    ratios = [(own / floor, _moved(theirs) / floor) for floor, own, _, theirs in map(eval_traffic, STREAMS)]
    ours, theirs = zip(*ratios, strict=True)
    parent, own, least = (_total(made()) for made in (gpu_parent.step, gpu_ours.step, gpu_ours.least))
    small = gpu_ours.step()[REST]
    lines = [
        f"- View and first graph convolution in eval mode: at most {max(ours):.2f}× one read of the kept frames and "
        f"one write of the result (to reach: 1.15×); the parent's code {min(theirs):.0f} to {max(theirs):.0f}×.",
        f"- A pretraining step: {number(_moved(parent) / 1e9)} GB in the parent's code, {number(_moved(own) / 1e9)} in "
        f"ours, {number(_moved(least) / 1e9)} at least; {len(parent):,} kernels in the parent's code, {len(own):,} in "
        f"ours, {len(small):,} of them sums of gradients and small arithmetic between the ops.",
    ]
    for device in DEVICES:
        before, after = (device.seconds(kernels, "TF32") for kernels in (parent, own))
        captured = [device.seconds(kernels, "TF32", CAPTURED) for kernels in (parent, own)]
        better = device.seconds(_total(gpu_ours.improved()), "TF32", CAPTURED)
        lines.append(
            f"- {device.name}, TF32: {number(before * 1e3)} ms in the parent's code, {number(after * 1e3)} in ours; "
            f"captured as a CUDA graph {number(captured[0] * 1e3)} and {number(captured[1] * 1e3)}, after the two "
            f"changes named below {number(better * 1e3)}."
        )
    return lines


TABLES: dict[str, Callable[[], list[str]]] = {
    "summary": summary,
    "assumptions": assumptions,
    "first": first_convolution,
    "ops": single_ops,
    "step": step_counts,
    "times": step_times,
    "whole": whole_step,
}

if __name__ == "__main__":
    sys.exit(main())
