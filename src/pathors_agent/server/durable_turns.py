"""Turns that outlive their server: each is a workflow, which others take up from its notes.

The workflow says that a turn is to be carried out, and by whom; what of it is done already says
the turn's journal in the store, and who may write says the session's lease.
"""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict
from functools import partial
from types import TracebackType
from typing import Self

import anyio
from dbos import DBOSClient

from pathors_agent.durable import engine
from pathors_agent.durable.claims import Source
from pathors_agent.durable.journal import Journal
from pathors_agent.durable.records import Fields, write_failure
from pathors_agent.durable.tables import Tables
from pathors_agent.durable.worker import HEARTBEAT, Heartbeat, Worker, worker_name
from pathors_agent.errors import AgentError, StoreError
from pathors_agent.server.answer import Answer
from pathors_agent.server.body import parse_object
from pathors_agent.server.completion_request import read_request
from pathors_agent.server.failures import log_failed_turn
from pathors_agent.server.keys import Caller
from pathors_agent.server.problems import Problem
from pathors_agent.server.project import Project
from pathors_agent.server.turn import KEPT_PER_LEASE, Beginning, Perform, Shared, Turn, Writer
from pathors_agent.server.writers import unread_writer
from pathors_agent.stores.base import RequestId
from pathors_agent.telemetry.spans import continued, current_headers

# Not among the runs of agents, whose names begin with another word.
WORKFLOW = "pathors-agent-turn"
QUEUE = "pathors-agent-turns"
# What a turn is stored as; servers of another version leave it alone.
VERSION = "turns-3"

# Turns that a dead server left, taken up at once by each other one.
_CONCURRENCY = 20
_POLL_SECONDS = 0.5
# How often what has ended is cleared away, and how much of it at once.
_CLEAR_SECONDS = 5.0
_CLEARED_AT_ONCE = 500


class DurableTurns:
    """Carries out the turns of a server, and those that dead servers left; a context manager."""

    def __init__(
        self,
        database: str,
        projects: Mapping[str, Project],
        shared: Shared,
        heartbeat: Heartbeat = HEARTBEAT,
    ) -> None:
        self._database = database
        self._projects = projects
        self._heartbeat = heartbeat
        self._opened = AsyncExitStack()
        self._here: dict[str, Perform] = {}
        self._outcomes: dict[str, Answer | BaseException] = {}
        self._shared = shared
        self._one_check = anyio.CapacityLimiter(1)
        self._worker: Worker | None = None

    async def __aenter__(self) -> Self:
        client = await asyncio.to_thread(engine.connect, self._database)
        self._opened.callback(client.destroy)
        try:
            tables = Tables(engine.sql(client))
            await asyncio.to_thread(tables.prepare)
            writing = await asyncio.to_thread(engine.connect_worker, self._database)
            self._opened.callback(writing.destroy)
            self._worker = Worker(
                self._carry_out,
                client=writing,
                tables=Tables(engine.sql(writing)),
                name=worker_name(),
                source=Source(queue=QUEUE, workflow=WORKFLOW, version=VERSION, agent=None),
                heartbeat=self._heartbeat,
            )
            self._opened.push_async_callback(self._worker.stop, seconds=0)
            await self._worker.start(concurrency=_CONCURRENCY, poll=_POLL_SECONDS)
        except BaseException:
            await self._opened.aclose()
            raise
        clearing = asyncio.create_task(_clear_for_ever(client))
        self._opened.callback(clearing.cancel)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._opened.aclose()

    async def check(self) -> None:
        """Raise `StoreError` unless a turn could be stored in the database of runs now."""
        check = partial(engine.check_writable, self._database)
        try:
            with anyio.fail_after(2 * engine.CHECK_SECONDS):  # to connect, and to write
                await anyio.to_thread.run_sync(
                    check, limiter=self._one_check, abandon_on_cancel=True
                )
        except TimeoutError:
            raise StoreError("The database of durable runs does not answer in time.") from None

    async def run(self, turn: Turn, writer: Writer) -> None:
        """Run a turn, as a workflow from the time when it holds its session; raise what it raises."""
        turn.make_durable()
        await turn.run(writer, self._carry)

    async def _carry(self, turn: Turn, beginning: Beginning, perform: Perform) -> Answer:
        assert self._worker is not None
        name = f"turn-{turn.head.id}"
        self._here[name] = perform
        try:
            await self._worker.run_here(name, _written(turn, beginning))
            outcome = self._outcomes[name]
        finally:
            self._here.pop(name, None)
            self._outcomes.pop(name, None)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def _carry_out(self, journal: Journal, fields: Fields) -> Fields:
        name = journal.segment
        perform = self._here.pop(name, None)
        try:
            if perform is not None:
                self._outcomes[name] = await perform()
            else:
                await self._take_up(fields)
        except (anyio.get_cancelled_exc_class(), GeneratorExit):
            raise  # this server ends; another goes on
        except BaseException as error:  # noqa: BLE001  (recorded; raised for the client, where one waits)
            if perform is not None:
                self._outcomes[name] = error
            else:
                _log_failure(error, fields)
            return {"status": "failed", "failure": _failure(error)}
        return {"status": "finished"}

    async def _take_up(self, fields: Fields) -> None:
        turn = self._read(fields)
        turn.make_durable(Beginning(**fields["beginning"]))
        keeping, writer = asyncio.create_task(_keep(turn)), unread_writer(turn)
        try:
            await turn.run(writer)
        finally:
            keeping.cancel()
            writer.close()

    def _read(self, fields: Fields) -> Turn:
        project = self._projects.get(fields["project"])
        if project is None:
            raise Problem(404, f"The project {fields['project']} is not served any more")
        settings, body = self._shared.settings, fields["body"].encode()
        return Turn(
            shared=self._shared,
            project=project,
            request=read_request(parse_object(body, settings), fields["session_header"], settings),
            session_id=fields["session_id"],
            caller=Caller(**fields["caller"]),
            body_digest=fields["body_digest"],
            request_id=RequestId(**fields["request_id"]),
            said=(body, fields["session_header"]),
            headers=fields["trace"],
        )


