"""Fusion and tables: sums of logits of the same clips, weights that no test clip chose, intervals that are true."""

from __future__ import annotations

import numpy as np
import pytest
from toys import CLASSES, tiny, toy_store

from asma_fast.cli import main
from asma_fast.config import build
from asma_fast.training import FuseConfig, ProbeConfig, TableConfig, fuse, pretrain, probe, table
from asma_fast.training.configs_measure import STREAM_WEIGHTS
from asma_fast.training.probe import held_out_logits
from asma_fast.training.protocols import PROTOCOLS
from asma_fast.training.published import PUBLISHED, published_beside
from asma_fast.training.records import make_record, read_arrays, read_record, saved, scores_of
from asma_fast.training.table import grouped

DATA = {"dataset": "toy", "fingerprint": "f", "split": "half", "protocol": None, "layout": None}


def record_of(path, logits, labels=None, *, ids=None, classes=CLASSES, arrays=None, **about):
    """A record of made logits."""
    labels = np.arange(logits.shape[-2]) % len(classes) if labels is None else labels
    flat = logits.reshape(-1, len(classes))
    scores = scores_of(flat, np.tile(labels, len(flat) // len(labels)), classes)
    facts = {"protocol": "probe, linear", "data": DATA, "seed": 0, **about}
    record = make_record("probe", scores, ProbeConfig(), {"train": 9, "test": len(labels)}, facts)
    ids = np.arange(len(labels)) if ids is None else ids
    saved(path, record, logits=logits, labels=labels, ids=ids, **(arrays or {}))
    return path


def logits_of(count=30, share=1.0, seed=0, noise=0.5):
    """Logits that name a share of the clips right."""
    rng = np.random.default_rng(seed)
    named = np.arange(count) % 3
    wrong = rng.permutation(count)[: round((1 - share) * count)]
    named[wrong] = (named[wrong] + 1) % 3
    return (2 * np.eye(3)[named] + rng.uniform(-noise, noise, size=(count, 3))).astype(np.float32)


def streams(folder, **options):
    shares = {"joint": 0.8, "motion": 0.6, "bone": 0.7}
    return [
        record_of(folder / f"{stream}.json", logits_of(share=share, seed=n), stream=stream, name=stream, **options)
        for n, (stream, share) in enumerate(shares.items())
    ]


def fused(folder, paths, **options):
    return fuse(build(FuseConfig, ("given", {"records": paths, "out": folder / "fused.json"}), ("test", options)))


def test_logits_are_added_with_the_weights_of_their_streams(tmp_path):
    paths = streams(tmp_path)
    result = fused(tmp_path, paths[::-1])
    arrays = read_arrays(tmp_path / "fused.json")
    wanted = sum(STREAM_WEIGHTS[path.stem] * read_arrays(path)["logits"] for path in paths)
    np.testing.assert_allclose(arrays["logits"], wanted, rtol=1e-6)
    assert result.weights == (0.6, 0.4, 0.6)
    assert result.accuracy == (wanted.argmax(1) == arrays["labels"]).mean()
    record = read_record(tmp_path / "fused.json")
    assert record == result.record
    assert record["stream"] == "bone+motion+joint"
    assert record["protocol"] == "probe, linear"
    assert record["data"] == DATA
    assert [source["accuracy"] for source in record["sources"]] == [0.7, 0.6, 0.8]


def test_one_record_with_all_the_weight_is_that_record(tmp_path):
    paths = streams(tmp_path)
    assert fused(tmp_path, paths, weights="1,0,0").accuracy == 0.8
    equal = fused(tmp_path, paths, weights="equal")
    assert equal.accuracy == fused(tmp_path, paths, weights="2,2,2").accuracy
    assert equal.weights == pytest.approx((1 / 3,) * 3)


def test_draws_are_fused_one_by_one(tmp_path):
    paths = [
        record_of(tmp_path / f"{n}.json", np.stack([logits_of(seed=n), logits_of(share=0.5, seed=5)]), name=str(n))
        for n in range(2)
    ]
    result = fused(tmp_path, paths, weights="equal")
    assert read_arrays(tmp_path / "fused.json")["logits"].shape == (2, 30, 3)
    assert result.accuracy == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"data": {**DATA, "fingerprint": "g"}}, "their fingerprint differs, f and g"),
        ({"data": {**DATA, "split": "xsub"}}, "their split differs, half and xsub"),
        ({"ids": np.arange(30) + 1}, "test clips' ids differ"),
        ({"labels": np.arange(30) % 2}, "test clips' labels differ"),
        ({"classes": ("a", "b", "c")}, "their classes differ"),
    ],
)
def test_other_clips_are_not_fused(tmp_path, other, message):
    first = record_of(tmp_path / "first.json", logits_of())
    second = record_of(tmp_path / "second.json", logits_of(), stream="bone", **other)
    with pytest.raises(ValueError, match=message):
        fused(tmp_path, [first, second])


