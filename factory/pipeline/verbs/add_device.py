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


def add_device(
    address: str,
    *,
    id: str | None = None,
    token: str | None = None,
    ca: str | None = None,
    threads: str = "1",
    precision: str = "fp32",
    execution_provider: str = "CPUExecutionProvider",
    tier: str = "",
    replace: bool = False,
) -> dict[str, Any]:
    """Ask the chip at ``address`` what it is and write its profile; the token is kept apart.

    Args:
        address: http://host:port or https://host:port of a device agent.
        id: id of the profile; made from the chip's name by default.
        token: the agent's token, kept in a private file of the user, never in the profile.
        ca: PEM file with the certificate to trust.
        threads: number of threads, or "all".
        precision: "fp32" or "int8".
        execution_provider: must be among those that the chip has.
        tier: the product tier that the chip stands for.
        replace: overwrite a profile of that id.
    """
    from factory.devices.agent import AgentDevice
    from factory.devices.agent_token import check_token, save_token, token_path

    url = address.rstrip("/")
    agent: dict[str, Any] = {"url": url, "patience_s": 0.0}
    if ca:
        agent["ca_file"] = str(Path(ca).resolve())
    fields: dict[str, Any] = {
        "id": id or "new",
        "transport": "agent",
        "execution_provider": execution_provider,
        "threads": int(threads) if threads.isdigit() else threads,
        "precision": precision,
        "tier": tier,
        "agent": agent,
    }
    where = "the options of `factory devices add`"
    asked = validate(DeviceProfile, fields, where=where)
    facts = AgentDevice(asked, token=check_token(token or "")).client.facts()
    if execution_provider not in facts["providers"]:
        raise InputError(
            f"the onnxruntime at {url} has no {execution_provider}",
            why="available: " + ", ".join(facts["providers"]),
            fix="name one of these with --provider",
        )
    suffix = f"t{threads}" if threads.isdigit() else threads
    name = id or f"{_slug(facts['board'] or facts['cpu'])}-{suffix}-{precision}"
    known = list_profiles().get(name)
    path = user_home() / "device_profiles" / f"{name}.toml"
    if known is not None and not replace:
        raise InputError(
            f"there is a device {name!r} already",
            where=str(known),
            fix="choose another name with --id, or add --replace",
        )
    del agent["patience_s"]
    fields.update(id=name, chip=facts["chip"])
    profile = validate(DeviceProfile, fields, where=where)
    write_atomic_text(path, profile_text(profile, facts))
    if token:
        save_token(name, token)
    return {
        "schema_version": SCHEMA_VERSION,
        "device": name,
        "path": str(path),
        "token_path": str(token_path(name)) if token else None,
        "facts": facts,
    }


def profile_text(profile: DeviceProfile, facts: dict[str, Any]) -> str:
    """The TOML file of a profile: what differs from the defaults, with what the chip said."""
    seen = f"{facts.get('board') or 'unknown board'}, {facts['cpu']}, {len(facts['cores'])} cores"
    lines = [f"# {_plain(seen)}, {_plain(facts['system'])}.", "schema_version = 1"]
    for key, value in profile.model_dump(exclude_defaults=True).items():
        if not isinstance(value, dict) and key != "schema_version":
            lines.append(f"{key} = {_toml(value)}")
    for key, value in profile.model_dump(exclude_defaults=True).items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]", *(f"{name} = {_toml(v)}" for name, v in value.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text) + '"'


def _plain(text: str) -> str:
    """What a chip said, on one line of a comment."""
    return "".join(c if c.isprintable() else " " for c in text)[:200]


def _slug(text: str) -> str:
    """A name as part of an id: the first words, letters and digits."""
    words = re.findall(r"[a-z0-9]+", text.lower().split(" with ")[0])
    return "-".join(words[:4])[:40] or "board"
