"""Find the tools that a prompt asks for, and their arguments, by rules."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pathors_agent.messages import JSONValue

# Two words of a tool's description, or one of its name, which counts three.
_ENOUGH = 2

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

# Other names of units; a prompt may use them where a tool's enum has the first.
_UNITS = {
    "km": ("kilometer", "kilometre"),
    "m": ("meter", "metre"),
    "kg": ("kilogram", "kilo"),
    "g": ("gram",),
    "foot": ("feet", "ft"),
    "pound": ("lb", "lbs"),
    "celsius": ("c", "°c"),
    "fahrenheit": ("f", "°f"),
}

_NUMBER = r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?"
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=\d),(?=\d{3}\b)", ""),
        (rf"\badd ({_NUMBER}) (?:and|to) ({_NUMBER})", r"\1 + \2"),
        (rf"\bsubtract ({_NUMBER}) from ({_NUMBER})", r"\2 - \1"),
        (rf"\bmultiply ({_NUMBER}) by ({_NUMBER})", r"\1 * \2"),
        (rf"\bdivide ({_NUMBER}) by ({_NUMBER})", r"\1 / \2"),
        (rf"({_NUMBER})\s*(?:%|percent) of ({_NUMBER})", r"\1 / 100 * \2"),
        (r"\b(?:multiplied by|times)\b", "*"),
        (r"\bdivided by\b", "/"),
        (r"\bplus\b", "+"),
        (r"\bminus\b", "-"),
    )
]
_EXPRESSION = re.compile(r"[-(]*\d[\d.\s()+\-*/%]*[\d)]")
_OPERATOR = re.compile(r"\d\)*\s*(?:[+\-/%]|\*\*?)\s*[-(]*\d")
_REFERENCE = re.compile(r"\b(?:that|this|it|the result)\b", re.IGNORECASE)
_DATE = re.compile(r"\b\d{4}-\d{2}-\d{2}\b")
_FIRST_NUMBER = re.compile(rf"(?<![\w.-])(?:{_NUMBER})(?![-\d])")

_PART_END = re.compile(r"\s+(?:and|then|also)\s+|,(?!\d{3}\b)\s*|[;?!\n]+\s*|\.(?:\s+|$)")
_QUOTED = re.compile(r"\"(?P<value>[^\"\0]+)\"")
_AFTER_NUMBER = re.compile(r"\d\s*(?:degrees?\s*)?$")
_AFTER_TARGET = re.compile(r"\b(?:to|into|in|as)\s+(?:degrees?\s+)?$", re.IGNORECASE)
_TARGETS = frozenset({"to", "into", "target"})

_CAPITALISED = r"[^\W\d_a-zà-öø-ÿ][\w'-]*"
_NAME = rf"{_CAPITALISED}(?:\s+(?:of\s+|de\s+)?{_CAPITALISED})*"
_PHRASE = (
    rf"[^\W\d][^,;?!\0]*?(?=\s+(?:{_LEADS}|is|now|please|right|today)\b|\s+\d|\s*[,;?!\0]|\.?\s*$)"
)
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")

Arguments = dict[str, JSONValue]


class PlannedCall(NamedTuple):
    """A tool to call and its arguments."""

    name: str
    arguments: Arguments


class OfferedTool(NamedTuple):
    """A tool of a request: its name, first paragraph of description and parameters."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    @property
    def properties(self) -> Mapping[str, Any]:
        """The JSON Schemas of its parameters."""
        return self.parameters.get("properties") or {}

    @property
    def required(self) -> Sequence[str]:
        """The names of its required parameters."""
        required: Sequence[str] = self.parameters.get("required", ())
        return required


def plan(
    prompt: str,
    tools: Sequence[OfferedTool],
    *,
    previous: PlannedCall | None = None,
    last_number: str | None = None,
) -> list[PlannedCall]:
    """Return the calls that a prompt asks for: each part calls a tool, or repeats the call before."""
    text = prompt[:_READ_CHARACTERS].replace("\0", " ")
    calls: list[PlannedCall] = []
    parts = _parts(text)
    while parts:
        joined = [text[parts[0][0] : end] for _, end in parts[:_JOINED_PARTS]]
        attempts = (_named_call(joined[0], whole, tools, last_number) for whole in joined)
        found = ((count, call) for count, call in enumerate(attempts, 1) if call)
        repeated = _repeated_call(joined[0], tools, previous, last_number)
        count, call = next(found, (1, repeated))
        del parts[:count]
        previous = call or previous
        if call and call not in calls:
            calls.append(call)
    return calls


def _named_call(
    part: str, whole: str, tools: Sequence[OfferedTool], last_number: str | None
) -> PlannedCall | None:
    """Return a call of the tool that a part names best; its arguments may be in the whole text."""
    text = whole if re.search(r"\d", part) else part
    scores = [_score(tool, part, _find_expression(text, last_number)) for tool in tools]
    for score, tool in sorted(zip(scores, tools, strict=True), key=lambda each: -each[0]):
        arguments = fill(tool, Sentence(whole), last_number)
        if score >= _ENOUGH and all(name in arguments for name in tool.required):
            return PlannedCall(tool.name, arguments)
    return None


def _score(tool: OfferedTool, text: str, expression: str | None) -> int:
    said, named = stems(text), stems(tool.name)
    values = (
        expression is not None if name == "expression" else any(_choices(schema, text))
        for name, schema in tool.properties.items()
    )
    described = stems(tool.description) - named
    return 3 * len(said & named) + len(said & described) + 3 * sum(values)


