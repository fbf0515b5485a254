"""Durable runs on the command line: found, decided about and changed straight on their database."""

import asyncio
import json
import re
import sqlite3
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner, Result

from pathors_agent import AsyncAgent
from pathors_agent.cli import run_changes, runs
from pathors_agent.cli.app import app
from pathors_agent.durable import DurableAgent, run_list
from pathors_agent.testing import calls, http_error
from stored_runs import Script, pay, work

Command = Callable[..., Result]

FORGED = "5\u202e\x1b[2Kok\nrun  approved"


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


@pytest.fixture
def command(database: str) -> Command:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["runs", *arguments, "--database", database])

    return run


def rows(shown: Result) -> Any:
    assert shown.exit_code == 0, shown.stderr
    return json.loads(shown.stdout)


def statuses(command: Command) -> dict[str, str]:
    return {run["id"]: run["status"] for run in rows(command("list", "--json"))["data"]}


def test_waiting_calls_are_approved_denied_and_answered(command: Command, database: str) -> None:
    script = [calls(("pay", {"to": name})) for name in ("Ana", "Ben", "Eve")]
    script.append(calls(("ask_user", {"text": FORGED})))
    work(database, *script, start=("yes", "no", "changed", "asks"))

    waiting = {each["run"]: each for each in rows(command("waiting", "--json"))["data"]}
    assert {run: (w["wants"], w["tool"]) for run, w in waiting.items()} == {
        "yes": ("approval", "pay"),
        "no": ("approval", "pay"),
        "changed": ("approval", "pay"),
        "asks": ("answer", "ask_user"),
    }
    assert json.loads(waiting["yes"]["arguments"]) == {"to": "Ana"}
    approved = command("approve", "yes", waiting["yes"]["digest"])
    assert (approved.exit_code, approved.stderr) == (0, "yes continues.\n")
    assert command("deny", "no", waiting["no"]["digest"], "--reason", "too dear").exit_code == 0
    changed = ("changed", waiting["changed"]["digest"], "--arguments", '{"to": "Zoe"}')
    assert rows(command("approve", *changed, "--json")) == {
        "data": [{"id": "changed", "agent": "shop"}],
        "failed": 0,
    }
    assert command("answer", "asks", waiting["asks"]["call"], "blue").exit_code == 0
    assert rows(command("waiting", "--json")) == {"data": []}
    again = command("approve", "yes", waiting["yes"]["digest"])
    assert (again.exit_code, again.stderr) == (1, "error: yes: it is queued, not suspended\n")

    work(database, *["done"] * 4)
    said = {
        run: [m["content"] for m in rows(command("show", run, "--json"))["messages"]][2]
        for run in ("yes", "no", "changed", "asks")
    }
    assert said == {
        "yes": "paid Ana",
        "no": "Not run: a person said no: too dear.",
        "changed": 'paid Zoe\n(A person changed the arguments to {"to": "Zoe"}.)',
        "asks": "blue",
    }
    # The model asked for the call in an earlier segment of the run.
    assert re.search(r"^  tool/0/0 +pay +value ", command("show", "yes").stdout, re.MULTILINE)


def test_digest_of_no_waiting_call_is_refused(command: Command, database: str) -> None:
    work(database, calls(("pay", {"to": "Ana"})), start=("run",))

    shown = command("approve", "run", "0123")

    assert shown.exit_code == 1
    assert shown.stderr.startswith("error: run: no call waits for approval '0123'")
    assert statuses(command) == {"run": "suspended"}
    assert command("approve", "run", "0123", "--arguments", "[]").exit_code == 2


