"""A farm: several devices work through one plan in parallel, each at its own pace.

Devices of one fingerprint (chip, runtime, provider, threads, precision) are equal: they share one
queue of blocks, and a block whose device is lost goes back into it for another. Each device writes
a table of its own, so a killed farm goes on where it was; farm_merge.py puts the rows together.
Devices on one machine would disturb each other and take turns.
"""

from __future__ import annotations

import json
import random
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factory.core.errors import FactoryError, InputError
from factory.core.progress import SILENT, Progress
from factory.devices.base import Device, open_device
from factory.devices.profile import DeviceProfile
from factory.graph.fusion import FusionRules
from factory.graph.kernel import Kernel
from factory.pipeline.farm_merge import merge
from factory.pipeline.farm_turns import Turns
from factory.pipeline.profiling_plan import effort_settings, kernels_of, random_networks
from factory.profiling.fusion_rules import fusion_rules, settled_row
from factory.profiling.fusion_tests import measure_fusion
from factory.profiling.profiler import ORDER_SEED, network_key, profile_kernels, profile_networks
from factory.profiling.settings import ProfileSettings
from factory.profiling.table import LatencyTable, table_name
from factory.spaces.base import SearchSpace

LOOK_EVERY_S = 0.2
Network = tuple[Mapping[Kernel, int], bytes]


@dataclass(frozen=True)
class Item:
    """One row to be measured: a kernel or a network, whichever is not None."""

    kind: str
    key: str
    kernel: Kernel | None = None
    network: Network | None = None


@dataclass
class Member:
    """One device of a group and what it did."""

    device: Device
    describe: dict[str, Any]
    table: LatencyTable
    measured: int = 0
    failed: int = 0
    lost: str = ""


@dataclass
class Group:
    """Equal devices, the queue they share and what became of it."""

    members: list[Member]
    pending: deque[list[Item]] = field(default_factory=deque)
    at_work: int = 0
    done: int = 0
    total: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def lead(self) -> Member:
        """The device named first: the merged table is its."""
        return self.members[0]

    def next(self, stop: threading.Event) -> list[Item] | None:
        """The next block; None when nothing is left that could come back."""
        with self.changed:
            while not stop.is_set():
                if self.pending:
                    self.at_work += 1
                    return self.pending.popleft()
                if not self.at_work:
                    return None
                self.changed.wait(LOOK_EVERY_S)
            return None

    def finished(self, measured: int, left: Sequence[Item] = ()) -> None:
        """A block is done, but for what is ``left``, which another device must take."""
        with self.changed:
            self.at_work -= 1
            self.done += measured
            if left:
                self.pending.appendleft(list(left))
            self.changed.notify_all()


def run_farm(
    profiles: Sequence[DeviceProfile],
    spaces: Sequence[SearchSpace[Any]],
    folder: Path,
    *,
    networks: int,
    pool: int,
    effort: str,
    seed: int,
    progress: Progress = SILENT,
    opener: Callable[[DeviceProfile], Device] = open_device,
) -> list[dict[str, Any]]:
    """Measure the plan on all devices; what came of it, a dictionary a group of equal devices.

    Raises:
        InputError: no device can be reached, or a group lost all of its devices; what was
            measured is kept, and the same call goes on.
    """
    ids = [profile.id for profile in profiles]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise InputError(f"device {twice[0]!r} is named twice", fix="name each device once")
    settings = effort_settings(effort)
    with ExitStack() as stack:
        groups = _reach(profiles, folder, stack, progress, opener)
        for group in groups:
            dtype = group.lead.device.profile.dtype
            kernels = kernels_of(spaces, dtype)
            known = _known_tables(group, folder)
            fusion = _fusion(group, known, progress)
            samples = random_networks(spaces, dtype, networks, pool, seed, fusion)
            _fill(group, kernels, samples, settings, known)
        _drive(groups, settings, progress)
        answers = [_result(group, folder) for group in groups]
    for group in groups:
        if group.done < group.total:
            lost = "; ".join(f"{m.device.profile.id}: {m.lost}" for m in group.members if m.lost)
            raise InputError(
                f"{group.total - group.done} of {group.total} rows are not measured: every device "
                f"equal to {group.lead.device.profile.id!r} is lost",
                why=lost,
                fix="reach one of them again and run the same command, it goes on",
            )
    return answers


def _reach(
    profiles: Sequence[DeviceProfile],
    folder: Path,
    stack: ExitStack,
    progress: Progress,
    opener: Callable[[DeviceProfile], Device],
) -> list[Group]:
    """The devices that answer, grouped by fingerprint, each with its own table open."""
    groups: dict[str, Group] = {}
    trouble = []
    for profile in profiles:
        try:
            device = stack.enter_context(opener(profile))
            describe = device.describe()
        except FactoryError as error:
            trouble.append(str(error))
            progress.message(f"{profile.id} takes no part: {error}")
            continue
        path = folder / "farm" / table_name(describe)
        table = stack.enter_context(LatencyTable.open(path, profile, describe))
        key = json.dumps(describe["fingerprint"], sort_keys=True)
        groups.setdefault(key, Group([])).members.append(Member(device, describe, table))
    if not groups:
        raise InputError("no device of the farm can be reached", why=" ".join(trouble))
    return list(groups.values())


