"""A real server of the mcp package with resources and prompts, which asks its client questions.

python mcp_asking_server.py stdio | [old-]http PORT | guarded PORT

The guarded one needs a token, which it issues itself to the client "tests" with the secret "secret".
"""

import sys
from collections.abc import Mapping
from typing import Annotated

import anyio
import uvicorn
from mcp.server.auth.provider import AccessToken, TokenVerifier
from mcp.server.auth.settings import AuthSettings
from mcp.server.elicitation import AcceptedElicitation, ElicitationResult
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.prompts.base import AssistantMessage, UserMessage
from mcp.server.mcpserver.resolve import Elicit, Resolve, Sample
from mcp.types import CreateMessageResult, SamplingMessage, TextContent
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_server import GIF, without_discovery

TOKEN = "the-token"


class Guest(BaseModel):
    """What the server wants to know."""

    name: str
    nights: int


def ask_guest() -> Elicit[Guest]:
    return Elicit("Who stays how long?", Guest)


def ask_model() -> Sample:
    said = SamplingMessage(role="user", content=TextContent(type="text", text="Hello?"))
    return Sample([said], max_tokens=10, system_prompt="Be brief.")


async def book(guest: Annotated[ElicitationResult[Guest], Resolve(ask_guest)]) -> str:
    """Book a room."""
    if isinstance(guest, AcceptedElicitation):
        return f"{guest.data.name} stays {guest.data.nights} nights"
    return f"no guest: {guest.action}"


async def greet(answer: Annotated[CreateMessageResult, Resolve(ask_model)]) -> str:
    """Let a model greet."""
    content = answer.content
    return content.text if isinstance(content, TextContent) else "no text"


async def forget(context: Context) -> str:
    """Lose the tool `book`."""
    server.remove_tool("book")
    await context.notify_tools_changed()
    await context.session.send_tool_list_changed()
    return "lost"


def ping() -> str:
    """Answer."""
    return "pong"


def notes() -> str:
    """Return the notes."""
    return "Buy milk."


def dot() -> bytes:
    """Return a picture."""
    return GIF


def paper() -> bytes:
    """Return a file."""
    return b"%PDF-1.7"


def room(number: str) -> str:
    """Return the state of a room."""
    return f"room {number} is free"


async def slow() -> str:
    """Never return."""
    await anyio.sleep_forever()
    return "never"


def review(text: str) -> list[UserMessage | AssistantMessage]:
    """Ask for a review."""
    return [
        UserMessage(f"Review: {text}"),
        AssistantMessage("Of what kind?"),
        UserMessage("Brief."),
    ]


class OneToken(TokenVerifier):
    """Accepts one token."""

    async def verify_token(self, token: str) -> AccessToken | None:
        """Return the access of the token."""
        if token != TOKEN:
            return None
        return AccessToken(token=token, client_id="tests", scopes=["use"])


def settings(port: str) -> Mapping[str, object]:
    here = f"http://127.0.0.1:{port}"
    # As texts, which keep their form: issuers are compared character by character.
    auth = AuthSettings.model_validate(
        {"issuer_url": here, "resource_server_url": f"{here}/mcp", "required_scopes": ["use"]}
    )
    return {"auth": auth, "token_verifier": OneToken()}


async def metadata(request: Request) -> Response:
    """Describe the authorization server."""
    here = f"http://{request.url.netloc}"
    return JSONResponse(
        {
            "issuer": here,
            "authorization_endpoint": f"{here}/authorize",
            "token_endpoint": f"{here}/token",
            "grant_types_supported": ["client_credentials"],
            "response_types_supported": ["code"],
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
        }
    )


async def token(request: Request) -> Response:
    """Issue the token."""
    form = await request.form()
    if (form.get("client_id"), form.get("client_secret")) != ("tests", "secret"):
        return JSONResponse({"error": "invalid_client"}, status_code=401)
    return JSONResponse({"access_token": TOKEN, "token_type": "Bearer", "scope": "use"})


[kind, *port] = sys.argv[1:]
options = settings(port[0]) if kind == "guarded" else {}
server = MCPServer("asking", log_level="CRITICAL", **options)  # type: ignore[arg-type]  # of two kinds
for function in (book, greet, forget, ping):
    server.tool()(function)
server.resource("notes://all", mime_type="text/plain")(notes)
server.resource("pictures://dot.gif", mime_type="image/gif")(dot)
server.resource("papers://a/paper.pdf", mime_type="application/pdf")(paper)
server.resource("slow://all")(slow)
server.resource("rooms://{number}")(room)
server.prompt()(review)


def main() -> None:
    """Serve."""
    if kind == "stdio":
        server.run("stdio")
        return
    app = server.streamable_http_app()
    if kind == "guarded":
        app.add_route("/.well-known/oauth-authorization-server", metadata)
        app.add_route("/token", token, methods=["POST"])
    served = without_discovery(app) if kind == "old-http" else app
    uvicorn.run(served, port=int(port[0]), log_level="critical")


if __name__ == "__main__":
    main()
