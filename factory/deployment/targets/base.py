"""What a target is: one form of deployable file, how it is made, what can be said of it here.

A target takes the clean fp32 file (or the file of the target it is ``made_from``) and writes its
own. What cannot be run on this machine is produced all the same, checked with the runtime's own
static tools, and labelled: ``timing_here`` says why a time measured here is not the target's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import onnx

from factory.core.errors import InputError
from factory.core.files import write_atomic_bytes
from factory.deployment.flavours import Flavour
from factory.deployment.quiet import silenced
from factory.graph.onnx_load import with_shapes

CPU = "CPUExecutionProvider"
Precision = Literal["fp32", "fp16", "int8"]
Rewrite = Callable[[Any], bool]


@dataclass(frozen=True)
class Check:
    """One static check: what was looked at, whether it is fine, what was found."""

    name: str
    ok: bool
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Target:
    """One form of file; subclasses override :meth:`write` and what else they need.

    Attributes:
        name: as given to ``factory export --target``.
        summary: one line for people.
        precision: of the arithmetic.
        serves: (execution provider, device precision) pairs this is the default for.
        suffix: of the model file.
        made_from: name of the target whose file this one converts; "" for the fp32 file.
        flavour: how the int8 file is quantised; None for files that are not quantised here.
        rewrites: passes that this target's runtime wants, because it has no such operator.
        runs_here: execution provider that can load the file on this machine; "" when none can.
        session: configuration entries with which an app opens the file.
        timing_here: why a latency measured here is not this target's; "" when it is.
    """

    name: str
    summary: str
    precision: Precision
    serves: tuple[tuple[str, str], ...] = ()
    suffix: str = ".onnx"
    made_from: str = ""
    flavour: Flavour | None = None
    rewrites: tuple[Rewrite, ...] = field(default=(), repr=False)
    runs_here: str = CPU
    session: tuple[tuple[str, str], ...] = ()
    timing_here: str = ""

    def missing(self) -> str:
        """Why this target cannot be made here, with the way out; "" when it can."""
        return ""

    def write(self, source: Path, out: Path) -> list[Path]:
        """Write ``out`` from ``source``; every file written, the model first."""
        write_atomic_bytes(out, source.read_bytes())
        return [out]

    def checks(self, path: Path) -> list[Check]:
        """Static checks of the written file."""
        return [check_onnx(path)]

    def to_dict(self) -> dict[str, Any]:
        """What a listing shows."""
        return {
            "name": self.name,
            "summary": self.summary,
            "precision": self.precision,
            "runs_here": self.runs_here,
            "timing_here": self.timing_here,
            "missing": self.missing(),
        }


def check_onnx(path: Path) -> Check:
    """ONNX's own checker, with full shape inference."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except Exception as error:
        return Check("onnx checker", False, " ".join(str(error).split())[:300])
    return Check("onnx checker", True, "valid, shapes infer")


def rewritten(source: Path, rewrites: tuple[Rewrite, ...]) -> onnx.ModelProto:
    """The model of ``source`` after ``rewrites``, shapes inferred anew, metadata kept."""
    import onnx_ir as ir

    model = ir.load(source)
    changed = [rewrite(model) for rewrite in rewrites]
    if any(changed):
        return with_shapes(ir.to_proto(model), "the rewritten model is not valid")
    return onnx.load(source)


def with_precision(model: onnx.ModelProto, precision: str, target: str) -> onnx.ModelProto:
    """Say inside the file what it is."""
    props = {p.key: p.value for p in model.metadata_props}
    onnx.helper.set_model_props(model, props | {"precision": precision, "target": target})
    return model


def convert_or_tell(what: str, work: Callable[[], None]) -> None:
    """Run a converter silently; its failure becomes one sentence."""
    with silenced() as said:
        try:
            work()
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"{what} failed", why=" ".join(str(error).split())[:300] or said.tail()
            ) from error
