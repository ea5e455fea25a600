"""Put ONNX Runtime Web's files into the package: `make web`, before a wheel is built.

Gets one pinned release through the npm client (or takes a tarball that is already here), checks
its SHA-512 and unpacks the few files that the page uses into factory/devices/web/ort/, which git
ignores. Nothing is fetched when the page runs. Standard library only.

    python tools/fetch_ort_web.py [--tarball onnxruntime-web-1.30.0.tgz]
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
FILES = (
    "ort.wasm.min.mjs",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
TARGET = Path(__file__).resolve().parents[1] / "factory" / "devices" / "web" / "ort"
LIST = "files.json"


class Refused(Exception):
    """What is wrong, in one sentence."""


def is_there(target: Path = TARGET) -> bool:
    """Whether this release is unpacked already, every file as it was written."""
    try:
        known = json.loads((target / LIST).read_text())
        return known["version"] == VERSION and all(
            hashlib.sha256((target / name).read_bytes()).hexdigest() == known["files"][name]
            for name in FILES
        )
    except (OSError, ValueError, KeyError):
        return False


def download(folder: Path) -> Path:
    """The release's tarball, through the npm client."""
    npm = shutil.which("npm")
    if npm is None:
        raise Refused(
            "npm is not installed: install Node.js, or download onnxruntime-web-"
            f"{VERSION}.tgz elsewhere and give it with --tarball"
        )
    command = [npm, "pack", "--silent", f"onnxruntime-web@{VERSION}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.tgz"))
    if done.returncode or not found:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Refused(f"npm could not get onnxruntime-web {VERSION}: {said}")
    return found[0]


def unpack(tarball: Path, target: Path = TARGET, sha512: str = SHA512) -> None:
    """Check the tarball and put its files in place; the folder appears whole or not at all."""
    content = tarball.read_bytes()
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if digest != sha512:
        raise Refused(
            f"{tarball.name} is not the release that is expected: its SHA-512 is {digest}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".ort-") as name:
        fresh = Path(name) / "ort"
        fresh.mkdir()
        hashes = {}
        with tarfile.open(tarball) as archive:
            for file in FILES:
                stream = archive.extractfile(f"package/dist/{file}")
                if stream is None:
                    raise Refused(f"{tarball.name} has no {file}")
                data = stream.read()
                (fresh / file).write_bytes(data)
                hashes[file] = hashlib.sha256(data).hexdigest()
        facts = {"schema_version": 1, "version": VERSION, "licence": "MIT", "files": hashes}
        (fresh / LIST).write_text(json.dumps(facts, indent=2) + "\n")
        os.chmod(fresh, 0o755)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Put ONNX Runtime Web into the package.")
    parser.add_argument("--tarball", type=Path, help="a release that is already on this disk")
    arguments = parser.parse_args()
    if is_there():
        print(f"ONNX Runtime Web {VERSION} is in place")
        return 0
    try:
        with tempfile.TemporaryDirectory() as folder:
            unpack(arguments.tarball or download(Path(folder)))
    except (Refused, OSError, tarfile.TarError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"ONNX Runtime Web {VERSION} is in {TARGET}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
