"""The check of endpoints, on servers of others, on our own, and on servers with one fault each."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from live_server import Live, live
from pathors_agent.checking import Report, Verdict, check_endpoint
from pathors_agent.checking.answers import PROBES as ANSWERS
from pathors_agent.errors import ProviderError, TransportError
from pathors_agent.offline import AsyncOfflineTransport, OfflineTransport
from pathors_agent.server import Project
from pathors_agent.transports.base import Request, Response, Transport
from pathors_agent.transports.http import HTTPTransport
from pathors_agent.wire.profiles import DEFAULT_PROFILE, EndpointProfile
from servers import FakeLLMServer, LLMockServer

HOLDS, NO, NOT_SEEN = Verdict.HOLDS, Verdict.DOES_NOT_HOLD, Verdict.NOT_SEEN


def verdicts(report: Report) -> dict[str, Verdict]:
    return {finding.name: finding.verdict for finding in report.findings}


def others(report: Report) -> dict[str, Verdict]:
    """Return the findings that do not simply hold."""
    return {name: seen for name, seen in verdicts(report).items() if seen is not HOLDS}


def checked(url: str, key: str = "key") -> Report:
    with HTTPTransport(url, api_key=key) as transport:
        return check_endpoint(transport, model="gpt-4o")


# - real servers -


@pytest.fixture(scope="module")
def own_server() -> Iterator[Live]:
    with live(Project(id="demo", transport=AsyncOfflineTransport())) as server:
        yield server


@pytest.fixture(scope="module")
def own_report(own_server: Live) -> Report:
    return checked(own_server.base, own_server.key)


def test_every_possible_rule_holds_at_our_own_server(own_report: Report) -> None:
    # A model of rules can be told neither to be brief nor to call, nor to write JSON.
    assert others(own_report) == {
        "max_tokens, finish_reason length": NOT_SEEN,
        "tool_choice required": NO,
        "response_format with a schema": NO,
    }
    assert own_report.works
    assert not own_report.holds
    assert own_report.profile == EndpointProfile(requires_calls=False)


def test_sessions_that_a_check_began_are_ended(own_server: Live, own_report: Report) -> None:
    listed = own_server.client.get("/sessions?pageSize=100").json()["data"]

    assert len(listed) > 20
    assert all(entry["endTime"] for entry in listed)


def test_llmock_holds_but_for_several_calls(llmock_server: LLMockServer) -> None:
    report = checked(llmock_server.url)

    assert others(report) == {
        "max_tokens, finish_reason length": NOT_SEEN,
        "several calls in one answer": NOT_SEEN,
        "an index for each call of a stream": NOT_SEEN,
        "error for a wrong key": NOT_SEEN,
        "session header": NO,
    }
    assert [finding.name for finding in report.findings if finding.is_open] == [
        "several calls in one answer"
    ]
    assert report.profile == EndpointProfile(structured="response_format")


def test_fakellm_calls_no_tools_by_itself(fakellm_server: FakeLLMServer) -> None:
    report = checked(fakellm_server.url)

    assert verdicts(report)["tool call in a stream"] is NOT_SEEN
    assert verdicts(report)["usage chunk of a stream"] is NO
    assert verdicts(report)["error for a bad request"] is NO
    # It counts no tokens in streams.
    assert report.profile_changes() == {
        "streams": False,
        "structured": "prompt",
        "requires_calls": False,
    }
    assert not report.works


def test_fakellm_calls_tools_by_its_rules(fakellm_server: FakeLLMServer) -> None:
    both = [{"name": "get_weather", "arguments": {"city": c}} for c in ("Oslo", "Rome")]
    fakellm_server.rules(
        {"name": "done", "when": {"tool_result_contains": "21"}, "respond": {"content": "Warm."}},
        {"name": "call", "when": {"tools_include": "get_weather"}, "respond": {"tool_calls": both}},
    )

    seen = verdicts(checked(fakellm_server.url))

    assert seen["tool call in a stream"] is HOLDS
    assert seen["several calls in one answer"] is HOLDS
    assert seen["finish_reason tool_calls"] is HOLDS
    assert seen["call without arguments"] is NOT_SEEN  # it calls another tool


def test_unreachable_endpoint_is_reported_as_such() -> None:
    with pytest.raises(TransportError, match="No connection"):
        checked("http://127.0.0.1:9/v1")


def test_refused_key_is_reported_as_such(own_server: Live) -> None:
    with pytest.raises(ProviderError, match="Invalid authentication") as refused:
        checked(own_server.base, "sk_wrong")

    assert refused.value.status == 401


# - endpoints with a fault each: the offline model behind a door that refuses or changes something -

Fields = dict[str, Any]


class Odd(Transport):
    """An endpoint that refuses some requests, and changes its answers' text."""

    def __init__(self, *changes: tuple[bytes, bytes]) -> None:
        self._model = OfflineTransport()
        self._changes = changes

    def refuses(self, fields: Fields) -> str:
        """Return why the server refuses a request, or an empty string."""
        return ""

    @contextmanager
    def send(self, request: Request) -> Iterator[Response]:
        if request.path != "/chat/completions":
            yield Response(status=404)
            return
        try:
            fields = json.loads(request.body)
            why = self.refuses(fields) if isinstance(fields["messages"], list) else "messages"
        except ValueError:
            why = "no JSON"
        if why:
            yield refusal(why)
            return
        with self._model.send(request) as response:
            body = b"".join(response.pieces)
            for old, new in self._changes:
                body = body.replace(old, new)
            headers = response.headers
        yield Response(status=200, headers=headers, pieces=[body])


