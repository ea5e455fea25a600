"""Quantities are printed with their unit."""

from factory.core.units import format_macs, format_ms, format_params


def test_units_are_named():
    assert format_macs(600e6) == "600.00 M MACs (= 1.20 GFLOPs)"
    assert format_params(3_634_678) == "3.6347 M parameters"
    assert format_ms(1.23456) == "1.23 ms"
    assert format_ms(1234.5) == "1234 ms"
