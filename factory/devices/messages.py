"""The form of every message that a peer sends: an agent, its clients, a worker, a page, a phone.

Both sides of a wire look at what they get with the forms of this file (wire.py says what a form
is). Part of the device agent: standard library and numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from factory.core.frames import ARRAYS, DTYPES, MOST_BLOBS
from factory.core.wire import (
    Form,
    Wrong,
    anything,
    choice,
    flag,
    line,
    list_of,
    map_of,
    maybe,
    not_as,
    number,
    parse_json,
    table,
    tagged,
    text,
    unless_wrong,
    whole,
    word,
)
from factory.devices.base import Timing, TimingPlan

LONGEST_FACTS = 1 << 20
LONGEST_OUTPUTS = 1 << 29
MOST_MODELS = 256  # of one request
MOST_RUNS = 1_000_000
MOST_TRACED_RUNS = 10_000
LONGEST_MODEL_MS = 600_000.0
MOST_NODES = 100_000

_NAME, _WORD, _SENTENCE = text(1000), word(), line(400)
_SHARE = number(0.0, 1.000001)  # a sum of shares, rounded
_CELSIUS = maybe(number(-100.0, 1000.0))


def _option(value: Any, field: str) -> Any:
    """A value of a provider's options."""
    if isinstance(value, str):
        return text(4000)(value, field)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return whole(-(2**53))(value, field)
    return number(-1e300, 1e300)(value, field)


_OPTIONS = map_of(_option, most=64)

# -- what is measured -------------------------------------------------------------------------

_NODE = table({"name": _NAME, "op": _WORD, "provider": _WORD, "share": _SHARE})
_OF_TYPE: dict[Any, Form] = {"float": number(), "int": whole(), "str": _WORD, "bool": flag}
_OF_TIMING: dict[str, Form] = {
    "reason": _SENTENCE,
    "median_ms": number(above=True),
    "runs": whole(1),
    "reorder_share": _SHARE,
    "nodes": list_of(_NODE, MOST_NODES),
    "providers": maybe(map_of(whole(), most=100)),
    "optimised": text(1 << 25),
}
_OK = ("median_ms", "p10_ms", "p90_ms", "min_ms", "runs")
_TIMING_FIELDS: dict[str, Form] = {
    entry.name: _OF_TIMING.get(entry.name) or _OF_TYPE.get(entry.type, anything())
    for entry in fields(Timing)
    if entry.name != "status"
}
_TIMING = tagged(
    "status",
    {
        "ok": table({name: _TIMING_FIELDS[name] for name in _OK}, _TIMING_FIELDS),
        "failed": table({"reason": _SENTENCE}),
    },
)
TIMINGS = list_of(_TIMING, MOST_MODELS * 16)


def timings(told: Sequence[Mapping[str, Any]], models: int) -> list[Timing]:
    """The timings of ``models`` models that TIMINGS let pass; Wrong where they are others."""
    if len(told) != models:
        raise Wrong(f"timings holds {len(told)} for {models} models")
    return [
        Timing.from_dict(one) if one["status"] == "ok" else Timing.failed(one["reason"])
        for one in told
    ]


_NODE_EVENT = table(
    {
        "cat": _WORD,
        "name": text(1100),
        "dur": number(0.0, 1e12),
        "args": table({}, {"op_name": _WORD, "provider": _WORD}),
    }
)


def node_events(value: Any, field: str) -> list[dict[str, Any]]:
    """The events of a runtime's trace that tell how long a node took, those of others left out."""
    if not isinstance(value, list):
        raise Wrong(f"{field} is no list of events")
    return [
        _NODE_EVENT(event, f"{field}[{index}]")
        for index, event in enumerate(value)
        if not isinstance(event, dict) or event.get("cat") == "Node"
    ]


def check_trace(events: Sequence[Mapping[str, Any]], runs: int) -> None:
    """Raise Wrong where ``events`` name far more nodes than ``runs`` runs of them can have made."""
    nodes = len({(event["name"], *event["args"].values()) for event in events})
    if nodes * runs > 16 * len(events) + 1000:
        raise Wrong(f"a trace of {runs} runs has {len(events)} events of {nodes} nodes")


# -- a device agent ---------------------------------------------------------------------------

