"""The API of `runs serve`: who may use it, what it lists, and what it changes."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from live_server import PATIENCE_SECONDS, served
from pathors_agent.cli.app import app as command_line
from pathors_agent.durable.run_list import Figures
from pathors_agent.server.runs_app import create_runs_app, metrics_text
from pathors_agent.testing import calls, http_error
from stored_runs import work

KEY = "a key of the operators"


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


@contextmanager
def serving(database: str, key: str | None = None) -> Iterator[httpx2.Client]:
    app = create_runs_app(database, key=key)
    with socket.create_server(("127.0.0.1", 0)) as listener, served(app, listener):
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx2.Client(base_url=url, timeout=PATIENCE_SECONDS, trust_env=False) as client:
            yield client


def test_runs_are_listed_opened_and_changed(database: str) -> None:
    pays = [calls(("pay", {"to": name})) for name in ("Ana", "Ben")]
    script = [
        *pays,
        calls(("ask_user", {})),
        http_error(400, "bad"),
        "fine",
        calls(("pay", {"to": "x"})),
    ]
    work(database, *script, start=("yes", "no", "asks", "fails", "ends", "stops"))

    with serving(database) as client:

        def act(action: str, run: str, **fields: object) -> Any:
            sent = {"id": run, "agent": "shop", **fields}
            return client.post(f"/api/runs/{action}", json=sent)

        def opened(run: str) -> Any:
            return client.get("/api/run", params={"id": run}).json()

        page = client.get("/api/runs", params={"status": "suspended", "limit": 2}).json()
        assert ([run["id"] for run in page["data"]], page["total"]) == (["stops", "asks"], 4)
        assert page["data"][0]["created_at"].endswith("Z")

        digest = {run: opened(run)["waiting"][0]["digest"] for run in ("yes", "no")}
        assert (
            act("approve", "yes", digest=digest["yes"], arguments={"to": "Zoe"}).status_code == 200
        )
        assert act("deny", "no", digest=digest["no"], reason="too dear").status_code == 200
        assert (
            act("answer", "asks", call=opened("asks")["waiting"][0]["call"], result="blue").json()[
                "status"
            ]
            == "queued"
        )
        assert act("resume", "fails").json()["status"] == "queued"
        assert act("cancel", "stops").json()["status"] == "queued"
        assert act("delete", "ends").json() == {"id": "ends", "agent": "shop", "deleted": True}

        work(database, *["done"] * 4)
        page = client.get("/api/runs").json()
        assert {run["id"]: run["status"] for run in page["data"]} == {
            "yes": "finished",
            "no": "finished",
            "asks": "finished",
            "fails": "finished",
            "stops": "cancelled",
        }
        assert [m["content"] for m in opened("yes")["messages"]] == [
            "go",
            None,
            'paid Zoe\n(A person changed the arguments to {"to": "Zoe"}.)',
            "done",
        ]
        assert opened("no")["messages"][2]["content"] == "Not run: a person said no: too dear."


@pytest.mark.parametrize(
    ("send", "status", "said"),
    [
        (lambda c: c.get("/api/runs?status=done"), 400, "status must be one of queued, running"),
        (lambda c: c.get("/api/runs?since=2026-01-01"), 400, "since must have a time zone"),
        (lambda c: c.get("/api/runs?until=soon"), 400, "The query does not fit"),
        (lambda c: c.get("/api/runs?limit=0"), 400, "limit must be a whole number from 1 to 200"),
        (lambda c: c.get("/api/runs?offset=-1"), 400, "offset must be a whole number"),
        (lambda c: c.get("/api/runs?state=failed"), 400, "state: unknown"),
        (lambda c: c.get("/api/run"), 400, "The query needs the id of a run"),
        (lambda c: c.get("/api/run?id=nothing"), 404, "there is no run 'nothing'"),
        (lambda c: c.post("/api/runs/approve", json={"id": "run"}), 400, "The body needs agent"),
        (lambda c: c.post("/api/runs/cancel", content="id=run"), 415, "Content-Type"),
        (lambda c: act(c, "resume"), 409, "is suspended: approve, deny or answer"),
        (lambda c: act(c, "approve", digest="0123"), 409, "no call waits for approval '0123'"),
        (lambda c: act(c, "approve", digest="0", arguments=[]), 400, "must be a JSON object"),
        (lambda c: act(c, "answer", call="call_1"), 400, "The body needs a result"),
        (lambda c: act(c, "explode"), 404, "There is nothing at this address"),
    ],
)
def test_request_that_does_not_fit_is_refused(
    suspended: httpx2.Client,
    send: Callable[[httpx2.Client], httpx2.Response],
    status: int,
    said: str,
) -> None:
    answer = send(suspended)

    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


def act(client: httpx2.Client, action: str, **fields: object) -> httpx2.Response:
    return client.post(f"/api/runs/{action}", json={"id": "run", "agent": "shop", **fields})


@pytest.fixture(scope="module")
def suspended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """Serve one run that waits for an approval."""
    database = f"sqlite:///{tmp_path_factory.mktemp('runs') / 'runs.db'}"
    work(database, calls(("pay", {"to": "Ana"})), start=("run",))
    with serving(database) as client:
        yield client


def test_only_the_key_opens_runs_and_metrics(database: str) -> None:
    with serving(database, KEY) as client:
        for path in ("/api/runs", "/api/run?id=x", "/metrics"):
            for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": KEY}):
                refused = client.get(path, headers=headers)
                assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        let_in = {"Authorization": f"Bearer {KEY}"}
        assert client.post("/api/runs/cancel", json={}).status_code == 401
        assert client.get("/api/runs", headers=let_in).json() == {"data": [], "total": 0}
        assert client.get("/metrics", headers=let_in).status_code == 200
        assert KEY not in client.get("/").text + client.get("/static/runs.js").text


def test_without_a_key_only_pages_of_this_machine_are_answered(database: str) -> None:
    with serving(database) as client:
        port = client.base_url.port
        answers = {
            host: client.get("/api/runs", headers={"Host": host}).status_code
            for host in (
                f"127.0.0.1:{port}",
                f"localhost:{port}",
                "[::1]",
                "evil.example",
                "127.1.evil",
            )
        }
        assert list(answers.values()) == [200, 200, 200, 403, 403]
        for origin, status in (
            (f"http://127.0.0.1:{port}", 200),
            ("https://evil.example", 403),
            ("null", 403),
        ):
            assert client.get("/api/runs", headers={"Origin": origin}).status_code == status


def test_metrics_count_queues_statuses_and_doubts(database: str) -> None:
    work(database, "fine", calls(("pay", {"to": "Ana"})), start=("a", "b"))
    runner = CliRunner()
    with serving(database) as client:
        digest = client.get("/api/run?id=b").json()["waiting"][0]["digest"]
        arguments = ["runs", "approve", "b", digest, "--database", database]
        assert runner.invoke(command_line, arguments).exit_code == 0
        with sqlite3.connect(database.removeprefix("sqlite:///")) as connection:
            connection.execute("UPDATE workflow_status SET recovery_attempts = 2")
            doubt = "INSERT INTO pathors_durable_doubts VALUES ('shop', 'a', 'tool/0/0', 'pay', 'c', 'k')"
            connection.execute(doubt)
        connection.close()
        lines = client.get("/metrics").text.splitlines()

    assert 'pathors_runs{agent="shop",queue="main",status="finished"} 1.0' in lines
    assert 'pathors_runs{agent="shop",queue="main",status="queued"} 1.0' in lines
    assert 'pathors_queue_depth{queue="main"} 1.0' in lines
    assert 'pathors_run_takeovers{agent="shop"} 6.0' in lines  # two runs, and the approval
    assert 'pathors_calls_in_doubt{agent="shop"} 1.0' in lines
    [oldest] = [line for line in lines if line.startswith("pathors_queue_oldest_seconds{")]
    assert 0 <= float(oldest.split()[1]) < PATIENCE_SECONDS


def test_database_that_fails_is_said_and_its_contents_are_not(database: str) -> None:
    with serving(database) as client:
        with sqlite3.connect(database.removeprefix("sqlite:///")) as connection:
            connection.execute("ALTER TABLE workflow_output RENAME TO moved")
        connection.close()
        for path in ("/api/runs", "/api/run?id=run&agent=shop", "/metrics"):
            answer = client.get(path)
            assert answer.status_code == 503
            assert answer.json()["error"]["message"] == (
                "The durable runs cannot be read or changed now"
            )
    shown = CliRunner().invoke(command_line, ["runs", "list", "--database", database])

    assert shown.exit_code == 1
    assert re.fullmatch("error: Could not list durable runs in .*\n", shown.stderr)


def test_figures_are_written_for_prometheus() -> None:
    figures = Figures(
        runs={("shop", "main", "failed"): 2},
        depth={("main",): 3},
        oldest={("main",): 1.5},
        takeovers={("shop",): 4},
        doubts={('a"b',): 5},
    )

    lines = metrics_text(figures).decode().splitlines()

    assert [line for line in lines if not line.startswith("#")] == [
        'pathors_runs{agent="shop",queue="main",status="failed"} 2.0',
        'pathors_queue_depth{queue="main"} 3.0',
        'pathors_queue_oldest_seconds{queue="main"} 1.5',
        'pathors_run_takeovers{agent="shop"} 4.0',
        'pathors_calls_in_doubt{agent="a\\"b"} 5.0',
    ]


@pytest.mark.parametrize(
    ("arguments", "key", "said"),
    [
        ("--host 0.0.0.0", "", "--host 0.0.0.0 needs a key in PATHORS_RUNS_KEY"),
        ("--host example.com", "", "--host example.com needs a key in PATHORS_RUNS_KEY"),
        ("", "short", "PATHORS_RUNS_KEY must have 16 to 200 ASCII characters"),
        ("--port 70000", "", "--port"),
    ],
)
def test_unprotected_page_is_refused_at_the_start(
    database: str, arguments: str, key: str, said: str
) -> None:
    line = ["runs", "serve", *arguments.split(), "--database", database]

    shown = CliRunner().invoke(command_line, line, env={"PATHORS_RUNS_KEY": key})

    assert shown.exit_code == 2
    assert said in shown.stderr


@pytest.mark.slow
def test_program_serves_the_page_until_a_signal(database: str) -> None:
    line = [sys.executable, "-m", "pathors_agent", "runs", "serve", "--port", "0", "--json"]
    env = {**os.environ, "PATHORS_RUNS_KEY": KEY, "PATHORS_DATABASE": database}
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        url = json.loads(program.stdout.readline())["url"]
        with httpx2.Client(base_url=url, timeout=PATIENCE_SECONDS, trust_env=False) as client:
            page = client.get("/")
            runs = client.get("/api/runs", headers={"Authorization": f"Bearer {KEY}"})
        program.send_signal(signal.SIGTERM)
        said = program.stderr.read()

    assert page.text.startswith("<!doctype html>")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert runs.json() == {"data": [], "total": 0}
    assert (program.returncode, said) == (0, "")
