"""The text of a very small recipe on a simulated chip, and of the chip's profile."""

from pathlib import Path

DEVICE = """
schema_version = 1
id = "{id}"
chip = "simulated"
transport = "simulated"
execution_provider = "SimulatedExecutionProvider"
threads = 1
precision = "{precision}"
notes = "A test device: its times are made up."
"""

RECIPE = """
[recipe]
name = "tiny"
seed = 3

[data]
kind = "digits"
image_size = 16
max_train = 64
max_test = 12

[space]
channels = 4
layers = 3

[profile]
networks = 6
pool = 32

[search]
preset = "short"
channels = 8
layers = 3
batch_size = 16
epochs = 3
warmup_epochs = 1
steps_per_epoch = 3
checkpoint_steps = 1

[training]
epochs = 3
batch_size = 16
checkpoint_s = 0

[[tiers]]
name = "sim"
device = "{device}"
latency_percentile = 40
max_macs = 2e6
"""


def write_tiny(folder: Path) -> Path:
    """Write recipe and device profile into ``folder``; the recipe's path."""
    device = folder / "simulated-a.toml"
    device.write_text(DEVICE.format(id="simulated-a", precision="fp32"))
    path = folder / "tiny.toml"
    path.write_text(RECIPE.format(device=device))
    return path
