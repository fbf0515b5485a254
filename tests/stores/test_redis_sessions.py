"""The session store of the documentation, with a Redis server."""

import runpy
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

import anyio
import pytest
import redis

from pathors_agent import UserMessage
from pathors_agent.errors import SessionConflict
from pathors_agent.stores import SessionStore
from pathors_agent.testing import check_store

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 60.0
EXAMPLE = Path(__file__).parent.parent.parent / "docs" / "examples" / "redis_sessions.py"


@pytest.fixture(scope="module")
def client() -> Iterator[redis.Redis]:
    """Start a Redis server on a socket in a folder of its own."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    with TemporaryDirectory() as folder:
        path = f"{folder}/redis.sock"
        options = ["--port", "0", "--unixsocket", path, "--save", "", "--dir", folder]
        server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        opened = redis.Redis(unix_socket_path=path)
        try:
            wait_until_it_answers(opened)
            yield opened
        finally:
            opened.close()
            server.terminate()
            server.wait(PATIENCE_SECONDS)


def wait_until_it_answers(client: redis.Redis) -> None:
    end = monotonic() + PATIENCE_SECONDS
    while True:
        try:
            client.ping()
            return
        except redis.ConnectionError:
            if monotonic() >= end:
                raise
        sleep(0.01)


@pytest.fixture
def make(client: redis.Redis) -> Callable[[], SessionStore]:
    kind: Callable[[redis.Redis], SessionStore] = runpy.run_path(str(EXAMPLE))["RedisSessions"]
    return lambda: kind(client)


def test_store_follows_every_rule(make: Callable[[], SessionStore]) -> None:
    anyio.run(check_store, make)


@pytest.mark.anyio
async def test_turns_of_many_tasks_follow_each_other(make: Callable[[], SessionStore]) -> None:
    sessions = make()

    async def say(number: int) -> None:
        async with sessions.open("many", wait=PATIENCE_SECONDS) as conversation:
            said = f"{number} after {len(conversation)}"
            conversation.append(UserMessage(content=said))

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(say, number)
    async with sessions.open("many") as conversation:
        counts = [message.text.split(" after ")[1] for message in conversation.messages]

    assert counts == [str(number) for number in range(10)]
    await anyio.to_thread.run_sync(sessions.delete, "many")


def test_turn_whose_lease_expired_is_refused(
    make: Callable[[], SessionStore], client: redis.Redis
) -> None:
    sessions = make()

    def lose_the_lease() -> None:
        with sessions.open("lost") as conversation:
            client.delete("lease:lost")
            conversation.append(UserMessage(content="late"))

    with pytest.raises(SessionConflict):
        lose_the_lease()

    assert "lost" not in sessions.list()
