"""The published train-test protocols of the large data sets, and whether a store has one. Needs the standard library.

Counts are those of NTU RGB+D's papers (Shahroudy et al., CVPR 2016; Liu et al., TPAMI 2020) less the files on the
official lists of missing skeletons. PKU-MMD's (Liu et al., 2017) depend on the lists that come with the recordings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asma_fast.data import Store


@dataclass(frozen=True)
class Protocol:
    """One way to divide a data set.

    Parameters
    ----------
    split
        Its name in the store.
    classes
        How many the data set has.
    sizes
        Training and test clips; None where they were not published in one way.
    names
        Regular expression of the clips' names; None for any.
    prepare
        The command that makes such a store.
    """

    split: str
    classes: int
    sizes: tuple[int, int] | None
    names: str | None
    prepare: str

    def check(self, name: str, store: Store) -> None:
        """The store is one of this protocol.

        Raises
        ------
        ValueError
            If classes, clip names, splits or the numbers of clips are others.
        """

        def expect(holds: bool, wanted: str, found: str) -> None:
            if not holds:
                raise ValueError(
                    f"{store.path}: protocol {name} needs {wanted}, the store has {found}; `{self.prepare}` makes such "
                    "a store, and without the protocol any split may be named"
                )

        expect(len(store.classes) == self.classes, f"{self.classes} classes", f"{len(store.classes)}")
        if self.names is not None:
            other = next((clip for clip in store.names if not re.fullmatch(self.names, clip)), None)
            expect(other is None, f"clips named as {self.names}", f"{other}")
        expect(self.split in store.splits, f"a split {self.split}", ", ".join(store.splits) or "none")
        if self.sizes is not None:
            train, test = (len(part) for part in store.split(self.split))
            wanted = f"{self.sizes[0]} training and {self.sizes[1]} test clips"
            expect((train, test) == self.sizes, wanted, f"{train} and {test}")


_NTU = "asma-fast prepare ntu nturgb+d_skeletons --exclude MISSING.txt --out STORE"
_PKU = "asma-fast prepare pku-mmd SKELETONS --labels LABELS --out STORE"
_PKU_BY_SUBJECT = f"{_PKU} --split xsub=list:cross-subject.txt"
_ONE, _TWO = r"\d{4}-[LMR]#\d{3,}", r"A\d{2}N\d{2}-[LMR]#\d{3,}"

PROTOCOLS: dict[str, Protocol] = {
    "ntu60-xsub": Protocol("xsub", 60, (40_091, 16_487), None, _NTU),
    "ntu60-xview": Protocol("xview", 60, (37_646, 18_932), None, _NTU),
    "ntu120-xsub": Protocol("xsub", 120, (63_026, 50_919), None, _NTU),
    "ntu120-xset": Protocol("xset", 120, (54_468, 59_477), None, _NTU),
    "pku1-xsub": Protocol("xsub", 51, None, _ONE, _PKU_BY_SUBJECT),
    "pku1-xview": Protocol("xview", 51, None, _ONE, _PKU),
    "pku2-xsub": Protocol("xsub", 51, None, _TWO, _PKU_BY_SUBJECT),
    "pku2-xview": Protocol("xview", 51, None, _TWO, _PKU),
}
