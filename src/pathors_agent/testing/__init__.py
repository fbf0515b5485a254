"""Tools for testing code that uses this library: models that play, recordings, checks.

with ScriptedTransport(calls(("add", {"a": 1, "b": 2})), "It is 3.") as model:
    result = Agent(model, tools=[add]).run("What is 1 + 2?")
expect(result).called("add", a=1).with_result(3).then_answered("It is 3.")
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathors_agent.errors import CassetteMiss, CassetteRefused, Difference, ReplayDifference
    from pathors_agent.testing.cassette import AsyncCassette, Cassette
    from pathors_agent.testing.expectations import Expectation, expect, transcript
    from pathors_agent.testing.history_rules import check_history
    from pathors_agent.testing.hostile import (
        AsyncHostileTransport,
        Fault,
        HostileScript,
        HostileTransport,
    )
    from pathors_agent.testing.replaying import replay, replay_async
    from pathors_agent.testing.script import (
        Answer,
        Entry,
        Raw,
        Reply,
        answer,
        calls,
        http_error,
        raw,
    )
    from pathors_agent.testing.scripted_transport import AsyncScriptedTransport, ScriptedTransport
    from pathors_agent.testing.store_check import check_store
    from pathors_agent.testing.strategies import hostile_scripts, tool_arguments
    from pathors_agent.testing.tape import Tape
    from pathors_agent.testing.tool_rules import check_tool
    from pathors_agent.testing.transport_check import check_async_transport, check_transport
    from pathors_agent.transports.scrubbing import Scrub

__all__ = [
    "Answer",
    "AsyncCassette",
    "AsyncHostileTransport",
    "AsyncScriptedTransport",
    "Cassette",
    "CassetteMiss",
    "CassetteRefused",
    "Difference",
    "Entry",
    "Expectation",
    "Fault",
    "HostileScript",
    "HostileTransport",
    "Raw",
    "ReplayDifference",
    "Reply",
    "ScriptedTransport",
    "Scrub",
    "Tape",
    "answer",
    "calls",
    "check_async_transport",
    "check_history",
    "check_store",
    "check_tool",
    "check_transport",
    "expect",
    "hostile_scripts",
    "http_error",
    "raw",
    "replay",
    "replay_async",
    "tool_arguments",
    "transcript",
]

_NAMES_BY_MODULE = {
    "cassette": ("AsyncCassette", "Cassette"),
    "history_rules": ("check_history",),
    "store_check": ("check_store",),
    "tool_rules": ("check_tool",),
    "transport_check": ("check_async_transport", "check_transport"),
    "expectations": ("Expectation", "expect", "transcript"),
    "hostile": ("AsyncHostileTransport", "Fault", "HostileScript", "HostileTransport"),
    "replaying": ("replay", "replay_async"),
    "script": ("Answer", "Entry", "Raw", "Reply", "answer", "calls", "http_error", "raw"),
    "scripted_transport": ("AsyncScriptedTransport", "ScriptedTransport"),
    "strategies": ("hostile_scripts", "tool_arguments"),
    "tape": ("Tape",),
}
_MODULES = {
    name: f"{__name__}.{module}" for module, names in _NAMES_BY_MODULE.items() for name in names
} | dict.fromkeys(
    ("CassetteMiss", "CassetteRefused", "Difference", "ReplayDifference"), "pathors_agent.errors"
)
_MODULES["Scrub"] = "pathors_agent.transports.scrubbing"


if not TYPE_CHECKING:  # a type checker that saw __getattr__ would accept any name

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(
                f"pathors_agent.testing has no public name {name!r};"
                " dir(pathors_agent.testing) lists them"
            )
        value = getattr(import_module(_MODULES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
