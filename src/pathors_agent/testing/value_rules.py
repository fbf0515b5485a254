"""The rules for values that a store must not change: names, texts, and objects of its callers."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pathors_agent.messages import (
    AssistantMessage,
    JSONValue,
    Message,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from pathors_agent.stores.values import Lease, RequestId, StoredKey, now
from pathors_agent.testing.store_rules import LONG, Rule, Trial, require

# The longest that the server takes from its clients.
LONGEST_NAME = 255

# Names that a store confuses if it trims, folds, decodes, matches or cuts them.
NAMES = (
    *("name", "Name", "NAME", " name", "name ", "name\t", "name/", "/name", "name.", "näme"),
    *("na%6De", "na%me", "na_e", "na*e", "na?e", "na\\me", "na+me", "na me", "na-me", "na'me"),
    *("\u00e9", "e\u0301", "e", "\ufb01", "fi", "\u00df", "ss", "\u0131", "i", "\u2126", "\u03a9"),
    *("1", "01", "1.0", "+1", "true", "null", "None", "0"),
    *("x" * LONGEST_NAME, "x" * (LONGEST_NAME - 1), "x" * (LONGEST_NAME - 1) + "y"),
)
SEPARATORS = ("/", ":", "|", "-", "_", ".", ",", " ", "\x1f", "::")

# Texts that a store changes if it trims, decodes, normalises or cuts them.
TEXTS = (
    "  spaces and a tab \t",
    "\r\nlines \n of all \r kinds\n",
    "e\u0301 is not \u00e9, nor \ufb01 fi, nor \u2126 \u03a9",
    "\ufeffa mark, \u200b nothing, \U0001f469\u200d\U0001f4bb one picture",
    "'; DROP TABLE sessions; --",
    '\\u0041 \\n \\\\ %00 %20 &amp; <b> {"a": 1} $1 :name ?',
    "",
    "null",
    "long " * 60_000 + "end",
)
MANY_MESSAGES = 300


async def _session_ids_are_kept(trial: Trial) -> None:
    """Sessions must be kept under their exact ids."""
    sentence = "a session must be kept under its exact id: {!r} is another id than all others"
    for number, name in enumerate(NAMES):
        made = await trial.create(name, number=number)
        is_new = (made.id, made.variables) == (name, {"number": number})
        require(sentence.format(_shown(name)), holds=is_new)
    for number, name in enumerate(NAMES):
        read = await trial.store.session(trial.project, name)
        same = (read.id, read.variables) == (name, {"number": number})
        require(sentence.format(_shown(name)), holds=same)
    page = await trial.store.list_sessions(trial.project, limit=len(NAMES), offset=0)
    listed = {line.id for line in page.items} == set(NAMES)
    require("a list must have the exact ids of sessions", holds=listed)


async def _projects_are_kept(trial: Trial) -> None:
    """Sessions must be kept under their exact project."""
    projects = [f"{trial.project}{name}" for name in NAMES]
    for number, project in enumerate(projects):
        await replace(trial, project=project).create(number=number)
    for number, project in enumerate(projects):
        read = await trial.store.session(project, trial.id)
        same = (read.project, read.variables) == (project, {"number": number})
        name = _shown(NAMES[number])
        require(f"projects must be distinguished; {name!r} ends another project", holds=same)


async def _names_are_not_joined(trial: Trial) -> None:
    """Check that a project and an id are separate names."""
    for separator in SEPARATORS:
        outer = replace(trial, project=f"{trial.project}{separator}a")
        await trial.create(f"a{separator}b", place="id")
        made = await outer.create("b", place="project")
        apart = made.variables == {"place": "project"}
        sentence = f"a project and an id that are joined by {separator!r} must stay two names"
        require(sentence, holds=apart)
        first = await trial.store.session(trial.project, f"a{separator}b")
        require(sentence, holds=first.variables == {"place": "id"})


async def _lease_names_are_kept(trial: Trial) -> None:
    """Leases must be of their exact session and holder."""
    for name in NAMES:
        lease = await trial.try_lease(name, holder=name)
        sentence = f"a lease must be of its exact session: {_shown(name)!r} is not leased"
        require(sentence, holds=lease is not None)
        assert lease is not None
        exact = (lease.session_id, lease.holder) == (name, name)
        require("a lease must name its exact session and holder", holds=exact)


async def _request_names_are_kept(trial: Trial) -> None:
    """Check that requests are distinguished by their exact names."""
    for name in NAMES:
        for request in (
            RequestId(project=trial.project, api_key="key", name=name),
            RequestId(project=trial.project, api_key=f"key {name}", name="request"),
        ):
            record = await trial.store.begin_request(request, name, seconds=LONG)
            sentence = (
                f"requests must be distinguished by their exact names: {_shown(name)!r} is new"
            )
            require(sentence, holds=record.state == "begun")
            again = await trial.store.begin_request(request, "other", seconds=LONG)
            kept = (again.state, again.body_digest) == ("running", name)
            require("a request must be kept with its exact digest", holds=kept)


async def _turn_names_are_kept(trial: Trial) -> None:
    """Check that notes are kept under the exact name of their turn."""
    lease = await trial.lease()
    for name in NAMES:
        await trial.store.note_turn(lease, name, [name])
    noted = await trial.notes()
    for name in NAMES:
        sentence = f"notes must be kept under the exact name of their turn, like {_shown(name)!r}"
        require(sentence, holds=(name, name) in noted)


async def _keys_are_kept(trial: Trial) -> None:
    """Keys must be found by their exact digest, and kept as they are."""
    keys = [
        StoredKey(
            id=f"{trial.project} {name}",
            project=trial.project,
            digest=f"{trial.project} {name}",
            prefix=name[:20],
            last_four=name[-4:],
            name=name,
            created_at=now(),
        )
        for name in NAMES
    ]
    for key in keys:
        await trial.store.add_key(key)
    for key in keys:
        same = await trial.store.find_key(key.digest) == key
        sentence = f"a key must be found by its exact digest, unchanged: {_shown(key.name)!r}"
        require(sentence, holds=same)


async def _texts_are_kept(trial: Trial) -> None:
    """Texts must come back character by character."""
    for number, text in enumerate(TEXTS):
        place = f"{_shown(text)!r}"
        made = await trial.store.create_session(
            trial.project, f"text-{number}", variables={text: [text]}, provider=text
        )
        same = (made.variables, made.provider) == ({text: [text]}, text)
        require(f"variables and provider must be kept exactly, like {place}", holds=same)
        await trial.say(*_messages_of(text), id=f"text-{number}")
        read = await trial.store.session(trial.project, f"text-{number}")
        same = (read.variables, read.provider) == ({text: [text]}, text)
        require(f"variables and provider must be kept exactly, like {place}", holds=same)
        kept = read.messages == _messages_of(text)
        require(f"messages must be kept exactly, like {place}", holds=kept)


def _messages_of(text: str) -> tuple[Message, ...]:
    return (
        UserMessage(content=text),
        AssistantMessage(
            content=text or None, tool_calls=(ToolCall(id="a", name="b", arguments=text),)
        ),
        ToolMessage(tool_call_id="a", content=text),
        AssistantMessage(content="end", reasoning=text or None),
    )


async def _answers_and_notes_are_kept(trial: Trial) -> None:
    """Answers and notes must come back character by character."""
    for number, text in enumerate(TEXTS):
        request = trial.request(f"{number}")
        await trial.store.begin_request(request, "digest", seconds=LONG)
        lease = await trial.lease(f"{number}")
        await trial.store.note_turn(lease, "turn", [text, text])
        noted = await trial.notes(f"{number}")
        exact = noted == [("turn", text)] * 2
        require(f"notes must be kept exactly, like {_shown(text)!r}", holds=exact)
        hello = (UserMessage(content="Hello"),)
        await trial.store.save_turn(lease, hello, seen=None, request=request, answer=text)
        record = await trial.store.begin_request(request, "digest", seconds=LONG)
        same = (record.state, record.answer) == ("finished", text)
        require(f"answers must be kept exactly, like {_shown(text)!r}", holds=same)


async def _every_message_is_kept(trial: Trial) -> None:
    """Many messages must all come back, equal ones, too."""
    pair = (UserMessage(content="Again."), AssistantMessage(content="Again."))
    await trial.say(*pair * (MANY_MESSAGES // 2))
    await trial.say(*pair)
    read = await trial.store.session(trial.project, trial.id)
    whole = read.messages == pair * (MANY_MESSAGES // 2 + 1)
    require("all messages of a session must be kept, including equal ones", holds=whole)
    counted = read.revision == MANY_MESSAGES + 2
    require("a revision must be the number of messages", holds=counted)


# - values that are shared


async def _given_values_are_copied(trial: Trial) -> None:
    """Check that later changes to a value do not change the stored value."""
    variables: dict[str, JSONValue] = {"list": [1], "map": {"a": [1]}}
    await trial.store.create_session(trial.project, trial.id, variables=variables)
    _change(variables)
    read = await trial.store.session(trial.project, trial.id)
    kept = read.variables == {"list": [1], "map": {"a": [1]}}
    require("variables must be copied when a session is made", holds=kept)
    lease = await trial.lease()
    messages = list(_with_extra())
    await trial.store.save_turn(lease, messages, seen=read)
    for message in messages:
        _change(getattr(message, "extra", None))
    messages.clear()
    read = await trial.store.session(trial.project, trial.id)
    require("messages must be copied when they are saved", holds=read.messages == _with_extra())
    notes = ["one"]
    await trial.store.note_turn(lease, "turn", notes)
    notes.append("two")
    noted = await trial.notes()
    require("notes must be copied when they are written", holds=noted == [("turn", "one")])


async def _returned_values_are_copies(trial: Trial) -> None:
    """Check that a reader's changes do not reach the store."""
    made = await trial.create(list=[1], map={"a": [1]})
    _change(made.variables)
    lease = await trial.lease()
    read = await trial.store.session(trial.project, trial.id)
    saved = await trial.store.save_turn(lease, _with_extra(), seen=read)
    page = await trial.store.search_sessions(trial.project, "", limit=9, offset=0)
    again = await trial.store.session(trial.project, trial.id)
    for session in (read, saved, again, *page.items):
        _change(session.variables)
        for message in session.messages:
            _change(getattr(message, "extra", None))
    last = await trial.store.session(trial.project, trial.id)
    kept = last.variables == {"list": [1], "map": {"a": [1]}}
    require("a session must be returned with its own copy of the variables", holds=kept)
    same = last.messages == _with_extra()
    require("a session must be returned with its own copies of the messages", holds=same)
    await _lists_are_copies(trial, lease)


