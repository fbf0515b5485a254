"""A program that uses a store: what it does is its first argument, the store's URL the second.

It says when it is ready, and its last line is what came of it, as JSON.
"""

import asyncio
import json
import resource
import sys
from collections.abc import Awaitable, Callable

import anyio

from pathors_agent.errors import SessionConflict, SessionNotFound, StoreError
from pathors_agent.messages import AssistantMessage, UserMessage
from pathors_agent.stores import Lease, Session, SQLStore

PROJECT, SESSION = "project", "session"


def say(value: object) -> None:
    print(json.dumps(value), flush=True)


async def seen_by(store: SQLStore) -> Session | None:
    try:
        return await store.session(PROJECT, SESSION)
    except SessionNotFound:
        return None


async def wait_for_lease(store: SQLStore, holder: str, seconds: float) -> Lease:
    while True:
        lease = await store.take_lease(PROJECT, SESSION, holder=holder, seconds=seconds)
        if lease is not None:
            return lease
        await asyncio.sleep(0.002)


async def save_turns(store: SQLStore, name: str) -> list[str]:
    """Save some turns; every third outlives its lease, and is stored only if no other writer came."""
    saved = []
    for number in range(5):
        turn = f"{name}-{number}"
        late = number % 3 == 1
        lease = await wait_for_lease(store, turn, 0.001 if late else 30)
        seen = await seen_by(store)
        await asyncio.sleep(0.02 if late else 0)
        try:
            messages = (UserMessage(content=turn), AssistantMessage(content=turn))
            await store.save_turn(lease, messages, seen=seen)
            saved.append(turn)
        except SessionConflict:
            pass
        await store.drop_lease(lease)
    return saved


async def five_writers(url: str, name: str) -> None:
    """Let five tasks save turns to one session."""
    async with SQLStore(url) as store:
        say("ready")
        saved = await asyncio.gather(*(save_turns(store, f"{name}-{task}") for task in range(5)))
        say([turn for turns in saved for turn in turns])


async def holder(url: str, seconds: str) -> None:
    """Keep a lease up until killed."""
    async with SQLStore(url) as store:
        lease = await wait_for_lease(store, "holder", float(seconds))
        say("ready")
        while await store.keep_lease(lease, seconds=float(seconds)):  # noqa: ASYNC110
            await asyncio.sleep(float(seconds) / 5)


async def big_turns(url: str, _: str) -> None:
    """Save turns of a hundred messages until killed."""
    async with SQLStore(url) as store:
        lease = await wait_for_lease(store, "holder", 30)
        seen = None
        while True:
            seen = await store.save_turn(lease, [UserMessage(content="x" * 500)] * 100, seen=seen)
            say("ready")


async def opener(url: str, _: str) -> None:
    """Open a store when told to."""
    say("ready")
    await anyio.to_thread.run_sync(sys.stdin.readline)
    async with SQLStore(url) as store:
        await store.check()
        say("opened")


async def small_disk(url: str, size: str) -> None:
    """Save turns to files that may not grow beyond a size, until it fails."""
    async with SQLStore(url) as store:
        lease = await wait_for_lease(store, "holder", 30)
        seen = await store.save_turn(lease, [UserMessage(content="kept")], seen=None)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
        try:
            for _ in range(100):
                seen = await store.save_turn(lease, [UserMessage(content="y" * 100_000)], seen=seen)
        except StoreError as error:
            say([str(error), seen.revision])


PROGRAMS: dict[str, Callable[[str, str], Awaitable[None]]] = {
    each.__name__: each for each in (five_writers, holder, big_turns, opener, small_disk)
}


async def main(program: str, url: str, option: str) -> None:
    await PROGRAMS[program](url, option)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
