"""Serve agents as an OpenAI-compatible API with sessions; needs the extra `server`."""

from typing import TYPE_CHECKING

from pathors_agent.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathors_agent.server.app import create_app
    from pathors_agent.server.config import load_projects
    from pathors_agent.server.http.keys import Principal, make_key
    from pathors_agent.server.settings import ServerSettings
    from pathors_agent.server.turns.project import Project, TurnContext
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "server.app": ("create_app",),
            "server.config": ("load_projects",),
            "server.http.keys": ("Principal", "make_key"),
            "server.settings": ("ServerSettings",),
            "server.turns.project": ("Project", "TurnContext"),
        },
        extra="server",
    )

__all__ = [
    "Principal",
    "Project",
    "ServerSettings",
    "TurnContext",
    "create_app",
    "load_projects",
    "make_key",
]