async def _lists_are_copies(trial: Trial, lease: Lease) -> None:
    await trial.store.note_turn(lease, "turn", ["one"])
    (await trial.store.turn_notes(trial.project, trial.id)).clear()
    noted = await trial.notes()
    kept = noted == [("turn", "one")]
    require("each reader must get its own list of notes", holds=kept)
    (await trial.store.keys(trial.project)).append(_key(trial))
    keys = await trial.store.keys(trial.project)
    require("each reader must get its own list of keys", holds=keys == [])


def _key(trial: Trial) -> StoredKey:
    name = trial.project
    return StoredKey(id=name, project=name, digest=name, prefix="", last_four="", created_at=now())


def _with_extra() -> tuple[Message, ...]:
    extra: dict[str, JSONValue] = {"list": [1], "map": {"a": [1]}}
    return (UserMessage(content="Hello"), AssistantMessage(content="Hi", extra=extra))


def _change(value: Any) -> None:
    """Change a value at every depth; what cannot be changed stays."""
    for inner in list(_items(value)):
        _change(inner)
    with suppress(TypeError, AttributeError):
        if isinstance(value, list):
            value.append("changed")
        else:
            value["changed"] = True


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        yield from value
    elif hasattr(value, "values"):
        yield from value.values()


def _shown(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:20]}...{text[-10:]}"


VALUE_RULES: Sequence[Rule] = (
    _session_ids_are_kept,
    _projects_are_kept,
    _names_are_not_joined,
    _lease_names_are_kept,
    _request_names_are_kept,
    _turn_names_are_kept,
    _keys_are_kept,
    _texts_are_kept,
    _answers_and_notes_are_kept,
    _every_message_is_kept,
    _given_values_are_copied,
    _returned_values_are_copies,
)
