"""Check that a turn could be stored now, by the statements that store one, and leave no trace."""

import secrets

from sqlalchemy.ext.asyncio import AsyncConnection

from pathors_agent.messages import UserMessage
from pathors_agent.stores import sql_keys, sql_requests, sql_sessions, sql_turns
from pathors_agent.stores.base import RequestId
from pathors_agent.stores.texts import message_text

# No project has this name.
_PROJECT = ""

# A long turn: with less room than this, the next ones would fail.
PROBE_CHARACTERS = 64 * 1024

_LEASE_SECONDS = 10.0


async def try_turn(connection: AsyncConnection) -> None:
    """Store a turn and read it, touching every table; the caller rolls the transaction back."""
    name = f"check-{secrets.token_hex(8)}"
    request = RequestId(project=_PROJECT, api_key="", name=name)
    message = message_text(UserMessage(content="x" * PROBE_CHARACTERS))
    await sql_keys.by_digest(connection, "")
    lease = await sql_turns.take_lease(connection, _PROJECT, name, name, _LEASE_SECONDS)
    assert lease is not None  # no one else has the name
    await sql_requests.begin(connection, request, "", _LEASE_SECONDS)
    await sql_turns.note(connection, lease, name, ["{}"])
    await sql_turns.save(
        connection, lease, [message], None, request, "{}", drop=True, turn=name, keep=None
    )
    await sql_sessions.whole(connection, _PROJECT, name)
