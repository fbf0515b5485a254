"""Make histories of other libraries' own objects, and load them in all forms; write what came."""

import json
from typing import Any

import openai.types.chat as chat
import pydantic_ai.messages as parts
from langchain_core.load import dumpd
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    messages_to_dict,
)
from openai.types.chat.chat_completion_message_function_tool_call import Function
from pydantic_ai.usage import RequestUsage

from pathors_agent import dump_messages, load_messages

OPENAI = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": "What is 1 + 2?"},
    chat.ChatCompletionMessage(
        role="assistant",
        content=None,
        tool_calls=[
            chat.ChatCompletionMessageFunctionToolCall(
                id="call_1", type="function", function=Function(name="add", arguments='{"a":1}')
            )
        ],
    ),
    {"role": "tool", "tool_call_id": "call_1", "content": "3"},
    chat.ChatCompletionMessage(role="assistant", content="It is 3.", annotations=[]),
]

LANGCHAIN = [
    SystemMessage("Be brief."),
    HumanMessage(
        [
            {"type": "text", "text": "What is this?"},
            {"type": "image", "base64": "aGk=", "mime_type": "image/png"},
        ]
    ),
    AIMessage(
        content=[{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": "Wait."}],
        tool_calls=[{"name": "look", "args": {"at": 1}, "id": "call_1"}],
        invalid_tool_calls=[{"name": "look", "args": "{oops", "id": "call_2", "error": "?"}],
        response_metadata={"finish_reason": "tool_calls", "model_name": "gpt"},
        usage_metadata={"input_tokens": 5, "output_tokens": 7, "total_tokens": 12},
        id="run-1",
    ),
    ToolMessage("a cat", tool_call_id="call_1"),
    ToolMessage("what?", tool_call_id="call_2", status="error"),
    AIMessageChunk(content="A cat."),
]

PYDANTIC_AI = [
    parts.ModelRequest(
        parts=[
            parts.SystemPromptPart("Be brief."),
            parts.UserPromptPart(
                [
                    "What is this?",
                    parts.ImageUrl("https://x.test/a.png"),
                    parts.BinaryContent(b"\xfb\xff", media_type="image/png"),
                ]
            ),
        ]
    ),
    parts.ModelResponse(
        parts=[
            parts.ThinkingPart("Hm."),
            parts.TextPart("Wait."),
            parts.ToolCallPart("look", {"at": 1}, "call_1"),
            parts.ToolCallPart("look", '{"at":2}', "call_2"),
        ],
        model_name="gpt",
        finish_reason="tool_call",
        provider_response_id="r1",
        usage=RequestUsage(input_tokens=5, output_tokens=7),
    ),
    parts.ModelRequest(
        parts=[
            parts.ToolReturnPart("look", {"seen": ["a cat"]}, "call_1"),
            parts.ToolReturnPart("look", "what?", "call_2", outcome="failed"),
        ]
    ),
    parts.ModelResponse(parts=[parts.TextPart("A cat.")]),
]

ADAPTER = parts.ModelMessagesTypeAdapter
FORMS: dict[str, list[Any]] = {
    "openai": [OPENAI],
    "langchain": [LANGCHAIN, messages_to_dict(LANGCHAIN), json.dumps(dumpd(LANGCHAIN))],
    "pydantic-ai": [PYDANTIC_AI, ADAPTER.dump_python(PYDANTIC_AI), ADAPTER.dump_json(PYDANTIC_AI)],
}

loaded = {
    name: [
        json.loads(dump_messages(load_messages(form, format=name)))["messages"] for form in forms
    ]  # type: ignore[arg-type]
    for name, forms in FORMS.items()
}
print(json.dumps(loaded))
