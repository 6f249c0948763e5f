"""A comparison of records as Markdown: intervals, differences from a baseline, and published numbers beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from asma_fast.training.bootstrap import Interval, bootstrap_difference
from asma_fast.training.checkpoint import write_text
from asma_fast.training.configs_measure import TableConfig
from asma_fast.training.published import protocol_of, published_beside
from asma_fast.training.records import Labels, read_arrays, read_record


@dataclass(frozen=True, eq=False)
class Row:
    """One line: a result, or several seeds of it.

    Parameters
    ----------
    records
        One for each seed.
    paths
        Their files.
    """

    records: list[dict[str, Any]]
    paths: list[Path]

    @property
    def record(self) -> dict[str, Any]:
        """The first seed's."""
        return self.records[0]

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return float(np.mean([record["accuracy"] for record in self.records]))

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; of one record, over its draws, where it has such."""
        if len(self.records) > 1:
            return float(np.std([record["accuracy"] for record in self.records], ddof=1))
        spread: float | None = self.record.get("spread")
        return spread

    def interval(self) -> Interval:
        """Wilson's 95 % interval of the accuracy, as far as the number of test clips decides it."""
        count = self.record["clips"]["test"]
        found = binomtest(round(self.accuracy * count), count).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high)

    def seeds(self) -> list[tuple[int, int]]:
        """What pairs its records with those of another row, ascending."""
        return sorted(_pairing(record) for record in self.records)

    def hits(self) -> tuple[Labels, NDArray[np.float64]] | None:
        """Ids of the test clips, and ``(S, N)``: by seed, how often each was named right over draws; ascending. None
        where a record has no logits, or seeds were measured on different clips."""
        found = []
        for record, path in sorted(zip(self.records, self.paths, strict=True), key=lambda one: _pairing(one[0])):
            if not record.get("logits"):
                return None
            arrays = read_arrays(path)
            right = (arrays["logits"].argmax(axis=-1) == arrays["labels"]).reshape(-1, len(arrays["ids"]))
            order = np.argsort(arrays["ids"], kind="stable")
            found.append((arrays["ids"][order], right.mean(axis=0)[order]))
        if any(not np.array_equal(ids, found[0][0]) for ids, _ in found):
            return None
        return found[0][0], np.stack([right for _, right in found])


@dataclass(frozen=True)
class Table:
    """Rows in the order of the records; prints as Markdown.

    Parameters
    ----------
    rows
        Of text, by column.
    notes
        Lines below the table.
    """

    rows: list[dict[str, str]]
    notes: list[str]

    def __str__(self) -> str:
        # A column that nothing fills is left out.
        columns = [name for name in self.rows[0] if any(row[name] for row in self.rows)]
        lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(row[name].replace("|", "\\|") for name in columns) + " |" for row in self.rows]
        return "\n".join([*lines, "", *self.notes])


def table(config: TableConfig) -> Table:
    """Compares records; writes the Markdown to ``config.out``, if named.

    Records that differ in their seed alone (same name, kind, protocol, stream, data and budget) are one row: mean ±
    standard deviation. Differences from the baseline are over the clips that both were measured on, with a 95 %
    percentile interval by a paired bootstrap (:func:`~asma_fast.training.bootstrap.bootstrap_difference`): over seeds
    and clips where both have the same seeds, else over clips alone, what another draw of test clips would change.

    Raises
    ------
    ValueError
        If a file is no record, the seeds of the baseline are different rows, or its logits are missing.
    """
    rows = grouped(config.records)
    baseline = _baseline(config.baseline)
    against = None if baseline is None else baseline.hits()
    if baseline is not None and against is None:
        raise ValueError(f"{baseline.paths[0]}: a baseline needs the logits of each of its seeds, on the same clips")
    cells, sources = [], dict[str, None]()
    for row in rows:
        beside = published_beside(row.record)
        sources |= dict.fromkeys(one.source for one in beside)
        protocol = protocol_of(row.record) or ""
        cells.append(
            {
                **_told(row),
                "difference, points": ""
                if baseline is None or against is None
                else _difference(config, row, baseline, against),
                "published, %": ", ".join(f"{one.method} {one.accuracy[protocol]:g}" for one in beside),
            }
        )
    result = Table(cells, _notes(rows, baseline, sources))
    if config.out is not None:
        write_text(config.out, str(result) + "\n")
    return result