_CORE = table({"core": whole(0, 1 << 16)}, more="keep")
_PROVIDERS = list_of(_WORD, most=100)
_MACHINE = {
    "chip": word(least=1),
    "cpu": line(200),
    "board": maybe(line(200)),
    "machine": maybe(_WORD),
    "cores": list_of(_CORE, most=4096),
    "memory_mb": table({"total": maybe(whole()), "available": maybe(whole())}),
    "temperature_c": _CELSIUS,
    "load_1min": maybe(number()),
    "runtime_version": _WORD,
    "providers": _PROVIDERS,
}
_HELLO = {"protocol": whole(), "instance": _WORD}
AGENT_HELLO = table(_HELLO)
AGENT_FACTS = table({**_HELLO, **_MACHINE}, more="keep")
FINGERPRINT = table(
    {
        "chip": word(least=1),
        "runtime": _WORD,
        "runtime_version": _WORD,
        "execution_provider": _WORD,
        "provider_options": _OPTIONS,
        "threads": whole(1, 4096),
        "precision": choice("fp32", "int8"),
    },
    more="keep",
)
_DESCRIBE = {
    "simulated": flag,
    "fingerprint": FINGERPRINT,
    "pinned": flag,
    "load_1min": maybe(number()),
    "empty_run_ms": number(),
    "notes": list_of(_SENTENCE, most=100),
}
DESCRIBE = table(_DESCRIBE, more="keep")
AGENT_EVENT = tagged(
    "event",
    {
        "hello": AGENT_HELLO,
        "tick": table({}),
        "wait": table({}),
        "error": table({"what": line(200)}, {"why": line(300), "fix": line(200)}),
        "described": table(
            {"describe": table({**_DESCRIBE, "agent": table(_MACHINE, more="keep")}, more="keep")}
        ),
        "timings": table({"timings": TIMINGS}),
        "outputs": table(
            {"arrays": ARRAYS, "sizes": list_of(whole(0, LONGEST_OUTPUTS), most=MOST_BLOBS)}
        ),
    },
)
LAST_EVENT = {"describe": "described", "time": "timings", "run": "outputs"}
AGENT_REFUSAL = table({"error": line(300)})


def _plan_field(name: str, kind: Any) -> Form:
    if name == "profile_runs":
        return whole(0, MOST_TRACED_RUNS)
    of_type: dict[Any, Form] = {"int": whole(0, MOST_RUNS), "float": number(0.0, LONGEST_MODEL_MS)}
    return of_type.get(kind) or _OF_TYPE.get(kind, anything())


def _threads(value: Any, field: str) -> int | str:
    if value == "all" or (type(value) is int and 1 <= value <= 1024):
        return value
    raise not_as(field, value, "a whole number from 1 to 1024 or 'all'")


_CONFIG = table(
    {
        "execution_provider": word(least=1),
        "provider_options": _OPTIONS,
        "threads": _threads,
        "pin": flag,
        "timeout_s": number(0.0, 3600.0, above=True),
        "precision": choice("fp32", "int8"),
    },
    more="refuse",
)
_PLAN = table({}, {e.name: _plan_field(e.name, e.type) for e in fields(TimingPlan)}, more="refuse")
AGENT_REQUEST = tagged(
    "command",
    {
        "describe": table({"config": _CONFIG}),
        "time": table({"config": _CONFIG, "plan": _PLAN}, {"rounds": whole(1, 1000)}),
        "run": table({"config": _CONFIG, "arrays": ARRAYS}, {"batch": flag}),
    },
)

# -- a worker ---------------------------------------------------------------------------------

_PLACED_NODE = table({"name": _NAME, "op": _WORD, "provider": _WORD})
_BYTES = maybe(whole())
WORKER_REPLY = tagged(
    "reply",
    {
        "tick": table({"index": whole(-1, 1 << 32), "phase": line(60)}),
        "error": table({"reason": _SENTENCE}),
        "configured": table(
            {"runtime_version": _WORD, "providers": _PROVIDERS, "pin_note": _SENTENCE}
        ),
        "timings": table({"timings": TIMINGS}),
        "outputs": table({"arrays": ARRAYS}),
        "started": table(
            {
                "session_ms": number(),
                "first_run_ms": number(),
                "cold_start_ms": number(),
                "peak_memory_bytes": _BYTES,
                "runtime_memory_bytes": _BYTES,
            }
        ),
        "placed": table(
            {
                "nodes": list_of(_PLACED_NODE, MOST_NODES),
                "partitions": map_of(whole(), most=100),
                "failure": _SENTENCE,
                "log": anything(),
            }
        ),
        "compiled": table({}),
    },
)
REPLY_TO = {
    "configure": "configured",
    "time": "timings",
    "run": "outputs",
    "run_batch": "outputs",
    "start_up": "started",
    "place": "placed",
    "compile": "compiled",
}


