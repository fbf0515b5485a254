"""Programs for tests: a blocking agent in greenlets, in a forked process, without a file to open."""

import asyncio
import os
import resource
import sys
from typing import TYPE_CHECKING

IN_GREENLETS = {
    "two_greenlets",
    "greenlets_that_share_an_agent",
    "greenlet_that_is_killed",
    "others_run_meanwhile",
    "greenlets_with_generators",
}

if __name__ == "__main__" and sys.argv[1] in IN_GREENLETS:
    from gevent import monkey

    monkey.patch_all()  # before anything else, as gevent asks for

from pathors_agent import Agent, ToolProgressDelta, tool  # noqa: E402
from pathors_agent.errors import ToolLoopError  # noqa: E402
from pathors_agent.testing import ScriptedTransport, calls  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BETWEEN_SECONDS = 0.05
PATIENCE_SECONDS = 15


@tool
async def now() -> str:
    """Tell the time, after a moment."""
    await asyncio.sleep(BETWEEN_SECONDS)
    return "12"


def agent(times: int = 1) -> Agent[str]:
    return Agent(ScriptedTransport(*[calls(("now", {}))] * times, *["Done."] * times), tools=[now])


def spawn(*functions: "Callable[[], object]") -> list[object]:
    import gevent

    jobs = [gevent.spawn(function) for function in functions]
    gevent.joinall(jobs, timeout=PATIENCE_SECONDS)
    return [job.value for job in jobs]


def run_one() -> str:
    return agent().run("Go.").output


def two_greenlets() -> None:
    print(*spawn(run_one, run_one))


def greenlets_that_share_an_agent() -> None:
    shared = agent(3)
    print(*spawn(*[lambda: shared.run("Go.").output] * 3))


def greenlet_that_is_killed() -> None:
    import gevent
    from gevent.event import Event

    begun = Event()

    @tool
    async def hold() -> None:
        """Hold a room."""
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            print("released")

    holding = Agent(ScriptedTransport(calls(("hold", {}))), tools=[hold])
    job = gevent.spawn(holding.run, "Go.")
    assert begun.wait(PATIENCE_SECONDS)
    job.kill()


def others_run_meanwhile() -> None:
    import gevent

    passes: list[int] = []

    def tick() -> None:
        while True:
            passes.append(1)
            gevent.sleep(0)

    other = gevent.spawn(tick)
    run_one()
    other.kill()
    print(len(passes) > 10)


def greenlets_with_generators() -> None:
    @tool
    def count() -> "Iterator[int]":
        """Count."""
        yield from (1, 2, 3)

    def run() -> list[object]:
        counting = Agent(ScriptedTransport(calls(("count", {})), "Done."), tools=[count])
        items = list(counting.stream("Go."))
        return [item.value for item in items if isinstance(item, ToolProgressDelta)]

    print(*spawn(run, run))


def forked() -> None:
    shared = agent(2)
    shared.run("Go.")
    pid = os.fork()
    if pid == 0:
        shared.run("Go.")
        print("Done.", end=" ", flush=True)
        sys.exit()
    os.waitpid(pid, 0)
    print("Done.")


def no_event_loop() -> None:
    made = Agent(ScriptedTransport("Hi.", calls(("now", {}))), tools=[now])
    made.run("Hi.")  # the first run imports modules
    taken = os.open(os.devnull, os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 1, taken + 1))
    try:
        made.run("Go.")
    except ToolLoopError as error:
        print(type(error.__cause__).__name__)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
