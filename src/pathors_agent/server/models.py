"""The list of models: a project has one, its agent."""

import time
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from pathors_agent.server.problems import Problem
from pathors_agent.server.project import DEFAULT_MODEL
from pathors_agent.server.runtime import Runtime
from pathors_agent.server.sessions import answered


class ModelEndpoints:
    """Answers what chat front ends ask first: which models there are."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._created = int(time.time())

    async def list_all(self, request: Request, project_id: str) -> Response:
        """List the project's one model."""
        await self._runtime.authenticated(request, project_id)
        return answered({"object": "list", "data": [self._model(project_id)]})

    async def query(self, request: Request, project_id: str, model_id: str) -> Response:
        """Return the project's model, if it has this name."""
        await self._runtime.authenticated(request, project_id)
        model = self._model(project_id)
        if model["id"] != model_id:
            raise Problem(
                HTTPStatus.NOT_FOUND, "Model not found", code="model_not_found", param="model"
            )
        return answered(model)

    def _model(self, project_id: str) -> dict[str, object]:
        return {
            "id": self._runtime.projects[project_id].model or DEFAULT_MODEL,
            "object": "model",
            "created": self._created,
            "owned_by": "pathors-agent",
        }
