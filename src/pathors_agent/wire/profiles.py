"""Profiles: the differences between endpoints in what they accept."""

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin

ResultMedia = Literal["user_message", "tool_message", "left_out"]
"""Where to send the parts of a tool's result other than text."""

# The reasoning of OpenRouter, of Anthropic's models behind LiteLLM, and of GitHub Copilot. Endpoints
# that send such a field want it back with the next request, and no others send one.
ECHOED_FIELDS = ("reasoning_details", "thinking_blocks", "reasoning_text", "reasoning_opaque")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointProfile:
    """The requests that an endpoint accepts; the default is right for most endpoints.

    - `sends`: the whole history, or only the messages after the last answer, for endpoints that
      store the history themselves under a session id. HTTP transports choose the latter for the
      addresses of such endpoints, unless `sends=` is passed.
    - `session_in`: send a session's id in a header, or in the body as `session_id`.
    - `streams`: request a stream; False for endpoints without streaming.
    - `include_usage`: request token counts at the end of a stream (`stream_options`).
    - `system_role`: the role of system messages ("developer" for newer models of OpenAI).
    - `max_tokens_field`: the field of the limit on the answer's length.
    - `null_content`: send `"content": null` beside tool calls; False omits the field.
    - `reasoning_field`: the field in which the reasoning of messages with tool calls is sent back;
      None sends none.
    - `echoed_fields`: unknown fields of an assistant message that are sent back unchanged.
    - `echoes_call_fields`: send unknown fields of tool calls (thought signatures) back.
    - `result_media`: send the images, audio and files of a tool's result in a user message after
      the results of the batch; in the tool message itself, which OpenAI refuses together with each
      later request of the conversation; or not at all, so that the content of each tool message is
      a string. If they are not in the tool message, its text mentions each of them.
    - `answers_results`: insert a short assistant message between a tool message or user message
      and a user message, for endpoints that refuse this order.
    - `call_ids`: "nine" for endpoints that accept only ids of nine letters and digits; other ids
      are replaced consistently in the request.
    - `structured`: request typed answers by `response_format` with a JSON Schema, by a final tool,
      or by the prompt; tools work on most endpoints.
    - `requires_calls`: `tool_choice` may require a call ("required", or a tool by name).
    """

    sends: Literal["history", "new_messages"] = "history"
    session_in: Literal["header", "body"] = "header"
    streams: bool = True
    include_usage: bool = True
    system_role: Literal["system", "developer"] = "system"
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    null_content: bool = True
    reasoning_field: str | None = None
    echoed_fields: tuple[str, ...] = ECHOED_FIELDS
    echoes_call_fields: bool = True
    result_media: ResultMedia = "user_message"
    answers_results: bool = False
    call_ids: Literal["any", "nine"] = "any"
    structured: Literal["response_format", "tool", "prompt"] = "tool"
    requires_calls: bool = True

    def __post_init__(self) -> None:
        for name, kind in EndpointProfile.__annotations__.items():
            origin: object = get_origin(kind)
            value, allowed = getattr(self, name), get_args(kind)
            if origin is Literal and value not in allowed:
                names = ", ".join(map(repr, allowed))
                raise ValueError(f"EndpointProfile.{name} must be one of {names}, not {value!r}")


DEFAULT_PROFILE = EndpointProfile()
"""The profile that is right for most endpoints."""


def changed_settings(
    profile: EndpointProfile, default: EndpointProfile = DEFAULT_PROFILE
) -> dict[str, Any]:
    """Return the settings of a profile that differ from another's."""
    values = {field.name: getattr(profile, field.name) for field in fields(profile)}
    return {name: value for name, value in values.items() if value != getattr(default, name)}


PROFILES = {
    "default": DEFAULT_PROFILE,
    # Its reasoning models refuse max_tokens.
    "openai": EndpointProfile(
        max_tokens_field="max_completion_tokens", structured="response_format"
    ),
    # Answers 400 to a history whose tool calls lack their reasoning (langchain-ai/langchain#34166),
    # and, in reasoning mode, to a required tool call (deepseek-ai/DeepSeek-V3#1376).
    "deepseek": EndpointProfile(reasoning_field="reasoning_content", requires_calls=False),
    # Answers 422 to unknown fields and ids (langchain-ai/langchain#24668), and 400 to a user message
    # after a tool message (mistralai/mistral-common#169).
    "mistral": EndpointProfile(
        include_usage=False,
        echoed_fields=(),
        echoes_call_fields=False,
        answers_results=True,
        call_ids="nine",
    ),
    # For servers that refuse everything undocumented.
    "strict": EndpointProfile(
        include_usage=False,
        null_content=False,
        echoed_fields=(),
        echoes_call_fields=False,
        structured="prompt",
        requires_calls=False,
    ),
}
"""Profiles by name."""
