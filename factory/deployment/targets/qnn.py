"""Targets int8-qnn and qnn-context: QDQ for Qualcomm's NPU, and its compiled binary per SoC.

The QDQ file follows onnxruntime.quantization's own QNN configuration. The context binary is
compiled offline by the plug-in execution provider ``onnxruntime-qnn`` and is tied to one SoC
generation. The plug-in is looked for here and in the environment of the device profile
``qnn-htp-sm8550-int8``; without it the target says how to get it.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from factory.core.errors import InputError
from factory.core.files import write_atomic_bytes
from factory.deployment.flavours import Flavour
from factory.deployment.passes.hard_swish_split import split_hard_swish
from factory.deployment.passes.thin_dilated_input import thin_dilated_depthwise
from factory.deployment.targets.base import Check, Target, check_onnx

if TYPE_CHECKING:
    from factory.devices.profile import DeviceProfile

QNN = "QNNExecutionProvider"
PLUGIN = "onnxruntime_qnn"
DEVICE = "qnn-htp-sm8550-int8"
DEFAULT_SOC = "43"
COMPILE_TIMEOUT_S = 600.0
NOT_HERE = "the NPU is in phones only: run here on the CPU kernels, for the numbers it computes"


def check_soc(soc_model: str) -> None:
    """Refuse what is no number of a SoC."""
    if not soc_model.isdecimal() or int(soc_model) == 0:
        raise InputError(
            f"SoC {soc_model!r} is not a number of a SoC",
            why="the provider takes any word for its default SoC without telling",
            fix="give the vendor's number, for example 30 (SM8350), 43 (SM8550) or 57 (SM8650)",
        )


@dataclass(frozen=True)
class QnnContext(Target):
    """A model whose one node holds the compiled graph."""

    soc_model: str = DEFAULT_SOC

    def for_soc(self, soc_model: str) -> QnnContext:
        """The same for another SoC, its number checked."""
        check_soc(soc_model)
        return replace(self, name=f"{self.name}-soc{soc_model}", soc_model=soc_model)

    def missing(self) -> str:
        """The plug-in is needed: in this environment, or in that of the device profile."""
        try:
            self._profile()
        except InputError as error:
            return str(error)
        return ""

    def _profile(self) -> DeviceProfile:
        """The profile whose worker compiles."""
        from factory.devices.environment import find_interpreter
        from factory.devices.profile import load_profile

        profile = load_profile(DEVICE)
        local = profile.local
        if local is not None and local.interpreter:
            if importlib.util.find_spec(PLUGIN) is not None:
                local = local.model_copy(update={"interpreter": ""})
            else:
                find_interpreter(profile, local.interpreter)
        options = {**profile.provider_options, "soc_model": self.soc_model}
        return profile.model_copy(
            update={"local": local, "provider_options": options, "timeout_s": COMPILE_TIMEOUT_S}
        )

    def write(self, source: Path, out: Path) -> list[Path]:
        """Compile for ``soc_model``; what the NPU does not take stays outside the compiled part."""
        from factory.devices.local import LocalDevice
        from factory.devices.placement import compile_context

        with LocalDevice(self._profile()) as device:
            content = compile_context(device, source.read_bytes())
        write_atomic_bytes(out, content)
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
