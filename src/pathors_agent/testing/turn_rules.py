"""The rules of turns and of named requests."""

from dataclasses import replace

from pathors_agent.errors import SessionConflict
from pathors_agent.messages import AssistantMessage, UserMessage
from pathors_agent.stores.values import Lease, OpenedSession, RequestId, Session
from pathors_agent.testing.lease_rules import HELLO, MANY, MORE, at_once, let_pass, until
from pathors_agent.testing.store_rules import (
    LONG,
    SHORT,
    Rule,
    Trial,
    is_recent,
    next_millisecond,
    require,
    require_error,
)

# - turns -


async def _turns_are_saved(trial: Trial) -> None:
    """Check that a turn is appended to the session."""
    lease = await trial.lease()
    first = await trial.store.save_turn(lease, HELLO, seen=None)
    made = (first.id, first.messages, first.revision) == (trial.id, HELLO, 2)
    require("a first turn must create the session", holds=made and is_recent(first.created_at))
    same = await trial.seen() == first
    require("a saved session must be returned as it is stored", holds=same)
    await next_millisecond()
    second = await trial.store.save_turn(lease, MORE, seen=first)
    added = second.messages == (*HELLO, *MORE) and second.revision == 4
    require("a turn must be appended to the messages", holds=added)
    require("a turn must set updated_at", holds=second.updated_at > first.updated_at)
    require("a saved session must be returned as it is stored", holds=await trial.seen() == second)
    kept = second.incarnation == first.incarnation and second.created_at == first.created_at
    require("a turn must not change the identity of the session", holds=kept)


async def _sessions_are_rewound(trial: Trial) -> None:
    """Check that a turn with `keep` replaces the messages after the kept ones."""
    lease = await trial.lease()
    first = await trial.store.save_turn(lease, HELLO, seen=None)
    seen = await trial.store.save_turn(lease, MORE, seen=first)
    other = (UserMessage(content="Really?"), AssistantMessage(content="Yes."))
    refused = trial.store.save_turn(lease, other, seen=first, keep=2)
    conflict = "a rewind on an older revision must raise SessionConflict"
    await require_error(conflict, SessionConflict, refused)
    require("a refused call must remove nothing", holds=await trial.seen() == seen)
    saved = await trial.store.save_turn(lease, other, seen=seen, keep=2)
    replaced = saved.messages == (*HELLO, *other) and saved.revision == 4
    require("a turn with `keep` must replace the messages after them", holds=replaced)
    require("a rewound session must be returned as it is stored", holds=await trial.seen() == saved)
    changed = saved.incarnation != seen.incarnation and saved.created_at == seen.created_at
    require("a rewound session must get another incarnation", holds=changed)
    stale = trial.store.save_turn(lease, MORE, seen=seen)
    conflict = "a turn on a session that was rewound since must raise SessionConflict"
    await require_error(conflict, SessionConflict, stale)
    found = await trial.store.search_sessions(trial.project, "And?", limit=10, offset=0)
    require("removed messages must not be found", holds=found.total == 0)
    (line,) = (await trial.store.list_sessions(trial.project, limit=10, offset=0)).items
    require("a rewound session must count its messages", holds=line.message_count == 4)


async def _leases_end_with_turns(trial: Trial) -> None:
    """Check that a turn saved with `drop` releases its lease, and that a refused one keeps it."""
    lease = await trial.lease()
    refused = trial.store.save_turn(lease, HELLO, seen=await trial.create("other"), drop=True)
    conflict = "a turn on another session than the one that was seen must raise SessionConflict"
    await require_error(conflict, SessionConflict, refused)
    kept = await trial.store.keep_lease(lease, seconds=LONG)
    require("a refused turn must keep its lease", holds=kept)
    first = await trial.store.save_turn(lease, HELLO, seen=None, drop=True)
    require("a turn with `drop` must be saved", holds=first.messages == HELLO)
    kept = await trial.store.keep_lease(lease, seconds=LONG)
    require("a turn with `drop` must release its lease", holds=not kept)


