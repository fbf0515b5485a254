"""Test a transport of your own against a real loopback server, rule by rule."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass, field

from anyio import to_thread

from pathors_agent.errors import TransportError
from pathors_agent.testing.loopback_server import (
    ANSWER_HEADERS,
    FIRST_EVENT,
    SECOND_EVENT,
    Conduct,
    LoopbackServer,
    answer_and_break,
    answer_and_wait_for_close,
    answer_at_once,
    answer_when_first_piece_was_read,
    refused_port,
)
from pathors_agent.transports.base import (
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
)

# Unusual spacing, a non-ASCII letter and an integer that a float would round: a body that is
# decoded and encoded again on its way comes out different.
BODY = '{ "messages":[{"role":"user", "content":"é"}],"seed":12345678901234567 }'.encode()

PLAIN_REQUEST = Request(body=BODY)

SESSION_ID = "session-7"

# Seconds for what takes milliseconds on an idle machine; only broken rules wait so long.
PATIENCE = 5.0


@dataclass(slots=True)
class Outcome:
    """What came of one `send`: the parts of its response, and the error that ended it."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    session_id: str | None = None
    pieces: list[bytes] = field(default_factory=list)
    error: Exception | None = None

    def note(self, response: Response | AsyncResponse) -> None:
        """Keep the response's head."""
        self.status = response.status
        self.headers = response.headers
        self.session_id = response.session_id

    def keep(self, piece: bytes, server: LoopbackServer) -> None:
        """Keep a piece, and tell the server when it holds anything."""
        self.pieces.append(piece)
        if piece:
            server.first_piece_was_read.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How the server acts, what is sent and read, and how what came of it is judged."""

    conduct: Conduct
    judge: Callable[[Outcome, LoopbackServer], None]
    request: Request = PLAIN_REQUEST
    leaves_early: bool = False


def check_transport(
    make: Callable[[str], Transport], *, sessions: bool = False, patience: float = PATIENCE
) -> None:
    """Check a transport for blocking code; raise AssertionError naming the first broken rule.

    `make` gets the base URL of a small server on the loopback interface and gives a transport
    that posts to it, on whatever path. A transport that is a context manager is closed after
    each rule. With `sessions`, the session id must go out and come back as `X-Session-ID`.
    `patience` is how many seconds the server waits for what should come at once.
    """
    for rule in _rules(sessions=sessions):
        with LoopbackServer(rule.conduct, patience=patience) as server:
            rule.judge(_try(make(server.base_url), rule, server), server)
    with refused_port() as base_url, LoopbackServer(_REFUSED.conduct, patience=0) as unused:
        _REFUSED.judge(_try(make(base_url), _REFUSED, unused), unused)


async def check_async_transport(
    make: Callable[[str], AsyncTransport], *, sessions: bool = False, patience: float = PATIENCE
) -> None:
    """Check a transport for asyncio and trio, as `check_transport` does."""
    for rule in _rules(sessions=sessions):
        with LoopbackServer(rule.conduct, patience=patience) as server:
            rule.judge(await _try_async(make(server.base_url), rule, server), server)
    with refused_port() as base_url, LoopbackServer(_REFUSED.conduct, patience=0) as unused:
        _REFUSED.judge(await _try_async(make(base_url), _REFUSED, unused), unused)


def _try(transport: Transport, rule: Rule, server: LoopbackServer) -> Outcome:
    outcome = Outcome()
    with _closing(transport):
        try:
            with transport.send(rule.request) as response:
                outcome.note(response)
                for piece in response.pieces:
                    outcome.keep(piece, server)
                    if rule.leaves_early:
                        break
        except Exception as error:  # noqa: BLE001  whatever it raises, the rule judges it
            outcome.error = error
        if rule.leaves_early:
            server.finished.wait(server.patience * 2)
    return outcome


async def _try_async(transport: AsyncTransport, rule: Rule, server: LoopbackServer) -> Outcome:
    outcome = Outcome()
    async with _closing_async(transport):
        try:
            async with transport.send(rule.request) as response:
                outcome.note(response)
                async for piece in response.pieces:
                    outcome.keep(piece, server)
                    if rule.leaves_early:
                        break
        except Exception as error:  # noqa: BLE001  whatever it raises, the rule judges it
            outcome.error = error
        if rule.leaves_early:
            await to_thread.run_sync(server.finished.wait, server.patience * 2)
    return outcome


@contextmanager
def _closing(transport: Transport) -> Iterator[None]:
    if isinstance(transport, AbstractContextManager):
        with transport:
            yield
    else:
        yield


@asynccontextmanager
async def _closing_async(transport: AsyncTransport) -> AsyncIterator[None]:
    if isinstance(transport, AbstractAsyncContextManager):
        async with transport:
            yield
    else:
        yield


def _require(sentence: str, outcome: Outcome, *, holds: bool) -> None:
    """Raise the sentence, with the error that came instead when there was one."""
    if holds:
        return
    error = outcome.error
    came = "" if error is None else f"; {type(error).__name__} was raised instead"
    raise AssertionError(sentence + came) from error


def _request_arrives(outcome: Outcome, server: LoopbackServer) -> None:
    _require("a request must be sent by POST", outcome, holds=server.method == "POST")
    _require(
        "the body must arrive as the exact bytes of Request.body",
        outcome,
        holds=server.body == BODY,
    )
    kind = server.headers.get("content-type", "")
    _require(
        "Content-Type must be application/json", outcome, holds=kind.startswith("application/json")
    )
    added = server.headers.get("x-check-request")
    _require(
        "Request.headers must be sent beside the transport's own", outcome, holds=added == "Yes"
    )


def _response_comes_through(outcome: Outcome, server: LoopbackServer) -> None:
    _require("a complete answer must raise nothing", outcome, holds=outcome.error is None)
    _require("Response.status must be the status", outcome, holds=outcome.status == 200)
    lower = all(name == name.lower() for name in outcome.headers)
    _require("the names in Response.headers must be in lower case", outcome, holds=lower)
    value = outcome.headers.get("x-check-header")
    _require("Response.headers must hold the headers", outcome, holds=value == "Yes")
    whole = b"".join(outcome.pieces) == FIRST_EVENT + SECOND_EVENT
    _require("the pieces, joined, must be the exact bytes of the body", outcome, holds=whole)


def _error_status_is_returned(outcome: Outcome, server: LoopbackServer) -> None:
    returned = outcome.error is None and outcome.status in {429, 500}
    _require("an error status must be returned like any other, not raised", outcome, holds=returned)
    _require(
        "an error status must come with its headers and its body",
        outcome,
        holds=outcome.headers.get("retry-after") == "7" and outcome.pieces != [],
    )


def _pieces_come_at_once(outcome: Outcome, server: LoopbackServer) -> None:
    _require(
        "pieces must be given as they arrive, before the answer is complete",
        outcome,
        holds=not server.waited_in_vain and outcome.error is None,
    )


def _early_exit_releases(outcome: Outcome, server: LoopbackServer) -> None:
    _require("leaving an answer early must raise nothing", outcome, holds=outcome.error is None)
    _require(
        "leaving the `with` block early must close the connection",
        outcome,
        holds=server.finished.is_set() and not server.waited_in_vain,
    )


def _broken_connection_raises(outcome: Outcome, server: LoopbackServer) -> None:
    _require(
        "a connection that breaks inside the body must raise TransportError,"
        " not end the pieces as if complete",
        outcome,
        holds=isinstance(outcome.error, TransportError),
    )


def _refused_connection_raises(outcome: Outcome, server: LoopbackServer) -> None:
    refused = isinstance(outcome.error, TransportError)
    _require("a refused connection must raise TransportError", outcome, holds=refused)


def _session_id_goes_round(outcome: Outcome, server: LoopbackServer) -> None:
    sent = server.headers.get("x-session-id")
    _require("Request.session_id must be sent as X-Session-ID", outcome, holds=sent == SESSION_ID)
    returned = outcome.session_id == SESSION_ID
    _require("Response.session_id must be the answer's X-Session-ID", outcome, holds=returned)


def _new_session_id_comes_back(outcome: Outcome, server: LoopbackServer) -> None:
    silent = "x-session-id" not in server.headers
    _require("X-Session-ID must not be sent when Request.session_id is None", outcome, holds=silent)
    returned = outcome.session_id == "made-by-the-server"
    _require("Response.session_id must be the answer's X-Session-ID", outcome, holds=returned)


_RETRY_LATER = ANSWER_HEADERS | {"Retry-After": "7"}

_RULES = (
    Rule(
        conduct=answer_at_once(200, ANSWER_HEADERS),
        judge=_request_arrives,
        request=Request(body=BODY, headers={"X-Check-Request": "Yes"}),
    ),
    Rule(conduct=answer_at_once(200, ANSWER_HEADERS), judge=_response_comes_through),
    Rule(conduct=answer_at_once(429, _RETRY_LATER), judge=_error_status_is_returned),
    Rule(conduct=answer_at_once(500, _RETRY_LATER), judge=_error_status_is_returned),
    Rule(conduct=answer_when_first_piece_was_read, judge=_pieces_come_at_once),
    Rule(conduct=answer_and_wait_for_close, judge=_early_exit_releases, leaves_early=True),
    Rule(conduct=answer_and_break, judge=_broken_connection_raises),
)

_SESSION_RULES = (
    Rule(
        conduct=answer_at_once(200, ANSWER_HEADERS, echo_session=True),
        judge=_session_id_goes_round,
        request=Request(body=BODY, session_id=SESSION_ID),
    ),
    Rule(
        conduct=answer_at_once(200, ANSWER_HEADERS, echo_session=True),
        judge=_new_session_id_comes_back,
    ),
)

_REFUSED = Rule(conduct=answer_and_break, judge=_refused_connection_raises)


def _rules(*, sessions: bool) -> tuple[Rule, ...]:
    return _RULES + (_SESSION_RULES if sessions else ())
