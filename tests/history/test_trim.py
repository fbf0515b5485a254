"""What is sent of a history: whole turns, system messages, and never a call without its result."""

import gc
from collections.abc import Sequence
from copy import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathors_agent.agents.agent import Agent, AsyncAgent
from pathors_agent.agents.summaries import HEADING, summarized
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import Status
from pathors_agent.errors import ConversationError, ProviderError
from pathors_agent.history.trim import History, checked, estimate_tokens, last_turns, once
from pathors_agent.history.trim import token_budget as budget
from pathors_agent.messages import (
    AssistantMessage,
    ContentPart,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from pathors_agent.testing import (
    AsyncScriptedTransport,
    ScriptedTransport,
    answer,
    calls,
    http_error,
)
from pathors_agent.tools.tool import tool
from pathors_agent.wire.profiles import EndpointProfile
from ways import Way


@tool
def look(city: str) -> str:
    """Look out of the window."""
    return f"sunny in {city}"


def user(text: str) -> UserMessage:
    return UserMessage(content=text)


def said(text: str) -> AssistantMessage:
    return AssistantMessage(content=text)


def asked(call_id: str) -> AssistantMessage:
    return AssistantMessage(tool_calls=(ToolCall(id=call_id, name="look", arguments="{}"),))


def found(call_id: str) -> ToolMessage:
    return ToolMessage(tool_call_id=call_id, content=f"found {call_id}")


RULES = SystemMessage(content="Be kind.")
LATE = SystemMessage(content="Be brief.")
HISTORY: list[Message] = [
    *(RULES, user("one"), asked("1"), found("1"), said("1.")),
    *(user("two"), LATE, said("2.")),
    *(user("three"), asked("3"), found("3")),
]


PICTURE = ContentPart.model_validate(
    {"type": "image_url", "image_url": {"url": "data:" + "a" * 9_999}}
)


def one_each(message: Message) -> int:
    return 1


def texts(messages: Sequence[Message]) -> list[str]:
    return [message.text or "(calls)" for message in messages]


# - The last turns


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (1, ["Be kind.", "Be brief.", "three", "(calls)", "found 3"]),
        (2, ["Be kind.", "two", "Be brief.", "2.", "three", "(calls)", "found 3"]),
        (3, texts(HISTORY)),
        (9, texts(HISTORY)),
    ],
)
def test_last_turns_are_whole(turns: int, expected: list[str]) -> None:
    assert texts(last_turns(turns)(HISTORY)) == expected


def test_feedback_is_part_of_its_turn() -> None:
    feedback = UserMessage(content="Again.", feedback=True)
    history: list[Message] = [user("one"), said("1."), user("two"), said("?"), feedback]

    assert texts(last_turns(1)(history)) == ["two", "?", "Again."]


def test_two_user_messages_begin_one_turn() -> None:
    history: list[Message] = [user("one"), said("1."), user("two"), user("and more")]

    assert texts(last_turns(1)(history)) == ["two", "and more"]


@pytest.mark.parametrize("number", [0, -1, 1.5, "5", True, None])
def test_number_of_turns_or_tokens_that_is_none_is_refused(number: Any) -> None:
    with pytest.raises(ValueError, match="turns must be a whole number of at least 1, not"):
        last_turns(number)
    with pytest.raises(ValueError, match="tokens must be a whole number of at least 1, not"):
        budget(number)


# - A budget of tokens


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (1, ["Be kind.", "Be brief.", "three", "(calls)", "found 3"]),
        (5, ["Be kind.", "Be brief.", "three", "(calls)", "found 3"]),
        (6, ["Be kind.", "Be brief.", "three", "(calls)", "found 3"]),
        (7, ["Be kind.", "two", "Be brief.", "2.", "three", "(calls)", "found 3"]),
        (10, ["Be kind.", "two", "Be brief.", "2.", "three", "(calls)", "found 3"]),
        (11, texts(HISTORY)),
    ],
)
def test_turns_that_fit_in_the_budget_are_sent(tokens: int, expected: list[str]) -> None:
    assert texts(budget(tokens, count=one_each)(HISTORY)) == expected