async def _stale_turns_are_refused(trial: Trial) -> None:
    """Refuse a writer that read another state of the session, with SessionConflict."""
    made = await trial.create(a=1)
    lease = await trial.lease()
    await _require_refused(trial, lease, None, "a first turn of an existing session")
    grown = await trial.store.save_turn(lease, HELLO, seen=made)
    require("a created session must accept its first turn", holds=grown.revision == 2)
    await _require_refused(trial, lease, made, "a turn on an older revision")
    await trial.store.drop_lease(lease)
    await _require_refused(trial, lease, grown, "a turn without its lease")


async def _ended_sessions_take_no_turn(trial: Trial) -> None:
    """Check that a turn on a session that ended meanwhile is refused."""
    seen = await trial.create()
    await trial.store.end_session(trial.project, trial.id)
    lease = await trial.lease()
    await _require_refused(trial, lease, seen, "a turn on a session that has ended")
    await trial.create()
    await _require_refused(trial, lease, seen, "a turn on an earlier session with this id")


async def _first_turns_of_ended_sessions_are_refused(trial: Trial) -> None:
    """Check that a session's first turn is refused if the session was ended while it ran."""
    lease = await trial.lease()
    ended = await trial.store.end_session(trial.project, trial.id)
    require("ending a session that is not stored must return False", holds=not ended)
    await _require_refused(trial, lease, None, "a first turn of a session that was ended meanwhile")
    kept = await trial.store.keep_lease(lease, seconds=LONG)
    require("ending a session must end its lease", holds=not kept)
    noting = trial.store.note_turn(lease, "turn", ["late"])
    conflict = "a note of a turn whose session was ended must raise SessionConflict"
    await require_error(conflict, SessionConflict, noting)
    anew = await trial.lease()
    saved = await trial.store.save_turn(anew, HELLO, seen=None)
    require("a session with the same id must begin again", holds=saved.messages == HELLO)


async def _require_refused(trial: Trial, lease: Lease, seen: Session | None, what: str) -> None:
    before = await trial.seen()
    request = trial.request(what)
    await trial.store.begin_request(request, "digest", seconds=LONG)
    refused = trial.store.save_turn(lease, MORE, seen=seen, request=request, answer="no")
    await require_error(f"{what} must raise SessionConflict", SessionConflict, refused)
    same = await trial.seen() == before
    require(f"{what} must store nothing", holds=same)
    record = await trial.store.begin_request(request, "digest", seconds=LONG)
    require(f"{what} must leave its request unanswered", holds=record.state == "running")


async def _turns_are_raced_for(trial: Trial) -> None:
    """One of many turns on one revision must be stored."""
    seen = await trial.create()
    lease = await trial.lease()

    async def save(number: int) -> Session:
        return await trial.store.save_turn(lease, HELLO, seen=seen)

    saved = [each for each in await at_once(save) if isinstance(each, Session)]
    now_there = await trial.store.session(trial.project, trial.id)
    one = len(saved) == 1 and now_there == saved[0]
    require("of many turns on one revision, one must be stored", holds=one)


# - requests -


async def _requests_are_of_one(trial: Trial) -> None:
    """Check that one caller at a time answers a named request."""
    request = trial.request()
    first = await trial.store.begin_request(request, "first", seconds=LONG)
    begun = (first.state, first.body_digest, first.answer) == ("begun", "first", None)
    require("a new request must be granted to its caller", holds=begun)
    second = await trial.store.begin_request(request, "second", seconds=LONG)
    require(
        "a request that another caller answers must be running", holds=second.state == "running"
    )
    require("a request must have the digest of the first body", holds=second.body_digest == "first")
    for other in (
        replace(request, project=f"{trial.project}-other"),
        replace(request, api_key="other"),
        replace(request, name="Request"),
    ):
        record = await trial.store.begin_request(other, "first", seconds=LONG)
        apart = record.state == "begun"
        require("requests of another project, API key or name must be separate", holds=apart)