def test_published_weights_are_of_different_streams(tmp_path):
    paths = [record_of(tmp_path / f"{n}.json", logits_of()) for n in range(2)]
    with pytest.raises(
        ValueError, match="published weights are of one record each of joint, motion, bone, got streams joint"
    ):
        fused(tmp_path, paths)


def test_weights_are_fitted_on_held_out_scores_and_nothing_else(tmp_path):
    def arrays(share, seed):
        labels = np.arange(300) % 3
        return {
            "held_out_logits": logits_of(300, share, seed),
            "held_out_labels": labels,
            "held_out_ids": np.arange(100, 400),
        }

    # On test clips the bad one is perfect: weights that saw them would take it.
    good = record_of(tmp_path / "good.json", logits_of(share=0.4), arrays=arrays(0.95, 1))
    bad = record_of(tmp_path / "bad.json", logits_of(), stream="bone", arrays=arrays(1 / 3, 2))
    weights = fused(tmp_path, [good, bad], weights="fitted").weights
    assert weights[0] > 10 * weights[1] >= 0
    record_of(tmp_path / "good.json", logits_of(share=0.9), arrays=arrays(0.95, 1))
    assert fused(tmp_path, [good, bad], weights="fitted").weights == weights


def test_without_held_out_scores_nothing_is_fitted(tmp_path):
    with pytest.raises(ValueError, match=r"joint.json: has no held-out scores of training clips to fit weights on"):
        fused(tmp_path, streams(tmp_path), weights="fitted")


@pytest.mark.parametrize("weights", ["1,2", "1,2,x", "0,0,0", "-1,1,1", "nan,1,1", "best"])
def test_weights_that_mean_nothing_are_refused(weights):
    with pytest.raises(ValueError, match="weights must be published, equal, fitted, or 3 numbers of at least 0"):
        build(FuseConfig, ("test", {"records": "a,b,c", "weights": weights}))


def test_a_record_is_not_replaced_by_the_sum_it_is_part_of():
    with pytest.raises(ValueError, match=r"out must be another file than the records that are fused, got b.json"):
        build(FuseConfig, ("test", {"records": "a.json,b.json", "out": "b.json"}))


def test_held_out_scores_know_nothing_of_the_clips_they_are_of():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(150, 60)).astype(np.float32), rng.permutation(150) % 3
    scores = held_out_logits(ProbeConfig(), (x, y), CLASSES)
    # Sixty numbers tell 150 clips apart by heart.
    assert abs((scores.argmax(1) == y).mean() - 1 / 3) < 0.15
    with pytest.raises(ValueError, match="two training clips or more of each class, got one of both"):
        held_out_logits(ProbeConfig(), (x[:5], np.array([0, 0, 1, 1, 2])), CLASSES)


