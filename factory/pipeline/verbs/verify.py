"""verify: any model file measured on a chip, certified, and checked against its certificate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.errors import InputError
from factory.core.progress import SILENT, Progress
from factory.core.provenance import now_utc
from factory.core.reading import is_file
from factory.devices.base import open_device
from factory.devices.profile import DeviceProfile, load_profile
from factory.graph.model_inputs import NOTHING_ASKED, AskedInputs
from factory.profiling.trust import Usual
from factory.verification.model_file import ModelFile, read_model
from factory.verification.result import UNDECIDED
from factory.verification.verify import verify_model

if TYPE_CHECKING:
    import numpy as np

    from factory.deployment.metadata import Preprocessing
    from factory.devices.base import Device
    from factory.verification.certificate import AccuracyPart

SCHEMA_VERSION = 1


def verify(
    model: str | Path | None = None,
    device: str | Path | None = None,
    *,
    max_latency_ms: float | None = None,
    certificate: str | Path | None = None,
    issue: str | Path | None = None,
    data: str | Path | None = None,
    sustained_s: float = 3.0,
    measure: bool = True,
    input: str | Sequence[str] | None = None,
    inputs: str | Path | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Measure ``model`` on ``device``; ``holds`` says whether the verdict is a pass.

    Args:
        model: an ONNX or ORT file; with ``certificate`` the one it names, beside it.
        device: the chip; with ``certificate`` the one it names.
        max_latency_ms: the budget.
        certificate: check the file against this certificate instead.
        issue: write a certificate (JSON, and its page beside it) of what was measured.
        data: folder of labelled pictures, or the run that the model comes from, whose test
            pictures are taken; for the accuracy on the certificate.
        sustained_s: seconds of the longer run on the certificate; a phone warms up for minutes.
        measure: with ``certificate``: also measure placement and latency again.
        input: shapes of inputs with free dimensions, "NAME=1x3x224x224".
        inputs: an .npz file with the values of all inputs.
        progress: gets a message where the machine is busy.

    Raises:
        InputError: no such file or device, not a model, an input whose shape is free and not
            given, an absurd budget.
    """
    from factory.pipeline.recipe_limits import check_latency_budget

    if certificate is not None:
        return _recheck(certificate, model, device, measure)
    if model is None or device is None:
        raise InputError(
            "verify needs a model and --device, or --certificate",
            fix="for example: factory verify model.onnx --device local-cpu-t1-fp32",
        )
    check_latency_budget(max_latency_ms)
    profile = load_profile(device)
    path = Path(model)
    content = _content(
        path, AskedInputs.of(input, inputs)
    )  # a wrong file is told before the device is started
    free = content.inputs is not None and (content.inputs.changed or bool(content.inputs.given))
    if issue is not None and (free or content.weights_bytes):
        raise InputError(
            f"no certificate can be issued for {path}",
            why="a certificate is about a file of at most 2 GB whose shapes are fixed",
            fix="export it with fixed shapes, or measure it without --issue",
        )
    usual = _usual(profile)
    with open_device(profile) as opened:
        result = verify_model(
            content, opened, max_latency_ms=max_latency_ms, usual=usual, progress=progress
        )
        answer = result.to_dict()
        if issue is not None and result.verdict != UNDECIDED:  # a certificate states what is known
            written = _issue(path, opened, answer, Path(issue), data, sustained_s)
            answer["certificate"] = str(written)
    answer["schema_version"] = SCHEMA_VERSION
    answer["device"] = profile.id
    answer["model"] = str(model)
    starts = answer["session_ms"], answer["first_run_ms"]
    answer["cold_start_ms"] = sum(starts) if None not in starts else None
    answer["holds"] = result.ok
    answer["exit_code"] = result.exit_code
    answer["reason"] = "; ".join(result.reasons)
    return answer


def _content(path: Path, asked: AskedInputs) -> ModelFile:
    """ONNX as far as it can be read; ORT format as it is."""
    if path.suffix != ".ort":
        return read_model(path, asked)
    if asked != NOTHING_ASKED:
        raise InputError(
            f"{path} is in ORT format, whose inputs have fixed shapes",
            fix="give the ONNX file that it was made from, or leave --input and --inputs out",
        )
    if not is_file(path):
        raise InputError(f"model {path} does not exist", fix="check the path")
    content = path.read_bytes()
    if content[4:8] != b"ORTM":
        raise InputError(f"{path} is no file in ORT format")
    return ModelFile(content, None)


def _issue(
    path: Path,
    device: Device,
    result: dict[str, Any],
    out: Path,
    data: str | Path | None,
    sustained_s: float,
) -> Path:
    """Write the certificate and its page."""
    from factory.reporting.certificate_page import write_certificate_page
    from factory.verification.certify import certify

    macs, params = _counts(path)
    accuracy = None if data is None else _accuracy(path, device, Path(data))
    certify(
        path,
        device,
        result,
        accuracy=accuracy,
        accuracy_note="no labelled pictures were given (--data FOLDER)",
        macs=macs,
        params=params,
        sustained_s=sustained_s,
    ).save(out)
    write_certificate_page(out, out.with_suffix(".html"))
    return out


