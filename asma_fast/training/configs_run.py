"""What the pipeline can be told, as typed configs. Needs nothing but the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asma_fast.config import option
from asma_fast.training.configs import _within

_FOLDER = Path(__file__).parent / "recipes"
# Recipes that come with the package, by name.
RECIPES = {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


@dataclass(frozen=True)
class PipelineConfig:
    """Pipeline."""

    recipe: Path | None = option(
        None, f"YAML file whose sections are the stages, or one that comes along: {', '.join(RECIPES)}", positional=True
    )
    source: Path | None = option(None, "folder of raw recordings, in place of the recipe's")
    out: Path | None = option(
        None, "folder for all stages and report.html; by default the recipe's, or asma-run; what did not change is kept"
    )
    seed: int | None = option(None, "everything random follows from this number; by default the recipe's, or 0")
    progress: bool = option(True, "show progress bars")

    def __post_init__(self) -> None:
        if self.seed is not None:
            _within(self, 0, 2**62, "seed")


@dataclass(frozen=True)
class ReportConfig:
    """Report."""

    title: str = option("", "of the page; by default the data set")
    note: str = option("", "said above the results")
    projection: Literal["pca", "tsne", "none"] = option("pca", "how features of the test clips are drawn in a plane")
    clips: int = option(2000, "test clips that are drawn, at most")
    seed: int = option(0, "of t-SNE")

    def __post_init__(self) -> None:
        _within(self, 4, float("inf"), "clips")
        _within(self, 0, 2**62, "seed")
