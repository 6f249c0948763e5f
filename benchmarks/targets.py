"""What this package wants to reach, and where a run says how far it is: in ``extra_info`` of one row each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

STEP = "pretraining step, 128 clips, projector 6144, 2 threads"
STEP_COMPILED = f"{STEP}, torch.compile"
MASKING = "masking: motion + sampling + gather, {} clips, 2 threads"
POINTWISE = "micro-kernel 64→256 ×1, T=13, 1 threads"
CLIP = "edge: {}, clips: 1, threads: 1"
INT8 = "edge, int8: student, clips: 1, threads: 1"
FRAME = "edge, stream: {}, frames: 4, threads: 1"
NINE_TAPS = "micro-kernel 256→256 ×9, T=13, 1 threads"


@dataclass(frozen=True)
class Target:
    """One line of the table.

    Parameters
    ----------
    what
        In words.
    group, row, key
        The row, and its entry of ``extra_info``: a median of ratios.
    least
        To be reached.
    percent
        Whether the ratio is written as a percentage.
    """

    what: str
    group: str
    row: str
    key: str
    least: float
    percent: bool = False

    def written(self, ratio: float) -> str:
        """A ratio as the table has it."""
        return f"{100 * ratio:.0f} %" if self.percent else f"{ratio:.2f}×"


_OURS, _BEST = "asma_fast", "ratio to best rival"
TARGETS = (
    Target("encoder forward, batch 32", "encoder forward, 32 clips, 2 threads", _OURS, _BEST, 2.5),
    Target(
        "encoder forward + backward, dropout 0.5, batch 32",
        "encoder forward + backward, 32 clips, 2 threads",
        _OURS,
        _BEST,
        2.2,
    ),
    Target("pretraining step against PSTL-style code", STEP, _OURS, "ratio to eager", 2.2),
    Target("pretraining step against the better of both layouts", STEP, _OURS, _BEST, 2.0),
    Target("pretraining step against torch.compile", STEP_COMPILED, _OURS, _BEST, 2.0),
    Target(
        "view + first graph convolution, batch 128",
        "fused view + graph_conv, spatial stream, 128 clips, 2 threads",
        _OURS,
        "ratio to eager",
        20.0,
    ),
    Target("motion + sampling + gather, batch 128", MASKING.format(128), _OURS, "ratio to eager", 10.0),
    Target(
        "motion + sampling + gather, batch 2048: share of copy",
        MASKING.format(2048),
        _OURS,
        "ratio to copy of as many bytes",
        0.6,
        True,
    ),
    Target("64→256: share of sgemm", POINTWISE, _OURS, "ratio to sgemm", 1.0, True),
    Target("256→256 ×9 (Winograd): share of sgemm", NINE_TAPS, _OURS, "ratio to sgemm", 1.65, True),
    Target("encoder forward: 2 threads against 1", "threads: encoder forward, 32 clips", "2 threads", _BEST, 1.8),
    Target(
        "encoder forward + backward: 2 threads against 1",
        "threads: encoder forward + backward, 32 clips",
        "2 threads",
        _BEST,
        1.8,
    ),
    Target(
        "Barlow Twins, N=128, D=6144, forward + backward",
        "Barlow Twins, N=128, D=6144, forward + backward, 2 threads",
        _OURS,
        "ratio to D×D",
        20.0,
    ),
    Target("edge, PSTL's encoder", CLIP.format("PSTL's encoder"), _OURS, _BEST, 1.8),
    Target(
        "edge, PSTL's encoder, rivals on its published code",
        CLIP.format("PSTL's encoder as published"),
        _OURS,
        _BEST,
        1.8,
    ),
    Target("edge, student", CLIP.format("student"), _OURS, _BEST, 2.2),
    Target("edge, student against ONNX Runtime", CLIP.format("student"), _OURS, "ratio to ONNX Runtime", 3.0),
    Target(
        "edge, student against its teacher in eager PyTorch",
        CLIP.format("student against its teacher"),
        _OURS,
        _BEST,
        20.0,
    ),
    Target("edge, int8 student against our float32", INT8, _OURS, "ratio to asma_fast, float32", 1.6),
    Target("edge, int8 student against the best rival's int8", INT8, _OURS, _BEST, 3.0),
    *(
        Target(
            f"edge, a frame of a continual stream against 50 frames again, {what}",
            FRAME.format(what),
            _OURS,
            "ratio to the last 50 frames again",
            20.0,
        )
        for what in ("student", "PSTL's encoder")
    ),
    *(
        Target(f"{what}: AVX2 against AVX-512", f"instruction sets: {what}", "avx2", "ratio to avx512", 0.45, True)
        for what in ("graph_conv", "temporal_conv", "encoder forward + backward")
    ),
)


@dataclass(frozen=True)
class Headline:
    """A target and what was measured."""

    target: Target
    ratio: float
    spread: tuple[float, float] | None

    @property
    def reached(self) -> bool:
        return self.ratio >= self.target.least


def headline_rows(rows: Iterable[Mapping[str, Any]]) -> list[Headline]:
    """The targets that these rows (``group``, ``extra_info``) tell of, in the table's order."""
    known = {(row["group"], row["extra_info"].get("rival")): row["extra_info"] for row in rows}
    found = []
    for target in TARGETS:
        info = known.get((target.group, target.row), {})
        if target.key in info:
            low_high = info.get(f"spread of {target.key}")
            found.append(Headline(target, info[target.key], None if low_high is None else tuple(low_high)))
    return found


def headline_text(found: Iterable[Headline]) -> list[str]:
    """The table as lines of text."""
    lines = [f"{'what':<56} {'target':>8} {'measured':>9}  rounds"]
    for row in found:
        target = row.target
        spread = "" if row.spread is None else " … ".join(map(target.written, row.spread))
        verdict = "reached" if row.reached else "missed"
        lines.append(
            f"{target.what:<56} {target.written(target.least):>8} {target.written(row.ratio):>9}  {spread}  {verdict}"
        )
    return lines
