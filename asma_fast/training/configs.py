"""What a training run can be told, as typed configs, and the presets. Needs nothing but the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from asma_fast.config import option
from asma_fast.training.protocols import PROTOCOLS

Rank = Literal["high", "low", "random", "none"]
Stream = Literal["joint", "motion", "bone"]
RANKS: tuple[Rank, ...] = ("high", "low", "random", "none")
DEMO_STEPS = 120
NAMED_MASKINGS: dict[str, tuple[Rank, Rank]] = {"hl": ("high", "low"), "lh": ("low", "high")}


def masking_of(encoder: str) -> tuple[Rank, Rank]:
    """``(joints, frames)`` that an encoder's views lose: of ``hl``, ``lh``, or a pair such as ``high-random``.

    Raises
    ------
    ValueError
        If the name is neither.

    Examples
    --------
    >>> masking_of("hl"), masking_of("high-high")
    (('high', 'low'), ('high', 'high'))
    """
    if encoder in NAMED_MASKINGS:
        return NAMED_MASKINGS[encoder]
    joints, _, frames = encoder.partition("-")
    for rank in RANKS:
        for other in RANKS:
            if (joints, frames) == (rank, other):
                return rank, other
    raise ValueError(
        f"an encoder is {', '.join(NAMED_MASKINGS)}, or JOINTS-FRAMES with each of {', '.join(RANKS)} "
        f"(PSTL's is high-high); got {encoder!r}"
    )


def _within(config: Any, low: float, high: float, *names: str) -> None:
    for name in names:
        if not low <= getattr(config, name) <= high:
            wanted = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
            raise ValueError(f"{name} must be {wanted}, got {getattr(config, name)}")


@dataclass(frozen=True)
class DataConfig:
    """Data."""

    data: Path | None = option(
        None, "the store that `asma-fast prepare` wrote; for pretraining also several, with commas between"
    )
    split: str | None = option(
        None,
        "split of the store, such as xsub; by default its only one; of several stores one for all, or one each",
    )
    protocol: str | None = option(
        None, f"published protocol that the store must have, which names the split: {', '.join(PROTOCOLS)}"
    )
    preprocessing: Literal["default", "aimclr", "small", "pose"] = option(
        "default", "named recipe from recorded frames to clips; a store prepared with one keeps its own"
    )
    frames: int = option(0, "frames of a clip after resizing; 0 keeps the recipe's")
    bodies: int = option(0, "keep the first so many bodies of a clip; 0 keeps the store's")
    layout: str | None = option(
        None, "joint layout that recorded clips are mapped to before preprocessing, such as common-15"
    )
    stream: Stream = option(
        "joint", "what of the preprocessed clip: its joints; motion to the next frame; bones, joint minus parent"
    )
    memory: Literal["auto", "all", "none"] = option(
        "auto", "all: hold the clips in memory; none: make each batch from the store; auto: hold them up to 2 GB"
    )

    def __post_init__(self) -> None:
        _within(self, 0, float("inf"), "frames", "bodies")
        if self.protocol is None:
            return
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}; got {self.protocol!r}")
        split = PROTOCOLS[self.protocol].split
        if self.split not in (None, split):
            raise ValueError(f"split must be {split} for protocol {self.protocol}, got {self.split}")
        object.__setattr__(self, "split", split)


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation."""

    crop: Literal["pad", "resize", "none"] = option(
        "pad", "pad: mirror both ends, then a window of the clip's length; resize: a part of the clip, by nearest frame"
    )
    crop_padding: int = option(6, "pad: mirror T // this many frames at either end")
    crop_share: float = option(0.5, "resize: the shortest part, as a share of the clip")
    shear: float = option(1.0, "off-diagonals of the shear are U(-x, x)")
    rotation: Literal["axis", "vertical", "none"] = option(
        "axis", "axis: one random main axis; vertical: about the axis that points up, either way"
    )
    rotation_main: float = option(30.0, "largest angle about the main axis, degrees")
    rotation_other: float = option(1.0, "largest angle about the others, degrees")
    flip: float | None = option(
        None, "probability of exchanging left and right joints; by default 0.5, or 0 where classes name a side"
    )

    def __post_init__(self) -> None:
        _within(self, 1, float("inf"), "crop_padding")
        _within(self, 0, float("inf"), "shear", "rotation_main", "rotation_other")
        if self.flip is not None:
            _within(self, 0, 1, "flip")
        if not 0 < self.crop_share <= 1:
            raise ValueError(f"crop_share must be above 0 and at most 1, got {self.crop_share}")


