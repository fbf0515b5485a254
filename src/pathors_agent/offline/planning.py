"""Find the tools that a prompt asks for, and their arguments, by rules."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pathors_agent.messages import JSONValue

# A word of a tool's name counts more than a word of its description.
_NAME_WEIGHT, _DESCRIPTION_WEIGHT, _VALUE_WEIGHT, _ENOUGH = 3, 1, 3, 2

# Only the beginning of a long prompt is read, and a call is looked for in a few neighbouring parts.
_READ_CHARACTERS = 2_000
_JOINED_PARTS = 4

_STOP_WORDS = frozenset(
    """a about after all also am an and any are as at be but by can could do does each for from get
    give has have hello help hey hi how i if in into is it its just know let like look many may me
    more much my need not now of off on one or our out please right same say she should show so some
    tell than thank thanks that the their them then there these they this those to up use want was
    we what whats when where which who will with would you your""".split()  # noqa: SIM905
)
_LEADS = "of|for|in|at|near|to|into|from|about|on|with|named|called"

# Names of one unit; a prompt may use any where a tool's enum has another.
_UNITS = [
    row.split()
    for row in """cm centimeter centimetre|m meter metre|km kilometer kilometre|inch inches|foot feet ft
    yard yd|mile mi|g gram|kg kilogram kilo|ounce oz|pound lb lbs|celsius c °c|fahrenheit f °f
    liter litre l|second sec|minute min|hour hr|kilobyte kb|megabyte mb|gigabyte gb|terabyte tb
    usd dollar $|eur euro €""".replace("\n", "|").split("|")
]

_NUMBER = r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?"
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=\d),(?=\d{3}\b)", ""),
        (r"(?<=\d)\s*x\s*(?=\d)", " * "),
        (rf"\badd ({_NUMBER}) (?:and|to) ({_NUMBER})", r"\1 + \2"),
        (rf"\bsubtract ({_NUMBER}) from ({_NUMBER})", r"\2 - \1"),
        (rf"\bmultiply ({_NUMBER}) by ({_NUMBER})", r"\1 * \2"),
        (rf"\bdivide ({_NUMBER}) by ({_NUMBER})", r"\1 / \2"),
        (rf"({_NUMBER})\s*(?:%|percent) of ({_NUMBER})", r"\1 / 100 * \2"),
        (rf"\bhalf of ({_NUMBER})", r"\1 / 2"),
        (r"\bto the power of\b", "**"),
        (r"\b(?:multiplied by|times)\b", "*"),
        (r"\bdivided by\b", "/"),
        (r"\bplus\b", "+"),
        (r"\bminus\b", "-"),
        (r"\bsquared\b", "** 2"),
    )
]
_DATE = re.compile(r"\b\d{4}-\d{2}-\d{2}(?:T[\d:]+Z?)?\b")
_EXPRESSION = re.compile(r"[-(]*\d[\d.\s()+\-*/%]*[\d)]")
_OPERATOR = re.compile(r"\d\)*\s*(?:[+\-/%]|\*\*?)\s*[-(]*\d")
_PLAIN = str.maketrans("\u201c\u201d\u2212\u00d7\u00f7\0", '""-*/ ')
_REFERENCE = re.compile(r"\b(?:that|this|it|the result)\b", re.IGNORECASE)
_CONTINUED = re.compile(r"^\s*(?:(?:and|then)\s+)?(?=(?:plus|minus|times|divided)\b|[+*/])", re.I)

_PART_END = re.compile(r"\s+(?:and|then|also)\s+|,(?!\d{3}\b)\s*|[;?!\n]+\s*|\.(?:\s+|$)")
_QUOTED = re.compile(r"\"(?P<value>[^\"\0]+)\"")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_IDENTIFIER = re.compile(r"(?<![\w.])#?(?P<value>(?=[\w-]*\d)\w[\w-]*)(?!\.?\d)")
_AFTER_NUMBER = re.compile(r"\d\s*(?:degrees?\s*)?$")
_AFTER_TARGET = re.compile(r"\b(?:to|into|in|as)\s+(?:degrees?\s+)?$", re.IGNORECASE)
_TARGET_NAMES = frozenset({"to", "into", "target"})

_CAPITALISED = r"[^\W\d_a-zà-öø-ÿ][\w'-]*"
_NAME = rf"{_CAPITALISED}(?:\s+(?:of\s+|de\s+)?{_CAPITALISED})*"
_PHRASE = (
    rf"[^\W\d][^,;?!\0]*?(?=\s+(?:{_LEADS}|is|now|please|right|today)\b|\s+\d|\s*[,;?!\0]|\.?\s*$)"
)
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

Arguments = dict[str, JSONValue]


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """A tool to call and its arguments."""

    name: str
    arguments: Arguments


@dataclass(frozen=True, slots=True)
class Plan:
    """The calls that a prompt asks for, and sentences about what no tool can do."""

    calls: list[PlannedCall] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool of a request: its name, first paragraph of description and parameters."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    @property
    def properties(self) -> Mapping[str, Any]:
        """The JSON Schemas of its parameters."""
        return self.parameters.get("properties") or {}

    def missing(self, arguments: Arguments) -> list[str]:
        """Return the names of required parameters that `arguments` lacks."""
        return [name for name in self.parameters.get("required", ()) if name not in arguments]


class Planner:
    """Read a prompt part by part: each part calls a tool or repeats the call before it."""

    def __init__(
        self,
        tools: Sequence[OfferedTool],
        *,
        previous: PlannedCall | None = None,
        last_number: str | None = None,
    ) -> None:
        self._tools = tools
        self._previous = previous
        self._last_number = last_number
        self._plan = Plan()

    def plan(self, prompt: str) -> Plan:
        """Return the calls that the prompt asks for."""
        text = prompt[:_READ_CHARACTERS].translate(_PLAIN)
        parts, place = _parts(text), 0
        while place < len(parts):
            place = self._read_part(text, parts, place)
        return self._plan

    def _read_part(self, text: str, parts: list[tuple[int, int]], place: int) -> int:
        """Plan one part, joined with the next ones if it needs them; return the next place."""
        start, end = parts[place]
        for last in range(place, min(place + _JOINED_PARTS, len(parts))):
            joined = text[start : parts[last][1]]
            for tool in self._fitting(text[start:end], joined):
                arguments = fill(tool, joined, self._last_number)
                if not tool.missing(arguments):
                    self._keep(PlannedCall(tool.name, arguments))
                    return last + 1
        if not self._repeat(text[start:end]):
            self._note_problem(text[start:end])
        return place + 1

    def _keep(self, call: PlannedCall) -> None:
        if call not in self._plan.calls:
            self._plan.calls.append(call)
        self._previous = call

    def _fitting(self, text: str, joined: str) -> list[OfferedTool]:
        """Return the tools that a part names, the best first."""
        joined = joined if re.search(r"\d", text) else text
        scored = [(self._score(tool, text, joined), tool) for tool in self._tools]
        scored.sort(key=lambda each: -each[0])
        return [tool for score, tool in scored if score >= _ENOUGH]

    def _score(self, tool: OfferedTool, text: str, joined: str) -> int:
        said, named = stems(text), stems(tool.name)
        score = _NAME_WEIGHT * len(said & named)
        score += _DESCRIPTION_WEIGHT * len(said & (stems(tool.description) - named))
        for name, schema in tool.properties.items():
            if name == "expression":
                score += _VALUE_WEIGHT * (find_expression(joined, self._last_number) is not None)
            elif "enum" in schema:
                score += _VALUE_WEIGHT * bool(list(_choices(schema["enum"], Sentence(text))))
        return score

    def _repeat(self, text: str) -> bool:
        """Repeat the call before this part with other arguments, if it holds nothing else."""
        previous = self._previous
        tool = next((t for t in self._tools if previous and t.name == previous.name), None)
        if previous is None or tool is None:
            return False
        sentence = Sentence(text)
        given = fill(tool, sentence, self._last_number)
        if not given or words(sentence.rest):
            return False
        self._keep(PlannedCall(tool.name, {**previous.arguments, **given}))
        return True

    def _note_problem(self, text: str) -> None:
        if not words(text) and not re.search(r"\d", text):
            return
        for tool in self._fitting(text, text):
            names = " and ".join(map(readable, tool.missing(fill(tool, text, self._last_number))))
            self._plan.problems.append(f"For {tool.name} I need: {names}.")
            return
        self._plan.problems.append(f'I have no tool for "{text.strip()}".')


# - arguments -


class Sentence:
    """A text from which values are taken, each place once."""

    def __init__(self, text: str) -> None:
        self.rest = text

    def take(self, match: re.Match[str]) -> str:
        """Blank out a match; return its text, or that of its group `value`."""
        start, end = match.span()
        self.rest = self.rest[:start] + "\0" * (end - start) + self.rest[end:]
        return match["value" if "value" in match.re.groupindex else 0]


def fill(tool: OfferedTool, text: "str | Sentence", last_number: str | None) -> Arguments:
    """Return the arguments that a text holds for a tool, in the order of its parameters."""
    sentence = Sentence(text) if isinstance(text, str) else text
    found: Arguments = {}
    # Values that are easy to recognise first: they are out of the way of the others then.
    for name, schema in sorted(tool.properties.items(), key=lambda item: _rank(*item)):
        required = name in tool.parameters.get("required", ())
        value = _find(name, schema, sentence, tool, last_number, required=required)
        if value is not None:
            found[name] = value
    return {name: found[name] for name in tool.properties if name in found}


def _rank(name: str, schema: Mapping[str, Any]) -> int:
    if "enum" in schema or name == "expression":
        return 0
    return 1 if _types(schema) & {"number", "integer"} or _is_date(name, schema) else 2


def _types(schema: Mapping[str, Any]) -> set[str]:
    declared = schema.get("type", ())
    types = {declared} if isinstance(declared, str) else set(declared)
    return types.union(*(_types(option) for option in schema.get("anyOf", ())))


def _is_date(name: str, schema: Mapping[str, Any]) -> bool:
    return schema.get("format") in {"date", "date-time"} or bool(stems(name) & {"date", "day"})


def _find(
    name: str,
    schema: Mapping[str, Any],
    sentence: Sentence,
    tool: OfferedTool,
    last_number: str | None,
    *,
    required: bool,
) -> JSONValue:
    types = _types(schema)
    if name == "expression":
        return find_expression(sentence.rest, last_number)
    if "enum" in schema:
        return _find_choice(name, schema["enum"], sentence, tool)
    if types & {"number", "integer"}:
        return _find_number(name, sentence, is_integer="number" not in types)
    if _is_date(name, schema):
        match = _DATE.search(sentence.rest)
        return sentence.take(match) if match else None
    return _find_text(name, sentence, tool, required=required) if "string" in types else None


def _find_number(name: str, sentence: Sentence, *, is_integer: bool) -> JSONValue:
    """Take the number beside the parameter's own name, or else the first one."""
    matches = list(re.finditer(rf"(?<![\w.-])(?:{_NUMBER})(?![-\d])", sentence.rest))
    beside = [m for m in matches if _neighbours(m) & stems(name)]
    for match in beside or matches:
        number = float(match[0].replace(",", ""))
        if not is_integer or number.is_integer():
            sentence.take(match)
            return int(number) if "." not in match[0] else number
    return None


