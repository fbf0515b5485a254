"""Answer the requests of a server to its client: questions to the user, and to a model.

Without a function for them, these requests are not announced, and the mcp package refuses them.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeVar

import anyio
from anyio.to_thread import run_sync
from mcp.client import ClientRequestContext
from mcp.client.session import ElicitationFnT, SamplingFnT
from mcp.types import (
    INTERNAL_ERROR,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequestParams,
    ElicitRequestURLParams,
    ElicitResult,
    ErrorData,
    TextContent,
)

from pathors_agent.mcp.content import sampled_messages
from pathors_agent.messages import Message
from pathors_agent.telemetry.events import warn
from pathors_agent.tools.registry import is_async

Values = Mapping[str, str | int | float | bool | list[str] | None]
"""The values that a user fills into a form of an MCP server, by field."""

Elicit = Callable[[ElicitRequestParams], Values | bool | Awaitable[Values | bool | None] | None]
"""Answers a question to the user: the values, True without values, or None if the user declines."""

Sample = Callable[[list[Message], CreateMessageRequestParams], str | Awaitable[str]]
"""Answers messages in the place of a model."""

ResultT = TypeVar("ResultT")

# The field is required, and the function may ask any model.
_MODEL = "unknown"


def elicitation(function: Elicit | None, server: str, seconds: float) -> ElicitationFnT | None:
    """Return the callback for questions to the user, or None if they are refused."""
    if function is None:
        return None

    async def answer(
        context: ClientRequestContext, params: ElicitRequestParams
    ) -> ElicitResult | ErrorData:
        work = partial(_called, function, params)
        is_url = isinstance(params, ElicitRequestURLParams)
        return await _answered(work, partial(_elicited, is_url=is_url), "elicit", server, seconds)

    return answer


def sampling(function: Sample | None, server: str, seconds: float) -> SamplingFnT | None:
    """Return the callback for questions to a model, or None if they are refused."""
    if function is None:
        return None

    async def answer(
        context: ClientRequestContext, params: CreateMessageRequestParams
    ) -> CreateMessageResult | ErrorData:
        async def work() -> object:
            return await _called(function, sampled_messages(params), params)

        return await _answered(work, _sampled, "sample", server, seconds)

    return answer


async def _answered(
    work: Callable[[], Awaitable[object]],
    build: Callable[[object], ResultT],
    name: str,
    server: str,
    seconds: float,
) -> ResultT | ErrorData:
    """Return the answer of the caller's function, or the error that the server gets instead.

    An exception here would end all other calls, and its text is not for the server.
    """
    try:
        with anyio.fail_after(seconds):
            return build(await work())
    except Exception as error:  # noqa: BLE001  (the function of the caller may raise anything)
        warn("mcp_request_failed", server=server, function=name, error=type(error).__name__)
        return ErrorData(code=INTERNAL_ERROR, message=f"the client's {name}= gave no answer")


async def _called(function: Callable[..., object], *arguments: object) -> object:
    """Call a function of the caller; a sync one in a thread, because it may wait for a person."""
    if is_async(function):
        value = function(*arguments)
    else:
        value = await run_sync(partial(function, *arguments), abandon_on_cancel=True)
    return await value if isinstance(value, Awaitable) else value


def _elicited(value: object, *, is_url: bool) -> ElicitResult:
    if value is None or value is False:
        return ElicitResult(action="decline")
    if value is True or is_url:
        return ElicitResult(action="accept")
    if not isinstance(value, Mapping):
        raise TypeError(f"elicit= should return a mapping, True or None, not {type(value)}")
    return ElicitResult(action="accept", content=dict(value))


def _sampled(value: object) -> CreateMessageResult:
    if not isinstance(value, str):
        raise TypeError(f"sample= should return text, not {type(value)}")
    content = TextContent(type="text", text=value)
    return CreateMessageResult(
        role="assistant", content=content, model=_MODEL, stop_reason="endTurn"
    )
