"""Which integer instructions this chip has, and what follows for int8 weights.

On x86 without VNNI the product of u8 and s8 is summed in pairs in 16 bits and can saturate
(vpmaddubsw); weights of 7 bits cannot reach that. With VNNI (vpdpbusd) sums are 32 bits wide.
"""

from __future__ import annotations

import platform
from pathlib import Path

INTERESTING = (
    "sse4_1", "sse4_2", "avx", "f16c", "fma", "avx2", "avx512f", "avx512bw", "avx512vl",
    "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16",
    "asimd", "asimdhp", "asimddp", "i8mm", "sve", "sve2", "bf16",
)  # fmt: skip
VNNI = {"avx_vnni", "avx512_vnni", "amx_int8"}


def chip_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Instruction-set flags that matter for inference; empty where the system does not tell."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return ()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            have = set(value.split())
            return tuple(flag for flag in INTERESTING if flag in have)
    return ()


def int8_note(flags: tuple[str, ...], machine: str = "") -> str:
    """One sentence on int8 arithmetic on a chip with these flags."""
    machine = machine or platform.machine()
    if machine not in ("x86_64", "AMD64", "i686"):
        return f"{machine}: 32-bit sums, nothing saturates"
    if not flags:
        return "the chip's instructions are unknown: weights of 7 bits are the safe choice"
    if VNNI & set(flags):
        return "VNNI: 32-bit sums, weights of 8 bits do not saturate"
    return "no VNNI: sums of two products can saturate, weights are kept to 7 bits"


def wants_reduced_range(local: bool, flags: tuple[str, ...] | None = None) -> bool:
    """Whether int8 weights for this machine should have 7 bits; False for other chips."""
    if not local or platform.machine() not in ("x86_64", "AMD64", "i686"):
        return False
    flags = chip_flags() if flags is None else flags
    return not VNNI & set(flags)
