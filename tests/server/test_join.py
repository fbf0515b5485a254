"""Which messages of a request are new: the join rule, beside a plain version of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
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
from pathors_agent.history.loading import stored_form
from pathors_agent.messages import ContentPart, Message
from pathors_agent.server.http.problems import Problem
from pathors_agent.server.turns.join import Joined, join

OWN = ["add"]


def user(text: str) -> UserMessage:
    return UserMessage(content=text)


def said(text: str | None, *call_ids: str, name: str = "weather") -> AssistantMessage:
    calls = tuple(ToolCall(id=call_id, name=name, arguments="{}") for call_id in call_ids)
    return AssistantMessage(content=text, tool_calls=calls)


def result(call_id: str, text: str = "sunny") -> ToolMessage:
    return ToolMessage(tool_call_id=call_id, content=text)


# - what a client was given, by construction -


@dataclass
class Both:
    """A session as the server stores it, beside what its client knows of it.

    `cuts` are the places behind an answer: in what the client knows, and in what is stored.
    """

    stored: list[Message] = field(default_factory=list)
    seen: list[Message] = field(default_factory=list)
    cuts: list[tuple[int, int]] = field(default_factory=list)
    calls: int = 0

    def turn(self, number: int, texts: Sequence[str], external: int, mixed: bool) -> None:
        """Ask a question whose answer takes own tools, and then calls of the client's."""
        self._both(user(f"question {number}"))
        for text in texts:
            own = self._ids(1)
            self.stored += [said(text, *own, name="add"), result(own[0], "3")]
        answer = f"answer {number}"
        shown = "\n\n".join([*(text for text in texts if text), answer])
        ids = self._ids(external)
        if ids:
            own = self._ids(int(mixed))
            calls = (*said(None, *ids).tool_calls, *said(None, *own, name="add").tool_calls)
            self.stored.append(AssistantMessage(content=answer, tool_calls=calls))
            self.seen.append(said(shown, *ids))
            for call_id in ids:
                self._both(result(call_id))
            self.stored += [result(call_id, "3") for call_id in own]
            self._both(said("done"))
        else:
            self.stored.append(said(answer))
            self.seen.append(said(shown))
        self.cuts.append((len(self.seen), len(self.stored)))

    def _both(self, message: Message) -> None:
        self.stored.append(message)
        self.seen.append(message)

    def _ids(self, count: int) -> tuple[str, ...]:
        self.calls += count
        return tuple(f"c{number}" for number in range(self.calls - count, self.calls))


TEXTS = st.lists(st.sampled_from(["", "let me see", "a\n\nb", " \n"]), max_size=2)
TURNS = st.lists(st.tuples(TEXTS, st.integers(0, 2), st.booleans()), min_size=1, max_size=5)


@st.composite
def sessions(draw: st.DrawFn) -> Both:
    both = Both()
    for number, (texts, external, mixed) in enumerate(draw(TURNS)):
        both.turn(number, texts, external, mixed)
    both.stored = list(Conversation(both.stored).messages)
    return both


def as_it_was(message: Message) -> Message:
    return message


def stripped(message: Message) -> Message:
    if isinstance(message, AssistantMessage):
        return message.model_copy(update={"content": message.text.strip() or None})
    return message


def in_parts(message: Message) -> Message:
    parts = (ContentPart(type="text", text=f" {message.text}\n"),)
    return message.model_copy(update={"content": parts})


def with_other_arguments(message: Message) -> Message:
    if not isinstance(message, AssistantMessage):
        return message
    calls = tuple(c.model_copy(update={"arguments": '{ "a": 1 }'}) for c in message.tool_calls)
    return message.model_copy(update={"tool_calls": calls})


def with_other_line_ends(message: Message) -> Message:
    if isinstance(message, AssistantMessage):
        return message.model_copy(update={"content": message.text.replace("\n", " \r\n")})
    return message


ENCODINGS = st.sampled_from(
    [as_it_was, stripped, in_parts, with_other_arguments, with_other_line_ends]
)
NEW = user("what now?")


@given(sessions(), st.data(), ENCODINGS, st.booleans())
def test_every_suffix_of_a_history_adds_only_new_messages(
    both: Both, data: st.DataObject, encode: Callable[[Message], Message], has_system: bool
) -> None:
    start = data.draw(st.integers(0, len(both.seen) - 1))
    system = [SystemMessage(content="Be kind.")] * has_system

    sent = [*system, *map(encode, both.seen[start:]), NEW]
    joined = join(both.stored, sent, OWN)

    assert list(joined.new) == [NEW]
    assert joined.keep == len(both.stored)
    assert joined.base == (*system, *both.stored)
    assert sent[joined.start :] == [NEW]


