"""Conversation against an independent model, under any sequence of appends."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

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
from pathors_agent.wire.chat_completions import RequestTemplate
from properties import strategies

# Few ids, so that batches share them, and results hit, repeat and miss.
CALL_IDS = st.sampled_from("abcdef")
batches = st.lists(CALL_IDS, min_size=1, max_size=6)


def calling(ids: Sequence[str]) -> AssistantMessage:
    return AssistantMessage(tool_calls=tuple(ToolCall(id=i, name="look") for i in ids))


class ConversationMachine(RuleBasedStateMachine):
    """The model: what was said before the open batch, the batch's ids, and its results."""

    def __init__(self) -> None:
        super().__init__()
        self.conversation = Conversation()
        self.said: list[Message] = []
        self.batch: list[str] = []
        self.results: dict[str, ToolMessage] = {}
        self.user_is_next = True
        self.turn_starts: list[int] = []

    @property
    def expected(self) -> list[Message]:
        return [*self.said, *(self.results[i] for i in self.batch if i in self.results)]

    @property
    def open(self) -> list[str]:
        return [i for i in self.batch if i not in self.results]

    @property
    def next_role(self) -> str:
        if self.batch:
            return "tool"
        return "user" if self.user_is_next else "assistant"

    def accept(self, message: Message) -> None:
        self.conversation.append(message)
        self.said.append(message)

    def refuse(self, message: Message, event: str) -> None:
        with pytest.raises(ConversationError) as caught:
            self.conversation.append(message)
        assert caught.value.next_role == self.next_role
        assert caught.value.event == event
        assert list(caught.value.open_calls) == self.open

    def take(self, message: ToolMessage) -> None:
        self.conversation.append(message)
        self.results[message.tool_call_id] = message
        if not self.open:
            self.said, self.batch, self.results = self.expected, [], {}
            self.user_is_next = False

    @rule(message=strategies.system_messages)
    def system_speaks(self, message: SystemMessage) -> None:
        if self.batch:
            self.refuse(message, "system")
        else:
            self.accept(message)

    @rule(message=strategies.user_messages)
    def user_speaks(self, message: UserMessage) -> None:
        if self.batch:
            self.refuse(message, "user")
            return
        if self.user_is_next:
            self.turn_starts.append(len(self.said))
        self.accept(message)
        self.user_is_next = False

    @rule(message=strategies.answers)
    def model_answers(self, message: AssistantMessage) -> None:
        if self.batch:
            self.refuse(message, "answer")
            return
        self.accept(message)
        self.user_is_next = True

    @rule(ids=batches)
    def model_calls(self, ids: list[str]) -> None:
        message = calling(ids)
        if self.batch or len(set(ids)) < len(ids):
            self.refuse(message, "tool_calls")
            return
        self.accept(message)
        self.batch, self.results = ids, {}

    @rule(message=strategies.tool_messages(CALL_IDS))
    def any_result_comes(self, message: ToolMessage) -> None:
        if message.tool_call_id in self.open:
            self.take(message)
        else:
            self.refuse(message, "tool_result")

    @precondition(lambda self: self.batch)
    @rule(data=st.data())
    def all_results_come_in_any_order(self, data: st.DataObject) -> None:
        for call_id in data.draw(st.permutations(self.open)):
            self.take(ToolMessage(tool_call_id=call_id, content=f"result of {call_id}"))

    @rule(reason=strategies.texts)
    def open_calls_are_closed(self, reason: str) -> None:
        self.conversation.close_open_calls(reason)
        said = reason.strip().rstrip(".") or "it was closed"
        for call_id in self.open:
            self.results[call_id] = ToolMessage(
                tool_call_id=call_id,
                content=f"Outcome unknown: {said}. It is not known whether the call was carried"
                " out. Find out before you repeat it, or tell the user.",
                outcome="unknown",
            )
        if self.batch:
            self.said, self.batch, self.results = self.expected, [], {}
            self.user_is_next = False

    @rule(turns=st.integers(1, 4))
    def conversation_is_trimmed(self, turns: int) -> None:
        before = self.conversation
        self.conversation = before.trimmed(turns=turns)
        assert list(before.messages) == self.expected

        cut = self.turn_starts[-turns] if len(self.turn_starts) >= turns else 0
        system = [m for m in self.said[:cut] if m.role == "system"]
        self.said = system + self.said[cut:]
        self.turn_starts = [i - cut + len(system) for i in self.turn_starts if i >= cut]

    @rule()
    def conversation_is_stored_and_loaded(self) -> None:
        stored = dump_messages(self.conversation.messages)
        self.conversation = Conversation(load_messages(stored))

    @invariant()
    def state_is_the_models(self) -> None:
        assert list(self.conversation.messages) == self.expected
        assert len(self.conversation) == len(self.expected)
        assert self.conversation.next_role.value == self.next_role
        assert [call.id for call in self.conversation.open_calls] == self.open
        assert [call.id for call in self.conversation.calls] == self.batch

    @invariant()
    def turns_are_counted(self) -> None:
        roles = [m.role for m in self.expected]
        last_user = max((i for i, role in enumerate(roles) if role == "user"), default=0)
        assert self.conversation.turns == roles.count("assistant")
        assert self.conversation.turns_since_user == roles[last_user:].count("assistant")

    @invariant()
    def history_loads_whole(self) -> None:
        again = Conversation(self.conversation.messages)
        assert again.messages == self.conversation.messages
        assert again.next_role == self.conversation.next_role
        assert again.open_calls == self.conversation.open_calls

    @invariant()
    def every_prefix_is_legal(self) -> None:
        for end in range(len(self.expected)):
            Conversation(self.expected[:end])


ConversationMachine.TestCase.settings = settings(
    max_examples=examples(150), stateful_step_count=30, deadline=None
)
TestConversationMachine: Any = ConversationMachine.TestCase


@given(st.data(), st.integers(1, 8))
def test_request_is_the_same_for_any_order_of_results(data: st.DataObject, size: int) -> None:
    ids = [f"call_{n}" for n in range(size)]
    results = [ToolMessage(tool_call_id=i, content=f"result of {i}") for i in ids]
    in_order = Conversation([UserMessage(content="go"), calling(ids), *results])
    shuffled = Conversation([UserMessage(content="go"), calling(ids)])

    for result in data.draw(st.permutations(results)):
        shuffled.append(result)

    assert shuffled.messages == in_order.messages
    template = RequestTemplate(model="m")
    assert template.encode(shuffled.messages) == template.encode(in_order.messages)


@given(st.lists(strategies.messages, max_size=8))
def test_history_is_taken_whole_or_refused_at_its_first_misfit(history: list[Message]) -> None:
    grown = Conversation()
    misfit = None
    for index, message in enumerate(history):
        try:
            grown.append(message)
        except ConversationError:
            misfit = index
            break

    if misfit is None:
        assert Conversation(history).messages == grown.messages
        return
    with pytest.raises(ConversationError) as caught:
        Conversation(history)
    assert caught.value.index == misfit
    assert str(caught.value).startswith(f"messages[{misfit}]: ")
