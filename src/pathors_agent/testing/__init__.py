"""Tools for testing code that uses this library: scripted models, and checks of transports, stores.

with ScriptedTransport(calls(("add", {"a": 1, "b": 2})), "It is 3.") as model:
    result = Agent(model, tools=[add]).run("What is 1 + 2?")
assert model.requests[1]["messages"][-1]["content"] == "3"
"""

from pathors_agent.testing.check_store import check_store
from pathors_agent.testing.check_transport import check_async_transport, check_transport
from pathors_agent.testing.script import Answer, Entry, Raw, Reply, answer, calls, http_error, raw
from pathors_agent.testing.scripted_transport import AsyncScriptedTransport, ScriptedTransport

__all__ = [
    "Answer",
    "AsyncScriptedTransport",
    "Entry",
    "Raw",
    "Reply",
    "ScriptedTransport",
    "answer",
    "calls",
    "check_async_transport",
    "check_store",
    "check_transport",
    "http_error",
    "raw",
]
