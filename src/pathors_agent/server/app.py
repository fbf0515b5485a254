"""The ASGI app: its addresses, its middleware and its error answers."""

import re
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from functools import cached_property, partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pathors_agent.errors import StoreError
from pathors_agent.server.endpoints import Completions, ModelEndpoints, SessionEndpoints
from pathors_agent.server.front_ends import ABOUT_STREAMS, ABOUT_TURNS, RunningTurns
from pathors_agent.server.http.document import (
    COMPLETION,
    CREATE,
    END,
    HEALTHZ,
    LIST,
    MODEL,
    MODELS,
    QUERY,
    READYZ,
    RENAME,
    SEARCH,
    describe,
)
from pathors_agent.server.http.edge import (
    Addresses,
    RequestLog,
    UnexpectedErrors,
    answer_after_routing,
    answer_problem,
    json_response,
    problem_response,
)
from pathors_agent.server.http.keys import Authenticate
from pathors_agent.server.http.problems import Problem, bad_request, of_store, unavailable
from pathors_agent.server.page import add_chat_page
from pathors_agent.server.running.runtime import OpenDurable, Runtime
from pathors_agent.server.settings import ServerSettings
from pathors_agent.server.turns.front_ends import FRONT_ENDS
from pathors_agent.server.turns.metrics import CONTENT_TYPE
from pathors_agent.server.turns.project import Project
from pathors_agent.server.turns.sending import TurnResponse
from pathors_agent.stores.base import Store
from pathors_agent.telemetry.events import library_version

_CANONICAL = "/v1/projects/{project_id}"
_LEGACY = "/project/{project_id}"
# The prefixes of the older addresses.
_LEGACY_BASES = (_LEGACY, f"{_LEGACY}/integration/api")
_LEGACY_COMPLETIONS = (
    f"{_LEGACY}/integration/api/chat/completions",
    f"/api{_LEGACY}/integration/api/chat/completions",
)


def create_app(
    projects: Iterable[Project],
    store: Store,
    settings: ServerSettings | None = None,
    *,
    ui: bool = False,
    front_ends: bool = False,
    runs: str | None = None,
    authenticate: Authenticate | None = None,
) -> FastAPI:
    """Build the app that serves these projects. Run it with any ASGI server, or mount it in another.

    With `ui`, the address `/` shows a chat page. With `front_ends`, each project also answers in the
    protocols of front ends: the AI SDK's `useChat` at `ui-messages`, AG-UI at `ag-ui`. `runs` is the
    URL of a database that keeps turns while they run, so that they outlive this process (needs the
    extra `durable`). `authenticate` is an async function that authenticates users without a key of
    the store. It gets the request, without its body, and returns a `Principal` or None. A request
    with neither a principal nor a key gets status 401; raise `HTTPException` for another status.
    `app.state.runtime.drain()` refuses new turns, for a graceful shutdown.
    """
    open_durable = None if runs is None else _durable_turns(runs)
    runtime = Runtime(projects, store, settings or ServerSettings(), open_durable, authenticate)
    app = _App(
        title="pathors_agent",
        version=library_version(),
        lifespan=_lifespan(runtime),
        docs_url=None,  # its pages load scripts from other sites
        redoc_url=None,
        # Behind a proxy that ends TLS it would send the client, with its key, to plain HTTP.
        redirect_slashes=False,
    )
    app.state.runtime = runtime
    _add_addresses(app, runtime)
    if front_ends:
        _add_front_ends(app, runtime)
    if ui:
        add_chat_page(app, runtime)
    describe(app, FRONT_ENDS if front_ends else ())
    for error, answer in _ANSWERS.items():
        app.add_exception_handler(error, answer)
    app.add_middleware(UnexpectedErrors)
    app.add_middleware(Addresses)
    if runtime.settings.cors_origins:
        app.add_middleware(CORSMiddleware, **_cors(runtime.settings))
    # The outermost one: every answer has a request id.
    app.add_middleware(RequestLog, writes_lines=runtime.settings.access_log)
    return app


class _App(FastAPI):
    """An app without Starlette's layer that answers bugs, which would cost each chunk of a stream.

    `UnexpectedErrors` answers them.
    """

    def build_middleware_stack(self) -> ASGIApp:
        """Build the layers."""
        stack = super().build_middleware_stack()
        if isinstance(stack, ServerErrorMiddleware) and not stack.handler and not self.debug:
            return stack.app
        return stack


def _durable_turns(database: str) -> OpenDurable:
    from pathors_agent.server.turns.durable import DurableTurns  # needs the extra `durable`

    return partial(DurableTurns, database)


def _lifespan(runtime: Runtime) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        await runtime.start()
        yield
        await runtime.stop()

    return lifespan


def _add_addresses(app: FastAPI, runtime: Runtime) -> None:
    completions, sessions = Completions(runtime), SessionEndpoints(runtime)
    models = ModelEndpoints(runtime)

    add = partial(_add, app)
    for path in (f"{_CANONICAL}/chat/completions", *_LEGACY_COMPLETIONS):
        add(path, completions.complete, "POST", COMPLETION)
    legacy = (*_LEGACY_BASES, *(f"/api{base}" for base in _LEGACY_BASES))
    for base, name in ((_CANONICAL, "sessions"), *((base, "session") for base in legacy)):
        add(f"{base}/models", models.list_all, "GET", MODELS)
        add(f"{base}/models/{{model_id:path}}", models.query, "GET", MODEL)
        add(f"{base}/{name}/search", sessions.search, "POST", SEARCH)
        add(f"{base}/{name}", sessions.create, "POST", CREATE)
        add(f"{base}/{name}", sessions.end, "DELETE", END)
        if base == _CANONICAL:
            add(f"{base}/{name}", sessions.list_all, "GET", LIST)
            add(f"{base}/{name}/{{session_id:path}}", sessions.rename, "PATCH", RENAME)
        add(f"{base}/session-history", sessions.list_all, "GET", LIST)
        add(f"{base}/{name}/{{session_id:path}}", sessions.query, "GET", QUERY)
    _add_health(app, runtime)


