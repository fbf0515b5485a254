"""Messages and their parts in requests."""

import json
from collections.abc import Sequence
from typing import Any

from pathors_agent.messages import (
    AssistantMessage,
    ContentPart,
    JSONValue,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from pathors_agent.wire.chat_completions import RequestTemplate

IMAGE = ContentPart.model_validate(
    {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "low"}}
)
AUDIO = ContentPart.model_validate(
    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
)
FILE = ContentPart.model_validate({"type": "file", "file": {"file_id": "f-1", "note": None}})


def text(words: str) -> ContentPart:
    """Return a text part."""
    return ContentPart(type="text", text=words)


def call(
    call_id: str = "a", name: str = "look", arguments: str = "{}", **extra: JSONValue
) -> ToolCall:
    """Return a tool call."""
    return ToolCall(id=call_id, name=name, arguments=arguments, extra=extra)


def wire_call(call_id: str = "a", name: str = "look", arguments: str = "{}") -> str:
    """Write a tool call as requests have it."""
    return (
        f'{{"id":"{call_id}","type":"function",'
        f'"function":{{"name":"{name}","arguments":{json.dumps(arguments)}}}}}'
    )


# Message -> the bytes of the default profile, by hand.
ENCODED: dict[str, tuple[Message, str]] = {
    "system": (SystemMessage(content="Be brief."), '{"role":"system","content":"Be brief."}'),
    "system with a name": (
        SystemMessage(content="s", name="policy"),
        '{"role":"system","name":"policy","content":"s"}',
    ),
    "system in parts": (
        SystemMessage(content=(text("a"), text("b"))),
        '{"role":"system","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}',
    ),
    "user": (UserMessage(content="Hello?"), '{"role":"user","content":"Hello?"}'),
    "user beyond ASCII": (
        UserMessage(content='Grüß\n"dich" 🎈\u2028'),
        '{"role":"user","content":"Grüß\\n\\"dich\\" 🎈\u2028"}',
    ),
    "user with a name": (
        UserMessage(content="x", name="alice"),
        '{"role":"user","name":"alice","content":"x"}',
    ),
    "user in parts": (
        UserMessage(content=(text("Look:"), IMAGE, AUDIO, FILE)),
        '{"role":"user","content":[{"type":"text","text":"Look:"},'
        '{"type":"image_url","image_url":{"url":"https://x.test/a.png","detail":"low"}},'
        '{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}},'
        '{"type":"file","file":{"file_id":"f-1","note":null}}]}',
    ),
    "user in no parts": (UserMessage(content=()), '{"role":"user","content":""}'),
    "answer": (AssistantMessage(content="Hi."), '{"role":"assistant","content":"Hi."}'),
    "answer of nothing": (AssistantMessage(), '{"role":"assistant","content":""}'),
    "empty answer": (AssistantMessage(content=""), '{"role":"assistant","content":""}'),
    "answer in parts": (
        AssistantMessage(content=(text("a"),)),
        '{"role":"assistant","content":[{"type":"text","text":"a"}]}',
    ),
    "refusal": (
        AssistantMessage(refusal="I will not."),
        '{"role":"assistant","content":"I will not."}',
    ),
    "refusal beside an answer": (
        AssistantMessage(content="Well,", refusal="no."),
        '{"role":"assistant","content":"Well,"}',
    ),
    "what the provider reported stays here": (
        AssistantMessage(
            content="Hi.",
            reasoning="Hm.",
            finish_reason="stop",
            usage=Usage(total_tokens=3),
            model="m-1",
            id="chatcmpl-1",
            extra={"annotations": [1]},
        ),
        '{"role":"assistant","content":"Hi."}',
    ),
    "calls": (
        AssistantMessage(tool_calls=(call("a", "look", '{"at": "x"}'), call("b", "add"))),
        '{"role":"assistant","content":null,"tool_calls":['
        + wire_call("a", "look", '{"at": "x"}')
        + f",{wire_call('b', 'add')}]}}",
    ),
    "calls beside text": (
        AssistantMessage(content="Let me see.", tool_calls=(call(),)),
        f'{{"role":"assistant","content":"Let me see.","tool_calls":[{wire_call()}]}}',
    ),
    "calls beside no text": (
        AssistantMessage(content="", tool_calls=(call(),)),
        f'{{"role":"assistant","content":"","tool_calls":[{wire_call()}]}}',
    ),
    "calls beside a refusal": (
        AssistantMessage(refusal="No.", tool_calls=(call(),)),
        f'{{"role":"assistant","content":null,"tool_calls":[{wire_call()}]}}',
    ),
    "reasoning details go back": (
        AssistantMessage(content="Hi.", extra={"reasoning_details": [{"data": "x"}], "other": 1}),
        '{"role":"assistant","content":"Hi.","reasoning_details":[{"data":"x"}]}',
    ),
    "result": (
        ToolMessage(tool_call_id="a", content="42"),
        '{"role":"tool","tool_call_id":"a","content":"42"}',
    ),
    "error result": (
        ToolMessage(tool_call_id="a", content="boom", outcome="error"),
        '{"role":"tool","tool_call_id":"a","content":"boom"}',
    ),
    "result in parts": (
        ToolMessage(tool_call_id="a", content=(text("42"),)),
        '{"role":"tool","tool_call_id":"a","content":[{"type":"text","text":"42"}]}',
    ),
}


def body(template: RequestTemplate, messages: Sequence[Message]) -> dict[str, Any]:
    """Encode a request and parse its body."""
    decoded = json.loads(template.encode(messages))
    assert isinstance(decoded, dict)
    return decoded


QUESTION = UserMessage(content="Hello?")

LOOK: JSONValue = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look at something.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}
