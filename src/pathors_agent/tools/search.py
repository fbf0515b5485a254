"""Search tools by what they do, and read from a history which tools were found. Pure."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from math import log
from typing import Any, Protocol

from pathors_agent.messages import AssistantMessage, Message, ToolMessage
from pathors_agent.schema.bounds import cut

SEARCH_TOOL = "search_tools"

# Each found tool costs about 100 tokens in every later request.
MAX_FOUND = 8
MAX_DESCRIPTION = 200

# A name says more than a description, which mentions other tools as well.
_NAME_WEIGHT = 3.0
_PREFIX_WEIGHT = 0.7  # "invoices" finds "invoice"
_PREFIX = 4

# A tool that fits this much worse than the best one shares only a common word with the query.
_LEAST = 0.3


class Described(Protocol):
    """What is searched of a tool."""

    @property
    def name(self) -> str:
        """The name."""

    @property
    def description(self) -> str:
        """The description."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The JSON Schema of the parameters."""


class ToolSearch:
    """The function of the tool by which a model searches the tools that it does not see."""

    def __init__(self, tools: Iterable[Described]) -> None:
        self._tools = list(tools)

    def __call__(self, query: str) -> str:
        """Search for tools.

        Args:
            query: What the tool should do, in a few words, or its name.
        """
        found = self.find(query)
        if not found:
            return "No tool matches these words. Describe in other words what it should do."
        lines = [f"{tool.name}: {_one_line(tool.description)}" for tool in found]
        return "\n".join(["Found; you can call them now:", *lines])

    def find(self, query: str) -> list[Described]:
        """Return the tools that fit best, the best one first."""
        scores: defaultdict[int, float] = defaultdict(float)
        for word in dict.fromkeys(_words(query)):
            for place, weight in self._matches(word).items():
                scores[place] += weight
        least = _LEAST * max(scores.values(), default=0.0)
        ranked = sorted(scores, key=lambda place: (-scores[place], place))
        return [self._tools[place] for place in ranked[:MAX_FOUND] if scores[place] >= least]

    def _matches(self, word: str) -> dict[int, float]:
        """Return the weight of a word for each tool, by the tool's place."""
        weights: dict[int, float] = {}
        for known, places in self._index.items():
            if closeness := _closeness(word, known):
                rarity = log(1 + len(self._tools) / len(places))
                for place, weight in places.items():
                    weights[place] = max(weights.get(place, 0.0), weight * closeness * rarity)
        return weights

    @cached_property
    def _index(self) -> Mapping[str, Mapping[int, float]]:
        """The weights of the tools that have a word, by word."""
        index: dict[str, dict[int, float]] = {}
        for place, tool in enumerate(self._tools):
            for word in _words(_texts(tool)):
                index.setdefault(word, {})[place] = 1.0
            for word in _words(tool.name):
                index.setdefault(word, {})[place] = _NAME_WEIGHT
        return index


def found_tools(messages: Sequence[Message], deferred: Collection[str]) -> list[str]:
    """Return the deferred tools that a history has found or called, in that order."""
    found: dict[str, None] = {}
    searches: set[str] = set()
    for message in messages:
        match message:
            case AssistantMessage(tool_calls=calls) if calls:
                found |= {call.name: None for call in calls if call.name in deferred}
                searches |= {call.id for call in calls if call.name == SEARCH_TOOL}
            case ToolMessage(tool_call_id=call_id) if call_id in searches:
                names = (line.partition(":")[0] for line in message.text.split("\n"))
                found |= {name: None for name in names if name in deferred}
            case _:
                pass
    return list(found)


def _one_line(text: str) -> str:
    return cut(" ".join(text.split()), MAX_DESCRIPTION)


def _texts(tool: Described) -> str:
    properties: Any = tool.parameters.get("properties")
    names = properties if isinstance(properties, Mapping) else ()
    return " ".join([tool.description, *map(str, names)])


# The words of names (getInvoice, get_invoice, HTTPServer) and of texts; Chinese, Japanese and Korean
# do not separate words, so that two characters count as one. Compiled by the first search: each agent
# imports this module, and few search.
_WORD = r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+|[^\W_]+"
_UNSEPARATED = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"


def _words(text: str) -> Iterator[str]:
    for word in re.findall(_WORD, text):
        if len(word) > 1 and re.fullmatch(_UNSEPARATED, word):
            yield from (word[start : start + 2] for start in range(len(word) - 1))
        else:
            yield word.lower()


def _closeness(word: str, known: str) -> float:
    if word == known:
        return 1.0
    shorter, longer = sorted((word, known), key=len)
    return _PREFIX_WEIGHT if len(shorter) >= _PREFIX and longer.startswith(shorter) else 0.0
