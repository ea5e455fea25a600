"""A model as the judge takes it: the bytes that are measured, and its graph where it can be read.

Measuring needs no understanding: what ONNX Runtime loads is measured. A graph that cannot be read
has no prediction, which is noted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from factory.core.errors import InputError
from factory.core.files import sha256_bytes
from factory.core.temporary import TemporaryFolder
from factory.devices.base import Model
from factory.graph.model_inputs import NOTHING_ASKED, AskedInputs
from factory.graph.onnx_load import (
    LARGEST_BYTES,
    file_bytes,
    foreign_errors,
    load_weights,
    open_onnx,
    parse_onnx,
    weight_files_bytes,
)

if TYPE_CHECKING:
    import onnx

    from factory.graph.model_inputs import ModelInputs


@dataclass(frozen=True)
class ModelFile:
    """Content that is sent to the device, and the same parsed (None: not to be understood).

    Attributes:
        content: with fixed shapes; its weights inside, up to 2 GB.
        proto: its graph, perhaps without its large weights.
        inputs: its inputs; None where nobody could ask for them.
        notes: what was assumed, and why there is no prediction.
        fault: why its graph cannot be read.
        weights_bytes: of its weights that are not in the content.
    """

    content: bytes
    proto: onnx.ModelProto | None
    inputs: ModelInputs | None = None
    notes: tuple[str, ...] = ()
    fault: InputError | None = None
    weights_bytes: int = 0

    @property
    def sha256(self) -> str:
        """Identity of the content."""
        return sha256_bytes(self.content)


def read_model(path_or_bytes: Path | str | bytes, asked: AskedInputs = NOTHING_ASKED) -> ModelFile:
    """The model of a file, or of its content, ready to be measured.

    Args:
        path_or_bytes: an ONNX file, or its content.
        asked: shapes or values of its inputs.

    Raises:
        InputError: another file, a damaged one, or free dimensions that are not given.
    """
    if isinstance(path_or_bytes, bytes):
        with TemporaryFolder("model") as folder:
            path = folder / "model.onnx"
            path.write_bytes(path_or_bytes)
            return read_model(path, asked)
    path = Path(path_or_bytes)
    loaded = open_onnx(path, weights=False, asked=asked, lenient=True)
    notes = loaded.notes
    if loaded.fault is not None:
        notes = (*notes, f"its graph cannot be read, so there is no prediction: {loaded.fault}")
    content = path.read_bytes()
    outside = weight_files_bytes(path)
    weights_folder = ""
    if outside + file_bytes(path) > LARGEST_BYTES:
        weights_folder = str(path.parent.absolute())
    if loaded.inputs.changed or (outside and not weights_folder):
        proto = parse_onnx(content, str(path))
        if outside and not weights_folder:
            proto = load_weights(path, proto)
        with foreign_errors(f"{path} cannot be written with fixed shapes"):
            content = loaded.inputs.fix(proto).SerializeToString()
    if loaded.inputs.given or weights_folder:
        content = Model.of(content, loaded.inputs.given or None, weights_folder)
    graph = None if loaded.fault else loaded.model
    more = outside if weights_folder else 0
    return ModelFile(content, graph, loaded.inputs, notes, loaded.fault, more)
