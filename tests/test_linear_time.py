"""Work is linear in the size of what comes: bytes, calls, messages, tools.

Each shape is made in two sizes, one four times the other, and the work of both is counted.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from counting import check_linear, work_of
from pathors_agent import load_messages
from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.limits import Limits
from pathors_agent.core.run import Run
from pathors_agent.history.loading import dump_messages
from pathors_agent.history.trim import last_turns, token_budget
from pathors_agent.messages import (
    AssistantMessage,
    JSONValue,
    Message,
    ToolCall,
    ToolMessage,
    UserMessage,
    write_message,
)
from pathors_agent.schema.compiled import compile_schema
from pathors_agent.server.http.body import parse_object
from pathors_agent.server.http.completion import read_request
from pathors_agent.server.http.problems import Problem
from pathors_agent.server.settings import ServerSettings
from pathors_agent.server.turns.join import join
from pathors_agent.testing import ScriptedTransport, calls
from pathors_agent.tools.registry import BoundCall, ToolRegistry
from pathors_agent.tools.results import result_message
from pathors_agent.tools.tool import Tool, tool
from pathors_agent.transports.base import (
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
)
from pathors_agent.wire.chat_completions import RequestTemplate
from pathors_agent.wire.completion_bytes import plain_body
from pathors_agent.wire.deltas import ToolCallDelta
from pathors_agent.wire.messages import read_client_messages
from pathors_agent.wire.response_stream import ResponseStream

Work = Callable[[], object]
Shape = Callable[[int], Work]

END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
LIMITS = Limits(turns=10**6, repeats=10**6)


# - bytes


def event(delta: object) -> bytes:
    value = {"id": "chat-1", "model": "m", "choices": [{"index": 0, "delta": delta}]}
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def piece_of_call(arguments: str, **fields: object) -> bytes:
    function = {"name": fields.pop("name", None), "arguments": arguments}
    return event({"tool_calls": [{"index": 0, "function": function, **fields}]})


def reading(pieces: Iterable[bytes]) -> Work:
    """Read an answer; whether it is one is no matter here."""
    pieces = list(pieces)

    def read() -> None:
        stream = ResponseStream()
        for piece in pieces:
            stream.feed(piece)
        stream.close()

    return read


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


def whole_body(size: int) -> bytes:
    answer = {"role": "assistant", "content": "x" * 50 * size}
    return json.dumps({"choices": [{"message": answer, "finish_reason": "stop"}]}).encode()


OPENED = piece_of_call("", name="add", id="call_a")

BYTES: dict[str, tuple[int, Shape]] = {
    "texts, one event at a time": (600, lambda n: reading([event({"content": "word "})] * n)),
    "texts in one piece": (600, lambda n: reading([event({"content": "word "}) * n])),
    "texts, byte by byte": (100, lambda n: reading(cut(event({"content": "word "}) * n, 1))),
    "texts with CR LF": (
        600,
        lambda n: reading([event({"content": "w"}).replace(b"\n", b"\r\n")] * n),
    ),
    "arguments": (600, lambda n: reading([OPENED, *[piece_of_call('{"a')] * n])),
    "names of calls again": (600, lambda n: reading([piece_of_call("1", name="add")] * n)),
    "reasoning": (600, lambda n: reading([event({"reasoning_content": "hm "})] * n)),
    "refusals": (600, lambda n: reading([event({"refusal": "no "})] * n)),
    "unknown fields that are lists": (
        300,
        lambda n: reading([event({"reasoning_details": [{"text": "hm"}]})] * n),
    ),
    "halves of characters": (
        300,
        lambda n: reading([event({"content": "\ud83d"}), event({"content": "\ude80"})] * n),
    ),
    "keep-alive comments": (600, lambda n: reading([b": ping\n\n"] * n)),
    "blank lines": (3_000, lambda n: reading([b"\n"] * n)),
    "blanks before a body": (3_000, lambda n: reading([b" "] * n)),
    "lines that mean nothing": (600, lambda n: reading([b"x: y\n"] * n)),
    "data lines of one event": (600, lambda n: reading([b"data: x\n"] * n)),
    "lone CRs": (1_000, lambda n: reading([b"data: 1\r"] * n)),
    "a plain body in pieces": (600, lambda n: reading(cut(whole_body(n), 64))),
    "a page of HTML": (600, lambda n: reading([b"<p>no</p>"] * n)),
}


@pytest.mark.parametrize("kind", BYTES)
def test_work_to_read_an_answer_is_linear_in_its_bytes(kind: str) -> None:
    size, shape = BYTES[kind]
    check_linear(shape, size // 10)


FINISHING = {"index": 0, "delta": {"content": "word "}, "finish_reason": "", "logprobs": None}
USUAL = {
    "text": event({"content": "word "}),
    "text beside fields that are empty": b"data: %s\n\n"
    % json.dumps({"object": "chunk", "usage": None, "choices": [FINISHING]}).encode(),
    "reasoning": event({"reasoning_content": "hm "}),
    "arguments": piece_of_call("1, "),
}


@pytest.mark.parametrize("kind", USUAL)
def test_usual_event_takes_few_lines(kind: str) -> None:
    def lines(events: int) -> int:
        return work_of(reading([OPENED, *[USUAL[kind]] * events]), allocations=False).lines

    # The tolerant reader takes about 150. Sizes are checked for the first time after 120 events.
    assert (lines(120) - lines(20)) / 100 <= 32


def test_work_of_an_event_in_pieces_is_linear() -> None:
    # Long enough for a copy of all before to outweigh the call that makes it.
    check_linear(lambda n: reading(cut(event({"content": "x" * 400 * n}), 100)), 50)


SHOWN = {
    "a long string": lambda n: ['{"a":"', *["words "] * n],
    "a long list": lambda n: ['{"a":[', *["1,"] * n],
    "a long object": lambda n: ["{", *[f'"{i}":1,' for i in range(n)]],
    "a number": lambda n: ['{"a":', *["1"] * n],
}


@pytest.mark.parametrize("kind", SHOWN)
def test_work_to_show_arriving_arguments_is_linear(kind: str) -> None:
    def shown(size: int) -> Work:
        pieces = [OPENED, *map(piece_of_call, SHOWN[kind](size))]

        def show() -> None:
            stream = ResponseStream()
            for piece in pieces:
                for delta in stream.feed(piece):
                    assert isinstance(delta, ToolCallDelta)
                    _ = delta.partial

        return show

    check_linear(shown, 50)


# - calls


@tool
def look(page: int) -> str:
    """Look at a page."""
    return f"page {page}"


def test_work_of_an_answers_calls_is_linear() -> None:
    def answered(count: int) -> Work:
        def run() -> None:
            script = calls(*(("look", {"page": page}) for page in range(count)))
            agent = Agent(ScriptedTransport(script, "Done."), tools=[look], limits=LIMITS)
            assert agent.run("Look.").output == "Done."

        return run

    check_linear(answered, 16)


class Deaf(Transport):
    """Gives its answers without a look at the requests, which hold the whole history."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = iter(answers)

    @contextmanager
    def send(self, request: Request) -> Iterator[Response]:
        yield Response(status=200, pieces=iter([next(self._answers), END]))