@dataclass(frozen=True)
class MaskConfig:
    """Masking; an encoder's name says which joints and frames it loses."""

    joint_weight: Literal["degree", "motion"] = option("degree", "what high and low joints are weighted by")
    joint_exponent: float = option(1.0, "p: weights are degree^p for high, degree^-p for low joints")
    mask_joints: float = option(0.32, "share of the joints that the spatial stream loses")
    mask_frames: float = option(0.2, "share of the frames that the temporal stream loses by rank of their motion")
    mask_frames_random: float = option(0.2, "share of the frames that it loses at random besides")
    score_on: Literal["view", "clip"] = option("view", "rank the frames of the augmented view, or of the raw clip")
    last: Literal["replicate", "zero"] = option(
        "replicate", "motion of the last frame: its predecessor's; or zero, as PSTL has it"
    )

    def __post_init__(self) -> None:
        _within(self, 0, 1, "mask_joints", "mask_frames", "mask_frames_random")
        _within(self, 0, float("inf"), "joint_exponent")
        if self.mask_joints == 1 or self.mask_frames + self.mask_frames_random >= 1:
            raise ValueError("a mask must leave something: the shares of joints and of frames must stay below 1")


@dataclass(frozen=True)
class EncoderConfig:
    """Encoder."""

    channels: tuple[int, ...] = option((16, 16, 16, 16, 32, 32, 32, 64, 64, 256), "channels of each block")
    strides: tuple[int, ...] = option((1, 1, 1, 1, 2, 1, 1, 2, 1, 1), "stride in time of each block")
    dropout: float = option(0.5, "dropout of each block but the first")
    pool: Literal["mean", "present"] = option("mean", "mean over all bodies, or over those present")
    taps: int = option(9, "frames that a temporal convolution sums over")
    separable: bool = option(False, "temporal convolutions of each channel alone, then 1×1 ones: far fewer parameters")
    causal: bool = option(False, "temporal convolutions read no later frames: for streams that run frame by frame")

    def __post_init__(self) -> None:
        _within(self, 0, 0.999, "dropout")
        _within(self, 1, float("inf"), "taps")
        if not self.channels or len(self.channels) != len(self.strides) or min(self.channels + self.strides) < 1:
            raise ValueError(
                f"channels and strides must be as many positive numbers, got {self.channels} and {self.strides}"
            )


@dataclass(frozen=True)
class LossConfig:
    """Barlow Twins."""

    projector: int = option(6144, "width of the projector")
    off_diagonal: float = option(2e-4, "weight of the off-diagonal terms; about 0.01 to 0.02 of batch / projector")

    def __post_init__(self) -> None:
        _within(self, 1, float("inf"), "projector")
        _within(self, 0, float("inf"), "off_diagonal")


@dataclass(frozen=True)
class OptimiserConfig:
    """Optimisation."""

    epochs: int = option(150, "passes over the clips")
    steps: int = option(0, "at least so many steps, in whole epochs, instead of --epochs; 0: epochs count")
    batch: int = option(128, "clips a step, over all devices")
    optimiser: Literal["adam", "adamw"] = option("adam", "Adam with L2 in the gradient, or AdamW")
    lr: float = option(5e-3, "learning rate after warm-up")
    weight_decay: float = option(1e-5, "weight decay")
    warmup: float = option(10.0, "epochs of warm-up from 0; below 1, a share of the run")
    schedule: Literal["epoch", "step"] = option("epoch", "change the learning rate each epoch or each step")

    def __post_init__(self) -> None:
        _within(self, 1, float("inf"), "epochs")
        _within(self, 2, float("inf"), "batch")
        _within(self, 0, float("inf"), "steps", "lr", "weight_decay", "warmup")


