"""The tables beside the engine's: where each session stands, who lives, what is in doubt."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pathors_agent.errors import StoreError
from pathors_agent.stores.base import TurnNote
from pathors_agent.stores.sql_schema import is_over, leases, notes

# What these tables and the recorded JSON look like. A program refuses a higher number.
FORMAT = 1

_META = sa.MetaData()

_FORMAT = sa.Table(
    "pathors_durable_format", _META, sa.Column("format", sa.Integer, primary_key=True)
)

_SESSIONS = sa.Table(
    "pathors_durable_sessions",
    _META,
    sa.Column("session", sa.Text, primary_key=True),
    sa.Column("last_segment", sa.Text, nullable=False),
)

_WORKERS = sa.Table(
    "pathors_durable_workers",
    _META,
    sa.Column("worker", sa.Text, primary_key=True),
    sa.Column("machine", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("beats", sa.BigInteger, nullable=False),
)

_DOUBTS = sa.Table(
    "pathors_durable_doubts",
    _META,
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("effect", sa.Text, primary_key=True),
    sa.Column("tool", sa.Text, nullable=False),
    sa.Column("call_id", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtfulCall:
    """A call of which nobody knows whether it was carried out; `key` is its `ToolContext.key`."""

    run_id: str
    effect: str
    tool: str
    call_id: str
    key: str


class Tables:
    """Reads and writes of these tables; each blocks, and belongs in a thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        sqlite_ = engine.dialect.name == "sqlite"
        self._insert = sqlite.insert if sqlite_ else postgresql.insert

    def prepare(self) -> None:
        """Make the tables, or refuse a database of a newer version."""
        with self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                # CREATE TABLE IF NOT EXISTS fails where two programs do it at once.
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7233219)"))
            _META.create_all(connection)
            found = connection.execute(sa.select(sa.func.max(_FORMAT.c.format))).scalar()
            if found is None:
                connection.execute(sa.insert(_FORMAT).values(format=FORMAT))
            elif found > FORMAT:
                raise StoreError(
                    f"The durable runs in the database have format {found}, and this program knows"
                    f" {FORMAT}: install a newer version of pathors-agent."
                )

    # - sessions -

    def last_segment(self, session: str) -> str | None:
        """Give the segment that wrote to a session last."""
        query = sa.select(_SESSIONS.c.last_segment).where(_SESSIONS.c.session == session)
        with self._engine.begin() as connection:
            return connection.execute(query).scalar()

    def advance(self, session: str, *, after: str | None, to: str) -> None:
        """Make a segment the last of its session, unless another one came in between."""
        values = {"session": session, "last_segment": to}
        with self._engine.begin() as connection:
            if after is None:
                insert = self._insert(_SESSIONS).values(**values)
                connection.execute(insert.on_conflict_do_nothing())
                return
            where = (_SESSIONS.c.session == session, _SESSIONS.c.last_segment == after)
            connection.execute(sa.update(_SESSIONS).where(*where).values(last_segment=to))

    # - workers -

    def beat(self, worker: str, machine: str, pid: int) -> None:
        """Tell that a worker lives."""
        values = {"worker": worker, "machine": machine, "pid": pid, "beats": 0}
        insert = self._insert(_WORKERS).values(**values)
        beat = insert.on_conflict_do_update(
            index_elements=[_WORKERS.c.worker], set_={"beats": _WORKERS.c.beats + 1}
        )
        with self._engine.begin() as connection:
            connection.execute(beat)

    def workers(self) -> list[tuple[str, str, int, int]]:
        """Give the workers: name, machine, process, and how often each told that it lives."""
        with self._engine.begin() as connection:
            rows = connection.execute(sa.select(_WORKERS)).all()
        return [(row.worker, row.machine, row.pid, row.beats) for row in rows]

    def forget_worker(self, worker: str) -> None:
        """Leave a worker out, which ended or whose runs were taken over."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(_WORKERS).where(_WORKERS.c.worker == worker))

    # - calls in doubt -

    def add_doubt(self, call: DoubtfulCall) -> None:
        """Keep a call in doubt for a person to look at; twice is as once."""
        values = {
            "run": call.run_id,
            "effect": call.effect,
            "tool": call.tool,
            "call_id": call.call_id,
            "key": call.key,
        }
        with self._engine.begin() as connection:
            connection.execute(self._insert(_DOUBTS).values(**values).on_conflict_do_nothing())

    def doubts(self, run: str | None = None) -> list[DoubtfulCall]:
        """Give the calls in doubt, of a run or of all."""
        query = sa.select(_DOUBTS).order_by(_DOUBTS.c.run, _DOUBTS.c.effect)
        if run is not None:
            query = query.where(_DOUBTS.c.run == run)
        with self._engine.begin() as connection:
            rows = connection.execute(query).all()
        return [
            DoubtfulCall(run_id=r.run, effect=r.effect, tool=r.tool, call_id=r.call_id, key=r.key)
            for r in rows
        ]

    def forget_doubt(self, run: str, effect: str) -> bool:
        """Leave out a call that a person looked at; tell whether it was there."""
        where = (_DOUBTS.c.run == run, _DOUBTS.c.effect == effect)
        with self._engine.begin() as connection:
            return bool(connection.execute(sa.delete(_DOUBTS).where(*where)).rowcount)

    def turn_notes(self) -> list[TurnNote]:
        """Return the notes of served turns that do not run, if a server uses this database."""
        if not sa.inspect(self._engine).has_table(notes.name):
            return []
        running = sa.exists().where(
            leases.c.project == notes.c.project,
            leases.c.session_id == notes.c.session_id,
            sa.not_(is_over(leases)),
        )
        columns = (notes.c.project, notes.c.session_id, notes.c.turn, notes.c.text)
        query = sa.select(*columns).where(~running).order_by(notes.c.number)
        with self._engine.begin() as connection:
            return [TurnNote(**row._mapping) for row in connection.execute(query)]
