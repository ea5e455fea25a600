"""Genotypes: which operators a normal and a reduction cell are made of, and the published ones.

A cell has two inputs (sources 0 and 1) and four nodes (2..5); every node adds the results of two
operators, each applied to an earlier source. A genotype lists the eight (operator, source) pairs
of either cell, node by node. File format: docs/formats/genotype.md.

Published genotypes: DARTS (arXiv 1806.09055), PC-DARTS (arXiv 1907.05737), P-DARTS
(arXiv 1904.12760).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from factory.core.errors import InputError, nearest, unknown_name
from factory.core.files import write_json
from factory.core.reading import is_file, parse_json, read_text
from factory.spaces.activations import EMITTERS

SCHEMA_VERSION = 1
OPS: tuple[str, ...] = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
NONE = OPS[0]
"""Gives zeros: a node with it is the result of its other operator alone."""
SELECTABLE_OPS = OPS[1:]
NODES: tuple[int, ...] = (2, 3, 4, 5)
PAIRS = 2 * len(NODES)
CELL_TYPES: tuple[str, ...] = ("normal", "reduce")
FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
_CALL = re.compile(r"\bGenotype\s*\(\s*(normal\s*=|\[)")
Pair = tuple[str, int]


@dataclass(frozen=True)
class Genotype:
    """Two cells as (operator, source) pairs; checked when it is made.

    ``normal_activations`` and ``reduce_activations`` name what stands in place of the ReLU of each
    pair's convolutions, eight a cell; empty: ReLUs. Operators without an activation have "relu".
    """

    normal: tuple[Pair, ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[Pair, ...]
    reduce_concat: tuple[int, ...]
    normal_activations: tuple[str, ...] = ()
    reduce_activations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for cell_type in CELL_TYPES:
            pairs = tuple((op, source) for op, source in getattr(self, cell_type))
            concat = tuple(getattr(self, f"{cell_type}_concat"))
            object.__setattr__(self, cell_type, pairs)
            object.__setattr__(self, f"{cell_type}_concat", concat)
            _check_cell(cell_type, pairs, concat)
            names = tuple(getattr(self, f"{cell_type}_activations"))
            named = _checked_activations(cell_type, pairs, names)
            object.__setattr__(self, f"{cell_type}_activations", named)

    def cell(self, cell_type: str) -> tuple[Pair, ...]:
        """The eight pairs of "normal" or "reduce"."""
        return self.normal if cell_type == "normal" else self.reduce

    def activations(self, cell_type: str) -> tuple[str, ...]:
        """What leads the convolutions of the eight pairs of "normal" or "reduce"."""
        named = self.normal_activations if cell_type == "normal" else self.reduce_activations
        return named or ("relu",) * PAIRS

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, with its schema version; activations only where one is no ReLU."""
        named = {f"{name}_activations": list(self.activations(name)) for name in CELL_TYPES}
        return {
            "schema_version": SCHEMA_VERSION,
            "normal": [list(pair) for pair in self.normal],
            "normal_concat": list(self.normal_concat),
            "reduce": [list(pair) for pair in self.reduce],
            "reduce_concat": list(self.reduce_concat),
            **{key: value for key, value in named.items() if set(value) != {"relu"}},
        }

    @classmethod
    def from_dict(cls, value: Any, where: str = "the genotype") -> Self:
        """Read the JSON form; InputError says what is wrong with it and where."""
        if isinstance(value, list) and len(value) == len(FIELDS):  # a named tuple as JSON
            value = dict(zip(FIELDS, value, strict=True))
        if not isinstance(value, dict):
            raise InputError(f"expected an object, not {type(value).__name__}", where=where)
        version = value.get("schema_version", SCHEMA_VERSION)
        if version != SCHEMA_VERSION:
            raise InputError(
                f"schema_version {version!r} is not {SCHEMA_VERSION}",
                where=where,
                why="this version reads only that one",
                fix=f'write "schema_version": {SCHEMA_VERSION} as docs/formats/genotype.md says',
            )
        keys = [*CELL_TYPES, *(f"{name}_concat" for name in CELL_TYPES)]
        optional = [f"{name}_activations" for name in CELL_TYPES]
        for key in value:
            if key not in (*keys, *optional, "schema_version"):
                raise unknown_name("key", str(key), [*keys, *optional, "schema_version"], where)
        named = {key: _read_activations(value.get(key, []), key, where) for key in optional}
        for key in keys:
            if not isinstance(value.get(key), list):
                raise InputError(f"{key!r} is missing or not a list", where=where)
        pairs = {name: _read_pairs(value[name], name, where) for name in CELL_TYPES}
        concat = {name: _read_concat(value[f"{name}_concat"], name, where) for name in CELL_TYPES}
        try:
            return cls(
                pairs["normal"], concat["normal"], pairs["reduce"], concat["reduce"], **named
            )
        except InputError as error:
            raise InputError(
                error.what, where=f"{error.where} of {where}", why=error.why, fix=error.fix
            ) from None

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a genotype from a file: its JSON form, or the text of a Genotype(...)."""
        text = read_text(path, "genotype file")
        if is_genotype_text(text):
            return cls.from_text(text, str(path))
        return cls.from_dict(parse_json(text, f"genotype file {path}"), where=str(path))

    @classmethod
    def from_text(cls, text: str, where: str = "the text") -> Self:
        """Read ``Genotype(normal=[...], normal_concat=..., reduce=..., reduce_concat=...)``.

        It is what DARTS and its successors print; a name before it, imports and comments may stand
        around it. Nothing of the text is run.
        """
        return cls.from_dict(_parts_of_text(text, where), where)

    def save(self, path: Path | str) -> None:
        """Write the JSON form, atomically."""
        write_json(path, self.to_dict())

    def __str__(self) -> str:
        return " ".join(
            f"{name}[{' | '.join(_node_text(self.cell(name), i) for i in range(len(NODES)))}]"
            for name in CELL_TYPES
        )


def is_genotype_text(text: str) -> bool:
    """Whether ``text`` holds what Python prints of a genotype."""
    return _CALL.search(text) is not None


def _parts_of_text(text: str, where: str) -> dict[str, Any]:
    """The fields of the one Genotype(...) in ``text``."""
    try:
        tree = ast.parse(text.strip())
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise InputError(
            f"{where} is not the text of a Genotype(...)",
            why=str(error),
            fix="give it as Python prints it",
        ) from None
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (getattr(node.func, "id", None) or getattr(node.func, "attr", "")) == "Genotype"
    ]
    if len(calls) != 1:
        raise InputError(
            f"{where} holds {len(calls)} texts of the form Genotype(...)",
            fix="keep the one that is meant",
        )
    given = dict(zip(FIELDS, calls[0].args, strict=False))
    given.update((str(keyword.arg), keyword.value) for keyword in calls[0].keywords)
    return {name: _literal(node, name, where) for name, node in given.items()}


def _literal(node: ast.expr, name: str, where: str) -> Any:
    """The value of a list, or of range(...) or list(range(...)), as JSON has it."""
    while isinstance(node, ast.Call) and getattr(node.func, "id", "") == "list" and node.args:
        node = node.args[0]
    try:
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "range":
            limits = [ast.literal_eval(part) for part in node.args]
            found = range(*limits)
            return list(found) if len(found) <= PAIRS else None
        value = ast.literal_eval(node)
        return [list(item) if isinstance(item, tuple) else item for item in value]
    except (ValueError, TypeError, MemoryError, RecursionError):
        raise InputError(f"{name!r} is no list of plain values", where=where) from None


def find_genotype(name_or_path: str) -> Genotype:
    """A published genotype by name, one from a file, or the text of a Genotype(...) itself."""
    if name_or_path in PUBLISHED:
        return PUBLISHED[name_or_path]
    if is_genotype_text(name_or_path):
        return Genotype.from_text(name_or_path)
    path = Path(name_or_path)
    if is_file(path) or path.suffix == ".json" or len(path.parts) > 1:
        return Genotype.load(path)
    raise InputError(
        f"unknown genotype {name_or_path!r}",
        why="it is neither a published genotype nor a file",
        fix=nearest(name_or_path, PUBLISHED),
    )


def _node_text(pairs: Sequence[Pair], index: int) -> str:
    return " ".join(f"{op},{source}" for op, source in pairs[2 * index : 2 * index + 2])


def _read_pairs(items: list[Any], cell_type: str, where: str) -> tuple[Pair, ...]:
    for index, item in enumerate(items):
        well_formed = (
            isinstance(item, list)
            and len(item) == 2
            and isinstance(item[0], str)
            and isinstance(item[1], int)
            and not isinstance(item[1], bool)
        )
        if not well_formed:
            raise InputError(
                f"{item!r} is not a pair [operator, source]",
                where=f"{cell_type!r} entry {index} of {where}",
                fix='write for example ["sep_conv_3x3", 0]',
            )
    return tuple((item[0], item[1]) for item in items)


def _read_concat(items: list[Any], cell_type: str, where: str) -> tuple[int, ...]:
    if not all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        raise InputError(
            f"{items!r} is not a list of node numbers", where=f"'{cell_type}_concat' of {where}"
        )
    return tuple(items)


def _read_activations(items: Any, key: str, where: str) -> tuple[str, ...]:
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise InputError(f"{items!r} is not a list of activations", where=f"{key!r} of {where}")
    return tuple(items)


def _checked_activations(
    cell_type: str, pairs: tuple[Pair, ...], names: tuple[str, ...]
) -> tuple[str, ...]:
    """One activation a pair, "relu" where the operator has none; empty where all are ReLUs."""
    where = f"cell {cell_type!r}"
    if not names:
        return ()
    if len(names) != len(pairs):
        raise InputError(f"{len(names)} activations for {len(pairs)} pairs", where=where)
    for name in names:
        if name not in EMITTERS.names():
            raise unknown_name("activation", name, EMITTERS.names(), where)
    found = []
    for (op, source), name in zip(pairs, names, strict=True):
        halves = op == "skip_connect" and cell_type == "reduce" and source < 2
        found.append(name if "conv" in op or halves else "relu")
    return () if set(found) == {"relu"} else tuple(found)


def _check_cell(cell_type: str, pairs: tuple[Pair, ...], concat: tuple[int, ...]) -> None:
    where = f"cell {cell_type!r}"
    if len(pairs) != PAIRS:
        raise InputError(
            f"{len(pairs)} pairs instead of {PAIRS}",
            where=where,
            why=f"each of the {len(NODES)} nodes takes two (operator, source) pairs",
        )
    if concat != NODES:
        raise InputError(
            f"{cell_type}_concat {list(concat)} is not {list(NODES)}",
            where=where,
            why="a cell's output joins all four nodes",
        )
    for index, (op, source) in enumerate(pairs):
        node = NODES[index // 2]
        if op not in OPS:
            raise unknown_name("operator", op, OPS, f"{where}, entry {index}")
        if not 0 <= source < node:
            raise InputError(
                f"source {source} of node {node} does not exist",
                where=f"{where}, entry {index}",
                why="a node reads the cell's inputs 0 and 1 or an earlier node",
                fix=f"choose a source from 0 to {node - 1}",
            )
        before = pairs[index - 1]
        if index % 2 and op == before[0] == NONE:
            raise InputError(
                f"both operators of node {node} are {NONE!r}",
                where=f"{where}, entries {index - 1} and {index}",
                why="the node would be zero everywhere",
                fix=nearest(op, SELECTABLE_OPS),
            )
        if index % 2 and source == before[1] and NONE not in (op, before[0]):
            raise InputError(
                f"node {node} reads source {source} twice",
                where=f"{where}, entries {index - 1} and {index}",
                why="the two operators of a node read two different sources",
                fix="choose another source for one of them",
            )


_SHORT = {
    "mp": "max_pool_3x3",
    "ap": "avg_pool_3x3",
    "sk": "skip_connect",
    "s3": "sep_conv_3x3",
    "s5": "sep_conv_5x5",
    "d3": "dil_conv_3x3",
    "d5": "dil_conv_5x5",
}


def _published(normal: str, reduce: str) -> Genotype:
    def pairs(text: str) -> tuple[Pair, ...]:
        items = (item.split(",") for item in text.split())
        return tuple((_SHORT[short], int(source)) for short, source in items)

    return Genotype(pairs(normal), NODES, pairs(reduce), NODES)


DARTS_V2 = _published(
    "s3,0 s3,1 s3,0 s3,1 s3,1 sk,0 sk,0 d3,2", "mp,0 mp,1 sk,2 mp,1 mp,0 sk,2 sk,2 mp,1"
)
PC_DARTS_cifar = _published(
    "s3,1 sk,0 s3,0 d3,1 s5,0 s3,1 ap,0 d3,1", "s5,1 mp,0 s5,1 s5,2 s3,0 s3,3 s3,1 s3,2"
)
PC_DARTS_image = _published(
    "sk,1 s3,0 s3,0 sk,1 s3,1 s3,3 s3,1 d5,4", "s3,0 sk,1 d5,2 mp,1 s3,2 s3,1 s5,0 s3,3"
)
PDARTS = _published(
    "sk,0 d3,1 sk,0 s3,1 s3,1 s3,3 s3,0 d5,4", "ap,0 s5,1 s3,0 d5,2 mp,0 d3,1 d3,1 d5,3"
)
PUBLISHED: dict[str, Genotype] = {
    "DARTS_V2": DARTS_V2,
    "PC_DARTS_cifar": PC_DARTS_cifar,
    "PC_DARTS_image": PC_DARTS_image,
    "PDARTS": PDARTS,
}