def _written(turn: Turn, beginning: Beginning) -> Fields:
    body, session_header = turn.said
    with continued(turn.headers):
        trace = current_headers()
    assert turn.request_id is not None
    request = turn.request_id
    return {
        "project": turn.project.id,
        "session_id": turn.session_id,
        "session_header": session_header,
        "caller": asdict(turn.caller),
        "body": body.decode(),
        "trace": trace,
        "body_digest": turn.body_digest,
        "request_id": {
            "project": request.project,
            "api_key": request.api_key,
            "name": request.name,
        },
        "beginning": asdict(beginning),
    }


def _log_failure(error: BaseException, fields: Fields) -> None:
    """Log why a turn failed that was taken over; its client is told when it asks again."""
    body = fields["body"]  # the conversation as the client sent it
    log_failed_turn(
        error,
        project=fields["project"],
        session=fields["session_id"],
        status=500,
        contents=[body, *(message.text for message in getattr(error, "messages", ()))],
    )


def _failure(error: BaseException) -> Fields:
    """Write what a turn stopped at; the text of a bug may hold what users wrote."""
    if isinstance(error, AgentError | Problem):
        return write_failure(error)
    return {"kind": type(error).__name__, "text": "", "retryable": False, "status": None}


async def _keep(turn: Turn) -> None:
    while True:
        await anyio.sleep(turn.shared.settings.lease_seconds / KEPT_PER_LEASE)
        await turn.keep()


async def _clear_for_ever(client: DBOSClient) -> None:
    """Delete turns that ended: what was said is in the store, and goes with its session."""
    while True:
        await asyncio.sleep(_CLEAR_SECONDS)
        with suppress(Exception):  # a database that is away comes back
            await _clear(client)


async def _clear(client: DBOSClient) -> None:
    rows = await client.list_workflows_async(
        name=WORKFLOW,
        status=["SUCCESS", "ERROR", "CANCELLED"],
        limit=_CLEARED_AT_ONCE,
        load_input=False,
        load_output=False,
    )
    if rows:
        await client.delete_workflows_async([row.workflow_id for row in rows])
