"""What a search space declares, and what is derived from that for every space (no torch).

A space is a set of networks of one size. It declares named categorical variables with their
values, which assignments can be built and which are the same network, how an assignment becomes an
operator graph and a torch network, and, where a differentiable search is to run on it, a supernet.
Random draws, neighbours, features, files, kernels, exact and expected costs follow from these
(here and in expectation.py), and so do the search under budgets, fronts and repair
(factory/search/derive.py). A new space is one file; docs/add-a-space.md has an example,
and tests/spaces/test_contract.py runs over all spaces.

The relaxed choice of a space is one or more matrices q [E, O] (:class:`ChoiceMatrix`): by default
one, with a row for every variable and a column for every value. Legend: E rows (edges), O columns
(operators), B architectures, V variables.
"""

from __future__ import annotations

import abc
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import numpy as np

from factory.core.errors import InputError
from factory.core.reading import read_json
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.counts import Counts, count
from factory.graph.fusion import NO_RULES, FusionRules
from factory.graph.kernel import Kernel
from factory.graph.opgraph import OpGraph
from factory.latency.presence import PresenceMatrix

if TYPE_CHECKING:
    from torch import nn

    from factory.spaces.mixing import SupernetOptions

A = TypeVar("A")
Choices = tuple[int, ...]  # one whole number per variable, 0 <= number < its values
Entry = tuple[str, int, int]  # matrix of the relaxed choice, row, column
NETWORK = "network"  # the matrix of a space that declares none
ENUMERATED = 20_000  # assignments up to which all networks of a space are looked at
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Variable:
    """One decision: its name, and the values that it can have (text or numbers)."""

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class ChoiceMatrix:
    """One matrix q [E, O] of a relaxed choice; q[e, o]: row e is in the network and has column o.

    Attributes:
        name: its key in q.
        rows: what chooses: the name of a variable, or an edge as (node, source).
        columns: the candidates.
        sizes: how many of the columns each row has, the first ones.
        nodes: rows of one number are weighed against each other (edge normalisation).
        kept: rows of a node that are in the network; None: all.
        none: column that stands for no operator. Where only some rows are kept, it is never chosen
            and its share of a softmax is left out.
        skip: column that is a skip connection, as skip limits and diagnostics count them.
        skips_limited: whether the skip limit of a search counts here.
    """

    name: str
    rows: tuple[Any, ...]
    columns: tuple[str, ...]
    sizes: tuple[int, ...]
    nodes: tuple[int, ...]
    kept: int | None = None
    none: int | None = None
    skip: int | None = None
    skips_limited: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """(E, O)."""
        return len(self.rows), len(self.columns)

    @cached_property
    def candidates(self) -> np.ndarray:
        """[E, O], where a row has a column."""
        return np.arange(len(self.columns)) < np.array(self.sizes)[:, None]


@dataclass(frozen=True)
class Assignment:
    """A network of a space that has no form of its own: the value of every variable, by name."""

    space: str
    values: tuple[tuple[str, Any], ...]

    def __getitem__(self, name: str) -> Any:
        return dict(self.values)[name]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"schema_version": SCHEMA_VERSION, "space": self.space, "values": dict(self.values)}

    @classmethod
    def from_dict(cls, value: Any, where: str = "the network's file") -> Self:
        """Read the JSON form; whether the values exist is checked by the space."""
        if not isinstance(value, dict) or not isinstance(value.get("space"), str):
            raise InputError("there is no name of a space under 'space'", where=where)
        if value.get("schema_version") != SCHEMA_VERSION:
            raise InputError(f"schema_version is not {SCHEMA_VERSION}", where=where)
        values = value.get("values")
        if not isinstance(values, dict):
            raise InputError("there are no values under 'values'", where=where)
        if any(isinstance(v, list | dict) for v in values.values()):
            raise InputError("a value is neither text nor a number", where=where)
        return cls(value["space"], tuple(values.items()))

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.values)