def worker_reply(request: Mapping[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """A worker's reply to a request; Wrong where it is none, or one to another command."""
    reply: dict[str, Any] = WORKER_REPLY(told, "")
    if reply["reply"] not in ("tick", "error", REPLY_TO[request["command"]]):
        raise Wrong(repr(reply["reply"]))
    return reply


# -- a page -----------------------------------------------------------------------------------

_SHOWN = unless_wrong(line(60))
_YES = unless_wrong(flag)
_BRAND = table({}, {"brand": _SHOWN, "version": _SHOWN})
_HINTS = ("model", "platform", "platformVersion", "architecture", "bitness")
_GPU = {"vendor": _SHOWN, "architecture": _SHOWN, "description": _SHOWN, "software": _YES}
PAGE_FACTS = table(  # a browser that is odd in one of them can still measure
    {},
    {
        "user_agent": unless_wrong(line(400)),
        "hints": unless_wrong(
            table(
                {},
                {
                    **dict.fromkeys(_HINTS, _SHOWN),
                    "mobile": _YES,
                    "fullVersionList": unless_wrong(list_of(_BRAND, most=20)),
                },
            )
        ),
        "cores": unless_wrong(whole(1, 4096)),
        "memory_gb": unless_wrong(number()),
        "isolated": _YES,
        "secure": _YES,
        "simd": _YES,
        "relaxed_simd": _YES,
        "shared_memory": _YES,
        "webgpu": unless_wrong(table({}, _GPU)),
        "webnn": _YES,
        "tick_ms": unless_wrong(number()),
        "touch": unless_wrong(whole()),
    },
)
PAGE_HELLO = table({}, {"token": _WORD, "facts": PAGE_FACTS})
PAGE_TICK = table({"index": whole(-1, 1 << 32), "phase": line(60)})
_PAGE_TIME = number(0.0, 1e9, above=True)
PAGE_RESULT = tagged(
    "status",
    {
        "ok": table(
            {
                **dict.fromkeys(("median_ms", "p10_ms", "p90_ms", "min_ms"), _PAGE_TIME),
                "runs": whole(1, 10**9),
            },
            {
                "session_ms": unless_wrong(number()),
                "mean_ms": unless_wrong(number()),
                "events": node_events,
                "traced_runs": whole(1, MOST_TRACED_RUNS),
            },
        ),
        "failed": table({"reason": _SENTENCE}),
    },
)
PAGE_REPLY = tagged(
    "reply", {"outputs": table({"arrays": ARRAYS}), "error": table({"reason": _SENTENCE})}
)

# -- a phone ----------------------------------------------------------------------------------

RUNNER_VERSION = table({"runtime_version": _WORD, "providers": _PROVIDERS})
RUNNER_HEAD = table({"pin_note": _SENTENCE})
_FILE = text(200)
_WRITTEN = table(
    {
        "name": _NAME,
        "file": _FILE,
        "dtype": choice(*DTYPES),
        "shape": list_of(whole(0, 2**31), most=32),
    }
)
_RUNNER_FAILED = table({"index": whole(), "reason": _SENTENCE})
RUNNER_TIMED = tagged(
    "status",
    {
        "ok": table(
            {
                "index": whole(),
                "session_ms": number(),
                "samples_ns": list_of(whole(0, 10**15), most=MOST_RUNS * 2, least=1),
            },
            {"trace": _FILE, "optimised": _FILE},
        ),
        "failed": _RUNNER_FAILED,
    },
)
RUNNER_RAN = tagged(
    "status",
    {
        "ok": table({"index": whole(), "outputs": list_of(_WRITTEN, most=1000)}, {"joined": flag}),
        "failed": _RUNNER_FAILED,
    },
)
PHONE_FACTS = table(
    {
        "chip": line(300),
        "cores": list_of(
            table(
                {
                    "core": whole(0, 4096),
                    "part": maybe(line(40)),
                    "max_mhz": maybe(whole()),
                    "governor": maybe(line(40)),
                }
            ),
            most=1024,
        ),
        "memory_mb": maybe(whole()),
        "thermal_c": _CELSIUS,
        "battery_percent": maybe(whole()),
        "battery_c": maybe(number(-1000.0, 1000.0)),
    },
    more="keep",
)


def read(content: bytes, form: Form, longest: int = LONGEST_FACTS) -> Any:
    """The message in a JSON text; Wrong names what is not as ``form`` wants it."""
    return form(parse_json(content, longest), "")
