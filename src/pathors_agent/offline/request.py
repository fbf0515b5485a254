"""Read a chat-completions request, and say what is wrong with one that cannot be read."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pathors_agent.messages import JSONValue
from pathors_agent.wire.contents import RESULT_ORIGIN


class Wire(BaseModel):
    """A part of a request; unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


class Part(Wire):
    """One part of a content list; only text is read."""

    type: str
    text: str = ""


class CalledFunction(Wire):
    """What an earlier answer called."""

    name: str
    arguments: str = ""


class Call(Wire):
    """A tool call in the history."""

    id: str
    function: CalledFunction


class WireMessage(Wire):
    """A message of the history."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None

    @property
    def carries_result(self) -> bool:
        """Whether a user message holds the images of a tool's result, and no prompt."""
        if self.role != "user" or not isinstance(self.content, list) or not self.content:
            return False
        return not self.text or self.content[0].text.startswith(RESULT_ORIGIN)

    @property
    def text(self) -> str:
        """The text of the content, its parts joined."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content if part.type == "text")
        return self.content or ""


class Function(Wire):
    """A tool's name, description and parameters."""

    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None


class OfferedTool(Wire):
    """A tool of the request."""

    type: Literal["function"]
    function: Function


class StreamOptions(Wire):
    """What a stream is to hold."""

    include_usage: bool = False


class ChatRequest(Wire):
    """The fields of a request that the stand-in model reads."""

    messages: list[WireMessage] = Field(min_length=1)
    tools: list[OfferedTool] | None = None
    tool_choice: JSONValue = None
    parallel_tool_calls: bool | None = None
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @field_validator("messages")
    @classmethod
    def _without_carried_results(cls, messages: list[WireMessage]) -> list[WireMessage]:
        return [message for message in messages if not message.carries_result]

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def turn_start(self) -> int:
        """The place after the last user message: where this turn's calls and results begin."""
        places = [place for place, m in enumerate(self.messages, 1) if m.role == "user"]
        return places[-1] if places else len(self.messages)

    def callable_tools(self) -> list[Function]:
        """Give the tools that may be called, as `tool_choice` says."""
        functions = [tool.function for tool in self.tools or ()]
        match self.tool_choice:
            case "none":
                return []
            case {"function": {"name": name}}:
                return [function for function in functions if function.name == name]
            case _:
                return functions


class InvalidRequest(Exception):
    """The body is no chat-completions request; `details` names each bad field."""

    def __init__(self, details: list[str]) -> None:
        super().__init__("the request body is invalid")
        self.details = details


def read_request(body: bytes) -> ChatRequest:
    """Read a request body; raise `InvalidRequest` for one that breaks the format."""
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise InvalidRequest([_detail(item) for item in error.errors()]) from None


def _detail(item: Any) -> str:
    path = ""
    for key in item["loc"]:
        path += f"[{key}]" if isinstance(key, int) else f".{key}"
    return f"{path.lstrip('.') or 'body'}: {item['msg']}"
