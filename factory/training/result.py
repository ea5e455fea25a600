"""What a finished training leaves: weights.safetensors, history.jsonl, result.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from factory.core.errors import InputError
from factory.core.files import write_atomic_bytes, write_atomic_text, write_json
from factory.core.reading import an_object, parse_json, read_object, read_text
from factory.core.validation import checked
from factory.training.checkpoint import refuse_other_run

SCHEMA_VERSION = 1
RESULT_FILE = "result.json"
HISTORY_FILE = "history.jsonl"
WEIGHTS_FILE = "weights.safetensors"
_ELSEWHERE = ("history", "weights")  # fields with a file of their own


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes:
        test_accuracy: of the averaged weights, the ones in ``weights``; 0..1.
        test_loss: their mean cross entropy on the test pictures.
        history: one entry an epoch: epoch (from 1), train_loss, test_accuracy, test_loss, lr;
            test values are None in epochs that were not tested.
        weights: path of the averaged weights (safetensors).
    """

    test_accuracy: float
    test_loss: float
    history: list[dict[str, Any]]
    weights: Path
    epochs: int
    steps: int
    seconds: float
    hardware: dict[str, Any]


def write_history(out_dir: Path, history: list[dict[str, Any]]) -> None:
    """Replace the history file by exactly these entries."""
    lines = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in history)
    write_atomic_text(out_dir / HISTORY_FILE, lines)


def write_result(
    result: TrainResult, tensors: dict[str, Tensor], *, run_id: str, seed: int
) -> None:
    """The weights, then the result file: its presence says that the training is finished."""
    contiguous = {name: value.cpu().contiguous() for name, value in tensors.items()}
    write_atomic_bytes(result.weights, safetensors.torch.save(contiguous))
    stored = {k: v for k, v in asdict(result).items() if k not in _ELSEWHERE}
    header = {"schema_version": SCHEMA_VERSION, "fingerprint": run_id, "seed": seed}
    write_json(result.weights.parent / RESULT_FILE, {**header, **stored})


def read_result(out_dir: Path, run_id: str) -> TrainResult | None:
    """The result of a finished training; None where there is none, another run's is refused."""
    path, weights = out_dir / RESULT_FILE, out_dir / WEIGHTS_FILE
    if not path.exists() or not weights.exists():
        return None
    stored = read_object(path, "training result")
    if stored.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path} is not a training result of schema version {SCHEMA_VERSION}",
            fix="remove the folder to train from the start",
        )
    refuse_other_run(str(stored.get("fingerprint")), run_id, path)
    history = out_dir / HISTORY_FILE
    lines = read_text(history, "training history").splitlines()
    where = f"a line of {history}"
    epochs = [an_object(parse_json(line, where), where) for line in lines]
    values = {**stored, "history": epochs, "weights": weights}
    found: TrainResult = checked(TrainResult, values, str(path), "remove the folder")
    return found
