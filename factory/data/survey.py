"""What a folder of pictures holds: counts, sizes, colours, and what cannot be used, for a person.

The listing sees all files; the pictures themselves are decoded, evenly spread ones of a large
folder (``SURVEYED``).
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from factory.core.progress import SILENT, Progress
from factory.data.config import DataConfig
from factory.data.folder_listing import FolderListing, list_image_folder, printable
from factory.data.pictures import looks, unreadable_error

SURVEYED = 5000  # pictures decoded at most
SMALL_PX = 8  # a shorter side below it is worth a sentence


@dataclass(frozen=True)
class Survey:
    """A folder that was looked at.

    Attributes:
        listing: classes, files and what is left out.
        surveyed: pictures that were decoded.
        shorter_px: shorter sides of these in pixels, sorted (empty: none could be decoded).
        grey: how many of these hold no colour.
        animated: how many of these hold more than one picture; the first is used.
        unreadable: those that cannot be decoded, with the reason.
        decode_ms: mean time of decoding one, in milliseconds.
    """

    listing: FolderListing
    surveyed: int
    shorter_px: tuple[int, ...]
    grey: int
    animated: int
    unreadable: tuple[tuple[Path, str], ...]
    decode_ms: float

    @property
    def all_grey(self) -> bool:
        """Whether no picture holds colour."""
        return self.grey == len(self.shorter_px)

    def side_px(self, percent: float) -> int:
        """A percentile of the shorter sides."""
        return int(np.percentile(self.shorter_px or (0,), percent))

    def majority(self) -> tuple[str, float]:
        """The largest class of the test pictures and its share: what a constant answer reaches."""
        counts = self.listing.counts(self.listing.test)
        name = max(counts, key=lambda n: counts[n])
        return name, counts[name] / len(self.listing.test)

    def sentences(self) -> list[str]:
        """What a person should know, worst first."""
        lines = []
        if self.unreadable:
            reasons = Counter(reason for _, reason in self.unreadable)
            named = ", ".join(f"{n} x {reason}" for reason, n in reasons.most_common(4))
            lines.append(
                f"pictures that cannot be read, a build stops at them: {len(self.unreadable)} "
                f"({named}; the first is {printable(str(self.unreadable[0][0]))})"
            )
        lines += self.listing.sentences()
        if self.animated:
            lines.append(f"files of several pictures, of which the first is used: {self.animated}")
        small = sum(px < SMALL_PX for px in self.shorter_px)
        if small:
            lines.append(f"pictures of less than {SMALL_PX} pixels on one side: {small}")
        total = len(self.listing.files)
        if self.surveyed < total:
            lines.append(f"{self.surveyed} of {total} pictures were opened, evenly spread")
        return lines

    def require_readable(self) -> None:
        """InputError where a picture cannot be read, as a build raises it."""
        if self.unreadable:
            raise unreadable_error(self.unreadable)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        listing = self.listing
        return {
            "classes": len(listing.class_names),
            "train": listing.counts(listing.train),
            "test": listing.counts(listing.test),
            "left_out": listing.left_out,
            "unreadable": [
                {"picture": printable(str(path)), "reason": reason}
                for path, reason in self.unreadable
            ],
            "shorter_side_px": {str(q): self.side_px(q) for q in (0, 50, 100)},
            "grey": self.grey,
            "animated": self.animated,
            "surveyed": self.surveyed,
            "notes": self.sentences(),
        }


def survey_folder(cfg: DataConfig, progress: Progress = SILENT) -> Survey:
    """Look at the folder ``cfg.root``; InputError where it is no folder of classes."""
    listing = list_image_folder(cfg)
    paths = [path for path, _ in listing.files]
    if len(paths) > SURVEYED:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, SURVEYED).astype(int)]
    started = time.perf_counter()
    found = list(looks(paths, progress, "look at the pictures"))
    decode_ms = 1000 * (time.perf_counter() - started) / len(paths)
    facts = [look.facts for _, look in found if look.facts is not None]
    return Survey(
        listing=listing,
        surveyed=len(paths),
        shorter_px=tuple(sorted(min(fact.width, fact.height) for fact in facts)),
        grey=sum(look.grey for _, look in found),
        animated=sum(fact.animated for fact in facts),
        unreadable=tuple(
            (path, look.unreadable) for path, look in found if look.unreadable is not None
        ),
        decode_ms=decode_ms,
    )
