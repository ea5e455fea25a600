"""A registry refuses duplicates and helps with unknown names."""

import pytest

from factory.core.errors import InputError
from factory.core.registry import Registry


def test_register_get_and_order():
    registry: Registry[int] = Registry("number")
    registry.add("two", 2)
    registry.add("one", 1)
    assert registry.get("one") == 1
    assert registry.names() == ["two", "one"]
    assert "two" in registry


def test_duplicate_raises():
    registry: Registry[int] = Registry("number")
    registry.add("one", 1)
    with pytest.raises(ValueError, match="duplicate number 'one'"):
        registry.add("one", 2)


def test_unknown_lists_known_and_nearest():
    registry: Registry[int] = Registry("operator")
    registry.add("sep_conv_3x3", 1)
    with pytest.raises(InputError, match="did you mean 'sep_conv_3x3'"):
        registry.get("sep_conv_3")
