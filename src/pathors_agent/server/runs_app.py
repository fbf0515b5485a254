"""The app of `runs serve`: a page and an API to list durable runs, open one and act on it."""

import hmac
import ipaddress
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from http import HTTPStatus
from typing import Any

import anyio
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pathors_agent.durable.operator import Operator, opened_as_json, operating, summary_as_json
from pathors_agent.durable.run_list import STATUSES, Figures, RunFilter, RunStatus
from pathors_agent.errors import ConversationError, RunExists, RunFailed, RunNotFound, StoreError
from pathors_agent.json_text import iso
from pathors_agent.messages import JSONValue
from pathors_agent.server.http.body import read_object
from pathors_agent.server.http.edge import (
    RequestLog,
    UnexpectedErrors,
    answer_problem,
    problem_response,
)
from pathors_agent.server.http.keys import bearer, digest_of
from pathors_agent.server.http.page import add_page
from pathors_agent.server.http.problems import Problem, bad_request, unauthorized, unavailable
from pathors_agent.server.settings import ServerSettings
from pathors_agent.server.turns.metrics import CONTENT_TYPE

MIN_KEY_CHARACTERS = 16
MAX_PAGE = 200
# The engine waits for an unreachable database; the clients of this app get an error.
ANSWER_SECONDS = 30.0

_AWAY = "The durable runs cannot be read or changed now"

_Fields = Mapping[str, JSONValue]

_SETTINGS = ServerSettings(max_body_bytes=1024 * 1024)
_LIST = {"status", "agent", "session", "queue", "since", "until", "limit", "offset"}
# The files that the page shares with the chat page.
_SHARED = ("elements.js", "json_text.js", "icon.svg", "page.css")