def _neighbours(match: re.Match[str]) -> set[str]:
    before, after = match.string[: match.start()], match.string[match.end() :]
    return {stem(word.lower()) for word in _WORD.findall(before)[-1:] + _WORD.findall(after)[:1]}


def _find_choice(
    name: str, choices: Sequence[JSONValue], sentence: Sentence, tool: OfferedTool
) -> JSONValue:
    """Take a value of an enum; a target is preferred after "to", another value after a number."""
    found = list(_choices(choices, sentence))
    rivals = [n for n, s in tool.properties.items() if n in _TARGET_NAMES and "enum" in s]
    if name not in _TARGET_NAMES and rivals:
        found = [each for each in found if not _AFTER_TARGET.search(_before(each[0]))]
        found.sort(key=lambda each: _AFTER_NUMBER.search(_before(each[0])) is None)
    elif name in _TARGET_NAMES:
        loose = [each for each in found if not _AFTER_NUMBER.search(_before(each[0]))]
        loose.sort(key=lambda each: _AFTER_TARGET.search(_before(each[0])) is None)
        found = loose
    for match, choice in found[:1]:
        sentence.take(match)
        return choice
    return None


def _before(match: re.Match[str]) -> str:
    return match.string[: match.start()]


def _choices(
    choices: Sequence[JSONValue], sentence: Sentence
) -> Iterator[tuple[re.Match[str], JSONValue]]:
    """Yield the places of an enum's values, the first and longest first."""
    found = []
    for choice in choices:
        text = str(choice).lower()
        for name in {text, text.replace("_", " "), *_unit_names(text)}:
            pattern = rf"(?<![^\W\d_]){re.escape(name)}(?:s|es)?(?!\w)"
            for match in re.finditer(pattern, sentence.rest, re.IGNORECASE):
                after_number = _AFTER_NUMBER.search(_before(match))
                if len(name) > 2 or after_number or _AFTER_TARGET.search(_before(match)):
                    found.append((match, choice))
    yield from sorted(found, key=lambda each: (each[0].start(), -each[0].end()))


