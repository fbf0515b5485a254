"""Refuse arguments and names as other libraries spell them, with the right spelling.

Each text is one sentence: the argument or name, and what to write instead. It knows those of
OpenAI's client, openai-agents, pydantic-ai, LangChain and agno.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields
from typing import Any

from pathors_agent.agents.budgets import Budget
from pathors_agent.core.limits import Limits
from pathors_agent.transports.base import AsyncTransport, Transport
from pathors_agent.wire.chat_completions import ModelOptions

_OPTIONS = frozenset(field.name for field in fields(ModelOptions))
_LIMITS = frozenset(field.name for field in fields(Limits))

_TRANSPORT = "pass {transport}(base_url, api_key=...) as the first argument"
_HISTORY = "pass the messages to run(conversation=...)"
_CONTEXT = "pass the value to run(context=...); tools read it from their ToolContext"
_AGENTS = "pass each agent as a tool, tools=[agent.as_tool(name, description)]"

_ARGUMENTS: dict[str, str] = {
    name: hint
    for names, hint in {
        "system_prompt system system_message prompt instruction": "pass instructions=",
        "llm client chat_model provider api_key base_url": _TRANSPORT,
        "output_type result_type response_format response_model output_schema": "pass output=",
        "messages message_history memory checkpointer session": _HISTORY,
        "deps deps_type context context_type context_schema": _CONTEXT,
        "handoffs agents subagents team": _AGENTS,
        "functions toolsets toolkits": "pass tools=[...]",
        "mcp_servers": "pass tools=MCPTools(...)",
        "guardrails input_guardrails output_guardrails middleware callbacks": "pass hooks=[...]",
        "max_turns max_iterations max_steps recursion_limit": "pass limits=Limits(turns=...)",
        "usage_limits": "pass limits=Limits(total_tokens=...)",
        "timeout": "pass limits=Limits(seconds=...)",
        "retries max_retries": "pass retries= to the transport, or to @tool",
        "max_completion_tokens": "pass options=ModelOptions(max_tokens=...)",
        "model_settings model_kwargs": "pass options=ModelOptions(...)",
    }.items()
    for name in names.split()
}
_ARGUMENTS |= {
    **{name: f"pass options=ModelOptions({name}=...)" for name in _OPTIONS - {"response_format"}},
    **{name: f"pass limits=Limits({name}=...)" for name in _LIMITS},
}

_ATTRIBUTES: dict[str, str] = {
    name: hint
    for names, hint in {
        "run_sync invoke ainvoke arun run_async chat ask call predict generate": "run(prompt)",
        "run_stream run_streamed astream iter": "stream(prompt)",
        "print_response": "print(agent.run(prompt))",
        "tool tool_plain add_tool register_tool": "@tool above the function, and tools=[...]",
        "system_prompt": "instructions=",
        "clone copy": "another agent",
        "final_output data content text response": "output",
        "all_messages to_input_list": "conversation.messages",
        "new_messages new_items": "messages",
    }.items()
    for name in names.split()
}


def missing(owner: object, name: str) -> AttributeError:
    """Build the error for an attribute that an agent or a result does not have."""
    hint = f"; write {_ATTRIBUTES[name]}" if name in _ATTRIBUTES else ""
    kind = type(owner).__name__
    return AttributeError(f"{kind!r} object has no attribute {name!r}{hint}", name=name, obj=owner)


def refuse_mistakes(
    agent: str,
    transport: object,
    wanted: type[object],
    settings: Mapping[str, object],
    known: Collection[str],
) -> None:
    """Raise TypeError for the first argument of an agent's constructor that does not fit.

    `wanted` is the kind of transport, `settings` are the other arguments, and `known` the names of
    the constructor's arguments.
    """
    http = wanted.__name__.replace("Transport", "HTTPTransport")
    refuse_settings(agent, settings, known, http)
    if transport is None:
        raise TypeError(f"{agent} needs a transport; {_TRANSPORT.format(transport=http)}")
    if not isinstance(transport, wanted):
        hint = _transport_hint(transport, wanted, http)
        raise TypeError(f"transport {_a(transport)}, not a {wanted.__name__}{hint}")


def refuse_settings(
    owner: str, settings: Mapping[str, object], known: Collection[str], http: str = "HTTPTransport"
) -> None:
    """Raise TypeError for the first setting of an agent or a run that does not fit."""
    for name, value in settings.items():
        if name not in known:
            raise TypeError(f"{owner} has no {name}={_hint(name, known).format(transport=http)}")
        check = _CHECKS.get(name)
        if value is not None and check is not None and (problem := check(value)):
            raise TypeError(f"{name}= {problem}")


def _hint(name: str, known: Collection[str]) -> str:
    if name in _ARGUMENTS:
        return f"; {_ARGUMENTS[name]}"
    from difflib import get_close_matches  # here: only refused settings need it

    near = get_close_matches(name, known, n=1)
    return f"; pass {near[0]}=" if near else f"; its arguments are {', '.join(sorted(known))}"


# - transports


def _transport_hint(transport: object, wanted: type[object], http: str) -> str:
    if isinstance(transport, Transport | AsyncTransport):
        other = "AsyncAgent" if isinstance(transport, AsyncTransport) else "Agent"
        return f"; is {other} the agent you want?"
    if isinstance(transport, str):
        return f"; pass {_transport_of(transport, http)}"
    if callable(make := getattr(transport, _MAKERS[wanted], None)):
        return f"; pass its .{make.__name__}()"
    if isinstance(transport, type) or inspect.isroutine(transport):
        return "; call it, and pass what it returns"
    return f"; {_TRANSPORT.format(transport=http)}"


def _transport_of(text: str, kind: str) -> str:
    """Return how to write the transport for a URL or a model's name."""
    if "://" in text:
        url = "base_url" if "@" in text else repr(text.partition("?")[0])  # a password stays out
        return f"{kind}({url})"
    return f"{kind}(base_url, api_key=...) and model={text.rpartition(':')[2]!r}"