def test_work_of_a_run_is_linear_in_its_turns() -> None:
    def many_turns(count: int) -> Work:
        turns = [
            piece_of_call(f'{{"page": {page}}}', name="look", id=f"call_{page}")
            for page in range(count)
        ]
        done = event({"content": "Done."})

        def run() -> None:
            agent = Agent(Deaf(*turns, done), tools=[look], limits=LIMITS)
            assert agent.run("Look.").output == "Done."

        return run

    check_linear(many_turns, 12)


def test_work_to_take_a_run_up_is_linear_in_its_turns() -> None:
    def taken_up(turns: int) -> Work:
        conversation = Conversation(turns_of_calls(turns))
        return lambda: Run(conversation, limits=LIMITS).effects()

    check_linear(taken_up, 25)


# - messages


def turns_of_calls(turns: int) -> list[Message]:
    """A question, and so many answers with a call each."""
    messages: list[Message] = [UserMessage(content="Look.")]
    for turn in range(turns):
        call = ToolCall(id=f"call_{turn}", name="look", arguments=f'{{"page": {turn}}}')
        messages.append(AssistantMessage(tool_calls=(call,)))
        messages.append(ToolMessage(tool_call_id=call.id, content="page"))
    return messages


def talk(turns: int) -> list[Message]:
    """So many questions with their answers, and one more."""
    said: list[Message] = []
    for turn in range(turns):
        said += [UserMessage(content=f"Question {turn}"), AssistantMessage(content="Answer")]
    return [*said, UserMessage(content="Last question")]


def recording(size: int) -> Work:
    messages = turns_of_calls(size)

    def record() -> None:
        run = Run(Conversation(messages[:1]))
        for message in messages[1:]:
            run.record(message)  # type: ignore[arg-type]  # no system messages among them

    return record


def sending(size: int) -> Work:
    return lambda: RequestTemplate(model="m").encode(talk(size))


def storing(size: int) -> Work:
    messages = talk(size)
    return lambda: load_messages(dump_messages(messages))


def told(size: int) -> Work:
    given: list[JSONValue] = [write_message(message) for message in talk(size)]
    return lambda: read_client_messages(given)


def told_again(size: int) -> Work:
    stored = turns_of_calls(size)
    given = [*stored, UserMessage(content="More.")]
    return lambda: join(stored, given, ["look"])


def told_alike(size: int) -> Work:
    stored: list[Message] = [UserMessage(content="a"), *[UserMessage(content="b")] * size]
    given = [AssistantMessage(content="c"), *stored[1:], UserMessage(content="d")]

    def refused() -> None:
        with pytest.raises(Problem):
            join(stored, given, ["look"])

    return refused


