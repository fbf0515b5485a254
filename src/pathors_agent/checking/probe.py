"""Send requests to an endpoint as agents do, and keep its whole answers."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from pathors_agent.checking.report import Finding, Verdict
from pathors_agent.errors import TransportError, error_text
from pathors_agent.json_text import read_json, write_json
from pathors_agent.messages import AssistantMessage, JSONValue, Message
from pathors_agent.transports.base import GOOD_STATUSES, Request, Transport
from pathors_agent.wire.chat_completions import ModelOptions, RequestTemplate
from pathors_agent.wire.profiles import EndpointProfile
from pathors_agent.wire.provider_errors import decode_error
from pathors_agent.wire.response_stream import ResponseStream
from pathors_agent.wire.sse import SSEParser

# The bound of an answer: a hundred times the longest one that a probe asks for.
MAX_BODY_BYTES = 4 * 1024 * 1024

# The smallest request. Each probe adds what the endpoint accepts.
BAREST = EndpointProfile(
    streams=False,
    include_usage=False,
    null_content=False,
    echoed_fields=(),
    echoes_call_fields=False,
    result_media="left_out",
    call_ids="nine",
    structured="prompt",
    requires_calls=False,
)

# The status of an answer that did not arrive.
_NO_STATUS = 0


@dataclass(frozen=True)
class EndpointAnswer:
    """One whole answer, or `failure` if the connection broke before its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    session_id: str | None = None
    failure: TransportError | None = None

    @property
    def is_refused(self) -> bool:
        """Whether the status is an error."""
        return self.status not in GOOD_STATUSES

    @property
    def is_stream(self) -> bool:
        """Whether its content type is a stream of events."""
        return "text/event-stream" in self.headers.get("content-type", "")

    @cached_property
    def error(self) -> str:
        """The text of its error."""
        return str(decode_error(self.status, self.body))

    @cached_property
    def value(self) -> Any:
        """Its body as JSON; None if it is not JSON."""
        return read_json(self.body)

    @cached_property
    def events(self) -> list[str]:
        """The data of its events."""
        return [event.data for event in SSEParser().feed(self.body)]

    @cached_property
    def chunks(self) -> list[dict[str, Any]]:
        """The JSON objects among its events."""
        return [value for value in map(read_json, self.events) if isinstance(value, dict)]

    @cached_property
    def read(self) -> ResponseStream:
        """The library's own reader, after the whole answer."""
        stream = ResponseStream()
        stream.feed(self.body)
        stream.close()
        return stream

    @cached_property
    def message(self) -> AssistantMessage:
        """The message; raises `TransportError` if there is none."""
        if self.failure:
            raise self.failure
        if self.is_refused:
            raise decode_error(self.status, self.body)
        return self.read.finish()

    @cached_property
    def problem(self) -> str:
        """The reason why there is no message; empty if there is one."""
        try:
            _ = self.message
        except TransportError as error:
            return error_text(error)
        return ""


