"""Hooks for every way to run an agent, written once."""

from collections.abc import Callable, Generator
from typing import Any

Around = Callable[..., Generator[Any, Any, Any]]
"""What a hook does: yields what it passes to `next`, is sent the result, and returns its own."""


def hook(way: str, *, model: Around | None = None, tool: Around | None = None) -> Any:
    """Build a hook for a way, with the methods that are given."""
    kind = _blocking if way == "blocking" else _async
    methods = {"around_model": model, "around_tool": tool}
    members = {name: kind(around) for name, around in methods.items() if around is not None}
    return type("Given", (), members)()


def _blocking(around: Around) -> Callable[..., Any]:
    def method(self: object, *given: Any) -> Any:
        *about, next_ = given
        steps = around(*about)
        try:
            value = next(steps)
            while True:
                try:
                    result = next_(value)
                except Exception as error:  # noqa: BLE001  (the hook handles it, or raises it)
                    value = steps.throw(error)
                else:
                    value = steps.send(result)
        except StopIteration as end:
            return end.value

    return method


def _async(around: Around) -> Callable[..., Any]:
    async def method(self: object, *given: Any) -> Any:
        *about, next_ = given
        steps = around(*about)
        try:
            value = next(steps)
            while True:
                try:
                    result = await next_(value)
                except Exception as error:  # noqa: BLE001  (the hook handles it, or raises it)
                    value = steps.throw(error)
                else:
                    value = steps.send(result)
        except StopIteration as end:
            return end.value

    return method
