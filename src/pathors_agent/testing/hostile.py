"""A hostile model: its answers are drawn from a seed, and print as a script that repeats them."""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pathors_agent.errors import TransportError
from pathors_agent.messages import JSONValue
from pathors_agent.schema.arguments import closest
from pathors_agent.testing.arguments import (
    Draws,
    SeededDraws,
    cut_arguments,
    mistaken_arguments,
    probable_arguments,
)
from pathors_agent.testing.history_rules import check_request
from pathors_agent.testing.script import (
    Answer,
    Call,
    Entry,
    Reply,
    answer,
    http_error,
    raw,
    text_code,
)
from pathors_agent.testing.scripted_transport import (
    AsyncPlayerTransport,
    AsyncScriptedTransport,
    Player,
    PlayerTransport,
    ScriptedTransport,
)
from pathors_agent.wire.profiles import DEFAULT_PROFILE, EndpointProfile

THEN = "Enough."
"""The answer of a hostile model after the end of its script."""


@dataclass(frozen=True, repr=False)
class HostileScript:
    """The answers of a hostile model, in order; every further request gets "Enough.".

    Its repr is the code of a `ScriptedTransport` with the same answers.
    """

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        if isinstance(self.entries, str):
            raise TypeError(f"HostileScript takes a tuple of entries: write ({self.entries!r},)")

    def transport(
        self, *, cut: int | None = None, profile: EndpointProfile = DEFAULT_PROFILE
    ) -> ScriptedTransport:
        """Return a transport that plays the script, for blocking code."""
        return ScriptedTransport(*self.entries, then=THEN, cut=cut, profile=profile)

    def async_transport(
        self, *, cut: int | None = None, profile: EndpointProfile = DEFAULT_PROFILE
    ) -> AsyncScriptedTransport:
        """Return a transport that plays the script, for asyncio and trio."""
        return AsyncScriptedTransport(*self.entries, then=THEN, cut=cut, profile=profile)

    def __repr__(self) -> str:
        lines = [f"    {_code(entry)},\n" for entry in self.entries]
        return "ScriptedTransport(\n" + "".join(lines) + f"    then={THEN!r},\n)"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: FBT001  (Hypothesis calls it)
        """Print the code; Hypothesis and IPython would print the fields of the dataclass."""
        for number, line in enumerate(repr(self).splitlines()):
            if number:
                printer.break_()
            printer.text(line)


def _code(entry: Entry) -> str:
    return text_code(entry) if isinstance(entry, str) else repr(entry)


Fault = Literal[
    "mistaken_arguments",
    "wrong_name",
    "repeated_id",
    "cut_answer",
    "flood",
    "broken_stream",
    "error_in_stream",
    "refusal",
    "no_format",
]
"""A fault of a hostile model.

- `mistaken_arguments`: not JSON, not an object, or missing, unknown or repeated names, or wrong types.
- `wrong_name`: a call of a tool that does not exist.
- `repeated_id`: calls with the same id, with the id of an earlier call, or without an id.
- `cut_answer`: the answer ends at its length limit or by a filter, possibly within a call.
- `flood`: hundreds of calls, or a very long text.
- `broken_stream`: the connection breaks, or ends as if the answer were complete.
- `error_in_stream`: an error arrives after the first pieces.
- `refusal`: an error status, or no connection.
- `no_format`: a body that is not a completion.
"""

ALL_FAULTS: tuple[Fault, ...] = get_args(Fault)

# More calls and text than an answer may have, or an agent should read.
MANY_CALLS = (30, 300)
LONG_TEXT = 100_000
MOST_CALLS = 4
# Chosen as often as each fault. Hypothesis shrinks by removing five choices at a time, so the
# frequent case of a single call must need few choices.
_GOOD = ("text", "call", "call", "answer")
MOST_EVENTS = 12
MOST_BYTES = 600

