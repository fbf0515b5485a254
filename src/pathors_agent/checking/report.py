"""The findings about an endpoint."""

from dataclasses import asdict, dataclass
from enum import StrEnum

from pathors_agent.messages import JSONValue
from pathors_agent.wire.profiles import EndpointProfile, changed_settings

ANY_PROFILE = "any profile"
"""The `profile` of a finding that this library handles with any settings."""

# A sentence; an endpoint's own error may be a page.
_DETAIL_CHARACTERS = 200


class Verdict(StrEnum):
    """Whether a rule holds at an endpoint."""

    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    NOT_SEEN = "not seen"
    """It is not known whether the rule holds, often because of the model. Try a stronger model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one probe.

    `profile` names the settings of the `EndpointProfile` with which agents work although the rule
    does not hold. It is "any profile" if they work with any settings, and empty if no setting
    helps. Agents work without an `optional` rule.
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
        """Whether agents need the rule, it does not hold, and no setting helps."""
        is_wrong = self.verdict is Verdict.DOES_NOT_HOLD
        return is_wrong and not self.profile and not self.optional

    @property
    def is_mended(self) -> bool:
        """Whether the rule does not hold, and the profile has a setting for it."""
        return self.verdict is Verdict.DOES_NOT_HOLD and bool(self.profile)

    @property
    def is_open(self) -> bool:
        """Whether agents need the rule, and it was not seen to hold."""
        return self.verdict is Verdict.NOT_SEEN and not self.optional


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All findings, and the profile to use."""

    findings: tuple[Finding, ...]
    profile: EndpointProfile

    @property
    def holds(self) -> bool:
        """Whether every rule that agents need holds without settings of the profile."""
        return self.works and not any(finding.is_mended for finding in self.findings)

    @property
    def works(self) -> bool:
        """Whether every rule that agents need holds, or has a setting in `profile`."""
        return not any(finding.breaks or finding.is_open for finding in self.findings)

    def profile_changes(self) -> dict[str, JSONValue]:
        """Return the settings of the profile that differ from their defaults."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in changed_settings(self.profile).items()
        }

    def profile_code(self) -> str:
        """Return the profile as Python code."""
        changes = (f"{name}={value!r}" for name, value in changed_settings(self.profile).items())
        return f"EndpointProfile({', '.join(changes)})"

    def as_json(self) -> dict[str, JSONValue]:
        """Return the whole report as JSON values."""
        return {
            "holds": self.holds,
            "works": self.works,
            "profile": self.profile_changes(),
            "findings": [
                {**asdict(finding), "verdict": finding.verdict.value} for finding in self.findings
            ],
        }
