"""Turns in the protocols of front ends: their requests read, their answers written."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from pydantic import ValidationError

from pathors_agent.agents.approvals import Approval
from pathors_agent.messages import (
    AssistantMessage,
    JSONValue,
    Message,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from pathors_agent.server.http.completion import (
    CompletionRequest,
    StreamOptions,
    check_header,
    read_request,
)
from pathors_agent.server.http.problems import Problem, bad_request
from pathors_agent.server.settings import ServerSettings
from pathors_agent.server.streams.ag_ui import AGUIEvents, AGUIRequest
from pathors_agent.server.streams.front_end import (
    Events,
    FrontEndRequest,
    Reason,
    RunEnd,
    frames,
    read_content,
)
from pathors_agent.server.streams.ui_messages import UIMessageRequest
from pathors_agent.server.streams.ui_stream import UIMessageEvents
from pathors_agent.server.turns.answer import TurnAnswer
from pathors_agent.server.turns.join import BETWEEN_TEXTS
from pathors_agent.server.turns.turn import Turn
from pathors_agent.server.turns.writers import (
    ClientSender,
    EventWriter,
    StreamWriter,
    WholeWriter,
    activity,
)
from pathors_agent.stores.values import session_id_problem
from pathors_agent.tools.registry import ToolRegistry
from pathors_agent.wire.deltas import Delta, ReasoningDelta, TextDelta

# - requests -

Read = tuple[CompletionRequest, FrontEndRequest | None]
ReadBody = Callable[[Mapping[str, JSONValue], str | None, ServerSettings], Read]
"""Reads the fields of a body, with the session of the header. Raises the `Problem` with them."""

COMPLETIONS = "completions"


def _read_completion(
    fields: Mapping[str, JSONValue], header_session: str | None, settings: ServerSettings
) -> Read:
    return read_request(fields, header_session, settings), None


def _read_front_end(
    model: type[FrontEndRequest],
    fields: Mapping[str, JSONValue],
    header_session: str | None,
    settings: ServerSettings,
) -> Read:
    """Read a request of a front end as one for a streamed completion of the session."""
    if header_session is not None:
        check_header(header_session, "X-Session-ID", session_id_problem)
    try:
        present = {name: value for name, value in fields.items() if value is not None}
        sent = model.model_validate(present, strict=True)
    except ValidationError as error:
        raise bad_request("Invalid request body", *_details(error)) from None
    session_id = header_session or sent.session_id or None
    if session_id is not None and (problem := session_id_problem(session_id)):
        raise bad_request("Invalid session id", problem)
    if len(sent.sent_messages) > settings.max_messages:
        count = len(sent.sent_messages)
        raise bad_request(
            "Invalid request body", f"messages: has {count}, more than {settings.max_messages}"
        )
    if len(sent.client_tools) > settings.max_tools:
        count = len(sent.client_tools)
        raise bad_request(
            "Invalid request body", f"tools: has {count}, more than {settings.max_tools}"
        )
    request = CompletionRequest.model_construct(
        messages=tuple(sent.sent_messages),
        stream=True,
        stream_options=StreamOptions(include_reasoning=True, include_tool_activity=True),
        session_id=session_id,
        rewind=sent.rewinds,
        tools=ToolRegistry(sent.client_tools),
    )
    return request, sent


def _details(error: ValidationError) -> Iterator[str]:
    for each in error.errors(include_url=False, include_input=False, include_context=False):
        place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in each["loc"])
        yield f"{place.removeprefix('.')}: {each['msg']}" if place else each["msg"]


FRONT_ENDS: Sequence[type[FrontEndRequest]] = (UIMessageRequest, AGUIRequest)
READERS: Mapping[str, ReadBody] = {
    COMPLETIONS: _read_completion,
    **{model.name: partial(_read_front_end, model) for model in FRONT_ENDS},
}


# - answers -


def writer_of(
    turn: Turn, sender: ClientSender, headers: dict[str, str]
) -> EventWriter | WholeWriter:
    """Return the writer of a turn's answer."""
    if turn.front_end is not None:
        return FrontEndWriter(turn, turn.front_end, sender, headers)
    return (StreamWriter if turn.request.stream else WholeWriter)(turn, sender, headers)