def test_failed_runs_are_resumed_together(command: Command, database: str) -> None:
    work(
        database,
        *[http_error(400, "bad")] * 3,
        calls(("pay", {"to": "Ana"})),
        start=("a", "b", "c", "d"),
    )

    shown = command("resume", "--queue", "main", "--json")

    assert rows(shown)["failed"] == 0
    assert {run["id"] for run in rows(shown)["data"]} == {"a", "b", "c"}
    assert statuses(command) == {"a": "queued", "b": "queued", "c": "queued", "d": "suspended"}
    refused = command("resume", "a")
    assert (refused.exit_code, refused.stderr) == (
        1,
        "error: a: it is queued, not failed or limit_reached\n",
    )
    shown = command("cancel", "--status", "queued", "--since", "1h")
    assert shown.exit_code == 0
    assert sorted(shown.stderr.splitlines()) == [f"{run} is cancelled." for run in "abc"]
    assert command("cancel", "--agent", "nothing").stderr == f"{database} has no runs that match.\n"


def test_run_id_of_several_agents_needs_the_agents_name(command: Command, database: str) -> None:
    for name in ("shop", "bank/1"):
        work(database, http_error(400, name), start=("run",), name=name)

    refused = command("show", "run")
    shown = command("show", "run", "--agent", "bank/1")
    resumed = command("resume", "run", "--agent", "shop", "--json")

    assert refused.exit_code == 1
    assert (
        refused.stderr == "error: the agents bank/1, shop each have a run 'run': name the agent\n"
    )
    assert shown.stdout.endswith("the provider answered 400: bank/1\n")
    assert rows(resumed)["data"] == [{"id": "run", "agent": "shop"}]
    listed = rows(command("list", "--json"))["data"]
    assert {run["agent"]: run["status"] for run in listed} == {"shop": "queued", "bank/1": "failed"}
    missing = command("cancel", "run", "--agent", "nothing")
    assert missing.exit_code == 1
    assert missing.stderr == (
        f"error: there is no run 'run' of the agent 'nothing' in {database}\n"
    )


def test_empty_list_names_the_database_it_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATHORS_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("PATHORS_DATABASE", raising=False)

    def written(*arguments: str) -> str:
        return CliRunner().invoke(app, ["runs", *arguments]).stderr

    where = f"sqlite:///{tmp_path / 'runs.db'}"
    assert written("list") == f"{where} has no runs.\n"
    assert written("list", "--status", "failed") == f"{where} has no runs that match the options.\n"
    assert written("waiting") == f"{where} has no calls that wait.\n"
    assert written("doubts") == f"{where} has no calls in doubt.\n"
    assert written("cancel", "--status", "queued") == f"{where} has no runs that match.\n"
    assert written("show", "run") == f"error: there is no run 'run' in {where}\n"


def test_runs_are_deleted_by_session_with_their_contents(command: Command, database: str) -> None:
    async def terminal() -> None:
        agent = AsyncAgent(
            Script("one", "two", "three", calls(("pay", {"to": "Ana"}))), tools=[pay]
        )
        async with DurableAgent(agent, database=database) as durable:
            for run, session in (("a", "long"), ("b", "long"), ("c", "short"), ("d", "waits")):
                await (await durable.start("go", id=run, session_id=session)).result()

    asyncio.run(terminal())
    refused = command("delete", "a")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: a: the session 'long' has other runs (1), and later")
    assert rows(command("delete", "--status", "finished", "--until", "2000-01-01", "--json")) == {
        "data": [],
        "failed": 0,
    }
    shown = command("delete", "--agent", "agent")
    assert (shown.exit_code, shown.stderr) == (0, "c is deleted.\nb is deleted.\na is deleted.\n")
    assert statuses(command) == {"d": "suspended"}
    assert command("delete", "--session", "waits").exit_code == 0
    assert statuses(command) == {}


def test_why_a_run_failed_is_shown(command: Command, database: str) -> None:
    work(database, http_error(400, "no such model"), start=("run",))

    assert command("show", "run").stdout.splitlines()[-1] == (
        "the run stopped: ProviderError: the provider answered 400: no such model"
    )
    opened = rows(command("show", "run", "--json"))
    assert opened["failure"].endswith("the provider answered 400: no such model")
    [call] = opened["calls"]
    assert (call["key"], call["outcome"]) == ("model/0", "failed")
    for time in (call["started_at"], call["ended_at"], opened["created_at"]):
        assert time.endswith("Z")
        assert datetime.fromisoformat(time).tzinfo is not None


