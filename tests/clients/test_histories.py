"""Histories of other libraries' own objects, made and loaded where those libraries are installed."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from client_programs import PROGRAMS, Environments, plain_environment

pytestmark = pytest.mark.slow


def called(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """Write a tool call."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


SEEN: dict[str, list[dict[str, Any]]] = {
    "openai": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 1 + 2?"},
        {"role": "assistant", "content": None, "tool_calls": [called("call_1", "add", '{"a":1}')]},
        {"role": "tool", "tool_call_id": "call_1", "content": "3"},
        {"role": "assistant", "content": "It is 3."},
    ],
    "langchain": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
            ],
        },
        {
            "role": "assistant",
            "content": "Wait.",
            "reasoning": "Hm.",
            "tool_calls": [called("call_1", "look", '{"at":1}'), called("call_2", "look", "{oops")],
            "finish_reason": "tool_calls",
            "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
            "model": "gpt",
            "id": "run-1",
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "a cat"},
        {"role": "tool", "tool_call_id": "call_2", "content": "what?", "outcome": "error"},
        {"role": "assistant", "content": "A cat."},
    ],
    "pydantic-ai": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,+/8="}},
            ],
        },
        {
            "role": "assistant",
            "content": "Wait.",
            "reasoning": "Hm.",
            "tool_calls": [
                called("call_1", "look", '{"at":1}'),
                called("call_2", "look", '{"at":2}'),
            ],
            "finish_reason": "tool_calls",
            "usage": {
                "prompt_tokens": 5,
                "completion_tokens": 7,
                "total_tokens": 12,
                "cached_tokens": 0,
                "reasoning_tokens": 0,
            },
            "model": "gpt",
            "id": "r1",
        },
        {"role": "tool", "tool_call_id": "call_1", "content": '{"seen":["a cat"]}'},
        {"role": "tool", "tool_call_id": "call_2", "content": "what?", "outcome": "error"},
        {"role": "assistant", "content": "A cat."},
    ],
}


@pytest.fixture(scope="module")
def loaded(
    client_environments: Environments, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Any]]:
    command = client_environments.command("langchain", "python")
    done = subprocess.run(
        [command[0], str(PROGRAMS / "histories.py")],
        env=plain_environment(Path(tmp_path_factory.mktemp("home"))),
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[Any]] = json.loads(done.stdout)
    return found


@pytest.mark.timeout(280)  # the first use installs the libraries
@pytest.mark.parametrize(("name", "forms"), [("openai", 1), ("langchain", 3), ("pydantic-ai", 3)])
def test_objects_of_a_library_and_its_dumps_load_equally(
    name: str, forms: int, loaded: dict[str, list[Any]]
) -> None:
    assert loaded[name] == [SEEN[name]] * forms
