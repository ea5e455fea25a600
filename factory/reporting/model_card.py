"""A model card per tier: one page of Markdown that travels beside the ONNX file.

After "Model Cards for Model Reporting" (arXiv 1810.03993), cut down to what the run knows.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2

from factory.core.errors import unknown_name
from factory.core.files import write_atomic_text
from factory.deployment.snippet import run_snippet
from factory.reporting.artefacts import RunArtefacts, mapping, read_run, records
from factory.reporting.formatting import FILTERS
from factory.reporting.summary import tier_summary

TEMPLATES = Path(__file__).parent / "templates"
_SPECIAL = re.compile(r"([\\`*\[\]<>|])")


def markdown_text(value: Any) -> str:
    """Text with Markdown's special characters made harmless, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))


def model_card(run: RunArtefacts, tier_name: str) -> str:
    """The Markdown card of one tier of a run that has been read."""
    tier = next((t for t in run.tiers if t.name == tier_name), None)
    if tier is None:
        raise unknown_name("tier", tier_name, [t.name for t in run.tiers], str(run.root))
    row, manifest = tier_summary(run, tier), tier.manifest
    metadata = mapping(manifest.get("metadata"))
    inputs = records(manifest.get("inputs"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=False,  # Markdown: each text goes through the filter `md`
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS, md=markdown_text)
    preprocessing = mapping(metadata.get("preprocessing"))
    complete = {"size", "colour", "scale", "mean", "std", "layout"} <= preprocessing.keys()
    return environment.get_template("model_card.md.j2").render(
        row=row,
        verdict=row["verdict"],
        task=metadata.get("task", "image_classification"),
        classes=len(metadata.get("class_names") or []),
        file=manifest.get("file", "not deployed yet"),
        sha256=manifest.get("sha256", "–"),
        input=", ".join(f"{i.get('name')} {i.get('dtype')} {i.get('shape')}" for i in inputs)
        or "–",
        preprocessing=preprocessing if complete else None,
        snippet=run_snippet(manifest) if manifest else None,
    )


def write_model_cards(run_dir: Path | str) -> list[Path]:
    """Write ``07-report/<tier>.md`` for every tier; returns their paths."""
    run = read_run(run_dir)
    paths = []
    for tier in run.tiers:
        path = run.root / "07-report" / f"{tier.name}.md"
        write_atomic_text(path, model_card(run, tier.name))
        paths.append(path)
    return paths