def test_messages_before_all_turns_belong_to_the_first() -> None:
    history: list[Message] = [said("Hello."), user("one"), said("1."), user("two")]

    assert texts(budget(4, count=one_each)(history)) == texts(history)
    assert texts(budget(3, count=one_each)(history)) == ["two"]


def test_each_message_is_counted_once() -> None:
    counted: list[Message] = []

    def count(message: Message) -> int:
        counted.append(message)
        return 1

    history = budget(100, count=count)
    history(HISTORY)
    history([*HISTORY, said("3.")])

    assert len(counted) == len(HISTORY) + 1


def test_count_of_a_message_is_forgotten_with_it() -> None:
    known = once(lambda message: len(message.text))
    lengths = []
    for length in range(50):  # an id is used again at once
        lengths.append(known(user("a" * length)))
        gc.collect(0)

    assert lengths == list(range(50))


@pytest.mark.parametrize(
    ("message", "tokens"),
    [
        (user(""), 4),
        (user("four" * 3), 7),
        (user("fours"), 6),
        (user("日本語で"), 7),
        (user("half \ud83d"), 6),
        (AssistantMessage(tool_calls=(ToolCall(id="1", name="look", arguments='{"a": 1}'),)), 7),
        (UserMessage(content=(ContentPart(type="text", text="look"), PICTURE)), 1_005),
    ],
    ids=range(7),
)
def test_estimate_is_as_documented(message: Message, tokens: int) -> None:
    assert estimate_tokens(message) == tokens


# - In an agent


def sent(way: Way, number: int = -1) -> list[str]:
    return [str(message["content"]) for message in way.requests[number]["messages"]]


def test_request_has_the_selected_messages_and_the_conversation_has_all(way: Way) -> None:
    conversation = Conversation(HISTORY)

    result = way.run("3.", conversation=conversation, instructions="Answer.", history=last_turns(1))

    assert sent(way) == ["Answer.", "Be kind.", "Be brief.", "three", "None", "found 3"]
    assert texts(result.conversation.messages) == [*texts(HISTORY), "3."]


def test_each_request_of_a_run_is_chosen(way: Way) -> None:
    conversation = Conversation([user("one"), said("1.")])

    way.run(
        calls(("look", {"city": "Oslo"})),
        "Sunny.",
        prompt="two",
        conversation=conversation,
        tools=[look],
        history=last_turns(1),
    )

    assert [sent(way, 0), sent(way, 1)] == [["two"], ["two", "None", "sunny in Oslo"]]


@pytest.mark.parametrize(
    ("chosen", "words", "index"),
    [
        (HISTORY[3:], r"not a legal history: messages\[0\]: no tool message may come", 0),
        ([user("one"), asked("1"), user("two")], r"not a legal history: messages\[2\]: no user", 2),
        ([user("one"), said("1.")], r"end at messages\[1\], so the user is next", 1),
        ([user("one"), asked("1")], r"end at messages\[1\], so the tool is next", 1),
        ([], "are none, so the user is next", -1),
    ],
    ids=["no call", "no result", "no question", "open call", "nothing"],
)
def test_choice_that_no_model_can_answer_is_refused(
    way: Way, chosen: list[Message], words: str, index: int
) -> None:
    conversation = Conversation()

    with pytest.raises(ConversationError, match=words) as caught:
        way.run("Hi.", prompt="Hello.", conversation=conversation, history=lambda _: chosen)

    assert caught.value.index == index
    assert way.requests == []
    assert texts(conversation.messages) == ["Hello."]


def test_endpoint_that_keeps_the_history_gets_only_new_messages(way: Way) -> None:
    conversation = Conversation(HISTORY[:5], session_id="s")

    way.run(
        "2.",
        prompt="two",
        conversation=conversation,
        profile=EndpointProfile(sends="new_messages"),
        history=lambda _: [],
    )

    assert sent(way) == ["two"]


