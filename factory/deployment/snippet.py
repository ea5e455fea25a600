"""How to run a shipped model: a short, complete Python program made from its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def run_snippet(manifest: Mapping[str, Any], *, threads: int | None = None) -> str:
    """A program that classifies one picture with the file that ``manifest`` describes.

    Args:
        manifest: a :class:`~factory.deployment.manifest.ModelManifest` as JSON values; only
            ``file``, ``inputs`` and ``metadata`` are used, and missing parts have neutral values.
        threads: threads of the chip the file was made for; the runtime's choice where None.
    """
    metadata = manifest.get("metadata") or {}
    pre = metadata.get("preprocessing") or {}
    inputs = manifest.get("inputs") or [{"name": "image", "shape": [1, 3, 32, 32]}]
    channels, height, width = list(inputs[0]["shape"])[1:4]
    height, width = pre.get("size") or (height, width)
    mean = list(pre.get("mean") or [0.0] * channels)
    std = list(pre.get("std") or [1.0] * channels)
    scale = pre.get("scale") or 1 / 255
    scaling = "/ 255" if abs(scale * 255 - 1) < 1e-9 else f"* {scale!r}"
    mode = "L" if channels == 1 else "RGB"
    pixels = "np.asarray(picture, np.float32)" + ("[..., None]" if channels == 1 else "")
    lines = [
        "# pip install onnxruntime numpy pillow",
        "import json, sys",
        "import numpy as np, onnxruntime as ort",
        "from PIL import Image",
        "",
        "options = ort.SessionOptions()",
    ]
    if threads:
        lines.append(f"options.intra_op_num_threads = {int(threads)}")
    lines += [
        f"session = ort.InferenceSession({str(manifest.get('file', 'model.onnx'))!r}, options, "
        'providers=["CPUExecutionProvider"])',
        'names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])',
        f'picture = Image.open(sys.argv[1]).convert("{mode}")'
        f".resize(({int(width)}, {int(height)}), Image.Resampling.BILINEAR)",
        f"pixels = {pixels} {scaling}",
        f"pixels = (pixels - np.float32({_floats(mean)})) / np.float32({_floats(std)})",
        f"(logits,) = session.run(None, {{{inputs[0]['name']!r}: "
        "pixels.transpose(2, 0, 1)[None].astype(np.float32)})",
        "print(names[int(logits.argmax())])",
    ]
    return "\n".join(lines) + "\n"


def _floats(values: list[float]) -> str:
    return "[" + ", ".join(f"{float(v):.6g}" for v in values) + "]"
