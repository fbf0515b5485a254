"""Find the arguments of a tool in a sentence, by its parameters; every place is used once."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from pathors_agent.messages import JSONValue
from pathors_agent.offline.arithmetic import find_expression
from pathors_agent.offline.schemas import Kind, Parameter
from pathors_agent.offline.sentence import Found, Sentence
from pathors_agent.offline.text_arguments import find_text, find_topic
from pathors_agent.offline.words import NUMBER_WORDS, PREPOSITIONS, same_unit, stem

Arguments = dict[str, JSONValue]

Rivals = Sequence[Parameter]
"""The other parameters that are still to be found."""

# What is easiest to recognise is looked for first, and is then out of the way of the rest.
_ORDER: tuple[Kind, ...] = (
    "expression",
    "choice",
    "date",
    "number",
    "integer",
    "boolean",
    "list",
    "text",
    "topic",
    "object",
)

_NUMBER = re.compile(
    r"(?<![\w.,])-?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)"
    r"|(?<![\w.])-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![-\d])"
    rf"|\b(?:{'|'.join(NUMBER_WORDS)})\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]+")

_AFTER_NUMBER = re.compile(r"\d\s*(?:degrees?\s*|°)?$", re.IGNORECASE)
_AFTER_TARGET = re.compile(r"\b(?:to|into|in|as)\s+(?:degrees?\s+)?$", re.IGNORECASE)
_TARGET_NAMES = frozenset({"to", "into", "target", "destination", "output", "result"})

_NEGATED = re.compile(r"(?:\b(?:no|not|without|non|never)|n't)\b\W*(?:\w+\W+)?$", re.IGNORECASE)

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)})[a-z]*\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_ISO_DATE = re.compile(
    r"\b\d{4}-\d{2}-\d{2}(?:T\d{2}:\d{2}(?::\d{2})?(?:Z|[-+]\d{2}:\d{2})?)?(?![\w-])"
)
_WRITTEN_DATES = (
    re.compile(rf"\b{_DAY} (?:of )?{_MONTH},? (?P<year>\d{{4}})\b", re.IGNORECASE),
    re.compile(rf"\b{_MONTH} {_DAY},? (?P<year>\d{{4}})\b", re.IGNORECASE),
)
_DAY_WORD = re.compile(
    r"\b(?:today|tonight|tomorrow|yesterday|(?:mon|tues|wednes|thurs|fri|satur|sun)day)\b",
    re.IGNORECASE,
)


def fill(parameters: Sequence[Parameter], sentence: Sentence) -> Arguments:
    """Find what the sentence gives; parameters that it does not give are left out."""
    found: Arguments = {}
    for parameter in sorted(parameters, key=lambda each: _ORDER.index(each.kind)):
        rivals = [each for each in parameters if each is not parameter and each.name not in found]
        value = _find(parameter, sentence, rivals)
        if value is not None:
            found[parameter.name] = value
    return {each.name: found[each.name] for each in parameters if each.name in found}


def _find(parameter: Parameter, sentence: Sentence, rivals: Rivals) -> JSONValue:
    return _FINDERS[parameter.kind](parameter, sentence, rivals)


def _find_expression(parameter: Parameter, sentence: Sentence, rivals: Rivals) -> str | None:
    expression = find_expression(sentence.text, last_number=sentence.last_number)
    if expression is not None:
        sentence.take_all()
    return expression


def _find_number(parameter: Parameter, sentence: Sentence, rivals: Rivals) -> int | float | None:
    """Take the number beside the parameter's own word, else the first not beside a rival's."""
    places = [
        (place, value)
        for place in sentence.find(_NUMBER)
        for value in [_number(place.text)]
        if isinstance(value, int) or parameter.kind == "number"
    ]
    others = frozenset[str]().union(*(rival.stems for rival in rivals))
    own = [each for each in places if _neighbours(each[0]) & parameter.stems]
    free = [each for each in places if not _neighbours(each[0]) & (others - parameter.stems)]
    for place, value in own or free:
        sentence.take(place)
        return value
    return None


def _number(text: str) -> int | float:
    plain = text.lower().replace(",", "")
    if plain in NUMBER_WORDS:
        return NUMBER_WORDS[plain]
    number = float(plain)
    return int(plain) if plain.lstrip("-").isdigit() else number


def _neighbours(place: Found) -> set[str]:
    before = [word for word in _WORD.findall(place.before)[-2:] if word not in PREPOSITIONS][-1:]
    after = _WORD.findall(place.after)[:1]
    return {stem(word.lower()) for word in before + after}


def _find_choice(parameter: Parameter, sentence: Sentence, rivals: Rivals) -> JSONValue:
    """Take a value of the enum, or another name of the same unit."""
    places = [(each, choice) for choice in parameter.choices for each in _named(choice, sentence)]
    if not _is_target(parameter) and any(each.choices and _is_target(each) for each in rivals):
        places = [each for each in places if not _AFTER_TARGET.search(each[0].before)]
    if not places:
        return None
    places.sort(key=lambda each: (each[0].start, -each[0].end))
    place, choice = _preferred(parameter, places)
    sentence.take(place)
    return choice


def _named(choice: JSONValue, sentence: Sentence) -> list[Found]:
    text = str(choice).lower() if isinstance(choice, bool) else str(choice)
    names = {name for form in (text, text.replace("_", " ")) for name in same_unit(form)}
    return [place for name in names for place in _places_of(name, sentence)]


def _places_of(name: str, sentence: Sentence) -> Iterable[Found]:
    """Find a name; one that is short or a preposition counts only beside a number or "to"."""
    for place in sentence.find(_pattern(name)):
        after_number = _AFTER_NUMBER.search(place.before)
        after_target = _AFTER_TARGET.search(place.before) and name.lower() not in PREPOSITIONS
        if len(name) > 2 or after_number or after_target:
            yield place


@lru_cache(maxsize=1024)
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![^\W\d_]){re.escape(name)}(?:s|es)?(?!\w)", re.IGNORECASE)


def _preferred(
    parameter: Parameter, places: list[tuple[Found, JSONValue]]
) -> tuple[Found, JSONValue]:
    """Choose the place after "to" for a target, after a number for anything else."""
    if _is_target(parameter):
        targets = [each for each in places if _AFTER_TARGET.search(each[0].before)]
        loose = [each for each in places if not _AFTER_NUMBER.search(each[0].before)]
        return (targets or loose or places)[0]
    counted = [each for each in places if _AFTER_NUMBER.search(each[0].before)]
    return (counted or places)[0]


def _is_target(parameter: Parameter) -> bool:
    return parameter.name.split("_")[0].lower() in _TARGET_NAMES


def _find_boolean(parameter: Parameter, sentence: Sentence, rivals: Rivals) -> bool | None:
    """Say true where the parameter's word occurs, false where it is denied."""
    own = parameter.stems or {parameter.name.lower()}
    for place in sentence.find(_WORD):
        word = place.text.lower()
        switched_off = word == "off" and "on" in own
        if stem(word) in own or switched_off:
            denied = switched_off or _NEGATED.search(place.before) is not None
            sentence.take(place)
            return not denied
    return None