def _counts(path: Path) -> tuple[int | None, int | None]:
    """MACs and parameters where the graph can be read."""
    if path.suffix != ".onnx":
        return None, None
    from factory.graph.counts import count
    from factory.graph.onnx_import import read_graph

    try:
        counts = count(read_graph(path))
    except InputError:
        return None, None
    return counts.macs, counts.params


def _accuracy(path: Path, device: Device, data: Path) -> AccuracyPart:
    """Top-1 over the test pictures of the folder or of the run, run on the device."""
    from factory.deployment.manifest import describe_file
    from factory.deployment.metadata import Preprocessing
    from factory.pipeline.export_pictures import folder_test_pictures
    from factory.verification.certify import accuracy_part
    from factory.verification.parity import classify

    manifest = describe_file(path)
    said = manifest.metadata.get("preprocessing")
    shape = manifest.inputs[0].shape
    if len(shape) == 3:
        raise InputError(
            f"{path} takes camera pixels, no prepared pictures",
            fix="measure the accuracy of the file that is exported without --camera",
        )
    if not isinstance(said, dict) or len(shape) != 4:
        raise InputError(
            f"{path} does not say how a picture becomes its input",
            fix="export it with `factory export`, which writes the preprocessing into the file",
        )
    preprocessing = Preprocessing.model_validate(said)
    named = manifest.metadata.get("class_names")
    names = [str(name) for name in named] if isinstance(named, list) else []
    size = (shape[1], shape[2], shape[3])
    if is_file(data / "run.json"):
        images, labels, what = _run_pictures(data, path, size, preprocessing, names)
    else:
        images, labels = folder_test_pictures(data, size, preprocessing, names)
        what = f"{data.name}, {len(labels)} test pictures"
    return accuracy_part(classify(path.read_bytes(), device, images), labels, what)


def _run_pictures(
    run: Path,
    path: Path,
    size: tuple[int, int, int],
    preprocessing: Preprocessing,
    names: list[str],
) -> tuple[np.ndarray, np.ndarray, str]:
    """The run's test pictures, prepared, their labels, and what they are."""
    import numpy as np

    from factory.pipeline.context import open_run
    from factory.pipeline.stages.deploy import gate_data, preprocessing_of

    ctx = open_run(run)
    same = preprocessing == preprocessing_of(ctx.data) and tuple(names) == ctx.data.class_names
    if not same or size != ctx.data.image_shape:
        raise InputError(
            f"{path} is not of the run {run}",
            why="its size, its preprocessing or its class names are others",
            fix="name the run that it was exported from, or a folder of pictures",
        )
    pictures = gate_data(ctx)
    assert pictures.test_labels is not None
    assert isinstance(pictures.test_images, np.ndarray)
    return pictures.test_images, pictures.test_labels, pictures.name


def _recheck(
    certificate: str | Path, model: str | Path | None, device: str | Path | None, measure: bool
) -> dict[str, Any]:
    from factory.verification.certificate import Certificate
    from factory.verification.recheck import Recheck, RecheckResult, check_file, check_on_device

    where = Path(certificate)
    known = Certificate.load(where)
    path = _model_of(known.model.file, where, model)
    checks = check_file(known, path, now_utc())
    try:
        profile = load_profile(device or known.chip.device_id)
        with open_device(profile) as opened:
            checks += check_on_device(known, path, opened, measure=measure, usual=_usual(profile))
    except InputError as error:
        checks.append(Recheck("chip", False, f"it cannot be reached: {error}"))
    result = RecheckResult(tuple(checks))
    return {
        "schema_version": SCHEMA_VERSION,
        "certificate": str(where),
        "model": str(path),
        "device": str(device or known.chip.device_id),
        "checks": [check.to_dict() for check in result.checks],
        "holds": result.ok,
        "exit_code": result.exit_code,
        "verdict": result.verdict,
        "reason": "; ".join(f"{c.name}: {c.detail}" for c in result.failed),
    }


def _model_of(name: str, certificate: Path, model: str | Path | None) -> Path:
    """The file a certificate is about: given, beside it, or where a run keeps it."""
    if model is not None:
        return Path(model)
    beside = certificate.with_name(name)
    run = certificate.parent.parent.parent
    in_run = run / "05-deploy" / certificate.name.split(".certificate")[0] / name
    return in_run if not is_file(beside) and is_file(in_run) else beside


def _usual(profile: DeviceProfile) -> Usual | None:
    """What the references took in the chip's latency table, where there is one."""
    from factory.pipeline.tables import table_for

    try:
        return Usual.of_table(table_for(profile))
    except InputError:
        return None
