"""``python benchmarks/report.py [JSON] [--out benchmarks/RESULTS.md]``: a run of the benchmarks as tables and plots.

Without a JSON file the suite is run, file by file (``benchmarks/suite.py``), which takes about half an hour. Pictures
go to ``results/`` beside the page. One JSON file gives one page, byte for byte.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import re
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from suite import HERE, run_suite
from targets import Headline, headline_rows

Row = Mapping[str, Any]
#: Amount a second by unit, and by number of threads or device.
Limits = dict[tuple[str, "int | str"], float]
#: Amounts a second; the machine's limits are in the first two.
RATES = ("GFLOP/s", "GB/s", "clips/s")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Tables and plots of a run of the benchmarks.")
    parser.add_argument("json", nargs="?", type=Path, help="of pytest --benchmark-json; without it the suite is run")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md", help="the page; its folder gets results/")
    parser.add_argument("--quick", action="store_true", help="if the suite is run: fewer shapes and rounds")
    parser.add_argument("--save", type=Path, help="if the suite is run: where to keep its JSON")
    options = parser.parse_args(arguments)
    if options.json is not None and (options.quick or options.save):
        parser.error("--quick and --save are for a run of the suite: they do not go with a JSON file")
    try:
        run = read_run(options.json) if options.json else _new_run(options.quick, options.save)
    except (OSError, ValueError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    write_report(run, options.out)
    print(f"wrote {options.out}")
    if run.get("incomplete"):
        print(f"report: the run is incomplete: {', '.join(run['incomplete'])}", file=sys.stderr)
        return 1
    return 0


def _new_run(quick: bool, save: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run = run_suite(Path(folder), quick=quick)
    if save is not None:
        save.write_text(json.dumps(run), encoding="utf-8")
    if not run["benchmarks"]:
        raise ValueError("no file of the suite gave a result: nothing was written")
    return run


def read_run(path: Path) -> dict[str, Any]:
    """A run's JSON.

    Raises
    ------
    ValueError
        If the file is not one that pytest-benchmark wrote.
    """
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(run, dict) or not isinstance(run.get("benchmarks"), list):
        raise ValueError(f"{path} is no result of pytest --benchmark-json: it has no list 'benchmarks'")
    return run


def write_report(run: Mapping[str, Any], out: Path) -> None:
    """The page, and its pictures in ``results/`` beside it."""
    rows, pictures = run["benchmarks"], out.parent / "results"
    pictures.mkdir(parents=True, exist_ok=True)
    found, limits = headline_rows(rows), machine_limits(rows)
    lines = [
        "# Benchmark results",
        "",
        f"{run.get('machine', 'unknown machine')}.",
        "",
        f"{run['datetime'][:10]}, one run of `{run.get('command', 'pytest benchmarks')}`{_duration(run)}.",
        "",
        *_incomplete(run),
        *_gpu(run),
        *_doubt(limits),
        "Times are medians over rounds. Where a table has ratios, rivals of a group ran in turn, round by round, and "
        "a ratio is the median over rounds of the rival's time by ours. GFLOP/s count the direct convolution without "
        "taps in the padding. Shares are of the best matrix product (1024³) or copy (64 MB) on as many threads in the "
        "same run.",
    ]
    if found:
        lines += ["", "## Targets", "", *_headlines(found)]
        _draw_headlines(found, pictures / "targets.png")
        lines += ["", "![measured by target](results/targets.png)"]
    scaling = _scaling(rows)
    if scaling:
        lines += ["", "## Scaling", ""]
        for axis, series in scaling.items():
            name = f"scaling-{re.sub(r'[^a-z0-9]+', '-', axis.lower()).strip('-')}.png"
            _draw_scaling(axis, series, pictures / name)
            lines.append(f"![time over {axis}](results/{name})")
    by_group: dict[str, list[Row]] = {}
    for row in rows:
        by_group.setdefault(row["group"] or row["name"], []).append(row)
    lines += ["", "## Groups"]
    for group in sorted(by_group, key=_natural):
        lines += ["", f"### {group}", "", *_table(by_group[group], limits)]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _duration(run: Mapping[str, Any]) -> str:
    return f" of {run['seconds'] / 60:.0f} minutes" if "seconds" in run else ""


def _incomplete(run: Mapping[str, Any]) -> list[str]:
    files = ", ".join(f"`{file}`" for file in run.get("incomplete", []))
    return [f"**Incomplete**: rows are missing of {files}, whose processes failed.", ""] if files else []


def _gpu(run: Mapping[str, Any]) -> list[str]:
    """Where the groups of ``benchmarks/gpu`` ran, or that they did not."""
    devices = sorted({row["extra_info"]["device"] for row in run["benchmarks"] if "device" in row["extra_info"]})
    if devices:
        return [
            f"GPU groups: {', '.join(devices)}, by the device's events; shares are of its own copy and product.",
            "",
        ]
    why = "no GPU" if not run.get("gpu") else "none of their rows is in this run"
    return [f"GPU groups (`benchmarks/gpu`): not run: {why}.", ""]


def _doubt(limits: Limits) -> list[str]:
    """A second core that adds little was another process's."""
    one, two = (limits.get(("GFLOP/s", threads), 0.0) for threads in (1, 2))
    if not one or not two or two > 1.5 * one:
        return []
    return [
        f"**Not quiet**: matrix products reached {_number(two)} GFLOP/s on two threads, {_number(one)} on one. Other "
        "processes ran beside the benchmarks, or the two threads share a core: mind the spread of ratios, and do not "
        "trust shares of the limit on two threads.",
        "",
    ]


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def machine_limits(rows: Iterable[Row]) -> Limits:
    """Of the fastest round of the run's own matrix products and copies."""
    limits: Limits = {}
    for row in rows:
        info = row["extra_info"]
        if (row["group"] or "").startswith("machine: "):
            for unit in RATES:
                if unit in info:
                    fastest, place = info[unit] * row["stats"]["median"] / row["stats"]["min"], _place(unit, info)
                    limits[unit, place] = max(fastest, limits.get((unit, place), 0.0))
    return limits


