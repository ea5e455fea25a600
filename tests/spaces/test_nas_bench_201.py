"""Text, number and isomorphism class of NAS-Bench-201 cells, against the published facts."""

import numpy as np
import pytest
import torch

from factory.core.errors import InputError
from factory.deployment.export import build_onnx
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.onnx_import import from_onnx
from factory.spaces.nas_bench_201 import OPS, SIZE, Cell201, all_cells, one_hot
from factory.spaces.nas_bench_201_space import NasBench201Space, Spec201

TABLE = {  # number -> text, unique string: rows of the NATS-Bench tables
    0: (
        "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|"
        "skip_connect~2|",
        "(0)@avg_pool_3x3+(0)@avg_pool_3x3+(0)@nor_conv_1x1+(0)@nor_conv_1x1",
    ),
    3: ("|avg_pool_3x3~0|+|skip_connect~0|none~1|+|none~0|none~1|skip_connect~2|", "#+#+#+0"),
    6: (
        "|nor_conv_3x3~0|+|none~0|none~1|+|avg_pool_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|",
        "(#+#)@nor_conv_3x3+((0)@nor_conv_3x3)@nor_conv_3x3+(0)@avg_pool_3x3",
    ),
}


@pytest.mark.parametrize("index", TABLE)
def test_rows_of_the_tables(index: int) -> None:
    text, unique = TABLE[index]
    cell = Cell201.parse(text)
    assert cell == Cell201.from_index(index)
    assert cell.index == index
    assert str(cell) == text
    assert cell.unique_string() == unique


def test_numbers_and_choices_are_bijections() -> None:
    cells = list(all_cells())
    assert len(set(cells)) == SIZE == 15_625
    assert [cell.index for cell in cells] == list(range(SIZE))
    assert all(Cell201.from_choices(cell.choices) == cell for cell in cells[:100])
    assert all(Cell201.parse(str(cell)) == cell for cell in cells[:100])


def test_published_classes() -> None:
    assert len({cell.unique_string() for cell in all_cells()}) == 6_466


def test_canonical_cells_are_the_same_network() -> None:
    groups: dict[Cell201, set[Cell201]] = {}
    for cell in all_cells():
        groups.setdefault(cell.canonical(), set()).add(cell.live())
    for form, members in groups.items():
        assert form.canonical() == form == form.live()
        for op in ("nor_conv_1x1", "nor_conv_3x3"):  # the same convolutions run
            assert {cell.ops.count(op) for cell in members} == {form.ops.count(op)}


def test_a_convolution_read_twice_is_not_two_convolutions() -> None:
    """The benchmark's string is the same; the networks differ."""
    once = Cell201.parse(
        "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|skip_connect~1|skip_connect~2|"
    )
    twice = Cell201.parse(
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|none~0|skip_connect~1|skip_connect~2|"
    )
    assert once.canonical() != twice.canonical()
    swapped = Cell201.parse(
        "|none~0|+|nor_conv_3x3~0|none~1|+|nor_conv_3x3~0|none~1|skip_connect~2|"
    )
    assert swapped.canonical() == twice.canonical()


def test_dead_operators() -> None:
    cell = Cell201.parse(TABLE[3][0])  # node 1 is read by nobody
    assert str(cell.live()) == ("|none~0|+|skip_connect~0|none~1|+|none~0|none~1|skip_connect~2|")
    fed_by_zero = "|none~0|+|none~0|nor_conv_3x3~1|+|nor_conv_1x1~0|none~1|avg_pool_3x3~2|"
    assert Cell201.parse(fed_by_zero).live().ops == ("none",) * 3 + ("nor_conv_1x1", "none", "none")
    assert not Cell201(("nor_conv_3x3", "skip_connect", "none", "none", "none", "none")).connected
    assert cell.connected