def _repeated_call(
    text: str, tools: Sequence[OfferedTool], previous: PlannedCall | None, last_number: str | None
) -> PlannedCall | None:
    """Return the call before a part with other arguments, if the part holds nothing else."""
    for tool in tools:
        if previous and tool.name == previous.name:
            sentence = Sentence(text)
            given = fill(tool, sentence, last_number)
            if given and not words(sentence.rest):
                return PlannedCall(tool.name, {**previous.arguments, **given})
    return None


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


def fill(tool: OfferedTool, sentence: Sentence, last_number: str | None) -> Arguments:
    """Return the arguments that a sentence holds for a tool, in the order of its parameters."""
    found: Arguments = {}
    for name, schema in sorted(tool.properties.items(), key=lambda item: _rank(*item)):
        if name == "expression":
            value: JSONValue = _find_expression(sentence.rest, last_number)
        elif "enum" in schema:
            value = _find_choice(name, schema, sentence)
        elif types := _types(schema) & {"number", "integer"}:
            value = _find_number(sentence, is_integer="number" not in types)
        elif "string" not in _types(schema):
            continue
        elif match := _DATE.search(sentence.rest):
            value = sentence.take(match)
        elif name in tool.required:
            value = _find_text(sentence, tool)
        else:
            continue
        if value is not None:
            found[name] = value
    return {name: found[name] for name in tool.properties if name in found}


def _rank(name: str, schema: Mapping[str, Any]) -> int:
    """Order parameters: values that are easy to recognise are out of the way of the others."""
    if "enum" in schema or name == "expression":
        return 0 if name in _TARGETS else 1
    return 2 if _types(schema) & {"number", "integer"} else 3


def _types(schema: Mapping[str, Any]) -> set[str]:
    declared = schema.get("type", ())
    types = {declared} if isinstance(declared, str) else set(declared)
    return types.union(*(_types(option) for option in schema.get("anyOf", ())))


def _find_number(sentence: Sentence, *, is_integer: bool) -> JSONValue:
    for match in _FIRST_NUMBER.finditer(sentence.rest):
        number = float(match[0].replace(",", ""))
        if not is_integer or number.is_integer():
            sentence.take(match)
            return int(number) if "." not in match[0] else number
    return None


def _find_choice(name: str, schema: Mapping[str, Any], sentence: Sentence) -> JSONValue:
    """Take a value of an enum; a target is preferred after "to", another value after a number."""
    found = [
        (_AFTER_NUMBER.search(_before(match)), match, choice)
        for match, choice in _choices(schema, sentence.rest)
    ]
    if name in _TARGETS:
        found = [
            (_AFTER_TARGET.search(_before(match)), match, choice)
            for number, match, choice in found
            if not number
        ]
    for _, match, choice in sorted(found, key=lambda each: each[0] is None)[:1]:
        sentence.take(match)
        return choice
    return None


def _before(match: re.Match[str]) -> str:
    return match.string[: match.start()]


def _choices(schema: Mapping[str, Any], text: str) -> Iterator[tuple[re.Match[str], JSONValue]]:
    """Yield the places of an enum's values, the first and longest first."""
    found = []
    for choice in schema.get("enum", ()):
        value = str(choice).lower()
        for name in {value, value.replace("_", " "), *_UNITS.get(value, ())}:
            pattern = rf"(?<![^\W\d_]){re.escape(name)}(?:s|es)?(?!\w)"
            for match in re.finditer(pattern, text, re.IGNORECASE):
                after_number = _AFTER_NUMBER.search(_before(match))
                if len(name) > 2 or after_number or _AFTER_TARGET.search(_before(match)):
                    found.append((match, choice))
    yield from sorted(found, key=lambda each: (each[0].start(), -each[0].end()))


def _find_text(sentence: Sentence, tool: OfferedTool) -> str | None:
    """Take a quotation, words after a preposition, or a name."""
    known = stems(f"{tool.name} {' '.join(tool.properties)}")
    for pattern in (
        _QUOTED.pattern,
        rf"\b(?:{_LEADS})\s+(?:the\s+|my\s+)?(?P<value>(?-i:{_NAME}))",
        rf"\b(?:{_LEADS})\s+(?:the\s+|my\s+)?(?P<value>{_PHRASE})",
        rf"(?P<value>(?-i:{_NAME}))",
    ):
        for match in re.finditer(pattern, sentence.rest, re.IGNORECASE):
            if stems(match["value"]) - known:
                return sentence.take(match)
    return None


def _find_expression(text: str, last_number: str | None) -> str | None:
    """Return the first arithmetic expression in a text; "that" stands for `last_number`."""
    text = _DATE.sub(";", text)
    found = _expression(text)
    if found is None and last_number is not None:
        found = _expression(_REFERENCE.sub(last_number, text))
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
    found = map(str.lower, _WORD.findall(text.replace("_", " ")))
    return [w for w in found if not {w, w.replace("'", "").removesuffix("s")} & _STOP_WORDS]


def stems(text: str) -> set[str]:
    """Return the words of a text without their endings, so that forms of one word are equal."""
    return {_stem(word) for word in words(text)}


def _stem(word: str) -> str:
    for ending in ("'s", "ation", "ator", "ing", "ate", "ed", "es", "s", "e", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word[: -len(ending)]
    return word
