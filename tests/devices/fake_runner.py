"""Stands for factory_runner on a simulated phone: the same jobs, by ONNX Runtime in Python.

The test writes a starter script with the path of this file. Real numbers of this machine flow;
they are those of a phone only in their form. A model that holds b"CRASH", b"HANG" or b"VANISH"
kills it, hangs, or asks the fake phone to hang up (once).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

if sys.argv[1:] == ["--version"]:  # asked at every connection: without loading the runtime
    from importlib.metadata import version

    facts = {"runtime_version": version("onnxruntime"), "providers": ["CPUExecutionProvider"]}
    print(json.dumps({"runner": 1, **facts}))
    sys.exit()

import numpy as np
import onnxruntime as ort

from factory.devices import measure, worker


def tick(index: int, phase: str) -> None:
    print(f"tick {index} {phase}", flush=True)


def read_job(path: str) -> dict:
    job: dict = {"options": {}, "core": [], "model": [], "input": [], "plan": {}}
    first, *lines = Path(path).read_text().splitlines()
    assert first == "factory-job 1", first
    for line in lines:
        key, *words = line.split()
        if key in ("kind", "provider"):
            job[key] = words[0]
        elif key == "option":
            job["options"][bytes.fromhex(words[0]).decode()] = bytes.fromhex(words[1]).decode()
        elif key in ("threads", "rounds", "memory_mb"):
            job[key] = int(words[0])
        elif key == "core":
            job["core"].append(int(words[0]))
        elif key == "model":
            job["model"].append(words[0])
        elif key == "input":
            name, dtype, file, rank, *sizes = words
            shape = tuple(map(int, sizes))
            assert len(shape) == int(rank)
            array = np.frombuffer(Path(file).read_bytes(), dtype=dtype).reshape(shape)
            job["input"].append((bytes.fromhex(name).decode(), array))
        else:
            job["plan"][key] = float(words[0])
    return job


def end_with_stdin() -> None:
    while os.read(0, 256):
        pass
    os._exit(9)


def misbehave(model: bytes) -> None:
    if b"CRASH" in model:
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"HANG" in model:
        time.sleep(3600)
    if b"VANISH" in model:
        Path("../../../../../VANISH").touch()  # the fake phone looks for it in its jail
        time.sleep(2)


def main() -> None:
    threading.Thread(target=end_with_stdin, daemon=True).start()
    job = read_job(sys.argv[1])
    here = sorted(os.sched_getaffinity(0))
    note = worker.pin(here[-len(job["core"]) :]) if job["core"] else "pinning is switched off"
    ort.set_default_logger_severity(4)
    config = {
        "execution_provider": job["provider"],
        "provider_options": job["options"],
        "threads": min(job["threads"], len(here)),
    }
    honest = measure.make_session

    def make_session(model, *more):
        misbehave(model)
        return honest(model, *more)

    measure.make_session = make_session
    models = [Path(name).read_bytes() for name in job["model"]]
    lines = [{"pin_note": note}]
    if job["kind"] == "time":
        lines += time_models(models, job, config)
    else:
        lines.append(run_model(models[0], job, config))
    Path(sys.argv[2]).write_text("".join(json.dumps(line) + "\n" for line in lines))
    print("done", flush=True)
    os._exit(0)


def time_models(models, job, config):
    samples: dict[int, list[int]] = {}
    traces: dict[int, str] = {}
    graphs: dict[int, str] = {}
    plan = {k: int(v) if k.endswith("runs") else v for k, v in job["plan"].items()}
    honest_statistics = measure.sample_statistics
    kept: list[list[int]] = []

    def remember(samples_ns):
        kept.append(list(samples_ns))
        return honest_statistics(samples_ns)

    measure.sample_statistics = remember
    results = measure.measure_many(
        models, {**plan, "profile_runs": 0, "optimised_graph": 0}, job["rounds"], config, ".", tick
    )
    good = [i for i, result in enumerate(results) if result["status"] == "ok"]
    samples.update(zip(good, kept, strict=True))
    for i in good:
        if plan["profile_runs"]:
            graphs[i] = f"optimised{i}.onnx" if plan.get("optimised_graph") else ""
            candidate = measure.Candidate(models[i], config, f"trace{i}", graphs[i] or None)
            candidate.run(plan["trace_warmup_runs"] + plan["profile_runs"])
            traces[i] = candidate.session.end_profiling()
    for i, result in enumerate(results):
        if i in samples:
            yield {
                "index": i,
                "status": "ok",
                "session_ms": result["session_ms"],
                "trace": traces.get(i, ""),
                "optimised": graphs.get(i, ""),
                "samples_ns": samples[i],
            }
        else:
            yield {"index": i, "status": "failed", "reason": result["reason"]}


def run_model(model, job, config):
    try:
        session = measure.make_session(model, config)
        names = [output.name for output in session.get_outputs()]
        if job["kind"] == "run":
            arrays = session.run(names, dict(job["input"]))
            extra = {}
        else:
            inputs = session.get_inputs()
            assert len(inputs) == 1, f"the model has {len(inputs)} inputs"
            [(_, items)] = job["input"]
            joined = len(inputs[0].shape) == items.ndim
            got = [
                session.run(names[:1], {inputs[0].name: item[None] if joined else item})[0]
                for item in items
            ]
            names, arrays, extra = names[:1], [got[0]], {"joined": joined}
    except Exception as error:
        return {"index": 0, "status": "failed", "reason": measure.one_line(error)}
    outputs = []
    for i, (name, array) in enumerate(zip(names, arrays, strict=True)):
        content = b"".join(a.tobytes() for a in got) if extra else array.tobytes()
        Path(f"out{i}.bin").write_bytes(content)
        facts = {"dtype": array.dtype.str, "shape": list(array.shape), "file": f"out{i}.bin"}
        outputs.append({"name": name, **facts})
    return {"index": 0, "status": "ok", **extra, "outputs": outputs}


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:
        print(measure.one_line(error), file=sys.stderr)
        sys.exit(4)
    finally:
        shutil.rmtree("__pycache__", ignore_errors=True)
