"""Agents over OpenAI-compatible chat completions: conversations, tools, streams."""

from typing import TYPE_CHECKING

from pathors_agent.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathors_agent.agents.agent import Agent, AsyncAgent
    from pathors_agent.agents.approvals import Approval, Decision
    from pathors_agent.agents.budgets import Budget
    from pathors_agent.agents.hooks import AsyncHook, Hook
    from pathors_agent.agents.result import RunResult
    from pathors_agent.agents.stream import AsyncRunStream, RunStream
    from pathors_agent.agents.summaries import summarized
    from pathors_agent.core.conversation import Conversation
    from pathors_agent.core.limits import Limits
    from pathors_agent.errors import (
        AgentError,
        AuthenticationError,
        ConversationError,
        IncompleteResponse,
        LimitReached,
        MalformedResponse,
        ProviderError,
        RunNotFinished,
        SessionNotFound,
        ToolDefinitionError,
        ToolError,
        TransportError,
    )
    from pathors_agent.history.loading import dump_messages, load_messages
    from pathors_agent.history.trim import last_turns, token_budget
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
    from pathors_agent.transports.retry import AsyncRetryingTransport, RetryingTransport
    from pathors_agent.wire.chat_completions import ModelOptions
    from pathors_agent.wire.deltas import (
        ReasoningDelta,
        TextDelta,
        ToolCallDelta,
        ToolProgressDelta,
    )
    from pathors_agent.wire.profiles import PROFILES, EndpointProfile
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "agents.agent": ("Agent", "AsyncAgent"),
            "agents.approvals": ("Approval", "Decision"),
            "agents.budgets": ("Budget",),
            "agents.hooks": ("AsyncHook", "Hook"),
            "agents.result": ("RunResult",),
            "agents.stream": ("AsyncRunStream", "RunStream"),
            "agents.summaries": ("summarized",),
            "core.conversation": ("Conversation",),
            "core.limits": ("Limits",),
            "errors": (
                "AgentError",
                "AuthenticationError",
                "ConversationError",
                "IncompleteResponse",
                "LimitReached",
                "MalformedResponse",
                "ProviderError",
                "RunNotFinished",
                "SessionNotFound",
                "ToolDefinitionError",
                "ToolError",
                "TransportError",
            ),
            "history.loading": ("dump_messages", "load_messages"),
            "history.trim": ("last_turns", "token_budget"),
            "mcp.tools": ("MCPTools",),
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
            "tools.registry": ("ToolRegistry",),
            "tools.signature": ("ToolContext",),
            "tools.tool": ("Retry", "Tool", "tool"),
            "transports.aiohttp": ("AiohttpTransport",),
            "transports.base": (
                "AsyncResponse",
                "AsyncTransport",
                "Request",
                "Response",
                "Transport",
            ),
            "transports.fallback": ("AsyncFallbackTransport", "FallbackTransport"),
            "transports.http": ("AsyncHTTPTransport", "HTTPTransport", "Timeouts"),
            "transports.retry": ("AsyncRetryingTransport", "RetryingTransport"),
            "wire.chat_completions": ("ModelOptions",),
            "wire.deltas": ("ReasoningDelta", "TextDelta", "ToolCallDelta", "ToolProgressDelta"),
            "wire.profiles": ("PROFILES", "EndpointProfile"),
        },
    )

__version__ = "0.1.0"

__all__ = [
    "PROFILES",
    "Agent",
    "AgentError",
    "AiohttpTransport",
    "Approval",
    "AssistantMessage",
    "AsyncAgent",
    "AsyncFallbackTransport",
    "AsyncHTTPTransport",
    "AsyncHook",
    "AsyncResponse",
    "AsyncRetryingTransport",
    "AsyncRunStream",
    "AsyncTransport",
    "AuthenticationError",
    "Budget",
    "ContentPart",
    "Conversation",
    "ConversationError",
    "Decision",
    "EndpointProfile",
    "FallbackTransport",
    "HTTPTransport",
    "Hook",
    "IncompleteResponse",
    "JSONValue",
    "LimitReached",
    "Limits",
    "MCPTools",
    "MalformedResponse",
    "ModelOptions",
    "ProviderError",
    "ReasoningDelta",
    "Request",
    "Response",
    "Retry",
    "RetryingTransport",
    "RunNotFinished",
    "RunResult",
    "RunStream",
    "SessionNotFound",
    "SystemMessage",
    "TextDelta",
    "Timeouts",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolContext",
    "ToolDefinitionError",
    "ToolError",
    "ToolMessage",
    "ToolProgressDelta",
    "ToolRegistry",
    "Transport",
    "TransportError",
    "Usage",
    "UserMessage",
    "dump_messages",
    "last_turns",
    "load_messages",
    "summarized",
    "token_budget",
    "tool",
]
