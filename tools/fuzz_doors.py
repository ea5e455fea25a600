"""Many wrong inputs for every door of the factory: each is accepted, or refused in one line.

The doors are those of tests/doors. Each is fed in a process of its own that this one watches: an
abort or a hang costs one input, which is kept under --out with everything else that was found. The
same seed gives the same inputs. A hang is an input that takes --hang-s of the processor, or ten
times as long by the clock: other programs may need the machine too.

    python tools/fuzz_doors.py --inputs 100000
    python tools/fuzz_doors.py --inputs 2000 --doors recipe,certificate --seed 3 --seconds 60
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

DOORS = Path(__file__).resolve().parents[1] / "tests" / "doors"
sys.path.insert(0, str(DOORS))
from door import OF_LIBRARIES, Door, ask, known_doors  # noqa: E402
from mutations import mutated  # noqa: E402

START_S = 300.0  # to import what a door needs and to make its seeds
MOST_KEPT = 3  # inputs of one finding that are written


@dataclass
class Tally:
    """What came of the inputs of one door."""

    inputs: int = 0
    refused: int = 0
    accepted: int = 0
    found: Counter[str] = field(default_factory=Counter)
    aborts: int = 0
    hangs: int = 0
    leftovers: int = 0
    longest: int = 0
    peak_mb: float = 0.0
    seconds: float = 0.0


def content_of(door: Door, seeds: Sequence[bytes], seed: int, number: int) -> bytes:
    """Input ``number`` of a door; the first ones are the valid inputs themselves."""
    if number < len(seeds):
        return seeds[number]
    rng = random.Random(f"{seed} {door.name} {number}")
    return mutated(rng, [*seeds, *door.refused()], door.form)


def child(name: str, seed: int, first: int, end: int, out: Path) -> None:
    """Feed inputs first..end-1 and write what came of each to stdout, a line of JSON each."""
    from factory.devices.start_up import peak_bytes

    with os.fdopen(os.dup(1), "w", buffering=1) as results:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        door = known_doors()[name]
        seeds = door.seeds()
        temp = Path(tempfile.gettempdir())
        before = set(temp.iterdir())  # made by the seeds
        os.chdir(out)
        for number in range(first, end):
            results.write(json.dumps({"begin": number}) + "\n")
            content = content_of(door, seeds, seed, number)
            answer = ask(door, content, temp.parent / "in" / str(number))
            left = [path for path in temp.iterdir() if path not in before]
            left = [path for path in left if not path.name.startswith(OF_LIBRARIES)]
            for path in left:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finding = answer.finding
            if number < len(seeds) and not answer.accepted and not finding:
                finding = "a valid input is refused"
            if left and not finding:
                finding = f"left in the temporary folder: {left[0].name[:14]}..."
            if finding:
                keep(out, name, finding, content, answer.detail or answer.message)
            value = {
                "accepted": answer.accepted,
                "message": len(answer.message),
                "finding": finding,
                "left": len(left),
                "peak_mb": (peak_bytes() or 0) / 2**20,
            }
            results.write(json.dumps(value) + "\n")


def keep(out: Path, name: str, finding: str, content: bytes, detail: str) -> None:
    """Write an input and what it did, unless this finding has enough of them."""
    folder = out / name / hashlib.sha256(finding.encode()).hexdigest()[:10]
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("*.bin")))
    if number < MOST_KEPT:
        (folder / f"{number}.bin").write_bytes(content)
        text = f"{finding}\n\n{detail}"
        (folder / f"{number}.txt").write_text(text, encoding="utf-8", errors="backslashreplace")


def watch(name: str, args: argparse.Namespace, inputs: int, scratch: Path, out: Path) -> Tally:
    """Run a door's inputs, in as many processes as it takes."""
    scratch.mkdir()
    tally, first, started = Tally(), 0, time.monotonic()
    while first < inputs and time.monotonic() - started < args.seconds:
        temp = scratch / "tmp"
        temp.mkdir()
        command = [sys.executable, __file__, "--child", name, "--seed", str(args.seed)]
        command += ["--first", str(first), "--inputs", str(inputs), "--out", str(out)]
        with (scratch / "stderr").open("wb") as errors:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "TMPDIR": str(temp)},
            )
        assert process.stdout is not None
        current, ended = follow(process, tally, started + args.seconds, args.hang_s)
        process.kill()
        process.wait()
        process.stdout.close()
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        if ended in ("done", "time"):
            break
        if current is None:
            sys.exit(f"door {name} does not start: run it with pytest tests/test_doors.py")
        door = known_doors()[name]
        content = content_of(door, door.seeds(), args.seed, current)
        keep(out, name, ended, content, f"input {current}")
        tally.inputs += 1
        tally.hangs += ended == "hang"
        tally.aborts += ended != "hang"
        tally.found[ended] += 1
        first = current + 1
    tally.seconds = time.monotonic() - started
    return tally