TEXTS = ("Done.", "", "Well, naïvely 🙂 …", '{"answer": 42}')
_OF_CALLS = ("mistaken_arguments", "wrong_name", "repeated_id")
_FINISH_REASONS = ("stop", "tool_calls", "eos", "")
NO_CONNECTION = "no connection"
_REFUSALS: tuple[Reply | str, ...] = (
    http_error(500, "something went wrong", type="server_error"),
    http_error(429, "slow down", type="rate_limit_error", retry_after=1),
    http_error(400, "the request is too long", code="context_length_exceeded"),
    http_error(401, "wrong key"),
    raw(b"<html>Bad Gateway</html>", status=502),
    NO_CONNECTION,
)
_NO_FORMATS = (
    raw(b""),
    raw(b"{}"),
    raw(b"data: {not json\n\n"),
    raw(b"data: [DONE]\n\n"),
    raw(b'data: {"choices":[]}\n\ndata: [DONE]\n\n'),
    raw(b'data: {"choices":[{"index":0,"delta":{"content":"half'),
    raw(b'data: {"choices":[{"index":0,"delta":{"tool_calls":7}}]}\n\n'),
    raw(b"<html>Welcome</html>"),
    raw(b"\xff\xfe\x00"),
    raw(b"\n\n\n"),
)


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """A tool as a request offers it to the model."""

    name: str
    parameters: Any


def offered_tools(definitions: Iterable[Any]) -> tuple[ToolOffer, ...]:
    """Read the tools of a request; skip invalid ones."""
    functions = [item.get("function") for item in definitions if isinstance(item, Mapping)]
    return tuple(
        ToolOffer(function["name"], function.get("parameters"))
        for function in functions
        if isinstance(function, Mapping) and isinstance(function.get("name"), str)
    )


def checked_faults(faults: Collection[str] | None) -> frozenset[str]:
    """Return the named faults, or all of them for None; raise for anything else."""
    if isinstance(faults, str):
        raise TypeError(f"faults takes a list of names, not one name: write [{faults!r}]")
    if faults is not None and not isinstance(faults, Iterable):
        raise TypeError(f"faults takes a list of names, not {faults!r}")
    chosen = frozenset(ALL_FAULTS if faults is None else faults)
    if unknown := sorted(map(str, chosen - set(ALL_FAULTS))):
        meant = closest(unknown[0], ALL_FAULTS)
        hint = f" Did you mean {meant}?" if meant else ""
        raise ValueError(
            f"no fault is called {', '.join(unknown)}.{hint} There are {', '.join(ALL_FAULTS)}."
        )
    return chosen


def hostile_turn(
    tools: tuple[ToolOffer, ...], draws: Draws, faults: Collection[str] = ALL_FAULTS
) -> Entry:
    """Return one answer, with or without faults."""
    kind = draws.choice([*_GOOD, *sorted(faults)])
    match kind:
        case "text":
            return draws.choice(TEXTS)
        case "refusal":
            refusal = draws.choice(_REFUSALS)
            # A new exception each time, because raising changes its traceback.
            return TransportError(refusal) if isinstance(refusal, str) else refusal
        case "no_format":
            return draws.choice(_NO_FORMATS)
        case _:
            return _HostileTurn(tools, draws, kind).entry()


