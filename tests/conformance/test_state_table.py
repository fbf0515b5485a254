"""Every cell of the documented state table, by real messages.

The expectation is read from `docs/reference/state-table.md`, never from the code.
"""

import re
from pathlib import Path

import pytest

from pathors_agent.core.conversation import Conversation
from pathors_agent.errors import ConversationError
from pathors_agent.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "state-table.md"

SYSTEM = SystemMessage(content="Be brief.")
USER = UserMessage(content="Hello?")
ANSWER = AssistantMessage(content="Hi.")
ONE_CALL = AssistantMessage(tool_calls=(ToolCall(id="a", name="look"),))
TWO_CALLS = AssistantMessage(
    tool_calls=(ToolCall(id="a", name="look"), ToolCall(id="b", name="look"))
)
RESULT_A = ToolMessage(tool_call_id="a", content="1")
RESULT_B = ToolMessage(tool_call_id="b", content="2")

# Ways to reach each state.
HISTORIES: dict[str, list[list[Message]]] = {
    "USER": [
        [],
        [SYSTEM],
        [ANSWER],
        [USER, ANSWER],
        [USER, TWO_CALLS, RESULT_B, RESULT_A, ANSWER],
        [USER, ANSWER, SYSTEM],
    ],
    "ASSISTANT": [
        [USER],
        [USER, USER],
        [USER, SYSTEM],
        [USER, ONE_CALL, RESULT_A],
        [TWO_CALLS, RESULT_B, RESULT_A],
        [USER, ONE_CALL, RESULT_A, SYSTEM, USER],
    ],
    "TOOL": [
        [TWO_CALLS],
        [ONE_CALL],
        [USER, TWO_CALLS],
        [USER, TWO_CALLS, RESULT_A],
        [USER, TWO_CALLS, RESULT_B],
        [USER, ONE_CALL, RESULT_A, TWO_CALLS, RESULT_A],
    ],
}

# With no call open, a result is never the last one: both columns get the same two messages.
EVENTS: dict[str, list[Message]] = {
    "SYSTEM": [SYSTEM],
    "USER": [USER],
    "ANSWER": [ANSWER, AssistantMessage()],
    "TOOL_CALLS": [ONE_CALL, TWO_CALLS],
    "TOOL_RESULT": [RESULT_A, RESULT_B],
    "LAST_TOOL_RESULT": [RESULT_A, RESULT_B],
}
NAMES = {
    "SYSTEM": "system",
    "USER": "user",
    "ANSWER": "answer",
    "TOOL_CALLS": "tool_calls",
    "TOOL_RESULT": "tool_result",
}


def documented_table() -> dict[tuple[str, str], str]:
    """Read the page's first table: (next role, event) -> next role or "error"."""
    lines = PAGE.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| next role \\ event"))
    head, _, *rows = lines[start : start + 5]
    events = [first_word(cell) for cell in cells(head)[1:]]
    return {
        (first_word(role), event): first_word(cell)
        for role, *row in map(cells, rows)
        for event, cell in zip(events, row, strict=True)
    }


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def first_word(cell: str) -> str:
    return str(re.findall(r"\w+", cell)[0])


TABLE = documented_table()


def test_page_holds_the_whole_table() -> None:
    assert set(TABLE) == {(role, event) for role in HISTORIES for event in EVENTS}
    assert len(TABLE) == 18
    assert set(TABLE.values()) == {"USER", "ASSISTANT", "TOOL", "error"}


def open_ids(history: list[Message]) -> tuple[str, ...]:
    """The calls of the last assistant message that no later message answers."""
    last = max((i for i, m in enumerate(history) if isinstance(m, AssistantMessage)), default=-1)
    if last < 0:
        return ()
    opener, *rest = history[last:]
    assert isinstance(opener, AssistantMessage)
    closed = {m.tool_call_id for m in rest if isinstance(m, ToolMessage)}
    return tuple(call.id for call in opener.tool_calls if call.id not in closed)


def fits_the_column(event: str, message: Message, still_open: tuple[str, ...]) -> bool:
    """Return True if the message is the column's event in this state."""
    if not isinstance(message, ToolMessage) or not still_open:
        return True
    is_last = len(still_open) == 1
    return message.tool_call_id in still_open and is_last == (event == "LAST_TOOL_RESULT")


CASES = [
    pytest.param(role, event, history, message, id=f"{role}-{event}-{i}{j}")
    for role, event in TABLE
    for i, history in enumerate(HISTORIES[role])
    for j, message in enumerate(EVENTS[event])
    if fits_the_column(event, message, open_ids(history))
]


def test_every_cell_has_a_case() -> None:
    assert {(case.values[0], case.values[1]) for case in CASES} == set(TABLE)


@pytest.mark.parametrize(("role", "event", "history", "message"), CASES)
def test_cell_is_as_documented(
    role: str, event: str, history: list[Message], message: Message
) -> None:
    conversation = Conversation(history)
    before = conversation.messages
    assert conversation.next_role.value == role.lower()

    if TABLE[role, event] != "error":
        conversation.append(message)

        assert conversation.next_role.value == TABLE[role, event].lower()
        assert len(conversation.messages) == len(before) + 1
        return

    with pytest.raises(ConversationError) as caught:
        conversation.append(message)

    error = caught.value
    assert error.next_role == role.lower()
    # Nothing is open in the cells where a last result is an error, so it is not called last.
    assert error.event == NAMES.get(event, "tool_result")
    assert error.open_calls == open_ids(history)
    assert error.index is None
    assert conversation.messages == before
    assert conversation.next_role.value == role.lower()
    assert tuple(call.id for call in conversation.open_calls) == open_ids(history)
