"""Which latency table, and which predictor fitted to it, speaks for a device outside of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from factory.core.errors import InputError
from factory.core.provenance import chip_fingerprint, package_version
from factory.core.reading import is_file
from factory.core.resources import user_home
from factory.devices.browser_options import ANY_CHIP
from factory.devices.profile import DeviceProfile
from factory.graph.kernel import Kernel
from factory.latency.predictor import LatencyPredictor
from factory.profiling.quarantine import content_digest
from factory.profiling.table import LatencyTable, find_tables

TABLES = "latency_tables"


def own_tables() -> Path:
    """The user's own folder of tables."""
    return user_home() / TABLES


def table_for(profile: DeviceProfile) -> LatencyTable:
    """The table of a device, measured on this chip and with this runtime where it is local.

    Raises:
        InputError: there is none, or only tables of other chips, runtimes or settings.
    """
    return LatencyTable.read(outline_for(profile).path)


def outline_for(profile: DeviceProfile) -> LatencyTable:
    """Like :func:`table_for`, without the rows: soon read.

    Raises:
        InputError: there is none, or only tables of other chips, runtimes or settings.
    """
    how = f"measure it with `factory profile --device {profile.id}`"
    paths = find_tables(profile.id)
    if not paths:
        raise InputError(f"there is no latency table of device {profile.id!r}", fix=how)
    refused = []
    for path in paths:
        table = LatencyTable.outline(path)
        reason = mismatch(table, profile)
        if not reason:
            return table
        refused.append(f"{path.name}: {reason}")
    raise InputError(
        f"no latency table fits device {profile.id!r}", why="; ".join(refused), fix=how
    )


def mismatch(table: LatencyTable, profile: DeviceProfile) -> str:
    """Why a table does not speak for a device, "" when it does; the device is not opened."""
    facts = table.fingerprint
    expected: dict[str, object] = {
        "execution_provider": profile.execution_provider,
        "provider_options": dict(profile.provider_options),
        "precision": profile.precision,
        "runtime": profile.runtime,
    }
    if profile.chip == "local":
        expected["chip"] = chip_fingerprint()
        if profile.local is None or not profile.local.interpreter:  # else: of another environment
            expected["runtime_version"] = package_version("onnxruntime")
    elif profile.chip != ANY_CHIP:
        expected["chip"] = profile.chip_name
    if profile.threads != "all":
        expected["threads"] = profile.threads
    for key, value in expected.items():
        if key in facts and facts[key] != value:
            return f"measured with {key.replace('_', ' ')} {facts[key]!r}, here it is {value!r}"
    return ""


def predictor_path(table: LatencyTable) -> Path:
    """Where the predictor of exactly this table's content is kept."""
    digest = content_digest(table.path)[:12]
    return own_tables() / "predictors" / f"{table.path.stem}.{digest}.json"


def predictor_for(profile: DeviceProfile, run: str | Path | None) -> tuple[LatencyPredictor, Path]:
    """The predictor of a device: that of a run folder, else of its table (fitted when missing)."""
    return predictor_and_table(profile, run)[:2]


def predictor_and_table(
    profile: DeviceProfile, run: str | Path | None
) -> tuple[LatencyPredictor, Path, LatencyTable]:
    """The predictor of a device, where it comes from, and the outline of its table."""
    if run is not None:
        return _run_predictor(profile, Path(run))
    table = outline_for(profile)
    path = predictor_path(table)
    if is_file(path):
        return LatencyPredictor.load(path), path, table
    return LatencyPredictor.fit(LatencyTable.read(table.path)), table.path, table


def _run_predictor(
    profile: DeviceProfile, run: Path
) -> tuple[LatencyPredictor, Path, LatencyTable]:
    path = run / "02-fit" / f"{profile.id}.predictor.json"
    if not is_file(path):
        known = sorted(
            p.name.removesuffix(".predictor.json")
            for p in (run / "02-fit").glob("*.predictor.json")
        )
        raise InputError(
            f"run {run} has no predictor of device {profile.id!r}",
            why=f"it has: {', '.join(known) or 'none'}",
            fix="name a run folder whose fit stage is done, or leave --run out",
        )
    table = LatencyTable.outline(run_table_path(profile, run))
    reason = mismatch(table, profile)
    if reason:
        raise InputError(
            f"the predictor of run {run} is of another chip",
            why=reason,
            fix=f"measure this one with `factory profile --device {profile.id}`",
        )
    return LatencyPredictor.load(path), path, table


def run_table(profile: DeviceProfile, run: Path) -> LatencyTable:
    """The table of a device in a run folder."""
    return LatencyTable.read(run_table_path(profile, run))


def run_table_path(profile: DeviceProfile, run: Path) -> Path:
    """Its file."""
    paths = sorted((run / "01-profile").glob(f"{profile.id}__*.csv"))
    if not paths:
        raise InputError(
            f"run {run} has no latency table of device {profile.id!r}",
            fix="name a run folder whose profile stage is done, or leave --run out",
        )
    return paths[0]


def check_precision(
    counts: Mapping[Kernel, int], profile: DeviceProfile, model: str | Path
) -> None:
    """Refuse a file with integer operators on a device that is profiled for fp32."""
    if profile.dtype == "f32" and any(kernel.dtype != "f32" for kernel in counts):
        raise InputError(
            f"{model} is an int8 model and device {profile.id!r} is profiled for fp32",
            why="a table belongs to one precision",
            fix="name a device whose precision is int8 (`factory devices` lists them)",
        )
