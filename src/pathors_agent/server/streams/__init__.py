"""Adapters from a run's stream to the protocols of front ends: Vercel's AI SDK, and AG-UI.

They work in any web framework: each is an async generator of bytes, and a model of the request's
body. The server has an address for each of them, too.
"""

from pathors_agent.server.streams.ag_ui import AGUIRequest, ag_ui_events
from pathors_agent.server.streams.kept import RunningStreams
from pathors_agent.server.streams.ui_messages import UIMessageRequest
from pathors_agent.server.streams.ui_stream import UI_MESSAGE_HEADERS, ui_message_stream

__all__ = [
    "UI_MESSAGE_HEADERS",
    "AGUIRequest",
    "RunningStreams",
    "UIMessageRequest",
    "ag_ui_events",
    "ui_message_stream",
]
