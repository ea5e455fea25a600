"""verification: the judge: parity, latency on the chip, verdict."""
