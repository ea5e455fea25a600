"""Kotlin and Swift classes that load one shipped file with its own preprocessing.

They are text made from the manifest; no compiler for them is part of this project, so that they
are checked for their constants and names only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from factory.core.errors import InputError
from factory.core.validation import validate
from factory.deployment.snippet import Told

TEMPLATES = Path(__file__).parent / "templates"
LANGUAGES = {"kotlin": "Classifier.kt", "swift": "Classifier.swift"}
PROVIDERS_KOTLIN = {
    "NnapiExecutionProvider": ["options.addNnapi()"],
    "XnnpackExecutionProvider": ["options.addXnnpack(emptyMap())"],
    "QNNExecutionProvider": [
        'options.addQnn(mapOf("backend_path" to "libQnnHtp.so"))',
    ],
}
PROVIDERS_SWIFT = {
    "CoreMLExecutionProvider": [
        "try options.appendCoreMLExecutionProvider(with: ORTCoreMLExecutionProviderOptions())"
    ],
    "XnnpackExecutionProvider": [
        "try options.appendXnnpackExecutionProvider(with: ORTXnnpackExecutionProviderOptions())"
    ],
}
RED_GREEN_BLUE = (
    ("(c shr 16 and 255)", "Float(rgba[4 * i])"),
    ("(c shr 8 and 255)", "Float(rgba[4 * i + 1])"),
    ("(c and 255)", "Float(rgba[4 * i + 2])"),
)


def app_snippet(
    language: str,
    manifest: Mapping[str, Any],
    *,
    threads: int | None = None,
    execution_provider: str = "",
) -> str:
    """The class as text.

    Args:
        language: "kotlin" or "swift".
        manifest: a :class:`~factory.deployment.manifest.ModelManifest` as JSON values.
        threads: threads of the chip.
        execution_provider: of the chip; one that the language's runtime offers is switched on.

    Raises:
        InputError: the manifest does not tell what the program needs.
    """
    told = validate(Told, manifest, where="the manifest")
    if not (told.inputs and told.outputs):
        raise InputError("the manifest names no input or no output", fix="export the model again")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=False,  # source code
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    metadata = manifest.get("metadata") or {}
    pre = metadata.get("preprocessing") or {}
    inside = metadata.get("preprocessing_inside")
    first = manifest["inputs"][0]
    shape = [int(side) for side in first["shape"]]
    file = str(manifest["file"])
    if inside:
        height, width = (int(side) for side in inside["camera"])
        channels = 3
    else:
        channels, height, width = shape[1:4]
        height, width = (int(side) for side in pre.get("size") or (height, width))
    return environment.get_template(f"{LANGUAGES[language]}.j2").render(
        file=file,
        stem=Path(file).stem,
        suffix=Path(file).suffix.lstrip("."),
        sha256=manifest.get("sha256", ""),
        input=first["name"],
        output=manifest["outputs"][0]["name"],
        inside=bool(inside),
        fit=pre.get("fit", "stretch"),
        width=width,
        height=height,
        channels=channels,
        scale=f"{float(pre.get('scale') or 1 / 255):.9g}",
        planes=_planes(channels, pre),
        threads=threads,
        provider_kotlin=PROVIDERS_KOTLIN.get(execution_provider, []),
        provider_swift=PROVIDERS_SWIFT.get(execution_provider, []),
    )


def _planes(channels: int, pre: Mapping[str, Any]) -> list[dict[str, str]]:
    """One loop a channel: which colour, its mean and its standard deviation."""
    colours = list(RED_GREEN_BLUE)
    if pre.get("colour") == "BGR":
        colours.reverse()
    if channels == 1:
        weights = (0.299, 0.587, 0.114)
        colours = [
            (
                "("
                + " + ".join(f"{w}f * {k}" for w, (k, _) in zip(weights, colours, strict=True))
                + ")",
                "("
                + " + ".join(f"{w} * {s}" for w, (_, s) in zip(weights, colours, strict=True))
                + ")",
            )
        ]
    mean = list(pre.get("mean") or [0.0] * channels)
    std = list(pre.get("std") or [1.0] * channels)
    return [
        {"kotlin": kotlin, "swift": swift, "mean": f"{float(m):.9g}", "std": f"{float(s):.9g}"}
        for (kotlin, swift), m, s in zip(colours, mean, std, strict=False)
    ]
