"""Probes of answers: whole and streamed, their ends, counts and limits."""

from dataclasses import replace

from pathors_agent.checking.probe import (
    EndpointAnswer,
    Observation,
    Probe,
    ProbeClient,
    fails,
    holds,
    not_needed,
    not_seen,
)
from pathors_agent.checking.report import Verdict
from pathors_agent.messages import AssistantMessage, JSONValue, Message, SystemMessage, UserMessage
from pathors_agent.wire.chat_completions import ModelOptions

HELLO = UserMessage(content="Say hello in one short sentence.")
_AGAIN = UserMessage(content="Say it again, in other words.")
_HELLO_SAID = AssistantMessage(content="Hello, and welcome.")
_COUNT = UserMessage(content="Count from one to two hundred, in words.")

# Too few tokens for two hundred numbers in words, in any tokenizer.
_FEW_TOKENS = 8
# A model that stopped after `_FEW_TOKENS` has written fewer words.
_MANY_WORDS = 3 * _FEW_TOKENS


def hello(asking: ProbeClient, *, streams: bool) -> EndpointAnswer:
    """Ask for a greeting, once in each form."""
    return asking.once(("hello", streams), lambda: asking.ask(HELLO, streams=streams))


def _streamed(asking: ProbeClient) -> Observation:
    answer = hello(asking, streams=True)
    problem = _problem(answer)
    if not problem and not answer.is_stream:
        problem = "a whole answer came: its content type is no text/event-stream"
    if problem:
        can_be_whole = not _problem(hello(asking, streams=False))
        return fails(problem, profile="streams=False" if can_be_whole else "")
    asking.adopt(streams=True)
    return holds(f"{len(answer.chunks)} chunks")


def _plain(asking: ProbeClient) -> Observation:
    answer = hello(asking, streams=False)
    problem = _problem(answer)
    if not problem and answer.is_stream:
        problem = "a stream came, which was not asked for"
    if problem:
        return fails(problem, profile="streams=True" if asking.profile.streams else "")
    return holds()


def _problem(answer: EndpointAnswer) -> str:
    """Return the problem of a greeting, or an empty string."""
    if answer.problem:
        return answer.problem
    message = answer.message
    if message.tool_calls:
        return "a tool was called, and the request had no tools"
    is_cut = message.finish_reason == "length" or message.reasoning
    return "" if message.text.strip() or is_cut else "the answer has no text"


def _done(asking: ProbeClient) -> Observation:
    if not asking.profile.streams:
        return not_seen("it does not stream")
    if hello(asking, streams=True).events[-1:] == ["[DONE]"]:
        return holds()
    return fails("the stream ended without it")


def _finish_reason(asking: ProbeClient) -> Observation:
    answers = [hello(asking, streams=streams) for streams in (True, False)]
    reasons = {answer.message.finish_reason for answer in answers if not answer.problem}
    if reasons == {"length"}:
        return not_seen(f"the answers were cut at {asking.tokens} tokens")
    if reasons <= {"stop", "length"}:
        return holds()
    return fails(f"an answer that was not cut ended with {_listed(reasons - {'stop', 'length'})}")


def _listed(reasons: set[str | None]) -> str:
    return ", ".join(sorted(f"{reason!r}" if reason else "no reason" for reason in reasons))


def _length_limit(asking: ProbeClient) -> Observation:
    answer = _counted(asking, "max_tokens")
    if not answer.problem:
        asking.can_limit = True
        return _was_cut(answer)
    other = _counted(asking, "max_completion_tokens")
    if other.problem:
        return fails(answer.problem)
    asking.can_limit = True
    asking.adopt(max_tokens_field="max_completion_tokens")
    return fails(answer.problem, profile="max_tokens_field='max_completion_tokens'")


def _counted(asking: ProbeClient, name: str) -> EndpointAnswer:
    options = ModelOptions(max_tokens=_FEW_TOKENS)
    return asking.ask(_COUNT, options=options, max_tokens_field=name)


def _was_cut(answer: EndpointAnswer) -> Observation:
    message = answer.message
    if message.finish_reason == "length":
        return holds()
    if len(message.text.split()) > _MANY_WORDS:
        return fails(f"max_tokens={_FEW_TOKENS} was ignored: the answer went on")
    return not_seen("the model's answer was too short to be cut")


