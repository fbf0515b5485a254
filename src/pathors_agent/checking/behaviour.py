"""Probes of errors, keys, unknown fields, sessions and abandoned answers."""

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from secrets import token_hex

from pathors_agent.agents.agent import Agent
from pathors_agent.checking.answers import HELLO
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
            return fails(f"{what} was answered with {answer.status}, as if the server had failed")
        return _error_body(answer)

    return look


def _wrong_key(asking: ProbeClient) -> Observation:
    answer = asking.ask(HELLO, headers={"Authorization": f"Bearer wrong-{token_hex(8)}"})
    if not answer.is_refused:
        return not_seen("it takes any key")
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


def end_sessions(asking: ProbeClient) -> None:
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
    return holds(f"{calls} tool calls, then {result.status.value}")


def _quirks(asking: ProbeClient) -> Observation:
    if not asking.quirks:
        return holds()
    return fails(f"read around: {', '.join(sorted(asking.quirks))}")


PROBES = (
    Probe("unknown fields of a request", _unknown_field, optional=True),
    Probe("error for a bad request", _error_for(b'{"messages":1}', "a bad request"), optional=True),
    Probe("error for invalid JSON", _error_for(b"{", "half an object"), optional=True),
    Probe("error for a wrong key", _wrong_key, optional=True),
    Probe("session header", _session, optional=True),
    Probe("a stream that is left", _left_stream),
)

LAST = (
    Probe("a whole agent, with this profile", _agent),
    Probe("answers without quirks", _quirks, optional=True),
)