@pytest.mark.anyio
async def test_async_function_is_awaited() -> None:
    async def history(messages: Sequence[Message]) -> Sequence[Message]:
        return messages[-1:]

    transport = AsyncScriptedTransport("1.", "2.")
    agent = AsyncAgent(transport, history=history)
    first = await agent.run("one")
    await agent.run("two", conversation=first.conversation)

    assert [len(request["messages"]) for request in transport.requests] == [1, 1]


def test_async_function_is_refused_by_blocking_code() -> None:
    async def history(messages: Sequence[Message]) -> Sequence[Message]:
        return messages

    agent = Agent(ScriptedTransport(), history=history)  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="an awaitable, which only AsyncAgent"):
        agent.run("Hello.")


# - Any history


batches = st.integers(0, 3)
ENDS: list[list[Message]] = [[], [asked("x"), found("x")]]


@st.composite
def histories(draw: st.DrawFn) -> list[Message]:
    """A history that a model must go on with."""
    messages: list[Message] = []
    for turn in range(draw(st.integers(1, 6))):
        if draw(st.booleans()):
            messages.append(SystemMessage(content=f"rule {turn}"))
        if turn or not draw(st.booleans()):
            messages.append(user(f"question {turn}"))
        for batch in range(draw(batches)):
            ids = [f"{turn}.{batch}.{place}" for place in range(draw(st.integers(1, 3)))]
            asking = tuple(ToolCall(id=call_id, name="look") for call_id in ids)
            messages.append(AssistantMessage(tool_calls=asking))
            messages.extend(map(found, ids))
        messages.append(said(f"answer {turn}"))
    return [*messages, user("last"), *draw(st.sampled_from(ENDS))]


@given(history=histories(), size=st.integers(1, 30), by_turns=st.booleans())
def test_every_choice_is_a_tail_of_whole_turns(
    history: list[Message], size: int, by_turns: bool
) -> None:
    choose: History = last_turns(size) if by_turns else budget(size, count=one_each)

    chosen = checked(choose(history), source="history=")

    tail = [m for m in chosen if not isinstance(m, SystemMessage)]
    rest = [m for m in history if not isinstance(m, SystemMessage)]
    assert tail == rest[len(rest) - len(tail) :]
    assert [m for m in chosen if m.role == "system"] == [m for m in history if m.role == "system"]
    assert user("last") in tail
    assert tail == rest or isinstance(tail[0], UserMessage)


# - Summaries


def summarizing(*script: str, tokens: int = 8) -> tuple[ScriptedTransport, History]:
    transport = ScriptedTransport(*script)
    return transport, summarized(Agent(transport), tokens=tokens, count=one_each)


def test_short_history_is_sent_as_it_is() -> None:
    transport, history = summarizing(tokens=11)

    assert history(HISTORY) is HISTORY
    assert transport.requests == []


def test_summary_replaces_the_removed_messages() -> None:
    transport, history = summarizing("They spoke of one.", tokens=10)

    sent = history(HISTORY)

    assert texts(sent) == [
        "Be kind.",
        "Be brief.",
        f"{HEADING}\nThey spoke of one.",
        *("three", "(calls)", "found 3"),
    ]
    [request] = transport.requests
    assert request["messages"][-1]["content"].endswith(
        "The conversation:\nuser: one\nassistant calls look: {}\nresult: found 1\nassistant: 1.\n"
        "user: two\nassistant: 2."
    )


def test_summary_is_kept_for_the_next_request() -> None:
    transport, history = summarizing("Before.", tokens=10)

    first = history(HISTORY)
    second = history([*HISTORY, said("3."), user("four")])

    assert second[: len(first)] == first
    assert second[2] is first[2]
    assert len(transport.requests) == 1


def test_summary_is_cached_by_the_history_and_not_by_the_request() -> None:
    transport, history = summarizing("First.", "Second.", tokens=10)
    broken = AssistantMessage(tool_calls=(ToolCall(id="c9", name="look", arguments="{oops"),))
    other = AssistantMessage(tool_calls=(ToolCall(id="c9", name="look", arguments="oops"),))
    result = ToolMessage(tool_call_id="c9", content="no")

    sent = [history([user("zero"), call, result, *HISTORY]) for call in (broken, other)]

    assert [texts(messages)[2] for messages in sent] == [
        f"{HEADING}\nFirst.",
        f"{HEADING}\nSecond.",
    ]
    assert len(transport.requests) == 2