@given(sessions(), st.data(), st.sampled_from([user, said, SystemMessage]))
def test_summary_may_replace_messages_before_an_answer(
    both: Both, data: st.DataObject, role: Callable[..., Message]
) -> None:
    starts = [0, *(seen for seen, _ in both.cuts[:-1])]
    start = data.draw(st.sampled_from(starts[1:] or starts))
    summary = role(content="Before: many words.") if role is SystemMessage else role("Before.")
    if start == 0 and role is not SystemMessage:
        return  # it stands for nothing

    joined = join(both.stored, [summary, *both.seen[start:], NEW], OWN)

    assert (list(joined.new), joined.keep) == ([NEW], len(both.stored))


@given(sessions(), st.integers(1, 3))
def test_new_messages_alone_are_all_new(both: Both, count: int) -> None:
    news = [user("question 0")] * count

    joined = join(both.stored, news, OWN)

    assert (list(joined.new), joined.keep) == (news, len(both.stored))


@given(sessions(), st.data())
def test_edited_question_rewinds_to_the_answer_before_it(both: Both, data: st.DataObject) -> None:
    both.turn(99, (), 0, False)
    seen, stored = data.draw(st.sampled_from(both.cuts[:-1]))
    edited = user("another question")

    joined = join(both.stored, [*both.seen[:seen], edited], OWN)

    assert list(joined.new) == [edited]
    assert joined.keep == stored
    assert joined.base == tuple(both.stored[:stored])


@given(sessions())
def test_regenerated_answer_rewinds_its_question(both: Both) -> None:
    both.turn(99, ("let me see",), 0, False)
    seen, stored = both.cuts[-2]

    joined = join(both.stored, both.seen[: seen + 1], OWN)

    assert (list(joined.new), joined.keep) == ([user("question 99")], stored)


@given(sessions(), st.booleans(), st.booleans())
def test_rewind_replaces_the_first_message_as_if_the_session_were_new(
    both: Both, has_stored_system: bool, has_system: bool
) -> None:
    lead = [SystemMessage(content="Be kind.")] * has_stored_system
    system = [SystemMessage(content="Be brief.")] * has_system
    first = user("question 0")

    joined = join([*lead, *both.stored], [*system, first], OWN, rewinds=True)

    anew = join(lead, [*system, first], OWN)
    assert joined == anew
    assert joined.keep == len(lead)


@given(sessions(), st.data())
def test_rewind_with_answers_is_joined_by_the_other_rules(both: Both, data: st.DataObject) -> None:
    seen, _ = data.draw(st.sampled_from(both.cuts))
    sent = [*both.seen[:seen], NEW]

    assert join(both.stored, sent, OWN, rewinds=True) == join(both.stored, sent, OWN)


@given(sessions(), st.integers(0, 1))
def test_history_of_something_else_is_refused_naming_its_first_message(
    both: Both, place: int
) -> None:
    sent: list[Message] = [*both.seen, user("more"), said("other"), NEW]
    sent[place:] = [user("strange"), said("stranger"), NEW]

    with pytest.raises(Problem) as refused:
        join(both.stored, sent, OWN)

    assert (refused.value.status, refused.value.code) == (409, "history_mismatch")
    assert refused.value.details[0].startswith(f"messages[{place}]: ")
    assert refused.value.headers == {"x-should-retry": "false"}


def test_beginning_of_an_answer_stands_for_the_whole_where_it_may_be_cut() -> None:
    whole = said("I look.", "x"), result("x"), said("It is sunny today.")
    stored: list[Message] = [user("a"), *whole, user("b"), said("Yes.")]
    told: list[Message] = [user("a"), said("I look.", "x"), said("It is")]

    for sent, keep in ((told, 4), ([*told, user("b"), said("Ye")], 6)):
        joined = join(stored, [*sent, NEW], {"weather"}, may_be_cut=True)
        assert (joined.keep, joined.new) == (keep, [NEW])
    for text in ("Is it", "It is sunny today. Or not"):
        with pytest.raises(Problem):
            join(stored, [user("a"), said(text), NEW], {"weather"}, may_be_cut=True)
    with pytest.raises(Problem):
        join(stored, [user("a"), said("I loo"), NEW], {"weather"})


@given(sessions())
def test_everything_is_new_to_an_empty_session(both: Both) -> None:
    sent = [SystemMessage(content="Be kind."), *both.seen, NEW]

    assert join((), sent, OWN) == Joined((), 0, 0, sent)


# - any two lists, beside the plain version -

ANY = st.one_of(
    st.sampled_from(["a", "b", "a b", ""]).map(user),
    st.sampled_from(["a", "b", "a b", ""]).map(said),
    st.sampled_from(["x", "y"]).map(lambda call: said("a", call)),
    st.sampled_from(["x", "y"]).map(result),
)


