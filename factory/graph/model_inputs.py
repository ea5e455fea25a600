"""The inputs of a model: their names, types and shapes, and values to run it with.

A file may leave dimensions of its inputs free. A free first dimension is a batch and taken as 1,
which is noted; every other free dimension has to be given: with a shape (``--input``) or with the
values themselves (``--inputs``). Dimensions of one name have one size. What is listed among the
inputs and has a value all the same, as files of IR version 3 list their weights, is no input.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from factory.core import made_up
from factory.core.errors import InputError, nearest
from factory.core.reading import read_bytes
from factory.graph.shapes import Shape, shape_text

ASSUMED_BATCH = 1
LARGEST = 2**31 - 1  # of one dimension
MOST_MB = 4096  # of a file of values
_BROKEN = (zipfile.BadZipFile, zlib.error)
_SHAPE = re.compile(r"\d{1,10}(x\d{1,10})*")
Dims = tuple[int | str, ...]  # a free dimension is its name, "" where it has none


@dataclass(frozen=True)
class AskedInputs:
    """What a user says about the inputs of a model.

    Attributes:
        shapes: texts of ``--input``: "NAME=1x3x640x640", or "1x3x640x640" for the only input. The
            batch may be left out where it is free.
        file: an .npz file with an array for each input ("": none).
    """

    shapes: tuple[str, ...] = ()
    file: str = ""

    @classmethod
    def of(
        cls, shapes: str | Sequence[str] | None = None, file: str | Path | None = None
    ) -> AskedInputs:
        """From the values of the options, any of them absent."""
        texts = (shapes,) if isinstance(shapes, str) else tuple(shapes or ())
        return cls(texts, "" if file is None else str(file))


NOTHING_ASKED = AskedInputs()


@dataclass(frozen=True)
class ModelInput:
    """One input.

    Attributes:
        name: as the file has it.
        kind: its type in words: "float32", "int64", "string", "sequence of float32".
        type: the runtime's name of its elements ("float", "int64"); "" where it is no tensor.
        declared: its dimensions in the file; None where the file gives none.
        shape: its shape in this use; None for what is no tensor.
    """

    name: str
    kind: str
    type: str
    declared: Dims | None
    shape: Shape | None


@dataclass(frozen=True)
class ModelInputs:
    """All inputs of a model, with fixed shapes.

    Attributes:
        inputs: in the order of the file.
        notes: what was assumed, in sentences.
        given: the values that the user gave, by name; empty: they are made up.
        sizes: size of each free dimension that has a name.
    """

    inputs: tuple[ModelInput, ...]
    notes: tuple[str, ...] = ()
    given: Mapping[str, np.ndarray] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shape of each input that is a tensor."""
        return {one.name: one.shape for one in self.inputs if one.shape is not None}

    @property
    def changed(self) -> bool:
        """Whether a dimension that the file leaves free has a size here."""
        return any(one.declared != one.shape for one in self.inputs)

    def feeds(self, seed: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Values to run the model with, best first: the given ones, or some that are made up.

        Raises:
            InputError: an input is of a kind that is not made up, or too large.
        """
        if self.given:
            yield dict(self.given)
            return
        wanted = {}
        for one in self.inputs:
            if one.type not in made_up.TYPES or one.shape is None:
                raise InputError(
                    f"input {one.name!r} is of type {one.kind}",
                    why="values are made up for tensors of numbers only",
                    fix="measure a model whose inputs are tensors of numbers",
                )
            wanted[one.name] = (made_up.TYPES[one.type], one.shape)
        try:
            yield from made_up.feeds(wanted, seed)
        except ValueError as error:
            raise InputError(str(error), fix="give a smaller shape with --input") from None

    def fix(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Write the shapes into ``model`` (changed in place, and returned).

        What the file says of other tensors is kept where it follows from names that have a size
        now, and left to be inferred again where it does not.
        """
        if not self.changed:
            return model
        shapes = self.shapes
        for value in model.graph.input:
            if value.name in shapes:
                shape = value.type.tensor_type.shape
                del shape.dim[:]
                shape.SetInParent()
                for size in shapes[value.name]:
                    shape.dim.add().dim_value = size
        for value in (*model.graph.value_info, *model.graph.output):
            if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
                self._resize(value.type.tensor_type.shape)
        kept = [value for value in model.graph.value_info if _is_static(value)]
        del model.graph.value_info[:]
        model.graph.value_info.extend(kept)
        return model

    def _resize(self, shape: onnx.TensorShapeProto) -> None:
        named = any(dim.dim_param in self.sizes for dim in shape.dim)
        for dim in shape.dim:
            if dim.dim_param in self.sizes:
                dim.dim_value = self.sizes[dim.dim_param]
            elif not named or dim.dim_value < 0:  # it may follow from the sizes of the export
                dim.Clear()


def _is_static(value: onnx.ValueInfoProto) -> bool:
    dims = value.type.tensor_type.shape.dim
    return bool(dims) and all(dim.HasField("dim_value") for dim in dims)


def model_inputs(
    model: onnx.ModelProto, where: str, asked: AskedInputs = NOTHING_ASKED
) -> ModelInputs:
    """The inputs of ``model``, every dimension with a size.

    Args:
        model: parsed; its graph is not looked at.
        where: the file, for errors.
        asked: shapes or values of a user.

    Raises:
        InputError: a dimension is free and was not given, or what was given does not fit.
    """
    declared = declared_inputs(model)
    assumed: list[str] = []
    if asked.shapes and asked.file:
        raise InputError("--input and --inputs both give shapes", fix="give one of them")
    given: dict[str, np.ndarray] = {}
    if asked.file:
        given = _checked(read_arrays(asked.file), declared, where, asked.file)
        wanted = {name: array.shape for name, array in given.items()}
    else:
        wanted = _asked_shapes(asked.shapes, declared, assumed, where)
    sizes: dict[str, int] = {}
    for one in declared:
        if one.name in wanted:
            _bind(one, wanted[one.name], sizes, where)
    for one in declared:
        first = one.declared[0] if one.declared else 0
        if isinstance(first, str) and one.name not in wanted and first not in sizes:
            assumed.append(one.name)
    for one in declared:
        if one.name in assumed and one.declared and one.declared[0]:
            sizes.setdefault(str(one.declared[0]), ASSUMED_BATCH)
    fixed = tuple(_fixed(one, wanted.get(one.name), sizes, where) for one in declared)
    return ModelInputs(fixed, _assumed_note(assumed), given, sizes)


def _assumed_note(names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        return ()
    told = ", ".join(repr(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
    return (
        f"the batch (first dimension) of {told} is free and was taken as {ASSUMED_BATCH}; "
        "--input gives another",
    )


def declared_inputs(model: onnx.ModelProto) -> tuple[ModelInput, ...]:
    """The inputs as the file has them, their shapes where they are fixed."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    weights |= {sparse.values.name for sparse in graph.sparse_initializer}
    return tuple(_declared(value) for value in graph.input if value.name not in weights)


def _declared(value: onnx.ValueInfoProto) -> ModelInput:
    kind = _kind(value.type)
    if not value.type.HasField("tensor_type"):
        return ModelInput(value.name, kind, "", None, None)
    tensor = value.type.tensor_type
    name = TensorProto.DataType.Name(tensor.elem_type).lower() if kind != "unknown" else ""
    if not tensor.HasField("shape"):
        return ModelInput(value.name, kind, name, None, None)
    dims: Dims = tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else _dim_name(d.dim_param)
        for d in tensor.shape.dim
    )
    shape = dims if all(isinstance(d, int) for d in dims) else None
    return ModelInput(value.name, kind, name, dims, shape)  # type: ignore[arg-type]


def _dim_name(text: str) -> str:
    """The name of a free dimension; what has no letter, as "?", is no name that others share."""
    return text if any(character.isalpha() for character in text) else ""


def _kind(proto: onnx.TypeProto) -> str:
    """The type in words."""
    which = proto.WhichOneof("value")
    if which == "tensor_type" or which == "sparse_tensor_type":
        number = getattr(proto, which).elem_type
        if number not in TensorProto.DataType.values() or number == TensorProto.UNDEFINED:
            return "unknown"
        name = TensorProto.DataType.Name(number).lower()
        name = {"float": "float32", "double": "float64"}.get(name, name)
        return name if which == "tensor_type" else f"sparse {name}"
    if which in ("sequence_type", "optional_type"):
        return f"{which.removesuffix('_type')} of {_kind(getattr(proto, which).elem_type)}"
    return "unknown" if which is None else which.removesuffix("_type")


def _asked_shapes(
    texts: Sequence[str], declared: Sequence[ModelInput], assumed: list[str], where: str
) -> dict[str, Shape]:
    """Shape of each input that a text is about; a batch that none gives is added to ``assumed``."""
    found: dict[str, Shape] = {}
    for text in texts:
        name, equals, sizes = text.rpartition("=")
        shape = _parsed(sizes.strip().lower(), text)
        if not equals:
            if len(declared) != 1:
                names = ", ".join(one.name for one in declared) or "none"
                raise InputError(
                    f"--input {text} does not say which input of {where} it is for",
                    why=f"it has {len(declared)}: {names}",
                    fix="write --input NAME=1x3x224x224, once for each",
                )
            name = declared[0].name
        one = next((one for one in declared if one.name == name), None)
        if one is None:
            raise InputError(
                f"{where} has no input {name!r}",
                where=f"--input {text}",
                fix=nearest(name, [one.name for one in declared]),
            )
        if name in found:
            raise InputError(f"--input gives the shape of {name!r} twice", fix="give it once")
        if one.declared and len(shape) == len(one.declared) - 1:
            batch = one.declared[0]
            shape = (batch if isinstance(batch, int) else ASSUMED_BATCH, *shape)
            assumed += [] if isinstance(batch, int) else [name]
        found[name] = shape
    return found


def _parsed(sizes: str, text: str) -> Shape:
    if sizes == "scalar":
        return ()
    shape = tuple(int(size) for size in sizes.split("x")) if _SHAPE.fullmatch(sizes) else ()
    if not shape or max(shape) > LARGEST:
        raise InputError(
            f"--input {text} is not a shape",
            fix="write for example --input 1x3x224x224, or --input NAME=1x3x224x224",
        )
    return shape


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name.

    Raises:
        InputError: no such file, or not one of arrays of numbers.
    """
    content = read_bytes(path, "inputs", most_mb=MOST_MB)
    try:
        with zipfile.ZipFile(io.BytesIO(content)):  # np.load takes other files too
            arrays = np.load(io.BytesIO(content), allow_pickle=False)
        return {name: np.asarray(arrays[name]) for name in arrays.files}
    except (ValueError, EOFError, KeyError, MemoryError, NotImplementedError, *_BROKEN) as error:
        raise InputError(
            f"inputs {path} is not an .npz file of arrays",
            why=str(error),
            fix="write it with numpy.savez(FILE, NAME=array, ...)",
        ) from None


def _checked(
    arrays: Mapping[str, np.ndarray], declared: Sequence[ModelInput], where: str, file: str
) -> dict[str, np.ndarray]:
    """``arrays`` where they are those of the model's inputs, of their types."""
    names = [one.name for one in declared]
    for name in arrays:
        if name not in names:
            raise InputError(f"{where} has no input {name!r}", where=file, fix=nearest(name, names))
    for one in declared:
        if one.name not in arrays:
            raise InputError(f"{file} holds no array {one.name!r}", why=f"an input of {where}")
        wanted, found = made_up.TYPES.get(one.type), arrays[one.name].dtype
        if wanted is None:
            raise InputError(
                f"input {one.name!r} of {where} is of type {one.kind}",
                why="only tensors of numbers can be given",
            )
        if found != wanted:
            raise InputError(
                f"array {one.name!r} of {file} is {found}, the model takes {wanted}",
                fix=f"convert it with .astype({wanted.name!r})",
            )
    return {name: np.ascontiguousarray(arrays[name]).reshape(arrays[name].shape) for name in names}


def _bind(one: ModelInput, shape: Shape, sizes: dict[str, int], where: str) -> None:
    """Check ``shape`` against what the file declares, and note the sizes of named dimensions."""
    if one.declared is None:
        if not one.type:
            raise InputError(f"input {one.name!r} of {where} is no tensor but {one.kind}")
        return
    fits = len(shape) == len(one.declared)
    for size, dim in zip(shape, one.declared, strict=False):
        wanted = sizes.setdefault(dim, size) if isinstance(dim, str) and dim else dim
        fits = fits and wanted in ("", size)
    if not fits:
        raise InputError(
            f"input {one.name!r} of {where} cannot have the shape {shape_text(shape)}",
            why=f"the file declares {_told(one.declared)}"
            + "".join(
                f", {name} is {size}" for name, size in sizes.items() if name in one.declared
            ),
            fix="free dimensions alone can be given",
        )


def _fixed(
    one: ModelInput, shape: Shape | None, sizes: Mapping[str, int], where: str
) -> ModelInput:
    if shape is None and one.declared is None and one.type:
        raise InputError(
            f"input {one.name!r} of {where} has no shape",
            why="the file does not give one",
            fix=f"give it with --input {one.name}=1x3x224x224",
        )
    if shape is None and one.declared is not None:
        found: list[int | str] = [sizes.get(d, d) if d else d for d in one.declared]  # type: ignore[arg-type]
        if found and found[0] == "":
            found[0] = ASSUMED_BATCH
        if not all(isinstance(size, int) for size in found):
            raise _free(one, found, where)
        shape = tuple(int(size) for size in found)
    return ModelInput(one.name, one.kind, one.type, one.declared, shape)


def _free(one: ModelInput, found: Sequence[int | str], where: str) -> InputError:
    free = [str(d) or f"axis {axis}" for axis, d in enumerate(found) if isinstance(d, str)]
    known = {0: 1, len(found) - 2: 224, len(found) - 1: 224}
    example = (d if isinstance(d, int) else known.get(axis, 3) for axis, d in enumerate(found))
    assert one.declared is not None
    return InputError(
        f"input {one.name!r} of {where} has dimensions of no fixed size: {', '.join(free)}",
        why=f"its shape is {_told(one.declared)} and a latency belongs to fixed shapes",
        fix=f"give it with --input {one.name}={'x'.join(map(str, example))} (with your sizes)",
    )


def _told(dims: Dims) -> str:
    return "[" + ", ".join(str(d) if isinstance(d, int) else d or "?" for d in dims) + "]"
