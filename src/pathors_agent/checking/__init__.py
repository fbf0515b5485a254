"""Test which parts of the chat-completions API an endpoint supports, and which profile it needs.

with HTTPTransport("http://localhost:11434/v1", api_key="") as transport:
    report = check_endpoint(transport, model="llama3.2")
print(report.profile)
"""

from typing import TYPE_CHECKING

from pathors_agent.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathors_agent.checking.check import check_endpoint
    from pathors_agent.checking.report import Finding, Report, Verdict
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "checking.check": ("check_endpoint",),
            "checking.report": ("Finding", "Report", "Verdict"),
        },
    )

__all__ = ["Finding", "Report", "Verdict", "check_endpoint"]
