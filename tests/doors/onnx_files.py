"""Doors for ONNX files: every verb that takes one, and what reads what the file says of itself."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import mutations
import numpy as np
import onnx
from door import Door
from onnx import helper, numpy_helper
from onnx_models import PREPROCESSING, classifier, fixed, floats, model_of, pictures, wrong_model

from factory import api
from factory.core.errors import InputError
from factory.deployment.manifest import describe_file
from factory.deployment.metadata import Preprocessing
from factory.devices.base import TimingPlan
from factory.devices.local import LocalDevice
from factory.devices.profile import DeviceProfile
from factory.devices.simulated import Roofline, SimulatedDevice
from factory.graph.canonical import canonicalise, kernel_counts
from factory.graph.onnx_build import to_onnx
from factory.graph.opgraph import GraphBuilder
from factory.profiling.profiler import profile_networks
from factory.profiling.table import LatencyTable, table_name
from factory.verification.model_file import ModelFile, read_model
from factory.verification.verify import verify_model

mutations._FORMS["onnx"] = wrong_model
NAME = f"simulated {Roofline()}"
CHIP = DeviceProfile(id="chip", chip=NAME, transport="simulated", threads=1)
CHIP_TOML = f'id = "chip"\nchip = "{NAME}"\ntransport = "simulated"\nthreads = 1\n'.encode()
HERE = DeviceProfile(
    id="here", chip="local", transport="local", threads=1, pin=False, timeout_s=10.0
)
SHORT = TimingPlan(
    min_runs=1, max_runs=2, min_time_ms=0.1, max_time_ms=20, warmup_runs=1, warmup_time_ms=1,
    profile_runs=1,
)  # fmt: skip
TARGETS = ("onnx-fp32", "onnx-fp16", "int8-cpu", "ort-fp32", "int8-coreml", "int8-qnn")


def _file(folder: Path, content: bytes, name: str = "m.onnx") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def _inspect(content: bytes, folder: Path) -> object:
    return api.inspect(_file(folder, content))


@functools.cache
def _home() -> dict[str, bytes]:
    """A simulated chip with its table and its predictor: name -> content below a home."""
    graphs = []
    for channels, size, depth in ((8, 8, 1), (16, 8, 2), (8, 14, 3), (24, 14, 2)):
        builder = GraphBuilder()
        x = builder.input("x", (1, 3, size, size))
        for _ in range(depth):
            x = builder.relu(builder.conv(x, channels, 3, padding=1))
        graphs.append(builder.finish([builder.linear(builder.global_avg_pool(x), 10)]))
    device = SimulatedDevice(CHIP)
    models = [(kernel_counts(canonicalise(g)), to_onnx(g).SerializeToString()) for g in graphs]
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        _file(home, CHIP_TOML, "chip.toml")
        path = home / "latency_tables" / table_name(device.describe())
        with LatencyTable.open(path, CHIP, device.describe()) as table:
            profile_networks(device, models, table)
        _at(home, lambda: api.fit(home / "chip.toml"))
        files = [path for path in home.rglob("*") if path.is_file()]
        return {path.relative_to(home).as_posix(): path.read_bytes() for path in files}


def _at(home: Path, work: Callable[[], object]) -> object:
    before = os.environ.get("FACTORY_HOME")
    os.environ["FACTORY_HOME"] = str(home)
    try:
        return work()
    finally:
        if before is None:
            del os.environ["FACTORY_HOME"]
        else:
            os.environ["FACTORY_HOME"] = before


def _with_home(content: bytes, folder: Path, work: Callable[[Path, Path], object]) -> object:
    for name, held in _home().items():
        path = folder / "home" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(held)
    model, home = _file(folder, content), folder / "home"
    return _at(home, lambda: work(model, home / "chip.toml"))


def _predict(content: bytes, folder: Path) -> object:
    return _with_home(content, folder, lambda model, chip: api.predict(model, chip))


def _profile(content: bytes, folder: Path) -> object:
    return _with_home(content, folder, lambda model, chip: api.profile(chip, model=model))


def _verify(content: bytes, folder: Path) -> object:
    path, device = _file(folder, content), SimulatedDevice(CHIP)
    found = verify_model(path, device, max_latency_ms=8, rounds=1, plan=SHORT, pause_s=0)
    return found.to_dict()


def _measured(model: ModelFile) -> object:
    with LocalDevice(HERE, memory_limit_mb=2048) as device:
        return [timing.to_dict() for timing in device.time_many([model.content], SHORT)]


def _measure(content: bytes, folder: Path) -> object:
    return _measured(read_model(_file(folder, content)))


def _measure_unread(content: bytes, folder: Path) -> object:
    """A file in ORT format is measured without being understood."""
    return _measured(ModelFile(content, None))


def _run(content: bytes, folder: Path) -> object:
    model = read_model(_file(folder, content))
    return SimulatedDevice(CHIP).run_batch(model.content, np.zeros((1, 3, 8, 8), np.float32))


def _export(content: bytes, folder: Path) -> object:
    target = TARGETS[sum(content) % len(TARGETS)]
    path, out = _file(folder, content), folder / "out"
    told = api.export(path, target=[target], out=out, input="3x8x8", finetune_steps=0)
    made = told["targets"][0]
    if made["status"] in ("failed", "refused"):
        raise InputError(made["reason"])
    return made


def _manifest(content: bytes, folder: Path) -> object:
    said = describe_file(_file(folder, content)).metadata.get("preprocessing")
    return Preprocessing.model_validate(said) if said == PREPROCESSING else said


def _ort_manifest(content: bytes, folder: Path) -> object:
    return describe_file(_file(folder, content, "m.ort"))


@functools.cache
def _ort_files() -> tuple[bytes, ...]:
    from factory.deployment.targets import find_target

    with tempfile.TemporaryDirectory() as folder:
        source = _file(Path(folder), classifier().SerializeToString())
        made = find_target("ort-fp32").write(source, Path(folder) / "o.ort")
        return (made[0].read_bytes(),)


def _beside() -> tuple[bytes, ...]:
    """A model whose weight lies in w.bin, in the second half of it."""
    weight = numpy_helper.from_array(floats(4, 3, 3, 3), "w")
    size = len(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "w.bin"), ("offset", str(size)), ("length", str(size))):
        weight.external_data.add(key=key, value=value)
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"])])
    model.graph.initializer.append(weight)
    return (model.SerializeToString(),)


def _inspect_beside(content: bytes, folder: Path) -> object:
    (folder / "w.bin").write_bytes(floats(2, 4, 3, 3, 3).tobytes())
    read_model(_file(folder, content))
    return api.inspect(folder / "m.onnx")


def _plain() -> tuple[bytes, ...]:
    """Those in 32-bit floats whose operators can be measured alone."""
    return fixed()[:6] + fixed()[9:]


DOORS = [
    Door("onnx-inspect", fixed, _inspect, "onnx"),
    Door("onnx-external-weights", _beside, _inspect_beside, "onnx"),
    Door("onnx-predict", _plain, _predict, "onnx"),
    Door("onnx-profile", _plain, _profile, "onnx"),
    Door("onnx-verify", fixed, _verify, "onnx"),
    Door("onnx-measure", fixed, _measure, "onnx", share=0.5),
    Door("onnx-run", lambda: pictures()[:3], _run, "onnx"),
    Door("onnx-export", pictures, _export, "onnx", share=0.2),
    Door("onnx-manifest", fixed, _manifest, "onnx"),
    Door("ort-manifest", _ort_files, _ort_manifest),
    Door("ort-measure", _ort_files, _measure_unread, share=0.2),
]
