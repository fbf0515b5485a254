"""The rules of leases: the right to write a session belongs to one holder at a time."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

import anyio

from pathors_agent.errors import SessionConflict
from pathors_agent.history.trim import last_turns
from pathors_agent.messages import AssistantMessage, SystemMessage, UserMessage
from pathors_agent.stores.values import Lease
from pathors_agent.testing.store_rules import (
    LONG,
    PATIENCE,
    SHORT,
    Rule,
    Trial,
    require,
    require_error,
)

HELLO = (UserMessage(content="Hello"), AssistantMessage(content="Hi"))
MORE = (UserMessage(content="And?"), AssistantMessage(content="No."))

# How many try the same thing at once.
MANY = 10


async def at_once(work: Callable[[int], Awaitable[object]]) -> list[object]:
    """Do the work many times at once; return the results and the errors."""
    results: list[object] = []

    async def do(number: int) -> None:
        try:
            results.append(await work(number))
        except SessionConflict as error:
            results.append(error)

    async with anyio.create_task_group() as tasks:
        for number in range(MANY):
            tasks.start_soon(do, number)
    return results


async def until(sentence: str, what: Callable[[], Awaitable[object]]) -> None:
    """Wait until the result is not None; raise the sentence if it takes too long."""
    with anyio.move_on_after(PATIENCE):
        while not await what():  # noqa: ASYNC110  (a clock sends no event)
            await anyio.sleep(SHORT / 5)
        return
    raise AssertionError(sentence)


async def _leases_are_of_one(trial: Trial) -> None:
    """Check that one holder at a time has a lease."""
    lease = await trial.lease()
    named = (lease.project, lease.session_id, lease.holder) == (trial.project, trial.id, "writer")
    require("a lease must name its session and holder", holds=named)
    for holder in ("other", "writer"):
        second = await trial.try_lease(holder=holder)
        require("a lease that is held must not be granted again", holds=second is None)
    await trial.lease("another-session")
    await replace(trial, project=f"{trial.project}-other").lease()


async def _sessions_are_opened(trial: Trial) -> None:
    """Check that an opened session comes with its lease and its notes."""
    store = trial.store
    new = await store.open_session(trial.project, trial.id, holder="writer", seconds=LONG)
    require("a new session must be opened as None", holds=new is not None and new.session is None)
    assert new is not None
    held = await store.open_session(trial.project, trial.id, holder="writer", seconds=LONG)
    require("a session must not be opened while its lease is held", holds=held is None)
    await store.note_turn(new.lease, "turn", ["note"])
    saved = await store.save_turn(new.lease, HELLO, seen=None)
    await store.drop_lease(new.lease)
    opened = await store.open_session(trial.project, trial.id, holder="other", seconds=LONG)
    assert opened is not None
    require("an opened session must be returned whole", holds=opened.session == saved)
    told = [(note.turn, note.text) for note in opened.notes] == [("turn", "note")]
    require("an opened session must be returned with the notes of its turns", holds=told)
    kept = await store.keep_lease(opened.lease, seconds=LONG)
    require("an opened session's lease must be held", holds=kept)


async def _tails_are_opened(trial: Trial) -> None:
    """Check that a session that is opened without its first turns counts them."""
    store, tail = trial.store, last_turns(1)
    await trial.say(SystemMessage(content="first"), *(HELLO * 100))
    opened = await store.open_session(
        trial.project, trial.id, holder="other", seconds=LONG, tail=tail
    )
    assert opened is not None
    session, whole = opened.session, await trial.seen()
    assert session is not None
    assert whole is not None
    sent = [*tail(session.messages)] == [*tail(whole.messages)]
    require("an opened session must have the messages that a tail selects", holds=sent)
    counts = (session.size, session.revision, session.leading)
    alike = counts == (whole.size, whole.revision, whole.leading)
    require("a session must have its size and revision, even if only a part is read", holds=alike)
    saved = await store.save_turn(opened.lease, MORE, seen=session, drop=True)
    seen = await trial.seen()
    assert seen is not None
    grown = seen.messages == (*whole.messages, *MORE)
    require("a turn must be appended to the whole session", holds=grown)
    require("a saved session must have its size", holds=saved.size == seen.size)


async def _leases_are_raced_for(trial: Trial) -> None:
    """Check that one of many concurrent callers gets a lease."""

    async def take(number: int) -> Lease | None:
        return await trial.try_lease(holder=f"writer-{number}")

    given = [lease for lease in await at_once(take) if lease is not None]
    require("of many concurrent callers, one must get the lease", holds=len(given) == 1)


async def _ended_leases_are_raced_for(trial: Trial) -> None:
    """Check that one of many concurrent callers gets an expired lease."""
    await trial.lease(seconds=SHORT)
    await let_pass(trial, "a lease must expire after its seconds")

    async def take(number: int) -> Lease | None:
        return await trial.try_lease(holder="writer")

    given = [lease for lease in await at_once(take) if lease is not None]
    require("of many concurrent callers, one must get an expired lease", holds=len(given) == 1)


async def let_pass(trial: Trial, sentence: str) -> None:
    """Wait until a lease of `SHORT` seconds is over that was taken after all others."""
    await trial.lease("passing", seconds=SHORT)

    await until(sentence, partial(trial.try_lease, "passing"))


async def _leases_are_held_on(trial: Trial) -> None:
    """Check that a lease is held until it is dropped or expires."""
    store, lease = trial.store, await trial.lease()
    first = await store.save_turn(lease, HELLO, seen=None)
    await _require_held(trial, "after its turn is saved")
    await require_error(
        "a first turn of an existing session must raise SessionConflict",
        SessionConflict,
        store.save_turn(lease, MORE, seen=None),
    )
    await _require_held(trial, "after a turn that was refused")
    await store.keep_lease(lease, seconds=LONG)
    await store.note_turn(lease, "turn", ["note"])
    await _require_held(trial, "after it is kept")
    await store.drop_lease(replace(lease, fence=lease.fence - 1))
    await store.drop_lease(replace(lease, holder="other"))
    await _require_held(trial, "after another holder dropped its lease")
    await store.save_turn(lease, MORE, seen=first)
    await _require_held(trial, "after its next turn is saved")


async def _require_held(trial: Trial, when: str) -> None:
    for holder in ("other", "writer"):
        again = await trial.try_lease(holder=holder)
        require(f"a lease must not be granted a second time {when}", holds=again is None)


async def _leases_are_dropped(trial: Trial) -> None:
    """Check that a dropped lease can be taken again."""
    first = await trial.lease()
    await trial.store.drop_lease(first)
    second = await trial.lease()
    require("a lease's fence must grow, also after a drop", holds=second.fence > first.fence)
    await trial.store.drop_lease(first)
    kept = await trial.store.keep_lease(first, seconds=LONG)
    require("a lease that another holder has must not be kept", holds=not kept)
    third = await trial.try_lease(holder="third")
    require("dropping an old lease must leave the new one", holds=third is None)


async def _leases_end(trial: Trial) -> None:
    """Check that a lease expires after its seconds."""
    first = await trial.lease(seconds=SHORT)

    await until("a lease must expire after its seconds", trial.try_lease)
    kept = await trial.store.keep_lease(first, seconds=LONG)
    require("a lease that another holder has must not be kept", holds=not kept)
    conflict = "a holder that lost the lease must get SessionConflict"
    late = trial.store.save_turn(first, HELLO, seen=None)
    await require_error(conflict, SessionConflict, late)
    require("a refused turn must not be stored", holds=await trial.seen() is None)


async def _leases_are_kept(trial: Trial) -> None:
    """Check that a renewed lease does not expire."""
    kept = await trial.lease("kept", seconds=SHORT)
    # Ends no sooner than the other would have.
    await trial.lease("clock", seconds=SHORT)
    done = await trial.store.keep_lease(kept, seconds=LONG)
    require("a lease must be kept by its holder", holds=done)

    await until("a lease must expire after its seconds", partial(trial.try_lease, "clock"))
    other = await trial.try_lease("kept")
    require("a lease that is kept must not expire", holds=other is None)


LEASE_RULES: tuple[Rule, ...] = (
    _leases_are_of_one,
    _leases_are_raced_for,
    _ended_leases_are_raced_for,
    _leases_are_held_on,
    _leases_are_dropped,
    _leases_end,
    _leases_are_kept,
    _sessions_are_opened,
    _tails_are_opened,
)
