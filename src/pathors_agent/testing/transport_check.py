"""Check a custom transport against a real loopback server, rule by rule."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

from anyio import to_thread

from pathors_agent.errors import TransportError
from pathors_agent.testing import loopback_server as conducts
from pathors_agent.testing.loopback_server import (
    ANSWER_HEADERS,
    Conduct,
    LoopbackServer,
    refused_port,
)
from pathors_agent.testing.usage import check_made, maker_of
from pathors_agent.transports.base import (
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
    close_pieces,
)

# Unusual spacing, a non-ASCII letter and an integer that a float would round: a body that is
# decoded and encoded again on its way comes out different.
BODY = '{ "messages":[{"role":"user", "content":"é"}],"seed":12345678901234567 }\r\n'.encode()
LARGE_BODY = b'{"messages":[{"role":"user","content":"' + b"0123456789" * 50_000 + b'"}]}'

PLAIN_REQUEST = Request(body=BODY)

ADDED_HEADERS = {"X-Check-Request": "Yes", "X-Check-Second": 'a, b; c="d"', "X-Check-Third": "0"}

SESSION_ID = "session-7"

# A leak shows after a few answers; a pool may keep a connection or two.
TIMES = 6
MOST_KEPT = 2

_OK = 200


class OwnError(Exception):
    """Raised inside the block of a transport that is checked."""


@dataclass(slots=True)
class Outcome:
    """What came of the last `send`: the parts of its response, and the error that ended it."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    session_id: str | None = None
    pieces: list[bytes] = field(default_factory=list)
    error: Exception | None = None
    still_open: int = 0
    """Connections that the client kept open after the last `send`."""
    open_after_close: int = 0
    """Those that it kept open after the transport was closed, if it can be closed."""

    @property
    def has_headers(self) -> bool:
        """Whether the headers of the answer came through."""
        return all(self.headers.get(k.lower()) == v for k, v in ANSWER_HEADERS.items())

    def note(self, response: Response | AsyncResponse) -> None:
        """Keep the response's head."""
        self.status = response.status
        self.headers = response.headers
        self.session_id = response.session_id

    def keep(self, piece: bytes, server: LoopbackServer) -> None:
        """Keep a piece, and tell the server of its length."""
        self.pieces.append(piece)
        server.note_read(len(piece))


Claims = Iterator[tuple[str, bool]]
"""What must hold, and whether it does."""