def plain_join(stored: list[Message], sent: list[Message]) -> tuple[int, int] | None:
    """Return how many stored messages stay and where the new ones start; None for a 409."""
    known = [place for place, message in enumerate(stored) if not is_empty(message)]
    told = [place for place, message in enumerate(sent) if not is_empty(message)]
    old, new = [stored[i] for i in known], [sent[i] for i in told]
    if not old:
        return len(stored), 0
    tails = [
        end
        for end in range(1, len(new) + 1)
        for start in range(end)
        for since in range(len(old))
        if are_alike(new[start:end], old[since:])
        and (
            start == 0
            or since == 0
            or (
                isinstance(old[since - 1], AssistantMessage)
                and not isinstance(old[-1], UserMessage)
            )
        )
        # Behind a question, the session has an empty answer.
        and (not isinstance(old[-1], UserMessage) or any(map(is_answer, sent)))
        and (not isinstance(old[-1], UserMessage) or told[end - 1] < len(sent) - 1)
    ]
    if tails:
        return len(stored), [*told, len(sent)][max(tails)]
    if not any(map(is_answer, new)):
        return len(stored), [*told, len(sent)][0] if any(map(is_answer, sent)) else 0
    begun = [
        (end, until)
        for end in range(1, len(new) + 1)
        for until in range(1, len(old) + 1)
        if are_alike(new[:end], old[:until]) and is_closed(new[:end])
    ]
    if not begun:
        return None
    end, until = max(begun)
    return [*known, len(stored)][until], [*told, len(sent)][end]


def is_answer(message: Message) -> bool:
    return isinstance(message, AssistantMessage)


def is_empty(message: Message) -> bool:
    return isinstance(message, AssistantMessage) and not message.text and not message.tool_calls


def is_closed(messages: Sequence[Message]) -> bool:
    open_ids: set[str] = set()
    for message in messages:
        if isinstance(message, AssistantMessage):
            open_ids |= {call.id for call in message.tool_calls}
        if isinstance(message, ToolMessage):
            open_ids.discard(message.tool_call_id)
    return not open_ids and not isinstance(messages[-1], UserMessage)


def are_alike(new: Sequence[Message], old: Sequence[Message]) -> bool:
    """Return True if two lists say the same, an answer standing for one or more stored ones."""
    if not new or not old:
        return not new and not old
    for count in range(1, len(old) + 1):
        group = old[:count]
        if not isinstance(new[0], AssistantMessage):
            return new[0] == old[0] and are_alike(new[1:], old[1:])
        if not all(isinstance(message, AssistantMessage) for message in group):
            return False
        answers = [message for message in group if isinstance(message, AssistantMessage)]
        text = " ".join(message.text for message in answers if message.text)
        ids = {call.id for message in answers for call in message.tool_calls}
        same = text == new[0].text and ids == {call.id for call in new[0].tool_calls}
        if same and are_alike(new[1:], old[count:]):
            return True
    return False


@given(st.lists(ANY, max_size=6), st.lists(ANY, min_size=1, max_size=6))
def test_any_request_is_joined_as_by_the_plain_rule(
    stored: list[Message], sent: list[Message]
) -> None:
    expected = plain_join(stored, sent)

    if expected is None:
        with pytest.raises(Problem, match="not a history of this session"):
            join(stored, sent, OWN)
    else:
        joined = join(stored, sent, OWN)
        assert (joined.keep, joined.start) == expected


# - single claims -


def test_results_of_calls_that_the_user_passed_over_are_not_compared() -> None:
    closed = ToolMessage(tool_call_id="c1", content="Not answered: ...", outcome="cancelled")
    stored: list[Message] = [user("a"), said(None, "c1"), closed, user("b"), said("c")]
    histories: list[list[Message]] = [
        [user("a"), said(None, "c1"), user("b"), said("c"), NEW],
        [user("a"), said(None, "c1"), result("c1", "late"), user("b"), said("c"), NEW],
        [user("a"), user("b"), said("c"), NEW],
    ]

    for history in histories:
        assert list(join(stored, history, OWN).new) == [NEW]


@pytest.mark.parametrize("results", [[], [result("c1", "3")]], ids=["no result", "result"])
def test_client_that_has_a_call_and_not_its_answer_adds_its_new_message_only(
    results: list[Message],
) -> None:
    call = said(None, "c1", name="add")
    stored: list[Message] = [user("add"), call, result("c1", "3"), said("It is 3.")]

    joined = join(stored, [user("add"), call, *results, NEW], OWN)

    assert (list(joined.new), joined.keep) == ([NEW], 4)


