"""What the documentation shows runs: the examples of docstrings, and the README's whole programs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import asma_fast
from asma_fast import Skeleton, View, nn, ops

# The compiled module and __main__ modules hold no examples.
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(asma_fast.__path__, "asma_fast.")
    if not module.name.endswith(("__main__", "._native"))
)
README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
PROGRAMS = [block for block in BLOCKS if "import" in block]
EQUIVALENTS = [block for block in BLOCKS if "import" not in block]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_public_ops_and_modules_have_examples() -> None:
    public = [getattr(ops, name) for name in ops.__all__ if name != "Impl"]
    public += [getattr(nn, name) for name in nn.__all__ if isinstance(getattr(nn, name), type)]
    assert [thing.__name__ for thing in public if ">>>" not in (thing.__doc__ or "")] == []


def _equivalent(word: str, **names: Any) -> dict[str, Any]:
    """What the README's block that holds ``word`` leaves behind."""
    (block,) = [block for block in EQUIVALENTS if word in block]
    names |= {"torch": torch, "ops": ops, "F": torch.nn.functional}
    exec(compile(block, str(README), "exec"), names)
    return names


def test_equivalents_of_the_readme_are() -> None:
    torch.manual_seed(0)
    skeleton = Skeleton.named("sbu")
    edges, joints = torch.tensor(skeleton.edges), len(skeleton)
    named = _equivalent("degree =", edges=edges, joints=joints)
    assert torch.equal(named["degree"].int(), ops.joint_degree(edges, joints))

    x = torch.randn(2, 3, 9, joints, 2)
    frames, kept = torch.tensor([[0, 3, 8, 4], [1, 2, 2, 7]]).int(), torch.tensor([[5, 1, 0], [2, 9, 14]]).int()
    view = View(frames=frames, joints=kept, transform=torch.randn(2, 3, 3))
    named = _equivalent("frame_scores", x=x, view=view)
    torch.testing.assert_close(named["frame_scores"], ops.frame_motion(x, view=view)[:, :-1])
    torch.testing.assert_close(named["joint_scores"], ops.joint_motion(x, view=view))
    torch.testing.assert_close(_equivalent("netvm", x=x, view=view)["out"], ops.gather_view(x, view))

    scores = torch.rand(2, 9)
    named = _equivalent("multinomial", weights=torch.ones(2, 5), scores=scores, drop=4, remove="high")
    assert named["removed"].shape == (2, 4)
    left = ops.sample_frames(scores, 4, remove="high", seed=0)
    for removed, kept_frames in zip(named["by_score"], left, strict=True):
        assert set(removed.tolist()).isdisjoint(kept_frames.tolist())

    feature_map, adjacency = x[..., 0], torch.from_numpy(skeleton.adjacency())
    weight, bias = torch.randn(3, 4, 3), torch.randn(3, 4)
    named = _equivalent("bkotv", x=feature_map, weight=weight, bias=bias, adjacency=adjacency)
    torch.testing.assert_close(named["y"], ops.graph_conv(feature_map, weight, adjacency, bias), rtol=1e-4, atol=1e-5)

    sizes = {"stride": 2, "padding": 3, "dilation": 2, "groups": 3}
    weight, bias = torch.randn(6, 1, 3), torch.randn(6)
    named = _equivalent("conv2d", x=feature_map, weight=weight, bias=bias, **sizes)
    torch.testing.assert_close(named["y"], ops.temporal_conv(feature_map, weight, bias, **sizes), rtol=1e-4, atol=1e-5)

    named = _equivalent("nvcd", x=x, frames=frames)
    for found, wanted in zip(ops.moments(x, frames), (named["first"], named["second"]), strict=True):
        torch.testing.assert_close(found, wanted)

    weight, taps, residual = torch.randn(3, 4, 3), torch.randn(4, 4, 3), torch.randn(2, 4, 9, joints)
    affine = {"scale": torch.rand(4) + 0.5, "shift": torch.randn(4)}
    named = _equivalent(
        "sums =", x=feature_map, weight=weight, adjacency=adjacency, taps=taps, residual=residual, **affine
    )
    y, sums = ops.block_graph_conv(feature_map, weight, adjacency)
    z, _ = ops.block_temporal_conv(y, taps, **affine)
    out = ops.block_output(z, *affine.values(), residual)
    for found, wanted in ((y, named["y"]), (sums, named["sums"]), (z, named["z"]), (out, named["out"])):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert len(EQUIVALENTS) == 8


def test_programs_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(PROGRAMS) >= 3
    names: dict[str, object] = {}
    for program in PROGRAMS:
        exec(compile(program, str(README), "exec"), names)
