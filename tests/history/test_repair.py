"""Histories that `Conversation` refuses are mended, and each change is reported."""

import json
import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from pathors_agent.core.conversation import Conversation
from pathors_agent.errors import ConversationError
from pathors_agent.history.loading import dump_messages, load_messages
from pathors_agent.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)

CANARY = "sk-canary-1234"


def user(text: str = "go") -> UserMessage:
    return UserMessage(content=text)


def said(text: str = "done") -> AssistantMessage:
    return AssistantMessage(content=text)


def calling(*ids: str, arguments: str = '{"a": 1}') -> AssistantMessage:
    return AssistantMessage(
        tool_calls=tuple(ToolCall(id=i, name="look", arguments=arguments) for i in ids)
    )


def result(call_id: str, text: str = "ok") -> ToolMessage:
    return ToolMessage(tool_call_id=call_id, content=text)


def repaired(*messages: Message) -> tuple[list[Message], list[str]]:
    return load_messages(dump_messages(messages), repair=True)


def unknown(call_id: str) -> ToolMessage:
    return ToolMessage(
        tool_call_id=call_id,
        content="Outcome unknown: its result is missing from the history. It is not known whether"
        " the call was carried out. Find out before you repeat it, or tell the user.",
        outcome="unknown",
    )


def suspended(call_id: str, **run: Any) -> ToolMessage:
    return ToolMessage(
        tool_call_id=call_id,
        content="Suspended.",
        outcome="suspended",
        extra={"run": {"version": 1, "messages": [], **run}},
    )


MENDED: dict[str, tuple[list[Message], list[Message], list[str]]] = {
    "result of no call": (
        [user(), result("x"), said()],
        [user(), said()],
        ["messages[1]: a result of no open call ('x'); left out"],
    ),
    "history cut at its start": (
        [result("x"), said(), user()],
        [said(), user()],
        ["messages[0]: a result of no open call ('x'); left out"],
    ),
    "call without a result": (
        [user(), calling("x", "y"), result("y"), user("and?")],
        [user(), calling("x", "y"), unknown("x"), result("y"), user("and?")],
        ["messages[1].tool_calls[0]: has no result; added one"],
    ),
    "second result": (
        [user(), calling("x"), result("x"), result("x", "again"), said()],
        [user(), calling("x"), result("x"), said()],
        ["messages[3]: a second result of call 'x'; left out"],
    ),
    "call and result doubled one by one": (
        [user(), calling("x"), calling("x"), result("x"), result("x"), said()],
        [user(), calling("x"), result("x"), said()],
        [
            "messages[2]: repeats the open calls of messages[1]; left out",
            "messages[4]: a second result of call 'x'; left out",
        ],
    ),
    "suspended call with a later result": (
        [calling("x"), suspended("x"), result("x"), result("y")],
        [calling("x"), result("x")],
        [
            "messages[1]: its call has a later result; left out",
            "messages[3]: a result of no open call ('y'); left out",
        ],
    ),
    "suspended call without its agent": (
        [calling("x"), suspended("x", messages=5)],
        [calling("x"), suspended("x", messages=5).model_copy(update={"outcome": "unknown"})],
        ["messages[1].outcome: is suspended without the messages of its agent; now unknown"],
    ),
    "result before its call": (
        [user(), result("x"), calling("x"), said()],
        [user(), calling("x"), result("x"), said()],
        ["messages[1]: moved to its call 'x'"],
    ),
    "result behind a later message": (
        [calling("x"), user("and?"), result("x"), said()],
        [calling("x"), result("x"), user("and?"), said()],
        ["messages[2]: moved to its call 'x'"],
    ),
    "id used twice by two turns": (
        [calling("x"), result("x", "1"), result("x", "1"), calling("x"), result("x", "2")],
        [calling("x"), result("x", "1"), calling("x"), result("x", "2")],
        ["messages[2]: a second result of call 'x'; left out"],
    ),
    "one call twice in one message": (
        [calling("x", "x"), result("x"), said()],
        [calling("x"), result("x"), said()],
        ["messages[0].tool_calls[1]: repeats another call; left out"],
    ),
    "two calls with one id": (
        [
            AssistantMessage(
                tool_calls=(
                    ToolCall(id="x", name="look", arguments="{}"),
                    ToolCall(id="x", name="find", arguments="{}"),
                )
            ),
            result("x", "1"),
            result("x", "2"),
        ],
        [
            AssistantMessage(
                tool_calls=(
                    ToolCall(id="x", name="look", arguments="{}"),
                    ToolCall(id="t0000c001", name="find", arguments="{}"),
                )
            ),
            result("x", "1"),
            result("t0000c001", "2"),
        ],
        [
            "messages[0].tool_calls[1].id: 'x' occurs twice; now 't0000c001'",
            "messages[2].tool_call_id: now names the call 't0000c001'",
        ],
    ),
    "arguments cut off": (
        [calling("x", arguments='{"a": "' + CANARY), result("x")],
        [calling("x", arguments="{}"), result("x")],
        ["messages[0].tool_calls[0].arguments: are not a JSON object; replaced by {}"],
    ),
    "open call with arguments cut off": (
        [calling("x", "y", arguments="[]")],
        [
            calling("x", "y", arguments="{}"),
            *(
                ToolMessage(
                    tool_call_id=i,
                    content="Not run: the arguments of the call were not a JSON object.",
                    outcome="not_run",
                )
                for i in "xy"
            ),
        ],
        [
            "messages[0].tool_calls[0].arguments: are not a JSON object; replaced by {}",
            "messages[0].tool_calls[1].arguments: are not a JSON object; replaced by {}",
            "messages[0].tool_calls[0]: has no result; added one",
            "messages[0].tool_calls[1]: has no result; added one",
        ],
    ),
}