def test_one_hot() -> None:
    cells = [Cell201.from_index(i) for i in (5, 77)]
    encoded = one_hot(cells)
    assert encoded.shape == (2, 6, 5)
    for cell, matrix in zip(cells, encoded, strict=True):
        assert (matrix.sum(axis=1) == 1).all()
        assert [OPS[i] for i in np.argmax(matrix, axis=1)] == list(cell.ops)
    np.testing.assert_array_equal(cells[0].one_hot(), encoded[0])
    assert one_hot([]).shape == (0, 6, 5)


def test_json_form() -> None:
    cell = Cell201.from_index(1234)
    assert Cell201.from_dict(cell.to_dict()) == cell
    with pytest.raises(InputError, match=r"schema_version 2 is not 1 in x\.json"):
        Cell201.from_dict({**cell.to_dict(), "schema_version": 2}, "x.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("|skip_connect~0|", "1 nodes instead of 3"),
        (TABLE[0][0].replace("skip_connect~2", "skip_connect~1"), "one operator on each of the"),
        (TABLE[0][0].replace("nor_conv_1x1", "nor_conv_1x2"), "did you mean 'nor_conv_1x1'"),
        (TABLE[0][0].replace("~", ""), "node 1 is"),
    ],
)
def test_bad_text(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Cell201.parse(text)


def test_bad_number() -> None:
    with pytest.raises(InputError, match="no cell 15625; choose a number from 0 to 15624"):
        Cell201.from_index(SIZE)


ALL_3X3 = Cell201(("nor_conv_3x3",) * 6)
NO_OPERATOR = Cell201.parse("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|")


@pytest.mark.parametrize(
    ("cell", "params", "macs_m"),
    [(ALL_3X3, 1_531_546, 220.12), (NO_OPERATOR, 73_306, 7.78)],  # the benchmark's extremes
)
def test_published_parameters_and_macs(cell: Cell201, params: int, macs_m: float) -> None:
    counts = NasBench201Space(Spec201(16, 5, (3, 32, 32), 10)).counts(cell)
    assert counts.params == params
    assert round(counts.macs / 1e6, 2) == macs_m


@pytest.mark.parametrize(
    "text",
    [  # a lone convolution at the end takes the last BatchNorm in; a ReLU is shared; a pool is last
        "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|nor_conv_1x1~1|none~2|",
        "|nor_conv_1x1~0|+|nor_conv_3x3~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|",
        "|avg_pool_3x3~0|+|none~0|skip_connect~1|+|none~0|skip_connect~1|avg_pool_3x3~2|",
        "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|none~1|skip_connect~2|",
    ],
)
def test_exported_graph_has_the_kernels_of_the_space(text: str) -> None:
    torch.set_num_threads(1)
    cell = Cell201.parse(text)
    space = NasBench201Space(Spec201(4, 1, (3, 8, 8), 3))
    graph = canonicalise(from_onnx(build_onnx(space.network(cell).initialise(0), (3, 8, 8))))
    exported, promised = kernel_counts(graph), space.kernels(cell)
    assert exported == promised, {"missing": promised - exported, "extra": exported - promised}


@pytest.mark.heavy
def test_presence_of_deep_networks_is_exact() -> None:
    space = NasBench201Space(Spec201(16, 5, (3, 32, 32), 10))
    rng = np.random.default_rng(0)
    cells = [space.random(rng) for _ in range(100)]
    presence = space.presence()
    for row, cell in zip(presence.counts(space.one_hot_many(cells)), cells, strict=True):
        kernels = space.kernels(cell)
        assert [kernels[kernel] for kernel in presence.kernels] == np.round(row, 9).tolist()


def test_a_cell_without_a_path_cannot_be_built() -> None:
    space = NasBench201Space(Spec201(4, 1, (3, 8, 8), 3))
    with pytest.raises(InputError, match=r"cannot be built .*no operator leads from its input"):
        space.lower(Cell201(("none",) * 6))


def test_map_size_must_halve_twice() -> None:
    with pytest.raises(InputError, match="3x30x32 does not fit NAS-Bench-201"):
        Spec201(16, 5, (3, 30, 32), 10)