def create_runs_app(database: str, *, key: str | None = None) -> FastAPI:
    """Build the app for the durable runs in a database.

    Each request needs `key` as its bearer token. Without a key, only requests to an address of
    this machine are answered: bind the server to a loopback address.
    """
    runtime = _RunsRuntime(database)
    app = FastAPI(
        title="pathors_agent runs",
        lifespan=runtime.lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.runtime = runtime
    endpoints = _Endpoints(runtime)
    routes: tuple[tuple[str, str, _Endpoint], ...] = (
        ("GET", "/api/runs", endpoints.list),
        ("GET", "/api/run", endpoints.open),
        ("POST", "/api/runs/{action}", endpoints.act),
        ("GET", "/metrics", endpoints.metrics),
    )
    for method, path, endpoint in routes:
        app.add_api_route(path, _protected(endpoint, key), methods=[method])
    add_page(app, "runs_static", shared=_SHARED)
    for error, answer in _ANSWERS.items():
        app.add_exception_handler(error, answer)
    app.add_middleware(UnexpectedErrors)
    app.add_middleware(RequestLog, writes_lines=False)
    return app


class _RunsRuntime:
    """The open database, with the interface that the server's process expects. It has no turns."""

    grace_left = 0.0
    has_turns_left = False

    def __init__(self, database: str) -> None:
        self._database = database
        self._opened = AsyncExitStack()
        self._opening = anyio.Lock()
        self._operator: Operator | None = None

    @property
    def operator(self) -> Operator:
        assert self._operator is not None
        return self._operator

    async def start(self) -> None:
        async with self._opening:
            if self._operator is None:
                self._operator = await self._opened.enter_async_context(operating(self._database))

    def drain(self) -> None:
        pass

    def end_turns(self) -> None:
        pass

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncGenerator[None]:
        await self.start()
        yield
        await self._opened.aclose()


_Endpoint = Callable[[Request], Awaitable[Response]]


def _protected(endpoint: _Endpoint, key: str | None) -> _Endpoint:
    """Accept requests with the key; if there is no key, accept requests from this machine."""
    digest = digest_of(key) if key is not None else None

    async def protected(request: Request) -> Response:
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise Problem(HTTPStatus.FORBIDDEN, "Pages of other origins may not use these runs")
        if digest is None:
            if not is_loopback(_host_name(host)):
                raise Problem(HTTPStatus.FORBIDDEN, "Without a key, use an address of this machine")
        elif not hmac.compare_digest(digest_of(bearer(request)), digest):
            raise unauthorized()
        with anyio.move_on_after(ANSWER_SECONDS):
            return await endpoint(request)
        raise unavailable(_AWAY)

    return protected


def is_loopback(host: str) -> bool:
    """Return whether a host's name or address is one of this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host_name(host: str) -> str:
    """Return the host of a Host header, without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


class _Endpoints:
    def __init__(self, runtime: _RunsRuntime) -> None:
        self._runtime = runtime

    async def list(self, request: Request) -> Response:
        """Return a page of runs."""
        query = request.query_params
        if unknown := sorted(query.keys() - _LIST):
            raise bad_request("The query has unknown fields", *(f"{n}: unknown" for n in unknown))
        try:
            wanted = RunFilter(
                agent=query.get("agent"),
                statuses=_statuses(query.getlist("status")),
                session_id=query.get("session"),
                queue=query.get("queue"),
                since=_time(query.get("since")),
                until=_time(query.get("until")),
            )
        except ValueError as error:
            raise bad_request(f"The query does not fit: {error}") from None
        limit = _number(query, "limit", 50, most=MAX_PAGE)
        page = await self._runtime.operator.page(
            wanted, limit=limit, offset=_number(query, "offset", 0, least=0)
        )
        return _json({"data": [summary_as_json(run) for run in page], "total": page.total})

    async def open(self, request: Request) -> Response:
        """Return a run with its contents."""
        operator = self._runtime.operator
        query = request.query_params
        if not query.get("id"):
            raise bad_request("The query needs the id of a run", param="id")
        run = await operator.find(query["id"], agent=query.get("agent"))
        return _json(opened_as_json(await operator.open(run)))

    async def act(self, request: Request) -> Response:
        """Change a run; return it."""
        action = _ACTIONS.get(request.path_params["action"])
        if action is None:
            raise Problem(HTTPStatus.NOT_FOUND, "There is nothing at this address")
        fields = await read_object(request, _SETTINGS)
        operator = self._runtime.operator
        run_id, agent = _text(fields, "id"), _text(fields, "agent")
        await action(operator, run_id, agent, fields)
        if action is _delete:
            return _json({"id": run_id, "agent": agent, "deleted": True})
        return _json(summary_as_json(await operator.find(run_id, agent=agent)))

    async def metrics(self, request: Request) -> Response:
        """Return the counts of the database for Prometheus."""
        figures = await self._runtime.operator.figures()
        return Response(metrics_text(figures), media_type=CONTENT_TYPE)


# - actions -


async def _cancel(operator: Operator, run_id: str, agent: str, fields: _Fields) -> None:
    run = await operator.find(run_id, agent=agent)
    await operator.agent_of(run).cancel(run_id)


async def _resume(operator: Operator, run_id: str, agent: str, fields: _Fields) -> None:
    run = await operator.find(run_id, agent=agent)
    await operator.agent_of(run).resume(run_id)


async def _approve(operator: Operator, run_id: str, agent: str, fields: _Fields) -> None:
    arguments = fields.get("arguments")
    if arguments is not None and not isinstance(arguments, dict):
        raise bad_request("The arguments must be a JSON object", param="arguments")
    digest = _text(fields, "digest")
    run = await operator.waiting_run(run_id, agent)
    await operator.agent_of(run).approve(run_id, digest, arguments=arguments)


async def _deny(operator: Operator, run_id: str, agent: str, fields: _Fields) -> None:
    digest, reason = _text(fields, "digest"), fields.get("reason", "")
    if not isinstance(reason, str):
        raise bad_request("The reason must be a string", param="reason")
    run = await operator.waiting_run(run_id, agent)
    await operator.agent_of(run).deny(run_id, digest, reason=reason)


async def _answer(operator: Operator, run_id: str, agent: str, fields: _Fields) -> None:
    call = _text(fields, "call")
    if "result" not in fields:
        raise bad_request("The body needs a result", param="result")
    run = await operator.waiting_run(run_id, agent)
    await operator.agent_of(run).answer(run_id, {call: fields["result"]})


async def _delete(operator: Operator, run_id: str, agent: str, fields: _Fields) -> None:
    run = await operator.find(run_id, agent=agent)
    async for _, problem in operator.delete([run]):
        if problem:
            raise RunExists(problem)


_ACTIONS: dict[str, Callable[[Operator, str, str, _Fields], Awaitable[None]]] = {
    "cancel": _cancel,
    "resume": _resume,
    "approve": _approve,
    "deny": _deny,
    "answer": _answer,
    "delete": _delete,
}


# - values -


def _statuses(given: list[str]) -> tuple[RunStatus, ...]:
    for each in given:
        if each not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}")
    return tuple(status for status in STATUSES if status in given)


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _number(
    query: Mapping[str, str], name: str, otherwise: int, *, least: int = 1, most: int = 2**31 - 1
) -> int:
    text = query.get(name, str(otherwise))
    if not text.isascii() or not text.isdigit() or len(text) > 10 or not least <= int(text) <= most:
        raise bad_request(f"{name} must be a whole number from {least} to {most}", param=name)
    return int(text)


