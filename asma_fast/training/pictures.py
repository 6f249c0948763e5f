"""Pictures of clips, motion, masks and results, as matplotlib figures without any global state."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from asma_fast import ops
from asma_fast.skeleton import Skeleton
from asma_fast.training.configs import MaskConfig
from asma_fast.training.configs_measure import NOISES
from asma_fast.training.masks import Masking
from asma_fast.view import View

BONE, KEPT, LOST = "#9aa5b1", "#1f5f8b", "#d1495b"
COLOURS = ("#1f5f8b", "#e08e45", "#5b8e7d", "#8c5e99", "#b04a5a", "#7d7d7d")


@dataclass(frozen=True, eq=False)
class Loss:
    """What one encoder's views of a clip lose.

    Parameters
    ----------
    joints
        ``(V,)`` bool: joints that the spatial view loses.
    frames
        ``(T,)`` bool: frames that the temporal view loses.
    """

    joints: NDArray[np.bool_]
    frames: NDArray[np.bool_]


def losses_of(
    clip: torch.Tensor, encoders: Sequence[str], config: MaskConfig, skeleton: Skeleton, seed: int = 0, sample: int = 0
) -> dict[str, Loss]:
    """Encoder → what its views of ``clip (C, T, V, M)`` lose, unaugmented."""
    batch, ids = clip[None], torch.tensor([sample])
    lost = {}
    for encoder in encoders:
        masking = Masking.of(encoder, config, skeleton)
        spatial, temporal = masking.both(batch, View(), seed=seed, ids=ids)
        lost[encoder] = Loss(_missing(spatial.joints, clip.shape[2]), _missing(temporal.frames, clip.shape[1]))
    return lost


def clip_figure(
    clip: torch.Tensor, skeleton: Skeleton, encoders: Sequence[str], config: MaskConfig, *, title: str, seed: int = 0
) -> Figure:
    """A clip ``(C, T, V, M)``: skeletons at six moments, its motion curve with the frames that each encoder's temporal
    view loses, and the joints that its spatial view loses."""
    lost = losses_of(clip, encoders, config, skeleton, seed)
    motion = ops.frame_motion(clip[None], last=config.last)[0].numpy()
    points = _flat(clip, skeleton)
    columns = max(6, 2 * len(encoders))
    figure = Figure(figsize=(11, 7.2), layout="constrained")
    figure.suptitle(title, fontsize=12)
    grid = figure.add_gridspec(3, columns, height_ratios=(1.15, 1, 1.25))
    box = _box(points)
    for column in range(6):
        frame = round(column * (clip.shape[1] - 1) / 5)
        axes = figure.add_subplot(grid[0, column])
        _draw(axes, points[frame], skeleton, box)
        axes.set_title(f"frame {frame}", fontsize=9)
    _curve(figure.add_subplot(grid[1, :]), motion, lost)
    middle = int(np.argmax(motion))
    for place, (encoder, loss) in enumerate(lost.items()):
        axes = figure.add_subplot(grid[2, 2 * place : 2 * place + 2])
        _draw(axes, points[middle], skeleton, box, loss.joints)
        axes.set_title(f"{encoder}: {loss.joints.sum()} of {len(skeleton)} joints lost", fontsize=10)
    return figure


def sheet_figure(clips: Mapping[str, torch.Tensor], skeleton: Skeleton, *, title: str) -> Figure:
    """Title → clip ``(C, T, V, M)``, six in a row, each in the frame of its quickest motion."""
    rows = -(-len(clips) // 6)
    figure = Figure(figsize=(11, 2.1 * rows + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=12)
    for place, (name, clip) in enumerate(clips.items(), start=1):
        frame = int(ops.frame_motion(clip[None])[0].argmax())
        points = _flat(clip, skeleton)[frame : frame + 1]
        axes = figure.add_subplot(rows, 6, place)
        _draw(axes, points[0], skeleton, _box(points))
        axes.set_title(name if len(name) <= 24 else name[:23] + "…", fontsize=8)
    return figure


def loss_figure(losses: Mapping[str, Sequence[float]], *, label: str = "Barlow Twins loss") -> Figure:
    """Mean loss of each epoch, a curve a model."""
    figure = Figure(figsize=(6.5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for colour, (encoder, values) in zip(COLOURS, losses.items(), strict=False):
        axes.plot(range(1, len(values) + 1), values, label=encoder, color=colour)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    if losses:
        axes.legend(frameon=False)
    return figure


def robustness_figure(records: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Name → record of ``robust``: accuracy by amount, a panel for each kind of noise, from none at its left."""
    kinds: dict[str, None] = {}
    for record in records.values():
        kinds |= dict.fromkeys(condition.partition("-")[0] for condition in record["conditions"])
    figure = Figure(figsize=(1.5 + 2.4 * len(kinds), 3), layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        for colour, (name, record) in zip(COLOURS, records.items(), strict=False):
            points = [(0.0, record["clean"])]
            for condition, share in record["conditions"].items():
                own, _, amount = condition.partition("-")
                points += [(float(amount), share)] if own == kind else []
            amounts, shares = zip(*sorted(points), strict=True)
            axes.plot(amounts, [100 * share for share in shares], "o-", color=colour, label=name, ms=4)
        axes.set_xlabel(f"{kind} ({NOISES[kind][1]})")
    panels[0].set_ylabel("accuracy, %")
    panels[0].set_ylim(0, 100)
    panels[-1].legend(frameon=False, fontsize=8)
    return figure


def projection_figure(points: Mapping[str, NDArray[Any]], labels: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Name → ``(N, 2)``, a panel each, three in a row; colours and signs tell classes."""
    columns = min(3, len(points))
    rows = -(-len(points) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.6 * rows + 0.5 + 0.2 * (-(-len(classes) // 4))), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes in panels:
        axes.set_axis_off()
    for axes, (name, found) in zip(figure.axes, points.items(), strict=False):
        for number, label in enumerate(classes):
            own = found[labels == number]
            # As many colours as are told apart, each with several signs.
            colour, sign = f"C{number % 10}", "os^Dv*"[number // 10 % 6]
            axes.scatter(own[:, 0], own[:, 1], s=14, color=colour, marker=sign, linewidths=0, label=label)
        axes.set_title(name, fontsize=10)
        axes.set_aspect("equal", adjustable="datalim")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    return figure


def confusion_figure(confusion: NDArray[np.int64], classes: Sequence[str], *, title: str) -> Figure:
    """Rows true classes, columns named ones, each row as shares."""
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    side = 2.2 + 0.24 * len(classes)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
    axes.set_yticks(range(len(classes)), classes, fontsize=7)
    axes.set_title(title, fontsize=10)
    if len(classes) <= 16:
        for (row, column), count in np.ndenumerate(confusion):
            if count:
                colour = "white" if shares[row, column] > 0.6 else "black"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=6, color=colour)
    return figure


def bars_figure(rows: Mapping[str, Sequence[float]], names: Sequence[str], *, label: str) -> Figure:
    """A group of bars for each of ``names``, one bar for each of ``rows``."""
    figure = Figure(figsize=(max(6.5, 0.42 * len(names) + 2.5), 3.4), layout="constrained")
    axes = figure.add_subplot()
    width, places = 0.8 / max(len(rows), 1), np.arange(len(names))
    for number, (row, values) in enumerate(rows.items()):
        offset = (number - (len(rows) - 1) / 2) * width
        axes.bar(places + offset, values, width, label=row, color=COLOURS[number % len(COLOURS)])
    axes.set_xticks(places, names, rotation=60, ha="right", fontsize=8)
    axes.set_ylabel(label)
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=max(len(rows), 1))
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=95)
    return buffer.getvalue()


def data_uri(figure: Figure) -> str:
    """The figure as a ``data:`` address, to stand inside a page."""
    return "data:image/png;base64," + base64.b64encode(png(figure)).decode()


def _missing(kept: torch.Tensor | None, total: int) -> NDArray[np.bool_]:
    missing = np.zeros(total, dtype=bool)
    if kept is not None:
        missing[:] = True
        missing[kept[0].numpy()] = False
    return missing


def _flat(clip: torch.Tensor, skeleton: Skeleton) -> NDArray[np.float32]:
    """``(T, M, V, 2)``: across and up, as seen from the front."""
    up = "xyz".index(skeleton.up[1])
    across = 0 if up != 0 else 1
    sign = 1.0 if skeleton.up[0] == "+" else -1.0
    array: NDArray[np.float32] = clip.permute(1, 3, 2, 0).numpy()
    return np.stack([array[..., across], sign * array[..., up]], axis=-1)


def _box(points: NDArray[np.float32]) -> tuple[float, float, float]:
    """Middle and half the side of a square that holds the clip."""
    present = points[np.abs(points).sum(axis=(2, 3)) > 0]
    if not present.size:
        return 0.0, 0.0, 1.0
    low, high = present.min(axis=(0, 1)), present.max(axis=(0, 1))
    middle = (low + high) / 2
    return float(middle[0]), float(middle[1]), float((high - low).max() / 2 * 1.08 + 1e-6)


def _draw(
    axes: Any,
    bodies: NDArray[np.float32],
    skeleton: Skeleton,
    box: tuple[float, float, float],
    lost: NDArray[np.bool_] | None = None,
) -> None:
    gone = np.zeros(len(skeleton), dtype=bool) if lost is None else lost
    for body in bodies:
        if not np.any(body):
            continue
        for a, b in skeleton.edges:
            broken = gone[a] or gone[b]
            axes.plot(body[[a, b], 0], body[[a, b], 1], color=BONE, lw=1.6, ls=":" if broken else "-", zorder=1)
        axes.scatter(body[~gone, 0], body[~gone, 1], s=12, color=KEPT, zorder=2)
        if gone.any():
            axes.scatter(body[gone, 0], body[gone, 1], s=46, facecolors="white", edgecolors=LOST, lw=1.8, zorder=3)
    x, y, half = box
    axes.set_xlim(x - half, x + half)
    axes.set_ylim(y - half, y + half)
    axes.set_aspect("equal")
    axes.set_axis_off()


def _curve(axes: Any, motion: NDArray[np.float32], lost: Mapping[str, Loss]) -> None:
    axes.plot(motion, color=KEPT)
    step = 0.12 * float(motion.max() or 1)
    for place, (encoder, loss) in enumerate(lost.items(), start=1):
        frames = np.flatnonzero(loss.frames)
        axes.scatter(frames, np.full(len(frames), -place * step), marker="s", s=26, color=LOST, edgecolors="none")
        axes.annotate(
            f"{encoder} loses", (0, -place * step), (-8, 0), textcoords="offset points", ha="right", va="center"
        )
    axes.set_yticks([])
    axes.set_xlabel("frame")
    axes.set_title("motion of each frame, and the frames that each temporal view loses", fontsize=10)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
