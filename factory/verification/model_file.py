"""An ONNX model as the judge takes it: its exact bytes, and its graph, checked before measuring."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnx.external_data_helper import uses_external_data

from factory.core.files import sha256_bytes
from factory.core.temporary import TemporaryFolder
from factory.graph.onnx_load import foreign_errors, load_onnx, parse_onnx

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class ModelFile:
    """Content that is sent to the device, and the same parsed (None: not to be understood)."""

    content: bytes
    proto: onnx.ModelProto | None

    @property
    def sha256(self) -> str:
        """Identity of the content."""
        return sha256_bytes(self.content)


def read_model(path_or_bytes: Path | str | bytes) -> ModelFile:
    """A checked model; InputError for another file, dynamic shapes or unknown operators.

    Weights kept in a file beside the model are taken into the content.
    """
    if isinstance(path_or_bytes, bytes):
        with TemporaryFolder("model") as folder:
            path = folder / "model.onnx"
            path.write_bytes(path_or_bytes)
            return ModelFile(path_or_bytes, load_onnx(path))
    path = Path(path_or_bytes)
    proto = load_onnx(path)
    content = path.read_bytes()
    if has_external_weights(content):
        with foreign_errors(f"{path} with its weights is more than the runtime takes as one"):
            content = proto.SerializeToString()
    return ModelFile(content, proto)


def has_external_weights(content: bytes) -> bool:
    """True when the file alone cannot run, because its weights lie in a file beside it."""
    alone = parse_onnx(content, "the model")
    return any(uses_external_data(tensor) for tensor in alone.graph.initializer)