def test_tool_loop_that_sends_its_turn_again_adds_the_result() -> None:
    stored: list[Message] = [user("hi"), said("Hello."), user("Weather?"), said(None, "c1")]

    joined = join(stored, [user("Weather?"), said("", "c1"), result("c1")], OWN)

    assert list(joined.new) == [result("c1")]


def test_ids_that_a_provider_uses_twice_belong_to_their_own_answers() -> None:
    stored: list[Message] = [
        user("a"),
        said(None, "call_0", name="add"),
        result("call_0", "3"),
        said("3"),
        user("Weather?"),
        said(None, "call_0"),
    ]

    joined = join(stored, [user("Weather?"), said(None, "call_0"), result("call_0")], OWN)

    assert list(joined.new) == [result("call_0")]


def test_decision_about_a_call_that_waits_for_approval_is_new() -> None:
    stored: list[Message] = [user("a"), said(None, "c1", name="add")]
    decision = result("c1", '{"approved": true}')

    assert list(join(stored, [*stored, decision], OWN).new) == [decision]
    assert list(join(stored, [decision], OWN).new) == [decision]


def test_system_messages_of_a_request_replace_the_stored_ones() -> None:
    stored: list[Message] = [SystemMessage(content="Be kind."), user("a"), said("b")]
    brief = SystemMessage(content="Be brief.")

    assert join(stored, [user("a"), said("b"), NEW], OWN).base == tuple(stored)
    requests: list[list[Message]] = [[brief, NEW], [brief, user("a"), said("b"), NEW]]
    for sent in requests:
        joined = join(stored, sent, OWN)
        assert (joined.base, list(joined.new)) == ((brief, *stored[1:]), [NEW])
        assert joined.keep == 3


def test_history_that_a_client_read_from_the_server_is_known() -> None:
    stored: list[Message] = [
        user("1+2?"),
        said("Let me see.", "c1", name="add"),
        result("c1", "3"),
        said("It is 3."),
    ]

    joined = join(stored, [*stored, NEW], OWN)

    assert (list(joined.new), joined.keep) == ([NEW], 4)


def test_result_is_regenerated_from() -> None:
    stored: list[Message] = [user("a"), said(None, "c1"), result("c1"), said("Sunny.")]

    joined = join(stored, stored[:3], OWN)

    assert (list(joined.new), joined.keep) == ([], 3)


def test_call_of_a_suspended_agent_is_known_by_the_calls_that_it_waits_for() -> None:
    inner = stored_form([user("Pay."), said(None, "inner", name="pay")])
    suspended = ToolMessage(
        tool_call_id="outer", content="Suspended.", outcome="suspended", extra={"run": inner}
    )
    stored: list[Message] = [user("a"), said("Wait.", "outer", name="add"), suspended]
    decision = result("inner", '{"approved": true}')

    for known in (stored[1:], [said("Wait.", "inner", name="pay")], []):
        assert list(join(stored, [user("a"), *known, decision], OWN).new)[-1:] == [decision]
    assert list(join(stored, [*stored, decision], OWN).new) == [decision]
    assert list(join(stored, [user("a"), said("Wait.", "inner"), decision], OWN).new) == [decision]
    with pytest.raises(Problem, match="not a history of this session"):
        join(stored, [user("b"), said("Wait.", "outer", name="add"), NEW], OWN)


@pytest.mark.parametrize(
    ("sent", "kept", "new"),
    [
        (["q", "a", "hi", "", "hi", "", "hi"], 6, ["hi"]),
        (["hi", "", "hi"], 6, ["hi"]),
        (["", "hi"], 6, ["hi"]),
        (["hi"], 6, ["hi"]),
        (["q", "a", "hi", "hi", "hi"], 6, ["hi"]),  # the client drops empty answers
        (["q", "a", "hi"], 2, ["hi"]),  # or asks for another answer
    ],
)
def test_question_behind_an_empty_answer_is_stored_once(
    sent: list[str], kept: int, new: list[str]
) -> None:
    answers = ("", "a")
    turn: list[Message] = [user("hi"), said("")]
    stored: list[Message] = [user("q"), said("a"), *turn, *turn]
    given: list[Message] = [said(text) if text in answers else user(text) for text in sent]

    joined = join(stored, given, OWN)

    assert (joined.keep, [message.text for message in joined.new]) == (kept, new)


def test_half_a_character_is_what_the_store_keeps_of_it() -> None:
    cut = "\N{GRINNING FACE}".encode("utf-16-le")[:2].decode("utf-16-le", "surrogatepass")
    stored: list[Message] = [user("hi \ufffd"), said("a \ufffd")]

    assert join(stored, [user(f"hi {cut}"), said(f"a {cut}"), NEW], OWN).new == [NEW]
