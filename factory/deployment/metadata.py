"""Metadata: what a shipped ONNX file says about itself, as key-value pairs inside the file.

Every value is text; structured values are JSON. The keys:

``class_names``    JSON list, in the order of the logits
``preprocessing``  JSON object, see :class:`Preprocessing`
``genotype``       JSON object of the searched cells (absent for other networks)
``task``           "image_classification"
``tier``           the tier of the recipe that the file was made for (may be absent)
``precision``      "fp32", "fp16" or "int8"
``target``         the form of the file, a name of factory.deployment.targets (may be absent)
``preprocessing_inside``  JSON object where the graph takes camera pixels (may be absent)
``factory_version``  version of this package
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from factory.core.errors import InputError
from factory.core.provenance import factory_version
from factory.core.reading import parse_json


class Preprocessing(BaseModel):
    """How a picture becomes the input tensor: ``(pixel_0_255 * scale - mean) / std``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: tuple[float, ...] = Field(description="mean per channel, of pixels already scaled")
    std: tuple[float, ...] = Field(description="standard deviation per channel, after scaling")
    size: tuple[int, int] = Field(description="height and width the picture is resized to")
    scale: float = Field(default=1 / 255, gt=0, description="factor on 8-bit pixels")
    layout: Literal["NCHW", "NHWC"] = Field(
        default="NCHW", description="order of the tensor's axes"
    )
    colour: Literal["RGB", "BGR", "grey"] = Field(
        default="RGB", description="order of the channels"
    )
    resize: Literal["bilinear", "none"] = Field(
        default="bilinear", description="interpolation used when sizes differ"
    )
    fit: Literal["stretch", "cover"] = Field(
        default="stretch",
        description="stretch: both sides to the size; cover: the shorter side, then the middle cut",
    )


class ModelMetadata(BaseModel):
    """What :func:`factory.deployment.export.export_onnx` writes into the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    class_names: tuple[str, ...] = Field(description="names in the order of the logits")
    preprocessing: Preprocessing = Field(description="from a picture to the input tensor")
    genotype: dict[str, Any] | None = Field(default=None, description="the searched cells")
    task: str = Field(default="image_classification", description="what the model does")
    tier: str | None = Field(default=None, description="the tier it was made for")
    extra: dict[str, str] = Field(default_factory=dict, description="further pairs, kept as text")

    def props(self, precision: str = "fp32") -> dict[str, str]:
        """The key-value pairs for an ONNX file's ``metadata_props``."""
        props = {
            "class_names": json.dumps(list(self.class_names), ensure_ascii=False),
            "preprocessing": json.dumps(self.preprocessing.model_dump(mode="json")),
            "task": self.task,
            "precision": precision,
            "factory_version": factory_version(),
        }
        if self.genotype is not None:
            props["genotype"] = json.dumps(self.genotype)
        if self.tier is not None:
            props["tier"] = self.tier
        clash = sorted(set(props) & set(self.extra))
        if clash:
            raise InputError(
                f"extra metadata repeats the reserved key {clash[0]!r}", fix="choose another key"
            )
        return props | self.extra


def parse_props(props: Mapping[str, str]) -> dict[str, Any]:
    """The pairs of a file as Python values: JSON where a value is JSON, text otherwise."""
    values: dict[str, Any] = {}
    for key, text in props.items():
        if key in ("class_names", "preprocessing", "genotype", "preprocessing_inside"):
            with contextlib.suppress(InputError):
                values[key] = parse_json(text, key)
                continue
        values[key] = text
    return values
