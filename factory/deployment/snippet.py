"""How to run a shipped model: a short, complete Python program made from its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from factory.core.validation import validate

Two = Annotated[list[int], pydantic.Field(min_length=2, max_length=2)]


class _Strict(pydantic.BaseModel):
    """Values keep their types: a text is no number."""

    model_config = pydantic.ConfigDict(strict=True, allow_inf_nan=False)


class _Input(_Strict):
    name: str
    shape: Annotated[list[int], pydantic.Field(min_length=3, max_length=4)]


class _Camera(_Strict):
    camera: Two


class _Preprocessing(_Strict):
    mean: list[float] | None = None
    std: list[float] | None = None
    size: Two | None = None
    scale: float | None = None
    colour: str = "RGB"
    fit: str = "stretch"


class _Metadata(_Strict):
    preprocessing: _Preprocessing | None = None
    preprocessing_inside: _Camera | None = None


class _Output(_Strict):
    name: str


class Told(_Strict):
    """What a program that runs a shipped file takes from its manifest."""

    file: str = "model.onnx"
    inputs: list[_Input] = []
    outputs: list[_Output] = []
    metadata: _Metadata | None = None

    @pydantic.model_validator(mode="after")
    def _one_number_a_channel(self) -> Told:
        metadata = self.metadata or _Metadata()
        if metadata.preprocessing_inside or not self.inputs:
            return self
        shape, said = self.inputs[0].shape, metadata.preprocessing or _Preprocessing()
        if len(shape) != 4:
            raise ValueError(f"the input {shape} is no picture [1,C,H,W]")
        for numbers in (said.mean, said.std):
            if numbers and len(numbers) != shape[1]:
                raise ValueError(f"{len(numbers)} means or deviations, {shape[1]} channels")
        return self


def run_snippet(manifest: Mapping[str, Any], *, threads: int | None = None) -> str:
    """A program that classifies one picture with the file that ``manifest`` describes.

    It needs onnxruntime, numpy and pillow, and has at most 20 lines.

    Args:
        manifest: a :class:`~factory.deployment.manifest.ModelManifest` as JSON values; only
            ``file``, ``inputs`` and ``metadata`` are used, and missing parts have neutral values.
        threads: threads of the chip the file was made for; the runtime's choice where None.

    Raises:
        InputError: one of these parts is not what a manifest holds.
    """
    validate(Told, manifest, where="the manifest")
    metadata = manifest.get("metadata") or {}
    inputs = manifest.get("inputs") or [{"name": "image", "shape": [1, 3, 32, 32]}]
    lines = [
        "# pip install onnxruntime numpy pillow",
        "import json, sys",
        "import numpy as np, onnxruntime as ort",
        "from PIL import Image, ImageOps",
        "",
        "options = ort.SessionOptions()",
    ]
    if threads:
        lines.append(f"options.intra_op_num_threads = {int(threads)}")
    lines.append(
        f"session = ort.InferenceSession({str(manifest.get('file', 'model.onnx'))!r}, options, "
        'providers=["CPUExecutionProvider"])'
    )
    lines.append('names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])')
    inside = metadata.get("preprocessing_inside")
    lines += _camera(inside) if isinstance(inside, Mapping) else _prepared(inputs, metadata)
    lines += [
        f"(logits,) = session.run(None, {{{inputs[0]['name']!r}: pixels}})",
        "print(names[int(logits.argmax())])",
    ]
    return "\n".join(lines) + "\n"


def _camera(inside: Mapping[str, Any]) -> list[str]:
    """Pixels as a camera gives them; the graph does the rest."""
    height, width = inside["camera"]
    return [
        'picture = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")',
        f"picture = ImageOps.fit(picture, ({int(width)}, {int(height)}))  # as the camera sends it",
        "pixels = np.asarray(picture, np.uint8)",
    ]


def _prepared(inputs: Any, metadata: Mapping[str, Any]) -> list[str]:
    """The preprocessing written out."""
    pre = metadata.get("preprocessing") or {}
    channels, height, width = (int(side) for side in list(inputs[0]["shape"])[1:4])
    height, width = (int(side) for side in pre.get("size") or (height, width))
    mean = list(pre.get("mean") or [0.0] * channels)
    std = list(pre.get("std") or [1.0] * channels)
    scale = pre.get("scale") or 1 / 255
    scaling = "/ 255" if abs(scale * 255 - 1) < 1e-9 else f"* {scale!r}"
    mode = "L" if channels == 1 else "RGB"
    order = "[..., None]" if channels == 1 else "[..., ::-1]" if pre.get("colour") == "BGR" else ""
    return [
        f'picture = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("{mode}")',
        *_resized(pre.get("fit", "stretch"), height, width),
        f"pixels = np.asarray(picture, np.float32){order} {scaling}",
        f"pixels = (pixels - np.float32({_floats(mean)})) / np.float32({_floats(std)})",
        "pixels = pixels.transpose(2, 0, 1)[None].astype(np.float32)",
    ]


def _resized(fit: str, height: int, width: int) -> list[str]:
    """Stretched to the size, or scaled to cover it and cut in the middle."""
    if fit != "cover":
        return [f"picture = picture.resize(({width}, {height}), Image.Resampling.BILINEAR)"]
    return [
        f"scale = max({width} / picture.width, {height} / picture.height)",
        f"size = max({width}, round(picture.width * scale)), "
        f"max({height}, round(picture.height * scale))",
        f"left, top = (size[0] - {width}) // 2, (size[1] - {height}) // 2",
        "picture = picture.resize(size, Image.Resampling.BILINEAR)"
        f".crop((left, top, left + {width}, top + {height}))",
    ]


def _floats(values: list[float]) -> str:
    return "[" + ", ".join(f"{float(v):.6g}" for v in values) + "]"