# The methods of `HostileModel` that return a transport.
_MAKERS: dict[type[object], str] = {Transport: "transport", AsyncTransport: "async_transport"}


# - the values of arguments


def _a(value: object) -> str:
    name = type(value).__name__
    return f"is {'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _model(value: object) -> str | None:
    if isinstance(value, str):
        return None
    if isinstance(value, Transport | AsyncTransport):
        return f"{_a(value)}; pass it as the first argument, and the model's name as model="
    return f"{_a(value)}; pass the model's name, a string"


def _text(value: object) -> str | None:
    return None if isinstance(value, str) else f"{_a(value)}; pass a string"


def _instructions(value: object) -> str | None:
    return None if isinstance(value, str) or callable(value) else f"{_a(value)}; pass its text"


def _options(value: object) -> str | None:
    if isinstance(value, ModelOptions):
        return None
    if not isinstance(value, Mapping):
        return f"{_a(value)}; pass ModelOptions(...)"
    known = [f"{name}={item!r}" for name, item in value.items() if name in _OPTIONS]
    others = [f"{name!r}: ..." for name in value if name not in _OPTIONS]
    extra = [f"extra={{{', '.join(others)}}}"] if others else []
    return f"{_a(value)}; pass options=ModelOptions({', '.join(known + extra)})"


def _limits(value: object) -> str | None:
    if isinstance(value, Limits):
        return None
    if isinstance(value, int):
        return f"{_a(value)}; pass limits=Limits(turns={value})"
    if not isinstance(value, Mapping):
        return f"{_a(value)}; pass Limits(...)"
    known = [f"{name}={item!r}" for name, item in value.items() if name in _LIMITS]
    return f"{_a(value)}; pass limits=Limits({', '.join(known) or '...'})"


def _budget(value: object) -> str | None:
    return None if isinstance(value, Budget) else f"{_a(value)}; pass Budget(...)"


def _history(value: object) -> str | None:
    if callable(value):
        return None
    return f"{_a(value)}, not a function that selects the messages to send; {_HISTORY}"


def _tools(value: Any) -> str | None:
    if hasattr(value, "as_tool"):
        return f"{_a(value)}; {_AGENTS}"
    if isinstance(value, str | Mapping) or not (callable(value) or isinstance(value, Iterable)):
        return f"{_a(value)}; write tools=[...]"
    name = getattr(value, "__name__", "it")
    if hasattr(value, "__tool__"):
        return f"is a tool itself; write tools=[{name}]"
    if inspect.isfunction(value) and not _chooses_tools(value):
        return f"is the function {name}; decorate it with @tool, and write tools=[{name}]"
    return None


def _chooses_tools(function: Callable[..., object]) -> bool:
    """Return False for a function that cannot be the one that chooses the tools of a turn."""
    try:
        signature = inspect.signature(function)
        signature.bind(None)
    except (TypeError, ValueError):
        return False
    return signature.return_annotation not in _PLAIN


# A function with one of these annotations returns a result, not tools.
_PLAIN = {
    *(str, int, float, bool, dict, bytes, None),
    *("str", "int", "float", "bool", "dict", "bytes", "None"),
}


_CHECKS: dict[str, Callable[[Any], str | None]] = {
    "tools": _tools,
    "history": _history,
    "name": _text,
    "model": _model,
    "instructions": _instructions,
    "limits": _limits,
    "budget": _budget,
    "options": _options,
}