def test_texts_of_models_forge_no_lines(command: Command, database: str) -> None:
    work(database, calls(("ask_user", {"text": FORGED})), start=("run",))
    work(database, calls((FORGED, {})), "done", start=("made-up",))

    for shown in (command("waiting"), command("show", "made-up"), command("show", "run")):
        assert shown.exit_code == 0
        assert "\x1b" not in shown.stdout
        assert "\u202e" not in shown.stdout
        assert not any(line.startswith("run  approved") for line in shown.stdout.splitlines())


def test_bounds_of_a_queue_are_replaced(command: Command, database: str) -> None:
    both = command("limit", "main", "--total", "3", "--rate", "60")
    none = command("limit", "main")

    said = "The queue main allows 3 runs at once, 60 starts in a minute.\n"
    assert (both.exit_code, both.stderr) == (0, said)
    assert (none.exit_code, none.stderr) == (0, "The queue main has no bounds.\n")
    assert command("limit", "main", "--total", "0").exit_code == 2


def test_checked_call_is_no_longer_in_doubt(command: Command, database: str) -> None:
    work(database, "fine", start=("run",))
    with sqlite3.connect(database.removeprefix("sqlite:///")) as connection:
        insert = "INSERT INTO pathors_durable_doubts VALUES (?, 'run', 'tool/0/0', 'pay', 'c', 'k')"
        connection.executemany(insert, [("shop",), ("bank",)])
    connection.close()
    assert [each["agent"] for each in rows(command("doubts", "--json"))["data"]] == ["bank", "shop"]

    unclear = command("forget", "run", "tool/0/0")
    assert (unclear.exit_code, unclear.stderr) == (
        2,
        "error: the agents bank, shop each have such a call: name one with --agent\n",
    )
    assert command("forget", "run", "tool/0/0", "--agent", "bank").exit_code == 0

    assert [each["agent"] for each in rows(command("doubts", "--json"))["data"]] == ["shop"]
    missing = command("forget", "run", "tool/9/9")
    assert (missing.exit_code, missing.stderr) == (
        1,
        f"error: no call 'tool/9/9' of a run 'run' is in doubt in {database}; see `runs doubts`\n",
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("cancel", "name runs, or choose them by an option"),
        ("cancel a --status queued", "name runs, or choose them by an option"),
        ("resume", "name runs, or choose them by an option"),
        ("cancel --status finished", "must be queued or running or suspended here, not finished"),
        ("resume --status running", "must be failed or limit_reached here, not running"),
        ("list --status done", "'queued', 'running', 'suspended', 'finished', 'limit_reached'"),
        ("list --since yesterday", "is not a time: write an age such as 30m, 12h or 7d"),
        ("list --since 99999d", "is not a time"),
        ("list --since 0d", "is not a time"),
        ("delete", "name runs, or choose them"),
        ("delete --status running", "must be finished or limit_reached"),
        ("list --limit 0", "--limit"),
        ("list --offset -1", "--offset"),
    ],
)
def test_wrong_values_are_refused_at_construction(
    command: Command, arguments: str, said: str
) -> None:
    shown = command(*arguments.split())

    assert shown.exit_code == 2
    assert said in " ".join(shown.stderr.split())


@pytest.mark.parametrize(
    "name",
    [
        *("list", "show", "waiting", "approve", "deny", "answer"),
        *("cancel", "resume", "delete", "doubts", "forget", "limit", "serve"),
    ],
)
def test_help_names_the_exit_statuses(name: str) -> None:
    shown = CliRunner().invoke(app, ["runs", name, "--help"])

    assert shown.exit_code == 0
    assert shown.stdout.endswith("Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.\n")


@pytest.mark.parametrize("name", ["STATUSES", "CANCELLABLE", "RESUMABLE", "ENDED"])
def test_statuses_of_the_options_are_those_of_runs(name: str) -> None:
    options = {"STATUSES": get_args(runs.Status)}

    assert options.get(name) or getattr(run_changes, name) == getattr(run_list, name)