def _unit_names(name: str) -> list[str]:
    return next((row for row in _UNITS if name in row), [])


def _find_text(name: str, sentence: Sentence, tool: OfferedTool, *, required: bool) -> str | None:
    """Take a quotation; if required, also words after a preposition, an identifier or a name."""
    quoted = list(_QUOTED.finditer(sentence.rest))
    own_words = readable(name).split()
    emails = _EMAIL.finditer(sentence.rest) if {"to", "email"} & set(own_words) else ()
    for match in (*emails, *(m for m in quoted if _neighbours(m) & stems(name)), *quoted):
        return sentence.take(match)
    if not required:
        return None
    known = stems(f"{tool.name} {' '.join(tool.properties)}")
    own = "|".join(word for word in own_words if word in _LEADS.split("|"))
    for form in (f"(?-i:{_NAME})", _PHRASE):
        pattern = rf"\b(?:{own or _LEADS})\s+(?:the\s+|my\s+)?(?P<value>{form})"
        for match in re.finditer(pattern, sentence.rest, re.IGNORECASE):
            if stems(match["value"]) - known:
                return sentence.take(match)
    for match in (*_IDENTIFIER.finditer(sentence.rest), *re.finditer(_NAME, sentence.rest)):
        if match.re is _IDENTIFIER or stems(match[0]) - known:
            return sentence.take(match)
    return None


