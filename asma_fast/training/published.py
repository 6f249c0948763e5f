"""Published results to hold beside one's own: top-1 accuracy in percent. Needs the standard library.

Most stand in several papers' tables, each copied from the last; none was measured again here. A result counts as
comparable where data, split and evaluation are the same; networks, budgets and, for transfer, the data set that was
pretrained on are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asma_fast.training.protocols import PROTOCOLS

_SIXTY = ("ntu60-xsub", "ntu60-xview")
_BOTH = (*_SIXTY, "ntu120-xsub", "ntu120-xset")
_ALL = (*_BOTH, "pku2-xsub")

AIMCLR = "AimCLR: Guo et al., AAAI 2022"
PSTL = "PSTL: Zhou et al., AAAI 2023"
ACTCLR = "ActCLR: Lin et al., CVPR 2023"
MAMP = "MAMP: Mao et al., ICCV 2023"
USDRL = "USDRL: Weng et al., AAAI 2025"
AMR = "AMR: as later papers' tables give it"
SKELETON_MAE = "SkeletonMAE: as MAMP's tables give it"
PYSKL = "ST-GCN: Duan et al., PYSKL, ACM MM 2022"


@dataclass(frozen=True)
class Published:
    """Results of one method.

    Parameters
    ----------
    method, source
        What it is called, and who published it.
    evaluation
        ``"linear"``, ``"fine-tune"``, ``"transfer"`` or ``"supervised"``.
    streams
        1, or 3 that were fused.
    accuracy
        Protocol → percent.
    """

    method: str
    source: str
    evaluation: str
    streams: int
    accuracy: Mapping[str, float]


def _of(
    source: str, evaluation: str, streams: int, protocols: Sequence[str], *accuracy: float, note: str = ""
) -> Published:
    method = source.partition(":")[0] + (f" {note}" if note else "")
    return Published(method, source, evaluation, streams, dict(zip(protocols, accuracy, strict=True)))


PUBLISHED = (
    _of(AIMCLR, "linear", 1, _ALL, 74.3, 79.7, 63.4, 63.4, 38.5),
    _of(PSTL, "linear", 1, _ALL, 77.3, 81.8, 66.2, 67.7, 49.3),
    _of(PSTL, "linear", 3, _ALL, 79.1, 83.8, 69.2, 70.3, 52.3),
    _of(ACTCLR, "linear", 3, _BOTH, 84.3, 88.8, 74.3, 75.7),
    _of(MAMP, "linear", 1, _ALL, 84.9, 89.1, 78.6, 79.1, 53.8),
    _of(USDRL, "linear", 3, _ALL, 87.1, 93.2, 79.3, 80.6, 59.7),
    _of(AMR, "linear", 1, _ALL, 87.4, 92.3, 81.1, 81.9, 60.3),
    _of(PSTL, "fine-tune", 3, _BOTH, 87.1, 93.9, 81.3, 82.6),
    _of(MAMP, "fine-tune", 1, _BOTH, 93.1, 97.5, 90.0, 91.3),
    _of(SKELETON_MAE, "transfer", 1, ("pku2-xsub",), 58.4, note="from NTU-60"),
    _of(SKELETON_MAE, "transfer", 1, ("pku2-xsub",), 61.0, note="from NTU-120"),
    _of(MAMP, "transfer", 1, ("pku2-xsub",), 70.6, note="from NTU-60"),
    _of(MAMP, "transfer", 1, ("pku2-xsub",), 73.2, note="from NTU-120"),
    _of(PYSKL, "supervised", 1, _SIXTY, 87.8, 95.5),
)


def evaluation_of(record: Mapping[str, Any]) -> str | None:
    """How a record's accuracy was measured, in the words of :class:`Published`; None for what was not published."""
    kind, protocol = record.get("kind"), record.get("protocol")
    if protocol == "probe, linear":
        return "linear"
    if kind == "transfer":
        return "transfer"
    if kind in ("finetune", "fuse") and protocol == "fine-tune":
        return "supervised" if record["config"].get("from_") == "scratch" else "fine-tune"
    return None


def protocol_of(record: Mapping[str, Any]) -> str | None:
    """The published protocol of a record's data: that which it names, or whose data set, split and counts it has."""
    data, clips = record.get("data", {}), record.get("clips", {})
    if data.get("protocol"):
        return str(data["protocol"])
    counts = (len(record["per_class"]), clips.get("train"), clips.get("test"))
    for name, protocol in PROTOCOLS.items():
        same = (data.get("dataset"), data.get("split")) == ("ntu", protocol.split)
        if same and protocol.sizes is not None and counts == (protocol.classes, *protocol.sizes):
            return name
    return None


def published_beside(record: Mapping[str, Any]) -> list[Published]:
    """Published results on the record's data by its evaluation, of as many streams."""
    protocol, evaluation = protocol_of(record), evaluation_of(record)
    streams = 3 if len(str(record.get("stream")).split("+")) == 3 else 1
    return [
        one for one in PUBLISHED if protocol in one.accuracy and one.evaluation == evaluation and one.streams == streams
    ]
