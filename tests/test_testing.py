import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pathors_agent import (
    Agent,
    AssistantMessage,
    AsyncAgent,
    EndpointProfile,
    Request,
    TransportError,
    Usage,
    tool,
)
from pathors_agent.testing import (
    AsyncScriptedTransport,
    Entry,
    ScriptedTransport,
    answer,
    calls,
    http_error,
    raw,
)

STREAMED = Request(body=b'{"model":"m","stream":true,"messages":[]}')
COUNTED = Request(body=b'{"stream":true,"stream_options":{"include_usage":true}}')
PLAIN = Request(body=b'{"model":"m","stream":false}')


def pieces_of(entry: Entry, request: Request = STREAMED, *, cut: int | None = None) -> list[bytes]:
    with ScriptedTransport(entry, cut=cut).send(request) as response:
        return list(response.pieces)


def pieces_until_broken(entry: Entry, *, cut: int | None = None) -> list[bytes]:
    received: list[bytes] = []
    with ScriptedTransport(entry, cut=cut).send(STREAMED) as response:
        with pytest.raises(TransportError, match="broke"):
            received.extend(response.pieces)
    return received


def chunks_of(entry: Entry, request: Request = STREAMED) -> list[dict[str, Any]]:
    *chunks, done = pieces_of(entry, request)
    assert done == b"data: [DONE]\n\n"
    assert all(each.startswith(b"data: {") and each.endswith(b"}\n\n") for each in chunks)
    return [json.loads(chunk.removeprefix(b"data: ")) for chunk in chunks]


def deltas_of(entry: Entry) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in chunks_of(entry)]


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


# - what is sent -


def test_text_is_streamed_in_chunks_with_every_field() -> None:
    shared = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1704067200,
        "model": "m",
        "system_fingerprint": "fp_pathors_agent",
    }

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**shared, "choices": [choice]}

    assert chunks_of("Hello there") == [
        chunk({"role": "assistant", "content": "", "refusal": None}),
        chunk({"content": "Hello th"}),
        chunk({"content": "ere"}),
        chunk({}, "stop"),
    ]


def test_first_piece_is_these_bytes() -> None:
    assert pieces_of("Hi")[1] == (
        b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1704067200,'
        b'"model":"m","system_fingerprint":"fp_pathors_agent","choices":[{"index":0,'
        b'"delta":{"content":"Hi"},"logprobs":null,"finish_reason":null}]}\n\n'
    )


def test_parallel_calls_are_streamed_one_after_another() -> None:
    entry = answer(calls=[("add", {"a": 1, "b": 2}), ("now", {})], chunk_size=8)

    assert deltas_of(entry) == [
        {"role": "assistant", "content": None, "refusal": None},
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "add", "arguments": ""},
                }
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1,'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ' "b": 2}'}}]},
        {
            "tool_calls": [
                {
                    "index": 1,
                    "id": "call_2",
                    "type": "function",
                    "function": {"name": "now", "arguments": ""},
                }
            ]
        },
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
        {},
    ]


def test_calls_finish_with_tool_calls() -> None:
    assert chunks_of(calls(("now", {})))[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_arguments_as_text_are_sent_unchanged() -> None:
    body = pieces_of(calls(("add", '{"a": 1,')), PLAIN)[0]

    call = json.loads(body)["choices"][0]["message"]["tool_calls"][0]
    assert call["function"]["arguments"] == '{"a": 1,'


def test_call_ids_continue_in_the_next_answer() -> None:
    transport = ScriptedTransport(calls(("a", {}), ("b", {})), calls(("c", {})))

    ids = []
    for _ in range(2):
        with transport.send(PLAIN) as response:
            message = json.loads(b"".join(response.pieces))["choices"][0]["message"]
            ids += [call["id"] for call in message["tool_calls"]]

    assert ids == ["call_1", "call_2", "call_3"]


def test_request_without_stream_gets_one_json_completion() -> None:
    [body] = pieces_of(answer("Hi", reasoning="Be kind.", finish_reason="length"), PLAIN)

    assert json.loads(body) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1704067200,
        "model": "m",
        "system_fingerprint": "fp_pathors_agent",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hi",
                    "refusal": None,
                    "reasoning_content": "Be kind.",
                },
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {"prompt_tokens": -1, "completion_tokens": -1, "total_tokens": -1},
    }


