"""Configs: what fills them wins in the promised order, nothing unknown or ill-typed gets in, all of it is explained."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import pytest

from asma_fast.config import add_options, as_json, build, from_options, option, read_yaml
from asma_fast.training import configs


@dataclass(frozen=True)
class Base:
    """Base options."""

    lr: float = option(0.1, "learning rate, 5 % say")
    name: str | None = option(None, "a name")


@dataclass(frozen=True)
class Run(Base):
    """Run options."""

    epochs: int = option(3, "passes")
    widths: tuple[int, ...] = option((1, 2), "widths")
    mode: Literal["a", "b"] = option("a", "mode")
    quiet: bool = option(False, "say nothing")
    out: Path = option(Path("out"), "folder")


PRESETS = {"slow": {"lr": 0.2, "epochs": 30, "mode": "b"}}


def parse(*words: str) -> Run:
    parser = argparse.ArgumentParser()
    add_options(parser, Run, PRESETS)
    return from_options(Run, parser.parse_args(words), PRESETS)


def test_options_win_over_the_file_the_file_over_the_preset_the_preset_over_defaults(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("epochs: 40\nmode: a\nwidths: [5]\n")
    config = parse("--preset", "slow", "--config", str(file), "--epochs", "50", "--out", "here")
    assert config == Run(lr=0.2, epochs=50, widths=(5,), mode="a", out=Path("here"))
    assert parse() == Run()


def test_a_flag_can_be_switched_off_again(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("quiet: true\n")
    assert parse("--config", str(file)).quiet
    assert not parse("--config", str(file), "--no-quiet").quiet


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "no option 'epoch'; the nearest is 'epochs'"),
        ({"epochs": "many"}, "epochs must be a whole number, got 'many'"),
        ({"epochs": 2.5}, "epochs must be a whole number, got 2.5"),
        ({"epochs": True}, "epochs must be a whole number, got True"),
        ({"lr": float("nan")}, "lr must be a number, got nan"),
        ({"lr": float("inf")}, "lr must be a number, got inf"),
        ({"epochs": float("inf")}, "epochs must be a whole number, got inf"),
        ({"lr": [1]}, r"lr must be a number, got \[1\]"),
        ({"quiet": "yes please"}, "quiet must be true or false"),
        ({"mode": "c"}, "mode must be one of a, b; got 'c'"),
        ({"widths": 3}, "widths must be a list, got 3"),
        ({"widths": "1,x"}, "widths must be a whole number, got 'x'"),
        ({"out": 7}, "out must be text, got 7"),
    ],
)
def test_what_does_not_fit_is_named_with_its_source(values, message):
    with pytest.raises(ValueError, match=f"run.yaml.*{message}"):
        build(Run, ("run.yaml", values))


def test_a_field_without_default_must_be_given():
    @dataclass(frozen=True)
    class Needs:
        """Needs."""

        path: Path = field(metadata={"help": "where"})

    with pytest.raises(ValueError, match="path must be given: where"):
        build(Needs, ("options", {}))


@pytest.mark.parametrize(
    ("text", "message"),
    [(": :\n- [", "not YAML"), ("- 1\n- 2\n", "must hold a mapping of options, got list"), (None, "cannot be read")],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, message):
    file = tmp_path / "run.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_yaml(file)


def test_json_gives_the_config_back():
    config = Run(widths=(4, 5), out=Path("x/y"), name="n")
    assert build(Run, ("json", as_json(config))) == config


CONFIGS = [getattr(configs, name) for name in dir(configs) if name.endswith("Config")]


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_every_option_of_every_verb_is_explained_and_reachable(kind):
    parser = argparse.ArgumentParser()
    add_options(parser, kind)
    text = " ".join(parser.format_help().split())
    for item in fields(kind):
        flag = item.name if item.metadata["positional"] else "--" + item.name.replace("_", "-")
        assert flag in text
        assert " ".join(item.metadata["help"].split()[:2]) in text
    assert from_options(kind, parser.parse_args([])) == kind()


@pytest.mark.parametrize("preset", sorted(configs.PRETRAIN_PRESETS))
def test_presets_are_valid_and_survive_json(preset):
    config = build(configs.PretrainConfig, (preset, configs.PRETRAIN_PRESETS[preset]))
    assert build(configs.PretrainConfig, ("json", as_json(config))) == config


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("PretrainConfig", {"encoders": ("hh",)}, "an encoder is hl, lh, or JOINTS-FRAMES"),
        ("PretrainConfig", {"encoders": ("hl", "hl")}, "each once"),
        ("PretrainConfig", {"encoders": ()}, "encoders must be named"),
        ("PretrainConfig", {"mask_joints": 1.0}, "must leave something"),
        ("PretrainConfig", {"mask_frames": 0.6, "mask_frames_random": 0.4}, "must leave something"),
        ("PretrainConfig", {"channels": (8, 8), "strides": (1,)}, "as many positive numbers"),
        ("PretrainConfig", {"flip": 1.5}, "flip must be from 0 to 1, got 1.5"),
        ("PretrainConfig", {"batch": 1}, "batch must be at least 2, got 1"),
        ("PretrainConfig", {"crop_share": 0.0}, "crop_share must be above 0"),
        ("PretrainConfig", {"seed": -1}, "seed must be from 0"),
        ("ProbeConfig", {"neighbours": 0}, "neighbours must be at least 1, got 0"),
        ("DemoConfig", {"steps": 0}, "steps must be at least 1, got 0"),
        ("InspectConfig", {"out": "x.gif"}, "out must end in .png or .html"),
    ],
)
def test_values_out_of_range_are_refused(kind, values, message):
    with pytest.raises(ValueError, match=message):
        build(getattr(configs, kind), ("test", values))
