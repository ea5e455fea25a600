"""The package of a tier: a folder or zip that an app developer takes, and nothing else is needed.

model.onnx  model.ort  model.required_operators_and_types.config  (model-fp32.onnx)
manifest.json  certificate.json  certificate.html  MODEL_CARD.md  labels.txt
example.py  android/Classifier.kt  ios/Classifier.swift  LICENCES.md  README.md  SHA256SUMS
"""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from factory.core.errors import InputError, unknown_name
from factory.core.files import sha256_file, write_atomic_bytes, write_atomic_text
from factory.core.temporary import TemporaryFolder

if TYPE_CHECKING:
    from factory.pipeline.context import BuildContext
    from factory.pipeline.recipe import TierSection

ZIP_DATE = (2020, 1, 1, 0, 0, 0)  # the same content, the same archive
MIN_PYTHON = "Python 3.10"
DATA_LICENCES = {
    "digits": "the handwritten digits of scikit-learn, a copy of the test set of the UCI data set "
    "Optical Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak, 1998), CC BY 4.0",
    "cifar10": "CIFAR-10 (A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, "
    "2009); its authors state no licence",
    "image_folder": "pictures of your own; their rights are yours to know",
}


def write_package(ctx: BuildContext, tier: TierSection, out: Path) -> list[str]:
    """Write the package of a verified tier to ``out``, a folder, or a zip by its suffix.

    Returns:
        The names in the package, sorted.

    Raises:
        InputError: the tier is not verified, or the folder holds other files.
    """
    if out.suffix != ".zip" and out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not (out / "SHA256SUMS").is_file():
            raise InputError(
                f"{out} is there and is no package", fix="name a new folder with --out"
            )
        shutil.rmtree(out)
    with TemporaryFolder("package") as scratch:
        folder = scratch / tier.name
        _fill(ctx, tier, folder)
        names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        if out.suffix == ".zip":
            write_atomic_bytes(out, _zipped(folder, names, out.stem))
        else:
            for name in names:
                write_atomic_bytes(out / name, (folder / name).read_bytes())
    return names


def _fill(ctx: BuildContext, tier: TierSection, folder: Path) -> None:
    from factory.deployment.app_snippets import app_snippet
    from factory.deployment.manifest import ModelManifest
    from factory.deployment.snippet import run_snippet
    from factory.pipeline.stages import deploy, verify
    from factory.reporting.artefacts import read_run
    from factory.reporting.certificate_page import write_certificate_page
    from factory.reporting.model_card import model_card

    folder.mkdir(parents=True)
    made = ctx.folder.stage("deploy") / tier.name
    certificate = verify.certificate_path(ctx, tier)
    if not certificate.is_file() or not (made / deploy.MODEL).is_file():
        raise InputError(
            f"tier {tier.name!r} is not verified yet",
            where=str(ctx.folder.root),
            fix="run `factory build` with its recipe until it is",
        )
    for name in (deploy.MODEL, deploy.MODEL_FP32, deploy.MANIFEST, deploy.GATE):
        if (made / name).is_file():
            shutil.copyfile(made / name, folder / name)
    shutil.copyfile(certificate, folder / "certificate.json")
    write_certificate_page(folder / "certificate.json", folder / "certificate.html")
    manifest = ModelManifest.load(folder / deploy.MANIFEST).model_dump(mode="json")
    names = manifest["metadata"].get("class_names") or []
    write_atomic_text(folder / "labels.txt", "".join(f"{name}\n" for name in names))
    write_atomic_text(folder / "MODEL_CARD.md", model_card(read_run(ctx.folder.root), tier.name))
    profile = ctx.device(tier)
    threads = profile.threads if isinstance(profile.threads, int) else None
    write_atomic_text(folder / "example.py", run_snippet(manifest, threads=threads))
    for language, path in (("kotlin", "android/Classifier.kt"), ("swift", "ios/Classifier.swift")):
        text = app_snippet(
            language, manifest, threads=threads, execution_provider=profile.execution_provider
        )
        write_atomic_text(folder / path, text)
    _ort_format(folder, str(manifest["precision"]))
    write_atomic_text(folder / "LICENCES.md", licences(ctx))
    write_atomic_text(folder / "README.md", _readme(tier.name, folder))
    sums = [
        f"{sha256_file(path)}  {path.relative_to(folder).as_posix()}\n"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    write_atomic_text(folder / "SHA256SUMS", "".join(sums))


def _ort_format(folder: Path, precision: str) -> None:
    """The same model for minimal builds."""
    from factory.deployment.targets import find_target
    from factory.pipeline.stages.deploy import MODEL

    target = find_target("ort-int8" if precision == "int8" else "ort-fp32")
    target.write(folder / MODEL, folder / "model.ort")


def licences(ctx: BuildContext) -> str:
    """What is inside and under which terms, as far as the factory can know it."""
    data = DATA_LICENCES.get(ctx.recipe.data.kind, ctx.recipe.data.kind)
    return (
        "# Licences of what is inside\n\n"
        "| part | terms |\n|---|---|\n"
        "| model.onnx, model.ort, model-fp32.onnx | the weights are yours, who trained them; "
        "mind the terms of the pictures below |\n"
        f"| training pictures (not inside; the model was trained on them) | {data} |\n"
        "| example.py, Classifier.kt, Classifier.swift, the pages | made by the model factory, "
        "Apache-2.0; you may use them without naming it |\n"
        "| ONNX Runtime (not inside; the app links it) | MIT, Microsoft Corporation |\n"
        "| numpy, pillow (not inside; example.py uses them) | BSD-3-Clause; MIT-CMU |\n"
    )


def _readme(name: str, folder: Path) -> str:
    fp32 = "- model-fp32.onnx: the same network in 32-bit floats, for comparison\n"
    gate = "- int8-gate.json: how the int8 file was made and what it costs\n"
    return (
        f"# {name}\n\n"
        "- model.onnx: the model that was measured; its figures are in certificate.html\n"
        "- model.ort, model.required_operators_and_types.config: the same for a minimal build of "
        "ONNX Runtime (not measured)\n"
        + (fp32 if (folder / "model-fp32.onnx").is_file() else "")
        + (gate if (folder / "int8-gate.json").is_file() else "")
        + "- labels.txt: one class a line, in the order of the outputs (inside the model too)\n"
        "- MODEL_CARD.md, LICENCES.md: what it is for, and under which terms\n"
        f"- example.py: classifies one picture, needs {MIN_PYTHON} or newer\n"
        "- android/Classifier.kt, ios/Classifier.swift: the same for apps (not compiled here)\n\n"
        "```\npip install onnxruntime numpy pillow\npython example.py picture.jpg\n```\n\n"
        "`factory verify --certificate certificate.json` checks that the model, its labels, the "
        "chip and the runtime are those that were measured.\n"
    )


def _zipped(folder: Path, names: list[str], top: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(f"{top}/{name}", ZIP_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, (folder / name).read_bytes())
    return stream.getvalue()


def tier_of(ctx: BuildContext, name: str | None) -> TierSection:
    """The tier called ``name``, or the only one."""
    names = [tier.name for tier in ctx.recipe.tiers]
    if name is None:
        if len(names) == 1:
            return ctx.recipe.tiers[0]
        raise InputError(
            f"{ctx.folder.root} has {len(names)} tiers",
            fix="name one with --tier: " + ", ".join(names),
        )
    if name not in names:
        raise unknown_name("tier", name, names, where=str(ctx.folder.root))
    return ctx.recipe.tier(name)