def test_reasoning_is_streamed_before_the_text() -> None:
    assert deltas_of(answer("Yes.", reasoning="Well"))[1:3] == [
        {"reasoning_content": "Well"},
        {"content": "Yes."},
    ]


def test_usage_is_sent_when_asked_for() -> None:
    *others, last = chunks_of("Hi", COUNTED)

    assert all(chunk["usage"] is None for chunk in others)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": -1, "completion_tokens": -1, "total_tokens": -1}


def test_scripted_usage_is_sent_even_if_not_requested() -> None:
    counts = Usage(prompt_tokens=9, completion_tokens=1, total_tokens=10)

    last = chunks_of(answer("Hi", usage=counts))[-1]

    assert last["usage"] == {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}


def test_cut_pieces_have_that_size_and_the_same_bytes() -> None:
    whole = b"".join(pieces_of("Grüße aus Köln"))

    pieces = pieces_of("Grüße aus Köln", cut=7)

    assert b"".join(pieces) == whole
    assert {len(piece) for piece in pieces[:-1]} == {7}


@pytest.mark.parametrize("wrong", [lambda: answer("x", chunk_size=0), lambda: pieces_of("", cut=0)])
def test_empty_cuts_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        wrong()


def test_raw_is_these_bytes() -> None:
    entry = raw(b"data: 1\n\ndata: 2\n\n: end", status=203, headers={"X-Session-ID": "s1"})

    with ScriptedTransport(entry).send(STREAMED) as response:
        assert list(response.pieces) == [b"data: 1\n\n", b"data: 2\n\n", b": end"]

    assert response.status == 203
    assert response.session_id == "s1"
    assert response.headers == {
        "content-type": "text/event-stream; charset=utf-8",
        "x-session-id": "s1",
    }


def test_http_error_has_status_message_and_retry_after() -> None:
    entry = http_error(429, "slow down", type="rate_limit_error", code="busy", retry_after=1)

    with ScriptedTransport(entry).send(STREAMED) as response:
        [body] = response.pieces

    assert response.status == 429
    assert response.headers == {"content-type": "application/json", "retry-after": "1"}
    assert json.loads(body) == {
        "error": {
            "message": "slow down",
            "type": "rate_limit_error",
            "param": None,
            "code": "busy",
            "details": [],
        }
    }


def test_exception_in_the_script_is_raised_by_send() -> None:
    with (
        pytest.raises(TransportError, match="no route"),
        ScriptedTransport(TransportError("no route")).send(STREAMED),
    ):
        pytest.fail("no response was due")


def test_broken_answer_raises_after_that_many_events() -> None:
    assert pieces_until_broken(answer("Hello").broken_after(events=2)) == pieces_of("Hello")[:2]


def test_broken_answer_raises_after_that_many_bytes() -> None:
    received = pieces_until_broken(answer("Hello").broken_after(bytes=301), cut=100)

    assert [len(piece) for piece in received] == [100, 100, 100, 1]


def test_ended_answer_stops_in_silence() -> None:
    assert pieces_of(answer("Hello").ended_after(events=1)) == pieces_of("Hello")[:1]
    assert (
        b"".join(pieces_of(answer("Hello").ended_after(bytes=300)))
        == (b"".join(pieces_of("Hello"))[:300])
    )


def test_end_of_both_units_is_refused() -> None:
    with pytest.raises(TypeError, match="either events= or bytes="):
        answer("Hello").broken_after(events=1, bytes=1)


# - what is remembered, and asserted -


