"""What the factory asks of a search space, whatever its networks look like (no torch).

A space is a set of architectures at one network size. Profiling needs its kernels, prediction the
kernel counts of many architectures at once, budgets the counts of one, discrete search the
choices (one whole number per variable) and features, training the torch network. A new space is
one class with these methods, its settings in config.py and one entry of SPACES; the suite
tests/spaces/test_contract.py runs over all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np

from factory.graph.counts import Counts
from factory.graph.fusion import NO_RULES, FusionRules
from factory.graph.kernel import Kernel
from factory.graph.opgraph import OpGraph
from factory.latency.presence import PresenceMatrix

if TYPE_CHECKING:
    from torch import nn

A = TypeVar("A")
Choices = tuple[int, ...]


class SearchSpace(Protocol[A]):
    """All architectures of one kind at one network size.

    KIND is the space's name in a recipe, spec the size of its networks, a frozen dataclass.
    """

    KIND: ClassVar[str]
    spec: Any

    @property
    def cardinalities(self) -> Choices:
        """How many values each variable of :meth:`choices` has."""
        ...

    def lower(self, architecture: A) -> OpGraph:
        """The raw operator graph of the network in inference mode."""
        ...

    def kernels(
        self, architecture: A, dtype: str | None = None, fusion: FusionRules = NO_RULES
    ) -> Counter[Kernel]:
        """Canonical kernels of the network and how often each runs.

        ``fusion`` are the rules of the device that is to run it: what they fold is no kernel.
        """
        ...

    def counts(self, architecture: A) -> Counts:
        """Parameters, MACs and peak memory of the network."""
        ...

    def presence(
        self,
        dtype: str | None = None,
        activations: tuple[str, ...] = (),
        fusion: FusionRules = NO_RULES,
    ) -> PresenceMatrix:
        """Expected count of every canonical kernel as a polynomial in a soft choice.

        ``activations`` are the candidates of factorised edges, where the space has them; ``fusion``
        as in :meth:`kernels`, of which this is the expectation.
        """
        ...

    def all_kernels(
        self, dtype: str | None = None, activations: tuple[str, ...] = ()
    ) -> list[Kernel]:
        """Every canonical kernel that some network of the space runs."""
        ...

    def one_hot_many(self, architectures: Sequence[A]) -> Mapping[str, np.ndarray]:
        """The choices q that :meth:`presence` takes: cell type -> [B, edges, operators]."""
        ...

    def random(self, rng: np.random.Generator) -> A:
        """An architecture that can be built, drawn at random."""
        ...

    def neighbours(self, architecture: A) -> list[A]:
        """All that can be built and differ in one decision, in a fixed order."""
        ...

    def choices(self, architecture: A) -> Choices:
        """One whole number per variable; the inverse of :meth:`from_choices`."""
        ...

    def from_choices(self, choices: Sequence[int]) -> A:
        """The architecture of one whole number per variable, 0 <= number < cardinality."""
        ...

    def buildable(self, architecture: A) -> bool:
        """Whether the network can be built (its output depends on the picture)."""
        ...

    def canonical(self, architecture: A) -> A:
        """One architecture for all that are known to be the same network."""
        ...

    def features(self, architectures: Sequence[A]) -> np.ndarray:
        """Numbers from which a regressor learns what an architecture is worth, [B, F]."""
        ...

    def to_dict(self, architecture: A) -> dict[str, Any]:
        """JSON form of an architecture."""
        ...

    def load(self, path: Path | str) -> A:
        """Read an architecture's JSON file."""
        ...

    def network(self, architecture: A, *, auxiliary: bool = False) -> nn.Module:
        """The torch network to train and export, in which ``initialise(seed)`` sets all weights."""
        ...
