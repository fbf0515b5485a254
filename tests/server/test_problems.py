"""What a client reads of a model that refused: its own mistakes in full, the server's by kind."""

import json
from typing import Any

import pytest

from live_server import live
from pathors_agent.errors import ProviderError
from pathors_agent.server import Project
from pathors_agent.server.http.problems import of_model
from pathors_agent.testing import AsyncScriptedTransport, http_error
from pathors_agent.wire.provider_errors import decode_error, find_error


def refused(status: int, message: str = "no", **fields: Any) -> ProviderError:
    body = {"error": {"message": message, "type": "invalid_request_error", **fields}}
    return decode_error(status, json.dumps(body).encode())


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize(
    ("code", "param"),
    [
        ("context_length_exceeded", "messages"),
        ("decimal_above_max_value", "temperature"),
        (None, "messages[0].content"),
        (None, None),
    ],
)
def test_error_that_the_request_caused_keeps_status_code_param_and_text(
    status: int, code: str | None, param: str | None
) -> None:
    problem = of_model(refused(status, "Too long by 12 tokens.", code=code, param=param))

    assert (problem.status, problem.message) == (status, "Too long by 12 tokens.")
    assert (problem.code, problem.param) == (code, param)
    assert json.loads(problem.body)["error"]["type"] == "invalid_request_error"
    assert not problem.headers


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"error": {"message": "too long", "code": 400}}, 400),
        ({"error": {"message": "too large", "code": "413"}}, 413),
        ({"error": {"message": "too long", "type": "invalid_request_error"}}, 400),
        ({"error": {"message": "down", "code": 503}}, 502),
        ({"error": {"message": "down", "type": "server_error"}}, 502),
    ],
)
def test_errors_inside_an_answer_are_read_equally(answer: dict[str, Any], status: int) -> None:
    error = find_error(answer, is_answer=False)
    assert error is not None

    assert of_model(error).status == status


@pytest.mark.parametrize(
    ("error", "words", "code"),
    [
        (refused(404, "no such model", code="model_not_found"), "no such model", "model_not_found"),
        (refused(404, "model 'x' not found"), "model 'x' not found", "model_not_found"),
        (refused(404, "The model `x` does not exist.", code="404", param="model"), None, None),
    ],
)
def test_model_that_the_request_chose_and_that_does_not_exist_is_told(
    error: ProviderError, words: str | None, code: str | None
) -> None:
    problem = of_model(error, names_model=True)

    assert (problem.status, problem.param) == (404, "model")
    assert problem.message == (words or "The model `x` does not exist.")
    assert problem.code == (code or "model_not_found")


@pytest.mark.parametrize(
    ("own", "asked", "status"),
    [(None, "gpt-9", 404), (None, "pathway-default", 502), (None, None, 502), ("gpt-4", "x", 502)],
)
@pytest.mark.parametrize("stream", [False, True])
def test_model_that_does_not_exist_is_the_fault_of_the_one_that_chose_it(
    own: str | None, asked: str | None, status: int, *, stream: bool
) -> None:
    model = AsyncScriptedTransport(http_error(404, "no such model"))
    with live(Project(id="demo", transport=model, model=own)) as server:
        answered = server.complete("Hi", model=asked, stream=stream)

    assert answered.status_code == status
    assert answered.json()["error"]["param"] == ("model" if status == 404 else None)


def test_wrong_address_of_the_model_is_no_fault_of_the_request() -> None:
    assert of_model(refused(404, "404 page not found"), names_model=True).status == 502


