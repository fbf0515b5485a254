"""What was found out about an endpoint."""

from dataclasses import dataclass, fields
from enum import StrEnum

from pathors_agent.messages import JSONValue
from pathors_agent.wire.chat_completions import DEFAULT_PROFILE, EndpointProfile

# A sentence; an endpoint's own error may be a page.
_DETAIL_CHARACTERS = 200


class Verdict(StrEnum):
    """Whether an endpoint keeps a rule."""

    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    NOT_SEEN = "not seen"
    """It takes a model's help to see it, and the model did not help: ask one that is abler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one probe found.

    `profile` names the setting of the `EndpointProfile` that makes up for what does not hold.
    `optional` is what agents do without.
    """

    name: str
    verdict: Verdict
    detail: str = ""
    profile: str = ""
    optional: bool = False

    def __post_init__(self) -> None:
        words = " ".join(self.detail.split())
        cut = words[:_DETAIL_CHARACTERS] + "..." if len(words) > _DETAIL_CHARACTERS else words
        object.__setattr__(self, "detail", cut)

    @property
    def breaks(self) -> bool:
        """Whether agents miss something that no setting makes up for."""
        is_missing = self.verdict is Verdict.DOES_NOT_HOLD
        return is_missing and not self.profile and not self.optional


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that was found, and the profile to use."""

    findings: tuple[Finding, ...]
    profile: EndpointProfile

    @property
    def holds(self) -> bool:
        """Whether agents have all that they need here, with that profile."""
        return not any(finding.breaks for finding in self.findings)

    def profile_changes(self) -> dict[str, JSONValue]:
        """Give the settings of the profile that differ from their defaults."""
        pairs = [(f.name, getattr(self.profile, f.name)) for f in fields(EndpointProfile)]
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in pairs
            if value != getattr(DEFAULT_PROFILE, name)
        }

    def profile_code(self) -> str:
        """Write the profile as Python."""
        pairs = ((name, getattr(self.profile, name)) for name in self.profile_changes())
        return f"EndpointProfile({', '.join(f'{name}={value!r}' for name, value in pairs)})"

    def as_json(self) -> dict[str, JSONValue]:
        """Give all of it as JSON values."""
        return {
            "holds": self.holds,
            "profile": self.profile_changes(),
            "findings": [
                {
                    "name": finding.name,
                    "verdict": finding.verdict.value,
                    "detail": finding.detail,
                    "profile": finding.profile,
                    "optional": finding.optional,
                }
                for finding in self.findings
            ],
        }
