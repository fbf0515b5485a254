import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

import pytest

from pathors_agent import (
    Agent,
    AsyncAgent,
    ContentPart,
    Conversation,
    ModelOptions,
    ProviderError,
    Request,
    ToolError,
    ToolRegistry,
    tool,
)
from pathors_agent.cli.demo_tools import demo_tools
from pathors_agent.offline import AsyncOfflineTransport, OfflineTransport

Tools = list[Callable[..., Any]]
Message = dict[str, Any]

DEMO_TOOLS: Tools = list(demo_tools(now=lambda: datetime(2025, 6, 3, 9, 22, tzinfo=UTC)))


@tool
def get_weather(city: str, unit: Literal["celsius", "fahrenheit"] = "celsius") -> str:
    """Get the current weather in a city."""
    return f"It is 21 degrees {unit} in {city}."


@tool
def search_docs(query: str, limit: int = 5) -> list[str]:
    """Search the documentation."""
    return []


@tool
def translate(text: str, language: str) -> str:
    """Translate a text into another language."""
    return ""


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def get_order(order_id: str) -> dict[str, Any]:
    """Look up an order."""
    return {"order_id": order_id, "shipped": True, "items": ["lamp", "bulb"]}


@tool
def list_projects() -> list[str]:
    """List all projects."""
    return ["north", "south"]


@tool
def set_reminder(message: str, minutes: int) -> str:
    """Remind of something after some minutes."""
    raise ToolError("the alarm is broken")


OFFICE_TOOLS: Tools = [
    get_weather,
    search_docs,
    translate,
    add,
    get_order,
    list_projects,
    set_reminder,
]


def body_of(messages: list[Message], tools: Tools = (), **fields: Any) -> bytes:  # type: ignore[assignment]
    offered = ToolRegistry(tools).definitions()
    return json.dumps({"messages": messages, "tools": offered, **fields}).encode()


def ask(body: bytes) -> dict[str, Any]:
    with OfflineTransport().send(Request(body=body)) as response:
        completion: dict[str, Any] = json.loads(b"".join(response.pieces))
    return completion


def answer_to(messages: list[Message], tools: Tools, **fields: Any) -> Message:
    message: Message = ask(body_of(messages, tools, **fields))["choices"][0]["message"]
    return message


def calls_in(message: Message) -> list[tuple[str, Any]]:
    functions = [call["function"] for call in message.get("tool_calls", ())]
    return [(function["name"], json.loads(function["arguments"])) for function in functions]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def called(name: str, result: str, number: int = 1, **arguments: Any) -> list[Message]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    call = {"id": f"call_{number}", "type": "function", "function": function}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": f"call_{number}", "content": result},
    ]


def calculate(expression: str) -> tuple[str, Any]:
    return "calculate", {"expression": expression}


def convert(value: float, unit: str, to: str) -> tuple[str, Any]:
    return "convert", {"value": value, "unit": unit, "to": to}


def local_time(city: str) -> tuple[str, Any]:
    return "local_time", {"city": city}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("What is (2 + 3) * 4?", [calculate("(2 + 3) * 4")]),
        ("add 3 and 4", [calculate("3 + 4")]),
        ("Subtract 1.5 from 10", [calculate("10 - 1.5")]),
        ("How many kilometres are 26.2 miles?", [convert(26.2, "mile", "km")]),
        ("-40 °C in fahrenheit", [convert(-40, "celsius", "fahrenheit")]),
        ("How many minutes are in 3 days?", [convert(3, "day", "minute")]),
        ("How much is 3 gigabytes in gibibytes?", [convert(3, "gigabyte", "gibibyte")]),
        ("convert 1,200 lbs into kg please", [convert(1200, "pound", "kg")]),
        ("100km/h in mph", [convert(100, "km/h", "mph")]),
        ("What time is it in Tokyo?", [local_time("Tokyo")]),
        ("Tell me the time in new york right now", [local_time("new york")]),
        ("Tokyo time?", [local_time("Tokyo")]),
        (
            "What is 17.5% of 2,480, and what time is it in Tokyo?",
            [calculate("17.5 / 100 * 2480"), local_time("Tokyo")],
        ),
        (
            "Convert 10 km to miles and 5 kg to pounds",
            [convert(10, "km", "mile"), convert(5, "kg", "pound")],
        ),
        (
            "What's the time in S\u00e3o Paulo, Los Angeles and Hong Kong?",
            [local_time("S\u00e3o Paulo"), local_time("Los Angeles"), local_time("Hong Kong")],
        ),
        (
            "Divide 144 by 12; then convert 98.6 fahrenheit to celsius.",
            [calculate("144 / 12"), convert(98.6, "fahrenheit", "celsius")],
        ),
        ("What is the weather in Rome?", []),
        ("Convert 10 km", []),
        ("Hello there!", []),
        ("", []),
    ],
)
def test_demo_tools_are_called_as_asked(prompt: str, expected: list[tuple[str, Any]]) -> None:
    assert calls_in(answer_to([user(prompt)], DEMO_TOOLS)) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (
            "What's the weather like in Paris in fahrenheit?",
            [("get_weather", {"city": "Paris", "unit": "fahrenheit"})],
        ),
        (
            "weather in berlin and in Munich",
            [("get_weather", {"city": "berlin"}), ("get_weather", {"city": "Munich"})],
        ),
        ("Search the docs for retry policies", [("search_docs", {"query": "retry policies"})]),
        (
            'Translate "good morning" to French',
            [("translate", {"text": "good morning", "language": "French"})],
        ),
        ("Add 2 and 3. Add 40 and 2", [("add", {"a": 2, "b": 3}), ("add", {"a": 40, "b": 2})]),
        (
            "What's the weather in London? And list the projects.",
            [("get_weather", {"city": "London"}), ("list_projects", {})],
        ),
        ("weather", []),
        ("What is the population of London?", []),
    ],
)
def test_any_tools_are_called_as_asked(prompt: str, expected: list[tuple[str, Any]]) -> None:
    assert calls_in(answer_to([user(prompt)], OFFICE_TOOLS)) == expected


