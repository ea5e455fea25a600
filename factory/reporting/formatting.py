"""How quantities are written in the report and the model card; an unknown one is a dash."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from factory.core.units import format_ms
from factory.reporting.artefacts import number

UNKNOWN = "–"


def show_ms(value: Any) -> str:
    """'7.81 ms'."""
    known = number(value)
    return UNKNOWN if known is None else format_ms(known)


def show_percent(value: Any, digits: int = 1) -> str:
    """0.985 -> '98.5 %'."""
    known = number(value)
    return UNKNOWN if known is None else f"{100 * known:.{digits}f} %"


def show_signed(value: Any) -> str:
    """0.034 -> '+3.4 %'."""
    known = number(value)
    return UNKNOWN if known is None else f"{100 * known:+.1f} %".replace("-", "−")


def show_macs(value: Any) -> str:
    """Multiply-adds in millions."""
    known = number(value)
    return UNKNOWN if known is None else f"{known / 1e6:.2f} M"


def show_params(value: Any) -> str:
    """Parameters in thousands or millions."""
    known = number(value)
    if known is None:
        return UNKNOWN
    return f"{known / 1e6:.4f} M" if known >= 1e6 else f"{known / 1e3:.1f} k"


def show_count(value: Any) -> str:
    """A whole number."""
    known = number(value)
    return UNKNOWN if known is None else f"{known:,.0f}"


def show_size(value: Any) -> str:
    """Bytes as kB or MB."""
    known = number(value)
    if known is None:
        return UNKNOWN
    return f"{known / 1e6:.2f} MB" if known >= 1e6 else f"{known / 1e3:.0f} kB"


def show_seconds(value: Any) -> str:
    """Seconds as '42 s' or '3 min 5 s'."""
    known = number(value)
    if known is None:
        return ""
    minutes, seconds = divmod(round(known), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


FILTERS: dict[str, Callable[..., str]] = {
    "ms": show_ms,
    "percent": show_percent,
    "signed": show_signed,
    "macs": show_macs,
    "count": show_count,
    "params": show_params,
    "size": show_size,
    "seconds": show_seconds,
}