def _find_date(parameter: Parameter, sentence: Sentence, rivals: Rivals) -> str | None:
    """Take a date; words such as "tomorrow" only where the parameter is free text."""
    for place in sentence.find(_ISO_DATE):
        return sentence.take(place)
    for pattern in _WRITTEN_DATES:
        for place in sentence.find(pattern):
            sentence.take(place)
            return _written_date(place.match)
    for place in sentence.find(_DAY_WORD):
        return None if parameter.format else sentence.take(place).lower()
    return None


def _written_date(match: re.Match[str]) -> str:
    month = _MONTHS.index(match["month"].lower()) + 1
    return f"{match['year']}-{month:02}-{int(match['day']):02}"


def _find_list(parameter: Parameter, sentence: Sentence, rivals: Rivals) -> JSONValue:
    """Take items of the item's kind as long as there are any."""
    item = parameter.item
    if item is None or item.kind in {"list", "object", "topic"}:
        return None
    items: list[JSONValue] = []
    while (value := _find(item, sentence, ())) is not None:
        items.append(value)
    return items or None


def _find_object(parameter: Parameter, sentence: Sentence, rivals: Rivals) -> JSONValue:
    found = fill(parameter.fields, sentence)
    complete = all(each.name in found for each in parameter.fields if each.required)
    return found if found and complete else None


_FINDERS: dict[Kind, Callable[[Parameter, Sentence, Rivals], JSONValue]] = {
    "number": _find_number,
    "integer": _find_number,
    "expression": _find_expression,
    "choice": _find_choice,
    "boolean": _find_boolean,
    "date": _find_date,
    "list": _find_list,
    "object": _find_object,
    "text": find_text,
    "topic": find_topic,
}
