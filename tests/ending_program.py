"""A program for tests: an agent whose tool hangs, in the way that the argument names.

It prints "begun" when the tool runs, and what it has to tell after that. Nothing in it waits for the
tool, so that it has to end by itself, or at Ctrl-C.
"""

import asyncio
import sys
import threading
import time
from typing import Any

import anyio

from pathors_agent import Agent, AsyncAgent, Tool, tool
from pathors_agent.testing import AsyncScriptedTransport, ScriptedTransport, calls

HANG_SECONDS = 600
SHORT = 0.2


def hang() -> str:
    """Hang in a thread."""
    print("begun", flush=True)
    time.sleep(HANG_SECONDS)
    return "late"


@tool(timeout=SHORT)
async def ignore() -> str:
    """Ignore cancellation."""
    print("begun", flush=True)
    while True:
        try:
            await asyncio.sleep(HANG_SECONDS)
        except asyncio.CancelledError:
            continue


@tool
async def leave_a_task() -> str:
    """Leave a task behind."""
    print("begun", flush=True)
    LEFT.append(asyncio.ensure_future(asyncio.sleep(HANG_SECONDS)))
    return "left"


LEFT: list[asyncio.Future[None]] = []


def timed() -> Tool:
    return Tool.from_function(hang, timeout=SHORT)


def agent(given: Any, **settings: Any) -> AsyncAgent[str]:
    name = Tool.from_function(given).name if callable(given) else given.name
    return AsyncAgent(AsyncScriptedTransport(calls((name, {})), "Done."), tools=[given], **settings)


def blocking(given: Any) -> Agent[str]:
    name = given.name if isinstance(given, Tool) else given.__name__
    return Agent(ScriptedTransport(calls((name, {})), "Done."), tools=[given])


def on_asyncio() -> None:
    print(asyncio.run(agent(timed()).run("Go.")).output)


def on_trio() -> None:
    print(anyio.run(agent(timed()).run, "Go.", backend="trio").output)


def in_blocking_code() -> None:
    print(blocking(timed()).run("Go.").output)


def deaf_in_blocking_code() -> None:
    print(blocking(ignore).run("Go.").output)


def left_in_blocking_code() -> None:
    print(blocking(leave_a_task).run("Go.").output)


def left_by_an_agent_that_is_kept() -> None:
    KEPT.append(blocking(leave_a_task))
    print(KEPT[0].run("Go.").output)


KEPT: list[Agent[str]] = []


def cut_off_by_a_deadline() -> None:
    async def main() -> None:
        try:
            await asyncio.wait_for(agent(Tool.from_function(hang)).run("Go."), SHORT)
        except TimeoutError:
            print("Done.")

    asyncio.run(main())


def interrupted() -> None:
    asyncio.run(agent(Tool.from_function(hang)).run("Go."))


def interrupted_blocking_code() -> None:
    blocking(timed_long()).run("Go.")


def timed_long() -> Tool:
    return Tool.from_function(hang, timeout=HANG_SECONDS)


def in_another_thread() -> None:
    thread = threading.Thread(target=on_asyncio)
    thread.start()
    thread.join()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