@pytest.mark.parametrize("name", MENDED)
def test_history_is_mended_and_each_change_named(name: str) -> None:
    broken, mended, report = MENDED[name]

    assert repaired(*broken) == (mended, report)
    assert CANARY not in "".join(report)
    assert repaired(*mended) == (mended, [])


def test_open_calls_at_the_end_stay_open() -> None:
    messages, report = repaired(result("lost"), user(), calling("x", "y"), result("y"))

    assert [call.id for call in Conversation(messages).open_calls] == ["x"]
    assert report == ["messages[0]: a result of no open call ('lost'); left out"]


def test_unreadable_stored_messages_are_left_out_and_named() -> None:
    stored = {
        "version": 1,
        "messages": [
            {"role": "user", "content": 5},
            {"role": "user", "content": "go"},
            {"role": "assistant", "tool_calls": [{"id": "x", "name": "f", "arguments": {"a": 1}}]},
            {"role": "nobody"},
            {"role": "tool", "tool_call_id": "x", "content": "ok"},
        ],
    }

    messages, report = load_messages(json.dumps(stored), repair=True)

    call = ToolCall(id="x", name="f", arguments='{"a":1}')
    assert messages == [user(), AssistantMessage(tool_calls=(call,)), result("x")]
    where, changes = zip(*(line.split(":", 1) for line in report), strict=True)
    assert where == (
        "messages[0].user.content.str",
        "messages[2].tool_calls[0].arguments",
        "messages[3]",
    )
    assert [change.endswith("; left out") for change in changes] == [True, False, True]


@pytest.mark.parametrize(
    "call",
    [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}},
        {"id": "a", "name": "f", "arguments": {"x": 1}},  # the form of earlier versions
    ],
    ids=["API", "flat"],
)
def test_stored_arguments_that_are_no_text_become_json_text(call: dict[str, Any]) -> None:
    history = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]

    messages, report = load_messages({"version": 1, "messages": history}, repair=True)

    assert messages[1] == AssistantMessage(
        tool_calls=(ToolCall(id="a", name="f", arguments='{"x":1}'),)
    )
    assert report == ["messages[1].tool_calls[0].arguments: are no text; now JSON text"]


def test_text_that_is_no_history_is_refused() -> None:
    with pytest.raises(ConversationError, match="must be JSON"):
        load_messages('{"version": 1, "messages": [', repair=True)


OPENAI: list[dict[str, Any]] = [
    {"role": "tool", "tool_call_id": "lost", "content": "?"},
    {"role": "user", "content": "go"},
    {"role": "assistant", "tool_calls": [{"id": "x", "function": {"name": "f"}}]},
    {"role": "user", "content": "and?", "mood": "good"},
]


def test_history_of_another_library_is_mended_by_its_own_indices() -> None:
    messages, report = load_messages([{"role": "nobody"}, *OPENAI], format="openai", repair=True)

    assert [message.role for message in messages] == ["user", "assistant", "tool", "user"]
    assert [line.partition(":")[0] for line in report] == [
        "messages[0].role",
        "messages[4].mood",
        "messages[1]",
        "messages[3].tool_calls[0]",
    ]


def test_parts_of_one_message_share_its_index() -> None:
    parts = [
        {"part_kind": "user-prompt", "content": "go"},
        {"part_kind": "tool-return", "tool_call_id": "lost", "content": "?"},
    ]

    _, report = load_messages(
        [{"kind": "request", "parts": parts}], format="pydantic-ai", repair=True
    )

    assert report == ["messages[0]: a result of no open call ('lost'); left out"]