LONDON = [user("Time in London?"), *called("local_time", "09:22", city="London")]
MILES = [
    user("26.2 miles in km"),
    *called("convert", "26.2 mile = 42.16 km", value=26.2, unit="mile", to="km"),
    {"role": "assistant", "content": "42.16 km."},
]


@pytest.mark.parametrize(
    ("history", "prompt", "expected"),
    [
        (LONDON, "And in Lisbon?", [local_time("Lisbon")]),
        (LONDON, "What about Paris and Rome?", [local_time("Paris"), local_time("Rome")]),
        (LONDON, "What is the population of Lisbon?", []),
        (MILES, "And 30 miles?", [convert(30, "mile", "km")]),
        (MILES, "In yards?", [convert(26.2, "mile", "yard")]),
        (MILES, "Divide that by 3.5", [calculate("42.16 / 3.5")]),
    ],
)
def test_prompt_may_build_on_the_previous_call(
    history: list[Message], prompt: str, expected: list[tuple[str, Any]]
) -> None:
    assert calls_in(answer_to([*history, user(prompt)], DEMO_TOOLS)) == expected


@tool
def exchange(to: Literal["usd", "eur"], amount: float, source: Literal["usd", "eur"]) -> str:
    """Exchange money."""
    return ""


@pytest.mark.parametrize(("prompt", "to", "source"), [("Exchange 20 usd to eur", "eur", "usd")])
def test_target_of_an_exchange_is_found_in_any_place(prompt: str, to: str, source: str) -> None:
    calls = calls_in(answer_to([user(prompt)], [exchange]))

    assert calls == [("exchange", {"to": to, "amount": 20, "source": source})]


# - answers -


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        ("7", "get_order (A-1) gives 7."),
        ("sent", "get_order (A-1) gives sent."),
        ("the alarm is broken", "get_order (A-1): the alarm is broken."),
        ("It has left.", "It has left."),
        ("1 + 1 = 2", "1 + 1 = 2."),
        ("", "get_order (A-1) returned nothing."),
        ('["lamp", "bulb"]', "get_order (A-1) gives lamp, bulb."),
        ("Error: no such order", "get_order (A-1) failed: Error: no such order."),
        ("ValueError: bad id", "get_order (A-1) failed: ValueError: bad id."),
        ("An order cannot be found.", "get_order (A-1) failed: An order cannot be found."),
    ],
)
def test_result_is_put_into_words(result: str, sentence: str) -> None:
    messages = [user("Order A-1?"), *called("get_order", result, order_id="A-1")]

    assert answer_to(messages, OFFICE_TOOLS)["content"] == sentence


def test_unknown_wishes_are_answered_with_the_tools() -> None:
    assert answer_to([user("Hello!")], [add, list_projects])["content"] == (
        "I am a stand-in that works by rules, no language model. I can use these tools:\n"
        "- add: Add two numbers.\n"
        "- list_projects: List all projects."
    )


def test_stand_in_without_tools_says_that_it_is_a_stand_in() -> None:
    assert answer_to([user("Hello!")], [])["content"] == (
        "I am a stand-in that works by rules, no language model, and was given no tools."
    )


# - the request's other fields -


def test_tool_choice_none_calls_nothing() -> None:
    message = answer_to([user("Add 1 and 2")], [add], tool_choice="none")

    assert "tool_calls" not in message


