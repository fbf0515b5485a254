"""Run all probes of an endpoint, in an order in which each failure has one cause."""

from collections.abc import Callable
from contextlib import suppress

from pathors_agent.checking import answers, behaviour, calls
from pathors_agent.checking.answers import hello
from pathors_agent.checking.probe import ProbeClient
from pathors_agent.checking.report import Report
from pathors_agent.transports.base import Transport

# Enough for a greeting and for a tool call; models that reason first need more.
TOKENS = 256
# Enough for a small model on a slow machine to write these tokens.
SECONDS = 60.0

PROBES = (
    *answers.PROBES,
    *calls.PROBES,
    answers.TYPED,
    *behaviour.PROBES,
    answers.COUNTED,
    *behaviour.LAST,
)


def check_endpoint(
    transport: Transport,
    *,
    model: str | None = None,
    tokens: int = TOKENS,
    seconds: float = SECONDS,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Test which parts of the chat-completions API hold at a transport's endpoint.

    It sends about forty requests. Each answer has at most `tokens`, if the endpoint respects
    `max_tokens`, and may take `seconds`. The transport's own profile is ignored. `progress` is
    called before each probe with its name, the number of finished probes and the number of all
    probes. The check ends the sessions that the endpoint began. Raises `TransportError` if the
    endpoint answers no request.
    """
    asking = ProbeClient(transport, model, tokens, seconds)
    _make_contact(asking)
    findings = []
    try:
        for done, probe in enumerate(PROBES):
            if progress:
                progress(probe.name, done, len(PROBES))
            findings.append(probe.run(asking))
    finally:
        with suppress(Exception):  # the report is more important
            behaviour.end_sessions(asking)
    return Report(findings=tuple(findings), profile=asking.profile)


def _make_contact(asking: ProbeClient) -> None:
    """Raise the endpoint's error if it answers neither with a stream nor with a whole answer."""
    if hello(asking, streams=False).problem:
        _ = hello(asking, streams=True).message
