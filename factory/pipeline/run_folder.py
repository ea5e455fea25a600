"""The run folder: seven stage folders, units of work in them, and what makes a unit done.

A unit is the smallest thing that is done or not: one chip in 01-profile and 02-fit, one tier in
03-search to 06-verify. It is done when its DONE file is there, written atomically and last, with
the hashes of what it was made from and of what it left. A unit made from other inputs is moved
aside (`.replaced/`), never overwritten. docs/formats/run-folder.md is the description.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic

from factory.core.errors import InputError
from factory.core.files import disk_errors, sha256_file, write_json
from factory.core.provenance import now_utc, provenance
from factory.core.reading import is_file, read_json, read_object
from factory.core.validation import validate
from factory.pipeline.recipe_loading import changed_keys, fingerprint

SCHEMA_VERSION = 1
STAGES = ("profile", "fit", "search", "train", "deploy", "verify", "report")
DONE = "DONE"
STARTED = "STARTED"
REPLACED = ".replaced"


def stage_folder(stage: str) -> str:
    """'search' -> '03-search'."""
    return f"{STAGES.index(stage) + 1:02d}-{stage}"


@dataclass(frozen=True)
class Unit:
    """One piece of a stage.

    Args:
        folder: where its files and its marker are.
        inputs: name -> hash of everything it is made from.
        marker: prefix of the marker files ("" or "local-cpu-t1-fp32."), for units that share a
            folder.
        run: the run folder.
    """

    folder: Path
    inputs: Mapping[str, str]
    run: Path
    marker: str = ""

    @property
    def done_file(self) -> Path:
        """The file that says the unit is done."""
        return self.folder / f"{self.marker}{DONE}"

    @property
    def started_file(self) -> Path:
        """The file that says from which inputs the unit was begun."""
        return self.folder / f"{self.marker}{STARTED}"

    def is_done(self) -> bool:
        """True when DONE is there, made from these inputs, and every file it left still is."""
        record = _read_marker(self.done_file)
        if record is None or record.inputs != dict(self.inputs):
            return False
        return all(
            is_file(self.run / name) and sha256_file(self.run / name) == digest
            for name, digest in record.outputs.items()
        )

    def begin(self, owned: Iterable[Path] = ()) -> list[str]:
        """Make the unit ready to be worked on; returns the names of inputs that had changed.

        Files of an interrupted attempt from the same inputs stay, so that it goes on from there;
        those from other inputs (the whole folder, or the ``owned`` files of a shared one) are
        moved to `.replaced/`.
        """
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        record = _read_marker(self.done_file) or _read_marker(self.started_file)
        changed: list[str] = []
        if record is not None:
            before = record.inputs
            names = before.keys() | self.inputs.keys()
            changed = sorted(n for n in names if before.get(n) != self.inputs.get(n))
        if changed:
            self._move_aside(owned)
        else:
            self.done_file.unlink(missing_ok=True)
        write_json(
            self.started_file,
            {"schema_version": SCHEMA_VERSION, "inputs": dict(self.inputs), "date": now_utc()},
        )
        return changed

    def finish(self, outputs: Iterable[Path], seconds: float) -> None:
        """Write DONE, last and atomically."""
        write_json(
            self.done_file,
            {
                "schema_version": SCHEMA_VERSION,
                "inputs": dict(self.inputs),
                "outputs": {
                    path.relative_to(self.run).as_posix(): sha256_file(path)
                    for path in sorted(outputs)
                },
                "seconds": round(seconds, 3),
                "date": now_utc(),
            },
        )
        self.started_file.unlink(missing_ok=True)

    def digest(self) -> str:
        """Hash of what a done unit left; later units name it among their inputs."""
        record = _read_marker(self.done_file)
        if record is None:
            raise InputError(f"{self.done_file} is missing", fix="run the build again")
        return fingerprint(record.outputs)

    def seconds(self) -> float:
        """How long the unit took, 0 when it is not done."""
        record = _read_marker(self.done_file)
        return 0.0 if record is None else record.seconds

    def _move_aside(self, owned: Iterable[Path]) -> None:
        name = self.folder.relative_to(self.run).as_posix().replace("/", "-")
        attic = self.run / REPLACED
        number = 1
        while (attic / f"{name}-{self.marker}{number}").exists():
            number += 1
        target = attic / f"{name}-{self.marker}{number}"
        with disk_errors(target):
            if not self.marker:
                attic.mkdir(parents=True, exist_ok=True)
                self.folder.rename(target)
                self.folder.mkdir()
                return
            target.mkdir(parents=True)
            for path in [*owned, self.done_file, self.started_file]:
                if path.exists():
                    shutil.move(path, target / path.name)


class _Marker(pydantic.BaseModel):
    """What STARTED and DONE hold, of a unit or of a stage."""

    schema_version: Literal[1]
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    units: dict[str, str] = {}
    seconds: float = pydantic.Field(default=0.0, ge=0)


class _StageNote(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")

    stage: Literal[STAGES]  # type: ignore[valid-type]


class _Record(pydantic.BaseModel):
    """run.json: what is used of it by name, and the rest as it is."""

    model_config = pydantic.ConfigDict(extra="allow")

    schema_version: Literal[1]
    recipe: dict[str, Any]
    stages: list[_StageNote] = []


def _read_marker(path: Path) -> _Marker | None:
    """What a marker says; None where it is not there or does not read as one."""
    try:
        return validate(_Marker, read_json(path, "marker"))
    except InputError:
        return None


class RunFolder:
    """The folder of one run: its recipe, its stages, what is done."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def stage(self, stage: str) -> Path:
        """Folder of a stage."""
        return self.root / stage_folder(stage)

    def unit(
        self, stage: str, name: str, inputs: Mapping[str, str], *, shared: bool = False
    ) -> Unit:
        """A unit of a stage: its own folder, or (``shared``) a marker in the stage's folder."""
        if shared:
            return Unit(self.stage(stage), inputs, self.root, marker=f"{name}.")
        return Unit(self.stage(stage) / name, inputs, self.root)

    @property
    def record_file(self) -> Path:
        """run.json."""
        return self.root / "run.json"

    def claim(self, recipe: dict[str, Any], *, seed: int) -> bool:
        """Write run.json, or check that the folder is this recipe's; True when it goes on.

        Raises:
            InputError: the folder belongs to another recipe, or holds other files.
        """
        if self.record_file.exists():
            changed = changed_keys(self.record()["recipe"], recipe)
            if changed:
                shown = ", ".join(changed[:4]) + (", ..." if len(changed) > 4 else "")
                raise InputError(
                    f"the recipe changed since the run in {self.root} was started: {shown}",
                    why="nothing was overwritten",
                    fix="build into another folder with --out, undo the change, "
                    "or remove the folder",
                )
            return True
        strangers = [p.name for p in self.root.iterdir() if not p.name.startswith(".")]
        if strangers:
            raise InputError(
                f"folder {self.root} holds files that are no run of the factory "
                f"({', '.join(sorted(strangers)[:3])})",
                fix="choose an empty folder with --out",
            )
        write_json(
            self.record_file,
            {
                "schema_version": SCHEMA_VERSION,
                "recipe": recipe,
                "recipe_sha256": fingerprint(recipe),
                "seed": seed,
                "provenance": provenance(),
                "stages": [],
            },
        )
        return False

    def record(self) -> dict[str, Any]:
        """Content of run.json."""
        if not self.record_file.exists():
            raise InputError(
                f"{self.root} is no run folder (it has no run.json)",
                fix="name the folder of a build, or start one: `factory build RECIPE --out DIR`",
            )
        value = read_object(self.record_file, "run record")
        if value.get("schema_version") != SCHEMA_VERSION:
            raise InputError(
                f"run record {self.record_file} is of another schema version",
                fix="build into another folder with --out",
            )
        validate(_Record, value, where=f"run record {self.record_file}")
        return value

    def stage_is_current(self, stage: str, units: Iterable[Unit]) -> bool:
        """True when the stage's DONE names exactly these units as they are."""
        record = _read_marker(self.stage(stage) / DONE)
        return record is not None and record.units == self._unit_hashes(units)

    def _unit_hashes(self, units: Iterable[Unit]) -> dict[str, str]:
        return {
            u.done_file.relative_to(self.root).as_posix(): sha256_file(u.done_file) for u in units
        }

    def finish_stage(self, stage: str, units: Iterable[Unit], started: float) -> None:
        """Write the stage's DONE and note it in run.json."""
        units = list(units)
        write_json(
            self.stage(stage) / DONE,
            {
                "schema_version": SCHEMA_VERSION,
                "stage": stage,
                "units": self._unit_hashes(units),
                "date": now_utc(),
            },
        )
        record = self.record()
        stages = [entry for entry in record.get("stages", []) if entry["stage"] != stage]
        seconds = sum(unit.seconds() for unit in units)
        stages.append({"stage": stage, "seconds": round(seconds, 1), "date": now_utc()})
        record["stages"] = sorted(stages, key=lambda entry: STAGES.index(entry["stage"]))
        record["wall_seconds_last_build"] = round(time.time() - started, 1)
        write_json(self.record_file, record)