@dataclass(frozen=True)
class RunConfig:
    """The run."""

    seed: int = option(0, "everything random follows from this number")
    out: Path = option(Path("asma-run"), "folder for checkpoints and metrics; a run found there is resumed")
    save_every: int = option(1, "epochs between checkpoints")
    stop_after: int = option(0, "stop each encoder after so many epochs of its schedule, to be resumed; 0: never")
    accelerator: Literal["cpu", "gpu", "auto"] = option("auto", "where to run")
    devices: int = option(1, "devices of each host; the loss and batch-norm statistics span all (torchrun: leave it)")
    nodes: int = option(1, "hosts (torchrun: leave it)")
    precision: Literal["32-true", "bf16-mixed"] = option("32-true", "numbers of the forward pass")
    recompute: bool = option(False, "keep only each block's input for the backward pass: less memory, more time")
    workers: int = option(0, "loader processes; with clips in memory 0 is quickest, with --memory none 1 or 2")
    tensorboard: bool = option(False, "also write TensorBoard events")
    progress: bool = option(True, "show a progress bar")

    def __post_init__(self) -> None:
        _within(self, 0, 2**62, "seed")
        _within(self, 1, float("inf"), "save_every", "devices", "nodes")
        _within(self, 0, float("inf"), "stop_after", "workers")


@dataclass(frozen=True)
class TrainingConfig(RunConfig, OptimiserConfig):
    """A run that trains a model."""

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        OptimiserConfig.__post_init__(self)


@dataclass(frozen=True)
class PretrainConfig(TrainingConfig, LossConfig, EncoderConfig, MaskConfig, AugmentConfig, DataConfig):
    """Pretraining."""

    encoders: tuple[str, ...] = option(
        ("hl", "lh"), "hl, lh, or JOINTS-FRAMES, what an encoder's views lose: high, low, random or none of each"
    )
    dry_run: bool = option(
        False, "train nothing: one step of a few clips, then shapes, counts, memory and steps; nothing is written"
    )

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        LossConfig.__post_init__(self)
        EncoderConfig.__post_init__(self)
        MaskConfig.__post_init__(self)
        AugmentConfig.__post_init__(self)
        DataConfig.__post_init__(self)
        if not self.encoders or len(set(self.encoders)) != len(self.encoders):
            raise ValueError(f"encoders must be named, each once; got {','.join(self.encoders) or 'none'}")
        for encoder in self.encoders:
            masking_of(encoder)


@dataclass(frozen=True)
class FeaturesConfig(DataConfig):
    """Frozen features."""

    run: Path = option(Path("asma-run"), "folder of the pretraining run whose encoders' features are joined")
    encoders: tuple[str, ...] = option((), "encoders of the run; by default all")
    checkpoint: Path | None = option(
        None, "instead of a run: one checkpoint of any verb; of a classifier, its encoder gives the features"
    )
    features: Literal["encoder", "random", "raw"] = option(
        "encoder", "trained encoders; the same network untrained, batch-norm calibrated; or the coordinates"
    )
    batch: int = option(128, "clips a batch, and a step of the linear method")
    seed: int = option(0, "everything random follows from this number")
    name: str = option("", "label of the row in tables; by default the encoders and the method")

    def __post_init__(self) -> None:
        super().__post_init__()
        _within(self, 1, float("inf"), "batch")
        _within(self, 0, 2**62, "seed")
        if self.checkpoint is not None and self.encoders:
            raise ValueError("a checkpoint is one network: leave out --encoders, or --checkpoint")


@dataclass(frozen=True)
class ProbeConfig(FeaturesConfig):
    """Probe."""

    method: Literal["logistic", "linear", "knn"] = option(
        "logistic", "L2 logistic regression, C by inner split; a linear layer by Adam, as PSTL; nearest neighbours"
    )
    neighbours: int = option(20, "knn: how many")
    epochs: int = option(150, "linear: passes")
    lr: float = option(0.01, "linear: learning rate of Adam, cosine to 0")
    held_out: bool = option(
        False, "also write scores of training clips by probes that did not see them: for `fuse --weights fitted`"
    )
    out: Path = option(Path("asma-probe.json"), "the record of the probe; logits beside it, as .npz")

    def __post_init__(self) -> None:
        super().__post_init__()
        _within(self, 1, float("inf"), "neighbours", "epochs")