class _HostileTurn:
    """Builds one answer, with at most one fault."""

    def __init__(self, tools: tuple[ToolOffer, ...], draws: Draws, kind: str) -> None:
        self._tools = tools
        self._draws = draws
        self._kind = kind

    def entry(self) -> Entry:
        match self._kind:
            case "call":
                return answer(calls=[self._call(self._draws)])
            case "flood":
                return self._flood()
            case "broken_stream":
                return self._stopped(self._answer())
            case "error_in_stream":
                return self._answer().failed_after(events=self._draws.integer(0, MOST_EVENTS))
            case _:
                return self._answer()

    def _answer(self) -> Answer:
        calls = self._draws.several(self._call, self._kind in _OF_CALLS, MOST_CALLS)
        ids = self._ids(len(calls)) if self._kind == "repeated_id" else []
        text = self._draws.choice([None, *TEXTS]) if calls else self._draws.choice(TEXTS)
        if self._kind == "cut_answer":
            return self._cut(text, calls, ids)
        return answer(text, calls=calls, ids=ids, finish_reason=self._finish_reason(calls))

    def _finish_reason(self, calls: list[Call]) -> str | None:
        usual = "tool_calls" if calls else "stop"
        return self._draws.choice([usual, usual, usual, *_FINISH_REASONS]) or None

    def _call(self, draws: Draws) -> Call:
        if self._kind == "wrong_name" or not self._tools:
            return self._misnamed(), {}
        tool = draws.choice(self._tools)
        return tool.name, self._arguments(tool)

    def _arguments(self, tool: ToolOffer) -> Mapping[str, JSONValue] | str:
        if self._kind == "mistaken_arguments":
            return mistaken_arguments(tool.parameters, self._draws)
        return probable_arguments(tool.parameters, self._draws)

    def _misnamed(self) -> str:
        near = [f"functions.{tool.name}" for tool in self._tools]
        near += [tool.name[:-1] for tool in self._tools]
        return self._draws.choice(["no_such_tool", *near, "", "no such tool!", "x" * 100])

    def _ids(self, count: int) -> list[str]:
        # Counted ids may repeat the ids of earlier answers.
        return [self._draws.choice(["call_1", "", "call_1", "call_2"]) for _ in range(count)]

    def _cut(self, text: str | None, calls: list[Call], ids: list[str]) -> Answer:
        reason = self._draws.choice(["length", "content_filter"])
        if self._draws.choice([True, False]) and calls:
            name = calls[-1][0]
            tool = next((tool for tool in self._tools if tool.name == name), None)
            parameters = tool.parameters if tool else {}
            calls = [*calls[:-1], (name, cut_arguments(parameters, self._draws))]
        return answer(text, calls=calls, ids=ids, finish_reason=reason)

    def _flood(self) -> Answer:
        if not self._tools or not self._draws.choice([True, False]):
            return answer("a" * LONG_TEXT, chunk_size=LONG_TEXT // 100)
        tool = self._draws.choice(self._tools)
        call = (tool.name, probable_arguments(tool.parameters, self._draws))
        return answer(calls=[call] * self._draws.choice(MANY_CALLS))

    def _stopped(self, made: Reply) -> Reply:
        unit, most = self._draws.choice([("events", MOST_EVENTS), ("bytes", MOST_BYTES)])
        stop = self._draws.choice([made.broken_after, made.ended_after])
        return stop(**{unit: self._draws.integer(0, most)})


class _Hostility(Player):
    """Draws answers from a seed for the tools that a request offers, and records them."""

    def __init__(
        self,
        seed: int,
        *,
        faults: Collection[Fault] | None = None,
        cut: int | None = None,
        profile: EndpointProfile = DEFAULT_PROFILE,
    ) -> None:
        if not isinstance(seed, int):
            raise TypeError(f"seed must be an integer, not {seed!r}")
        super().__init__(cut=cut, profile=profile)
        self.seed = seed
        self._faults = checked_faults(faults)
        self._draws = SeededDraws(seed)
        self._entries: list[Entry] = []

    @property
    def script(self) -> HostileScript:
        """The answers so far; the repr is code to paste into a test."""
        return HostileScript(tuple(self._entries))

    def _entry(self, number: int, body: Mapping[str, Any]) -> Entry:
        check_request(body, self.profile)
        tools = offered_tools(body.get("tools") or ())
        entry = hostile_turn(tools, self._draws, sorted(self._faults))
        self._entries.append(entry)
        return entry

    def _end(self, error: BaseException | None) -> None:
        if error is not None:
            with suppress(Exception):  # a note must not replace the error that it explains
                error.add_note(f"The model of seed {self.seed} answered:\n{self.script!r}")


class HostileTransport(_Hostility, PlayerTransport):
    """A transport whose model makes every kind of fault, drawn from a seed.

    It calls the tools that a request offers. `faults` limits the kinds of faults; by default all
    occur. The same seed gives the same answers to the same requests. Raises AssertionError for a
    request that real endpoints would refuse. As a context manager, it adds the script that led to an
    error, as code, to the notes of that error.
    """


class AsyncHostileTransport(_Hostility, AsyncPlayerTransport):
    """`HostileTransport` for `AsyncAgent`."""
