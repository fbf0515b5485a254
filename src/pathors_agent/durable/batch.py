"""Batches: many conversations from a file, over the queue, each result or error on a line."""

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from pathors_agent.durable.agent import DurableAgent
from pathors_agent.durable.records import SEPARATOR, SegmentInput, dump, is_id, run_of, segment_id
from pathors_agent.durable.run_list import AT_WORK
from pathors_agent.durable.runs import status_of
from pathors_agent.errors import BatchRefused, RunFailed, RunNotFinished
from pathors_agent.json_text import write_json
from pathors_agent.messages import JSONValue, Message, UserMessage
from pathors_agent.telemetry.events import observe
from pathors_agent.wire.messages import read_client_messages

Progress = Callable[[int, int], None]
"""Called with the numbers of finished and of failed lines; its exceptions are dropped."""

# The id of a run also contains the name of its batch.
MAX_LINE_ID = 500

# How often the database is asked for finished runs, and for how many at once.
_LOOK_SECONDS = 0.5
_BLOCK = 500

_SHOWN_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One conversation: its place and its name in the input, and its messages."""

    number: int
    id: str
    messages: tuple[Message, ...] = field(repr=False)


def read_batch(lines: Iterable[str]) -> list[BatchLine]:
    """Read lines like `{"id": "a", "prompt": "..."}`, or with `messages` in OpenAI's form.

    An `id` is optional. Raises `BatchRefused`, which names the first bad lines.
    """
    read, problems = [], []
    for number, line in enumerate(lines, start=1):
        text = line.removeprefix("\ufeff")  # Windows programs write it at the start of files
        if not text.strip():
            continue
        try:
            read.append(_read_line(number, text))
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    taken: dict[str, int] = {}
    problems += [
        f"line {line.number}: the id {line.id!r} is that of line {taken[line.id]}"
        for line in read
        if taken.setdefault(line.id, line.number) != line.number
    ]
    if problems:
        more = len(problems) - _SHOWN_PROBLEMS
        rest = [f"and {more} more"] if more > 0 else []
        raise BatchRefused("; ".join([*problems[:_SHOWN_PROBLEMS], *rest]))
    return read


def _read_line(number: int, text: str) -> BatchLine:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("must be an object")
    line_id = value.get("id", str(number))
    if not isinstance(line_id, str) or not is_id(line_id, MAX_LINE_ID):
        raise ValueError(f"id: must be a string of 1 to {MAX_LINE_ID} bytes, all printable")
    return BatchLine(number, line_id, _messages(value))


def _messages(value: dict[str, Any]) -> tuple[Message, ...]:
    match value:
        case {"prompt": _, "messages": _}:
            raise ValueError("must have a prompt or messages, not both")
        case {"prompt": str(prompt)}:
            return (UserMessage(content=prompt),)
        case {"messages": [_, *_] as given}:
            messages, problems = read_client_messages(given)
            if problems:
                raise ValueError("; ".join(problems))
            return tuple(messages)
        case _:
            raise ValueError("must have a prompt (a string) or messages (a list)")


async def run_batch(
    durable: DurableAgent[Any],
    lines: Sequence[BatchLine],
    *,
    name: str,
    progress: Progress = lambda _done, _failed: None,
) -> list[dict[str, JSONValue]]:
    """Carry out a batch, or continue it; return the outcome of each line, in order.

    Lines that have already ended under this `name` do not run again; failed lines are resumed.
    """
    waiting = {await _start(durable, line, name): line for line in lines}
    done: dict[int, dict[str, JSONValue]] = {}
    failed = 0
    while waiting:
        for segment in await _ended(durable, list(waiting)):
            line = waiting.pop(segment)
            done[line.number] = await _outcome(durable, line, segment)
            failed += "error" in done[line.number]
            observe("the progress callback", progress, len(done), failed)
        if waiting:
            await asyncio.sleep(_LOOK_SECONDS)
    return [done[line.number] for line in lines]


def write_batch(results: Iterable[dict[str, JSONValue]], path: Path) -> None:
    """Write the results to a file of JSON lines, which replaces the old file once it is complete."""
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        for result in results:
            file.write(write_json(result).decode() + "\n")
    part.replace(path)


async def _start(durable: DurableAgent[Any], line: BatchLine, name: str) -> str:
    """Start a line's run, unless it exists; return the segment to wait for."""
    # Another text under the same id is another run.
    text = json.dumps([line.id, dump(line.messages)])
    digest = blake2b(text.encode(), digest_size=4).hexdigest()
    run = f"{name}/{line.id}/{digest}".replace(SEPARATOR, "-")
    if await durable.runs.start(SegmentInput.first(durable.name, run, messages=line.messages)):
        return segment_id(durable.name, run, 1)
    segments = await durable.runs.segments(run)
    if status_of(segments[-1]) == "failed":
        await durable.resume(run)
        return segment_id(durable.name, run, len(segments) + 1)
    return segments[-1].workflow_id


async def _ended(durable: DurableAgent[Any], segments: list[str]) -> list[str]:
    ended: list[str] = []
    for start in range(0, len(segments), _BLOCK):
        block = segments[start : start + _BLOCK]
        rows = await durable.runs.client.list_workflows_async(workflow_ids=block, load_input=False)
        ended += [row.workflow_id for row in rows if status_of(row) not in AT_WORK]
    return ended


async def _outcome(
    durable: DurableAgent[Any], line: BatchLine, segment: str
) -> dict[str, JSONValue]:
    run = run_of(segment)
    told: dict[str, JSONValue] = {"id": line.id, "run": run}
    try:
        result = await durable.runs.result(await durable.runs.segments(run))
    except RunFailed as error:
        return {**told, "error": {"kind": error.kind, "message": str(error)}}
    told |= {"status": str(result.status), "usage": result.usage.model_dump(exclude_none=True)}
    try:
        return {**told, "output": to_jsonable_python(result.output)}
    except RunNotFinished as error:
        return {**told, "error": {"kind": str(result.status), "message": str(error)}}
