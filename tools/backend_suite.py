"""ONNX's own backend suite through the factory's doors: how many of its models each understands.

    python tools/backend_suite.py --door inspect
    python tools/backend_suite.py --door verify --match "attention|lstm" --json found.json

Every model ends as "understood", as "refused" with one sentence, or as a "fault": an exception that
is no FactoryError, or the end of the process. The models run in chunks, each in a child, so that an
abort costs one model. The door export leaves out what ONNX Runtime itself does not run as the suite
expects. A door is a function of a :class:`Case` that returns or raises; to add one, put it into
DOORS.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from factory.core.errors import FactoryError, InputError
from factory.graph.model_inputs import AskedInputs, declared_inputs

CHUNK = 200
KINDS = ("node", "pytorch-converted", "pytorch-operator", "simple")


class NotRunError(Exception):
    """ONNX Runtime itself does not run the model as the suite expects."""


@dataclass(frozen=True)
class Case:
    """A model of the suite.

    Attributes:
        name: as the suite has it.
        path: of its file.
        data: pairs of inputs and expected outputs, in the order of the graph.
        rtol, atol: how far an output may lie from the expected one.
    """

    name: str
    path: Path
    data: Sequence[tuple[Sequence[Any], Sequence[Any]]]
    rtol: float
    atol: float


def inspect(case: Case) -> None:
    """MACs, parameters and kernels, whose texts can be read again."""
    from factory.api import inspect as verb
    from factory.graph.canonical import canonicalise, kernel_counts
    from factory.graph.kernel import Kernel
    from factory.graph.onnx_import import read_graph

    verb(case.path)
    for kernel in kernel_counts(canonicalise(read_graph(case.path))):
        if Kernel.parse(str(kernel)) != kernel:
            raise ValueError(f"{kernel} is read as another kernel")


def predict(case: Case) -> None:
    """A prediction for the device that is called in the environment variable DEVICE."""
    from factory.api import predict as verb

    verb(case.path, os.environ["DEVICE"])


def verify(case: Case) -> None:
    """Measured once on one core of this machine, with the inputs of the suite."""
    from factory.devices.base import TimingPlan
    from factory.verification.model_file import read_model

    plan = TimingPlan(min_runs=1, max_runs=1, warmup_time_ms=0.0)
    model = read_model(case.path, AskedInputs.of(file=_values(case)))
    timing = _device().time_many([model.content], plan)[0]
    if not timing.ok:
        raise InputError(timing.reason)


def export(case: Case) -> None:
    """Exported as fp32, its outputs those that the suite expects, up to rounding.

    Only models that ONNX Runtime itself runs so, and whose values are arrays of numbers.
    """
    from factory.api import export as verb

    names = [one.name for one in declared_inputs(onnx.load(case.path, load_external_data=False))]
    given, expected = case.data[0] if case.data else ((), ())
    if not given or len(given) != len(names):
        raise NotRunError("no values for its inputs")
    if any(isinstance(value, list) for value in given):
        raise NotRunError("values that are no arrays of numbers")
    feed = {name: np.asarray(value) for name, value in zip(names, given, strict=True)}
    if any(array.dtype.kind not in "fiub" for array in feed.values()):
        raise NotRunError("values that are no arrays of numbers")
    why = _unlike(str(case.path), feed, expected)
    if why:
        raise NotRunError(why)
    with tempfile.TemporaryDirectory() as folder:
        values, out = Path(folder) / "values.npz", Path(folder) / "out.onnx"
        np.savez(values, **feed)
        answer = verb(case.path, target=["onnx-fp32"], inputs=values, out=out)
        made = answer["targets"][0]
        if made["status"] != "ok":
            raise InputError(f"refused: {made['reason']}")
        why = _unlike(str(out), feed, expected)
    if why:
        raise ValueError(f"the exported file is another model: {why}")


def _unlike(path: str, feed: dict[str, Any], expected: Sequence[Any]) -> str:
    """Why the outputs are not those expected; "" when they are."""
    import onnxruntime as ort

    from factory.deployment.agreement import BOUNDS, compare

    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        made = session.run(None, feed)
    except Exception as error:  # of the runtime, whose errors have no common type
        return " ".join(str(error).split())[:200]
    if any(not isinstance(value, np.ndarray) for value in (*made, *expected)):
        return "outputs that are no arrays"
    rows = [
        {str(n): np.asarray(v).reshape(1, -1) for n, v in enumerate(o)} for o in (made, expected)
    ]
    half = any(value.dtype == np.float16 for value in expected)
    return compare(*rows).lacks(BOUNDS["fp16" if half else "torch"])


def _values(case: Case) -> Path | None:
    """A file with the inputs that the suite has for the model; None where some are no arrays."""
    names = [one.name for one in declared_inputs(onnx.load(case.path, load_external_data=False))]
    arrays = case.data[0][0] if case.data else []
    plain = all(isinstance(a, np.ndarray | np.generic) and a.dtype.kind in "fiub" for a in arrays)
    if not plain or len(names) != len(arrays) or not names or "/" in "".join(names):
        return None
    path = case.path.with_suffix(".npz") if case.path.stem != "model" else None
    if path is not None:
        np.savez(path, **dict(zip(names, arrays, strict=True)))
    return path


DOORS: dict[str, Callable[[Case], None]] = {
    "inspect": inspect,
    "predict": predict,
    "verify": verify,
    "export": export,
}
_opened: list[Any] = []


def _device() -> Any:
    from factory.devices.base import open_device
    from factory.devices.profile import load_profile

    if not _opened:
        _opened.append(open_device(load_profile("local-cpu-t1-fp32")))
    return _opened[0]


def close() -> None:
    """End what the doors have opened."""
    while _opened:
        _opened.pop().close()


def cases(folder: Path, kinds: Sequence[str] = KINDS, match: str = "") -> Iterator[Case]:
    """The models of the suite, each written below ``folder`` when it is asked for."""
    from onnx.backend.test.case.node import collect_testcases
    from onnx.backend.test.loader import load_model_tests

    pattern = re.compile(match)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite computes what overflows, on purpose
        found = list(collect_testcases(None)) if "node" in kinds else []  # type: ignore[no-untyped-call]
    for kind in kinds:
        found += load_model_tests(kind=kind) if kind != "node" else []
    for case in found:
        if not pattern.search(case.name):
            continue
        path = folder / f"{case.name}.onnx"
        data = case.data_sets or []
        if case.model is not None:
            onnx.save(case.model, path)
        else:
            path = Path(case.model_dir) / "model.onnx"
            data = list(_stored(path))
        yield Case(case.name, path, data, case.rtol, case.atol)


def _stored(path: Path) -> Iterator[tuple[list[Any], list[Any]]]:
    """The data sets beside a model."""
    for folder in sorted(path.parent.glob("test_data_set_*")):
        yield tuple(  # type: ignore[misc]
            [
                onnx.numpy_helper.to_array(onnx.load_tensor(str(file)))
                for file in sorted(
                    folder.glob(f"{kind}_*.pb"), key=lambda f: int(f.stem.split("_")[1])
                )
            ]
            for kind in ("input", "output")
        )


def run_chunk(door: str, match: str, kinds: Sequence[str], first: int, last: int) -> None:
    """Models ``first`` to ``last`` through ``door``, one line of JSON each on standard output."""
    out = sys.stdout
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(cases(Path(folder), kinds, match)):
            if not first <= number < last:
                continue
            print(json.dumps({"name": case.name, "result": "started"}), file=out, flush=True)
            told: dict[str, str]
            try:
                DOORS[door](case)
                told = {"result": "understood"}
            except NotRunError as error:
                told = {"result": "not run by ONNX Runtime", "why": str(error)}
            except FactoryError as error:
                told = {"result": "refused", "why": str(error)}
            except Exception as error:
                told = {"result": "fault", "why": f"{type(error).__name__}: {error}"[:400]}
            print(json.dumps({"name": case.name, **told}), file=out, flush=True)
    close()


def run(door: str, match: str = "", kinds: Sequence[str] = KINDS) -> dict[str, dict[str, str]]:
    """Result and reason of every model by name."""
    with tempfile.TemporaryDirectory() as folder:
        count = sum(1 for _ in cases(Path(folder), kinds, match))
    found: dict[str, dict[str, str]] = {}
    first = 0
    while first < count:
        last = min(first + CHUNK, count)
        part = [str(first), str(last)]
        command = [sys.executable, __file__, "--door", door, "--match", match, "--kinds", *kinds]
        done = subprocess.run(
            [*command, "--part", *part], stdout=subprocess.PIPE, text=True, check=False
        )
        told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        names = list(dict.fromkeys(one["name"] for one in told))
        found.update((one.pop("name"), one) for one in told)
        for name in names:
            if found[name]["result"] == "started":
                found[name] = {"result": "fault", "why": f"the process ended ({done.returncode})"}
        first += len(names) if names and len(names) < last - first else last - first
    return found


def main() -> None:
    """Run the suite and print what became of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--door", choices=sorted(DOORS), default="inspect")
    parser.add_argument("--match", default="", help="only models whose name holds this expression")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--json", help="write the result of each model to this file")
    parser.add_argument("--part", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.part:
        run_chunk(options.door, options.match, options.kinds, *options.part)
        return
    found = run(options.door, options.match, options.kinds)
    counts = Counter(one["result"] for one in found.values())
    left_out = counts.pop("not run by ONNX Runtime", 0)
    if left_out:
        print(f"left out, ONNX Runtime does not run them as expected: {left_out}")
    total = max(len(found) - left_out, 1)
    for result, number in counts.most_common():
        print(f"{result}: {number} of {total} ({number / total:.1%})")
    reasons = Counter(
        (one["result"], re.sub(r"'[^']*'|\d+|/\S+", "..", one["why"]))
        for one in found.values()
        if "why" in one
    )
    for (result, why), number in reasons.most_common(40):
        print(f"{number:5d} {result}: {why[:200]}")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1))
    sys.exit(1 if counts["fault"] else 0)


if __name__ == "__main__":
    main()
