"""The wire format in both directions: events, chunks, answers and requests. Pure."""

from typing import TYPE_CHECKING

from pathors_agent.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathors_agent.wire.chat_completions import RequestTemplate
    from pathors_agent.wire.deltas import Delta
    from pathors_agent.wire.message_builder import Quirk
    from pathors_agent.wire.response_stream import ResponseStream
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "wire.chat_completions": ("RequestTemplate",),
            "wire.deltas": ("Delta",),
            "wire.message_builder": ("Quirk",),
            "wire.response_stream": ("ResponseStream",),
        },
    )

__all__ = ["Delta", "Quirk", "RequestTemplate", "ResponseStream"]
