"""Requests that their clients name by an Idempotency-Key: answered once, whoever repeats them."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio

from pathors_agent.errors import SessionConflict
from pathors_agent.server.answer import Answer
from pathors_agent.server.problems import Problem
from pathors_agent.stores.base import RequestId, RequestRecord, Store

_FIELD = "Idempotency-Key"

# How often it is asked whether a request was answered that another process answers.
_LOOK_SECONDS = 0.25
# Giving back what a request held is worth this long, also when it was cancelled.
CLEAN_UP_SECONDS = 5.0


@asynccontextmanager
async def held(
    store: Store,
    request: RequestId,
    body_digest: str,
    *,
    lease_seconds: float,
    patience: float,
    is_lost: Callable[[], bool],
) -> AsyncGenerator[Answer | None]:
    """Hold a request while it is answered; give the answer where it was answered before.

    One that another answers is waited for, for the seconds of `patience`. One that `is_lost` to
    another is left to that.
    """
    record = await _begun(store, request, body_digest, lease_seconds, patience)
    if record.answer is not None:
        yield Answer.loaded(record.answer)
        return
    try:
        yield None
    except BaseException as error:
        if is_lost() or isinstance(error, SessionConflict):
            raise  # another may answer it by now; if nobody does, it is over in a moment
        with anyio.move_on_after(CLEAN_UP_SECONDS, shield=True):
            await store.forget_request(request)
        raise


async def _begun(
    store: Store, request: RequestId, body_digest: str, seconds: float, patience: float
) -> RequestRecord:
    until = time.monotonic() + patience
    while True:
        record = await store.begin_request(request, body_digest, seconds=seconds)
        if record.body_digest != body_digest:
            raise Problem(422, f"The {_FIELD} was used with another body", param=_FIELD)
        if record.state != "running":
            return record
        if time.monotonic() >= until:
            raise Problem(
                409,
                f"The request with this {_FIELD} is being answered; try again",
                param=_FIELD,
                headers={"Retry-After": "1"},
            )
        await anyio.sleep(_LOOK_SECONDS)
