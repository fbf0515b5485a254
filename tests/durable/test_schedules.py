"""Schedules start one run for each of their times, whatever workers there are."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import stored_runs
from pathors_agent import ToolContext, UserMessage, tool
from pathors_agent.durable import DurableAgent, Schedule
from pathors_agent.durable.engine import sql
from pathors_agent.durable.schedules import LOOK_SECONDS, Scheduler
from pathors_agent.errors import InvalidSetting
from pathors_agent.testing import calls

pytestmark = [pytest.mark.slow, pytest.mark.anyio]


opened = partial(stored_runs.opened, queue="q")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


NOON = at("2030-06-01T12:00:00+00:00")
DAILY = Schedule(name="report", cron="0 9 * * *", prompt=UserMessage(content="go"), since=NOON)


@pytest.mark.parametrize(
    ("schedule", "now", "due"),
    [
        (DAILY, "2030-06-02T08:59:59.999+00:00", None),
        (DAILY, "2030-06-02T09:00:00+00:00", "2030-06-02T09:00:00+00:00"),
        (DAILY, "2030-06-05T08:00:00+00:00", "2030-06-04T09:00:00+00:00"),
        (replace(DAILY, started_at=at("2030-06-04T09:00+00:00")), "2030-06-05T08:00+00:00", None),
        # A schedule that was changed starts nothing for the past.
        (replace(DAILY, started_at=at("2030-05-01T09:00+00:00")), "2030-06-01T13:00+00:00", None),
        (
            replace(DAILY, timezone="Europe/Berlin"),
            "2030-06-02T07:30:00+00:00",
            "2030-06-02T09:00:00+02:00",
        ),
        (
            replace(DAILY, cron="*/20 * * * * *"),
            "2030-06-01T12:00:21+00:00",
            "2030-06-01T12:00:20+00:00",
        ),
    ],
    ids=["before", "exactly", "missed", "started", "changed", "timezone", "seconds"],
)
def test_latest_time_after_the_last_run_is_due(
    schedule: Schedule, now: str, due: str | None
) -> None:
    assert schedule.due(at(now)) == (None if due is None else at(due))


@pytest.mark.parametrize(
    ("cron", "hours", "started"),
    [
        ("30 1 * * *", 4, ["05:30"]),
        ("30 0-2 * * *", 4, ["04:30", "05:30", "07:30"]),
        ("30 * * * *", 4, ["04:30", "05:30", "06:30", "07:30"]),
        ("0 */30 1 * * *", 4, ["05:00", "05:30"]),
        ("@hourly", 4, ["04:00", "05:00", "06:00", "07:00"]),
    ],
)
def test_only_a_schedule_of_every_hour_starts_runs_again_in_a_repeated_hour(
    cron: str, hours: int, started: list[str]
) -> None:
    """In New York, the hour from 01:00 is 05:00 in UTC, and again 06:00."""
    midnight = at("2026-11-01T04:00:00+00:00")
    schedule = replace(
        DAILY, cron=cron, timezone="America/New_York", since=midnight - timedelta(seconds=1)
    )
    assert starts(schedule, midnight, hours) == started


@pytest.mark.parametrize(
    ("cron", "started"),
    [("30 2 * * *", ["07:30"]), ("0 * * * *", ["05:00", "06:00", "07:00", "08:00"])],
)
def test_schedule_in_a_skipped_hour_starts_one_run(cron: str, started: list[str]) -> None:
    """In New York, the hour from 02:00 does not exist: 07:00 in UTC is 03:00."""
    midnight = at("2026-03-08T05:00:00+00:00")
    schedule = replace(
        DAILY, cron=cron, timezone="America/New_York", since=midnight - timedelta(seconds=1)
    )
    assert starts(schedule, midnight, 4) == started


def starts(schedule: Schedule, start: datetime, hours: int) -> list[str]:
    """Return the times in UTC for which a worker that looks each ten minutes starts runs."""
    found = []
    for minutes in range(0, hours * 60, 10):
        if (when := schedule.due(start + timedelta(minutes=minutes))) is not None:
            schedule = replace(schedule, started_at=at(when.isoformat()))
            found.append(when.astimezone(UTC).strftime("%H:%M"))
    return found


async def test_schedule_whose_times_are_over_does_not_stop_the_others(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path / 'runs.db'}") as durable:
        await durable.schedule("a", "0 9 * * *", "go")
        await durable.schedule("b", "0 9 * * *", "go")
        with sql(durable.runs.client).begin() as connection:
            connection.execute(
                sa.text(
                    "UPDATE workflow_schedules SET schedule = '0 0 30 2 *'"
                    " WHERE schedule_name = 'agent/a'"
                )
            )
        await Scheduler(durable.runs).look(NOON)
        assert [run.id for run in await durable.list()] == ["b/2030-06-01T09:00:00+00:00"]


async def test_each_time_starts_one_run_with_several_workers(database: str) -> None:
    async with opened(database) as one, opened(database) as other:
        await one.schedule("report", "0 9 * * *", "Write it.", session_id="s")
        stored = (await one.schedules())[0].since
        first = stored.replace(year=stored.year + 1, hour=9, minute=0, second=0, microsecond=0)
        schedulers = [Scheduler(one.runs), Scheduler(other.runs)]

        for now in (first, first.replace(minute=1), first.replace(day=first.day % 28 + 1)):
            await asyncio.gather(*(scheduler.look(now) for scheduler in schedulers))
        runs = await one.list()

    assert len(runs) == len({run.id for run in runs}) == (2 if first.day < 28 else 1)
    assert f"report/{first.isoformat()}" in {run.id for run in runs}
    assert {run.session_id for run in runs} == {"s"}


async def test_look_says_how_long_it_is_until_the_next_time(database: str) -> None:
    async with opened(database) as durable:
        assert await Scheduler(durable.runs).look(NOON) == LOOK_SECONDS
        await durable.schedule("often", "*/5 * * * * *", "go")

        assert await Scheduler(durable.runs).look(at("2020-01-01T00:00:03+00:00")) == 2.0


async def test_worker_carries_out_a_scheduled_run_with_its_context(database: str) -> None:
    seen: list[object] = []
    ran = asyncio.Event()

    @tool
    async def look(context: ToolContext) -> str:
        seen.append(context.context)
        ran.set()
        return "seen"

    script = [calls(("look", {})), "done"]
    async with opened(database, *script, queue=None, tools=[look]) as durable:
        await durable.schedule("each-second", "* * * * * *", "go", context={"user": "ada"})
        async with asyncio.timeout(60):
            await ran.wait()
        await durable.unschedule("each-second")

    assert seen[0] == {"user": "ada"}


async def test_schedules_are_replaced_listed_and_deleted_by_name(database: str) -> None:
    async with opened(database) as durable:
        await durable.schedule("b", "0 9 * * *", "old")
        [before] = await durable.schedules()
        await durable.schedule("b", "0 9 * * *", "new", context=[1])
        await durable.schedule("a", "0 0 1 * *", "go", timezone="Asia/Tokyo")
        a, b = await durable.schedules()

        assert (a.name, a.timezone, b.prompt.text, b.context) == ("a", "Asia/Tokyo", "new", [1])
        assert b.since == before.since
        async with DurableAgent(durable.agent, database=database, name="x", queue="q") as other:
            assert await other.schedules() == []
            assert not await other.unschedule("a")
        assert await durable.unschedule("a")
        assert not await durable.unschedule("a")
        assert [each.name for each in await durable.schedules()] == ["b"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a#b"},
        {"cron": "every day"},
        {"cron": "61 * * * *"},
        {"cron": "0 0 30 2 *"},
        {"cron": "* * * * * * 2099"},
        {"name": ""},
        {"name": "a\nb"},
        {"name": "x" * 256},
        {"session_id": "a\x00b"},
        {"timezone": "Mars/Base"},
        {"context": {1, 2}},
    ],
    ids=str,
)
async def test_schedule_that_cannot_be_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    arguments = {"name": "a", "cron": "0 9 * * *", "prompt": "go", **wrong}
    async with opened(f"sqlite:///{tmp_path / 'runs.db'}") as durable:
        with pytest.raises(InvalidSetting):
            await durable.schedule(**arguments)
        assert await durable.schedules() == []