def test_named_tool_choice_leaves_only_that_tool() -> None:
    choice = {"type": "function", "function": {"name": "list_projects"}}

    message = answer_to(
        [user("Add 1 and 2. List projects.")], [add, list_projects], tool_choice=choice
    )

    assert calls_in(message) == [("list_projects", {})]


def test_content_may_be_a_list_of_parts() -> None:
    parts = [{"type": "text", "text": "Add 1 "}, {"type": "text", "text": "and 2"}]

    message = answer_to([{"role": "user", "content": parts}], [add])

    assert calls_in(message) == [("add", {"a": 1, "b": 2})]


# - bytes -


def test_answer_streams_word_by_word() -> None:
    body = body_of([user("Time?"), *called("clock", "noon")], stream=True)

    with OfflineTransport().send(Request(body=body)) as response:
        *pieces, done = response.pieces

    chunks = [json.loads(piece.removeprefix(b"data: ")) for piece in pieces]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert response.status == 200
    assert response.headers == {"content-type": "text/event-stream; charset=utf-8"}
    assert [delta.get("content") for delta in deltas] == ["", "clock", " gives", " noon.", None]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[0]["model"] == "offline-rules"
    assert done == b"data: [DONE]\n\n"


def test_usage_counts_words_and_is_sent_if_requested() -> None:
    messages = [user("What is the time?"), *called("clock", "high noon")]
    body = body_of(messages, stream=True, stream_options={"include_usage": True})

    with OfflineTransport().send(Request(body=body)) as response:
        pieces = list(response.pieces)

    usage = json.loads(pieces[-2].removeprefix(b"data: "))
    assert usage["choices"] == []
    # 4 words of the prompt and 2 of the result; "clock: high noon."
    assert usage["usage"] == {"prompt_tokens": 6, "completion_tokens": 3, "total_tokens": 9}


def test_same_request_gets_the_same_bytes() -> None:
    body = body_of([user("Add 1 and 2")], [add], stream=True)

    def pieces() -> list[bytes]:
        with OfflineTransport().send(Request(body=body)) as response:
            return list(response.pieces)

    assert pieces() == pieces()


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"no json", "body: must be a JSON object"),
        (b"[]", "body: must be a JSON object"),
        (b"{}", "messages: a list with at least one message"),
        (b'{"messages": []}', "messages: a list with at least one message"),
        (b'{"messages": [{"role": "robot"}]}', "messages[0].role: must be one of system"),
        (
            b'{"messages": [{"role": "user"}], "tools": [{"type": "function", "function": {}}]}',
            "tools[0].function.name: Field required",
        ),
    ],
)
def test_invalid_body_is_a_400_in_the_shape_of_the_api(body: bytes, detail: str) -> None:
    with OfflineTransport().send(Request(body=body)) as response:
        error = json.loads(b"".join(response.pieces))["error"]

    assert response.status == 400
    assert response.headers == {"content-type": "application/json"}
    assert error["details"][0].startswith(detail)
    assert error["message"] == f"Invalid request body: {error['details'][0]}"
    assert error["type"] == "invalid_request_error"
    assert (error["param"], error["code"]) == (None, None)


# - with agents -


def test_image_of_a_result_is_no_prompt() -> None:
    @tool
    def screenshot() -> ContentPart:
        """Take a picture of the screen."""
        return ContentPart.model_validate(
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        )

    result = Agent(OfflineTransport(), tools=[screenshot]).run("Take a picture of the screen.")

    assert [message.role for message in result.messages] == [
        *("user", "assistant", "tool", "assistant")
    ]
    assert "From the result" not in result.output


def test_agent_talks_to_it_over_several_turns() -> None:
    agent = Agent(OfflineTransport(), tools=OFFICE_TOOLS)
    conversation = Conversation()

    def say(prompt: str) -> str:
        return agent.run(prompt, conversation=conversation).output

    assert say("Add 20 and 22, and tell me the weather in Rome.") == (
        "add (20, 22) gives 42. It is 21 degrees celsius in Rome."
    )
    assert say("And in Oslo?") == "It is 21 degrees celsius in Oslo."
    assert say('Remind me of "the cake" in 5 minutes') == (
        "set_reminder (the cake, 5): the alarm is broken."
    )


@pytest.mark.anyio
async def test_async_transport_returns_the_same_answer() -> None:
    agent = AsyncAgent(AsyncOfflineTransport(pace=0.0001), tools=[add])

    assert (await agent.run("Add 1 and 2")).output == "add (1, 2) gives 3."


def test_refusal_reaches_the_caller_as_a_provider_error() -> None:
    agent = Agent(OfflineTransport(), options=ModelOptions(extra={"tools": "all"}))

    with pytest.raises(ProviderError, match=r"tools\[0\].function.name: Field required") as caught:
        agent.run("Hello")

    assert caught.value.status == 400
