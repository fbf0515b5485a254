"""A script of a hostile model: to be played, and printed as the code that makes it."""

from dataclasses import dataclass
from typing import Any

from pathors_agent.testing.script import Entry, text_code
from pathors_agent.testing.scripted_transport import AsyncScriptedTransport, ScriptedTransport
from pathors_agent.wire.chat_completions import DEFAULT_PROFILE, EndpointProfile

THEN = "Enough."
"""What a hostile model says when its script is at its end."""


@dataclass(frozen=True, repr=False)
class HostileScript:
    """The answers of a hostile model, in order; every further request gets "Enough.".

    Its repr is the code of a `ScriptedTransport` that answers the same.
    """

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        if isinstance(self.entries, str):
            raise TypeError(f"HostileScript takes a tuple of entries: write ({self.entries!r},)")

    def transport(
        self, *, cut: int | None = None, profile: EndpointProfile = DEFAULT_PROFILE
    ) -> ScriptedTransport:
        """Make a transport that plays it, for blocking code."""
        return ScriptedTransport(*self.entries, then=THEN, cut=cut, profile=profile)

    def async_transport(
        self, *, cut: int | None = None, profile: EndpointProfile = DEFAULT_PROFILE
    ) -> AsyncScriptedTransport:
        """Make a transport that plays it, for asyncio and trio."""
        return AsyncScriptedTransport(*self.entries, then=THEN, cut=cut, profile=profile)

    def __repr__(self) -> str:
        lines = [f"    {_code(entry)},\n" for entry in self.entries]
        return "ScriptedTransport(\n" + "".join(lines) + f"    then={THEN!r},\n)"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: FBT001  (Hypothesis calls it)
        """Print the code, where Hypothesis or IPython would take a dataclass apart."""
        for number, line in enumerate(repr(self).splitlines()):
            if number:
                printer.break_()
            printer.text(line)


def _code(entry: Entry) -> str:
    return text_code(entry) if isinstance(entry, str) else repr(entry)
