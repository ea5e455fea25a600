"""Every fault of a model's data is one sentence with key, value, reason and nearest known key."""

from __future__ import annotations

from typing import Literal

import pydantic
import pytest

from factory.core.errors import InputError
from factory.core.validation import validate


class Wheel(pydantic.BaseModel, extra="forbid"):
    size_mm: int = pydantic.Field(gt=0)
    kind: Literal["road", "mud"] = "road"


class Bike(pydantic.BaseModel, extra="forbid"):
    name: str
    gears: int | Literal["all"] = 1
    wheels: list[Wheel] = []
    spare: Wheel | None = None

    @pydantic.field_validator("name")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("a bike has a name.")
        return value


def message(data: object) -> str:
    with pytest.raises(InputError) as caught:
        validate(Bike, data, "bike.toml")  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    assert "bike.toml" in text
    return text


def test_good_data_gives_the_model():
    bike = validate(Bike, {"name": "b", "wheels": [{"size_mm": 622}]}, "bike.toml")
    assert bike.wheels[0].size_mm == 622


def test_unknown_key_names_the_nearest_known_one():
    text = message({"nmae": "x"})
    assert "unknown key 'nmae'" in text
    assert "did you mean 'name'" in text
    assert "gears" in text


def test_unknown_key_in_a_list_of_tables_knows_that_table():
    text = message({"name": "x", "wheels": [{"size_mm": 1}, {"size_mm": 2, "sort": "mud"}]})
    assert "'wheels[1].sort'" in text
    assert "size_mm" in text
    assert "gears" not in text


def test_unknown_key_in_an_optional_table():
    assert "known: kind, size_mm" in message({"name": "x", "spare": {"size_mm": 1, "zzzz": 2}})


def test_missing_key():
    assert "the key 'name' is missing" in message({})
    assert "'wheels[0].size_mm'" in message({"name": "x", "wheels": [{}]})


def test_wrong_value_is_shown_with_the_reason():
    text = message({"name": "x", "wheels": [{"size_mm": -3}]})
    assert "wheels[0].size_mm = -3" in text
    assert "greater than 0" in text


def test_members_of_a_union_are_one_fault():
    text = message({"name": "x", "gears": "many"})
    assert "gears = 'many'" in text
    assert " or " in text
    assert "more fault" not in text


def test_own_validators_and_the_number_of_further_faults():
    text = message({"name": " ", "gears": [], "wheels": 3})
    assert "(a bike has a name)" in text
    assert "2 more faults" in text


def test_data_that_is_no_table():
    assert "expected keys and values, got 3" in message(3)
