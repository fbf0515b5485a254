"""Transports that play a model at its worst, from a seed."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from pathors_agent.testing.draws import SeededDraws
from pathors_agent.testing.hostile_script import HostileScript
from pathors_agent.testing.hostile_turns import (
    Fault,
    checked_faults,
    hostile_turn,
    offered_tools,
)
from pathors_agent.testing.request_rules import check_request
from pathors_agent.testing.script import Entry
from pathors_agent.testing.scripted_transport import AsyncPlayerTransport, Player, PlayerTransport
from pathors_agent.wire.chat_completions import DEFAULT_PROFILE, EndpointProfile


class _Hostility(Player):
    """Answers drawn from a seed for the tools that a request offers; `script` keeps them."""

    def __init__(
        self,
        seed: int,
        *,
        faults: Collection[Fault] | None = None,
        cut: int | None = None,
        profile: EndpointProfile = DEFAULT_PROFILE,
    ) -> None:
        if not isinstance(seed, int):
            raise TypeError(f"seed must be an integer, not {seed!r}")
        super().__init__(cut=cut, profile=profile)
        self.seed = seed
        self._faults = checked_faults(faults)
        self._draws = SeededDraws(seed)
        self._entries: list[Entry] = []

    @property
    def script(self) -> HostileScript:
        """What was answered so far; its repr is code to paste into a test."""
        return HostileScript(tuple(self._entries))

    def _entry(self, number: int, body: Mapping[str, Any]) -> Entry:
        check_request(body, self.profile)
        tools = offered_tools(body.get("tools") or ())
        entry = hostile_turn(tools, self._draws, sorted(self._faults))
        self._entries.append(entry)
        return entry

    def _explain(self, error: BaseException | None) -> None:
        if error is not None:
            with suppress(Exception):  # a note must not replace what it explains
                error.add_note(f"The model of seed {self.seed} answered:\n{self.script!r}")


class HostileTransport(_Hostility, PlayerTransport):
    """A transport whose model does everything wrong, drawn from a seed.

    It cuts answers, calls tools by wrong names and with bad arguments, repeats ids, floods, breaks
    streams, and sends errors; `faults` names which, all by default. The tools are those that a
    request offers. The same seed answers the same requests in the same way. A request that real
    endpoints refuse, whatever led to it, is an AssertionError. As a context manager it adds to an
    error that leaves the block the script that led there, as code.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._explain(error)


class AsyncHostileTransport(_Hostility, AsyncPlayerTransport):
    """`HostileTransport` for `AsyncAgent`."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._explain(error)