def _known_tables(group: Group, folder: Path) -> list[LatencyTable]:
    """What the group's devices measured, and what was merged before."""
    merged = folder / table_name(group.lead.describe)
    tables = [member.table for member in group.members]
    return [*tables, LatencyTable.read(merged)] if merged.exists() else tables


def _fusion(group: Group, known: Sequence[LatencyTable], progress: Progress) -> FusionRules:
    """The rules by which a group's networks are counted, settled in each of its tables.

    Found before, or else on the first device that finishes the tests; a group that has networks
    already keeps what they were counted by.
    """
    settled = next(filter(None, map(settled_row, known)), None)
    if settled is None and not any(table.rows("network") for table in known):
        for member in group.members:
            try:
                measure_fusion(member.device, member.table, progress)
            except Exception as error:  # it is told lost when its first block fails
                progress.message(f"{member.device.profile.id} was not tested for fusion: {error}")
                continue
            settled = settled_row(member.table)
            break
    for member in group.members:
        if settled is not None and settled_row(member.table) is None:
            member.table.append(settled)
    return fusion_rules(group.lead.table)


def _fill(
    group: Group,
    kernels: Sequence[Kernel],
    networks: Sequence[Network],
    settings: ProfileSettings,
    known: Sequence[LatencyTable],
) -> None:
    """Put into the queue what no table of the group holds yet, in blocks, in a fixed order."""
    items = [Item("kernel", str(kernel), kernel=kernel) for kernel in kernels]
    random.Random(ORDER_SEED).shuffle(items)
    whole = {network_key(model): (counts, model) for counts, model in networks}
    others = [Item("network", key, network=network) for key, network in whole.items()]
    group.total = len(items) + len(others)
    for kind, size in ((items, settings.block_size), (others, settings.network_block_size)):
        todo = [item for item in kind if not any(table.get(item.kind, item.key) for table in known)]
        group.pending += [todo[start : start + size] for start in range(0, len(todo), size)]
    group.done = group.total - sum(map(len, group.pending))


def _drive(groups: Sequence[Group], settings: ProfileSettings, progress: Progress) -> None:
    """A thread a device until every queue is empty; the interrupt of a person ends them all."""
    stop = threading.Event()
    turns: dict[str, Turns] = {}
    threads = []
    for group in groups:
        for member in group.members:
            machine = member.describe.get("machine") or member.device.profile.id
            turn = turns.setdefault(machine, Turns())
            arguments = (group, member, settings, turn, stop)
            threads.append(threading.Thread(target=_work, args=arguments, daemon=True))
    total, done = sum(g.total for g in groups), sum(g.done for g in groups)
    told: set[str] = set()
    with progress.task("profile the farm", total=total, done=done) as task:
        for thread in threads:
            thread.start()
        try:
            alive = True
            while alive:
                stop.wait(LOOK_EVERY_S)
                alive = any(thread.is_alive() for thread in threads)
                now = sum(group.done for group in groups)
                task.advance(now - done)
                done = now
                _tell_lost(groups, told, progress)
        finally:
            stop.set()
            for thread in threads:
                thread.join(10.0)


def _tell_lost(groups: Sequence[Group], told: set[str], progress: Progress) -> None:
    """Say once of each device that it is lost."""
    for member in (member for group in groups for member in group.members):
        name = member.device.profile.id
        if member.lost and name not in told:
            told.add(name)
            progress.message(f"{name} is lost, its work goes to others: {member.lost}")


def _work(
    group: Group, member: Member, settings: ProfileSettings, turn: Turns, stop: threading.Event
) -> None:
    """One device: block after block, until there is none or the device is lost."""
    while (block := group.next(stop)) is not None:
        try:
            with turn:
                if not stop.is_set():
                    _measure(member, block, settings)
        except Exception as error:  # whatever it is, the others go on
            member.lost = str(error) or type(error).__name__
        left = [item for item in block if member.table.get(item.kind, item.key) is None]
        rows = [member.table.get(item.kind, item.key) for item in block]
        measured = [row for row in rows if row is not None]
        member.measured += len(measured)
        member.failed += sum(not row.ok for row in measured)
        group.finished(len(measured), left)
        if member.lost:
            return


def _measure(member: Member, block: Sequence[Item], settings: ProfileSettings) -> None:
    kernels = [item.kernel for item in block if item.kernel is not None]
    networks = [item.network for item in block if item.network is not None]
    if kernels:
        profile_kernels(member.device, kernels, member.table, settings)
    if networks:
        profile_networks(member.device, networks, member.table, settings)


def _result(group: Group, folder: Path) -> dict[str, Any]:
    """Merge the group's tables; what each device did."""
    path = merge(
        folder,
        group.lead.device.profile,
        group.lead.describe,
        [(member.describe, member.table) for member in group.members],
    )
    return {
        "table": str(path),
        "rows": group.done,
        "of": group.total,
        "devices": [
            {
                "device": member.device.profile.id,
                "transport": member.device.profile.transport,
                "simulated": member.describe["simulated"],
                "measured": member.measured,
                "failed": member.failed,
                "lost": member.lost,
            }
            for member in group.members
        ],
    }
