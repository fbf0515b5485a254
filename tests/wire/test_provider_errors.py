"""What a provider's error says to the person who gets it: one line, and what to do."""

import json

import pytest

from pathors_agent.wire.provider_errors import decode_error, find_error


def body(message: str) -> bytes:
    return json.dumps({"error": {"message": message}}).encode()


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (400, "the provider answered 400: No."),
        (401, "the provider answered 401: No.; check the key (api_key=, PATHORS_API_KEY)"),
        (403, "the provider answered 403: No.; check what the key may do (api_key=, model=)"),
        (
            404,
            "the provider answered 404: No.; check the address and the model (base_url=, model=)",
        ),
        (
            429,
            "the provider answered 429: No.; wait before the next request, or raise the limit at the provider",
        ),
        (500, "the provider answered 500: No."),
    ],
)
def test_error_says_what_to_do(status: int, text: str) -> None:
    assert str(decode_error(status, body("No."))) == text


@pytest.mark.parametrize("sent", [body("First.\n\n Second."), b"First.\r\nSecond."])
def test_error_is_one_line(sent: bytes) -> None:
    assert str(decode_error(500, sent)) == "the provider answered 500: First. Second."


def test_long_error_is_cut_and_more_of_it_is_in_the_body() -> None:
    error = decode_error(500, body("x" * 5_000))

    assert str(error) == f"the provider answered 500: {'x' * 500}..."
    assert len(error.body) == 2048


def test_error_inside_an_answer_is_one_line_too() -> None:
    error = find_error({"error": {"message": "First.\nSecond."}}, is_answer=False)

    assert str(error) == "the provider sent an error inside its answer: First. Second."
