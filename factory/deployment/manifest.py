"""The manifest beside a shipped model: what the file is, so that nobody has to open it to know."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import onnx
from pydantic import BaseModel, ConfigDict, Field

from factory.core.errors import InputError
from factory.core.files import sha256_bytes, write_json
from factory.core.guard import guarded
from factory.core.reading import read_bytes, read_json
from factory.core.validation import validate
from factory.deployment.metadata import parse_props
from factory.graph.onnx_check import check_structure
from factory.graph.onnx_load import file_bytes, parse_onnx


class TensorSpec(BaseModel):
    """One input or output of the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    dtype: str
    shape: tuple[int, ...]


class ModelManifest(BaseModel):
    """What a shipped ONNX file is."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    schema_version: Literal[1] = 1
    file: str = Field(description="file name, in the same folder")
    sha256: str = Field(description="hex SHA-256 of the file")
    size_bytes: int = Field(ge=0)
    opset: int = Field(description="version of the standard ONNX operator set")
    ir_version: int
    precision: Literal["fp32", "fp16", "int8"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    nodes: dict[str, int] = Field(description="operator -> how many of it")
    metadata: dict[str, Any] = Field(description="the file's own key-value pairs, parsed")

    def save(self, path: Path | str) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path | str) -> ModelManifest:
        """Read a manifest written by :meth:`save`."""
        return validate(cls, read_json(path, "manifest"), str(path))


def _tensor(value: onnx.ValueInfoProto) -> TensorSpec:
    form = value.type.WhichOneof("value")
    if form not in (None, "tensor_type"):
        return TensorSpec(name=value.name, dtype=form.removesuffix("_type"), shape=())
    tensor = value.type.tensor_type
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except (KeyError, TypeError):
        raise InputError(
            f"{value.name!r} is no tensor of numbers", why=f"its type is {tensor.elem_type}"
        ) from None
    return TensorSpec(
        name=value.name, dtype=dtype, shape=tuple(d.dim_value for d in tensor.shape.dim)
    )


def describe_model(path: Path | str) -> ModelManifest:
    """The manifest of an ONNX file as it is on disk."""
    path = Path(path)
    content = read_bytes(path, "model", most_mb=math.inf)
    model = parse_onnx(content, str(path))
    check_structure(model, f"model {path}", path.parent)
    weights = {initializer.name for initializer in model.graph.initializer}
    nodes = Counter(node.op_type for node in model.graph.node)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    return ModelManifest(
        file=path.name,
        sha256=sha256_bytes(content),
        size_bytes=len(content),
        opset=opset,
        ir_version=model.ir_version,
        precision="int8" if "DequantizeLinear" in nodes or "QLinearConv" in nodes else "fp32",
        inputs=tuple(_tensor(v) for v in model.graph.input if v.name not in weights),
        outputs=tuple(_tensor(v) for v in model.graph.output),
        nodes=dict(sorted(nodes.items())),
        metadata=parse_props({p.key: p.value for p in model.metadata_props}),
    )


def describe_file(path: Path | str, precision: str = "fp32") -> ModelManifest:
    """The manifest of an ONNX or ORT-format file; the latter is asked through the runtime."""
    path = Path(path)
    if path.suffix != ".ort":
        found = describe_model(path)
        return found.model_copy(update={"precision": precision})
    said = guarded(
        "factory.deployment.manifest:describe_ort",
        f"model {path}",
        file_bytes(path),
        path=str(path.absolute()),
        precision=precision,
    )
    return validate(ModelManifest, said, str(path))


def describe_ort(path: str, precision: str) -> dict[str, Any]:
    """The manifest of an ORT-format file as plain values; run in the guarded child."""
    import onnxruntime as ort

    from factory.deployment.run_here import open_session

    session = open_session(path)

    def spec(value: ort.NodeArg) -> TensorSpec:
        kind = value.type.removeprefix("tensor(").removesuffix(")")
        dtype = {"float": "float32", "double": "float64"}.get(kind, kind)
        if not all(isinstance(size, int) for size in value.shape):
            raise InputError(
                f"{value.name!r} of {path} has the dynamic shape {value.shape}",
                fix="convert the model with fixed shapes",
            )
        return TensorSpec(name=value.name, dtype=dtype, shape=tuple(value.shape))

    content = Path(path).read_bytes()
    manifest = ModelManifest(
        file=Path(path).name,
        sha256=sha256_bytes(content),
        size_bytes=len(content),
        opset=0,  # the format is the runtime's own
        ir_version=0,
        precision=precision,  # type: ignore[arg-type]
        inputs=tuple(spec(v) for v in session.get_inputs()),
        outputs=tuple(spec(v) for v in session.get_outputs()),
        nodes={},
        metadata=parse_props(session.get_modelmeta().custom_metadata_map),
    )
    return manifest.model_dump(mode="json")
