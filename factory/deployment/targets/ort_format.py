"""Targets ort-fp32, ort-int8: ORT format with the list of operators a minimal build needs.

Beside the .ort file lies ``<name>.required_operators_and_types.config``, which
ONNX Runtime's ``build.sh --minimal_build extended --enable_reduced_operator_type_support
--include_ops_by_config FILE`` takes: the library then holds only the kernels this model uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from factory.core.errors import InputError
from factory.core.files import write_atomic_bytes, write_atomic_text
from factory.core.temporary import TemporaryFolder
from factory.deployment.targets.base import CPU, Check, Target, convert_or_tell

CONFIG_SUFFIX = ".required_operators_and_types.config"


@dataclass(frozen=True)
class OrtFormat(Target):
    """onnxruntime's converter, optimisations fixed at conversion."""

    def write(self, source: Path, out: Path) -> list[Path]:
        """The .ort file and the configuration of the reduced build.

        ``arm`` leaves out the optimisations of x86's own blocked layout, so that the file runs on
        a phone; it runs here as well.
        """
        with TemporaryFolder("ort") as folder:
            inside = folder / "in" / f"{out.stem}.onnx"
            inside.parent.mkdir()
            inside.write_bytes(source.read_bytes())
            made = folder / "out"

            def convert() -> None:
                from onnxruntime.tools.convert_onnx_models_to_ort import (
                    OptimizationStyle,
                    convert_onnx_models_to_ort,
                )

                convert_onnx_models_to_ort(
                    inside,
                    output_dir=made,
                    optimization_styles=[OptimizationStyle.Fixed],
                    target_platform="arm",
                    enable_type_reduction=True,
                )

            convert_or_tell("the conversion to ORT format", convert)
            models, configs = list(made.glob("*.ort")), list(made.glob("*.config"))
            if len(models) != 1 or len(configs) != 1:
                raise InputError(
                    "the conversion to ORT format left no file",
                    why="; ".join(p.name for p in made.glob("*")) or "nothing was written",
                )
            config = out.with_name(out.stem + CONFIG_SUFFIX)
            write_atomic_bytes(out, models[0].read_bytes())
            # The converter writes the paths of its temporary files into comments.
            lines = configs[0].read_text(encoding="utf-8").splitlines(keepends=True)
            kept = "".join(line for line in lines if not line.startswith("#"))
            write_atomic_text(config, f"# Operators and types of {out.name}\n{kept}")
        return [out, config]

    def checks(self, path: Path) -> list[Check]:
        """The file's mark, and that the configuration names the operators."""
        mark = path.read_bytes()[4:8] == b"ORTM"
        operators = required_operators(path.with_name(path.stem + CONFIG_SUFFIX))
        return [
            Check("ORT format", mark, "the file's mark is there" if mark else "no ORT file"),
            Check(
                "reduced-operator configuration",
                bool(operators),
                f"{len(operators)} operators: " + ", ".join(operators),
            ),
        ]


def required_operators(config: Path) -> list[str]:
    """Operators that a configuration lists, as domain:name, sorted."""
    import re

    found: set[str] = set()
    for line in config.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") or line.count(";") < 2:
            continue
        domain, _, names = line.split(";", 2)
        # Types follow a name in braces, nested: {"inputs": {"0": ["float"]}}
        while re.search(r"\{[^{}]*\}", names):
            names = re.sub(r"\{[^{}]*\}", "", names)
        found |= {f"{domain}:{name.strip()}" for name in names.split(",") if name.strip()}
    return sorted(found)


TARGETS = (
    OrtFormat(
        name="ort-fp32",
        summary="ORT format, 32-bit floats, with the configuration of a minimal build",
        precision="fp32",
        suffix=".ort",
        made_from="onnx-fp32",
        timing_here="made for minimal mobile builds: its time on the full build is not theirs",
        runs_here=CPU,
    ),
    OrtFormat(
        name="ort-int8",
        summary="ORT format, static int8, with the configuration of a minimal build",
        precision="int8",
        suffix=".ort",
        made_from="int8-cpu",
        timing_here="made for minimal mobile builds: its time on the full build is not theirs",
        runs_here=CPU,
    ),
)
