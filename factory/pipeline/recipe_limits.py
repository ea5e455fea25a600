"""Bounds of what a person can mean by a budget; beyond them it is a slip of units."""

from __future__ import annotations

import math

from factory.core.errors import InputError

MAX_MACS_LIMIT = 1e12
MAX_LATENCY_MS_LIMIT = 1e5


def check_latency_budget(max_latency_ms: float | None) -> None:
    """Refuse a latency budget that is not above zero or beyond 100 seconds."""
    if max_latency_ms is None:
        return
    if not math.isfinite(max_latency_ms) or not 0 < max_latency_ms <= MAX_LATENCY_MS_LIMIT:
        raise InputError(
            f"a latency budget of {max_latency_ms:g} ms is not accepted",
            why=f"it must be above 0 and at most {MAX_LATENCY_MS_LIMIT:g} ms",
            fix="give milliseconds, for example --max-latency-ms 8",
        )