def _events_of(front_end: FrontEndRequest) -> Events:
    known = front_end.conversation.call_ids
    if isinstance(front_end, AGUIRequest):
        return AGUIEvents(front_end.thread_id, front_end.run_id, known)
    return UIMessageEvents(known, sent=front_end.conversation.queued)


_REASONS: Mapping[str, Reason] = {
    "tool_calls": "tool-calls",
    "length": "length",
    "content_filter": "content-filter",
}


class FrontEndWriter(EventWriter):
    """Answers with the events of a front end's protocol.

    A stored answer is written from its text and its events about tools. Its events have other ids
    than the events that were sent while it ran.
    """

    def __init__(
        self, turn: Turn, front_end: FrontEndRequest, sender: ClientSender, headers: dict[str, str]
    ) -> None:
        super().__init__(turn, sender, {**headers, **front_end.headers})
        self._front_end = front_end
        self._events = _events_of(front_end)
        self._count = 0
        self._opening: list[bytes] = []  # sent with the first items
        self._has_items = False
        self._texts, self._reasonings = 0, 0  # characters of the answer so far
        # A repeat without a name may get an answer that no client read.
        self._keeps_activities = turn.is_named or turn.outlives_client

    def begin(self, rewound: int, denied: Sequence[ToolMessage] = ()) -> None:
        """Record that the model is about to be called, and let clients follow from now on."""
        super().begin(rewound, denied)
        opening = self._numbered(self._events.begin())
        # All messages of a large history are written for AG-UI: only if a client may read them.
        replay = self._front_end.replay if self._turn.outlives_client else b""
        self._keep_events(opening.partition(b"\n")[0] + b"\n" + replay if replay else b"")
        self._opening = [opening, *(self._denied(message) for message in denied)]
        if self._kept is not None:
            for event in self._opening:
                self._kept.add(event)

    def _denied(self, message: ToolMessage) -> bytes:
        self._note(message)
        return self._numbered(self._events.denied(message))

    def _numbered(self, event: Mapping[str, object]) -> bytes:
        return self._identified(frames(event))

    def _identified(self, data: bytes) -> bytes:
        self._count += 1
        return b"id: %s:%d\n%s" % (self._turn.head.id.encode(), self._count, data)

    async def items(self, items: Iterable[Delta | Message]) -> None:
        """Send deltas and messages that came together, in one write."""
        self._has_items = True
        items = [item for item in items if self._shows(item)]
        for item in items:
            self._note(item)
        events = [self._numbered(event) for event in self._events.of(items)]
        if events:
            await self._open()
            await self._send(events)

    def _shows(self, item: Delta | Message) -> bool:
        if isinstance(item, UserMessage):
            return item.feedback  # the client has its own messages
        return self._shows_reasoning or not isinstance(item, ReasoningDelta)

    async def _open(self) -> None:
        """Send the first events, which are kept already."""
        opening, self._opening = self._opening, []
        if opening:
            await self._start()
            await self._send(opening, are_kept=True)

    def _note(self, item: Delta | Message) -> None:
        """Keep the events about tools for a repeat, with their places in the whole answer."""
        if not self._keeps_activities or isinstance(item, TextDelta):
            return
        if isinstance(item, AssistantMessage):
            self._texts += _grown(self._texts, item.text)
            self._reasonings += _grown(self._reasonings, item.reasoning)
        for value in activity(item):
            self._keep_activity(value, len(str(value)), (self._texts, self._reasonings))

    async def end(self, answer: TurnAnswer) -> None:
        """Send the rest of the answer: all of one that is stored."""
        events: list[bytes] = []
        if not self._has_items:
            self._headers["x-session-id"] = answer.head.session_id
            self._rewound = answer.rewound
            if not self._is_asked:
                self._opening = [self._numbered(self._events.begin())]
            events += map(self._numbered, self._stored(answer))
        await self._open()
        await self._start()
        events += map(self._numbered, self._events.end(_end(answer)))
        await self._send_last(events)

    def _stored(self, answer: TurnAnswer) -> Iterator[Mapping[str, object]]:
        """Yield the events of an answer that no client of this process got."""
        called: set[str] = set()
        for item in _stored_items(answer):
            if isinstance(item, AssistantMessage):
                called.update(call.id for call in item.tool_calls)
            if isinstance(item, ToolMessage) and item.tool_call_id not in called:
                is_denied = item.outcome == "not_run"
                yield from [self._events.denied(item)] if is_denied else self._events.of([item])
            elif self._shows(item):
                yield from self._events.of([item])

    async def fail(self, problem: Problem) -> None:
        """Send the problem: as the status if none was sent, else as the last event."""
        events = [self._numbered(event) for event in self._events.error(problem.message)]
        if self._sender.is_open:
            await self._send_last(events)
            return
        if self._kept is not None:
            self._kept.add(b"".join(events), is_last=True)
        await self._refuse(problem)

    async def _send_last(self, events: list[bytes]) -> None:
        if self._events.last:
            events.append(self._identified(self._events.last))
        await self._send(events, more=False)


