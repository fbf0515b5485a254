"""Serve agents as an OpenAI-compatible API with sessions; needs the extra `server`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathors_agent.server.app import create_app
    from pathors_agent.server.config import load_projects
    from pathors_agent.server.http.keys import Principal, make_key
    from pathors_agent.server.settings import ServerSettings
    from pathors_agent.server.turns.project import Project, TurnContext

__all__ = [
    "Principal",
    "Project",
    "ServerSettings",
    "TurnContext",
    "create_app",
    "load_projects",
    "make_key",
]

_PLACES = {
    "Principal": "http.keys",
    "Project": "turns.project",
    "ServerSettings": "settings",
    "TurnContext": "turns.project",
    "create_app": "app",
    "load_projects": "config",
    "make_key": "http.keys",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in (
            "fastapi",
            "prometheus_client",
            "starlette",
            "uvicorn",
        ):
            raise
        raise ImportError(
            f"the server needs {error.name}: pip install 'pathors-agent[server]'"
        ) from error