def _place(unit: str, info: Mapping[str, Any]) -> int | str:
    """What a rate is a share of: that of as many threads, or of the device, whose products go by precision."""
    if "device" in info:
        return f"{info['device']}, {info['dtype']}" if unit == "GFLOP/s" else str(info["device"])
    return int(info.get("threads", 0))


def _headlines(found: Iterable[Headline]) -> list[str]:
    lines = ["| what | target | measured | rounds | |", "|---|---:|---:|---:|---|"]
    for row in found:
        target = row.target
        spread = "" if row.spread is None else " … ".join(map(target.written, row.spread))
        verdict = "reached" if row.reached else "**missed**"
        lines.append(
            f"| {target.what} | {target.written(target.least)} | {target.written(row.ratio)} | {spread} | {verdict} |"
        )
    return lines


def _table(rows: Sequence[Row], limits: Limits) -> list[str]:
    """One group; columns that no row fills are left out."""
    columns: dict[str, list[str]] = {"": [_label(row) for row in rows], "time": [_time(row) for row in rows]}
    for unit in RATES:
        columns[unit] = [_number(row["extra_info"].get(unit)) for row in rows]
    columns["of the limit"] = [_share(row, limits) for row in rows]
    columns["times as fast as the best rival"] = [_best(row, rows) for row in rows]
    for unit in ("peak MB", "saved MB", "p99 / p50"):
        columns[unit] = [_number(row["extra_info"].get(unit)) for row in rows]
    columns = {name: cells for name, cells in columns.items() if name == "" or any(cells)}
    lines = [f"| {' | '.join(columns)} |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    return lines + [f"| {' | '.join(cells)} |" for cells in zip(*columns.values(), strict=True)]


def _label(row: Row) -> str:
    return str(row["extra_info"].get("rival") or row["param"] or row["name"]).replace("|", "/")


def _time(row: Row) -> str:
    seconds = row["stats"]["median"]
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{_number(seconds * factor)} {unit}"
    return f"{_number(seconds * 1e9)} ns"


def _number(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _share(row: Row, limits: Limits) -> str:
    info = row["extra_info"]
    for unit in RATES:
        most = limits.get((unit, _place(unit, info)))
        if unit in info and most:
            return f"{100 * info[unit] / most:.0f} %"
    return ""


def _best(row: Row, rows: Sequence[Row]) -> str:
    """As the row notes it, rival named; of rows timed one after the other, the ratio of medians, marked by ≈."""
    info = row["extra_info"]
    if "rival" not in info:
        own, others = _others(row, rows)
        return f"≈ {min(others) / own:.2f}" if others else ""
    if "ratio to best rival" not in info:
        return ""
    rivals = [other for other in rows if other["extra_info"].get("kind") == "rival"]
    beaten = f" ({info['best rival']})" if len(rivals) > 1 else ""
    return f"{info['ratio to best rival']:.2f}{beaten}"


def _others(row: Row, rows: Sequence[Row]) -> tuple[float, list[float]]:
    """Of a row ``who="asma"``: its median, and those of rows that differ in nothing else."""

    def rest(other: Row) -> dict[str, Any]:
        return {key: value for key, value in (other.get("params") or {}).items() if key != "who"}

    own = row["stats"]["median"]
    if (row.get("params") or {}).get("who") != "asma":
        return own, []
    return own, [other["stats"]["median"] for other in rows if other is not row and rest(other) == rest(row)]


def _scaling(rows: Iterable[Row]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """``{axis: {series: [(value, seconds)]}}`` of the rows that name an axis and a value on it."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        info = row["extra_info"]
        if "axis" in info and "value" in info:
            series = str(info.get("op") or info.get("rival") or row["group"])
            point = float(info["value"]), float(row["stats"]["median"])
            found.setdefault(str(info["axis"]), {}).setdefault(series, []).append(point)
    return {axis: {name: sorted(found[axis][name]) for name in sorted(found[axis])} for axis in sorted(found)}


# ---- pictures ----


def _figure(width: float, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=90)
    # Few colours make a small file, and Pillow notes no versions in it: the same bytes from the same figures.
    Image.open(drawn).convert("RGB").quantize(64).save(path, optimize=True)
    pyplot.close(figure)


def _draw_headlines(found: Sequence[Headline], path: Path) -> None:
    """Measured by target: what ends right of the line is reached."""
    figure, axes = _figure(8, 0.6 + 0.3 * len(found))
    shares = [row.ratio / row.target.least for row in found][::-1]
    colours = ["tab:green" if row.reached else "tab:red" for row in found][::-1]
    axes.barh([row.target.what for row in found][::-1], shares, color=colours)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("measured / target")
    _save(figure, path)


def _draw_scaling(axis: str, series: Mapping[str, Sequence[tuple[float, float]]], path: Path) -> None:
    """Each series by its own median, beside the line of linear cost."""
    figure, axes = _figure(6, 4)
    ends = [value for points in series.values() for value, _ in points]
    for name, points in series.items():
        values, seconds = zip(*points, strict=True)
        unit = statistics.median(second / value for value, second in points)
        axes.plot(values, [second / unit for second in seconds], marker="o", markersize=3, linewidth=1, label=name[:60])
    axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color="black", linestyle=":", label="linear")
    axes.set(xscale="log", yscale="log", xlabel=axis, ylabel="time, by the series' median time per unit")
    axes.set_xticks(sorted({value for points in series.values() for value, _ in points}), minor=False)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xticks([], minor=True)
    axes.legend(fontsize=6)
    _save(figure, path)


if __name__ == "__main__":
    sys.exit(main())
