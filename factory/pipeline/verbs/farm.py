"""farm: several devices work through one plan of measurements."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factory.core.errors import InputError
from factory.core.progress import SILENT, Progress
from factory.devices.profile import load_profile, with_patience
from factory.pipeline.farm import run_farm
from factory.pipeline.profiling_plan import effort_settings
from factory.pipeline.shapes import cell_space
from factory.pipeline.tables import own_tables
from factory.pipeline.verbs.profile import POOL

SCHEMA_VERSION = 1
PATIENCE_S = 20.0  # for a device that is away, before its work goes to another


def farm(
    devices: Sequence[str | Path],
    *,
    channels: int = 16,
    layers: int = 8,
    input: str = "3x32x32",
    stem: str = "cifar",
    classes: int = 10,
    networks: int = 16,
    effort: str = "quick",
    out: str | Path | None = None,
    seed: int = 0,
    ray: str | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Measure the kernels of the cell space and some random networks on several devices at once.

    Devices with the same fingerprint share the work and end in one table, that of the one named
    first; others work in parallel, each kind into its own table. With ``ray``, the address of a
    Ray cluster, each device (a local one) stands for every node of the cluster. The other
    arguments are those of :func:`factory.pipeline.verbs.profile.profile`.
    """
    if not devices:
        raise InputError("a farm needs devices", fix="name at least one, see `factory devices`")
    effort_settings(effort)
    if not 0 <= networks <= 1000:
        raise InputError(f"networks = {networks} is not accepted", fix="give a number up to 1000")
    profiles = [load_profile(device) for device in devices]
    if ray is not None:
        from factory.devices.ray_device import ray_profiles

        profiles = [node for profile in profiles for node in ray_profiles(profile, ray)]
    if len(profiles) > 1:  # another may take over
        profiles = [with_patience(profile, PATIENCE_S) for profile in profiles]
    started = time.monotonic()
    groups = run_farm(
        profiles,
        [cell_space(channels, layers, input, stem, classes)],
        Path(out) if out is not None else own_tables(),
        networks=networks,
        pool=POOL,
        effort=effort,
        seed=seed,
        progress=progress,
    )
    seconds = round(time.monotonic() - started, 1)
    return {"schema_version": SCHEMA_VERSION, "groups": groups, "seconds": seconds}