def test_requests_are_kept_decoded_and_as_sent() -> None:
    request = Request(body=b'{"stream": true, "seed": 1}', session_id="s1")
    transport = ScriptedTransport("Hi")

    with transport.send(request):
        pass

    assert transport.requests == [{"stream": True, "seed": 1}]
    assert transport.sent == [request]


def test_request_beyond_the_script_is_an_assertion_error_with_its_number() -> None:
    transport = ScriptedTransport("Hi")
    with transport.send(PLAIN):
        pass

    with (
        pytest.raises(
            AssertionError, match=r"request 2 is after the end of the script, which has 1 answers"
        ),
        transport.send(PLAIN),
    ):
        pass


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        (AssistantMessage(content="Hi."), "AssistantMessage"),
        ({"content": "Hi."}, "dict"),
        (TimeoutError, "type"),
        (None, "NoneType"),
    ],
)
def test_script_with_something_else_is_refused(entry: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=f"entry 1 of the script is a {kind}; it must be a text"):
        ScriptedTransport("Hi.", entry)


def test_script_that_is_not_used_up_is_an_assertion_error() -> None:
    with (
        pytest.raises(AssertionError, match=r"1 of the script's 2 answers not used"),
        ScriptedTransport("a", "b") as transport,
        transport.send(PLAIN),
    ):
        pass


def test_failure_inside_the_block_is_not_hidden_by_the_script() -> None:
    with pytest.raises(KeyError, match="mine"), ScriptedTransport("a"):
        raise KeyError("mine")


def test_profile_is_that_of_the_endpoint() -> None:
    profile = EndpointProfile(sends="new_messages")

    assert ScriptedTransport(profile=profile).profile is profile


# - with agents -


def test_agent_runs_a_script_with_parallel_tools_cut_anywhere() -> None:
    script = (calls(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4})), "3 and 7")

    with ScriptedTransport(*script, cut=5) as model:
        result = Agent(model, tools=[add]).run("What is 1 + 2, and 3 + 4?")

    assert result.output == "3 and 7"
    assert model.requests[1]["messages"][-2:] == [
        {"role": "tool", "tool_call_id": "call_1", "content": "3"},
        {"role": "tool", "tool_call_id": "call_2", "content": "7"},
    ]


@pytest.mark.anyio
async def test_async_agent_runs_a_script() -> None:
    async with AsyncScriptedTransport(calls(("add", {"a": 1, "b": 2})), "3", cut=9) as model:
        result = await AsyncAgent(model, tools=[add]).run("What is 1 + 2?")

    assert result.output == "3"
    assert len(model.requests) == 2


@pytest.mark.anyio
async def test_async_script_breaks_and_counts_as_the_other() -> None:
    transport = AsyncScriptedTransport(answer("Hi").broken_after(events=1), "b")

    async with transport.send(STREAMED) as response:
        pieces = aiter(response.pieces)
        assert await anext(pieces) == pieces_of("Hi")[0]
        with pytest.raises(TransportError, match="broke"):
            await anext(pieces)

    with pytest.raises(AssertionError, match="1 of the script's 2 answers not used"):
        transport.assert_used_up()


# - the published schema -


@pytest.mark.parametrize(
    "entry",
    [answer("Hi", reasoning="Hm"), calls(("add", {"a": 1}), ("now", {}))],
    ids=["text", "calls"],
)
def test_requests_fit_the_published_schema(entry: Entry, conformance_data: Path) -> None:
    schema = json.loads((conformance_data / "openai_contract" / "chat.schema.json").read_text())

    def checker(name: str) -> jsonschema.Draft202012Validator:
        return jsonschema.Draft202012Validator({**schema, "$ref": f"#/$defs/{name}"})

    chunk_checker = checker("CreateChatCompletionStreamResponse")
    for chunk in chunks_of(entry, COUNTED):
        chunk_checker.validate(chunk)
    checker("CreateChatCompletionResponse").validate(json.loads(pieces_of(entry, PLAIN)[0]))