def _text(fields: _Fields, name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise bad_request(f"The body needs {name}, a string", param=name)
    return value


def _json(value: object) -> Response:
    text = json.dumps(value, default=_plain, ensure_ascii=False)
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    content = text.encode(errors="backslashreplace")
    return Response(content, media_type="application/json", headers=headers)


def _plain(value: object) -> object:
    return iso(value) if isinstance(value, datetime) else str(value)


# - metrics -


def metrics_text(figures: Figures) -> bytes:
    """Write figures in the text format of Prometheus."""
    registry = CollectorRegistry()
    registry.register(_Collector(figures))
    return generate_latest(registry)


class _Collector:
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> list[GaugeMetricFamily]:
        """Return the gauges; labels are names of agents and queues, never of users."""
        figures = self._figures
        return [
            _gauge("runs", "Durable runs", ["agent", "queue", "status"], figures.runs),
            _gauge("queue_depth", "Runs that wait for a worker", ["queue"], figures.depth),
            _gauge(
                "queue_oldest_seconds",
                "Age of the run that has waited longest for a worker",
                ["queue"],
                figures.oldest,
            ),
            _gauge(
                "run_takeovers",
                "Times that a worker died and its stored runs went back to their queue",
                ["agent"],
                figures.takeovers,
            ),
            _gauge("calls_in_doubt", "Calls for a person to check", ["agent"], figures.doubts),
        ]


def _gauge(
    name: str, about: str, labels: list[str], values: Mapping[tuple[str, ...], float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"pathors_{name}", about, labels=labels)
    for place, value in sorted(values.items()):
        family.add_metric(place, value)
    return family


# - what goes wrong -


def _as(status: HTTPStatus) -> Callable[[Request, Any], Awaitable[Response]]:
    async def answer(request: Request, error: Any) -> Response:
        return problem_response(Problem(status, str(error)))

    return answer


async def _answer_database_error(request: Request, error: Any) -> Response:
    return problem_response(unavailable(_AWAY))


async def _answer_http_error(request: Request, error: Any) -> Response:
    status = HTTPStatus(error.status_code)
    return problem_response(Problem(status, status.phrase, headers=error.headers))


_ANSWERS: dict[Any, Any] = {
    Problem: answer_problem,
    RunNotFound: _as(HTTPStatus.NOT_FOUND),
    RunExists: _as(HTTPStatus.CONFLICT),
    RunFailed: _as(HTTPStatus.CONFLICT),
    ConversationError: _as(HTTPStatus.CONFLICT),
    StoreError: _answer_database_error,
    SQLAlchemyError: _answer_database_error,
    HTTPException: _answer_http_error,
}