async def _requests_open_their_sessions(trial: Trial) -> None:
    """Check that a request may begin together with its session, and only once."""
    await trial.say(*HELLO)

    async def begin(name: str, session_id: str) -> tuple[str, OpenedSession | None]:
        record, opened = await trial.store.begin_turn(
            trial.request(name), "digest", session_id=session_id, holder=name, seconds=LONG
        )
        return record.state, opened

    state, opened = await begin("request", trial.id)
    is_whole = opened is not None and opened.session == await trial.seen()
    require("a new request must get its session", holds=state == "begun" and is_whole)
    again = await begin("request", f"{trial.id}-other")
    require("a request that is running must get no session", holds=again == ("running", None))
    held = await begin("second", trial.id)
    require("a session that is held must not be opened", holds=held == ("begun", None))
    assert opened is not None
    seen, request = opened.session, trial.request()
    await trial.store.save_turn(
        opened.lease, MORE, seen=seen, request=request, answer="{}", drop=True
    )
    finished = await begin("request", trial.id)
    require("a finished request must get no session", holds=finished == ("finished", None))
    require("no lease may remain", holds=await trial.lease() is not None)


async def _requests_are_raced_for(trial: Trial) -> None:
    """Check that one of many concurrent callers gets a request."""

    async def begin(number: int) -> str:
        record = await trial.store.begin_request(trial.request(), f"{number}", seconds=LONG)
        return record.state

    states = sorted(str(state) for state in await at_once(begin))
    one = states == ["begun", *["running"] * (MANY - 1)]
    require("of many callers that begin a request, one must get it", holds=one)


async def _requests_are_finished(trial: Trial) -> None:
    """Check that a saved turn finishes its request."""
    request = trial.request()
    await trial.store.begin_request(request, "first", seconds=LONG)
    lease = await trial.lease()
    saved = await trial.store.save_turn(lease, HELLO, seen=None, request=request, answer='{"é": 1}')
    await _require_finished(trial, request, "a saved turn must finish its request")
    await trial.store.forget_request(request)
    await _require_finished(trial, request, "a finished request must not be forgotten")
    await trial.store.keep_request(request, seconds=-LONG)
    await _require_finished(trial, request, "a finished request must not be kept shorter")
    twice = trial.store.save_turn(lease, MORE, seen=saved, request=request, answer="twice")
    conflict = "a turn whose request is answered must raise SessionConflict"
    await require_error(conflict, SessionConflict, twice)
    same = await trial.seen() == saved
    require("a turn whose request is answered must store nothing", holds=same)
    await trial.store.end_session(trial.project, trial.id)
    record = await trial.store.begin_request(request, "first", seconds=LONG)
    gone = record.state == "begun"
    require("the answers of a session must be deleted with it", holds=gone)


async def _require_finished(trial: Trial, request: RequestId, sentence: str) -> None:
    record = await trial.store.begin_request(request, "second", seconds=LONG)
    answered = (record.state, record.body_digest, record.answer) == (
        "finished",
        "first",
        '{"é": 1}',
    )
    require(sentence, holds=answered)


async def _answers_outlive_their_requests(trial: Trial) -> None:
    """Check that an answer is kept longer than the seconds of its request."""
    request = trial.request()
    await trial.store.begin_request(request, "first", seconds=SHORT)
    lease = await trial.lease()
    await trial.store.save_turn(lease, HELLO, seen=None, request=request, answer='{"é": 1}')
    await let_pass(trial, "a lease must expire after its seconds")
    await _require_finished(
        trial, request, "an answer must be kept longer than the seconds of its request"
    )


async def _requests_are_forgotten(trial: Trial) -> None:
    """Check that a forgotten request can begin again."""
    request = trial.request()
    await trial.store.begin_request(request, "first", seconds=LONG)
    await trial.store.forget_request(request)
    record = await trial.store.begin_request(request, "second", seconds=LONG)
    anew = (record.state, record.body_digest) == ("begun", "second")
    require("a forgotten request must begin again", holds=anew)