@dataclass(frozen=True)
class DemoConfig:
    """Demo."""

    data: Path | None = option(None, "a prepared store; by default synthetic clips are generated")
    split: str | None = option(None, "protocol of the store; its only one where it has one")
    out: Path = option(Path("asma-demo"), "folder for checkpoints, records and report.html")
    steps: int = option(DEMO_STEPS, "training steps of each encoder")
    clips_per_class: int = option(36, "synthetic clips of each action")
    seed: int = option(0, "everything random follows from this number")
    progress: bool = option(True, "show a progress bar")

    def __post_init__(self) -> None:
        _within(self, 1, float("inf"), "steps", "clips_per_class")
        _within(self, 0, 2**62, "seed")


@dataclass(frozen=True)
class InspectConfig(MaskConfig):
    """Inspect."""

    path: Path | None = option(None, "a raw file (with --dataset), or a prepared store", positional=True)
    dataset: str | None = option(None, "data set of a raw file, named as for prepare")
    index: int | None = option(None, "place of the clip to draw in a store; without it, the store as a whole")
    check: bool = option(False, "print what looks wrong about the store, and exit with status 1 if anything does")
    preprocessing: Literal["default", "aimclr", "small", "pose"] = option(
        "small", "recipe from recorded frames to the clip"
    )
    frames: int = option(0, "frames of the clip after resizing; 0 keeps the recipe's")
    encoders: tuple[str, ...] = option(("hl", "lh"), "maskings to show, named as for pretrain")
    seed: int = option(0, "of the masks")
    out: Path | None = option(
        None,
        "picture to write, .png, or page, .html: of the clip (asma-clip.png unless named), or a sheet of a store's",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _within(self, 0, float("inf"), "frames")
        _within(self, 0, 2**62, "seed")
        if self.index is not None:
            _within(self, 0, float("inf"), "index")
        if self.check and not self.of_store:
            raise ValueError("check is of a whole store: without --index and --dataset")
        if self.out is not None and self.out.suffix.lower() not in (".png", ".html"):
            raise ValueError(f"out must end in .png or .html, got {self.out}")
        if not self.encoders:
            raise ValueError("encoders must name one masking or more")
        for encoder in self.encoders:
            masking_of(encoder)

    @property
    def of_store(self) -> bool:
        """Whether a store as a whole is looked at, not one clip."""
        return self.index is None and self.dataset is None

    @property
    def file(self) -> Path:
        """``path``; ValueError where there is none."""
        if self.path is None:
            raise ValueError("name a store, or a raw file and its --dataset")
        return self.path


# For sets of some hundred clips; shear, projector, off_diagonal and lr as the accuracy study chose them (for PSTL).
_SMALL: dict[str, Any] = {
    "preprocessing": "small",
    "crop": "resize",
    "rotation": "vertical",
    "rotation_main": 45.0,
    "rotation_other": 5.0,
    "shear": 0.5,
    "dropout": 0.0,
    "projector": 256,
    "off_diagonal": 0.005,
    "steps": 5000,
    "batch": 64,
    "optimiser": "adamw",
    "lr": 3e-3,
    "weight_decay": 1e-4,
    "warmup": 0.05,
    "schedule": "step",
}

# asma and pstl differ in what the views lose, and so in the number of encoders, and in the motion of the last frame,
# which PSTL takes for 0. Everything else of the published recipe is the defaults, for all data sets alike: a protocol's
# preset is asma plus the protocol, and --preset pstl --protocol NAME is PSTL under the same.
PRETRAIN_PRESETS: dict[str, dict[str, Any]] = {
    "pstl": {"preprocessing": "aimclr", "encoders": ("high-high",), "last": "zero"},
    "asma": {"preprocessing": "aimclr"},
    "small": _SMALL,
    "demo": {
        **_SMALL,
        "channels": (8, 8, 16, 16, 32, 32),
        "strides": (2, 1, 2, 1, 2, 1),
        "steps": DEMO_STEPS,
    },
    **{name: {"preprocessing": "aimclr", "protocol": name} for name in PROTOCOLS},
}

# PSTL's linear evaluation, whose settings are the defaults of that method.
PROBE_PRESETS: dict[str, dict[str, Any]] = {name: {"method": "linear", "protocol": name} for name in PROTOCOLS}
