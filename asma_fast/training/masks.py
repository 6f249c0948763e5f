"""Which joints and which frames an encoder's views lose, as views to be applied after the augmentation."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from asma_fast import ops
from asma_fast.skeleton import Skeleton
from asma_fast.training.configs import MaskConfig, Rank, masking_of
from asma_fast.view import View


@dataclass(frozen=True)
class Masking:
    """The two masks of one encoder.

    ASMa's encoder *hl* loses high-degree joints and low-motion frames, *lh* the opposite; PSTL loses high-degree joints
    and high-motion frames, with ``last="zero"``. What is masked is removed, not zeroed.

    Parameters
    ----------
    joints, frames
        Which of them go: those that rank ``"high"`` or ``"low"``, ``"random"`` ones, or ``"none"``. Joints are drawn
        with degree^p (high) or degree^−p (low) as weights; frames are taken by rank, and some at random besides.
    config
        Counts, weights and scores.
    skeleton
        Of the clips.

    Examples
    --------
    >>> masking = Masking.of("hl", MaskConfig(), Skeleton.named("ntu-rgb+d"))
    >>> masking.dropped_joints, masking.dropped_frames(50)
    (8, (10, 10))
    """

    joints: Rank
    frames: Rank
    config: MaskConfig
    skeleton: Skeleton

    @staticmethod
    def of(encoder: str, config: MaskConfig, skeleton: Skeleton) -> Masking:
        """The masking that an encoder's name stands for."""
        return Masking(*masking_of(encoder), config, skeleton)

    @property
    def dropped_joints(self) -> int:
        """How many joints the spatial stream loses."""
        return 0 if self.joints == "none" else _count(self.config.mask_joints, len(self.skeleton))

    def dropped_frames(self, frames: int) -> tuple[int, int]:
        """How many of ``frames`` frames the temporal stream loses by rank, and at random besides."""
        if self.frames == "none":
            return 0, 0
        ranked, extra = (_count(share, frames) for share in (self.config.mask_frames, self.config.mask_frames_random))
        return (0, ranked + extra) if self.frames == "random" else (ranked, extra)

    def spatial(self, clip: torch.Tensor, view: View, *, seed: int, ids: torch.Tensor) -> View:
        """``view`` without the masked joints.

        Parameters
        ----------
        clip
            ``(N, C, T, V, M)``.
        view
            The augmentation.
        seed, ids
            As in :func:`asma_fast.ops.sample_joints`.
        """
        return self._without_joints(clip, view, None, seed, ids)

    def temporal(self, clip: torch.Tensor, view: View, *, seed: int, ids: torch.Tensor) -> View:
        """``view`` without the masked frames; arguments as for :meth:`spatial`."""
        return self._without_frames(clip, view, None, seed, ids)

    def both(self, clip: torch.Tensor, view: View, *, seed: int, ids: torch.Tensor) -> tuple[View, View]:
        """:meth:`spatial` and :meth:`temporal` of one view; where both go by its motion, in one pass over the clip."""
        frames = joints = None
        by_motion = self.joints in ("high", "low") and self.config.joint_weight == "motion"
        if by_motion and self.frames in ("high", "low") and self.config.score_on == "view":
            frames, joints = ops.frame_and_joint_motion(clip, view=view, last=self.config.last)
        spatial = self._without_joints(clip, view, joints, seed, ids)
        return spatial, self._without_frames(clip, view, frames, seed, ids)

    def _without_joints(
        self, clip: torch.Tensor, view: View, motion: torch.Tensor | None, seed: int, ids: torch.Tensor
    ) -> View:
        if self.dropped_joints == 0:
            return view
        kept = ops.sample_joints(self._weights(clip, view, motion), self.dropped_joints, seed=seed, ids=ids)
        return view.then(View(joints=kept))

    def _without_frames(
        self, clip: torch.Tensor, view: View, scores: torch.Tensor | None, seed: int, ids: torch.Tensor
    ) -> View:
        length = clip.shape[2] if view.frames is None else view.frames.shape[1]
        ranked, extra = self.dropped_frames(length)
        if ranked + extra == 0:
            return view
        kept = ops.sample_frames(
            self._scores(clip, view, length) if scores is None else scores,
            ranked,
            remove="low" if self.frames == "low" else "high",
            random_drop=extra,
            seed=seed,
            ids=ids,
        )
        return view.then(View(frames=kept))

    def _weights(self, clip: torch.Tensor, view: View, motion: torch.Tensor | None) -> torch.Tensor:
        if self.joints == "random":
            return clip.new_ones(len(self.skeleton))
        power = self.config.joint_exponent if self.joints == "high" else -self.config.joint_exponent
        if self.config.joint_weight == "degree":
            return torch.as_tensor(self.skeleton.degree, dtype=torch.float32, device=clip.device).pow(power)
        if motion is None:
            motion = ops.joint_motion(clip, view=view)
        mean = motion.mean(1, keepdim=True)
        # A joint that rests would weigh nothing, or without end; a clip at rest has no high and low joints.
        return torch.where(mean > 0, motion / mean, torch.ones_like(motion)).clamp(min=0.01).pow(power)

    def _scores(self, clip: torch.Tensor, view: View, length: int) -> torch.Tensor:
        if self.frames == "random":
            return clip.new_zeros(clip.shape[0], length, dtype=torch.float32)
        if self.config.score_on == "view":
            scores: torch.Tensor = ops.frame_motion(clip, view=view, last=self.config.last)
            return scores
        scores = ops.frame_motion(clip, last=self.config.last)
        return scores if view.frames is None else scores.gather(1, view.frames.long().expand(len(scores), -1))


def _count(share: float, total: int) -> int:
    """Whole ones in ``share`` of ``total``; 0.32 · 25 is 8, whatever binary fractions say."""
    return int(share * total + 1e-9)
