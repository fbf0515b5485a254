"""A conversation is legal after every append, whatever is thrown at it."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from counting import check_linear
from pathors_agent.core.batch import CallState
from pathors_agent.core.conversation import Conversation, Role, can_go_on, inner_conversation
from pathors_agent.errors import ConversationError
from pathors_agent.messages import (
    AssistantMessage,
    JSONValue,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
    write_message,
)

FLOOD = 10_000
UNKNOWN = "the tool message for '{}' names no call of the last assistant message; open calls: {}"
CANARY = "hunter2-canary"


def calling(*ids: str) -> AssistantMessage:
    return AssistantMessage(tool_calls=tuple(ToolCall(id=i, name="look") for i in ids))


def result(call_id: str, content: str = "seen") -> ToolMessage:
    return ToolMessage(tool_call_id=call_id, content=content)


def open_ids(conversation: Conversation) -> tuple[str, ...]:
    return tuple(call.id for call in conversation.open_calls)


SYSTEM = SystemMessage(content="Be brief.")
USER = UserMessage(content="Hello?")
ANSWER = AssistantMessage(content="Hi.")


def test_empty_conversation_waits_for_the_user() -> None:
    conversation = Conversation()

    assert conversation.next_role is Role.USER
    assert conversation.messages == ()
    assert conversation.open_calls == ()
    assert conversation.calls == ()
    assert conversation.turns == 0
    assert conversation.session_id is None
    assert len(conversation) == 0


def test_results_are_kept_in_call_order_however_they_arrive() -> None:
    conversation = Conversation([USER, calling("a", "b", "c", "d")])

    for call_id in ("c", "a", "d", "b"):
        conversation.append(result(call_id, content=f"result of {call_id}"))

    assert conversation.messages == (
        USER,
        calling("a", "b", "c", "d"),
        result("a", "result of a"),
        result("b", "result of b"),
        result("c", "result of c"),
        result("d", "result of d"),
    )
    assert conversation.next_role is Role.ASSISTANT


def test_results_so_far_are_in_call_order_while_others_are_open() -> None:
    conversation = Conversation([USER, calling("a", "b", "c", "d")])

    conversation.append(result("d"))
    conversation.append(result("b"))

    assert conversation.messages[2:] == (result("b"), result("d"))
    assert open_ids(conversation) == ("a", "c")
    assert [call.id for call in conversation.calls] == ["a", "b", "c", "d"]


def test_open_batch_of_a_stored_history_takes_its_missing_results() -> None:
    conversation = Conversation([USER, calling("a", "b", "c"), result("b")])

    conversation.append(result("c"))
    conversation.append(result("a"))

    assert [m.role for m in conversation.messages] == ["user", "assistant", *["tool"] * 3]
    assert conversation.messages[2:] == (result("a"), result("b"), result("c"))


def test_call_ids_may_be_used_again_by_a_later_message() -> None:
    conversation = Conversation([USER, calling("a"), result("a", "1"), calling("b", "a")])

    conversation.append(result("a", "2"))
    conversation.append(result("b", "3"))

    assert conversation.messages[2] == result("a", "1")
    assert conversation.messages[4:] == (result("b", "3"), result("a", "2"))


def test_two_calls_with_one_id_are_rejected() -> None:
    conversation = Conversation([USER])

    with pytest.raises(ConversationError, match="have the id 'b'; ids must differ") as caught:
        conversation.append(calling("a", "b", "c", "b"))

    assert caught.value.next_role == "assistant"
    assert caught.value.event == "tool_calls"
    assert caught.value.open_calls == ()
    assert conversation.messages == (USER,)
    assert conversation.next_role is Role.ASSISTANT
    assert conversation.open_calls == ()
    conversation.append(calling("a", "b"))


@pytest.mark.parametrize(
    ("history", "call_id", "text"),
    [
        (
            [USER, calling("a", "b"), result("b")],
            "b",
            "the tool message for 'b' is a second result for its call; open calls: 'a'",
        ),
        ([USER, calling("a", "b")], "z", UNKNOWN.format("z", "'a', 'b'")),
        (
            [USER, calling("old"), result("old"), calling("new")],
            "old",
            UNKNOWN.format("old", "'new'"),
        ),
        ([USER], "a", "no tool message may come while no call is open (got one for 'a')"),
    ],
    ids=["closed call", "unknown call", "call of an earlier batch", "no open call"],
)
def test_result_for_a_call_that_is_not_open_is_rejected(
    history: list[Message], call_id: str, text: str
) -> None:
    conversation = Conversation(history)
    state = conversation.messages, conversation.next_role, open_ids(conversation)

    with pytest.raises(ConversationError) as caught:
        conversation.append(result(call_id, "again"))

    assert str(caught.value) == text
    assert caught.value.next_role == conversation.next_role.value
    assert caught.value.event == "tool_result"
    assert caught.value.open_calls == open_ids(conversation)
    assert (conversation.messages, conversation.next_role, open_ids(conversation)) == state


@pytest.mark.parametrize("message", [SYSTEM, USER, ANSWER, calling("c")])
def test_nothing_may_precede_the_results(message: Message) -> None:
    conversation = Conversation([USER, calling("a", "b"), result("a")])

    with pytest.raises(ConversationError) as caught:
        conversation.append(message)

    assert str(caught.value) == f"no {message.role} message may come before the results of 'b'"
    assert caught.value.open_calls == ("b",)


def test_stored_history_is_refused_with_the_index_of_the_first_misfit() -> None:
    history: list[Message] = [SYSTEM, USER, calling("a"), result("a"), result("a"), result("z")]

    with pytest.raises(ConversationError) as caught:
        Conversation(history)

    assert caught.value.index == 4
    assert str(caught.value).startswith("messages[4]: no tool message may come")


def test_error_can_be_pickled_with_its_details() -> None:
    with pytest.raises(ConversationError) as caught:
        Conversation([USER, calling("a"), USER])

    twin = pickle.loads(pickle.dumps(caught.value))

    assert str(twin) == str(caught.value)
    assert (twin.next_role, twin.event, twin.open_calls, twin.index) == ("tool", "user", ("a",), 2)


def test_appending_in_turn_equals_loading_whole() -> None:
    history: list[Message] = [
        SYSTEM,
        USER,
        calling("a", "b"),
        result("a"),
        result("b"),
        ANSWER,
        USER,
    ]
    grown = Conversation()

    for message in history:
        grown.append(message)

    assert grown.messages == Conversation(iter(history)).messages == tuple(history)


def test_messages_are_a_snapshot() -> None:
    conversation = Conversation([USER])
    before = conversation.messages

    conversation.append(ANSWER)

    assert before == (USER,)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))]
)
def test_copy_is_independent(copied: Callable[[Conversation], Conversation]) -> None:
    original = Conversation([USER, calling("a", "b"), result("b")], session_id="s-1")

    twin = copied(original)
    twin.append(result("a"))
    twin.append(ANSWER)

    assert twin.session_id == "s-1"
    assert twin.next_role is Role.USER
    assert list(original.messages) == [USER, calling("a", "b"), result("b")]
    assert open_ids(original) == ("a",)
    original.append(result("a", "other"))
    assert list(original.messages[2:]) == [result("a", "other"), result("b")]


def test_closed_calls_have_a_known_outcome_and_results_stay() -> None:
    batch = calling("done", "new", "begun", "clients", "loaded")
    conversation = Conversation([USER, batch, result("done")])
    _, new, begun, clients, _ = batch.tool_calls
    conversation.note_call_state(new, CallState.NOT_BEGUN)
    conversation.note_call_state(begun, CallState.BEGUN)
    conversation.note_call_state(clients, CallState.HANDED_OUT)

    conversation.close_open_calls("The user went on.")

    closed = [m for m in conversation.messages[2:] if isinstance(m, ToolMessage)]
    assert [(m.tool_call_id, m.outcome, m.text) for m in closed] == [
        ("done", "value", "seen"),
        ("new", "not_run", "Not run: The user went on."),
        (
            "begun",
            "cancelled",
            "Interrupted: The user went on. The call had begun, and it is not known how far it"
            " came.",
        ),
        ("clients", "cancelled", "Not answered: The user went on."),
        (
            "loaded",
            "unknown",
            "Outcome unknown: The user went on. It is not known whether the call was carried out."
            " Find out before you repeat it, or tell the user.",
        ),
    ]
    assert conversation.next_role is Role.ASSISTANT
    conversation.append(USER)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))]
)
def test_copy_knows_which_open_calls_had_begun(
    copied: Callable[[Conversation], Conversation],
) -> None:
    original = Conversation([USER, calling("a", "b")])
    a, b = original.open_calls
    original.note_call_state(a, CallState.BEGUN)

    twin = copied(original)
    twin.note_call_state(b, CallState.BEGUN)

    assert [twin.call_state(call) for call in (a, b)] == [CallState.BEGUN, CallState.BEGUN]
    assert [original.call_state(call) for call in (a, b)] == [CallState.BEGUN, CallState.UNKNOWN]


def test_state_of_a_call_is_forgotten_with_its_batch() -> None:
    conversation = Conversation([USER, calling("a")])
    [call] = conversation.open_calls
    conversation.note_call_state(call, CallState.BEGUN)
    conversation.append(result("a"))

    conversation.append(calling("a"))

    assert conversation.call_state(call) is CallState.UNKNOWN


def test_close_open_calls_without_any_changes_nothing() -> None:
    conversation = Conversation([USER, ANSWER])

    conversation.close_open_calls("why not")

    assert conversation.messages == (USER, ANSWER)
    assert conversation.next_role is Role.USER


def test_turns_are_assistant_messages() -> None:
    conversation = Conversation([ANSWER, USER, calling("a"), result("a"), ANSWER, USER, USER])
    assert conversation.turns == 3
    assert conversation.turns_since_user == 0

    conversation.append(calling("a"))

    assert conversation.turns == 4
    assert conversation.turns_since_user == 1


def test_system_message_does_not_reset_the_turns_since_the_user() -> None:
    conversation = Conversation([USER, calling("a"), result("a"), SYSTEM, calling("b")])

    assert conversation.turns_since_user == 2


def test_repr_counts_and_hides() -> None:
    conversation = Conversation([UserMessage(content=CANARY)], session_id="s-1")

    assert repr(conversation) == ("<Conversation of 1 messages, next: assistant, session_id='s-1'>")


@pytest.mark.parametrize("bad", [result("z", CANARY), UserMessage(content=CANARY)])
def test_errors_never_show_contents(bad: Message) -> None:
    said = AssistantMessage(
        content=CANARY, tool_calls=(ToolCall(id="a", name="look", arguments=CANARY),)
    )

    with pytest.raises(ConversationError) as caught:
        Conversation([UserMessage(content=CANARY), said, bad])

    assert CANARY not in str(caught.value)
    assert CANARY not in repr(caught.value)


def user(text: str) -> UserMessage:
    return UserMessage(content=text)


def answer(text: str) -> AssistantMessage:
    return AssistantMessage(content=text)


def system(text: str) -> SystemMessage:
    return SystemMessage(content=text)


# (history, turns kept, what is kept)
TRIMS: dict[str, tuple[list[Message], int, list[Message]]] = {
    "nothing": ([], 1, []),
    "fewer turns than asked for": ([user("1"), answer("1")], 5, [user("1"), answer("1")]),
    "the last turn": (
        [user("1"), answer("1"), user("2"), answer("2")],
        1,
        [user("2"), answer("2")],
    ),
    "a question without its answer is a turn": (
        [user("1"), answer("1"), user("2")],
        1,
        [user("2")],
    ),
    "system messages of every age": (
        [system("s1"), user("1"), answer("1"), system("s2"), user("2"), system("s3"), answer("2")],
        1,
        [system("s1"), system("s2"), user("2"), system("s3"), answer("2")],
    ),
    "calls and results of the turn": (
        [user("1"), answer("1"), user("2"), calling("a"), result("a"), answer("2")],
        1,
        [user("2"), calling("a"), result("a"), answer("2")],
    ),
    "a user's second message is of the same turn": (
        [user("1"), answer("1"), user("2"), user("2, rather"), answer("2")],
        1,
        [user("2"), user("2, rather"), answer("2")],
    ),
    "and so it is after a system message": (
        [user("1"), answer("1"), user("2"), system("s"), user("2, rather"), answer("2")],
        1,
        [user("2"), system("s"), user("2, rather"), answer("2")],
    ),
    "a user who speaks after results is in the turn of the calls": (
        [user("1"), calling("a"), result("a"), user("hurry"), answer("1")],
        1,
        [user("1"), calling("a"), result("a"), user("hurry"), answer("1")],
    ),
    "also when a system message came between": (
        [user("1"), calling("a"), result("a"), system("s"), user("hurry"), answer("1")],
        1,
        [user("1"), calling("a"), result("a"), system("s"), user("hurry"), answer("1")],
    ),
    "two answers to one question": (
        [user("1"), answer("1"), answer("more"), user("2"), answer("2"), answer("more")],
        1,
        [user("2"), answer("2"), answer("more")],
    ),
    "a greeting goes with what came before the kept turns": (
        [answer("welcome"), user("1"), answer("1")],
        1,
        [user("1"), answer("1")],
    ),
    "a history without users stays": ([answer("a"), calling("x")], 1, [answer("a"), calling("x")]),
    "open calls stay open": (
        [user("1"), answer("1"), user("2"), calling("a", "b"), result("b")],
        1,
        [user("2"), calling("a", "b"), result("b")],
    ),
}


@pytest.mark.parametrize(("history", "turns", "kept"), TRIMS.values(), ids=TRIMS)
def test_trimmed_keeps_whole_turns(history: list[Message], turns: int, kept: list[Message]) -> None:
    conversation = Conversation(history, session_id="s-1")

    trimmed = conversation.trimmed(turns=turns)

    assert trimmed.messages == tuple(kept)
    assert trimmed.session_id is None
    assert trimmed.next_role is conversation.next_role
    assert trimmed.open_calls == conversation.open_calls
    assert conversation.messages == tuple(history)


@pytest.mark.parametrize("turns", [0, -1])
def test_trimmed_to_no_turn_is_rejected(turns: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Conversation([USER]).trimmed(turns=turns)


def flood_ids(size: int) -> list[str]:
    return [f"call_{n:08}" for n in range(size)]


def test_flood_of_calls_is_answered_in_call_order() -> None:
    ids = flood_ids(FLOOD)
    conversation = Conversation([USER, calling(*ids)])

    for call_id in reversed(ids):
        conversation.append(result(call_id))

    results = [m.tool_call_id for m in conversation.messages if isinstance(m, ToolMessage)]
    assert results == ids
    assert conversation.next_role is Role.ASSISTANT


def test_errors_in_a_flood_of_calls_stay_short() -> None:
    conversation = Conversation([USER, calling(*flood_ids(FLOOD))])

    for misfit in (USER, SYSTEM, ANSWER, result("unknown")):
        with pytest.raises(ConversationError) as caught:
            conversation.append(misfit)
        assert len(str(caught.value)) < 400
        assert "'call_00000009' and 9990 more" in str(caught.value)
        assert len(caught.value.open_calls) == FLOOD


def test_errors_about_endless_ids_stay_short() -> None:
    endless = [letter * 1_000_000 for letter in "abc"]
    waiting = calling(*endless)
    histories: list[list[Message]] = [
        [waiting, USER],
        [waiting, result("z" * 1_000_000)],
        [USER, result("z" * 1_000_000)],
        [calling("y" * 1_000_000, "y" * 1_000_000)],
    ]

    for history in histories:
        with pytest.raises(ConversationError) as caught:
            Conversation(history)
        assert len(str(caught.value)) < 1_000


def test_work_of_a_flood_of_results_is_linear() -> None:
    def answering(size: int) -> Callable[[], None]:
        ids = flood_ids(size)
        conversation = Conversation([USER, calling(*ids)])
        results = [result(call_id) for call_id in reversed(ids)]

        def answer() -> None:
            for message in results:
                conversation.append(message)

        return answer

    check_linear(answering, 60)


# - suspended calls


def suspended(call_id: str, *inner: Message) -> ToolMessage:
    messages: list[JSONValue] = [write_message(message) for message in inner]
    run: JSONValue = {"version": 1, "messages": messages}
    return ToolMessage(
        tool_call_id=call_id, content="Suspended.", outcome="suspended", extra={"run": run}
    )


WAITING = suspended("b", USER, calling("x"))


def test_suspended_result_leaves_its_call_open_and_a_later_one_takes_its_place() -> None:
    conversation = Conversation([USER, calling("a", "b", "c"), result("c"), WAITING, result("a")])

    assert conversation.messages[2:] == (result("a"), WAITING, result("c"))
    assert (len(conversation), open_ids(conversation)) == (5, ("b",))
    assert conversation.next_role is Role.TOOL
    assert [call.id for call in conversation.waiting_calls] == ["x"]

    done = result("b").model_copy(update={"extra": {"run": {}}})
    for twin in (
        copy.copy(conversation),
        pickle.loads(pickle.dumps(conversation)),
        Conversation([*conversation.messages]),
    ):
        twin.append(done)
        assert twin.messages[2:] == (result("a"), done, result("c"))
        assert (twin.next_role, len(twin)) == (Role.ASSISTANT, 5)
    assert conversation.suspended(conversation.open_calls[0]) == WAITING


def test_history_that_holds_a_suspended_result_and_a_later_one_is_taken() -> None:
    done = result("b").model_copy(update={"extra": {"run": {}}})

    conversation = Conversation([USER, calling("b"), WAITING, WAITING, done, ANSWER])

    assert conversation.messages == (USER, calling("b"), done, ANSWER)


def test_result_for_a_call_within_a_suspended_one_is_added_to_its_history() -> None:
    conversation = Conversation([USER, calling("b"), WAITING])

    conversation.append(result("x", "from within"))

    [call] = conversation.open_calls
    message = conversation.suspended(call)
    assert message is not None
    assert inner_conversation(message).messages == (USER, calling("x"), result("x", "from within"))
    assert can_go_on(message)
    assert conversation.waiting_calls == (call,)


def test_callers_result_for_a_suspended_call_is_refused_with_the_calls_it_waits_for() -> None:
    conversation = Conversation([USER, calling("b"), WAITING])

    with pytest.raises(ConversationError, match=r"'b' runs an agent .* waits for: 'x'$"):
        conversation.append(result("b"))

    assert conversation.messages == (USER, calling("b"), WAITING)


def test_suspended_call_that_is_closed_keeps_the_history_of_its_agent() -> None:
    conversation = Conversation([USER, calling("a", "b"), WAITING])

    conversation.close_open_calls("the user went on")

    closed = conversation.messages[-1]
    assert isinstance(closed, ToolMessage)
    assert (closed.outcome, closed.extra) == ("cancelled", WAITING.extra)
    assert closed.text.startswith("Interrupted: the user went on.")


@pytest.mark.parametrize(
    "run", [None, 5, {}, {"messages": 5}, {"messages": [5]}, {"messages": [{"role": "tool"}]}]
)
def test_suspended_result_without_the_history_of_its_agent_is_refused(run: JSONValue) -> None:
    message = WAITING.model_copy(update={"extra": {"run": run}})

    with pytest.raises(ConversationError, match=r"^messages\[2\]: .*'b' is suspended, but"):
        Conversation([USER, calling("b"), message])


@pytest.mark.parametrize(
    "before", [(), (AssistantMessage(tool_calls=(ToolCall(id="c", name="f"),)),)]
)
def test_dict_is_refused_with_the_function_that_reads_it(before: tuple[Message, ...]) -> None:
    conversation = Conversation(before)
    message: Any = {"role": "user", "content": "Hello."}

    with pytest.raises(TypeError, match=r"a dict is not a message; load_messages"):
        conversation.append(message)

    assert conversation.messages == before
