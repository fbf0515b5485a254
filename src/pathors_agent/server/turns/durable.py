"""Turns that outlive their server: each is a workflow, which another server can continue.

The workflow records that the turn must be carried out. The turn's journal in the store records its
progress, and the session's lease grants the right to write.
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
from pathors_agent.durable.engine import write_failure
from pathors_agent.durable.journal import StepJournal
from pathors_agent.durable.migration import prepare
from pathors_agent.durable.records import Fields
from pathors_agent.durable.worker import HEARTBEAT, Heartbeat, Worker, worker_name
from pathors_agent.errors import AgentError, StoreError
from pathors_agent.server.http.body import parse_object
from pathors_agent.server.http.keys import Caller
from pathors_agent.server.http.problems import Problem, log_failed_turn
from pathors_agent.server.settings import ServerSettings
from pathors_agent.server.turns.answer import TurnAnswer
from pathors_agent.server.turns.front_ends import COMPLETIONS, READERS, writer_of
from pathors_agent.server.turns.project import Project
from pathors_agent.server.turns.run import Perform, TurnRun
from pathors_agent.server.turns.turn import (
    RENEWALS_PER_LEASE,
    Beginning,
    HeldSession,
    Services,
    Turn,
    new_head,
)
from pathors_agent.server.turns.writers import unread_sender
from pathors_agent.stores.database import read_url, shown
from pathors_agent.stores.errors import as_store_errors
from pathors_agent.stores.values import RequestId
from pathors_agent.telemetry.spans import continued, current_headers

# Separate from the runs of agents, whose names have another prefix.
WORKFLOW = "pathors-agent-turn"
QUEUE = "pathors-agent-turns"
# The version of stored turns; servers of another version ignore them.
VERSION = "turns-4"

# How many turns of dead servers a server continues at the same time.
_CONCURRENCY = 20
_POLL_SECONDS = 0.5
# How often ended turns are deleted, and how many at once.
_CLEAR_SECONDS = 5.0
_CLEARED_AT_ONCE = 500


class DurableTurns:
    """Runs the turns of a server as workflows, and continues those of dead servers.

    A context manager.
    """

    def __init__(
        self,
        database: str,
        projects: Mapping[str, Project],
        services: Services,
        heartbeat: Heartbeat = HEARTBEAT,
    ) -> None:
        self._database = database
        self._projects = projects
        self._heartbeat = heartbeat
        self._opened = AsyncExitStack()
        self._here: dict[str, Perform] = {}
        self._outcomes: dict[str, TurnAnswer | BaseException] = {}
        self._services = services
        self._one_check = anyio.CapacityLimiter(1)
        self._worker: Worker | None = None

    async def __aenter__(self) -> Self:
        client = await engine.opened(engine.connect, self._database)
        self._opened.callback(client.destroy)
        try:
            await asyncio.to_thread(prepare, engine.sql(client))
            writing = await engine.opened(engine.connect_worker, self._database)
            self._opened.callback(writing.destroy)
            self._worker = Worker(
                self._carry_out,
                client=writing,
                name=worker_name(),
                source=Source(queue=QUEUE, workflow=WORKFLOW, version=VERSION, agent=None),
                heartbeat=self._heartbeat,
            )
            self._opened.push_async_callback(self._worker.stop, seconds=0)
            await self._worker.start(concurrency=_CONCURRENCY, poll=_POLL_SECONDS)
        except BaseException:
            await self._opened.aclose()
            raise
        clearing = asyncio.create_task(_delete_ended(client))
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

    async def run(self, run: TurnRun) -> None:
        """Run a turn; it is a workflow as soon as it holds its session."""
        await run.run(self._carry)

    async def _carry(self, turn: Turn, beginning: Beginning, perform: Perform) -> TurnAnswer:
        assert self._worker is not None
        name = f"turn-{turn.head.id}"
        self._here[name] = perform
        try:
            with as_store_errors("store a durable turn", shown(read_url(self._database))):
                await self._worker.run_here(name, _record(turn, beginning))
            outcome = self._outcomes[name]
        finally:
            self._here.pop(name, None)
            self._outcomes.pop(name, None)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def _carry_out(self, journal: StepJournal, fields: Fields) -> Fields:
        name = journal.segment
        perform = self._here.pop(name, None)
        try:
            if perform is not None:
                self._outcomes[name] = await perform()
            else:
                await self._take_up(fields)
        except BaseException as error:  # recorded; raised for the client, where one waits
            if journal.is_stop(error):
                raise  # this server ends; another continues
            if perform is not None:
                self._outcomes[name] = error
            else:
                _log_failure(error, fields)
            return {"status": "failed", "failure": _failure(error)}
        return {"status": "finished"}

    async def _take_up(self, fields: Fields) -> None:
        turn = self._read(fields)
        writer = writer_of(turn, unread_sender(), {})
        run = TurnRun(turn, writer)
        renewing = asyncio.create_task(_renew_for_ever(run.held, turn.services.settings))
        try:
            await run.run()
        finally:
            renewing.cancel()
            writer.close()

    def _read(self, fields: Fields) -> Turn:
        project = self._projects.get(fields["project"])
        if project is None:
            raise Problem(404, f"The project {fields['project']} is not served any more")
        settings, body = self._services.settings, fields["body"].encode()
        read = READERS[fields["protocol"]]
        request, front_end = read(parse_object(body, settings), fields["session_header"], settings)
        return Turn(
            services=self._services,
            project=project,
            request=request,
            session_id=fields["session_id"],
            caller=Caller(**fields["caller"]),
            head=new_head(project, request, fields["session_id"]),
            body=body,
            body_digest=fields["body_digest"],
            session_header=fields["session_header"],
            front_end=front_end,
            headers=fields["trace"],
            request_id=RequestId(**fields["request_id"]),
            lifetime="durable",
            began=Beginning(**fields["beginning"]),
        )


def _record(turn: Turn, beginning: Beginning) -> Fields:
    with continued(turn.headers):
        trace = current_headers()
    assert turn.request_id is not None
    return {
        "project": turn.project.id,
        "session_id": turn.session_id,
        "protocol": turn.front_end.name if turn.front_end else COMPLETIONS,
        "session_header": turn.session_header,
        "caller": asdict(turn.caller),
        "body": turn.body.decode(),
        "trace": trace,
        "body_digest": turn.body_digest,
        "request_id": asdict(turn.request_id),
        "beginning": asdict(beginning),
    }


def _log_failure(error: BaseException, fields: Fields) -> None:
    """Log why a turn of a dead server failed.

    Its client reads the failure when it repeats the request.
    """
    body = fields["body"]  # the conversation as the client sent it
    log_failed_turn(
        error,
        project=fields["project"],
        session=fields["session_id"],
        status=500,
        contents=[body, *(message.text for message in getattr(error, "messages", ()))],
    )


def _failure(error: BaseException) -> Fields:
    """Return the record of a failed turn, without the text of a bug: it may quote users."""
    if isinstance(error, AgentError | Problem):
        return write_failure(error)
    return {"kind": type(error).__name__, "text": "", "retryable": False, "status": None}


async def _renew_for_ever(held: HeldSession, settings: ServerSettings) -> None:
    while True:
        await anyio.sleep(settings.lease_seconds / RENEWALS_PER_LEASE)
        await held.renew()


async def _delete_ended(client: DBOSClient) -> None:
    """Delete turns that ended: the store has their messages, which are deleted with the session."""
    while True:
        await asyncio.sleep(_CLEAR_SECONDS)
        with suppress(Exception):  # the next attempt may find the database
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