def refusal(why: str, status: int = 400) -> Response:
    body = json.dumps({"error": {"message": why}}).encode()
    return Response(status=status, headers={"content-type": "application/json"}, pieces=[body])


def refusing(rule: Any) -> Odd:
    class Refusing(Odd):
        def refuses(self, fields: Fields) -> str:
            return "I do not know that" if rule(fields) else ""

    return Refusing()


def assistants(fields: Fields) -> list[Fields]:
    return [m for m in fields["messages"] if "tool_calls" in m]


def is_own(message: Fields) -> bool:
    return bool(message["tool_calls"][0]["id"].startswith("call_1"))


REFUSALS: Mapping[str, tuple[Any, dict[str, Any]]] = {
    "usage chunk of a stream": (
        # Without them no counts come in a stream.
        lambda f: "stream_options" in f,
        {"include_usage": False, "streams": False},
    ),
    "max_tokens, finish_reason length": (
        lambda f: "max_tokens" in f,
        {"max_tokens_field": "max_completion_tokens"},
    ),
    "system message": (
        lambda f: any(m["role"] == "system" for m in f["messages"]),
        {"system_role": "developer"},
    ),
    "streamed answer": (lambda f: f["stream"], {"streams": False, "include_usage": False}),
    "content null beside calls": (
        lambda f: any(m.get("content", "") is None for m in assistants(f)),
        {"null_content": False},
    ),
    "tool result in the history": (
        # The offline model never reasons: its own calls are let through.
        lambda f: any("reasoning_content" not in m for m in assistants(f) if not is_own(m)),
        {"reasoning_field": "reasoning_content"},
    ),
    "call ids of any form": (
        lambda f: any(len(c["id"]) != 9 for m in assistants(f) for c in m["tool_calls"]),
        {"call_ids": "nine"},
    ),
    "unknown fields of messages": (
        lambda f: any("reasoning_details" in m for m in assistants(f)),
        {"echoed_fields": ()},
    ),
    "unknown fields of calls": (
        lambda f: any("extra_content" in c for m in assistants(f) for c in m["tool_calls"]),
        {"echoes_call_fields": False},
    ),
    "user message after a tool result": (
        lambda f: any(a == "tool" and b == "user" for a, b in pairwise(roles(f))),
        {"answers_results": True},
    ),
    "tool_choice required": (lambda f: f.get("tool_choice") == "required", {}),
}


def roles(fields: Fields) -> list[str]:
    return [message["role"] for message in fields["messages"]]


def images(fields: Fields) -> set[str]:
    """Name the roles whose messages hold an image."""
    return {
        message["role"]
        for message in fields["messages"]
        for part in message.get("content") or ()
        if isinstance(part, dict) and part["type"] == "image_url"
    }


@pytest.mark.parametrize(
    ("refused", "verdict", "media"),
    [
        (set(), HOLDS, "user_message"),
        ({"tool"}, NO, "user_message"),
        ({"user"}, NO, "tool_message"),
        ({"tool", "user"}, NO, "left_out"),
    ],
)
def test_place_of_images_in_results_is_found(
    refused: set[str], verdict: Verdict, media: str
) -> None:
    report = check_endpoint(refusing(lambda fields: images(fields) & refused))

    [finding] = [each for each in report.findings if each.name == "image in a tool result"]
    assert finding.verdict is verdict
    assert report.profile.result_media == media
    assert finding.profile == ("" if verdict is HOLDS else f"result_media={media!r}")
    assert report.works


def test_endpoint_that_refuses_tool_then_user_gets_images_behind_an_answer() -> None:
    report = check_endpoint(
        refusing(lambda f: ("tool", "user") in pairwise(roles(f)) or "tool" in images(f))
    )

    assert report.profile_changes() == {"requires_calls": False, "answers_results": True}


def test_broken_arguments_reach_no_endpoint() -> None:
    def is_broken(fields: Fields) -> bool:
        calls = [call for message in assistants(fields) for call in message["tool_calls"]]
        return any(not call["function"]["arguments"].endswith("}") for call in calls)

    report = check_endpoint(refusing(is_broken))

    [finding] = [finding for finding in report.findings if finding.is_mended][1:]
    assert finding.name == "call with broken arguments in the history"
    assert (finding.verdict, finding.profile) == (NO, "any profile")
    assert report.works