Judge = Callable[[Outcome, LoopbackServer], Claims]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The conduct of the server, the request and how its answer is read, and the claims."""

    conduct: Conduct
    judge: Judge
    request: Request = PLAIN_REQUEST
    reads: Literal["all", "first", "none", "fails"] = "all"
    """How much of the answer is read; "fails" raises inside of the block."""
    times: int = 1
    may_repeat: bool = False
    """Whether the transport may send the request again."""
    repeated: str = "a request must be sent once"


def _require(rule: Rule, outcome: Outcome, server: LoopbackServer) -> None:
    """Raise the first claim that does not hold, with the error that was raised instead, if any."""
    for sentence, holds in rule.judge(outcome, server):
        if not holds:
            error = outcome.error
            came = "" if error is None else f"; {type(error).__name__} was raised instead"
            raise AssertionError(sentence + came) from error
    if not rule.may_repeat and len(server.requests) != rule.times:
        raise AssertionError(rule.repeated)


def _request_arrives(outcome: Outcome, server: LoopbackServer) -> Claims:
    received = server.received
    yield "a request must be sent by POST", received.method == "POST"
    yield "the body must arrive as the exact bytes of Request.body", received.body == BODY
    kind = received.headers.get("content-type", "")
    yield "Content-Type must be application/json", kind.startswith("application/json")
    added = {name: received.headers.get(name.lower()) for name in ADDED_HEADERS}
    yield "Request.headers must be sent beside the transport's own", added == ADDED_HEADERS


def _large_request_arrives(outcome: Outcome, server: LoopbackServer) -> Claims:
    sentence = "a large body must arrive as the exact bytes of Request.body"
    yield sentence, server.received.body == LARGE_BODY


def _response_comes_through(outcome: Outcome, server: LoopbackServer) -> Claims:
    yield "a complete answer must raise nothing", outcome.error is None
    yield "Response.status must be the status", outcome.status == _OK
    lower = all(name == name.lower() for name in outcome.headers)
    yield "the names in Response.headers must be in lower case", lower
    yield "Response.headers must hold the headers", outcome.has_headers
    whole = b"".join(outcome.pieces) == conducts.BODY
    yield "the pieces, joined, must be the exact bytes of the body", whole


def _large_response_comes_through(outcome: Outcome, server: LoopbackServer) -> Claims:
    whole = outcome.error is None and b"".join(outcome.pieces) == conducts.LARGE_BODY
    yield "the pieces of a large body, joined, must be its exact bytes", whole


def _error_status_is_returned(status: int) -> Judge:
    def judge(outcome: Outcome, server: LoopbackServer) -> Claims:
        returned = outcome.error is None and outcome.status == status
        yield "an error status must be returned like any other, not raised", returned
        whole = b"".join(outcome.pieces) == conducts.BODY
        headers = outcome.has_headers and outcome.headers.get("retry-after") == "0"
        yield "an error status must come with its headers and its body", whole and headers

    return judge


def _refused_request_may_be_repeated(outcome: Outcome, server: LoopbackServer) -> Claims:
    expected = 503 if len(server.requests) == 1 else _OK
    yield (
        "after an error status, either it must be returned, or the answer to the request that was "
        "sent again",
        outcome.error is None and outcome.status == expected,
    )
    yield "a request must not be sent again after its answer", len(server.requests) <= 2


def _pieces_come_at_once(outcome: Outcome, server: LoopbackServer) -> Claims:
    at_once = not server.waited_in_vain and outcome.error is None
    yield "pieces must be yielded as they arrive, before the answer is complete", at_once


def _early_exit_releases(outcome: Outcome, server: LoopbackServer) -> Claims:
    yield "leaving an answer early must raise nothing", outcome.error is None
    is_closed = server.wait_for_finish() and not server.waited_in_vain
    yield "leaving the `with` block early must close the connection", is_closed


def _raises(what: str, rest: str = "") -> Judge:
    """Return a judge of answers that cannot be read: they must raise `TransportError`."""

    def judge(outcome: Outcome, server: LoopbackServer) -> Claims:
        yield f"{what} must raise TransportError{rest}", isinstance(outcome.error, TransportError)

    return judge


def _connections_are_released(outcome: Outcome, server: LoopbackServer) -> Claims:
    """Judge a few answers, each on a connection that only the client closes."""
    yield "a complete answer must raise nothing", outcome.error is None
    yield from _released(outcome)


def _unread_answers_are_released(outcome: Outcome, server: LoopbackServer) -> Claims:
    yield "leaving an answer unread must raise nothing", outcome.error is None
    yield from _released(outcome)


def _own_error_leaves_the_block(outcome: Outcome, server: LoopbackServer) -> Claims:
    unchanged = isinstance(outcome.error, OwnError)
    yield "an exception raised inside the `with` block must leave it unchanged", unchanged
    yield from _released(outcome)


def _released(outcome: Outcome) -> Claims:
    count = outcome.still_open
    sentence = f"a connection must be closed or used again after its answer; {count} are open"
    yield sentence, count <= MOST_KEPT
    yield "closing the transport must close its connections", outcome.open_after_close == 0


def _session_id_goes_round(outcome: Outcome, server: LoopbackServer) -> Claims:
    sent = server.received.headers.get("x-session-id")
    yield "Request.session_id must be sent as X-Session-ID", sent == SESSION_ID
    yield "Response.session_id must be the answer's X-Session-ID", outcome.session_id == SESSION_ID


def _new_session_id_comes_back(outcome: Outcome, server: LoopbackServer) -> Claims:
    silent = "x-session-id" not in server.received.headers
    yield "X-Session-ID must not be sent when Request.session_id is None", silent
    returned = outcome.session_id == "made-by-the-server"
    yield "Response.session_id must be the answer's X-Session-ID", returned


# A transport that obeys it repeats the request at once.
_RETRY_NOW = ANSWER_HEADERS | {"Retry-After": "0"}
_ANSWER = conducts.answer_at_once(_OK, ANSWER_HEADERS)
_ANSWER_ON_OPEN_CONNECTION = conducts.answer_at_once(_OK, ANSWER_HEADERS, stays_open=True)
_REFUSAL_ON_OPEN_CONNECTION = conducts.answer_at_once(400, ANSWER_HEADERS, stays_open=True)

_NOT_SILENT = ", not end the pieces as if complete"
_broken_connection_raises = _raises("a connection that breaks inside the body", _NOT_SILENT)
_short_body_raises = _raises("a body that is shorter than its Content-Length", _NOT_SILENT)
_ONCE_BEGUN = "a request must not be sent again once its answer has begun"


def _status_rule(status: int, conduct: Conduct) -> Rule:
    return Rule(conduct=conduct, judge=_error_status_is_returned(status), may_repeat=True)


_RULES = (
    Rule(
        conduct=_ANSWER, judge=_request_arrives, request=Request(body=BODY, headers=ADDED_HEADERS)
    ),
    Rule(conduct=_ANSWER, judge=_large_request_arrives, request=Request(body=LARGE_BODY)),
    Rule(conduct=_ANSWER, judge=_response_comes_through),
    Rule(conduct=conducts.answer_with_length(_OK, ANSWER_HEADERS), judge=_response_comes_through),
    Rule(
        conduct=conducts.answer_at_once(_OK, ANSWER_HEADERS, pieces=[conducts.LARGE_BODY]),
        judge=_large_response_comes_through,
    ),
    *(
        _status_rule(status, conducts.answer_at_once(status, _RETRY_NOW))
        for status in (400, 401, 404, 429, 500)
    ),
    _status_rule(422, conducts.answer_with_length(422, _RETRY_NOW)),
    Rule(conduct=conducts.refuse_first, judge=_refused_request_may_be_repeated, may_repeat=True),
    Rule(conduct=conducts.answer_step_by_step, judge=_pieces_come_at_once),
    Rule(conduct=conducts.answer_and_wait_for_close, judge=_early_exit_releases, reads="first"),
    *(
        Rule(conduct=conduct, judge=judge, repeated=_ONCE_BEGUN)
        for conduct, judge in (
            (conducts.break_between_chunks, _broken_connection_raises),
            (conducts.break_inside_chunk, _broken_connection_raises),
            (conducts.break_short_of_length, _short_body_raises),
        )
    ),
    Rule(
        conduct=conducts.break_at_once,
        judge=_raises("a connection that breaks before the answer"),
        may_repeat=True,
    ),
    Rule(conduct=_ANSWER_ON_OPEN_CONNECTION, judge=_connections_are_released, times=TIMES),
    Rule(
        conduct=_REFUSAL_ON_OPEN_CONNECTION,
        judge=_unread_answers_are_released,
        reads="none",
        times=TIMES,
        may_repeat=True,
    ),
    Rule(conduct=_ANSWER_ON_OPEN_CONNECTION, judge=_own_error_leaves_the_block, reads="fails"),
)

_SESSION_RULES = (
    Rule(
        conduct=conducts.answer_at_once(_OK, ANSWER_HEADERS, echo_session=True),
        judge=_session_id_goes_round,
        request=Request(body=BODY, session_id=SESSION_ID),
    ),
    Rule(
        conduct=conducts.answer_at_once(_OK, ANSWER_HEADERS, echo_session=True),
        judge=_new_session_id_comes_back,
    ),
)

REFUSED = Rule(
    conduct=conducts.break_at_once, judge=_raises("a refused connection"), may_repeat=True
)


def rules(*, sessions: bool) -> tuple[Rule, ...]:
    """Return the rules for a server that answers."""
    return _RULES + (_SESSION_RULES if sessions else ())


# Seconds for work of milliseconds; only a broken rule waits for all of them.
PATIENCE = 5.0


def check_transport(
    make: Callable[[str], Transport], *, sessions: bool = False, patience: float = PATIENCE
) -> None:
    """Check a transport for blocking code; raise AssertionError naming the first broken rule.

    `make` takes the base URL of a small server on the loopback interface and returns a transport
    that posts to it, on any path. A transport that is a context manager is closed after each rule.
    With `sessions`, the session id must go out and come back as `X-Session-ID`. `patience` is how many
    seconds the server waits for data that should arrive at once. A transport may send a request again
    after an error status, and if no answer began; never otherwise.
    """
    maker = maker_of(make, function="check_transport", wanted="a transport", example=_EXAMPLE)

    def made(base_url: str) -> Transport:
        transport: Transport = maker(base_url)
        check_made(transport, Transport, function="check_transport", other="check_async_transport")
        return transport

    for rule in rules(sessions=sessions):
        with LoopbackServer(rule.conduct, patience=patience) as server:
            _require(rule, _try(made(server.base_url), rule, server), server)
    with refused_port() as base_url, LoopbackServer(REFUSED.conduct, patience=0) as unused:
        _require(REFUSED, _try(made(base_url), REFUSED, unused), unused)


async def check_async_transport(
    make: Callable[[str], AsyncTransport], *, sessions: bool = False, patience: float = PATIENCE
) -> None:
    """Check a transport for asyncio and trio, as `check_transport` does."""
    maker = maker_of(make, function="check_async_transport", wanted="a transport", example=_EXAMPLE)

    def made(base_url: str) -> AsyncTransport:
        transport: AsyncTransport = maker(base_url)
        check_made(
            transport, AsyncTransport, function="check_async_transport", other="check_transport"
        )
        return transport

    for rule in rules(sessions=sessions):
        with LoopbackServer(rule.conduct, patience=patience) as server:
            _require(rule, await _try_async(made(server.base_url), rule, server), server)
    with refused_port() as base_url, LoopbackServer(REFUSED.conduct, patience=0) as unused:
        _require(REFUSED, await _try_async(made(base_url), REFUSED, unused), unused)


_EXAMPLE = "lambda base_url: MyTransport(base_url)"


def _try(transport: Transport, rule: Rule, server: LoopbackServer) -> Outcome:
    outcome = Outcome()
    with transport if isinstance(transport, AbstractContextManager) else nullcontext():
        for _ in range(rule.times):
            outcome = _send(transport, rule, server)
            if outcome.error is not None:
                break
        if rule.reads == "first":
            server.wait_for_finish()
        outcome.still_open = server.open_connections(at_most=MOST_KEPT)
    if isinstance(transport, AbstractContextManager):
        outcome.open_after_close = server.open_connections(at_most=0)
    return outcome


def _send(transport: Transport, rule: Rule, server: LoopbackServer) -> Outcome:
    outcome = Outcome()
    try:
        with transport.send(rule.request) as response:
            outcome.note(response)
            if rule.reads == "fails":
                raise OwnError
            for piece in response.pieces if rule.reads != "none" else ():
                outcome.keep(piece, server)
                if rule.reads == "first":
                    break
    except Exception as error:  # noqa: BLE001  (whatever it raises, the rule judges it)
        outcome.error = error
    return outcome


async def _try_async(transport: AsyncTransport, rule: Rule, server: LoopbackServer) -> Outcome:
    outcome = Outcome()
    async with transport if isinstance(transport, AbstractAsyncContextManager) else nullcontext():
        for _ in range(rule.times):
            outcome = await _send_async(transport, rule, server)
            if outcome.error is not None:
                break
        if rule.reads == "first":
            await to_thread.run_sync(server.wait_for_finish)
        outcome.still_open = await _open_connections(server, MOST_KEPT)
    if isinstance(transport, AbstractAsyncContextManager):
        outcome.open_after_close = await _open_connections(server, 0)
    return outcome


async def _open_connections(server: LoopbackServer, at_most: int) -> int:
    return await to_thread.run_sync(lambda: server.open_connections(at_most=at_most))


async def _send_async(transport: AsyncTransport, rule: Rule, server: LoopbackServer) -> Outcome:
    outcome = Outcome()
    try:
        async with transport.send(rule.request) as response:
            outcome.note(response)
            if rule.reads == "fails":
                raise OwnError
            if rule.reads == "none":
                return outcome
            await _read_async(response, rule, server, outcome)
    except Exception as error:  # noqa: BLE001  (whatever it raises, the rule judges it)
        outcome.error = error
    return outcome


async def _read_async(
    response: AsyncResponse, rule: Rule, server: LoopbackServer, outcome: Outcome
) -> None:
    pieces = aiter(response.pieces)
    try:
        async for piece in pieces:
            outcome.keep(piece, server)
            if rule.reads == "first":
                break
    finally:
        await close_pieces(pieces)