def _usage(asking: ProbeClient) -> Observation:
    answer = hello(asking, streams=False)
    if answer.problem:
        return not_needed("there is no whole answer")
    return _counts(answer)._replace(optional=asking.profile.streams)


def _usage_in_stream(asking: ProbeClient) -> Observation:
    if not asking.profile.streams:
        return not_needed("it does not stream")
    answer = asking.ask(HELLO, include_usage=True)
    if answer.problem:
        without = _counts(hello(asking, streams=True))
        seen = fails(answer.problem, profile="include_usage=False")
        return seen if without.verdict is Verdict.HOLDS else _counted_whole(asking, seen)
    asking.adopt(include_usage=True)
    seen = _counts(answer)
    return seen if seen.verdict is Verdict.HOLDS else _counted_whole(asking, seen)


def _counted_whole(asking: ProbeClient, seen: Observation) -> Observation:
    """Adopt whole answers instead of a stream without counts, if those have counts."""
    whole = hello(asking, streams=False)
    if whole.problem or _counts(whole).verdict is not Verdict.HOLDS:
        return fails(f"{seen.detail}; limits of tokens count nothing here")
    asking.adopt(streams=False)
    return seen._replace(profile=", ".join(filter(None, [seen.profile, "streams=False"])))


def _counts(answer: EndpointAnswer) -> Observation:
    usage = answer.message.usage
    if usage is None or not usage.prompt_tokens or not usage.completion_tokens:
        return fails("no counts came")
    counts = f"{usage.prompt_tokens} + {usage.completion_tokens} tokens"
    if usage.total_tokens is not None and usage.total_tokens < (
        usage.prompt_tokens + usage.completion_tokens
    ):
        return fails(f"the counts contradict each other: {counts}, {usage.total_tokens} in total")
    return holds(counts)


def _system_message(asking: ProbeClient) -> Observation:
    system = SystemMessage(content="You are brief.")
    answer = asking.ask(system, HELLO)
    if not answer.problem:
        return holds()
    if asking.ask(system, HELLO, system_role="developer").problem:
        return fails(answer.problem)
    asking.adopt(system_role="developer")
    return fails(answer.problem, profile="system_role='developer'")


def _later_system_message(asking: ProbeClient) -> Observation:
    system = SystemMessage(content="You are brief.")
    answer = asking.ask(HELLO, _HELLO_SAID, system, _AGAIN)
    return fails(answer.problem) if answer.problem else holds()


def _two_user_messages(asking: ProbeClient) -> Observation:
    """Send two user messages in a row, at the start of a history and later."""
    messages: list[Message] = [HELLO, _AGAIN, _HELLO_SAID, HELLO, _AGAIN]
    answer = asking.ask(*messages)
    if not answer.problem:
        return holds()
    if asking.ask(*messages, answers_results=True).problem:
        return fails(answer.problem)
    asking.adopt(answers_results=True)
    return fails(answer.problem, profile="answers_results=True")


def _answer_of_a_type(asking: ProbeClient) -> Observation:
    schema: JSONValue = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    wanted: JSONValue = {"name": "place", "strict": True, "schema": schema}
    options = ModelOptions(response_format={"type": "json_schema", "json_schema": wanted})
    answer = asking.ask(UserMessage(content="What is the capital of Norway?"), options=options)
    if answer.problem:
        return fails(answer.problem)
    if answer.message.finish_reason == "length":
        return not_seen(f"the answer was cut at {asking.tokens} tokens")
    value = replace(answer, body=answer.message.text.encode()).value
    if not isinstance(value, dict) or not isinstance(value.get("city"), str):
        return fails("response_format was ignored: the answer does not fit its schema")
    asking.adopt(structured="response_format")
    return holds()


PROBES = (
    Probe("streamed answer", _streamed),
    Probe("whole answer", _plain),
    Probe("[DONE] ends a stream", _done, optional=True),
    Probe("max_tokens, finish_reason length", _length_limit, optional=True),
    Probe("finish_reason stop", _finish_reason, optional=True),
    Probe("usage of a whole answer", _usage),
    Probe("system message", _system_message),
    Probe("system message later on", _later_system_message),
    Probe("two user messages in a row", _two_user_messages),
)

TYPED = Probe("response_format with a schema", _answer_of_a_type, optional=True)

# After all other probes of streams, because its result may be a reason not to stream.
COUNTED = Probe("usage chunk of a stream", _usage_in_stream)
