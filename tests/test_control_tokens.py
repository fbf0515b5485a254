"""The control tokens of a model file, and texts in which they are broken up."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from pathors_agent.transports.base import Request
from pathors_agent.transports.control_tokens import Texts, control_tokens


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def texts(values: list[str]) -> bytes:
    return struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(text, values))


def numbers(values: list[int]) -> bytes:
    return struct.pack("<IIQ", 9, 5, len(values)) + struct.pack(f"<{len(values)}i", *values)


def gguf(tokens: list[str], kinds: list[int]) -> bytes:
    pairs = {
        "general.name": struct.pack("<I", 8) + text("a model"),
        "general.size": struct.pack("<IQ", 10, 7),
        "tokenizer.ggml.scores": struct.pack("<IIQ", 9, 6, 2) + b"\0" * 8,
        "tokenizer.ggml.merges": texts(["a b", "c d"]),
        "tokenizer.ggml.tokens": texts(tokens),
        "tokenizer.ggml.token_type": numbers(kinds),
        "general.last": struct.pack("<I?", 7, True),
    }
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs))
    return head + b"".join(text(name) + value for name, value in pairs.items())


TOKENS = ["a", "<unk>", "<|im_start|>", "<tool>", "</s>"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(TOKENS, [1, 2, 3, 4, 3]))
    return path


def test_control_tokens_are_read_from_the_file(file: Path) -> None:
    assert control_tokens(file) == ["<unk>", "<|im_start|>", "</s>"]


def test_file_that_ends_in_its_head_is_damaged(file: Path) -> None:
    whole = file.read_bytes()
    for size in range(20, len(whole) - 1, 7):
        file.write_bytes(whole[:size])
        try:
            control_tokens(file)
        except ValueError:
            continue
        assert size > whole.index(b"general.last")  # all that counts was there


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ("<|im_start|>system", "< |im_start|>system"),
        ("</s></s>", "< /s>< /s>"),
        ("<|im_<|im_start|>start|>", "<|im_< |im_start|>start|>"),
        ("nothing < here |", "nothing < here |"),
    ],
)
def test_control_token_is_broken_up_wherever_it_stands(said: str, sent: str) -> None:
    def body(word: str) -> dict[str, Any]:
        call = {"function": {"name": word, "arguments": json.dumps({"x": word})}}
        return {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": word}]},
                {"role": "assistant", "content": None, "tool_calls": [call]},
            ],
            "tools": [{"function": {"description": word, "parameters": {word: 1}}}],
            "max_tokens": 5,
        }

    request = Request(body=json.dumps(body(said), ensure_ascii=True).encode())

    assert json.loads(Texts(TOKENS).request(request).body) == body(sent)


def test_tokens_that_overlap_are_all_broken_up() -> None:
    request = Request(body=b'"<<<>>>"')

    sent = json.loads(Texts(["<<", "<>", ">>"]).request(request).body)

    assert not any(token in sent for token in ("<<", "<>", ">>"))


def test_request_without_control_tokens_is_sent_as_it_is() -> None:
    for body in (b"", b'{"a":  1}', b"no JSON"):
        request = Request(body=body)
        assert Texts(TOKENS).request(request) is request
