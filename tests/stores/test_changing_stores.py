"""Stores that cut, normalise, share, forget or give out twice: the check names what each one does."""

import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import unquote, unquote_plus

import anyio.lowlevel
import pytest

from pathors_agent.messages import AssistantMessage, Message
from pathors_agent.stores import (
    Lease,
    MemoryStore,
    RequestId,
    RequestRecord,
    Session,
    StoredKey,
    TurnNote,
    Variables,
)
from pathors_agent.testing import check_store

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=["asyncio", pytest.param("trio", marks=pytest.mark.slow)])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run the tests on asyncio, and in `make test-all` on trio as well."""
    return str(request.param)


Change = Callable[[str], str]


class Plain(MemoryStore):
    """A right store; a wrong one changes something on its way in."""

    def project_of(self, name: str) -> str:
        return name

    def id_of(self, name: str) -> str:
        return name

    def place(self, project: str, session_id: str) -> tuple[str, str]:
        return self.project_of(project), self.id_of(session_id)

    def lease_place(self, project: str, session_id: str) -> tuple[str, str]:
        return project, session_id

    def message_of(self, message: Message) -> Message:
        return message

    def messages_of(self, messages: Sequence[Message]) -> Sequence[Message]:
        return [self.message_of(message) for message in messages]

    def variables_of(self, variables: Variables) -> Variables:
        return variables

    def answer_of(self, answer: str | None) -> str | None:
        return answer

    async def create_session(
        self, project: str, session_id: str, *, variables: Variables, provider: str = ""
    ) -> Session:
        project, session_id = self.place(project, session_id)
        variables = self.variables_of(variables)
        return await super().create_session(
            project, session_id, variables=variables, provider=provider
        )

    async def session(self, project: str, session_id: str) -> Session:
        return await super().session(*self.place(project, session_id))

    async def take_lease(
        self, project: str, session_id: str, *, holder: str, seconds: float
    ) -> Lease | None:
        place = self.lease_place(project, session_id)
        return await super().take_lease(*place, holder=holder, seconds=seconds)

    async def save_turn(
        self, lease: Lease, messages: Sequence[Message], *, answer: str | None = None, **given: Any
    ) -> Session:
        messages, answer = self.messages_of(messages), self.answer_of(answer)
        return await super().save_turn(lease, messages, answer=answer, **given)


# - names -


def ids(change: Change) -> type[MemoryStore]:
    return type("ChangesIds", (Plain,), {"id_of": lambda self, name: change(name)})


def projects(change: Change) -> type[MemoryStore]:
    return type("ChangesProjects", (Plain,), {"project_of": lambda self, name: change(name)})


def leases(change: Change) -> type[MemoryStore]:
    return type(
        "ChangesLeases",
        (Plain,),
        {"lease_place": lambda self, project, name: (project, change(name))},
    )


def requests(change: Change) -> type[MemoryStore]:
    class ChangesRequests(MemoryStore):
        async def begin_request(
            self, request: RequestId, body_digest: str, *, seconds: float
        ) -> RequestRecord:
            changed = replace(request, name=change(request.name))
            return await super().begin_request(changed, body_digest, seconds=seconds)

    return ChangesRequests


def api_keys(change: Change) -> type[MemoryStore]:
    class ChangesKeys(MemoryStore):
        async def begin_request(
            self, request: RequestId, body_digest: str, *, seconds: float
        ) -> RequestRecord:
            changed = replace(request, api_key=change(request.api_key))
            return await super().begin_request(changed, body_digest, seconds=seconds)

    return ChangesKeys


def digests(change: Change) -> type[MemoryStore]:
    class ChangesDigests(MemoryStore):
        async def find_key(self, digest: str) -> StoredKey | None:
            wanted = change(digest)
            return next((k for k in self._keys.values() if change(k.digest) == wanted), None)

    return ChangesDigests


def turn_names(change: Change) -> type[MemoryStore]:
    class ChangesTurns(MemoryStore):
        async def note_turn(self, lease: Lease, turn: str, notes: Sequence[str]) -> None:
            await super().note_turn(lease, change(turn), notes)

    return ChangesTurns


class JoinsNames(Plain):
    """Keeps a project and an id as one text, and takes them apart at the last colon."""

    def place(self, project: str, session_id: str) -> tuple[str, str]:
        first, _, last = f"{project}:{session_id}".rpartition(":")
        return first, last


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def without_accents(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def number(text: str) -> str:
    try:
        return str(float(text))
    except ValueError:
        return text


NAMES: list[tuple[str, type[MemoryStore]]] = [
    ("ids in small letters", ids(str.lower)),
    ("ids folded", ids(str.casefold)),
    ("ids trimmed", ids(str.strip)),
    ("ids with spaces cut at the end", ids(str.rstrip)),
    ("ids composed", ids(nfc)),
    ("ids in compatible characters", ids(nfkc)),
    ("ids without accents", ids(without_accents)),
    ("ids decoded", ids(unquote)),
    ("ids decoded as forms", ids(unquote_plus)),
    ("ids without slashes at the end", ids(lambda text: text.rstrip("/"))),
    ("ids as numbers", ids(number)),
    ("ids in ASCII", ids(lambda text: text.encode("ascii", "replace").decode())),
    ("ids cut", ids(lambda text: text[:128])),
    ("ids cut by one", ids(lambda text: text[:254])),
    ("projects in small letters", projects(str.lower)),
    ("projects composed", projects(nfc)),
    ("projects cut", projects(lambda text: text[:100])),
    ("leases folded", leases(str.casefold)),
    ("leases cut", leases(lambda text: text[:64])),
    ("requests trimmed", requests(str.strip)),
    ("requests cut", requests(lambda text: text[:200])),
    ("requests' keys in small letters", api_keys(str.lower)),
    ("digests cut", digests(lambda text: text[:60])),
    ("digests composed", digests(nfc)),
    ("turns folded", turn_names(str.casefold)),
    ("turns cut", turn_names(lambda text: text[:40])),
]


@pytest.mark.parametrize("store", [each for _, each in NAMES], ids=[name for name, _ in NAMES])
async def test_store_that_takes_two_names_for_one_is_found_out(store: type[MemoryStore]) -> None:
    with pytest.raises(AssertionError, match=r"exact|told apart|apart by|case must count|digest"):
        await check_store(store)


# - what they do with texts and lists of messages -


def texts(change: Change) -> type[MemoryStore]:
    def message_of(self: object, message: Message) -> Message:
        if not isinstance(message.content, str):
            return message
        return message.model_copy(update={"content": change(message.content)})

    return type("ChangesTexts", (Plain,), {"message_of": message_of})


def variable_texts(change: Change) -> type[MemoryStore]:
    def deep(value: Any) -> Any:
        match value:
            case str():
                return change(value)
            case list():
                return [deep(item) for item in value]
            case dict():
                return {change(name): deep(item) for name, item in value.items()}
            case _:
                return value

    return type("ChangesVariables", (Plain,), {"variables_of": lambda self, given: deep(given)})


def answers(change: Change) -> type[MemoryStore]:
    return type(
        "ChangesAnswers",
        (Plain,),
        {"answer_of": lambda self, answer: None if answer is None else change(answer)},
    )


def notes(change: Change) -> type[MemoryStore]:
    class ChangesNotes(MemoryStore):
        async def note_turn(self, lease: Lease, turn: str, notes: Sequence[str]) -> None:
            await super().note_turn(lease, turn, [change(note) for note in notes])

    return ChangesNotes


class DropsRepeatedMessages(Plain):
    def messages_of(self, messages: Sequence[Message]) -> Sequence[Message]:
        return [m for place, m in enumerate(messages) if m not in messages[:place]]


class KeepsTheLastMessages(Plain):
    def messages_of(self, messages: Sequence[Message]) -> Sequence[Message]:
        return messages[-200:]


class KeepsNotesOnce(MemoryStore):
    async def note_turn(self, lease: Lease, turn: str, notes: Sequence[str]) -> None:
        await super().note_turn(lease, turn, list(dict.fromkeys(notes)))


class LosesReasoning(Plain):
    def message_of(self, message: Message) -> Message:
        if isinstance(message, AssistantMessage):
            return message.model_copy(update={"reasoning": None})
        return message


def one_kind_of_line(text: str) -> str:
    return text.replace("\r\n", "\n")


TEXTS: list[tuple[str, type[MemoryStore]]] = [
    ("texts trimmed", texts(str.strip)),
    ("texts with one kind of line", texts(one_kind_of_line)),
    ("texts composed", texts(nfc)),
    ("texts without marks", texts(lambda text: text.replace("\ufeff", ""))),
    ("texts cut at 65,535", texts(lambda text: text[:65_535])),
    ("texts cut at 255,000", texts(lambda text: text[:255_000])),
    ("texts decoded", texts(unquote)),
    ("texts without quotes", texts(lambda text: text.replace("'", "''"))),
    ("variables trimmed", variable_texts(str.strip)),
    ("variables cut", variable_texts(lambda text: text[:1000])),
    ("answers trimmed", answers(str.strip)),
    ("answers cut", answers(lambda text: text[:65_535])),
    ("notes composed", notes(nfc)),
    ("notes cut", notes(lambda text: text[:65_535])),
    ("repeated messages dropped", DropsRepeatedMessages),
    ("first messages dropped", KeepsTheLastMessages),
    ("repeated notes dropped", KeepsNotesOnce),
    ("reasoning lost", LosesReasoning),
]


@pytest.mark.parametrize("store", [each for _, each in TEXTS], ids=[name for name, _ in TEXTS])
async def test_store_that_changes_texts_is_found_out(store: type[MemoryStore]) -> None:
    with pytest.raises(AssertionError, match=r"must be kept|come back as they were|kept, whatever"):
        await check_store(store)


# - values that it shares with its callers -


class SharesVariablesGiven(Plain):
    """Keeps the very object that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.shared: dict[tuple[str, str], Variables] = {}

    async def create_session(
        self, project: str, session_id: str, *, variables: Variables, provider: str = ""
    ) -> Session:
        made = await super().create_session(
            project, session_id, variables=variables, provider=provider
        )
        self.shared.setdefault((project, session_id), variables)
        return made

    async def session(self, project: str, session_id: str) -> Session:
        found = await super().session(project, session_id)
        # As if the session had parsed them before.
        vars(found)["variables"] = self.copied(self.shared.get((project, session_id), {}))
        return found

    def copied(self, variables: Variables) -> Variables:
        return dict(variables)

    async def end_session(self, project: str, session_id: str) -> bool:
        self.shared.pop((project, session_id), None)
        return await super().end_session(project, session_id)


