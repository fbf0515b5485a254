"""Start runs by cron schedules, which the engine stores and the workers of an agent watch."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from croniter import CroniterError, croniter
from dbos import DBOSClient

from pathors_agent.durable import engine
from pathors_agent.durable.records import (
    MAX_NAME_BYTES,
    SegmentInput,
    check_id,
    check_run_id,
    dump,
    load,
    owned,
    workflow_name,
)
from pathors_agent.durable.runs import Runs
from pathors_agent.errors import InvalidSetting, RunExists, StoreError
from pathors_agent.messages import JSONValue, UserMessage
from pathors_agent.telemetry.events import emit

# How often a worker reads the schedules, and so the longest time until it knows a new one.
LOOK_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A cron schedule that starts runs of an agent with a `prompt` and a `context`.

    `cron` has five fields, or six with seconds at the beginning, and is read in `timezone`. Each
    run is named `NAME/TIME`. With a `session_id` the runs continue one session.
    """

    name: str
    cron: str
    prompt: UserMessage = field(repr=False)
    timezone: str = "UTC"
    session_id: str | None = None
    context: JSONValue = field(default=None, repr=False)
    started_at: datetime | None = None
    """The time of the run that was started last."""
    since: datetime
    """The earliest time for which the schedule starts a run."""

    def due(self, now: datetime) -> datetime | None:
        """Return the latest time of the schedule for which a run must be started, or None."""
        zone = ZoneInfo(self.timezone)
        # A microsecond later, so that a time that is exactly now counts.
        clock = now.astimezone(zone).replace(tzinfo=None, fold=0) + timedelta(microseconds=1)
        times = croniter(self.cron, clock, second_at_beginning=True)
        local: datetime = times.get_prev(datetime)
        # In the hour that the clock repeats, a schedule of every hour starts runs again. One of
        # certain hours does not.
        folds = (1, 0) if self._is_of_every_hour else (0,)
        passed = (local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in folds)
        latest = next((time for time in passed if time <= now), None)
        if latest is None or latest <= max(self.since, self.started_at or self.since):
            return None
        return latest.astimezone(zone)

    @property
    def _is_of_every_hour(self) -> bool:
        fields = self.cron.split()
        return self.cron.strip() == "@hourly" or (len(fields) > 1 and fields[-4].startswith("*"))

    def next(self, now: datetime) -> datetime:
        """Return the first time of the schedule after `now`."""
        times = croniter(
            self.cron, now.astimezone(ZoneInfo(self.timezone)), second_at_beginning=True
        )
        following: datetime = times.get_next(datetime)
        return following


class Schedules:
    """The stored schedules of an agent. Every method blocks."""

    def __init__(self, client: DBOSClient, agent: str) -> None:
        self._client = client
        self._agent = agent

    def put(self, schedule: Schedule) -> None:
        """Create or replace a schedule; an unchanged one keeps its times."""
        check_run_id(schedule.name, "the name of a schedule", MAX_NAME_BYTES)
        if schedule.session_id:
            check_id(schedule.session_id, "session_id")
        try:
            ZoneInfo(schedule.timezone)
        except (ValueError, OSError, LookupError, TypeError):
            raise InvalidSetting(f"there is no time zone {schedule.timezone!r}") from None
        _check_cron(schedule)
        same = (schedule.name, schedule.cron, schedule.timezone)
        stored = (each for each in self.all() if (each.name, each.cron, each.timezone) == same)
        since = next((each.since for each in stored), schedule.since)
        self._client.apply_schedules(
            [
                {
                    "schedule_name": owned(self._agent, schedule.name),
                    "workflow_name": workflow_name(self._agent),
                    "schedule": schedule.cron,
                    "cron_timezone": schedule.timezone,
                    "context": {
                        "prompt": dump([schedule.prompt]),
                        "session_id": schedule.session_id,
                        "context": schedule.context,
                        "since": since.isoformat(),
                    },
                }
            ]
        )

    def all(self) -> Sequence[Schedule]:
        """Return the schedules, sorted by name."""
        rows = self._client.list_schedules(workflow_name=workflow_name(self._agent))
        return sorted(map(self._read, rows), key=lambda schedule: schedule.name)

    def delete(self, name: str) -> bool:
        """Delete a schedule; return False if there is none. Runs that it started continue."""
        if all(schedule.name != name for schedule in self.all()):
            return False
        self._client.delete_schedule(owned(self._agent, name))
        return True

    def note_started(self, schedule: Schedule, when: datetime) -> None:
        """Store the time of the run that was started last."""
        engine.note_fired(self._client, owned(self._agent, schedule.name), when.isoformat())

    def _read(self, row: Any) -> Schedule:
        stored = row["context"]
        [prompt] = load(stored["prompt"])
        assert isinstance(prompt, UserMessage)  # `put` stored it
        fired = row["last_fired_at"]
        return Schedule(
            name=row["schedule_name"].removeprefix(owned(self._agent, "")),
            cron=row["schedule"],
            prompt=prompt,
            timezone=row["cron_timezone"] or "UTC",
            session_id=stored["session_id"],
            context=stored["context"],
            started_at=None if fired is None else datetime.fromisoformat(fired),
            since=datetime.fromisoformat(stored["since"]),
        )


def _check_cron(schedule: Schedule) -> None:
    cron = str(schedule.cron)
    is_short = len(cron.split()) in (5, 6) or cron.startswith("@")
    if not is_short or not croniter.is_valid(cron, second_at_beginning=True):
        raise InvalidSetting(f"{cron!r} is not a cron expression of five or six fields")
    try:
        schedule.due(schedule.since)
        schedule.next(schedule.since)
    except CroniterError:  # such as February 30
        raise InvalidSetting(f"the cron expression {cron!r} never matches a time") from None


class Scheduler:
    """Starts the runs that are due.

    Every worker of an agent has one: the run's id contains its time, so each run starts only once.
    """

    def __init__(self, runs: Runs[Any]) -> None:
        self._runs = runs
        self._schedules = Schedules(runs.client, runs.name)

    async def watch(self) -> None:
        """Start runs until cancelled."""
        while True:
            pause = LOOK_SECONDS
            try:
                pause = await self.look(datetime.now(UTC))
            except (sa.exc.SQLAlchemyError, StoreError) as error:
                emit("schedules_failed", agent=self._runs.name, error=type(error).__name__)
            await asyncio.sleep(pause)

    async def look(self, now: datetime) -> float:
        """Start the runs that are due at `now`; return the seconds until the next check.

        A schedule whose time passed while no worker ran starts one run, for the latest time.
        """
        pause = LOOK_SECONDS
        for schedule in await asyncio.to_thread(self._schedules.all):
            try:
                when, following = schedule.due(now), schedule.next(now)
            except CroniterError as error:  # its times are over
                emit("schedules_failed", agent=self._runs.name, error=type(error).__name__)
                continue
            if when is not None:
                await self._start(schedule, when)
                await asyncio.to_thread(self._schedules.note_started, schedule, when)
            pause = min(pause, (following - now).total_seconds())
        return max(pause, 0.0)

    async def _start(self, schedule: Schedule, when: datetime) -> None:
        run = f"{schedule.name}/{when.isoformat()}"
        segment_input = SegmentInput.first(
            self._runs.name,
            run,
            schedule.session_id,
            messages=(schedule.prompt,),
            context=schedule.context,
        )
        try:
            is_new = await self._runs.start(segment_input)
        except RunExists:  # the schedule was changed, and another worker started the run before
            return
        if is_new:
            emit("schedule_started", agent=self._runs.name, schedule=schedule.name, run=run)