@dataclass
class ProbeClient:
    """A client of the endpoint under test, with the findings so far.

    `profile` is the profile that works so far; `can_limit` is True if `max_tokens` limits answers.
    """

    transport: Transport
    model: str | None
    tokens: int
    seconds: float
    profile: EndpointProfile = BAREST
    can_limit: bool = False
    quirks: set[str] = field(default_factory=set)
    sessions: set[str] = field(default_factory=set)
    _kept: dict[object, EndpointAnswer] = field(default_factory=dict)

    def once(self, key: object, ask: Callable[[], EndpointAnswer]) -> EndpointAnswer:
        """Send the request only the first time: several probes use one answer."""
        if key not in self._kept:
            self._kept[key] = ask()
        return self._kept[key]

    def adopt(self, **changes: Any) -> None:
        """Update the profile with a setting that works."""
        self.profile = replace(self.profile, **changes)

    def ask(
        self,
        *messages: Message,
        tools: Sequence[JSONValue] = (),
        options: ModelOptions | None = None,
        session_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        **profile: Any,
    ) -> EndpointAnswer:
        """Ask for a completion, with changes to the profile."""
        template = self.template(tools=tools, options=options, **profile)
        return self._try(
            Request(
                body=template.encode(messages),
                headers=headers or {},
                session_id=session_id,
                seconds=self.seconds,
            )
        )

    def ask_changed(
        self,
        *messages: Message,
        tools: Sequence[JSONValue] = (),
        change: Callable[[dict[str, Any]], None],
    ) -> EndpointAnswer:
        """Send a body that `change` edits, for requests that this library never makes."""
        fields = json.loads(self.template(tools=tools).encode(messages))
        change(fields)
        return self._try(Request(body=write_json(fields), seconds=self.seconds))

    def _try(self, request: Request) -> EndpointAnswer:
        """Send a request; a broken connection is a refusal, which another form may avoid."""
        try:
            return self.send(request)
        except TransportError as error:
            if error.timed_out:
                raise
            return EndpointAnswer(_NO_STATUS, {}, b"", failure=error)

    def options(self, options: ModelOptions | None = None) -> ModelOptions:
        """Limit the length of an answer, if the endpoint can do so."""
        options = options or ModelOptions()
        if self.can_limit and options.max_tokens is None:
            return replace(options, max_tokens=self.tokens)
        return options

    def template(
        self,
        *,
        tools: Sequence[JSONValue] = (),
        options: ModelOptions | None = None,
        **profile: Any,
    ) -> RequestTemplate:
        """Return the template of the requests."""
        return RequestTemplate(
            model=self.model,
            tools=tools,
            options=self.options(options),
            profile=replace(self.profile, **profile),
        )

    def send(self, request: Request) -> EndpointAnswer:
        """Send any request, and return the answer, whatever its status."""
        with self.transport.send(request) as response:
            body = bytearray()
            for piece in response.pieces:
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    raise TransportError(f"an answer is longer than {MAX_BODY_BYTES} bytes")
        answer = EndpointAnswer(response.status, response.headers, bytes(body), response.session_id)
        self.note_session(answer.session_id)
        if not answer.problem:  # reading the message notes the quirks
            self.quirks |= {quirk.kind for quirk in answer.read.quirks}
        return answer

    def note_session(self, session_id: str | None) -> None:
        """Remember a session that the endpoint began."""
        self.sessions |= {session_id} if session_id else set()


class Observation(NamedTuple):
    """The result of a probe; the fields are those of `Finding`."""

    verdict: Verdict
    detail: str = ""
    profile: str = ""
    optional: bool = False


def holds(detail: str = "") -> Observation:
    """Return a finding: the rule holds."""
    return Observation(Verdict.HOLDS, detail)


def fails(detail: str, *, profile: str = "") -> Observation:
    """Return a finding: the rule does not hold, and these settings make up for it."""
    return Observation(Verdict.DOES_NOT_HOLD, detail, profile)


def not_seen(detail: str) -> Observation:
    """Return a finding: it is not known whether the rule holds, for this reason."""
    return Observation(Verdict.NOT_SEEN, detail)


def not_needed(detail: str) -> Observation:
    """Return a finding: agents do not need the rule at this endpoint, for this reason."""
    return Observation(Verdict.NOT_SEEN, detail, optional=True)


@dataclass(frozen=True, slots=True)
class Probe:
    """One rule, and the function that tests it."""

    name: str
    look: Callable[[ProbeClient], Observation]
    optional: bool = False

    def run(self, asking: ProbeClient) -> Finding:
        """Test the rule and return the finding, even if no answer arrives."""
        try:
            seen = self.look(asking)
        except TransportError as error:
            seen = not_seen(str(error)) if error.timed_out else fails(str(error))
        seen = seen._replace(optional=self.optional or seen.optional)
        return Finding(name=self.name, **seen._asdict())
