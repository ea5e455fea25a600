"""predict: the latency of any ONNX file on chips, from the chips' tables, without the chips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.errors import InputError
from factory.devices.profile import load_profile
from factory.graph.canonical import canonicalise, is_quantised, kernel_counts, opaque_counts
from factory.graph.model_inputs import AskedInputs
from factory.latency.baselines import predict_baselines
from factory.latency.explanation import explain, rates_of, worth_measuring
from factory.latency.start_up import predict_start_up
from factory.pipeline.tables import check_precision, predictor_and_table
from factory.profiling.table import LatencyTable

if TYPE_CHECKING:
    from factory.devices.profile import DeviceProfile
    from factory.graph.opgraph import OpGraph

SCHEMA_VERSION = 1


def predict(
    model: str | Path,
    device: str | Path | Sequence[str | Path],
    *,
    run: str | Path | None = None,
    html: str | Path | None = None,
    input: str | Sequence[str] | None = None,
    inputs: str | Path | None = None,
) -> dict[str, Any] | list[dict[str, Any]]:
    """Predict how long ``model`` takes on one device or on several.

    Args:
        model: an ONNX file.
        device: a device's id or the path of its profile; or several of them.
        run: take the predictors of this run folder; by default the devices' latency tables.
        html: write a page that shows it all to this file.
        input: shapes of inputs with free dimensions, "NAME=1x3x224x224".
        inputs: an .npz file with the values of all inputs.

    Returns:
        The answer for the device; for several devices a list of them, in order.

    Raises:
        InputError: no such file or device, no table of it, or a table of another chip.
    """
    from factory.graph.onnx_import import read_graph

    named = [device] if isinstance(device, str | Path) else list(device)
    if not named:
        raise InputError("no device is named", fix="give --device ID, as often as you like")
    profiles = [load_profile(one) for one in named]
    graph = canonicalise(read_graph(model, AskedInputs.of(input, inputs)))
    answers = [_predict_on(profile, graph, Path(model), run) for profile in profiles]
    if html is not None:
        from factory.reporting.prediction_page import write_prediction_page

        page = write_prediction_page(answers, html)
        for answer in answers:
            answer["html"] = str(page)
    return answers[0] if len(answers) == 1 else answers


def _predict_on(
    profile: DeviceProfile, graph: OpGraph, model: Path, run: str | Path | None
) -> dict[str, Any]:
    predictor, source, table = predictor_and_table(profile, run)
    everything = kernel_counts(graph)
    notes = list(graph.notes)
    if unknown := opaque_counts(everything):
        told = ", ".join(f"{number} x {name}" for name, number in unknown.items())
        notes.append(
            f"not known, their share of the prediction is a guess: {told}; `factory verify {model} "
            f"--device {profile.id} --json` measures every operator"
        )
    imported = table.header.get("imported")
    simulated = bool((table.header.get("describe") or {}).get("simulated"))
    if imported:
        notes.append(f"the table was imported, not measured by the factory: {imported['source']}")
    if simulated:
        notes.append("the table is of a simulated chip: none of its times was measured")
    dtype = None
    if predictor.dtype == "i8" and not is_quantised(everything):
        dtype, everything = "i8", kernel_counts(graph, "i8")
        notes.append("the file is fp32 and the device runs int8: predicted as if quantised")
    check_precision(everything, profile, model)
    counts = kernel_counts(graph, dtype, predictor.fusion)
    prediction = predictor.predict(counts)
    answer = prediction.to_dict()
    seen = LatencyTable.outline(table.path, {str(kernel) for kernel in counts})
    explained = explain(prediction, predictor, seen)
    for part, why in zip(answer["kernels"], explained, strict=True):
        part["ms"] = part["predicted_ms"]
        part.update(why)
    report = predictor.report
    return {
        **answer,
        "schema_version": SCHEMA_VERSION,
        "model": str(model),
        "device": profile.id,
        "predictor": str(source),
        "table": str(table.path),
        "simulated": simulated,
        "imported": imported,
        "macs": int(sum(kernel.macs * number for kernel, number in counts.items())),
        "model_bytes": model.stat().st_size,
        "start_up": predict_start_up(report.get("start_up", {}), counts, prediction.latency_ms),
        "folded": [
            {"kernel": str(kernel), "count": number}
            for kernel, number in sorted((everything - counts).items())
        ],
        "held_out": report.get("held_out"),
        "baselines": predict_baselines(report.get("baseline_models", {}), counts),
        "noise": report.get("noise", {}),
        "rates": rates_of(predictor).to_dict(),
        "measure": worth_measuring(explained, predictor.infers),
        "warnings": [*notes, *answer["warnings"]],
    }