@pytest.mark.parametrize("name", REFUSALS)
def test_profile_decides_the_form_of_requests(name: str) -> None:
    rule, changes = REFUSALS[name]

    report = check_endpoint(refusing(rule))

    [finding] = [finding for finding in report.findings if finding.name == name]
    assert finding.verdict is NO
    assert "I do not know that" in finding.detail
    assert all(f"{field}=" in finding.profile for field in list(changes)[:1])
    assert report.works
    expected = {"requires_calls": False, **changes}  # the offline model is never forced
    assert {name: getattr(report.profile, name) for name in expected} == expected
    assert verdicts(report)["a whole agent, with this profile"] is HOLDS
    others = set(report.profile_changes()) - set(expected)
    assert not others


def test_endpoint_without_tools_misses_something() -> None:
    report = check_endpoint(refusing(lambda fields: "tools" in fields))

    missing = [finding.name for finding in report.findings if finding.breaks]
    assert "tool call in a stream" in missing
    assert "a whole agent, with this profile" in missing
    assert not report.holds


@pytest.mark.parametrize(
    ("change", "name", "detail"),
    [
        ((b"data: [DONE]\n\n", b""), "[DONE] ends a stream", "the stream ended without it"),
        (
            (b'"finish_reason":"tool_calls"', b'"finish_reason":"stop"'),
            "finish_reason tool_calls",
            "finish_reason was 'stop'",
        ),
        (
            (b'"finish_reason":"stop"', b'"finish_reason":"end_turn"'),
            "finish_reason stop",
            "an answer that was not cut ended with 'end_turn'",
        ),
    ],
)
def test_missing_parts_of_answers_are_reported(
    change: tuple[bytes, bytes], name: str, detail: str
) -> None:
    report = check_endpoint(Odd(change))

    [finding] = [finding for finding in report.findings if finding.name == name]
    assert (finding.verdict, finding.detail) == (NO, detail)
    assert finding.optional
    assert report.works


def test_quirks_are_named() -> None:
    report = check_endpoint(Odd((b'"id":"call', b'"ID":"call')))

    finding = report.findings[-1]
    assert finding.name == "answers without quirks"
    assert finding.verdict is NO
    assert "missing_id" in finding.detail


def test_each_probe_is_announced() -> None:
    told: list[tuple[str, int, int]] = []

    report = check_endpoint(OfflineTransport(), progress=lambda *step: told.append(step))

    assert [name for name, _, _ in told] == [finding.name for finding in report.findings]
    assert [done for _, done, _ in told] == list(range(len(told)))
    assert {of for _, _, of in told} == {len(told)}


def test_answer_that_is_too_late_is_reported_as_not_seen() -> None:
    class Slow(Odd):
        def refuses(self, fields: Fields) -> str:
            if "max_tokens" in fields:
                raise TransportError("It was silent for 60 s.", timed_out=True)
            return ""

    report = check_endpoint(Slow())

    assert verdicts(report)["max_tokens, finish_reason length"] is NOT_SEEN


def test_all_requests_have_a_limit_of_time() -> None:
    class Noting(Odd):
        def __init__(self) -> None:
            super().__init__()
            self.seconds: list[float | None] = []

        @contextmanager
        def send(self, request: Request) -> Iterator[Response]:
            self.seconds.append(request.seconds)
            with super().send(request) as response:
                yield response

    transport = Noting()
    check_endpoint(transport, seconds=7)

    completions = [seconds for seconds in transport.seconds if seconds is not None]
    assert len(completions) > 25
    assert max(completions) <= 4 * 7  # an agent's run of four turns


def test_flood_is_no_answer() -> None:
    class Flood(Odd):
        @contextmanager
        def send(self, request: Request) -> Iterator[Response]:
            yield Response(status=200, pieces=(bytes(1024 * 1024) for _ in range(100)))

    with pytest.raises(TransportError, match="longer than 4194304 bytes"):
        check_endpoint(Flood())


def test_report_as_json_and_code() -> None:
    report = check_endpoint(OfflineTransport())

    told = json.loads(json.dumps(report.as_json()))
    assert (told["holds"], told["works"]) == (False, True)
    assert told["profile"] == {"requires_calls": False}
    assert told["findings"][0].keys() == {"name", "verdict", "detail", "profile", "optional"}
    assert report.profile_code() == "EndpointProfile(requires_calls=False)"
    assert eval(report.profile_code()) == report.profile  # it is Python
    assert DEFAULT_PROFILE.requires_calls


def test_names_of_probes_are_distinct() -> None:
    names = [finding.name for finding in check_endpoint(OfflineTransport()).findings]

    assert len(set(names)) == len(names) > len(ANSWERS)
