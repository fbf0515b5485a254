"""Decide which tools a prompt asks for, and with which arguments: rules, no language model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pathors_agent.messages import JSONValue
from pathors_agent.offline.arguments import Arguments, fill
from pathors_agent.offline.arithmetic import find_expression
from pathors_agent.offline.request import Function
from pathors_agent.offline.schemas import Parameter, parameters
from pathors_agent.offline.sentence import Sentence
from pathors_agent.offline.words import plain, readable, stems, words

# A word of a tool's name says more than one of its description; a single word of a description
# says too little.
_NAME_WEIGHT = 3
_DESCRIPTION_WEIGHT = 1
_CHOICE_WEIGHT = 2
_EXPRESSION_WEIGHT = 4
_ENOUGH = 2

# Rules for a sentence or two: of a longer prompt only the beginning is read, and what one call
# needs is looked for in a few neighbouring parts.
_READ_CHARACTERS = 2_000
_JOINED_PARTS = 6

_PART_END = re.compile(r"\s+(?:and|then|also|plus also)\s+|,(?!\d{3}\b)\s*|[;?!\n]+\s*|\.(?:\s+|$)")
_QUOTED = re.compile(r"\"[^\"]*\"|(?<!\w)'[^']*'(?!\w)")


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """A tool to call and its arguments."""

    name: str
    arguments: Arguments


@dataclass(frozen=True, slots=True)
class Plan:
    """The calls a prompt asks for, and in words what could not be placed."""

    calls: list[PlannedCall] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class KnownTool:
    """A tool with its words counted and its parameters read."""

    name: str
    name_stems: frozenset[str]
    description_stems: frozenset[str]
    parameters: tuple[Parameter, ...]

    def missing(self, arguments: Arguments) -> list[str]:
        """Name the required arguments that are not there."""
        return [p.name for p in self.parameters if p.required and p.name not in arguments]


class Planner:
    """Reads one prompt part by part: a part may call a tool, or repeat the call before it."""

    def __init__(
        self,
        functions: Sequence[Function],
        *,
        previous: PlannedCall | None = None,
        last_number: str | None = None,
    ) -> None:
        self._tools = [_known(function) for function in functions]
        self._previous = previous
        self._last_number = last_number
        self._plan = Plan()

    def plan(self, prompt: str) -> Plan:
        """Give the calls the prompt asks for."""
        text = plain(prompt[:_READ_CHARACTERS])
        parts = _parts(text)
        place = 0
        while place < len(parts):
            place = self._read_part(text, parts, place)
        return self._plan

    def _read_part(self, text: str, parts: list[tuple[int, int]], place: int) -> int:
        """Place one part, with those after it where it needs them; give the next place."""
        start, end = parts[place]
        for last in range(place, min(place + _JOINED_PARTS, len(parts))):
            call = self._call(text[start : parts[last][1]], named_by=text[start:end])
            if call is not None:
                call, next_place = self._extended(call, text, parts, place, last + 1)
                self._keep(call)
                return next_place
        repeated = self._repeat(text[start:end])
        if repeated is not None:
            self._keep(repeated)
        else:
            self._note_problem(text[start:end])
        return place + 1

    def _extended(
        self,
        call: PlannedCall,
        text: str,
        parts: list[tuple[int, int]],
        place: int,
        next_place: int,
    ) -> tuple[PlannedCall, int]:
        """Add what the next parts give beside: one more argument, or more items of a list."""
        start, end = parts[place]
        while next_place < min(place + _JOINED_PARTS, len(parts)):
            next_start, next_end = parts[next_place]
            more = self._call(text[start:next_end], named_by=text[start:end])
            if more is None or self._fitting(text[next_start:next_end]) or not _adds(more, call):
                break
            call, next_place = more, next_place + 1
        return call, next_place

    def _keep(self, call: PlannedCall) -> None:
        if call not in self._plan.calls:
            self._plan.calls.append(call)
        self._previous = call

    def _call(self, text: str, *, named_by: str) -> PlannedCall | None:
        """Find the tool a part names, and its arguments, if the text gives all of them."""
        for tool in self._fitting(named_by, text):
            arguments = fill(tool.parameters, self._sentence(text, tool))
            if not tool.missing(arguments):
                return PlannedCall(tool.name, arguments)
        return None

    def _fitting(self, text: str, with_next: str | None = None) -> list[KnownTool]:
        """List the tools a text names, the best first; a sum may go on in the parts after it."""
        sums = with_next if with_next is not None and re.search(r"\d", text) else text
        scored = [(self._score(tool, text, sums), tool) for tool in self._tools]
        scored.sort(key=lambda each: -each[0])
        return [tool for score, tool in scored if score >= _ENOUGH]

    def _score(self, tool: KnownTool, text: str, sums: str) -> int:
        said = stems(text)
        score = _NAME_WEIGHT * len(said & tool.name_stems)
        score += _DESCRIPTION_WEIGHT * len(said & (tool.description_stems - tool.name_stems))
        for parameter in tool.parameters:
            if parameter.kind == "choice":
                score += _CHOICE_WEIGHT * (fill([parameter], Sentence(text)) != {})
            elif parameter.kind == "expression":
                found = find_expression(sums, last_number=self._last_number)
                score += _EXPRESSION_WEIGHT * (found is not None)
        return score

    def _repeat(self, text: str) -> PlannedCall | None:
        """Repeat the call before this part with other arguments, if the part holds nothing else."""
        previous = self._previous
        tool = next((t for t in self._tools if previous and t.name == previous.name), None)
        if previous is None or tool is None:
            return None
        sentence = self._sentence(text, tool)
        given = fill([p for p in tool.parameters if p.kind != "topic"], sentence)
        if not given or sentence.unused_words():
            return None
        return PlannedCall(tool.name, {**previous.arguments, **given})

    def _sentence(self, text: str, tool: KnownTool) -> Sentence:
        return Sentence(text, tool_stems=tool.name_stems, last_number=self._last_number)

    def _note_problem(self, text: str) -> None:
        """Say what is missing for a tool that a part names, or that none fits a part."""
        if not words(text) and not re.search(r"\d", text):
            return
        for tool in self._fitting(text):
            arguments = fill(tool.parameters, self._sentence(text, tool))
            names = " and ".join(readable(name) for name in tool.missing(arguments))
            self._plan.problems.append(f"For {tool.name} I need: {names}.")
            return
        self._plan.problems.append(f'I have no tool for "{text.strip()}".')


def _adds(more: PlannedCall, call: PlannedCall) -> bool:
    """Tell whether a call holds all that another holds, and more."""
    return more != call and all(
        _begins(more.arguments.get(name), value) for name, value in call.arguments.items()
    )


def _begins(longer: JSONValue, value: JSONValue) -> bool:
    if isinstance(longer, list) and isinstance(value, list):
        return longer[: len(value)] == value
    return longer == value


def _known(function: Function) -> KnownTool:
    description = (function.description or "").strip().split("\n\n")[0]
    return KnownTool(
        function.name,
        frozenset(stems(function.name)),
        frozenset(stems(description)),
        parameters(function.parameters),
    )


def _parts(text: str) -> list[tuple[int, int]]:
    """Cut a prompt where another wish may begin, but not inside quotations."""
    quoted = [match.span() for match in _QUOTED.finditer(text)]
    cuts = [
        match.span()
        for match in _PART_END.finditer(text)
        if not any(start < match.start() < end for start, end in quoted)
    ]
    starts = [0, *(end for _, end in cuts)]
    ends = [*(start for start, _ in cuts), len(text)]
    return [(a, b) for a, b in zip(starts, ends, strict=True) if text[a:b].strip()]