class SearchSpace(abc.ABC, Generic[A]):
    """All networks of one kind at one size; see the module's text.

    KIND is the space's name in a recipe. ``spec`` is the size of its networks, a frozen dataclass
    with ``input_shape`` and ``num_classes``. A is what a network is described by: by default an
    :class:`Assignment`.

    UNSUPPORTED names the rows of a differentiable search that the space's supernet has no form
    for: axis -> choice -> why.
    """

    KIND: ClassVar[str]
    ARCHITECTURE: ClassVar[type[Any]] = Assignment
    UNSUPPORTED: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "relaxation": {
            "partial_channel": "its supernet has no form for a part of the channels",
            "factorised": "its networks have no form for other activations",
        },
        "schedule": {"progressive": "its supernet has no form with fewer candidates"},
    }

    def __init__(self, spec: Any) -> None:
        self.spec = spec

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.spec == other.spec

    def __hash__(self) -> int:
        return hash((type(self), self.spec))

    # ---- declared

    @property
    @abc.abstractmethod
    def variables(self) -> tuple[Variable, ...]:
        """The decisions, in a fixed order."""

    @abc.abstractmethod
    def lower(self, architecture: A) -> OpGraph:
        """The raw operator graph of the network in inference mode."""

    @abc.abstractmethod
    def network(self, architecture: A, *, auxiliary: bool = False) -> nn.Module:
        """The torch network to train and export, in which ``initialise(seed)`` sets all weights."""

    def supernet(self, options: SupernetOptions) -> nn.Module:
        """The relaxed network; called with pictures and the weights of the choice (mixing.py)."""
        raise NotImplementedError(f"the space {self.KIND!r} has no supernet")

    @property
    def interactions(self) -> tuple[tuple[str, ...], ...]:
        """Groups of variables that a kernel's count depends on together, of a large space.

        What runs is a sum of functions of one group each: a stage's kernels may depend on its own
        width, kernel size and depth and on the width before it. Empty: all networks are lowered.
        """
        return ()

    def buildable(self, architecture: A) -> bool:
        """Whether the network can be built."""
        return True

    def canonical(self, architecture: A) -> A:
        """One architecture for all that are known to be the same network."""
        return architecture

    def live(self, architecture: A) -> A:
        """The architecture with every decision that changes nothing at one value.

        It runs the very same kernels whatever a device folds.
        """
        return architecture

    def decode(self, values: Mapping[str, Any]) -> A:
        """The architecture of the variables' values."""
        return Assignment(self.KIND, tuple(values.items()))  # type: ignore[return-value]

    def encode(self, architecture: A) -> Mapping[str, Any]:
        """The variables' values; the inverse of :meth:`decode`."""
        return dict(architecture.values)  # type: ignore[attr-defined]

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Variables that are decided together when a network is derived; each is in one block."""
        return tuple((i,) for i in range(len(self.variables)))

    def entries(self, block: int, choices: Choices) -> tuple[Entry, ...]:
        """Entries of the relaxed choice that are 1 when a block's variables have these choices."""
        (variable,) = self.blocks[block]
        return ((NETWORK, variable, choices[0]),)

    @cached_property
    def matrices(self) -> tuple[ChoiceMatrix, ...]:
        """The relaxed choice."""
        sizes = self.cardinalities
        names = tuple(variable.name for variable in self.variables)
        columns = tuple(str(i) for i in range(max(sizes)))
        return (ChoiceMatrix(NETWORK, names, columns, sizes, tuple(range(len(names)))),)

    def with_activations(self, architecture: A, activations: Mapping[str, Sequence[str]]) -> A:
        """The architecture with the activation of each row (per matrix [E])."""
        raise NotImplementedError

    # ---- derived

    @cached_property
    def cardinalities(self) -> Choices:
        """How many values each variable has."""
        return tuple(len(variable.values) for variable in self.variables)

    @property
    def enumerated(self) -> bool:
        """Whether all networks of the space can be looked at."""
        return math.prod(self.cardinalities) <= ENUMERATED

    def assignments(self) -> Iterator[Choices]:
        """All choices, the last variable fastest."""
        return itertools.product(*(range(size) for size in self.cardinalities))

    def from_choices(self, choices: Sequence[int]) -> A:
        """The architecture of one whole number per variable."""
        pairs = zip(self.variables, choices, strict=True)
        return self.decode({variable.name: variable.values[int(i)] for variable, i in pairs})

    def choices(self, architecture: A) -> Choices:
        """One whole number per variable; the inverse of :meth:`from_choices`."""
        values = self.encode(architecture)
        return tuple([numbers[values[name]] for name, numbers in self._numbers])

    @cached_property
    def _numbers(self) -> list[tuple[str, dict[Any, int]]]:
        """Of every variable its name, and the number of each value."""
        return [(v.name, {value: i for i, value in enumerate(v.values)}) for v in self.variables]

    def kernels(
        self, architecture: A, dtype: str | None = None, fusion: FusionRules = NO_RULES
    ) -> Counter[Kernel]:
        """Canonical kernels of the network and how often each runs.

        ``fusion`` are the rules of the device that is to run it: what they fold is no kernel.
        """
        return kernel_counts(canonicalise(self.lower(architecture)), dtype, fusion)

    def counts(self, architecture: A) -> Counts:
        """Parameters, MACs and peak memory of the network."""
        return count(self.lower(architecture))

    def peak_memory_mb(self, architecture: A) -> float:
        """Peak activation memory of the network."""
        return self.counts(architecture).peak_memory_mb

    def presence(
        self,
        dtype: str | None = None,
        activations: tuple[str, ...] = (),
        fusion: FusionRules = NO_RULES,
    ) -> PresenceMatrix:
        """Expected count of every canonical kernel as a polynomial in the relaxed choice.

        ``activations`` are the candidates of factorised edges, where the space has them; ``fusion``
        as in :meth:`kernels`, of which this is the expectation.
        """
        from factory.spaces.expectation import expected_counts

        return expected_counts(self, dtype, fusion)

    def all_kernels(
        self, dtype: str | None = None, activations: tuple[str, ...] = ()
    ) -> list[Kernel]:
        """Every canonical kernel that some network of the space runs."""
        return list(self.presence(dtype, activations).kernels)

    def random(self, rng: np.random.Generator) -> A:
        """A uniform architecture among those that can be built."""
        while True:
            drawn = rng.integers(self.cardinalities).tolist()
            architecture = self.from_choices(drawn)
            if self.buildable(architecture):
                return architecture

    def neighbours(self, architecture: A) -> list[A]:
        """All that can be built and differ in one variable, in a fixed order."""
        own = self.choices(architecture)
        changed = (
            self.from_choices((*own[:i], other, *own[i + 1 :]))
            for i, size in enumerate(self.cardinalities)
            for other in range(size)
            if other != own[i]
        )
        return [other for other in changed if self.buildable(other)]

    def one_hot_many(self, architectures: Sequence[A]) -> dict[str, np.ndarray]:
        """The choice q of each architecture: matrix -> [B, E, O], entries 0 or 1."""
        q = {m.name: np.zeros((len(architectures), *m.shape)) for m in self.matrices}
        blocks, known = list(enumerate(self.blocks)), self._entries
        for b, architecture in enumerate(architectures):
            own = self.choices(architecture)
            for number, block in blocks:
                key = (number, *[own[i] for i in block])
                if key not in known:
                    known[key] = self.entries(number, key[1:])
                for name, row, column in known[key]:
                    q[name][b, row, column] = 1.0
        return q

    @cached_property
    def _entries(self) -> dict[Choices, tuple[Entry, ...]]:
        """Entries of a block's number and choices, as they are asked for."""
        return {}

    def one_hot(self, architecture: A) -> dict[str, np.ndarray]:
        """The choice q of an architecture: matrix -> [E, O]."""
        return {name: many[0] for name, many in self.one_hot_many([architecture]).items()}

    def features(self, architectures: Sequence[A]) -> np.ndarray:
        """The choice of the canonical form and how often each column occurs in it, [B, F]."""
        q = self.one_hot_many([self.canonical(architecture) for architecture in architectures])
        parts = [part for name in q for part in (q[name], q[name].sum(1, keepdims=True))]
        return np.concatenate([part.reshape(len(architectures), -1) for part in parts], axis=1)

    def skip_shares(self, architecture: A) -> dict[str, float]:
        """Share of skip connections among what is chosen in each matrix; 0 where there are none."""
        q, found = self.one_hot(self.live(architecture)), {}
        for matrix in self.matrices:
            q_EO = q[matrix.name]
            skips = 0.0 if matrix.skip is None else q_EO[:, matrix.skip].sum()
            unused = 0.0 if matrix.none is None else q_EO[:, matrix.none].sum()
            found[matrix.name] = float(skips / max(1.0, q_EO.sum() - unused))
        return found

    def to_dict(self, architecture: A) -> dict[str, Any]:
        """JSON form of an architecture."""
        form: dict[str, Any] = architecture.to_dict()  # type: ignore[attr-defined]
        return form

    def load(self, path: Path | str) -> A:
        """Read an architecture's JSON file; InputError where it is none of this space."""
        architecture: A = self.ARCHITECTURE.from_dict(read_json(path, "architecture"), str(path))
        try:
            self.choices(architecture)
        except (KeyError, ValueError):
            raise InputError(
                f"{path} is no network of the space {self.KIND!r}",
                why=f"its variables are {', '.join(v.name for v in self.variables)}",
            ) from None
        return architecture
