"""What of a request is new: a client that sends the whole history adds only what the store lacks."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from pathors_agent import (
    AssistantMessage,
    Conversation,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from pathors_agent.messages import ContentPart, Message
from pathors_agent.server.view import news

OWN = ["add"]


@dataclass
class Both:
    """A session as the server stores it, beside what its client has seen of it."""

    stored: list[Message] = field(default_factory=list)
    seen: list[Message] = field(default_factory=list)
    calls: int = 0

    def user(self, text: str) -> None:
        self.stored.append(UserMessage(content=text))
        self.seen.append(UserMessage(content=text))

    def answer(self, steps: Sequence[tuple[str, int]], last: str, external: int) -> None:
        """The model says something and calls own tools, some times; then it ends its answer."""
        texts = [text for text, _ in steps] + [last]
        for text, count in steps:
            own = self._calls("add", count)
            self.stored.append(AssistantMessage(content=text or None, tool_calls=own))
            self.stored += [ToolMessage(tool_call_id=call.id, content="3") for call in own]
        calls = self._calls("weather", external)
        mixed = self._calls("add", min(external, 1))
        self.stored.append(AssistantMessage(content=last, tool_calls=(*calls, *mixed)))
        self.stored += [ToolMessage(tool_call_id=call.id, content="3") for call in mixed]
        said = "\n\n".join(text for text in texts if text)
        self.seen.append(AssistantMessage(content=said or None, tool_calls=calls))
        for call in calls:
            result = ToolMessage(tool_call_id=call.id, content="sunny")
            self.seen.append(result)
            self.stored.append(result)
        if calls:
            self.answer((), "done", 0)

    def _calls(self, name: str, count: int) -> tuple[ToolCall, ...]:
        self.calls += count
        numbers = range(self.calls - count, self.calls)
        return tuple(ToolCall(id=f"c{number}", name=name, arguments="{}") for number in numbers)


TEXTS = st.sampled_from(["", "a", "b", "\n\n"])
TURNS = st.lists(
    st.tuples(
        TEXTS, st.lists(st.tuples(TEXTS, st.integers(1, 2)), max_size=2), TEXTS, st.integers(0, 2)
    ),
    max_size=4,
)


def played(turns: Sequence[tuple[str, list[tuple[str, int]], str, int]]) -> Both:
    both = Both()
    for text, steps, last, external in turns:
        both.user(text)
        both.answer(steps, last, external)
    return both


@given(TURNS, st.booleans(), st.booleans())
def test_whole_history_adds_only_what_the_store_lacks(
    turns: list[tuple[str, list[tuple[str, int]], str, int]], stored_system: bool, sent_system: bool
) -> None:
    both = played(turns)
    system = [SystemMessage(content="Be kind.")]
    stored = Conversation([*(system if stored_system else ()), *both.stored]).messages
    new = UserMessage(content="what now?")

    given_messages = [*(system if sent_system else ()), *both.seen, new]
    added = list(news(stored, given_messages, OWN))

    assert added == ([new] if both.stored else given_messages)


@given(TURNS)
def test_message_that_stands_alone_is_new(
    turns: list[tuple[str, list[tuple[str, int]], str, int]],
) -> None:
    new = UserMessage(content="what now?")

    assert list(news(played(turns).stored, [new], OWN)) == [new]


def test_history_that_differs_in_one_place_is_all_new() -> None:
    stored: list[Message] = [UserMessage(content="a"), AssistantMessage(content="b")]
    sent: list[Message] = [
        UserMessage(content="a"),
        AssistantMessage(content="B"),
        UserMessage(content="c"),
    ]

    assert list(news(stored, sent, OWN)) == sent


def test_history_that_brings_nothing_new_has_no_news() -> None:
    stored: list[Message] = [UserMessage(content="a"), AssistantMessage(content="b")]

    assert list(news(stored, stored, OWN)) == []


def test_result_for_a_call_that_waits_for_approval_is_new() -> None:
    call = ToolCall(id="c1", name="add", arguments="{}")
    stored: list[Message] = [
        UserMessage(content="a"),
        AssistantMessage(content=None, tool_calls=(call,)),
    ]
    decision = ToolMessage(tool_call_id="c1", content='{"approved": true}')

    assert list(news(stored, [*stored, decision], OWN)) == [decision]
    assert list(news(stored, [decision], OWN)) == [decision]


def test_arguments_written_anew_are_the_same() -> None:
    asked = UserMessage(content="Weather?")
    call = ToolCall(id="c0", name="weather", arguments='{"b":1,"a":"\\u00fc"}')
    anew = ToolCall(id="c0", name="weather", arguments='{"a": "ü", "b": 1}')
    stored: list[Message] = [asked, AssistantMessage(content=None, tool_calls=(call,))]
    again: list[Message] = [asked, AssistantMessage(content=None, tool_calls=(anew,))]
    result = ToolMessage(tool_call_id="c0", content="sunny")

    assert list(news(stored, [*again, result], OWN)) == [result]


def test_arguments_that_are_no_object_may_come_back_as_an_empty_one() -> None:
    asked = UserMessage(content="Weather?")
    result = ToolMessage(tool_call_id="c0", content="sunny")
    for arguments in ('{"city": "Os', "Oslo", "[]", '{"city": NaN}'):
        call = ToolCall(id="c0", name="weather", arguments=arguments)
        stored: list[Message] = [asked, AssistantMessage(content=None, tool_calls=(call,))]
        for back in (arguments, "{}"):
            anew = call.model_copy(update={"arguments": back})
            again: list[Message] = [asked, AssistantMessage(content=None, tool_calls=(anew,))]

            assert list(news(stored, [*again, result], OWN)) == [result]


def test_list_of_one_text_is_as_good_as_the_text() -> None:
    listed = UserMessage(content=(ContentPart(type="text", text="Hi"),))
    new = UserMessage(content="Bye")

    assert list(news([UserMessage(content="Hi")], [listed, new], OWN)) == [new]
