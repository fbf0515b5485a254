"""Results of MCP tools as values for the model."""

from collections.abc import Callable
from typing import Any

import pytest
from mcp.types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from mcp_connections import call
from pathors_agent import AsyncAgent, ContentPart, MCPTools, ToolCall, ToolError, ToolMessage, tool
from pathors_agent.mcp.content import value_of
from pathors_agent.testing import AsyncScriptedTransport, calls
from pathors_agent.tools.registry import BoundCall

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

# - results -


async def test_wrong_arguments_are_reported_without_a_request_to_the_server(
    over_http: Callable[..., MCPTools],
) -> None:
    async with over_http() as tools:
        message = tools.bind(ToolCall(id="call_1", name="add", arguments='{"a": 1, "b": "2"}'))

    assert not isinstance(message, BoundCall)
    assert str(message.content).startswith("The arguments of add ")


async def test_failure_is_an_error_in_the_servers_words(over_http: Callable[..., MCPTools]) -> None:
    async with over_http() as tools:
        message = await call(tools, "fail")

    assert (message.outcome, message.content) == (
        "error",
        "Error executing tool fail: it is broken",
    )


async def test_picture_is_an_image_part(connect: Callable[..., MCPTools]) -> None:
    async with connect() as tools:
        message = await call(tools, "picture")

    gif = "R0lGODlhAQABAAAAACwAAAAAAQABAAAC"
    assert message.content == (
        ContentPart(type="text", text="a dot:"),
        ContentPart.model_validate(
            {"type": "image_url", "image_url": {"url": f"data:image/gif;base64,{gif}"}}
        ),
    )


async def test_picture_is_sent_in_a_user_message(connect: Callable[..., MCPTools]) -> None:
    model = AsyncScriptedTransport(calls(("picture", {})), "A dot.")

    async with connect() as tools, AsyncAgent(model, tools=tools) as agent:
        await agent.run("Look.")

    tool_message, carrying = model.requests[1]["messages"][-2:]
    assert tool_message["content"] == "a dot:\n[image: in the next user message]"
    assert [carrying["role"], *(part["type"] for part in carrying["content"])] == [
        *("user", "image_url")
    ]


async def test_links_are_text_and_structured_content_is_added_to_content_that_has_less(
    over_http: Callable[..., MCPTools],
) -> None:
    async with over_http() as tools:
        message = await call(tools, "summary")

    assert message.content == '2 words\n[resource list at file:///words]\n{"words":["a","b"]}'


def result(*content: ContentBlock, structured: Any = None) -> CallToolResult:
    return CallToolResult(content=list(content), structured_content=structured)


def text(said: str) -> TextContent:
    return TextContent(type="text", text=said)


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (result(), None),
        (result(text("one"), text("two")), "one\ntwo"),
        (result(structured={"a": [1]}), '{"a":[1]}'),
        (result(text('{"a": [1]}'), structured={"a": [1]}), '{"a": [1]}'),
        (result(text("5"), structured={"result": 5}), "5"),
        (result(text("5"), structured={"result": "5"}), "5"),
        (result(text("x"), text("y"), structured={"result": ["x", "y"]}), "x\ny"),
        (result(structured={"result": None}), None),
        (result(text("two"), structured=2), "two\n2"),
        # The text, or all of the content, as a field.
        (result(text("a\nb"), structured={"content": "a\nb"}), "a\nb"),
        (result(text("a\n"), structured={"text": "a"}), "a\n"),
        (result(text("a"), structured={"data": {"content": "a"}}), "a"),
        (result(text("a"), structured={"content": [{"type": "text", "text": "a"}]}), "a"),
        (result(text("a"), text("b"), structured={"lines": ["a", "b"]}), "a\nb"),
        (result(text('{"a": 1}'), structured={"data": {"a": 1}}), '{"a": 1}'),
        (result(text("a"), structured={"content": "a", "path": "/x"}), 'a\n{"path":"/x"}'),
        (
            result(
                text("Contents:\nthe first line\nthe second"),
                structured={"content": "the first line\nthe second", "lines": 2},
            ),
            'Contents:\nthe first line\nthe second\n{"lines":2}',
        ),
        (result(text("ok"), structured={}), "ok"),
        # What only looks the same is sent.
        (result(text("5"), structured={"count": 5, "offset": 5}), '5\n{"count":5,"offset":5}'),
        (result(text("1"), structured={"ok": True}), '1\n{"ok":true}'),
        (
            result(text("a\nb"), structured={"files": [{"name": "a", "size": 1}]}),
            'a\nb\n{"files":[{"name":"a","size":1}]}',
        ),
    ],
)
def test_structured_content_is_said_once(given: CallToolResult, value: object) -> None:
    assert value_of(given) == value


