"""Run all probes of an endpoint, in an order in which each failure has one cause.

The probes of errors, keys, sessions, abandoned answers and a whole agent are here.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from secrets import token_hex

from pathors_agent.agents.agent import Agent
from pathors_agent.checking import answers, calls
from pathors_agent.checking.answers import HELLO, hello
from pathors_agent.checking.calls import TOOLS, WEATHER
from pathors_agent.checking.probe import (
    EndpointAnswer,
    Observation,
    Probe,
    ProbeClient,
    fails,
    holds,
    not_needed,
    not_seen,
)
from pathors_agent.checking.report import Report
from pathors_agent.core.limits import Limits
from pathors_agent.core.run import Status
from pathors_agent.errors import AgentError
from pathors_agent.messages import ToolMessage
from pathors_agent.sessions.client import EndpointSessions
from pathors_agent.transports.base import Request, Response, Transport
from pathors_agent.wire.chat_completions import ModelOptions

# By then, a model that repeats a call of the same tool is told to answer.
_AGENT_CALLS = 4
_KEY_REFUSED = (401, 403)
_BAD_REQUESTS = range(400, 500)
# The number of messages of one question and one answer.
_TURN = 2


def _unknown_field(asking: ProbeClient) -> Observation:
    options = ModelOptions(extra={"x_field_of_nobody": True})
    answer = asking.ask(HELLO, options=options)
    return fails(answer.problem) if answer.problem else holds()


# - errors -


def _error_for(body: bytes, what: str) -> Callable[[ProbeClient], Observation]:
    def look(asking: ProbeClient) -> Observation:
        answer = asking.send(Request(body=body, seconds=asking.seconds))
        if not answer.is_refused:
            return fails(f"{what} was answered with {answer.status}")
        if answer.status not in _BAD_REQUESTS:
            return fails(
                f"{what} was answered with {answer.status}, a status for failures of the server"
            )
        return _error_body(answer)

    return look


def _wrong_key(asking: ProbeClient) -> Observation:
    answer = asking.ask(HELLO, headers={"Authorization": f"Bearer wrong-{token_hex(8)}"})
    if not answer.is_refused:
        return not_seen("it accepts any key")
    if answer.failure:
        return fails(answer.problem)
    if answer.status not in _KEY_REFUSED:
        return fails(f"a wrong key was answered with {answer.status}")
    return _error_body(answer)


def _error_body(answer: EndpointAnswer) -> Observation:
    error = answer.value.get("error") if isinstance(answer.value, dict) else None
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return holds(f"{answer.status}")
    return fails(f'{answer.status} came without {{"error": {{"message": ...}}}}')


# - sessions -


def _session(asking: ProbeClient) -> Observation:
    session_id = f"check-{token_hex(8)}"
    answer = asking.ask(HELLO, session_id=session_id)
    if answer.problem:
        return fails(answer.problem)
    if answer.session_id != session_id:
        return fails("the session's header does not come back: it keeps no sessions")
    with suppress(AgentError, ValueError):
        if len(EndpointSessions(asking.transport).get(session_id).messages) == _TURN:
            return holds('it keeps the messages; sends="new_messages" works, too')
    return holds("whether it keeps the messages cannot be seen")


def _end_sessions(asking: ProbeClient) -> None:
    """End the sessions that the probes began at an endpoint that keeps sessions."""
    sessions = EndpointSessions(asking.transport)
    for session_id in asking.sessions:
        with suppress(AgentError):
            sessions.end(session_id)


# - streams that are left -


def _left_stream(asking: ProbeClient) -> Observation:
    if not asking.profile.streams:
        return not_needed("it does not stream")
    body = asking.template().encode([HELLO])
    with asking.transport.send(Request(body=body, seconds=asking.seconds)) as response:
        asking.note_session(response.session_id)
        next(iter(response.pieces), None)
    answer = asking.ask(HELLO)
    if answer.problem:
        return fails(f"the request after a stream that was left: {answer.problem}")
    return holds("the next request is answered")


# - everything at once -


class _Profiled(Transport):
    """The endpoint's transport with the profile that the probes found; it notes the sessions."""

    def __init__(self, asking: ProbeClient) -> None:
        self.profile = asking.profile
        self._asking = asking

    @contextmanager
    def send(self, request: Request) -> Generator[Response]:
        with self._asking.transport.send(request) as response:
            self._asking.note_session(response.session_id)
            yield response


def _agent(asking: ProbeClient) -> Observation:
    agent = Agent(
        _Profiled(asking),
        model=asking.model,
        tools=TOOLS,
        limits=Limits(turns=_AGENT_CALLS, seconds=_AGENT_CALLS * asking.seconds),
        options=asking.options(),
    )
    result = agent.run(WEATHER)
    calls = sum(isinstance(message, ToolMessage) for message in result.messages)
    if not calls:
        return not_seen("the model called no tool")
    if result.status is Status.LIMIT_REACHED:
        return not_seen(f"the model called again after each of {calls} results")
    return holds(f"tool calls: {calls}; then {result.status.value}")


def _quirks(asking: ProbeClient) -> Observation:
    if not asking.quirks:
        return holds()
    return fails(f"read around: {', '.join(sorted(asking.quirks))}")


_BEHAVIOUR = (
    Probe("unknown fields of a request", _unknown_field, optional=True),
    Probe("error for a bad request", _error_for(b'{"messages":1}', "a bad request"), optional=True),
    Probe("error for invalid JSON", _error_for(b"{", "half an object"), optional=True),
    Probe("error for a wrong key", _wrong_key, optional=True),
    Probe("session header", _session, optional=True),
    Probe("a stream that is left", _left_stream),
)

_LAST = (
    Probe("a whole agent, with this profile", _agent),
    Probe("answers without quirks", _quirks, optional=True),
)


# - the check -

# Enough for a greeting and for a tool call; models that reason first need more.
TOKENS = 256
# Enough for a small model on a slow machine to write these tokens.
SECONDS = 60.0

PROBES = (*answers.PROBES, *calls.PROBES, answers.TYPED, *_BEHAVIOUR, answers.COUNTED, *_LAST)


def check_endpoint(
    transport: Transport,
    *,
    model: str | None = None,
    tokens: int = TOKENS,
    seconds: float = SECONDS,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Check which parts of the chat-completions API a transport's endpoint supports.

    It sends about forty requests. Each answer has at most `tokens`, if the endpoint respects
    `max_tokens`, and may take `seconds`. The transport's own profile is ignored. `progress` is
    called before each probe with its name, the number of finished probes and the number of all
    probes. The check ends the sessions that the endpoint began. Raises `TransportError` if the
    endpoint answers no request.
    """
    asking = ProbeClient(transport, model, tokens, seconds)
    _make_contact(asking)
    findings = []
    try:
        for done, probe in enumerate(PROBES):
            if progress:
                progress(probe.name, done, len(PROBES))
            findings.append(probe.run(asking))
    finally:
        with suppress(Exception):  # the report is more important
            _end_sessions(asking)
    return Report(findings=tuple(findings), profile=asking.profile)


def _make_contact(asking: ProbeClient) -> None:
    """Raise the endpoint's error if it answers neither with a stream nor with a whole answer."""
    if hello(asking, streams=False).problem:
        _ = hello(asking, streams=True).message