def _grown(before: int, text: str | None) -> int:
    """Return how many characters a text adds to those of an answer."""
    return len(text) + (len(BETWEEN_TEXTS) if before else 0) if text else 0


def _end(answer: TurnAnswer) -> RunEnd:
    waiting = [
        Approval(_call(call), call["approval"]["digest"])
        for call in answer.calls
        if "approval" in call
    ]
    return RunEnd(
        reason=_REASONS.get(answer.finish_reason, "stop"),
        approvals=waiting,
        open_calls=[call["id"] for call in answer.calls],
    )


def _call(written: Mapping[str, JSONValue]) -> ToolCall:
    """Return the call that `write_call` wrote, or that an answer shows."""
    known = ("id", "type", "function", "approval")
    function = written["function"]
    assert isinstance(function, dict)
    return ToolCall(
        id=str(written["id"]),
        name=str(function["name"]),
        arguments=str(function["arguments"]),
        extra={name: value for name, value in written.items() if name not in known},
    )


def _stored_items(answer: TurnAnswer) -> Iterator[Delta | Message]:
    """Yield the answers and results of a turn as far as its stored answer holds them."""
    text, reasoning = answer.text or "", answer.reasoning or ""
    calls: list[ToolCall] = []
    sent, place = (0, 0), (0, 0)
    for each in answer.activities:
        if "call" in each.value:
            calls.append(_call(each.value["call"]))
            place = each.text, each.reasoning
        elif "result" in each.value:
            if calls:
                yield from _answer(text[sent[0] : place[0]], reasoning[sent[1] : place[1]], calls)
                calls, sent = [], place
            yield _result(each.value["result"])
    yield from _answer(text[sent[0] :], reasoning[sent[1] :], calls, answer.refusal)


def _answer(
    text: str, reasoning: str, calls: Sequence[ToolCall], refusal: str | None = None
) -> Iterator[Delta | Message]:
    if thought := reasoning.removeprefix(BETWEEN_TEXTS):
        yield ReasoningDelta(thought)
    text = text.removeprefix(BETWEEN_TEXTS)
    if text or calls or refusal:
        content = text or None
        yield AssistantMessage(content=content, tool_calls=tuple(calls), refusal=refusal)


def _result(written: Mapping[str, JSONValue]) -> ToolMessage:
    return ToolMessage.model_validate(
        {
            "tool_call_id": written["tool_call_id"],
            "content": read_content(written.get("parts") or written["content"]),
            "outcome": written["outcome"],
        }
    )
