"""Serve agents as an OpenAI-compatible API with sessions; needs the extra `server`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathors_agent.server.app import create_app
    from pathors_agent.server.keys import Principal, make_key
    from pathors_agent.server.project import Project, TurnContext
    from pathors_agent.server.project_files import load_projects
    from pathors_agent.server.settings import ServerSettings

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
    "Principal": "keys",
    "Project": "project",
    "ServerSettings": "settings",
    "TurnContext": "project",
    "create_app": "app",
    "load_projects": "project_files",
    "make_key": "keys",
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