def grouped(paths: Sequence[Path]) -> list[Row]:
    """Records by what they measured: those that differ in their seed alone together, in the order of the first.

    Raises
    ------
    ValueError
        If a file is no record, or has no accuracy.
    """
    rows: dict[str, Row] = {}
    for path in dict.fromkeys(paths):
        record = read_record(path)
        if record["accuracy"] is None:
            raise ValueError(f"{path}: has no accuracy to compare, for its clips have no labels; leave it out")
        same = [record.get(name) for name in ("name", "kind", "protocol", "stream", "data", "clips")]
        key = str([*same, _budget(record), list(record.get("conditions", ()))])
        row = rows.setdefault(key, Row([], []))
        # The same seed twice is no second seed.
        if any(_seeds(other) == _seeds(record) for other in row.records):
            row = rows.setdefault(f"{key} {path}", Row([], []))
        row.records.append(record)
        row.paths.append(path)
    return list(rows.values())


def _pairing(record: Mapping[str, Any]) -> tuple[int, int]:
    """Seed of the measurement, and of its first encoder: rows may differ in the number of encoders."""
    measured, *encoders = _seeds(record)
    return measured or 0, next((seed for seed in encoders if seed is not None), -1)


def _seeds(record: Mapping[str, Any]) -> list[Any]:
    """Of the measurement, and of the encoders' runs."""
    return [record["seed"], *(one["config"].get("seed") for one in record.get("encoders", {}).values())]


def _baseline(paths: Sequence[Path]) -> Row | None:
    if not paths:
        return None
    rows = grouped(paths)
    if len(rows) > 1:
        names = ", ".join(row.record["name"] for row in rows)
        raise ValueError(f"baseline must be one record, or seeds of one; got {names}")
    return rows[0]


def _told(row: Row) -> dict[str, str]:
    record = row.record
    data = record.get("data", {})
    low, high = row.interval()
    spread = "" if row.spread is None else f" ± {100 * row.spread:.2f}"
    return {
        "row": str(record["name"]),
        "protocol": str(record.get("protocol", record["kind"])),
        "stream": str(record.get("stream", "")),
        "data": " ".join(str(part) for part in (data.get("dataset"), data.get("split")) if part),
        "budget": _budget(record),
        "seeds": str(len(row.records)) if len(row.records) > 1 else "",
        "accuracy, %": f"{100 * row.accuracy:.2f}{spread}",
        "95 % interval": f"{100 * low:.1f} – {100 * high:.1f}",
    }


def _budget(record: Mapping[str, Any]) -> str:
    """Steps of pretraining, and of training with labels."""
    encoders = [one.get("step") for one in record.get("encoders", {}).values()]
    parts = []
    if encoders and None not in encoders:
        steps = sorted(set(encoders))
        each = "–".join(f"{one:,}" for one in dict.fromkeys((steps[0], steps[-1])))
        parts.append(f"{len(encoders)} × {each} steps" if len(encoders) > 1 else f"{each} steps")
    labelled = record.get("budget", {}).get("steps")
    if labelled is not None:
        parts.append(f"{labelled:,} with labels")
    return " + ".join(parts)


def _difference(config: TableConfig, row: Row, baseline: Row, against: tuple[Labels, NDArray[np.float64]]) -> str:
    if set(row.paths) == set(baseline.paths):
        return "baseline"
    same = row.record.get("data", {}).get("fingerprint") == baseline.record.get("data", {}).get("fingerprint")
    # Under noise the clips are others.
    same = same and row.record.get("conditions", {}).keys() == baseline.record.get("conditions", {}).keys()
    hits = row.hits() if same else None
    if hits is None or not np.array_equal(hits[0], against[0]):
        return "–"
    ours, theirs = hits[1], against[1]
    if row.seeds() != baseline.seeds():
        ours, theirs = ours.mean(0, keepdims=True), theirs.mean(0, keepdims=True)
    mean, (low, high) = bootstrap_difference([ours - theirs], config.resamples, config.seed)
    return f"{100 * mean:+.2f} ({100 * low:+.2f} … {100 * high:+.2f})"


def _notes(rows: Sequence[Row], baseline: Row | None, sources: Mapping[str, None]) -> list[str]:
    notes = ["Intervals are Wilson's, 95 %, over test clips; ± is the standard deviation over seeds or draws."]
    if baseline is not None:
        notes.append(
            f"Differences are from {baseline.record['name']}, with a 95 % paired bootstrap over test clips, and over "
            "seeds where both have the same; – where the clips or logits are not the same."
        )
    if sources:
        notes.append(f"Published numbers were not measured again: {'; '.join(sources)}.")
    seen = [row.record["name"] for row in rows if row.record.get("test_clips_seen")]
    if seen:
        notes.append(f"Pretrained on test clips: {', '.join(seen)}.")
    return notes
