"""Genotypes: JSON there and back, and one clear sentence for everything that is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from factory.core.errors import InputError
from factory.spaces.genotype import PUBLISHED, Genotype, find_genotype


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
        (changed(normal=pairs_with(1, ["none", 1])), ["'none'", "search"]),
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