class CopiesVariablesNotDeeply(SharesVariablesGiven):
    async def create_session(
        self, project: str, session_id: str, *, variables: Variables, provider: str = ""
    ) -> Session:
        return await super().create_session(
            project, session_id, variables=dict(variables), provider=provider
        )


class CachesSessions(MemoryStore):
    """Gives every reader the same object, until the session changes."""

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[tuple[str, str], Session] = {}

    async def session(self, project: str, session_id: str) -> Session:
        found = await super().session(project, session_id)
        known = self.read.get((project, session_id))
        if known and (known.incarnation, known.revision) == (found.incarnation, found.revision):
            return known
        self.read[project, session_id] = found
        return found


class SharesMessages(CachesSessions):
    async def session(self, project: str, session_id: str) -> Session:
        found = await MemoryStore.session(self, project, session_id)
        known = await super().session(project, session_id)
        vars(found)["messages"] = known.messages
        return found


class SharesNotes(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.lists: dict[object, list[TurnNote]] = {}

    async def turn_notes(
        self, project: str | None = None, session_id: str | None = None
    ) -> list[TurnNote]:
        found = await super().turn_notes(project, session_id)
        return self.lists.setdefault((project, session_id, tuple(found)), found)


class KeepsTheListOfNotes(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[TurnNote, Sequence[str], int]] = []

    async def note_turn(self, lease: Lease, turn: str, notes: Sequence[str]) -> None:
        await super().note_turn(lease, turn, notes)
        place = {"project": lease.project, "session_id": lease.session_id, "turn": turn}
        self.given.append((TurnNote(**place, text=""), notes, len(notes)))

    async def turn_notes(
        self, project: str | None = None, session_id: str | None = None
    ) -> list[TurnNote]:
        found = await super().turn_notes(project, session_id)
        for note, notes, count in self.given:
            if (note.project, note.session_id) == (project, session_id):
                found += [replace(note, text=text) for text in notes[count:]]
        return found


class SharesKeys(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.lists: dict[str | None, list[StoredKey]] = {}

    async def keys(self, project: str | None = None) -> list[StoredKey]:
        found = await super().keys(project)
        known = self.lists.setdefault(project, found)
        if len(known) < len(found):
            known[:] = found
        return known


@pytest.mark.parametrize(
    ("store", "sentence"),
    [
        (SharesVariablesGiven, "variables must be copied when a session is made"),
        (CopiesVariablesNotDeeply, "variables must be copied when a session is made"),
        (CachesSessions, "with its own copy of the variables"),
        (SharesMessages, "with its own copies of the messages"),
        (SharesNotes, "each reader must get its own list of notes"),
        (KeepsTheListOfNotes, "notes must be copied when they are written"),
        (SharesKeys, "each reader must get its own list of keys"),
    ],
)
async def test_store_that_shares_values_is_found_out(
    store: type[MemoryStore], sentence: str
) -> None:
    with pytest.raises(AssertionError, match=sentence):
        await check_store(store)


# - leases and answers -


class DropsLeasesOfSavedTurns(Plain):
    async def save_turn(self, lease: Lease, messages: Sequence[Message], **given: Any) -> Session:
        saved = await super().save_turn(lease, messages, **given)
        self._leases[lease.project, lease.session_id] = lease, 0.0
        return saved


class DropsLeasesOfRefusedTurns(Plain):
    async def save_turn(self, lease: Lease, messages: Sequence[Message], **given: Any) -> Session:
        try:
            return await super().save_turn(lease, messages, **given)
        except Exception:
            if self._is_held(lease) and (lease.project, lease.session_id) in self._live:
                self._leases[lease.project, lease.session_id] = lease, 0.0
            raise


class KeepsForNoTime(MemoryStore):
    """Ends a lease that is kept, and takes it for kept."""

    async def keep_lease(self, lease: Lease, *, seconds: float) -> bool:
        return await super().keep_lease(lease, seconds=0)


class DropsLeasesOfAnybody(MemoryStore):
    async def drop_lease(self, lease: Lease) -> None:
        self._leases.pop((lease.project, lease.session_id), None)


class DropsLeasesByHolder(MemoryStore):
    async def drop_lease(self, lease: Lease) -> None:
        held, _ = self._leases.get((lease.project, lease.session_id), (None, 0.0))
        if held is not None and held.holder == lease.holder:
            del self._leases[lease.project, lease.session_id]


class LooksBeforeItTakesWhatIsOver(MemoryStore):
    """Takes new leases at once, and lets others in between when one is over."""

    async def take_lease(
        self, project: str, session_id: str, *, holder: str, seconds: float
    ) -> Lease | None:
        held = self._leases.get((project, session_id))
        lease = await super().take_lease(project, session_id, holder=holder, seconds=seconds)
        if held is None or lease is None:
            return lease
        mine, self._leases[project, session_id] = self._leases[project, session_id], held
        await anyio.lowlevel.checkpoint()
        self._leases[project, session_id] = mine
        return lease


class ForgetsAnswersWithTheirRequests(Plain):
    async def save_turn(
        self,
        lease: Lease,
        messages: Sequence[Message],
        *,
        request: RequestId | None = None,
        **given: Any,
    ) -> Session:
        until = self._requests[request].until if request in self._requests else 0.0
        saved = await super().save_turn(lease, messages, request=request, **given)
        with suppress(KeyError):
            self._requests[request].until = until  # type: ignore[index]  # None is no key
        return saved


class KeepsFinishedRequestsAnew(MemoryStore):
    async def keep_request(self, request: RequestId, *, seconds: float) -> None:
        if known := self._requests.get(request):
            known.until = seconds


@pytest.mark.parametrize(
    ("store", "sentence"),
    [
        (DropsLeasesOfSavedTurns, "must not be granted a second time after its turn is saved"),
        (
            DropsLeasesOfRefusedTurns,
            "must not be granted a second time after a turn that was refused",
        ),
        (KeepsForNoTime, "a lease that is kept must not expire|a second time after it is kept"),
        (DropsLeasesOfAnybody, "a second time after another holder dropped its lease"),
        (DropsLeasesByHolder, "a second time after another holder dropped its lease"),
        (LooksBeforeItTakesWhatIsOver, "of many concurrent callers, one must get an expired lease"),
        (ForgetsAnswersWithTheirRequests, "an answer must be kept longer than the seconds of its"),
        (KeepsFinishedRequestsAnew, "a finished request must not be kept shorter"),
        (JoinsNames, "a project and an id are separate names"),
    ],
)
async def test_store_that_grants_twice_or_forgets_is_detected(
    store: type[MemoryStore], sentence: str
) -> None:
    with pytest.raises(AssertionError, match=sentence):
        await check_store(store)


async def test_plain_store_follows_every_rule() -> None:
    await check_store(Plain)