def find_expression(text: str, last_number: str | None = None) -> str | None:
    """Return the first arithmetic expression in a text; "that" stands for `last_number`."""
    text = _DATE.sub(";", text)
    found = _expression(text)
    if found is None and last_number is not None:
        found = _expression(_REFERENCE.sub(last_number, _CONTINUED.sub(f"{last_number} ", text)))
    return found


def _expression(text: str) -> str | None:
    text = text.lower()
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    for found in _EXPRESSION.finditer(text):
        expression = " ".join(found[0].split())
        if _OPERATOR.search(expression) and expression.count("(") == expression.count(")"):
            return expression
    return None


# - words -


def _parts(text: str) -> list[tuple[int, int]]:
    """Return the spans between which another request may begin, never inside quotations."""
    quoted = [match.span() for match in _QUOTED.finditer(text)]
    cuts = [
        match.span()
        for match in _PART_END.finditer(text)
        if not any(start < match.start() < end for start, end in quoted)
    ]
    starts, ends = [0, *(end for _, end in cuts)], [*(start for start, _ in cuts), len(text)]
    return [(a, b) for a, b in zip(starts, ends, strict=True) if text[a:b].strip()]


def words(text: str) -> list[str]:
    """Return the words of a text or an identifier in lower case, without stop words."""
    found = map(str.lower, _WORD.findall(_CAMEL.sub(" ", text).replace("_", " ")))
    return [
        word
        for word in found
        if word.replace("'", "").removesuffix("s") not in _STOP_WORDS and word not in _STOP_WORDS
    ]


def stems(text: str) -> set[str]:
    """Return the words of a text without their endings, so that forms of one word are equal."""
    return {stem(word) for word in words(text)}


def stem(word: str) -> str:
    """Return an English word without its ending, roughly."""
    for ending in ("'s", "ation", "ator", "ing", "ate", "ed", "es", "s", "e", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word[: -len(ending)]
    return word


def readable(identifier: str) -> str:
    """Return an identifier as words."""
    return _CAMEL.sub(" ", identifier).replace("_", " ").replace("-", " ").lower()
