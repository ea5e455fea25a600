"""add_device: a profile for the chip behind a device agent, or for an Android phone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from factory.core.errors import InputError
from factory.core.files import write_atomic_text
from factory.core.resources import user_home
from factory.core.validation import validate
from factory.devices.profile import DeviceProfile, list_profiles

SCHEMA_VERSION = 1
WHERE = "the options of `factory devices add`"


def add_device(
    address: str,
    *,
    id: str | None = None,
    token: str | None = None,
    ca: str | None = None,
    runner: str | None = None,
    libraries: tuple[str, ...] = (),
    threads: str = "1",
    precision: str = "fp32",
    execution_provider: str = "CPUExecutionProvider",
    tier: str = "",
    replace: bool = False,
) -> dict[str, Any]:
    """Ask the chip at ``address`` what it is and write its profile; the token is kept apart.

    Args:
        address: http://host:port or https://host:port of a device agent, "adb" for the only
            phone that adb sees, or "adb:SERIAL".
        id: id of the profile; made from the chip's name by default.
        token: the agent's token, kept in a private file of the user, never in the profile.
        ca: PEM file with the certificate of the agent to trust.
        runner: program for the phone.
        libraries: files that go beside it on the phone.
        threads: number of threads, or "all".
        precision: "fp32" or "int8".
        execution_provider: must be among those that the chip has.
        tier: the product tier that the chip stands for.
        replace: overwrite a profile of that id.
    """
    from factory.devices.agent_token import save_token, token_path

    fields: dict[str, Any] = {
        "execution_provider": execution_provider,
        "threads": int(threads) if threads.isdigit() else threads,
        "precision": precision,
        "tier": tier,
    }
    if address == "adb" or address.startswith("adb:"):
        facts, seen = _ask_phone(fields, address.removeprefix("adb").removeprefix(":"))
        for name, value in (("runner", runner), ("libraries", list(libraries))):
            if value:
                fields["adb"][name] = _absolute(value)
        token = None
    else:
        facts, seen = _ask_agent(fields, address, token, ca)
    suffix = f"t{threads}" if threads.isdigit() else threads
    name = id or f"{_slug(seen)}-{suffix}-{precision}"
    known = list_profiles().get(name)
    path = user_home() / "device_profiles" / f"{name}.toml"
    if known is not None and not replace:
        raise InputError(
            f"there is a device {name!r} already",
            where=str(known),
            fix="choose another name with --id, or add --replace",
        )
    profile = validate(DeviceProfile, {**fields, "id": name, "chip": facts["chip"]}, where=WHERE)
    missing = "" if profile.adb is None else _missing_runner(profile, facts["abi"], runner)
    write_atomic_text(path, profile_text(profile, f"{seen}, {len(facts['cores'])} cores"))
    if token:
        save_token(name, token)
    return {
        "schema_version": SCHEMA_VERSION,
        "device": name,
        "seen": seen,
        "path": str(path),
        "token_path": str(token_path(name)) if token else None,
        "missing": missing,
        "facts": facts,
    }


def _missing_runner(profile: DeviceProfile, abi: str, given: str | None) -> str:
    """How to get the program that runs on the phone; "" when it is there.

    Raises InputError when the one that was given will not do.
    """
    from factory.devices.adb_link import runner_path
    from factory.devices.adb_options import AdbOptions

    try:
        runner_path(profile.adb or AdbOptions(), profile.id, abi)
    except InputError as error:
        if given:
            raise
        return str(error)
    return ""


def _ask_agent(
    fields: dict[str, Any], address: str, token: str | None, ca: str | None
) -> tuple[dict[str, Any], str]:
    """What the agent says of its machine, and the name to show; fills the [agent] table."""
    from factory.devices.agent import AgentDevice
    from factory.devices.agent_token import check_token

    agent: dict[str, Any] = {"url": address.rstrip("/")}
    if ca:
        agent["ca_file"] = _absolute(ca)
    fields.update(transport="agent", agent=agent)
    at_once = {**fields, "id": "new", "agent": {**agent, "patience_s": 0.0}}
    asked = validate(DeviceProfile, at_once, where=WHERE)
    facts = AgentDevice(asked, token=check_token(token or "")).client.facts()
    if asked.execution_provider not in facts["providers"]:
        raise InputError(
            f"the onnxruntime at {address} has no {asked.execution_provider}",
            why="available: " + ", ".join(facts["providers"]),
            fix="name one of these with --provider",
        )
    return facts, _plain(facts["board"] or facts["cpu"])


def _ask_phone(fields: dict[str, Any], serial: str) -> tuple[dict[str, Any], str]:
    """What the phone says of itself, and the name to show; fills the [adb] table."""
    from factory.devices.adb_client import Adb, PhoneGone, find_phone
    from factory.devices.adb_facts import phone_facts

    phone = find_phone(serial)
    fields.update(transport="adb", adb={"serial": phone.serial})
    validate(DeviceProfile, {**fields, "id": "new"}, where=WHERE)
    try:
        facts = phone_facts(Adb(phone.serial))
    except PhoneGone as gone:
        raise InputError(
            f"phone {phone.serial!r} does not answer",
            why=str(gone),
            fix="connect it again, see `adb devices`",
        ) from None
    return facts, _plain(facts["model"])


def profile_text(profile: DeviceProfile, seen: str) -> str:
    """The TOML file of a profile: what differs from the defaults, with what the chip said."""
    values = profile.model_dump(exclude_defaults=True)
    lines = [f"# {_plain(seen)}.", "schema_version = 1"]
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    lines += [f"{key} = {_toml(value)}" for key, value in values.items() if key not in tables]
    for key, table in tables.items():
        lines += ["", f"[{key}]", *(f"{name} = {_toml(value)}" for name, value in table.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text) + '"'


def _plain(text: str) -> str:
    """What a chip said, on one line."""
    return "".join(c if c.isprintable() else " " for c in text)[:200]


def _slug(text: str) -> str:
    """A name as part of an id: the first words, letters and digits."""
    words = re.findall(r"[a-z0-9]+", text.lower().split(" with ")[0])
    return "-".join(words[:4])[:40] or "board"


def _absolute(value: str | list[str]) -> str | list[str]:
    """Paths that also hold in another working folder."""
    if isinstance(value, list):
        return [str(Path(name).expanduser().resolve()) for name in value]
    return str(Path(value).expanduser().resolve())
