"""The check of endpoints, on small endpoints over loopback that are right but for one defect."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from pathors_agent.agents.agent import Agent
from pathors_agent.checking import Report, check_endpoint
from pathors_agent.core.conversation import Conversation
from pathors_agent.core.run import Status
from pathors_agent.messages import ContentPart, UserMessage
from pathors_agent.offline import OfflineTransport
from pathors_agent.tools.tool import tool
from pathors_agent.transports.base import Request
from pathors_agent.transports.http import HTTPTransport
from servers import CLOSE, Received, ScriptedServer, Step, answer

Fields = dict[str, Any]

FORCED = "What is the weather in Oslo? Use the tool get_weather."


@dataclass(frozen=True)
class Defect:
    """What an endpoint does wrong: it changes or refuses requests, or changes its answers.

    `closes` picks the requests on which it closes the connection. `calls` changes the calls of a
    stream, and `events` its events.
    """

    request: Callable[[Fields], None] = lambda _: None
    refuses: Callable[[Fields], bool] = lambda _: False
    closes: Callable[[Fields], bool] = lambda _: False
    message: Callable[[Fields], None] = lambda _: None
    completion: Callable[[Fields], None] = lambda _: None
    calls: Callable[[list[Fields]], list[Fields]] = lambda calls: calls
    events: Callable[[list[Fields]], list[Fields]] = lambda events: events


class Endpoint(ScriptedServer):
    """The offline model over HTTP; it obeys `tool_choice`, and has one defect."""

    def __init__(self, defect: Defect) -> None:
        super().__init__()
        self._defect = defect
        self._model = OfflineTransport()

    def script_for(self, request: Received) -> Sequence[Step]:
        try:
            fields = json.loads(request.body)
            is_bad = not isinstance(fields["messages"], list) or self._defect.refuses(fields)
        except ValueError:
            is_bad = True
        if is_bad:
            error = json.dumps({"error": {"message": "I do not take that"}}).encode()
            return [answer(error, "400 Bad Request", Content_Type="application/json")]
        if self._defect.closes(fields):
            return [CLOSE]
        completion = self._complete(fields)
        if not fields["stream"]:
            return [answer(json.dumps(completion).encode(), Content_Type="application/json")]
        lines = [json.dumps(event) for event in self._events(fields, completion)]
        body = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"])
        return [answer(body.encode(), Content_Type="text/event-stream")]

    def _complete(self, fields: Fields) -> Fields:
        self._defect.request(fields)
        asked: Fields = {**fields, "stream": False}
        if asked.get("tool_choice") == "required":
            asked["messages"] = [{"role": "user", "content": FORCED}]
        with self._model.send(Request(body=json.dumps(asked).encode())) as response:
            completion: Fields = json.loads(b"".join(response.pieces))
        self._defect.message(completion["choices"][0]["message"])
        self._defect.completion(completion)
        return completion

    def _events(self, fields: Fields, completion: Fields) -> list[Fields]:
        [choice] = completion["choices"]
        whole = choice["message"].get("tool_calls") or []
        calls = [{"index": index, **call} for index, call in enumerate(whole)]
        deltas = [{"role": "assistant", "content": choice["message"].get("content")}]
        deltas += [{"tool_calls": [call]} for call in self._defect.calls(calls)]
        events = [chunk(delta) for delta in deltas]
        events.append(chunk({}, finish_reason=choice["finish_reason"]))
        if fields.get("stream_options") and "usage" in completion:
            events.append({"choices": [], "usage": completion["usage"]})
        return self._defect.events(events)


def chunk(delta: Fields, **fields: Any) -> Fields:
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, **fields}]}


@pytest.fixture
def serve() -> Iterator[Callable[[Defect], str]]:
    running = []

    def start(defect: Defect) -> str:
        running.append(Endpoint(defect))
        return running[-1].url

    yield start
    for endpoint in running:
        endpoint.stop()


def checked(url: str) -> Report:
    with HTTPTransport(url, api_key="", retries=0) as transport:
        return check_endpoint(transport, model="m")


# - changes of requests and answers -


def without_results(fields: Fields) -> None:
    fields["messages"] = [m for m in fields["messages"] if m["role"] in ("system", "user")]


def only_text(text: str) -> Callable[[Fields], None]:
    def change(completion: Fields) -> None:
        message = {"role": "assistant", "content": text}
        completion["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]

    return change


def calls_as_text(completion: Fields) -> None:
    if calls := completion["choices"][0]["message"].get("tool_calls"):
        only_text(f"<tool_call>{json.dumps(calls[0]['function'])}</tool_call>")(completion)


def only_call(name: str) -> Callable[[Fields], None]:
    def change(message: Fields) -> None:
        for call in message.get("tool_calls") or ():
            call["function"] = {"name": name, "arguments": '{"city":"Oslo"}'}

    return change


def first_call(message: Fields) -> None:
    message["tool_calls"] = (message.get("tool_calls") or [])[:1] or None


def canned_call(completion: Fields) -> None:
    function = {"name": "get_weather", "arguments": '{"city":"Oslo"}'}
    call = {"id": "call_1", "type": "function", "function": function}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    completion["choices"] = [{"index": 0, "message": message, "finish_reason": "tool_calls"}]


def counting(**usage: int) -> Callable[[Fields], None]:
    return lambda completion: completion.update(usage=usage)


def at_one_index(calls: list[Fields]) -> list[Fields]:
    return [{**call, "index": 0} for call in calls]


def merged(calls: list[Fields]) -> list[Fields]:
    """Send all pieces as those of the first call."""
    pieces = [{"index": 0, "function": {"arguments": c["function"]["arguments"]}} for c in calls]
    return [*calls[:1], *pieces[1:]]


def without_ends(calls: list[Fields]) -> list[Fields]:
    for call in calls:
        call["function"] = {**call["function"], "arguments": call["function"]["arguments"][:-1]}
    return calls


# - refusals -


def roles(fields: Fields) -> list[str]:
    return [message["role"] for message in fields["messages"]]


def arguments(fields: Fields) -> list[str]:
    calls = [c for m in fields["messages"] for c in m.get("tool_calls") or ()]
    return [call["function"]["arguments"] for call in calls]


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def results(fields: Fields) -> list[Any]:
    return [m["content"] for m in fields["messages"] if m["role"] == "tool"]


def image_results(fields: Fields) -> bool:
    lists = [content for content in results(fields) if isinstance(content, list)]
    return any(part["type"] != "text" for content in lists for part in content)


# - the table -

# Agents may work there, and it is not seen: the rule that stays open.
UNSEEN = {
    "takes tools and ignores them": (
        Defect(request=lambda fields: fields.pop("tools", None)),
        "tool call in a stream",
    ),
    "answers everything with one text": (
        Defect(completion=only_text("I am a language model.")),
        "tool call in a stream",
    ),
    "leaves calls in the text": (Defect(completion=calls_as_text), "tool call in a stream"),
    "calls one tool at a time": (Defect(message=first_call), "several calls in one answer"),
    "calls one tool only": (Defect(message=only_call("get_weather")), "call without arguments"),
    "calls a tool that was not given": (
        Defect(message=only_call("get_tide")),
        "tool call in a stream",
    ),
    "drops results": (Defect(request=without_results), "a whole agent, with this profile"),
}

# Agents miss something there, and no profile helps.
MISSING = {
    "calls a tool whatever is asked": (Defect(completion=canned_call), "streamed answer"),
    "has no texts": (Defect(completion=only_text("")), "streamed answer"),
    "never counts": (
        Defect(completion=lambda completion: completion.pop("usage")),
        "usage chunk of a stream",
    ),
    "counts nothing": (
        Defect(completion=counting(prompt_tokens=0, completion_tokens=0, total_tokens=0)),
        "usage chunk of a stream",
    ),
    "counts wrongly": (
        Defect(completion=counting(prompt_tokens=5, completion_tokens=3, total_tokens=3)),
        "usage chunk of a stream",
    ),
    "refuses later system messages": (
        Defect(refuses=lambda fields: "system" in roles(fields)[1:]),
        "system message later on",
    ),
    "refuses several calls in a history": (
        Defect(refuses=lambda fields: ("tool", "tool") in pairwise(roles(fields))),
        "results of several calls",
    ),
    "refuses results": (
        Defect(refuses=lambda fields: "tool" in roles(fields)),
        "tool result in the history",
    ),
}

# The profile that is found makes up for it: the rule, and the settings.
MENDED = {
    "drops tool_choice": (
        Defect(request=lambda fields: fields.pop("tool_choice", None)),
        *("tool_choice required", "requires_calls=False"),
    ),
    "streams nothing": (Defect(events=lambda _: []), *("streamed answer", "streams=False")),
    "streams no text": (
        Defect(events=lambda events: events[1:]),
        *("streamed answer", "streams=False"),
    ),
    "counts whole answers only": (
        Defect(events=lambda events: [event for event in events if event["choices"]]),
        *("usage chunk of a stream", "streams=False"),
    ),
    "counts whole answers, and refuses to count streams": (
        Defect(refuses=lambda fields: "stream_options" in fields),
        *("usage chunk of a stream", "include_usage=False, streams=False"),
    ),
    "refuses tools in a stream": (
        Defect(refuses=lambda fields: fields["stream"] and "tools" in fields),
        *("tool call in a stream", "streams=False"),
    ),
    "streams no calls": (Defect(calls=lambda _: []), *("tool call in a stream", "streams=False")),
    "cuts the calls of a stream": (
        Defect(calls=without_ends),
        *("tool call in a stream", "streams=False"),
    ),
    "streams the last call only": (
        Defect(calls=lambda calls: calls[-1:]),
        *("several calls in one answer", "streams=False"),
    ),
    "has one index for all calls": (
        Defect(calls=at_one_index),
        *("an index for each call of a stream", "any profile"),
    ),
    "refuses a history with cut arguments": (
        Defect(refuses=lambda fields: not all(map(is_json, arguments(fields)))),
        *("call with broken arguments in the history", "any profile"),
    ),
    "refuses a history with arguments that are a list": (
        Defect(refuses=lambda fields: any(text.startswith("[") for text in arguments(fields))),
        *("call with broken arguments in the history", "any profile"),
    ),
    "refuses images in results": (
        Defect(refuses=image_results),
        *("image in a tool result", "result_media='user_message'"),
    ),
    "closes the connection on images in results": (
        Defect(closes=image_results),
        *("image in a tool result", "result_media='user_message'"),
    ),
    "closes the connection on two user messages in a row": (
        Defect(closes=lambda fields: ("user", "user") in pairwise(roles(fields))),
        *("two user messages in a row", "answers_results=True"),
    ),
    "closes the connection instead of streaming": (
        Defect(closes=lambda fields: fields["stream"]),
        *("streamed answer", "streams=False"),
    ),
    "refuses parts in results": (
        Defect(refuses=lambda fields: any(isinstance(each, list) for each in results(fields))),
        *("parts in a tool result", "result_media='left_out'"),
    ),
    "refuses two user messages in a row": (
        Defect(refuses=lambda fields: ("user", "user") in pairwise(roles(fields))),
        *("two user messages in a row", "answers_results=True"),
    ),
}


def open_rules(report: Report) -> list[str]:
    return [finding.name for finding in report.findings if finding.is_open]


def broken_rules(report: Report) -> list[str]:
    return [finding.name for finding in report.findings if finding.breaks]


def test_endpoint_without_a_defect_holds(serve: Callable[[Defect], str]) -> None:
    report = checked(serve(Defect()))

    assert (report.holds, report.works) == (True, True)
    assert report.profile_changes() == {}


@pytest.mark.parametrize("does", UNSEEN)
def test_unseen_rule_does_not_hold(does: str, serve: Callable[[Defect], str]) -> None:
    defect, rule = UNSEEN[does]

    report = checked(serve(defect))

    assert (report.holds, report.works) == (False, False)
    assert rule in open_rules(report)
    assert broken_rules(report) == []


@pytest.mark.parametrize("does", MISSING)
def test_rule_that_no_profile_helps_is_missing(does: str, serve: Callable[[Defect], str]) -> None:
    defect, rule = MISSING[does]

    report = checked(serve(defect))

    assert (report.holds, report.works) == (False, False)
    assert rule in broken_rules(report)


@pytest.mark.parametrize("does", MENDED)
def test_profile_makes_up_for_it(does: str, serve: Callable[[Defect], str]) -> None:
    defect, rule, settings = MENDED[does]

    report = checked(serve(defect))

    assert (report.holds, report.works) == (False, True)
    [finding] = [finding for finding in report.findings if finding.name == rule]
    assert finding.is_mended
    assert finding.profile == settings
    if settings != "any profile":
        found = [f"{name}={getattr(report.profile, name)!r}" for name in settings_of(settings)]
        assert ", ".join(found) == settings


def settings_of(settings: str) -> list[str]:
    return [setting.partition("=")[0] for setting in settings.split(", ")]


@tool
def get_weather(city: str) -> tuple[ContentPart, ...]:
    """Get the weather in a city."""
    texts = [ContentPart(type="text", text=text) for text in (city, "21 degrees")]
    url = "data:image/png;base64,iVBORw0KGgo="
    return (*texts, ContentPart.model_validate({"type": "image_url", "image_url": {"url": url}}))


@pytest.mark.parametrize("does", MENDED)
def test_agents_work_with_the_profile_that_was_found(
    does: str, serve: Callable[[Defect], str]
) -> None:
    url = serve(MENDED[does][0])
    profile = checked(url).profile
    conversation = Conversation()

    with HTTPTransport(url, api_key="", retries=0, profile=profile) as transport:
        agent = Agent(transport, tools=[get_weather])
        first = agent.run("What is the weather in Oslo and in Rome?", conversation=conversation)
        conversation.append(UserMessage(content="Thank you."))
        second = agent.run("Say hello.", conversation=conversation)

    assert (first.status, second.status) == (Status.FINISHED, Status.FINISHED)
    assert len([m for m in first.messages if m.role == "tool"]) == 2
    assert first.usage.prompt_tokens