@pytest.mark.parametrize(
    "load",
    [
        lambda: Conversation([user(), result("x")]),
        lambda: Conversation(load_messages(dump_messages([user(), result("x")]))),
        lambda: load_messages('{"version": 1, "messages": [{"role": "user"}, {"role": "x"}]}'),
        lambda: load_messages([{"role": "user", "content": "go"}, {}], format="openai"),
    ],
)
def test_error_without_repair_names_index_reason_and_option(load: Any) -> None:
    with pytest.raises(ConversationError, match=r"messages\[[01]\].*: .*repair=True"):
        load()


def test_report_and_left_out_together_are_refused() -> None:
    with pytest.raises(TypeError, match="remove left_out="):
        load_messages([], format="openai", repair=True, left_out=[])  # type: ignore[call-overload]


# - any history

CALL_IDS = st.sampled_from("abc")
ARGUMENTS = st.sampled_from(["", "{}", '{"a": 1}'])


@st.composite
def legal_histories(
    draw: st.DrawFn, arguments: st.SearchStrategy[str] = ARGUMENTS
) -> list[Message]:
    """Legal histories, which may end with open calls; turns may share the ids of calls."""
    history: list[Message] = []
    for number in range(draw(st.integers(0, 5))):
        match draw(st.sampled_from(["system", "user", "answer", "calls"])):
            case "system":
                history.append(SystemMessage(content=f"system {number}"))
            case "user":
                history.append(user(f"user {number}"))
            case "answer":
                history.append(said(f"answer {number}"))
            case _:
                ids = draw(st.lists(CALL_IDS, min_size=1, unique=True))
                calls = [ToolCall(id=i, name="f", arguments=draw(arguments)) for i in ids]
                history.append(AssistantMessage(tool_calls=tuple(calls)))
                answered = draw(st.permutations(ids))
                history += [result(i, f"result {number}{i}") for i in answered]
    while history and history[-1].role == "tool" and draw(st.booleans()):
        history.pop()
    return history


@st.composite
def spoiled(draw: st.DrawFn) -> list[Message]:
    """Histories that were shuffled, cut, doubled or damaged."""
    history = draw(legal_histories(ARGUMENTS | st.sampled_from(["{", "[1]", "nothing"])))
    chosen = draw(st.lists(st.integers(0, max(len(history) - 1, 0)), max_size=12))
    match draw(st.sampled_from(["cut", "doubled", "shuffled", "chosen"])):
        case "cut":
            return history[draw(st.integers(0, len(history))) :]
        case "doubled":
            return [m for i, m in enumerate(history) for _ in range(1 + (i in chosen))]
        case "shuffled":
            return draw(st.permutations(history))
        case _:
            return [history[i] for i in chosen] if history else []


@given(legal_histories())
@settings(max_examples=examples(300), deadline=None)
def test_legal_history_is_unchanged_and_its_report_is_empty(history: list[Message]) -> None:
    Conversation(history)  # legal, or this raises
    assert repaired(*history) == (history, [])


def without_calls(message: Message) -> str:
    """Return a message's own text, whatever became of its calls."""
    return f"{message.role} {message.text}"


@given(spoiled())
@settings(max_examples=examples(500), deadline=None)
def test_any_history_is_legal_after_repair_and_each_change_is_named(history: list[Message]) -> None:
    mended, report = repaired(*history)

    Conversation(mended)  # legal, or this raises
    assert repaired(*mended) == (mended, [])
    assert all(
        json.loads(call.arguments or "{}") in ({}, {"a": 1})
        for message in mended
        if isinstance(message, AssistantMessage)
        for call in message.tool_calls
    )
    named = [int(re.match(r"messages\[(\d+)\]", line)[1]) for line in report]  # type: ignore[index]
    gone = [
        i for i, line in zip(named, report, strict=True) if re.match(r"\S+\]: .*left out", line)
    ]
    kept = [message for i, message in enumerate(history) if i not in gone]
    added = [m for m in mended if isinstance(m, ToolMessage) and m.outcome != "value"]
    assert len(added) == sum(line.endswith("added one") for line in report)
    assert Counter(map(without_calls, kept)) == Counter(
        without_calls(m) for m in mended if m not in added
    )
    others = [without_calls(m) for m in kept if m.role != "tool"]  # only results are moved
    assert [without_calls(m) for m in mended if m.role != "tool"] == others


def test_parts_of_another_api_are_left_out_and_the_rest_is_kept() -> None:
    source = [
        {"role": "user", "content": [{"type": "text", "text": "Add 1 and 2."}]},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I add them."},
                {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1, "b": 2}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "3"}]},
        {"role": "assistant", "content": "It is 3."},
    ]

    messages, report = load_messages(source, format="openai", repair=True)

    assert [m.text for m in messages] == ["Add 1 and 2.", "I add them.", "It is 3."]
    assert "tool_use" not in dump_messages(messages)
    assert [line.partition(":")[0] for line in report] == ["messages[1]", "messages[2]"]
