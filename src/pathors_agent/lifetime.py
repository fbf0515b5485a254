"""Open what an agent was given with the agent, and close it with the agent."""

from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
)
from types import TracebackType
from typing import Self


class Lifetime:
    """A `with` block around the use of what was given, as far as that is a context manager."""

    _given: tuple[object, ...]

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            for given in self._given:
                if isinstance(given, AbstractContextManager):
                    exits.enter_context(given)
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exits.__exit__(kind, error, traceback)


class AsyncLifetime:
    """As `Lifetime`, with `async with`."""

    _given: tuple[object, ...]

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            for given in self._given:
                if isinstance(given, AbstractAsyncContextManager):
                    await exits.enter_async_context(given)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._exits.__aexit__(kind, error, traceback)
