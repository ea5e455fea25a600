"""The door of the command line: words of any kind, in place of names, numbers and paths."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from door import Door

ONLY_DRY = ("build", "search", "train", "profile", "adapt", "export")
WAITS = ("--browser", "--check", "farm", "add")  # for a page, a chip or a peer
LINES = (
    "inspect g.json --channels 4 --layers 3 --input 3x16x16 --stem cifar --classes 10 --json",
    "inspect PDARTS --channels 4 --layers 3 --input 3x16x16",
    "inspect m.onnx",
    "table --json",
    "table show t.csv",
    "table check t.csv --dry-run",
    "table compare t.csv t.csv --biggest 3 --json",
    "table merge t.csv --out made.csv --device other --replace",
    "table import f.csv --mapping m.toml --replace --out tables",
    "inspect pictures",
    "build r.toml --out run --seed 3 --dry-run",
    "search r.toml --out run --seed 3 --seeds 2 --dry-run",
    "search r.toml --strategy random --queries 3 --epochs 1 --dry-run",
    "search --list",
    "train r.toml --genotype g.json --out run --dry-run",
    "export m.onnx --target onnx-fp32 --out o.onnx --input 3x16x16 --mean 0.5 --std 0.2 --dry-run",
    "export run --tier sim --precision int8 --camera 480x640 --max-drop-points 1.5 --dry-run",
    "verify m.onnx --device sim --max-latency-ms 5 --sustained-s 0",
    "verify --certificate c.json --no-measure",
    "report run",
    "profile --device sim --channels 4 --layers 3 --networks 4 --effort quick --out o --dry-run",
    "devices --json",
    "agent --write agent.py",
)
REFUSED = (
    "predict m.onnx --device sim --top 3 --html page.html --run run",
    "fit --device sim --seed 3 --json --run run",
    "build demo --scale small --dry-run",
    "package run --tier sim --out package.zip",
    "adapt --device sim --from other --measurements 10 --seed 1 --channels 8 --dry-run",
    "devices explain m.onnx --device sim",
    "verify m.onnx --device sim --issue c2.json --data pictures",
    "new other.toml --data empty --image-size 32 --force",
)


def _picture(number: int) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (60 * number, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def _prepared(folder: Path) -> None:
    """Small files of every kind that a command line names."""
    import text

    from factory.graph.onnx_build import to_onnx
    from factory.graph.opgraph import GraphBuilder

    builder = GraphBuilder("m")
    x = builder.relu(builder.conv(builder.input("x", (1, 3, 16, 16)), 4, 3, padding=1))
    model = to_onnx(builder.finish([builder.linear(builder.global_avg_pool(x), 3)]))
    files = {
        "m.onnx": model.SerializeToString(),
        "t.csv": text._table(),
        "g.json": text._genotype_seeds()[0],
        "c.json": text._certificate_seeds()[0],
        "f.csv": text.FOREIGN,
        "m.toml": text.MAPPING,
        "r.toml": text._tiny_recipe()[0],
        "run/run.json": text._run_record_seeds()[0],
        "device_profiles/sim.toml": text.SIMULATED,
        "pictures/a/x.txt": b"no picture",
        "empty/a/x.txt": b"no picture",
        **{f"pictures/{name}/{n}.png": _picture(n) for name in "ab" for n in range(4)},
    }
    for name, content in files.items():
        text._write(folder, name, content)


def _command(content: bytes, folder: Path) -> None:
    from factory.cli import main
    from factory.core.errors import InputError

    words = [word.decode("utf-8", "surrogateescape") for word in content.split(b"\0")]
    if set(words) & set(WAITS) or (words[:1] == ["agent"] and "--write" not in words):
        return
    if set(words) & set(ONLY_DRY) and "--dry-run" not in words:
        words.append("--dry-run")
    _prepared(folder)
    before, said = os.getcwd(), io.StringIO()

    def raised(error: Exception, debug: bool) -> int:
        if hasattr(error, "format_message") or isinstance(error, OSError):
            return unexpected(error, debug)
        raise error

    unexpected = main._unexpected
    os.chdir(folder)
    try:
        with (
            mock.patch.dict(os.environ, {"FACTORY_HOME": str(folder), "COLUMNS": "100"}),
            mock.patch.object(main, "_unexpected", raised),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(said),
        ):
            code = main.run(words)
    finally:
        os.chdir(before)
    if code == 2:
        text = said.getvalue().strip().rsplit("\n", 1)[-1]
        assert text.startswith("error: "), text
        raise InputError(text.removeprefix("error: "))


def _split(lines: Sequence[str]) -> Sequence[bytes]:
    return [line.replace(" ", "\0").encode() for line in lines]


DOORS = [
    Door(
        "command-line",
        lambda: _split(LINES),
        _command,
        "words",
        share=0.3,
        refused=lambda: _split(REFUSED),
    )
]
