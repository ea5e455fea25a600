"""Units: how quantities are printed. MACs are multiply-adds; a latency is in milliseconds."""

from __future__ import annotations


def format_macs(macs: float) -> str:
    """'600.00 M MACs (= 1.20 GFLOPs)'."""
    return f"{macs / 1e6:.2f} M MACs (= {2 * macs / 1e9:.2f} GFLOPs)"


def format_params(params: float) -> str:
    """'3.6347 M parameters'."""
    return f"{params / 1e6:.4f} M parameters"


def format_ms(latency_ms: float) -> str:
    """Milliseconds with three significant digits."""
    return f"{latency_ms:.3g} ms" if latency_ms < 100 else f"{latency_ms:.0f} ms"
