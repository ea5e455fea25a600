"""`[simulated]` of a device profile: a chip without silicon, from the figures of its datasheet."""

from __future__ import annotations

from typing import Annotated

import pydantic

Rate = Annotated[float, pydantic.Field(gt=0, le=1e9, allow_inf_nan=False)]


class SimulatedOptions(pydantic.BaseModel):
    """The roofline of a chip (Williams, Waterman, Patterson 2009) as its maker states it."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    fp32_gmacs_per_s: Rate | None = pydantic.Field(
        default=None, description="Peak of 32-bit arithmetic, 10^9 MACs a second."
    )
    int8_gmacs_per_s: Rate | None = pydantic.Field(
        default=None, description="Peak of 8-bit arithmetic, 10^9 MACs a second."
    )
    bandwidth_gb_per_s: Rate = pydantic.Field(
        description="Bandwidth of the memory, 10^9 bytes a second."
    )
    overhead_us: float = pydantic.Field(
        default=5.0, ge=0, le=1e6, description="Start of a kernel, microseconds."
    )

    def peak_gmacs_per_s(self, precision: str) -> float | None:
        """The peak at "fp32" or "int8"; None where it is not stated."""
        return self.int8_gmacs_per_s if precision == "int8" else self.fp32_gmacs_per_s

    def __str__(self) -> str:
        """'simulated: 50 GMACs/s fp32, 20 GB/s, 4 us', a part of the chip's name in tables."""
        peaks = [("fp32", self.fp32_gmacs_per_s), ("int8", self.int8_gmacs_per_s)]
        stated = [f"{peak:g} GMACs/s {name}" for name, peak in peaks if peak is not None]
        return (
            f"simulated: {', '.join(stated)}, {self.bandwidth_gb_per_s:g} GB/s, "
            f"{self.overhead_us:g} us"
        )
