"""Tools for testing code that uses this library: scripted models, recordings, checks.

with ScriptedTransport(calls(("add", {"a": 1, "b": 2})), "It is 3.") as model:
    result = Agent(model, tools=[add]).run("What is 1 + 2?")
expect(result).called("add", a=1).with_result(3).then_answered("It is 3.")
"""

from typing import TYPE_CHECKING

from pathors_agent.lazy_names import lazy_names

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
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "errors": ("CassetteMiss", "CassetteRefused", "Difference", "ReplayDifference"),
            "testing.cassette": ("AsyncCassette", "Cassette"),
            "testing.expectations": ("Expectation", "expect", "transcript"),
            "testing.history_rules": ("check_history",),
            "testing.hostile": (
                "AsyncHostileTransport",
                "Fault",
                "HostileScript",
                "HostileTransport",
            ),
            "testing.replaying": ("replay", "replay_async"),
            "testing.script": (
                "Answer",
                "Entry",
                "Raw",
                "Reply",
                "answer",
                "calls",
                "http_error",
                "raw",
            ),
            "testing.scripted_transport": ("AsyncScriptedTransport", "ScriptedTransport"),
            "testing.store_check": ("check_store",),
            "testing.strategies": ("hostile_scripts", "tool_arguments"),
            "testing.tape": ("Tape",),
            "testing.tool_rules": ("check_tool",),
            "testing.transport_check": ("check_async_transport", "check_transport"),
            "transports.scrubbing": ("Scrub",),
        },
    )

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
