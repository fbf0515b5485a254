"""Kill a run at every boundary of its effects, one after another, and take each up again.

Each child process is forked, so that nothing is imported twice. The last line is what came of all
kills, as JSON. Arguments: the database, a folder, and how many boundaries to go on by.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from durable_program import Boundaries, lines, make_agent
from pathors_agent.durable import DurableAgent
from pathors_agent.durable.records import segment_id
from pathors_agent.messages import write_message
from pathors_agent.stores.database import read_url

SECONDS = 20


def child(database: str, folder: Path, run: str, last: int | None) -> int:
    """Carry the run out in a process of its own; return the signal that ended it."""
    folder.mkdir(exist_ok=True)
    pid = os.fork()
    if pid == 0:
        signal.alarm(SECONDS)
        try:
            asyncio.run(carry_out(database, folder, run, Boundaries(last)))
        finally:
            os._exit(0)  # nothing is closed: that is the other tests' matter
    return os.WTERMSIG(os.waitpid(pid, 0)[1])


async def carry_out(database: str, folder: Path, run: str, passes: Boundaries) -> None:
    passes.watch_records()
    durable = await DurableAgent(make_agent(folder, passes), database=database).__aenter__()
    handle = await durable.start("go", id=run)
    result = await handle.result()
    said = {
        "messages": [write_message(message) for message in result.messages],
        "in_doubt": [call.effect for call in await durable.in_doubt(run)],
        "passed": passes.passed,
    }
    (folder / "result").write_text(json.dumps(said))
    os._exit(0)


def recorded(database: str, segment: str) -> set[str]:
    """Return the names of a segment's recorded steps, from the engine's own tables."""
    engine = sa.create_engine(read_url(database))
    schema = "" if engine.dialect.name == "sqlite" else "dbos."
    query = f"SELECT function_name FROM {schema}operation_outputs WHERE workflow_uuid = :segment"
    with engine.connect() as connection:
        return set(connection.execute(sa.text(query), {"segment": segment}).scalars())


def after_kill(database: str, folder: Path, run: str, last: int) -> dict[str, Any]:
    """Kill a run at one boundary, and take it up; tell what there was, and what came of it."""
    killed = child(database, folder, run, last)
    held = recorded(database, segment_id("agent", run, 1))
    again = child(database, folder, run, None)
    result = json.loads((folder / "result").read_text())
    return {
        "boundary": last,
        "signals": [killed, again],
        "recorded": sorted(held),
        "begun": sorted(
            name.removesuffix("/started")
            for name in held
            if name.endswith("/started") and name.removesuffix("/started") not in held
        ),
        **result,
        **written(folder),
    }


def written(folder: Path) -> dict[str, list[str]]:
    return {name: lines(folder / name) for name in ("lines", "put", "ledger")}


def main() -> None:
    database, root, stride = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    assert child(database, root / "whole", "whole", None) == 0
    whole = json.loads((root / "whole" / "result").read_text())
    kills = [
        after_kill(database, root / str(last), f"run-{last}", last)
        for last in range(1, len(whole["passed"]) + 1, stride)
    ]
    print(json.dumps({"whole": {**whole, **written(root / "whole")}, "kills": kills}))


if __name__ == "__main__":
    main()
