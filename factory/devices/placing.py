"""Inside the worker: which node runs where, and a model compiled ahead for one SoC.

Runs in the child process only: standard library and onnxruntime. What an execution provider says
about the nodes that it refuses goes to stderr by way of native code, so stderr is a file meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import onnxruntime as ort

from factory.devices import measure

LONGEST_LOG = 1 << 18
_TELLING = re.compile(r"REASON|Operator type|FAILED|\[E:|\[W:|not supported|unsupported", re.I)


@contextlib.contextmanager
def stderr_into(path: str) -> Iterator[None]:
    """Everything that this process writes to stderr, native code included, goes to ``path``."""
    kept = os.dup(2)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.dup2(handle, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(handle)
        os.close(kept)


def place(model: bytes, config: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Nodes with their provider, the number of partitions, and what the provider said.

    ``failure`` is why there is no session at all, "" otherwise.
    """
    path = os.path.join(folder, "placing.log")
    nodes: list[dict[str, str]] = []
    partitions: dict[str, int] = {}
    failure = ""
    with stderr_into(path):
        try:
            session = measure.make_session(model, {**config, "log_severity": 0})
            for part in session.get_provider_graph_assignment_info():
                partitions[part.ep_name] = partitions.get(part.ep_name, 0) + 1
                nodes += [
                    {"name": node.name, "op": node.op_type, "provider": part.ep_name}
                    for node in part.get_nodes()
                ]
        except Exception as error:
            failure = measure.one_line(error)
    with open(path, encoding="utf-8", errors="replace") as stream:
        telling = "".join(line for line in stream if _TELLING.search(line))
    os.unlink(path)
    log = telling[:LONGEST_LOG]
    return {"nodes": nodes, "partitions": partitions, "failure": failure, "log": log}


def compile_context(model: bytes, config: Mapping[str, Any], folder: str) -> bytes:
    """The model with its partitions compiled for the SoC of ``config`` (EPContext nodes)."""
    path = os.path.join(folder, "context.onnx")
    entries = {
        **config.get("session_entries", {}),
        "ep.context_enable": "1",
        "ep.context_file_path": path,
        "ep.context_embed_mode": "1",
        "session.disable_cpu_ep_fallback": "0",
    }
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    session: ort.InferenceSession | None = measure.make_session(
        model, {**config, "session_entries": entries}
    )
    del session
    if not os.path.exists(path):
        raise RuntimeError("the execution provider compiled nothing of this model")
    with open(path, "rb") as stream:
        content = stream.read()
    os.unlink(path)
    return content
