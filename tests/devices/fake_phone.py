"""A simulated Android phone: the device side of the adb protocol on loopback, jailed to a folder.

Enough of adbd for Debian's real adb client: CNXN without auth; shell_v2 with stdin, stderr and
exit codes; the sync service with stat, stat_v2, list, send and recv. Absolute paths of the phone
(/data, /proc, /sys) live in the jail; a path that leads out of it is refused. getprop and dumpsys
answer from files; what the tests push is run on this machine. It can hang up in the middle.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import signal
import socket
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

FEATURES = "shell_v2,cmd,stat_v2"
MAX_DATA = 256 * 1024
CNXN, OPEN, OKAY, CLSE, WRTE = 0x4E584E43, 0x4E45504F, 0x59414B4F, 0x45534C43, 0x45545257
ALLOWED = ("getprop", "dumpsys", "grep", "ls", "mkdir", "rm", "chmod", "cd", "exec", "true")
PHONE_PATHS = re.compile(r"(?<![\w.])/(data|proc|sys)(?=/)")

PROPERTIES = {
    "ro.product.manufacturer": "Fairphone",
    "ro.product.model": "Simulated 5",
    "ro.soc.manufacturer": "QTI",
    "ro.soc.model": "QCM6490",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.build.version.release": "14",
    "ro.build.fingerprint": "simulated/phone:14/TEST/1:user/test-keys",
    "ro.kernel.qemu": "1",
}


class Stream:
    """One open service of a connection; input arrives through feed, b"" at its end."""

    def __init__(self, link: Link, local: int, remote: int) -> None:
        self.link, self.local, self.remote = link, local, remote
        self.buffer = b""
        self.ended = False
        self.changed = threading.Condition()
        self.may_write = threading.Semaphore(0)

    def feed(self, data: bytes) -> None:
        with self.changed:
            self.buffer += data
            self.ended = self.ended or not data
            self.changed.notify_all()

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes; EOFError at the end."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.buffer) >= size or self.ended)
            if len(self.buffer) < size:
                raise EOFError
            part, self.buffer = self.buffer[:size], self.buffer[size:]
            return part

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), MAX_DATA):
            self.link.send(WRTE, self.local, self.remote, data[start : start + MAX_DATA])
            while not self.may_write.acquire(timeout=0.2):
                if self.ended:
                    raise EOFError

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.link.send(CLSE, self.local, self.remote)


class Link:
    """One adb server connected to the phone."""

    def __init__(self, phone: FakePhone, connection: socket.socket) -> None:
        self.phone, self.connection = phone, connection
        self.streams: dict[int, Stream] = {}
        self.lock = threading.Lock()
        self.next_id = 1

    def send(self, command: int, arg0: int, arg1: int, data: bytes = b"") -> None:
        head = struct.pack(
            "<6I", command, arg0, arg1, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF
        )
        with self.lock:
            self.connection.sendall(head + data)

    def serve(self) -> None:
        stream = self.connection.makefile("rb")
        try:
            while head := stream.read(24):
                command, arg0, arg1, length, _, _ = struct.unpack("<6I", head)
                self.handle(command, arg0, arg1, stream.read(length) if length else b"")
        except (OSError, ValueError, struct.error):
            pass
        finally:
            for one in list(self.streams.values()):
                one.feed(b"")
            self.connection.close()

    def handle(self, command: int, arg0: int, arg1: int, data: bytes) -> None:
        if command == CNXN:
            product = ";".join(
                f"ro.product.{key}={self.phone.properties['ro.product.model'].replace(' ', '_')}"
                for key in ("name", "model", "device")
            )
            banner = f"device::{product};features={FEATURES}\0".encode()
            self.send(CNXN, 0x01000001, MAX_DATA, banner)
        elif command == OPEN:
            self.open(arg0, data.rstrip(b"\0").decode())
        elif command == WRTE:
            if (one := self.streams.get(arg1)) is not None:
                one.feed(data)
                self.send(OKAY, arg1, arg0)
        elif command == OKAY:
            if (one := self.streams.get(arg1)) is not None:
                one.may_write.release()
        elif command == CLSE and (one := self.streams.pop(arg1, None)) is not None:
            one.feed(b"")

    def open(self, remote: int, service: str) -> None:
        self.phone.services.append(service)
        handler: Callable[[Stream, str], None]
        if service.startswith("shell,v2"):
            handler = self.phone.shell
        elif service == "sync:":
            handler = self.phone.sync
        else:
            self.send(CLSE, 0, remote)
            return
        one = Stream(self, self.next_id, remote)
        self.next_id += 1
        self.streams[one.local] = one
        self.send(OKAY, one.local, remote)

        def work() -> None:
            with contextlib.suppress(EOFError, OSError):
                handler(one, service)
            one.close()
            self.streams.pop(one.local, None)

        threading.Thread(target=work, daemon=True).start()


class FakePhone:
    """A phone in ``jail``; ``address`` is what `adb connect` takes.

    Args:
        jail: an empty folder.
        properties: replace those of getprop.
        battery_tenths: its temperature, a tenth of a degree each.
    """

    def __init__(self, jail: Path, properties=None, battery_tenths: int = 291) -> None:
        self.jail = jail.resolve()
        self.properties = {**PROPERTIES, **(properties or {})}
        self.services: list[str] = []
        self.commands: list[str] = []
        self.hang_ups, self.most_hang_ups = 0, 1
        self._children: set[subprocess.Popen] = set()
        self._links: list[Link] = []
        self._furnish(battery_tenths)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()

    def _furnish(self, battery_tenths: int) -> None:
        files = {"proc/meminfo": "MemTotal:        7654321 kB\n"}
        cpuinfo = []
        for core in range(8):
            clock = f"sys/devices/system/cpu/cpu{core}/cpufreq"
            files[f"{clock}/cpuinfo_max_freq"] = f"{1958400 if core < 4 else 2400000}\n"
            files[f"{clock}/scaling_governor"] = "walt\n"
            cpuinfo.append(f"processor\t: {core}\nCPU part\t: {'0xd05' if core < 4 else '0xd41'}\n")
        files["proc/cpuinfo"] = "\n".join(cpuinfo)
        files["sys/class/thermal/thermal_zone0/type"] = "cpu-0-0\n"
        files["sys/class/thermal/thermal_zone0/temp"] = "41200\n"
        lines = [f"[{key}]: [{value}]" for key, value in self.properties.items()]
        files["answers/getprop"] = "\n".join(lines) + "\n"
        files["answers/dumpsys"] = (
            "Current Battery Service state:\n  AC powered: false\n  USB powered: true\n"
            f"  level: 83\n  temperature: {battery_tenths}\n"
        )
        for name, text in files.items():
            path = self.jail / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (self.jail / "data/local/tmp").mkdir(parents=True)
        tools = self.jail / "bin"
        tools.mkdir()
        for name in ("getprop", "dumpsys"):
            tool = tools / name
            tool.write_text(f"#!/bin/sh\ncat {shlex.quote(str(self.jail / 'answers' / name))}\n")
            tool.chmod(0o755)

    def become(self, abi: str) -> None:
        """Be a phone of that ABI, for programs that are built for this machine."""
        answers = self.jail / "answers" / "getprop"
        answers.write_text(answers.read_text().replace("[arm64-v8a]", f"[{abi}]"))

    def inside(self, path: str) -> Path:
        """The place of a phone's path in the jail; PermissionError when it leads out of it."""
        place = (self.jail / path.lstrip("/")).resolve()
        if place != self.jail and self.jail not in place.parents:
            raise PermissionError(f"{path} leads out of the phone")
        return place

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = Link(self, connection)
            self._links.append(link)
            threading.Thread(target=link.serve, daemon=True).start()

    def _watch(self) -> None:
        """Hang up when a program on the phone asks for it."""
        wish = self.jail / "VANISH"
        while self._listener.fileno() >= 0:
            if wish.exists():
                wish.unlink()
                if self.hang_ups < self.most_hang_ups:
                    self.hang_up()
            time.sleep(0.02)

    def hang_up(self) -> None:
        """Cut every connection and end what runs, as a pulled cable and adbd do."""
        self.hang_ups += 1
        for child in list(self._children):
            with contextlib.suppress(OSError):
                os.killpg(child.pid, signal.SIGKILL)
        for link in self._links:
            with contextlib.suppress(OSError):
                link.connection.shutdown(socket.SHUT_RDWR)
        self._links.clear()

    def close(self) -> None:
        self._listener.close()
        self.hang_up()

    def shell(self, stream: Stream, service: str) -> None:
        """shell,v2,raw: packets of id, length and data, both ways."""
        command = service.split(":", 1)[1]
        self.commands.append(command)
        words = shlex.split(command, comments=False)
        programs = [words[0]] + [b for a, b in itertools.pairwise(words) if a == "&&"]
        for program in programs:
            plain = program.rstrip(";")
            if "=" not in plain and plain not in ALLOWED:
                raise EOFError(f"{plain} is not on this phone")
        jailed = PHONE_PATHS.sub(lambda match: str(self.jail / match[1]), command)
        child = subprocess.Popen(
            ["/bin/sh", "-c", jailed],
            cwd=self.jail,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": f"{self.jail / 'bin'}:/usr/bin:/bin"},
            start_new_session=True,
        )
        self._children.add(child)

        def packet(kind: int, data: bytes) -> None:
            with contextlib.suppress(EOFError, OSError):
                stream.write(struct.pack("<BI", kind, len(data)) + data)

        def forward(source, kind: int) -> None:
            while data := source.read1(1 << 16):
                packet(kind, data.replace(str(self.jail).encode(), b""))

        def stdin() -> None:
            with contextlib.suppress(EOFError, OSError):
                while True:
                    kind, length = struct.unpack("<BI", stream.read(5))
                    data = stream.read(length)
                    if kind == 0:
                        child.stdin.write(data)
                        child.stdin.flush()
                    elif kind == 3:
                        child.stdin.close()
            with contextlib.suppress(OSError):
                child.stdin.close()

        threads = [
            threading.Thread(target=forward, args=(child.stdout, 1), daemon=True),
            threading.Thread(target=forward, args=(child.stderr, 2), daemon=True),
        ]
        threading.Thread(target=stdin, daemon=True).start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        code = child.wait()
        self._children.discard(child)
        packet(3, bytes([code if code >= 0 else 128 - code]))

    def sync(self, stream: Stream, service: str) -> None:
        """The file service."""
        while True:
            kind, length = struct.unpack("<4sI", stream.read(8))
            if kind == b"QUIT":
                return
            name = stream.read(length).decode()
            try:
                self.sync_one(stream, kind, name)
            except (OSError, PermissionError) as error:
                text = str(error).encode()
                stream.write(struct.pack("<4sI", b"FAIL", len(text)) + text)

    def sync_one(self, stream: Stream, kind: bytes, name: str) -> None:
        if kind in (b"STAT", b"STA2", b"LST2"):
            info = error = None
            try:
                info = os.stat(self.inside(name))
            except OSError as problem:
                error = problem.errno or 13
            if kind == b"STAT":
                facts = (info.st_mode, info.st_size, int(info.st_mtime)) if info else (0, 0, 0)
                stream.write(struct.pack("<4s3I", kind, *facts))
                return
            values = (0,) * 10
            if info is not None:
                times = (int(info.st_atime), int(info.st_mtime), int(info.st_ctime))
                owner = (info.st_nlink, info.st_uid, info.st_gid, info.st_size)
                values = (info.st_dev, info.st_ino, info.st_mode, *owner, *times)
            stream.write(struct.pack("<4sIQQIIIIQqqq", kind, error or 0, *values))
        elif kind == b"LIST":
            for path in self.inside(name).iterdir():
                info, text = path.stat(), path.name.encode()
                facts = (info.st_mode, info.st_size, int(info.st_mtime), len(text))
                stream.write(struct.pack("<4s4I", b"DENT", *facts) + text)
            stream.write(struct.pack("<4s4I", b"DONE", 0, 0, 0, 0))
        elif kind == b"SEND":
            path, _, mode = name.rpartition(",")
            place = self.inside(path)
            parts = []
            while True:
                word, length = struct.unpack("<4sI", stream.read(8))
                if word == b"DONE":
                    break
                parts.append(stream.read(length))
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(b"".join(parts))
            place.chmod(stat.S_IMODE(int(mode)) | 0o600)
            stream.write(struct.pack("<4sI", b"OKAY", 0))
        elif kind == b"RECV":
            content = self.inside(name).read_bytes()
            for start in range(0, len(content), 1 << 16):
                part = content[start : start + (1 << 16)]
                stream.write(struct.pack("<4sI", b"DATA", len(part)) + part)
            stream.write(struct.pack("<4sI", b"DONE", 0))
        else:
            raise OSError(f"unknown request {kind!r}")
