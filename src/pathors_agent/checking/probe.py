"""What a probe is: a name, a question to an endpoint, and what came of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from pathors_agent.checking.asking import Asking
from pathors_agent.checking.report import Finding, Verdict
from pathors_agent.errors import TransportError


class Seen(NamedTuple):
    """What came of a probe; as in `Finding`."""

    verdict: Verdict
    detail: str = ""
    profile: str = ""
    optional: bool = False


def holds(detail: str = "") -> Seen:
    """Say that the endpoint keeps the rule."""
    return Seen(Verdict.HOLDS, detail)


def fails(detail: str, *, profile: str = "") -> Seen:
    """Return a finding: the rule does not hold, and these settings make up for it."""
    return Seen(Verdict.DOES_NOT_HOLD, detail, profile)


def not_seen(detail: str) -> Seen:
    """Return a finding: it is not known whether the rule holds, for this reason."""
    return Seen(Verdict.NOT_SEEN, detail)


def not_needed(detail: str) -> Seen:
    """Return a finding: agents do not need the rule at this endpoint, for this reason."""
    return Seen(Verdict.NOT_SEEN, detail, optional=True)


@dataclass(frozen=True, slots=True)
class Probe:
    """One rule, and how an endpoint is asked about it."""

    name: str
    look: Callable[[Asking], Seen]
    optional: bool = False

    def run(self, asking: Asking) -> Finding:
        """Ask, and return the finding, also if no answer comes."""
        try:
            seen = self.look(asking)
        except TransportError as error:
            seen = not_seen(str(error)) if error.timed_out else fails(str(error))
        seen = seen._replace(optional=self.optional or seen.optional)
        return Finding(name=self.name, **seen._asdict())
