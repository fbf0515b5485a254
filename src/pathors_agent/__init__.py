"""Agents over OpenAI-compatible chat completions: conversations, tools, streams."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathors_agent.agents.agent import Agent, AsyncAgent
    from pathors_agent.agents.approvals import Approval, Decision
    from pathors_agent.agents.budgets import Budget
    from pathors_agent.agents.hooks import AsyncHook, Hook, ModelContext, ModelRequest
    from pathors_agent.agents.perform.reconcile import NOT_HAPPENED, Happened
    from pathors_agent.agents.result import RunResult
    from pathors_agent.agents.stream import AsyncRunStream, RunStream
    from pathors_agent.agents.summaries import summarized
    from pathors_agent.core.conversation import Conversation
    from pathors_agent.core.limits import Limits
    from pathors_agent.core.run import CallModel, CallTool, GiveFeedback, Run, Status
    from pathors_agent.errors import (
        AgentError,
        AuthenticationError,
        ConversationError,
        IncompleteResponse,
        LimitReached,
        MalformedResponse,
        ProviderError,
        RunNotFinished,
        SessionConflict,
        SessionNotFound,
        StoreError,
        StreamInUse,
        ToolDefinitionError,
        ToolError,
        ToolLoopError,
        TransportError,
    )
    from pathors_agent.history.loading import dump_messages, load_messages
    from pathors_agent.history.trim import estimate_tokens, last_turns, token_budget
    from pathors_agent.mcp.tools import MCPTools
    from pathors_agent.messages import (
        AssistantMessage,
        ContentPart,
        JSONValue,
        SystemMessage,
        ToolCall,
        ToolMessage,
        Usage,
        UserMessage,
    )
    from pathors_agent.sessions.answers import (
        NewSession,
        SessionEntry,
        SessionPage,
        SessionRecord,
    )
    from pathors_agent.sessions.client import AsyncEndpointSessions, EndpointSessions
    from pathors_agent.stores.session_store import SessionStore
    from pathors_agent.stores.sql_session_store import SQLSessions
    from pathors_agent.tools.registry import ToolRegistry
    from pathors_agent.tools.signature import ToolContext
    from pathors_agent.tools.tool import Retry, Tool, tool
    from pathors_agent.transports.aiohttp import AiohttpTransport
    from pathors_agent.transports.base import (
        AsyncResponse,
        AsyncTransport,
        Request,
        Response,
        Transport,
    )
    from pathors_agent.transports.fallback import AsyncFallbackTransport, FallbackTransport
    from pathors_agent.transports.http import AsyncHTTPTransport, HTTPTransport, Timeouts
    from pathors_agent.transports.logged import AsyncLoggingTransport, LoggingTransport
    from pathors_agent.transports.retry import AsyncRetryingTransport, RetryingTransport
    from pathors_agent.wire.chat_completions import ModelOptions
    from pathors_agent.wire.deltas import (
        ReasoningDelta,
        TextDelta,
        ToolCallDelta,
        ToolProgressDelta,
    )
    from pathors_agent.wire.message_builder import Quirk
    from pathors_agent.wire.profiles import PROFILES, EndpointProfile

__version__ = "0.1.0"

__all__ = [
    "NOT_HAPPENED",
    "PROFILES",
    "Agent",
    "AgentError",
    "AiohttpTransport",
    "Approval",
    "AssistantMessage",
    "AsyncAgent",
    "AsyncEndpointSessions",
    "AsyncFallbackTransport",
    "AsyncHTTPTransport",
    "AsyncHook",
    "AsyncLoggingTransport",
    "AsyncResponse",
    "AsyncRetryingTransport",
    "AsyncRunStream",
    "AsyncTransport",
    "AuthenticationError",
    "Budget",
    "CallModel",
    "CallTool",
    "ContentPart",
    "Conversation",
    "ConversationError",
    "Decision",
    "EndpointProfile",
    "EndpointSessions",
    "FallbackTransport",
    "GiveFeedback",
    "HTTPTransport",
    "Happened",
    "Hook",
    "IncompleteResponse",
    "JSONValue",
    "LimitReached",
    "Limits",
    "LoggingTransport",
    "MCPTools",
    "MalformedResponse",
    "ModelContext",
    "ModelOptions",
    "ModelRequest",
    "NewSession",
    "ProviderError",
    "Quirk",
    "ReasoningDelta",
    "Request",
    "Response",
    "Retry",
    "RetryingTransport",
    "Run",
    "RunNotFinished",
    "RunResult",
    "RunStream",
    "SQLSessions",
    "SessionConflict",
    "SessionEntry",
    "SessionNotFound",
    "SessionPage",
    "SessionRecord",
    "SessionStore",
    "Status",
    "StoreError",
    "StreamInUse",
    "SystemMessage",
    "TextDelta",
    "Timeouts",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolContext",
    "ToolDefinitionError",
    "ToolError",
    "ToolLoopError",
    "ToolMessage",
    "ToolProgressDelta",
    "ToolRegistry",
    "Transport",
    "TransportError",
    "Usage",
    "UserMessage",
    "dump_messages",
    "estimate_tokens",
    "last_turns",
    "load_messages",
    "summarized",
    "token_budget",
    "tool",
]

# Where each name lives; loaded at its first use, so that `import pathors_agent` costs nothing.
_NAMES_BY_MODULE = {
    "agents.agent": ("Agent", "AsyncAgent"),
    "transports.aiohttp": ("AiohttpTransport",),
    "agents.approvals": ("Approval", "Decision"),
    "agents.hooks": ("AsyncHook", "Hook", "ModelContext", "ModelRequest"),
    "agents.perform.reconcile": ("NOT_HAPPENED", "Happened"),
    "wire.chat_completions": ("ModelOptions",),
    "wire.profiles": ("PROFILES", "EndpointProfile"),
    "core.conversation": ("Conversation",),
    "errors": (
        "AgentError",
        "AuthenticationError",
        "ConversationError",
        "IncompleteResponse",
        "LimitReached",
        "MalformedResponse",
        "ProviderError",
        "RunNotFinished",
        "SessionConflict",
        "SessionNotFound",
        "StoreError",
        "StreamInUse",
        "ToolDefinitionError",
        "ToolError",
        "ToolLoopError",
        "TransportError",
    ),
    "transports.fallback": ("AsyncFallbackTransport", "FallbackTransport"),
    "history.loading": ("dump_messages", "load_messages"),
    "transports.http": ("AsyncHTTPTransport", "HTTPTransport", "Timeouts"),
    "transports.logged": ("AsyncLoggingTransport", "LoggingTransport"),
    "mcp.tools": ("MCPTools",),
    "wire.deltas": ("ReasoningDelta", "TextDelta", "ToolCallDelta", "ToolProgressDelta"),
    "wire.message_builder": ("Quirk",),
    "messages": (
        "AssistantMessage",
        "ContentPart",
        "JSONValue",
        "SystemMessage",
        "ToolCall",
        "ToolMessage",
        "Usage",
        "UserMessage",
    ),
    "history.trim": ("estimate_tokens", "last_turns", "token_budget"),
    "transports.retry": ("AsyncRetryingTransport", "RetryingTransport"),
    "agents.budgets": ("Budget",),
    "core.limits": ("Limits",),
    "core.run": ("CallModel", "CallTool", "GiveFeedback", "Run", "Status"),
    "agents.result": ("RunResult",),
    "agents.stream": ("AsyncRunStream", "RunStream"),
    "sessions.answers": ("NewSession", "SessionEntry", "SessionPage", "SessionRecord"),
    "sessions.client": ("AsyncEndpointSessions", "EndpointSessions"),
    "stores.sql_session_store": ("SQLSessions",),
    "stores.session_store": ("SessionStore",),
    "agents.summaries": ("summarized",),
    "tools.registry": ("ToolRegistry",),
    "tools.signature": ("ToolContext",),
    "tools.tool": ("Retry", "Tool", "tool"),
    "transports.base": ("AsyncResponse", "AsyncTransport", "Request", "Response", "Transport"),
}
_MODULES = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}


if not TYPE_CHECKING:  # a type checker that saw __getattr__ would accept any name

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(
                f"pathors_agent has no public name {name!r}; dir(pathors_agent) lists them"
            )
        value = getattr(import_module(f"pathors_agent.{_MODULES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
