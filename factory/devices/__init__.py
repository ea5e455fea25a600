"""devices: how to reach a chip and run a model on it; the device profile."""