def test_bodies_of_several_shapes_are_read_equally() -> None:
    fastapi = decode_error(422, b'{"detail": [{"loc": ["body", "messages"], "msg": "required"}]}')
    html = decode_error(413, b"<html><h1>413 Request Entity Too Large</h1></html>")
    wrapped = decode_error(400, b'[{"error": {"error": {"message": "no", "param": "top_p"}}}]')

    assert (of_model(fastapi).status, of_model(fastapi).message) == (422, "body.messages: required")
    assert of_model(html).status == 413
    assert of_model(html).message == "The model refused the request (status 413)"
    assert of_model(wrapped).param == "top_p"


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcDEF1234567890",
        "sk-secret-1234",
        "AIzaSyA1234567890abcdefghij",
        "Bearer abcdef",
        "http://models.internal:8000/v1",
        "10.0.3.7:8000",
        "[fd00:1:2:3::7]:8000",
        "gpu-7.models.local",
        "localhost:11434",
        "ops@example.com",
        "d41d8cd98f00b204e9800998ecf8427e",
        "gX7pQ2mN9vB4kL8wR3tY6z",
    ],
)
def test_words_hold_no_keys_and_no_addresses(secret: str) -> None:
    problem = of_model(refused(400, f"The prompt is too long, see {secret} for gpt-4.1-mini."))

    assert secret not in problem.body.decode()
    assert problem.message.startswith("The prompt is too long, see [...]")


@pytest.mark.parametrize(
    "words",
    [
        "temperature: 5 is above 2.0, see messages.0.content.text",
        "maximum context length is 8192 tokens; messages took 10240 (12:30:01)",
        "model gpt-4o-mini-2024-07-18 takes no images for sketching",
    ],
)
def test_plain_words_stay_as_they_are(words: str) -> None:
    assert of_model(refused(400, words)).message == words


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (refused(400, "API key not valid. Please pass a valid API key."), 502, "model_failed"),
        (refused(401, "Incorrect API key"), 502, "model_failed"),
        (refused(403, "not allowed"), 502, "model_failed"),
        (refused(404, "no such model", code="model_not_found"), 502, "model_not_found"),
        (refused(500, "broken"), 502, "model_failed"),
    ],
)
def test_client_reads_only_the_kind_of_an_error_between_server_and_model(
    error: ProviderError, status: int, code: str
) -> None:
    problem = of_model(error)

    assert (problem.status, problem.code) == (status, code)
    assert error.said not in problem.message


@pytest.mark.parametrize(
    "error",
    [
        refused(429, "You exceeded your current quota", code="insufficient_quota"),
        refused(429, "no", type="insufficient_quota"),
        refused(402, "Insufficient Balance"),
        refused(400, "Your credit balance is too low to access the API."),
    ],
)
def test_spent_quota_is_reported_as_such_and_as_final(error: ProviderError) -> None:
    problem = of_model(error)

    assert (problem.status, problem.code) == (429, "insufficient_quota")
    assert problem.headers == {"x-should-retry": "false"}


def test_rate_limit_answer_has_retry_after() -> None:
    problem = of_model(decode_error(429, b'{"error": {"message": "slow"}}', retry_after=7))

    assert (problem.status, problem.headers) == (429, {"Retry-After": "7"})


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("temperature", 2.1, "must be between 0 and 2"),
        ("temperature", -0.1, "must be between 0 and 2"),
        ("top_p", 1.5, "must be between 0 and 1"),
        ("frequency_penalty", -3, "must be between -2 and 2"),
        ("presence_penalty", 3, "must be between -2 and 2"),
        ("max_tokens", 0, "must be at least 1"),
        ("max_completion_tokens", -1, "must be at least 1"),
        ("seed", 2**63, f"must be between {-(2**63)} and {2**63 - 1}"),
        ("stop", [], "must be a string or a list of strings, and not empty"),
        ("tool_choice", "maybe", "must be one of none, auto, required, any, or an object"),
        ("logit_bias", {"50256": 101}, "must hold numbers between -100 and 100"),
    ],
)
def test_option_out_of_range_is_refused_at_the_door(field: str, value: Any, said: str) -> None:
    with live(Project(id="demo", transport=AsyncScriptedTransport())) as server:
        refused = server.complete("Hi", **{field: value})

        assert refused.status_code == 400
        assert f"{field}: {said}" in refused.json()["error"]["details"]
