"""Checking a file against its certificate again: every change is named.

The checks run from cheap to dear, and all of them run: one that fails does not hide the next.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from factory.core.errors import EXIT_DOES_NOT_HOLD, EXIT_OK, EXIT_UNDECIDED, InputError
from factory.core.files import sha256_file
from factory.core.reading import read_names
from factory.deployment.manifest import ModelManifest, describe_file
from factory.devices.base import Device
from factory.profiling.trust import Usual
from factory.verification.certificate import DATE, Certificate
from factory.verification.certify import probe_difference, profile_digest, run_probe
from factory.verification.model_file import ModelFile
from factory.verification.result import UNDECIDED
from factory.verification.verify import verify_model

LABELS_FILE = "labels.txt"


@dataclass(frozen=True)
class Recheck:
    """One check: what it is about, whether it holds, what was certified and what is there now.

    One that could not be made, since the machine was too busy, is ``undecided`` and not ``ok``.
    """

    name: str
    ok: bool
    detail: str
    certified: Any = None
    found: Any = None
    undecided: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class RecheckResult:
    """All checks of one certificate."""

    checks: tuple[Recheck, ...]

    @property
    def ok(self) -> bool:
        """True when every one holds."""
        return all(check.ok for check in self.checks)

    @property
    def exit_code(self) -> int:
        """0 when everything holds, 1 when something changed, 3 when that is not decided."""
        if any(not check.undecided for check in self.failed):
            return EXIT_DOES_NOT_HOLD
        return EXIT_UNDECIDED if self.failed else EXIT_OK

    @property
    def verdict(self) -> str:
        """The exit code in words."""
        words = {EXIT_OK: "as certified", EXIT_DOES_NOT_HOLD: "changed"}
        return words.get(self.exit_code, UNDECIDED)

    @property
    def failed(self) -> list[Recheck]:
        """Those that do not hold."""
        return [check for check in self.checks if not check.ok]


def check_file(certificate: Certificate, path: Path, today: str) -> list[Recheck]:
    """What needs no device: seal, date, file, labels.

    Args:
        certificate: as read.
        path: the model file.
        today: ISO date, UTC.
    """
    seal = certificate.seal_holds
    checks = [
        Recheck(
            "certificate",
            seal,
            "its seal holds" if seal else "the certificate was edited after it was issued",
        ),
        _date(certificate, today),
    ]
    if not path.is_file():
        return [*checks, Recheck("model file", False, f"{path} is not there; name the model too")]
    digest = sha256_file(path)
    same = digest == certificate.model.sha256
    checks.append(
        Recheck(
            "model file",
            same,
            "sha256 as certified" if same else f"{path.name} is not the file that was certified",
            certificate.model.sha256,
            digest,
        )
    )
    try:
        manifest = describe_file(path)
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        return [*checks, Recheck("labels", False, f"{path.name} cannot be read ({why})")]
    checks.append(_labels(certificate, manifest))
    beside = path.with_name(LABELS_FILE)
    if beside.is_file():
        checks.append(_labels_file(certificate, beside))
    return checks


def _date(certificate: Certificate, today: str) -> Recheck:
    def day(text: str) -> datetime.datetime:
        return datetime.datetime.strptime(text, DATE)

    try:
        fresh = day(today) <= day(certificate.expires)
    except ValueError:
        return Recheck("date", False, f"{certificate.expires!r} is no date")
    return Recheck(
        "date",
        fresh,
        f"valid until {certificate.expires}"
        if fresh
        else f"the chip's measurements expired on {certificate.expires}: measure it again",
        certificate.expires,
        today,
    )


def _labels(certificate: Certificate, manifest: ModelManifest) -> Recheck:
    """Class names inside the file: as certified, and one an output."""
    inside = manifest.metadata.get("class_names")
    names = [str(n) for n in inside] if isinstance(inside, list) else []
    certified = certificate.model.class_names
    outputs = manifest.outputs[0].shape[-1] if manifest.outputs and manifest.outputs[0].shape else 0
    missing = _missing(certified, names)
    if names != certified:
        told = (
            f"missing in the file: {', '.join(missing[:5])}"
            if missing
            else "other names or another order than certified"
        )
        return Recheck("labels", False, told, certified, names)
    if not names:
        return Recheck("labels", True, "the file names no classes, as certified")
    if outputs and len(names) != outputs:
        return Recheck(
            "labels", False, f"{len(names)} labels for {outputs} outputs", outputs, len(names)
        )
    return Recheck("labels", True, f"{len(names)} class names inside, one an output")


def _labels_file(certificate: Certificate, path: Path) -> Recheck:
    try:
        names = read_names(path)
    except InputError as error:
        return Recheck(LABELS_FILE, False, str(error))
    certified = certificate.model.class_names
    missing = _missing(certified, names)
    if missing:
        return Recheck(LABELS_FILE, False, f"missing: {', '.join(missing[:5])}", certified, names)
    same = names == certified
    return Recheck(
        LABELS_FILE, same, "as certified" if same else "another order or further names", None, None
    )


def _missing(wanted: Sequence[str], have: Sequence[str]) -> list[str]:
    present = set(have)
    return [repr(name) for name in wanted if name not in present]


def check_on_device(
    certificate: Certificate,
    path: Path,
    device: Device,
    *,
    measure: bool = True,
    usual: Usual | None = None,
) -> list[Recheck]:
    """What needs the chip: profile, chip, runtime, placement, outputs, latency and its budget.

    ``usual`` is what the references take on an undisturbed chip, from its latency table.
    """
    told = dict(device.describe().get("fingerprint") or {})
    was = certificate.chip.fingerprint
    digest = profile_digest(device.profile)
    same_profile = digest == certificate.chip.profile_sha256
    checks = [
        Recheck(
            "chip profile",
            same_profile,
            f"{device.profile.id} as certified"
            if same_profile
            else f"the profile of {device.profile.id} changed since: measure it again",
            certificate.chip.profile_sha256,
            digest,
        )
    ]
    for name, key in (
        ("chip", "chip"),
        ("runtime version", "runtime_version"),
        ("execution provider", "execution_provider"),
        ("threads", "threads"),
    ):
        same = told.get(key) == was.get(key)
        checks.append(
            Recheck(
                name,
                same,
                f"{told.get(key)}" + ("" if same else f", certified was {was.get(key)}"),
                was.get(key),
                told.get(key),
            )
        )
    if not path.is_file():
        return checks
    checks.append(_outputs(certificate, path, device))
    if measure:
        checks += _measured(certificate, path, device, usual)
    return checks


def _outputs(certificate: Certificate, path: Path, device: Device) -> Recheck:
    probe = certificate.probe
    if probe is None:
        return Recheck("outputs", True, "none were certified")
    try:
        values = run_probe(
            path.read_bytes(),
            device,
            certificate.model.inputs,
            str(certificate.model.outputs[0]["name"]),
            probe.seed,
        )
    except (InputError, KeyError, IndexError) as error:
        return Recheck("outputs", False, f"the file does not run here: {error}")
    difference = probe_difference(values, probe.outputs)
    return Recheck(
        "outputs",
        difference <= probe.tolerance,
        f"largest relative difference {difference:.2g} (limit {probe.tolerance:g})",
        probe.tolerance,
        None if difference == float("inf") else difference,
    )


def _measured(
    certificate: Certificate, path: Path, device: Device, usual: Usual | None
) -> list[Recheck]:
    """Placement and latency, measured anew."""
    limit = certificate.budget.max_latency_ms
    model = ModelFile(path.read_bytes(), None)
    result = verify_model(model, device, max_latency_ms=limit, usual=usual)
    if result.median_ms is None:
        undecided = result.verdict == UNDECIDED
        return [Recheck("latency", False, "; ".join(result.reasons), undecided=undecided)]
    placed = {name: count for name, count in result.providers.items() if count}
    same = placed == {n: c for n, c in certificate.placement.items() if c}
    checks = [
        Recheck(
            "placement",
            same,
            ", ".join(f"{c} nodes on {n}" for n, c in placed.items()) or "not told",
            certificate.placement,
            placed,
        )
    ]
    certified = None if certificate.latency is None else certificate.latency.median_ms
    budget = "" if limit is None else f", budget {limit:g} ms"
    was = "" if certified is None else f", certified {certified:.4g} ms"
    checks.append(
        Recheck(
            "latency",
            result.ok,
            f"median {result.median_ms:.4g} ms{was}{budget}",
            certified,
            result.median_ms,
        )
    )
    return checks
