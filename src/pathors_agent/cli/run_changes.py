"""The commands that change durable runs, and decide about their calls."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathors_agent.cli.output import EXIT_STATUS, write_json, write_note
from pathors_agent.cli.runs import (
    AgentName,
    OnlyAgent,
    OnlyQueue,
    OnlySession,
    OnlyStatus,
    RunId,
    RunIds,
    Since,
    Status,
    Until,
    chosen_runs,
    run_filter,
    runs,
    with_operator,
)
from pathors_agent.cli.values import AsJSON, Database, json_object

__all__ = ["runs"]

if TYPE_CHECKING:
    from pathors_agent.durable.client import DurableClient
    from pathors_agent.durable.operator import Operator
    from pathors_agent.durable.run_list import RunFilter, RunSummary

    Act = Callable[[DurableClient[Any], str], Awaitable[object]]
    """Changes a run of an agent by its id."""

CANCELLABLE: tuple[Status, ...] = ("queued", "running", "suspended")
RESUMABLE: tuple[Status, ...] = ("failed", "limit_reached")
ENDED: tuple[Status, ...] = ("finished", "limit_reached", "no_answer", "failed", "cancelled")

Call = Annotated[str, typer.Argument(metavar="CALL", help="The call, as shown by `runs waiting`.")]


def _check_choice(ids: list[str] | None, *conditions: object) -> None:
    """Refuse a change of all runs, and one of named runs that has conditions too."""
    has_condition = any(condition is not None for condition in conditions)
    if bool(ids) == has_condition:
        raise typer.BadParameter(
            "name runs, or choose them by an option such as --status; not both", param_hint="RUN"
        )


def _add_change(
    name: str,
    description: str,
    act: "Act | None",
    done: str,
    *,
    allowed: Sequence[Status],
    default: Sequence[Status],
) -> None:
    """Add a command that changes the named runs, or all that match its options.

    Without `--status`, runs with a `default` status match. An `act` of None deletes the runs.
    """

    def change(
        ids: RunIds = None,
        *,
        status: OnlyStatus = None,
        agent: OnlyAgent = None,
        session: OnlySession = None,
        queue: OnlyQueue = None,
        since: Since = None,
        until: Until = None,
        database: Database = None,
        as_json: AsJSON = False,
    ) -> None:
        _check_choice(ids, status, None if ids else agent, session, queue, since, until)
        if status is not None and status not in allowed:
            raise typer.BadParameter(
                f"must be {' or '.join(allowed)} here, not {status}", param_hint="--status"
            )
        statuses = default if status is None else (status,)
        if act is None and session and status is None:
            statuses = ()  # the whole session
        wanted = run_filter(statuses, agent, session, queue, since, until)
        _change(act, done, allowed, database, ids, wanted, as_json=as_json)

    runs.command(name, help=description, epilog=EXIT_STATUS)(change)


def _change(
    act: "Act | None",
    done: str,
    allowed: Sequence[Status],
    database: str | None,
    ids: list[str] | None,
    wanted: "RunFilter",
    *,
    as_json: bool,
) -> None:
    """Change the named runs, or all that match, and end with the exit status."""

    async def work(operator: "Operator", where: str) -> None:
        changes = _Changes(done, as_json=as_json)
        chosen = await chosen_runs(operator, ids, wanted)
        if act is None:
            async for run, problem in operator.delete(chosen):
                changes.add(run, problem)
        else:
            for run in chosen:
                changes.add(run, await _problem_of(operator, run, act, allowed))
        raise typer.Exit(1 if changes.end(where) else 0)

    with_operator(database, work)


async def _problem_of(
    operator: "Operator", run: "RunSummary", act: "Act", allowed: Sequence[Status]
) -> str:
    """Change a run; return the reason why it cannot be changed, or an empty string."""
    from pathors_agent.errors import AgentError, error_text

    if run.status not in allowed:
        return f"it is {run.status}, not {' or '.join(allowed)}"
    try:
        await act(operator.agent_of(run), run.id)
    except AgentError as error:
        return error_text(error)
    return ""


class _Changes:
    """Writes the outcome for each changed run: one note each, or one JSON value."""

    def __init__(self, done: str, *, as_json: bool) -> None:
        self._done = done
        self._as_json = as_json
        self._data: list[dict[str, str]] = []
        self._failed = 0

    def add(self, run: "RunSummary", problem: str) -> None:
        error = {"error": problem} if problem else {}
        self._data.append({"id": run.id, "agent": run.agent, **error})
        self._failed += bool(problem)
        if not self._as_json:
            write_note(f"error: {run.id}: {problem}" if problem else f"{run.id} {self._done}.")

    def end(self, where: str) -> int:
        if self._as_json:
            write_json({"data": self._data, "failed": self._failed})
        elif not self._data:
            write_note(f"{where} has no runs that match.")
        return self._failed


_add_change(
    "cancel",
    "Cancel queued, running and suspended runs permanently.\n\n"
    "The named runs, or all that match the options.",
    lambda durable, run_id: durable.cancel(run_id),
    "is cancelled",
    allowed=CANCELLABLE,
    default=CANCELLABLE,
)
_add_change(
    "resume",
    "Continue runs that failed or reached a limit, where they stopped.\n\n"
    "The named runs, or all that match the options; without --status, those that failed.",
    lambda durable, run_id: durable.resume(run_id),
    "waits for a worker",
    allowed=RESUMABLE,
    default=("failed",),
)
_add_change(
    "delete",
    "Delete runs that have ended, with their contents.\n\n"
    "The named runs, or all that match the options. A run is only deleted together with all other"
    " runs of its session, which read its messages. --session deletes a whole session; suspended"
    " runs need it, or --status suspended.",
    None,
    "is deleted",
    allowed=(*ENDED, "suspended"),
    default=ENDED,
)


def _decide(
    run: str, agent: str | None, act: "Act", database: str | None, *, as_json: bool
) -> None:
    """Decide about a call of a suspended run."""
    wanted = run_filter(agent=agent)
    _change(act, "continues", ("suspended",), database, [run], wanted, as_json=as_json)


@runs.command("approve", epilog=EXIT_STATUS)
def approve_call(
    run: RunId,
    call: Call,
    *,
    arguments: Annotated[
        dict[str, Any] | None,
        typer.Option(
            parser=json_object,
            metavar="JSON",
            help="Run the call with these arguments instead of the model's.",
        ),
    ] = None,
    agent: AgentName = None,
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """Approve a call: it runs, and the run continues."""
    _decide(
        run,
        agent,
        lambda durable, run_id: durable.approve(run_id, call, arguments=arguments),
        database,
        as_json=as_json,
    )


@runs.command("deny", epilog=EXIT_STATUS)
def deny_call(
    run: RunId,
    call: Call,
    *,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="The reason, for the model.")] = "",
    agent: AgentName = None,
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """Deny a call: the model reads the reason, and the run continues."""
    _decide(
        run,
        agent,
        lambda durable, run_id: durable.deny(run_id, call, reason=reason),
        database,
        as_json=as_json,
    )


@runs.command("answer", epilog=EXIT_STATUS)
def answer_call(
    run: RunId,
    call: Annotated[
        str, typer.Argument(metavar="CALL", help="The call's id, from `runs waiting`.")
    ],
    result: Annotated[str, typer.Argument(metavar="RESULT", help="The result, for the model.")],
    *,
    agent: AgentName = None,
    database: Database = None,
    as_json: AsJSON = False,
) -> None:
    """Answer a call of a client's tool; the run continues."""
    _decide(
        run,
        agent,
        lambda durable, run_id: durable.answer(run_id, {call: result}),
        database,
        as_json=as_json,
    )
