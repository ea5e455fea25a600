"""The gate before a measurement: it waits while the chip is hot or others use it.

Part of the device agent: standard library only. Waiting has an end: a chip that stays hot or busy
is measured all the same, the reply says so, and the reference model of the block shows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from factory.devices.agent_facts import busy_cores, temperature_c

LOOK_EVERY_S = 1.0
PATIENT_AGAIN_AFTER_S = 300.0


@dataclass
class Gate:
    """When to measure.

    Args:
        max_temperature_c: hotter than this is waited for.
        max_busy_cores: more cores busy with other work than this is waited for.
        longest_wait_s: then the measurement goes on; after a vain wait the gate stays open
            for five minutes, so that a machine that is always busy is not waited for every time.
    """

    max_temperature_c: float = 75.0
    max_busy_cores: float = 0.5
    longest_wait_s: float = 60.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    temperature: Callable[[], float | None] = temperature_c
    busy: Callable[[], float | None] = busy_cores
    _open_until: float = field(default=0.0, init=False)

    def reason(self) -> str:
        """Why not to measure now; "" when all is well."""
        degrees = self.temperature()
        if degrees is not None and degrees > self.max_temperature_c:
            return f"the chip is at {degrees:.0f} C, over {self.max_temperature_c:.0f} C"
        cores = self.busy()
        if cores is not None and cores > self.max_busy_cores:
            return f"other work keeps {cores:.1f} cores busy"
        return ""

    def wait(self, say: Callable[[str], None]) -> str:
        """Wait until all is well; ``say`` hears every second why not. What is left at the end."""
        started = self.clock()
        while True:
            reason = self.reason()
            if not reason:
                return ""
            if started < self._open_until:
                return reason
            if self.clock() - started >= self.longest_wait_s:
                self._open_until = self.clock() + PATIENT_AGAIN_AFTER_S
                return reason
            say(reason)
            self.sleep(LOOK_EVERY_S)