def follow(
    process: subprocess.Popen[bytes], tally: Tally, until: float, hang_s: float
) -> tuple[int | None, str]:
    """Read a child's lines; the input it was at, and how it ended."""
    assert process.stdout is not None
    handle, rest, current = process.stdout.fileno(), b"", None
    waited, spent = time.monotonic(), 0.0
    while True:
        limit_s = START_S if current is None else hang_s
        ready, _, _ = select.select([handle], [], [], 1.0)
        if not ready:
            took_s = time.monotonic() - waited
            if processor_s(process.pid) - spent > limit_s or took_s > 10 * limit_s:
                return current, "hang"
            continue
        waited, spent = time.monotonic(), processor_s(process.pid)
        data = os.read(handle, 1 << 16)
        if not data:
            code = process.wait()
            return current, "done" if code == 0 else f"abort, exit code {code}"
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            value = json.loads(line)
            if "begin" in value:
                current = value["begin"]
            else:
                count(tally, value)
        if time.monotonic() > until:
            return current, "time"


def processor_s(pid: int) -> float:
    """Seconds of the processor that a process has taken; 0 where it has ended."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system


def count(tally: Tally, value: dict[str, object]) -> None:
    """Add what came of one input."""
    tally.inputs += 1
    tally.peak_mb = max(tally.peak_mb, value["peak_mb"])  # type: ignore[type-var]
    tally.longest = max(tally.longest, value["message"])  # type: ignore[type-var]
    tally.leftovers += value["left"]  # type: ignore[operator]
    if value["finding"]:
        tally.found[str(value["finding"])] += 1
    elif value["accepted"]:
        tally.accepted += 1
    else:
        tally.refused += 1


def line_of(name: str, tally: Tally) -> str:
    """One line of the table."""
    found = sum(tally.found.values())
    return (
        f"{name:22} {tally.inputs:7} {tally.refused:8} {tally.accepted:8} {found:9} "
        f"{tally.aborts:6} {tally.hangs:5} {tally.leftovers:9} {tally.longest:8} "
        f"{tally.peak_mb:7.0f} {tally.seconds:7.0f}"
    )


def main() -> int:
    """Run the doors and print a table; 1 where anything was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="over all doors together")
    parser.add_argument("--doors", default="", help="names, with commas; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9, help="at most, for each door")
    parser.add_argument("--hang-s", type=float, default=30.0, help="limit for one input")
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.seed, args.first, args.inputs, args.out)
        return 0
    known = known_doors()
    names = args.doors.split(",") if args.doors else list(known)
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"unknown doors {', '.join(unknown)}; known: {', '.join(known)}")
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    tallies: dict[str, Tally] = {}
    print(
        f"{'door':22} {'inputs':>7} {'refused':>8} {'accepted':>8} {'findings':>9} {'aborts':>6} "
        f"{'hangs':>5} {'leftovers':>9} {'longest':>8} {'peak MB':>7} {'seconds':>7}",
        file=sys.stderr if args.json else sys.stdout,
    )
    shares = sum(known[name].share for name in names)
    for name in names:
        with tempfile.TemporaryDirectory(prefix="fuzz-doors-") as scratch:
            inputs = math.ceil(args.inputs * known[name].share / shares)
            tallies[name] = watch(name, args, inputs, Path(scratch) / "run", out)
        if not args.json:
            print(line_of(name, tallies[name]), flush=True)
    if args.json:
        print(json.dumps({name: vars(tally) for name, tally in tallies.items()}, indent=1))
    else:
        for name, tally in tallies.items():
            for kind, times in tally.found.most_common():
                print(f"  {name}: {times} x {kind}")
    with contextlib.suppress(OSError):
        out.rmdir()  # empty: nothing was found
    return 1 if any(tally.found for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
