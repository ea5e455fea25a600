"""Targets int8-qnn and qnn-context: QDQ for Qualcomm's NPU, and its compiled binary per SoC.

The QDQ file follows onnxruntime.quantization's own QNN configuration. The context binary is
compiled offline by the plug-in execution provider ``onnxruntime-qnn`` and is tied to one SoC
generation; without the plug-in the target says so and how to get it.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx

from factory.core.errors import InputError
from factory.core.files import write_atomic_bytes
from factory.deployment.flavours import Flavour
from factory.deployment.passes.hard_swish_split import split_hard_swish
from factory.deployment.passes.thin_dilated_input import thin_dilated_depthwise
from factory.deployment.targets.base import Check, Target, check_onnx, convert_or_tell

QNN = "QNNExecutionProvider"
PLUGIN = "onnxruntime_qnn"
DEFAULT_SOC = "43"
COMPILE_TIMEOUT_S = 600.0
NOT_HERE = "the NPU is in phones only: run here on the CPU kernels, for the numbers it computes"


@dataclass(frozen=True)
class QnnContext(Target):
    """A model whose one node holds the compiled graph."""

    soc_model: str = DEFAULT_SOC

    def missing(self) -> str:
        """The plug-in is needed."""
        if importlib.util.find_spec(PLUGIN) is None:
            return (
                "the compiler of QNN contexts is not installed; "
                "install it with `pip install onnxruntime-qnn`"
            )
        return ""

    def write(self, source: Path, out: Path) -> list[Path]:
        """Compile for ``soc_model``; a graph that the NPU does not take whole is refused."""
        why = self.missing()
        if why:
            raise InputError(f"target {self.name} cannot be made here", why=why)
        with tempfile.TemporaryDirectory(prefix="factory-qnn-") as folder:
            made = Path(folder) / "context.onnx"
            convert_or_tell(
                "compiling the QNN context", lambda: _compile(source, made, self.soc_model)
            )
            if not made.is_file():
                raise InputError(
                    "compiling the QNN context left no file",
                    why="the provider took no node of the graph",
                    fix="ship the int8-qnn file, which is compiled on the phone",
                )
            write_atomic_bytes(out, made.read_bytes())
        return [out]

    def checks(self, path: Path) -> list[Check]:
        """How many compiled partitions and how many nodes outside of them."""
        ops = [node.op_type for node in onnx.load(path).graph.node]
        inside = ops.count("EPContext")
        outside = len(ops) - inside
        return [
            Check(
                "compiled graph",
                inside > 0,
                f"{inside} compiled part{'s' if inside != 1 else ''} for SoC model "
                f"{self.soc_model}, {outside} nodes outside"
                + (f" ({', '.join(sorted(set(ops) - {'EPContext'}))})" if outside else ""),
            )
        ]


def _compile(source: Path, out: Path, soc_model: str) -> None:
    """In a process of its own: the vendor's library prints, and may take the process with it."""
    root = str(Path(__file__).resolve().parents[3])
    code = (
        f"import sys; sys.path.insert(0, {root!r}); "
        "import factory.deployment.targets.qnn as q; q.compile_here(*sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(source), str(out), soc_model],
        capture_output=True,
        text=True,
        timeout=COMPILE_TIMEOUT_S,
    )
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(words[-1])


def compile_here(source: str, out: str, soc_model: str) -> None:
    """The child's side."""
    import onnxruntime as ort
    import onnxruntime_qnn as plugin

    # The plug-in calls its devices by the name it is registered under.
    ort.register_execution_provider_library(QNN, plugin.get_library_path())
    devices = [d for d in ort.get_ep_devices() if d.ep_name == QNN]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("ep.context_enable", "1")
    options.add_session_config_entry("ep.context_file_path", out)
    options.add_session_config_entry("ep.context_embed_mode", "1")
    options.add_provider_for_devices(devices[:1], {"backend_type": "htp", "soc_model": soc_model})
    ort.InferenceSession(source, options)


@dataclass(frozen=True)
class QnnQdq(Target):
    """QDQ for the NPU; one check more: operators it has no kernel for."""

    def checks(self, path: Path) -> list[Check]:
        """Validity, and that nothing dynamic is left, which the NPU refuses."""
        model = onnx.load(path)
        dynamic = [
            v.name
            for v in [*model.graph.input, *model.graph.value_info]
            if any(not d.HasField("dim_value") for d in v.type.tensor_type.shape.dim)
        ]
        return [
            check_onnx(path),
            Check(
                "fixed shapes",
                not dynamic,
                "every tensor has one" if not dynamic else f"not fixed: {', '.join(dynamic[:3])}",
            ),
        ]


TARGETS = (
    QnnQdq(
        name="int8-qnn",
        summary="static int8 (QDQ) for Qualcomm's NPU through the QNN provider",
        precision="int8",
        serves=((QNN, "int8"),),
        flavour=Flavour(weight="s8", per_channel=True, qnn=True),
        rewrites=(split_hard_swish, thin_dilated_depthwise),
        timing_here=NOT_HERE,
    ),
    QnnContext(
        name="qnn-context",
        summary=f"compiled for Qualcomm's NPU, SoC model {DEFAULT_SOC} (needs onnxruntime-qnn)",
        precision="int8",
        made_from="int8-qnn",
        runs_here="",
        timing_here="the compiled graph runs on that SoC only",
    ),
)
