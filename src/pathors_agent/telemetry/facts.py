"""The facts of runs and their calls, by the names of OpenTelemetry's conventions.

One dict of facts is both an event of the log and the attributes of a span. Contents are separate:
only spans contain them, and only if the program asks for contents.
"""

from collections.abc import Iterable

from pathors_agent.core.conversation import Conversation
from pathors_agent.json_text import read_json, write_json
from pathors_agent.messages import (
    AssistantMessage,
    Content,
    JSONValue,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from pathors_agent.telemetry.events import Facts, ServerAddress
from pathors_agent.wire.chat_completions import ModelOptions, RequestTemplate

# The conventions' names of providers, by address. All others are "openai": the name identifies the
# API, and `server.address` the endpoint.
_PROVIDERS = {
    "api.anthropic.com": "anthropic",
    "api.cohere.ai": "cohere",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.moonshot.ai": "moonshot_ai",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
    "generativelanguage.googleapis.com": "gcp.gemini",
}
DEFAULT_PROVIDER = "openai"

UNKNOWN_TOOL = "_OTHER"
"""The name reported for a tool that does not exist, because the model invented it: it is content."""

COMMON = ("gen_ai.provider.name", "gen_ai.request.model", "gen_ai.output.type")
"""The facts that all model calls of a run share."""

# By the names of `ModelOptions` and of `Usage`.
_OPTIONS = {
    "gen_ai.request.temperature": "temperature",
    "gen_ai.request.top_p": "top_p",
    "gen_ai.request.max_tokens": "max_tokens",
    "gen_ai.request.seed": "seed",
}
USAGE = {
    "gen_ai.usage.input_tokens": "prompt_tokens",
    "gen_ai.usage.output_tokens": "completion_tokens",
    "gen_ai.usage.cache_read.input_tokens": "cached_tokens",
    "gen_ai.usage.reasoning.output_tokens": "reasoning_tokens",
}


def server_facts(server: ServerAddress | None) -> Facts:
    """Return the facts that identify an endpoint."""
    if server is None:
        return {"gen_ai.provider.name": DEFAULT_PROVIDER}
    return {
        "gen_ai.provider.name": _PROVIDERS.get(server.address, DEFAULT_PROVIDER),
        "server.address": server.address,
        "server.port": server.port,
    }


def conversation_id(conversation: Conversation) -> str | None:
    """Return the endpoint's session id, or else the id in the keys of the conversation's calls."""
    return conversation.session_id or conversation.id


def call_facts(name: str, call: ToolCall) -> dict[str, str]:
    """Return the facts that identify a tool call."""
    return {"gen_ai.tool.name": name, "gen_ai.tool.call.id": call.id}


def request_facts(
    template: RequestTemplate, server: ServerAddress | None, conversation: Conversation
) -> Facts:
    """Return the facts of a model call that are known before its request is sent."""
    options = template.options
    is_json = template.final_tool is not None or options.response_format is not None
    return {
        **server_facts(server),
        "gen_ai.request.model": template.model,
        "gen_ai.output.type": "json" if is_json else None,
        "gen_ai.conversation.id": conversation_id(conversation),
        **{fact: getattr(options, name) for fact, name in _OPTIONS.items()},
        "gen_ai.request.stop_sequences": _stop_sequences(options),
        "gen_ai.request.stream": template.profile.streams,
    }


def answer_facts(message: AssistantMessage) -> Facts:
    """Return the facts of a model's answer."""
    reason, usage = message.finish_reason, message.usage or Usage()
    return {
        "gen_ai.response.id": message.id,
        "gen_ai.response.model": message.model,
        "gen_ai.response.finish_reasons": [reason] if reason else None,
        "pathors_agent.tool_calls": len(message.tool_calls),
        **{fact: getattr(usage, name) for fact, name in USAGE.items()},
    }


def error_type(error: BaseException | None) -> str | None:
    """Return a word of low cardinality for the error of a call."""
    if error is None:
        return None
    if getattr(error, "timed_out", False):
        return "timeout"
    return type(error).__name__ if isinstance(error, Exception) else "cancelled"


def _stop_sequences(options: ModelOptions) -> list[str] | None:
    stop = options.stop
    return None if stop is None else [stop] if isinstance(stop, str) else list(stop)


# - contents -


def instructions_text(instructions: str) -> str:
    """Return the instructions before a history as JSON."""
    return _json([_text(instructions)])


def input_text(messages: Iterable[Message]) -> str:
    """Return the messages that were sent to a model as JSON."""
    return _json([{"role": m.role, "parts": _parts(m)} for m in messages])


def output_text(message: AssistantMessage) -> str:
    """Return a model's answer as JSON."""
    answer: _Part = {"role": message.role, "parts": _parts(message)}
    return _json([{**answer, "finish_reason": message.finish_reason or ""}])


_Part = dict[str, JSONValue]


def _json(value: JSONValue) -> str:
    return write_json(value).decode()


def _parts(message: Message) -> list[JSONValue]:
    match message:
        case ToolMessage():
            answer: _Part = {"id": message.tool_call_id, "response": message.text}
            return [{"type": "tool_call_response", **answer}]
        case AssistantMessage():
            parts: list[JSONValue] = []
            if message.reasoning:
                parts.append({"type": "reasoning", "content": message.reasoning})
            return [*parts, *_content(message.content), *map(_call, message.tool_calls)]
        case SystemMessage() | UserMessage():
            return _content(message.content)


def _content(content: Content | None) -> list[JSONValue]:
    if not content:
        return []
    if isinstance(content, str):
        return [_text(content)]
    # Images and files are larger than a span may be: only their type is written.
    return [_text(p.text) if p.text is not None else {"type": p.type} for p in content]


def _text(text: str) -> _Part:
    return {"type": "text", "content": text}


def _call(call: ToolCall) -> _Part:
    arguments = read_json(call.arguments or "{}", call.arguments)
    return {"type": "tool_call", "id": call.id, "name": call.name, "arguments": arguments}