def test_three_streams_from_pretraining_to_the_table(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = toy_store(tmp_path / "toy.safetensors", 36)
    for stream in STREAM_WEIGHTS:
        pretrain(tiny(tmp_path / stream, data=store, split="half", frames=16, epochs=1, encoders="hl", stream=stream))
        probe(ProbeConfig(data=store, run=tmp_path / stream, held_out=True, out=tmp_path / f"{stream}.json"))
    files = [f"{stream}.json" for stream in STREAM_WEIGHTS]
    assert main(["fuse", *files, "--weights", "fitted", "--out", "fused.json"]) == 0
    assert main(["table", *files, "fused.json", "--baseline", "joint.json"]) == 0
    shown = capsys.readouterr().out
    assert "| joint+motion+bone |" in shown
    assert shown.count("| baseline |") == 1
    assert main(["fuse", "joint.json"]) == 2
    assert "fusion takes two records or more, got 1" in capsys.readouterr().err


def tabled(paths, **options):
    return table(build(TableConfig, ("given", {"records": paths}), ("test", options)))


def test_intervals_are_wilsons_and_seeds_are_one_row(tmp_path):
    one = record_of(tmp_path / "one.json", logits_of(100, 0.5), name="one")
    seeds = [
        record_of(tmp_path / f"{n}.json", logits_of(100, share, n), name="ours", seed=n)
        for n, share in ((0, 0.7), (1, 0.9))
    ]
    again = record_of(tmp_path / "again.json", logits_of(100, 0.7), name="ours", seed=0)
    rows = tabled([one, *seeds, again]).rows
    assert rows[0]["accuracy, %"] == "50.00"
    assert rows[0]["95 % interval"] == "40.4 – 59.6"  # Brown, Cai and DasGupta, 2001
    assert rows[1]["accuracy, %"] == f"80.00 ± {100 * np.std([0.7, 0.9], ddof=1):.2f}"
    assert rows[1]["seeds"] == "2"
    assert len(rows) == 3
    # Seeds of pretraining count too; other budgets are other rows.
    encoders = [{"hl": {"step": 100, "config": {"seed": n}}} for n in range(2)]
    paths = [record_of(tmp_path / f"run{n}.json", logits_of(), encoders=encoders[n]) for n in range(2)]
    paths.append(
        record_of(tmp_path / "longer.json", logits_of(), encoders={"hl": {"step": 200, "config": {"seed": 2}}})
    )
    assert [len(row.records) for row in grouped(paths)] == [2, 1]


def test_differences_are_paired_over_the_same_clips(tmp_path):
    better, worse = logits_of(share=1.0), logits_of(share=1.0)
    worse[:6] = np.roll(worse[:6], 1, axis=1)
    base = record_of(tmp_path / "base.json", worse, name="base")
    order = np.random.default_rng(0).permutation(30)
    ours = record_of(tmp_path / "ours.json", better[order], (np.arange(30) % 3)[order], ids=order, name="ours")
    other = record_of(tmp_path / "other.json", better, ids=np.arange(30) + 1, name="other")
    elsewhere = record_of(tmp_path / "elsewhere.json", better, name="elsewhere", data={**DATA, "fingerprint": "g"})
    noisy = record_of(tmp_path / "noisy.json", better, name="noisy", conditions={"jitter-1": 1.0})
    result = tabled([base, ours, other, elsewhere, noisy], baseline=[base], out=tmp_path / "table.md")
    told = [row["difference, points"] for row in result.rows]
    assert told[0] == "baseline"
    assert told[1].startswith("+20.00 (+")
    assert told[2:] == ["–", "–", "–"]
    assert (tmp_path / "table.md").read_text() == f"{result}\n"
    assert "published" not in str(result)


def test_a_record_without_accuracy_is_told(tmp_path):
    path = record_of(tmp_path / "unlabelled.json", logits_of(), name="unlabelled", accuracy=None)
    with pytest.raises(ValueError, match=r"unlabelled\.json: has no accuracy to compare"):
        tabled([path])


def test_the_same_seeds_are_paired(tmp_path):
    """What a seed adds to both rows alike is no part of their difference; where seeds differ, it is."""
    paths = {}
    for name, gain in (("base", 0.0), ("ours", 0.1)):
        for seed, share in ((0, 0.5), (1, 0.9)):
            paths[name, seed] = record_of(
                tmp_path / f"{name}{seed}.json", logits_of(100, share + gain), name=name, seed=seed
            )
    both = [paths["base", 0], paths["base", 1], paths["ours", 1], paths["ours", 0]]
    result = tabled(both, baseline=[paths["base", 0], paths["base", 1]])
    assert result.rows[1]["difference, points"].startswith("+10.00 (+")
    assert "over seeds where both have the same" in str(result)
    alone = tabled(both[2:], baseline=[paths["base", 0]])
    assert alone.rows[0]["difference, points"].startswith("+30.00")


def test_published_numbers_stand_beside_the_same_protocol_only(tmp_path):
    ntu = {**DATA, "dataset": "ntu", "split": "xsub", "protocol": "ntu60-xsub"}
    linear = record_of(tmp_path / "linear.json", logits_of(), name="linear", data=ntu)
    three = record_of(tmp_path / "three.json", logits_of(), name="three", data=ntu, stream="joint+motion+bone")
    logistic = record_of(tmp_path / "logistic.json", logits_of(), name="logistic", data=ntu, protocol="probe, logistic")
    toy = record_of(tmp_path / "toy.json", logits_of(), name="toy")
    result = tabled([linear, three, logistic, toy])
    beside = [row["published, %"] for row in result.rows]
    assert beside == ["AimCLR 74.3, PSTL 77.3, MAMP 84.9, AMR 87.4", "PSTL 79.1, ActCLR 84.3, USDRL 87.1", "", ""]
    assert "PSTL: Zhou et al., AAAI 2023" in result.notes[-1]


def test_published_protocols_are_told_by_their_counts_where_no_name_is():
    clips = {"train": 40_091, "test": 16_487}
    record = {
        "kind": "probe",
        "protocol": "probe, linear",
        "stream": "joint",
        "data": {"dataset": "ntu", "split": "xsub"},
        "clips": clips,
        "per_class": dict.fromkeys(range(60)),
    }
    assert [one.method for one in published_beside(record)] == ["AimCLR", "PSTL", "MAMP", "AMR"]
    assert published_beside({**record, "clips": {"train": 40_091, "test": 16_000}}) == []
    for one in PUBLISHED:
        assert one.accuracy.keys() <= PROTOCOLS.keys()


def test_a_baseline_is_one_row_with_logits(tmp_path):
    first, second = (record_of(tmp_path / f"{name}.json", logits_of(), name=name) for name in "ab")
    with pytest.raises(ValueError, match="baseline must be one record, or seeds of one; got a, b"):
        tabled([first], baseline=[first, second])
    record = read_record(first)
    del record["logits"]
    saved(first, record)
    with pytest.raises(ValueError, match="a baseline needs the logits of each of its seeds"):
        tabled([second], baseline=[first])
    assert tabled([first], baseline=[second]).rows[0]["difference, points"] == "–"