def test_next_summary_continues_the_last_one() -> None:
    transport, history = summarizing("Before.", "All of it.", tokens=8)
    longer = [*HISTORY, said("3."), user("four"), said("4."), user("five")]

    history(HISTORY)
    sent = history(longer)

    assert texts(sent) == ["Be kind.", "Be brief.", f"{HEADING}\nAll of it.", "five"]
    prompt = transport.requests[1]["messages"][-1]["content"]
    assert f"{HEADING}\nBefore.\n\nThe conversation:\nuser: three\n" in prompt
    assert "user: one" not in prompt


def test_summary_is_found_for_an_equal_history() -> None:
    transport, history = summarizing("Before.", tokens=10)
    history(HISTORY)

    again = history([message.model_copy() for message in HISTORY])

    assert again[2].text == f"{HEADING}\nBefore."
    assert len(transport.requests) == 1


def test_other_history_has_a_summary_of_its_own() -> None:
    _, history = summarizing("Before.", "Another.", tokens=10)
    history(HISTORY)

    other = history([RULES, user("ONE"), *HISTORY[2:]])

    assert other[2].text == f"{HEADING}\nAnother."


def test_current_turn_is_never_summarised() -> None:
    transport, history = summarizing(tokens=1)

    assert history(HISTORY[:4]) == HISTORY[:4]
    assert transport.requests == []


def test_long_results_are_cut_in_the_text_to_summarise() -> None:
    transport, history = summarizing("Before.", tokens=2)
    history([user("one"), said("a" * 9_000), user("two")])

    assert len(transport.requests[0]["messages"][-1]["content"]) < 3_000


def test_summary_that_fails_leaves_the_call_owed() -> None:
    writer = Agent(ScriptedTransport(http_error(500, "No."), "Before."))
    agent = Agent(ScriptedTransport("2."), history=summarized(writer, tokens=2, count=one_each))
    conversation = Conversation([user("one"), said("1.")])

    with pytest.raises(ProviderError) as caught:
        agent.run("two", conversation=conversation)

    assert texts(conversation.messages) == ["one", "1.", "two"]
    assert caught.value.messages == conversation.messages
    result = agent.run(conversation=conversation)
    assert (result.status, result.output) == (Status.FINISHED, "2.")


@pytest.mark.anyio
@pytest.mark.parametrize("is_async", [False, True])
async def test_tokens_of_a_summary_are_counted_in_the_run_that_needed_it(is_async: bool) -> None:
    script = [answer(text, usage=tokens(count)) for text, count in (("1.", 1), ("2.", 10))]
    summary = answer("Before.", usage=tokens(1_000))
    first = Conversation([user("one"), said("1.")])

    if is_async:
        writer = AsyncAgent(AsyncScriptedTransport(summary))
        history = summarized(writer, tokens=2, count=one_each)
        agent = AsyncAgent(AsyncScriptedTransport(*script), history=history)
        runs = [await agent.run(text, conversation=copy(first)) for text in ("two", "two")]
    else:
        blocking = summarized(Agent(ScriptedTransport(summary)), tokens=2, count=one_each)
        asked = Agent(ScriptedTransport(*script), history=blocking)
        runs = [asked.run(text, conversation=copy(first)) for text in ("two", "two")]

    assert [run.usage.total_tokens for run in runs] == [1_001, 10]


def tokens(count: int) -> Usage:
    return Usage(prompt_tokens=0, completion_tokens=count, total_tokens=count)


@pytest.mark.anyio
async def test_summary_is_written_async() -> None:
    writer = AsyncScriptedTransport("Before.")
    history = summarized(AsyncAgent(writer), tokens=2, count=one_each)
    transport = AsyncScriptedTransport("1.", "2.")
    agent = AsyncAgent(transport, history=history)

    first = await agent.run("one")
    await agent.run("two", conversation=first.conversation)

    assert [m["content"] for m in transport.requests[1]["messages"]] == [
        f"{HEADING}\nBefore.",
        "two",
    ]
