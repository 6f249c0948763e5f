"""Few labels: draws that every method shares, balanced by class, and a record of each draw and their mean."""

from __future__ import annotations

import numpy as np
import pytest
from test_finetune import LIGHT
from toys import tiny, toy_clips, toy_store

from asma_fast.config import build
from asma_fast.training import SemiConfig, pretrain, semi
from asma_fast.training.records import read_logits, read_record
from asma_fast.training.semi import draw, settings_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("semi")
    store = toy_store(folder / "toy.safetensors", 54)
    pretrain(tiny(folder / "run", data=store, split="half", frames=16, epochs=1, encoders="hl"))
    return folder


def config_of(folder, out, **options):
    given = {**LIGHT, "epochs": 2, "data": folder / "toy.safetensors", "run": folder / "run", "out": out}
    return build(SemiConfig, ("light", given), ("test", options))


def counts(clips, rows):
    return np.bincount(clips.labels.numpy()[rows], minlength=3).tolist()


def test_each_class_keeps_its_share_and_at_least_one_clip():
    # 21, 20 and 20 clips a class.
    clips = toy_clips(61)
    config = build(SemiConfig, ("test", {"fractions": "0.01,0.1,0.5", "shots": "1,5"}))
    found = {setting.name: counts(clips, draw(clips, setting.count, 0, 0)) for setting in settings_of(config)}
    assert found == {
        "1pct": [1, 1, 1],
        "10pct": [2, 2, 2],
        "50pct": [10, 10, 10],
        "1shot": [1, 1, 1],
        "5shot": [5, 5, 5],
    }


def test_draws_are_a_function_of_seed_number_and_ids():
    clips = toy_clips(60)
    first = draw(clips, lambda n: 4, 3, 0)
    assert draw(clips, lambda n: 4, 3, 0).tolist() == first.tolist()
    assert draw(clips, lambda n: 4, 3, 1).tolist() != first.tolist()
    assert draw(clips, lambda n: 4, 4, 0).tolist() != first.tolist()
    assert set(first) > set(draw(clips, lambda n: 2, 3, 0))
    # The same clips in another order: the same ones keep their labels.
    order = np.random.default_rng(0).permutation(60)
    turned = clips.take(order)
    assert sorted(order[draw(turned, lambda n: 4, 3, 0)].tolist()) == sorted(first.tolist())
    # Another place to be drawn, by clips of any class: no class is always drawn by the same places.
    assert len({tuple(draw(clips, lambda n: 1, 0, number)) for number in range(12)}) > 6


def test_the_record_holds_each_draw_and_their_mean(run, tmp_path):
    result = semi(config_of(run, tmp_path, fractions="0.25", shots="1", draws=3))
    assert list(result.files) == ["hl-25pct", "hl-1shot"]
    record = read_record(result.files["hl-25pct"])
    assert record == result.records["hl-25pct"]
    accuracies = [one["accuracy"] for one in record["draws"]]
    assert record["accuracy"] == pytest.approx(np.mean(accuracies))
    assert record["spread"] == pytest.approx(np.std(accuracies, ddof=1))
    assert record["clips"] == {"train": 9, "test": 18}
    assert [len(one["clips"]) for one in record["draws"]] == [9, 9, 9]
    logits, labels, _ = read_logits(result.files["hl-25pct"])
    assert logits.shape == (3, 18, 3)
    assert [float((one.argmax(1) == labels).mean()) for one in logits] == pytest.approx(accuracies)
    assert f"± {100 * record['spread']:.2f} %" in str(result)
    assert result.records["hl-1shot"]["protocol"] == "semi, 1 shot"
    # All methods see the same draws.
    scratch = semi(config_of(run, tmp_path, fractions="0.25", draws=3, **{"from": "scratch"}))
    other = scratch.records["scratch-hl-25pct"]
    assert [one["clips"] for one in other["draws"]] == [one["clips"] for one in record["draws"]]
    assert other["test_clips_seen"] == 0


def test_draws_that_are_done_are_not_done_again(run, tmp_path):
    first = semi(config_of(run, tmp_path, fractions="0.25", draws=2))
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    more = semi(config_of(run, tmp_path, fractions="0.25", draws=3))
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    assert after.items() > before.items()
    assert more.records["hl-25pct"]["draws"][:2] == first.records["hl-25pct"]["draws"]


def test_more_shots_than_clips_are_refused_before_anything_is_trained(run, tmp_path):
    with pytest.raises(ValueError, match="class left has only 12 training clips, got 13 shots"):
        semi(config_of(run, tmp_path / "out", shots="13"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": "0"}, "fractions must be above 0 and at most 1, got 0.0"),
        ({"shots": "0"}, "shots must be at least 1, got 0"),
        ({"fractions": "", "shots": ""}, "name fractions or shots"),
        ({"draws": 0}, "draws must be at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(run, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        config_of(run, tmp_path, **options)