def body(size: int) -> Work:
    text = json.dumps({"messages": [write_message(m) for m in talk(size)]}).encode()
    settings = ServerSettings(max_messages=10**6)
    return lambda: read_request(parse_object(text, settings), None, settings)


MESSAGES: dict[str, tuple[int, Shape]] = {
    "recorded one by one": (120, recording),
    "sent": (120, sending),
    "stored and loaded": (120, storing),
    "told by a client": (120, told),
    "told by a client again": (120, told_again),
    "told by a client, all alike": (1000, told_alike),
    "in a request's body": (120, body),
    "of which the last turns are sent": (400, lambda n: _choosing(last_turns(n // 2), n)),
    "of which a budget is sent": (400, lambda n: _choosing(token_budget(5 * n), n)),
}


def _choosing(choose: Callable[[list[Message]], object], size: int) -> Work:
    messages = talk(size)
    return lambda: choose(messages)


@pytest.mark.parametrize("kind", MESSAGES)
def test_work_is_linear_in_the_messages(kind: str) -> None:
    size, shape = MESSAGES[kind]
    check_linear(shape, size // 10)


# - tools


def plain_tools(count: int) -> list[Tool]:
    return [Tool(name=f"tool_{number}", function=look) for number in range(count)]


def registered(count: int) -> Work:
    return lambda: ToolRegistry(plain_tools(count)).definitions()


def called(count: int) -> Work:
    registry = ToolRegistry(plain_tools(count))
    wanted = [ToolCall(id="a", name=f"tool_{number}") for number in range(count)]
    return lambda: [registry.bind(call) for call in wanted]


def offered_by_a_client(count: int) -> Work:
    taken: JSONValue = {"type": "object", "properties": {"page": {"type": "integer"}}}
    tools: list[JSONValue] = [
        {"type": "function", "function": {"name": f"tool_{number}", "parameters": taken}}
        for number in range(count)
    ]
    fields: dict[str, JSONValue] = {"messages": [{"role": "user", "content": "Hi"}], "tools": tools}
    settings = ServerSettings(max_tools=10**6)
    return lambda: read_request(fields, None, settings)


def properties(count: int) -> dict[str, JSONValue]:
    return {
        "type": "object",
        "properties": {f"p{number}": {"type": "integer"} for number in range(count)},
        "additionalProperties": False,
    }


NUMBERS = itertools.count()


def compiled(count: int) -> Work:
    # A different schema each time: compiled schemas are cached.
    return lambda: compile_schema({**properties(count), "title": str(next(NUMBERS))})


def checked(count: int) -> Work:
    validator = compile_schema(properties(count))
    value: JSONValue = dict.fromkeys((f"p{number}" for number in range(count)), 1)
    return lambda: validator.problems(value)


def refused(count: int) -> Work:
    validator = compile_schema(properties(count))
    value: JSONValue = dict.fromkeys((f"p{number}" for number in range(count)), "no")
    return lambda: validator.problems(value)


def returned(count: int) -> Work:
    wanted = Tool(name="look", function=look, max_result_characters=10**7)
    bound = BoundCall(ToolCall(id="a", name="look"), wanted, {})
    value = [{"page": number} for number in range(count)]
    return lambda: result_message(bound, value)


TOOLS: dict[str, tuple[int, Shape]] = {
    "registered": (50, registered),
    "called": (150, called),
    "offered by a client": (25, offered_by_a_client),
    "with a large schema": (100, compiled),
    "with many arguments": (150, checked),
    "with many wrong arguments": (150, refused),
    "with a large value": (800, returned),
}


@pytest.mark.parametrize("kind", TOOLS)
def test_work_is_linear_in_the_tools_and_their_parameters(kind: str) -> None:
    size, shape = TOOLS[kind]
    check_linear(shape, size // 10)


# - a run with a tool


class Completions(AsyncTransport):
    """A model that calls a tool and then answers, as plain completions of one piece."""

    def __init__(self, *bodies: bytes) -> None:
        self._bodies = itertools.cycle(bodies)

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[AsyncResponse]:
        yield AsyncResponse(status=200, pieces=self._pieces(next(self._bodies)))

    async def _pieces(self, body: bytes) -> AsyncIterator[bytes]:
        yield body


@tool
async def add_two(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def test_tool_round_trip_takes_few_lines() -> None:
    call = ToolCall(id="call_1", name="add_two", arguments='{"a": 1, "b": 2}')
    asks = AssistantMessage(content=None, tool_calls=(call,), finish_reason="tool_calls")
    answers = AssistantMessage(content="It is 3.", finish_reason="stop")
    agent = AsyncAgent(Completions(plain_body(asks), plain_body(answers)), tools=[add_two])

    def runs(count: int) -> int:
        async def main() -> None:
            for _ in range(count):
                assert (await agent.run("What is 1 and 2?")).output == "It is 3."

        return work_of(lambda: asyncio.run(main()), allocations=False).lines

    runs(1)  # imports, and fills caches

    # 2,530 with asyncio's own lines: two model calls, and an async tool in a task of its own.
    assert (runs(21) - runs(1)) / 20 <= 2_700