async def _requests_end(trial: Trial) -> None:
    """Check that a request that no caller answers can begin again after its seconds."""
    kept, clock = trial.request("kept"), trial.request("clock")
    await trial.store.begin_request(kept, "first", seconds=SHORT)
    await trial.store.begin_request(clock, "first", seconds=SHORT)
    await trial.store.keep_request(kept, seconds=LONG)

    async def clock_is_over() -> bool:
        record = await trial.store.begin_request(clock, "second", seconds=LONG)
        return (record.state, record.body_digest) == ("begun", "second")

    await until("a request must expire after its seconds", clock_is_over)
    record = await trial.store.begin_request(kept, "second", seconds=LONG)
    require("a request that is kept must not expire", holds=record.state == "running")


async def _turns_are_noted(trial: Trial) -> None:
    """Check that notes of a turn are kept in order until it is saved."""
    store, lease = trial.store, await trial.lease()
    for notes in (["one"], ["two", '{"three": "\\u0000 é"}']):
        await store.note_turn(lease, "turn", notes)
    await store.note_turn(lease, "other", ["apart"])
    noted = await trial.notes()
    in_order = noted == [
        ("turn", "one"),
        ("turn", "two"),
        ("turn", '{"three": "\\u0000 é"}'),
        ("other", "apart"),
    ]
    require("notes must be returned in the order they were written", holds=in_order)
    every = [(n.project, n.session_id) for n in await store.turn_notes() if n.turn == "other"]
    named = (trial.project, trial.id) in every
    require("notes of all sessions must name project and session", holds=named)
    apart = await store.turn_notes(trial.project, "another")
    require("notes must belong to their session", holds=apart == [])
    await store.note_turn(lease, "done with", ["x"])
    await store.forget_notes(lease, "done with")
    named = "done with" in {turn for turn, _ in await trial.notes()}
    require("forgotten notes must be gone", holds=not named)
    await store.save_turn(lease, HELLO, seen=None, turn="turn")
    left = await trial.notes()
    require(
        "a saved turn's notes must be deleted, and no others", holds=left == [("other", "apart")]
    )
    await store.end_session(trial.project, trial.id)
    require("an ended session's notes must be deleted", holds=await trial.notes() == [])


async def _stale_notes_are_refused(trial: Trial) -> None:
    """Refuse the notes of a writer that lost the lease."""
    lease = await trial.lease()
    await trial.store.drop_lease(lease)
    refused = trial.store.note_turn(lease, "turn", ["late"])
    await require_error(
        "a holder that lost the lease must get SessionConflict", SessionConflict, refused
    )
    require("a refused note must not be stored", holds=await trial.notes() == [])
    refused = trial.store.forget_notes(lease, "turn")
    await require_error(
        "a holder that lost the lease must forget no notes", SessionConflict, refused
    )


async def _store_checks_itself(trial: Trial) -> None:
    """Check that a working store reports that it works."""
    await trial.store.check()


async def _new_ids_need_no_lease(trial: Trial) -> None:
    """Check that a session with a new id is created without a lease."""
    store, lease = trial.store, Lease.of_secret_id(trial.project, trial.id)
    saved = await store.save_turn(lease, HELLO, seen=None, drop=True)
    same = await trial.seen() == saved and saved.messages == HELLO
    require("a session with a new id must be created without a lease in the store", holds=same)
    for seen in (None, saved):
        again = store.save_turn(lease, HELLO, seen=seen, drop=True)
        conflict = "a session that exists must not be written without a lease"
        await require_error(conflict, SessionConflict, again)
    held = Lease.of_secret_id(trial.project, f"{trial.id}-held")
    await trial.lease(held.session_id)
    conflict = "a session that another holder has leased must not be created without a lease"
    await require_error(conflict, SessionConflict, store.save_turn(held, HELLO, seen=None))


TURN_RULES: tuple[Rule, ...] = (
    _turns_are_saved,
    _stale_turns_are_refused,
    _ended_sessions_take_no_turn,
    _turns_are_raced_for,
    _sessions_are_rewound,
    _leases_end_with_turns,
    _requests_are_of_one,
    _requests_open_their_sessions,
    _requests_are_raced_for,
    _requests_are_finished,
    _answers_outlive_their_requests,
    _requests_are_forgotten,
    _requests_end,
    _turns_are_noted,
    _stale_notes_are_refused,
    _first_turns_of_ended_sessions_are_refused,
    _store_checks_itself,
    _new_ids_need_no_lease,
)