def image(data: str) -> ImageContent:
    return ImageContent(type="image", data=data, mime_type="image/png")


@pytest.mark.parametrize(
    "structured",
    [
        {"content": [{"type": "image", "data": "AAAA", "mimeType": "image/png"}]},
        {"image": "AAAA"},
        {"result": {"data": "AAAA"}},
    ],
)
def test_picture_in_structured_content_is_not_sent_as_text(structured: object) -> None:
    value = value_of(result(image("AAAA"), structured=structured))

    assert isinstance(value, list)
    assert [part.type for part in value] == ["image_url"]


def test_picture_among_other_structured_content_is_named() -> None:
    structured = {"items": [{"name": "dot", "data": "AAAA"}]}

    value = value_of(result(image("AAAA"), structured=structured))

    assert isinstance(value, list)
    assert [part.text for part in value] == [
        None,
        '{"items":[{"name":"dot","data":"(shown above)"}]}',
    ]


def test_error_contains_its_structured_content() -> None:
    failed = CallToolResult(content=[], structured_content={"code": 7}, is_error=True)
    with pytest.raises(ToolError, match=r'^\{"code":7\}$'):
        value_of(failed)


RESOURCE = "file:///notes"


@pytest.mark.parametrize(
    ("block", "part"),
    [
        (
            AudioContent(type="audio", data="AAAA", mime_type="audio/mpeg"),
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}},
        ),
        (
            EmbeddedResource(
                type="resource",
                resource=BlobResourceContents(uri=RESOURCE, blob="AAAA", mime_type="image/png"),
            ),
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        ),
    ],
)
def test_media_are_content_parts(block: ContentBlock, part: dict[str, object]) -> None:
    assert value_of(result(block)) == [ContentPart.model_validate(part)]


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (
            EmbeddedResource(
                type="resource", resource=TextResourceContents(uri=RESOURCE, text="buy milk")
            ),
            "buy milk",
        ),
        (
            EmbeddedResource(
                type="resource",
                resource=BlobResourceContents(uri=RESOURCE, blob="AAAA", mime_type="text/x"),
            ),
            "[resource file:///notes, text/x, not shown]",
        ),
        (
            ResourceLink(type="resource_link", name="notes", uri=RESOURCE, description="my notes"),
            "[resource notes at file:///notes: my notes]",
        ),
    ],
)
def test_resources_are_text(block: ContentBlock, said: str) -> None:
    assert value_of(result(block)) == said


def test_error_without_words_says_that() -> None:
    with pytest.raises(ToolError, match="failed without an error message"):
        value_of(CallToolResult(content=[], is_error=True))


@pytest.mark.parametrize("text", ["", "The page did not load."])
async def test_image_of_an_error_is_shown_and_the_call_counts_as_failed(text: str) -> None:
    image = ImageContent(type="image", data="aGk=", mime_type="image/png")
    blocks = [TextContent(type="text", text=text)] if text else []
    failed = CallToolResult(content=[*blocks, image], is_error=True)

    @tool
    def screenshot() -> object:
        return value_of(failed)

    model = AsyncScriptedTransport(calls(("screenshot", {})), "I see.")
    result = await AsyncAgent(model, tools=[screenshot]).run("Look.")

    [message] = [each for each in result.messages if isinstance(each, ToolMessage)]
    assert message.outcome == "error"
    assert message.content == (
        ContentPart(type="text", text=text or "The tool failed, and returned this:"),
        ContentPart.image("data:image/png;base64,aGk="),
    )
