"""Genotypes: JSON there and back, and one clear sentence for everything that is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from factory.core.errors import InputError
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.onnx_import import from_onnx
from factory.spaces.cell_network import CellNetwork
from factory.spaces.genotype import PUBLISHED, Genotype, find_genotype
from factory.spaces.lowering import lower
from factory.spaces.network_spec import NetworkSpec


def changed(**changes: Any) -> dict[str, Any]:
    return {**PUBLISHED["DARTS_V2"].to_dict(), **changes}


def pairs_with(index: int, pair: Any) -> list[Any]:
    pairs = PUBLISHED["DARTS_V2"].to_dict()["normal"]
    pairs[index] = pair
    return pairs


@pytest.mark.parametrize("name", PUBLISHED)
def test_round_trip(name: str, tmp_path: Path) -> None:
    genotype = find_genotype(name)
    path = tmp_path / "genotype.json"
    genotype.save(path)
    assert Genotype.load(path) == genotype == find_genotype(str(path))
    assert hash(Genotype.load(path)) == hash(genotype)


def test_file_form_is_the_documented_one() -> None:
    value = PUBLISHED["PC_DARTS_cifar"].to_dict()
    assert list(value) == [
        "schema_version",
        "normal",
        "normal_concat",
        "reduce",
        "reduce_concat",
    ]
    assert value["normal"][:2] == [["sep_conv_3x3", 1], ["skip_connect", 0]]
    assert json.loads(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (changed(normal=pairs_with(1, ["sepconv_3x3", 1])), ["'sep_conv_3x3'", "entry 1", "known"]),
        (
            changed(normal=[["none", 0], ["none", 1], *pairs_with(0, ["none", 0])[2:]]),
            ["both operators of node 2 are 'none'"],
        ),
        (changed(normal=pairs_with(0, ["skip_connect", 2])), ["source 2 of node 2", "0 to 1"]),
        (changed(normal=pairs_with(0, ["skip_connect", -1])), ["source -1"]),
        (changed(normal=pairs_with(0, ["skip_connect", 1])), ["reads source 1 twice"]),
        (changed(normal=pairs_with(0, ["skip_connect", "1"])), ["not a pair", "entry 0"]),
        (changed(normal=pairs_with(0, ["skip_connect", True])), ["not a pair"]),
        (changed(normal=pairs_with(0, "skip_connect")), ["not a pair"]),
        (changed(normal=[]), ["0 pairs instead of 8"]),
        (changed(reduce=None), ["'reduce' is missing"]),
        (changed(reduce_concat=[2, 3, 4]), ["reduce_concat [2, 3, 4]"]),
        (changed(reduce_concat=["2"]), ["not a list of node numbers"]),
        (changed(schema_version=2), ["schema_version 2"]),
        (changed(normall=[]), ["'normall'", "did you mean 'normal'"]),
        ([], ["expected an object"]),
    ],
)
def test_wrong_files_are_told_in_one_sentence(value: Any, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(value))
    with pytest.raises(InputError) as error:
        Genotype.load(path)
    message = str(error.value)
    assert "mine.json" in message
    assert all(word in message for word in words), message


def test_unknown_name_lists_the_published_ones() -> None:
    with pytest.raises(InputError, match=r"did you mean 'PC_DARTS_cifar'.*PDARTS"):
        find_genotype("PC_DARTS_cifr")


def test_missing_file() -> None:
    with pytest.raises(InputError, match=r"nowhere.json does not exist"):
        find_genotype("nowhere.json")


TEXT = """Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0),
('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0),
('dil_conv_3x3', 2)], normal_concat=CONCAT, reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1),
('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2),
('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=CONCAT)"""


@pytest.mark.parametrize("concat", ["range(2, 6)", "[2, 3, 4, 5]", "list(range(2, 6))"])
def test_the_text_that_python_prints(concat: str, tmp_path: Path) -> None:
    text = TEXT.replace("CONCAT", concat)
    assert find_genotype(text) == PUBLISHED["DARTS_V2"]
    path = tmp_path / "genotypes.py"
    path.write_text(f"from collections import namedtuple\n\n# of a paper\nDARTS_V2 = {text}\n")
    assert find_genotype(str(path)) == PUBLISHED["DARTS_V2"]


def test_json_of_the_named_tuple_itself(tmp_path: Path) -> None:
    value = PUBLISHED["DARTS_V2"].to_dict()
    del value["schema_version"]
    for number, form in enumerate((value, list(value.values()))):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(form))
        assert Genotype.load(path) == PUBLISHED["DARTS_V2"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TEXT.replace("CONCAT", "print(1)"), "'normal_concat' is no list"),
        (TEXT.replace("CONCAT", "range(1000000000)"), "'normal_concat' is missing"),
        (TEXT.replace("CONCAT", "range(2, 6)") * 2, "not the text of a Genotype"),
        (f"{TEXT}\n{TEXT}".replace("CONCAT", "range(2, 6)"), "holds 2 texts"),
        ("Genotype(normal=[('sep_conv_3x3', 0)", "not the text of a Genotype"),
    ],
)
def test_wrong_texts_are_told_in_one_sentence(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        find_genotype(text)


def test_none_leaves_its_node_to_the_other_operator() -> None:
    from factory.deployment.export import build_onnx

    pairs = pairs_with(2, ["none", 1])
    genotype = Genotype.from_dict(changed(normal=pairs))
    spec = NetworkSpec(channels=4, layers=3, stem="cifar", input_shape=(3, 8, 8), num_classes=10)
    graph = canonicalise(lower(spec, genotype))
    network = CellNetwork(genotype, spec).initialise(0).eval()
    exported = canonicalise(from_onnx(build_onnx(network, spec.input_shape)))
    assert kernel_counts(exported) == kernel_counts(graph)
    whole = canonicalise(lower(spec, PUBLISHED["DARTS_V2"]))
    assert len(graph.nodes) < len(whole.nodes)
