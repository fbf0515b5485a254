"""The chat page's own addresses: the project of a key, and Markdown as HTML."""

from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated

import anyio
from fastapi import FastAPI
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from pathors_agent.json_text import whole_characters
from pathors_agent.server.http.bodies import RequestBody
from pathors_agent.server.http.body import OneAtATime, read_object
from pathors_agent.server.http.edge import json_response
from pathors_agent.server.http.page import add_page
from pathors_agent.server.http.problems import Problem, unavailable
from pathors_agent.server.running.runtime import Runtime

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

# About 12,000 tokens. The worst text of this length takes a thread for three seconds.
MAX_MARKDOWN_CHARACTERS = 50_000
MAX_MARKDOWN_TEXTS = 100
# Until then, the page shows the plain text, and it tries again with the next paragraph.
MARKDOWN_SECONDS = 10.0

# Each level of a list or a quote takes a few frames of Python's stack.
_MAX_NESTING = 60

_TAGS = {
    "a", "blockquote", "br", "code", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s",
    "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
_ATTRIBUTES: dict[str, set[str]] = {
    "*": set(),
    "a": {"href"},
    "code": {"class"},  # the language
    "ol": {"start"},
    "td": {"align"},
    "th": {"align"},
}
# The answer loads and runs nothing, even if a browser shows it as a page.
_HTML_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
}

_RENDERER = OneAtATime("markdown")


def add_chat_page(app: FastAPI, runtime: Runtime) -> None:
    """Add the chat page at `/`, and the addresses that only the page uses."""
    page = PageEndpoints(runtime)
    add_page(app)
    app.add_api_route("/page/account", page.account, methods=["GET"], include_in_schema=False)
    app.add_api_route(
        "/page/{project_id}/markdown", page.markdown, methods=["POST"], include_in_schema=False
    )


class MarkdownBody(RequestBody):
    """Texts to render."""

    texts: Annotated[list[str], Field(max_length=MAX_MARKDOWN_TEXTS)]


class PageEndpoints:
    """Answers the requests that only the chat page sends, and stores nothing of them."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def account(self, request: Request) -> Response:
        """Return the project that the request's key opens, and the size of its requests."""
        project = await self._runtime.project_of(request)
        limit = self._runtime.settings.max_body_bytes
        return json_response({"project": project, "maxBodyBytes": limit})

    async def markdown(self, request: Request, project_id: str) -> Response:
        """Return HTML with one `article` for each text of the request.

        The status is 204 if markdown-it-py or nh3 is not installed.
        """
        runtime = self._runtime
        caller = await runtime.authenticated(request, project_id)
        with runtime.services.admission.reading(project_id, caller.id):
            texts = MarkdownBody.read(await read_object(request, runtime.settings)).texts
            if sum(map(len, texts)) > MAX_MARKDOWN_CHARACTERS:
                raise Problem(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                    f"The texts are over {MAX_MARKDOWN_CHARACTERS} characters",
                    param="texts",
                )
            if not is_markdown_installed():
                return Response(status_code=HTTPStatus.NO_CONTENT, headers=_HTML_HEADERS)
            articles = await _in_thread(texts)
        return Response(articles, media_type="text/html", headers=_HTML_HEADERS)


async def _in_thread(texts: list[str]) -> str:
    """Render texts in a thread, one request at a time, so that other requests are answered."""
    try:
        with anyio.fail_after(MARKDOWN_SECONDS):
            return await _RENDERER.run(lambda: _articles(texts))
    except TimeoutError:
        raise unavailable("Other texts are rendered now") from None


def _articles(texts: list[str]) -> str:
    return "".join(f"<article>{render_markdown(text)}</article>" for text in texts)


# - rendering -


@cache
def is_markdown_installed() -> bool:
    """Return True if Markdown can be rendered."""
    try:
        import markdown_it  # noqa: F401
        import nh3  # noqa: F401
    except ImportError:
        return False
    return True


def render_markdown(text: str) -> str:
    """Return clean HTML for a text in Markdown; "" if it is nested too deeply to be rendered.

    HTML in the text is shown as it is written. Links open in a new tab, and lead only to web and
    mail addresses. Images become links, so that a text loads nothing. Headings begin at level 3.
    """
    import nh3

    parser = _parser()
    try:
        tokens = parser.parse(whole_characters(text))
        for token in tokens:
            if token.tag in _HEADINGS:
                token.tag = _HEADINGS[token.tag]
            if style := str(token.attrs.pop("style", "")):  # of cells of a table
                token.attrs["align"] = style.removeprefix("text-align:")
            for child in token.children or ():
                if child.type == "image":
                    child.type = "linked_image"
        html = parser.renderer.render(tokens, parser.options, {})
    except RecursionError:
        return ""
    return nh3.clean(
        html,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        clean_content_tags=set(),
        url_schemes={"http", "https", "mailto"},
        url_relative="deny",
        link_rel="noopener noreferrer",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )


# The page itself has headings of the two levels above.
_HEADINGS = {"h1": "h3", "h2": "h4", "h3": "h5", "h4": "h6", "h5": "h6"}


@cache
def _parser() -> "MarkdownIt":
    from markdown_it import MarkdownIt
    from markdown_it.common.utils import escapeHtml
    from markdown_it.renderer import RendererHTML
    from markdown_it.token import Token
    from markdown_it.utils import EnvType, OptionsDict

    def linked_image(
        renderer: RendererHTML, tokens: list[Token], index: int, options: OptionsDict, env: EnvType
    ) -> str:
        token = tokens[index]
        address = str(token.attrs.get("src", ""))
        name = renderer.renderInlineAsText(token.children, options, env) or address
        return f'<a href="{escapeHtml(address)}">{escapeHtml(name)}</a>'

    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": _MAX_NESTING})
    parser.enable(["table", "strikethrough"])
    parser.add_render_rule("linked_image", linked_image)
    return parser