def _add_front_ends(app: FastAPI, runtime: Runtime) -> None:
    for protocol in FRONT_ENDS:
        path = f"{_CANONICAL}/{protocol.name}"
        turns, running = Completions(runtime, protocol.name), RunningTurns(runtime, protocol)
        _add(app, path, turns.complete, "POST", ABOUT_TURNS[protocol])
        stream = f"{path}/{{session_id:path}}/stream"
        _add(app, stream, running.follow, "GET", ABOUT_STREAMS[protocol])


def _add(app: FastAPI, path: str, endpoint: Any, method: str, about: dict[str, Any]) -> None:
    if path.startswith("/v1/"):
        app.add_api_route(path, endpoint, methods=[method], **about)
        _serve_directly(app.routes[-1], endpoint)
        if method == "GET":
            _add_plain(app, path, endpoint, "HEAD")
    else:  # an older address works in the same way, and is not documented
        _add_plain(app, path, endpoint, method)


def _add_plain(app: FastAPI, path: str, endpoint: Any, method: str) -> None:
    """Add a route that is not documented; GET answers HEAD, too, and the server sends no body.

    FastAPI would take a millisecond to prepare each, and there are fifty.
    """
    route = Route(path, endpoint, methods=[method], include_in_schema=False)
    _serve_directly(route, endpoint)
    app.router.routes.append(route)


class _Request(Request):
    """A request whose headers are a dict, because Starlette searches a list for each name."""

    @cached_property
    def headers(self) -> dict[str, str]:  # type: ignore[override]  # a mapping, too
        """The first value of each header, by lower-case names.

        Raises a 400 `Problem` if a header of `_ONE_VALUE` has two.
        """
        sent = self.scope["headers"]
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(sent)
        }
        if len(headers) < len(sent):
            for header in _ONE_VALUE:
                name = header.lower().encode()
                if len({value for each, value in sent if each == name}) > 1:
                    detail = f"{header}: is sent twice, with different values"
                    raise bad_request("Invalid header", detail, param=header)
        return headers


# A proxy or a library that adds a second value must not choose another session, key or caller.
_ONE_VALUE = ("Authorization", "Idempotency-Key", "X-Session-ID")


def _serve_directly(route: BaseRoute, endpoint: Any) -> None:
    """Serve a route without FastAPI's layers: it has no dependencies, and reads its request itself.

    The layers would take a third of the time of a turn, and memory as long as its stream is open.
    The whole path is matched: `$` would also match before a line break at its end.
    """

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        response = await endpoint(_Request(scope, receive), **scope["path_params"])
        if isinstance(response, TurnResponse):
            answer_after_routing(scope, response)
        else:
            await response(scope, receive, send)

    assert isinstance(route, Route)
    route.path_regex = re.compile(route.path_regex.pattern.removesuffix("$") + r"\Z", re.DOTALL)
    route.app = serve


def _add_health(app: FastAPI, runtime: Runtime) -> None:
    async def healthz(request: Request) -> Response:
        """Return 200 while the process runs."""
        return json_response({"status": "ok"})

    async def readyz(request: Request) -> Response:
        """Return 200 if a turn could be stored now, else 503."""
        if runtime.is_draining:
            raise unavailable("The server is stopping")
        await runtime.start()
        await runtime.check()
        return json_response({"status": "ok"})

    async def metrics() -> Response:
        """Return the counters in the text format of Prometheus."""
        return Response(runtime.metrics.text(), media_type=CONTENT_TYPE)

    if runtime.settings.metrics:
        app.add_api_route("/metrics", metrics, methods=["GET", "HEAD"], include_in_schema=False)
    app.add_api_route("/healthz", healthz, **HEALTHZ)
    app.add_api_route("/readyz", readyz, **READYZ)
    _add_plain(app, "/healthz", healthz, "HEAD")
    _add_plain(app, "/readyz", readyz, "HEAD")


# - what goes wrong -


async def _answer_store_error(request: Request, error: Any) -> Response:
    request.app.state.runtime.note_store_error(error)
    return problem_response(of_store(error))


async def _answer_http_error(request: Request, error: Any) -> Response:
    status = HTTPStatus(error.status_code)
    headers = dict(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    return problem_response(Problem(status, _WORDS.get(status, status.phrase), headers=headers))


def _methods(request: Request) -> set[str]:
    """Return all methods of the address; a router returns only those of its first route."""
    routes = (route for route in request.app.routes if isinstance(route, Route))
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return {method for route in matching for method in route.methods or ()}


_WORDS = {
    HTTPStatus.NOT_FOUND: "There is nothing at this address",
    HTTPStatus.METHOD_NOT_ALLOWED: "This address does not take this method",
}
_ANSWERS: dict[Any, Any] = {
    Problem: answer_problem,
    StoreError: _answer_store_error,
    HTTPException: _answer_http_error,
}


def _cors(settings: ServerSettings) -> dict[str, Any]:
    return {
        "allow_origins": list(settings.cors_origins),
        "allow_methods": ["GET", "HEAD", "POST", "PATCH", "DELETE"],
        # Clients send headers of their own (x-stainless-lang, traceparent), which are harmless.
        "allow_headers": ["*"],
        "allow_private_network": settings.cors_private_network,
        # Without cookies, "*" stands for every header of an answer.
        "expose_headers": ["*"],
    }
