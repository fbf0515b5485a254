"""Find an argument that is text: an address, a quotation, a name, or words after a preposition."""

import re
from collections.abc import Iterable, Sequence

from pathors_agent.offline.schemas import Parameter
from pathors_agent.offline.sentence import Found, Sentence
from pathors_agent.offline.words import PREPOSITIONS, STOP_WORDS, readable, stem, words

_QUOTED = re.compile(r"\"(?P<value>[^\"]+)\"")
_SINGLE_QUOTED = re.compile(r"(?<!\w)'(?P<value>[^']+)'(?!\w)")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_URL = re.compile(r"https?://[^\s,;\"']*[^\s,;\"'.?!]")
_IDENTIFIER = re.compile(r"(?<![\w.])#?(?P<value>(?=[\w-]*\d)\w[\w-]*)(?!\.?\d)")

_CAPITALISED = r"(?:[^\W\d_a-zà-öø-ÿ][\w'-]*)"
_LINK = r"(?:de|del|da|do|la|of|the|van|von)"
_NAME_FORM = rf"{_CAPITALISED}(?:\s+(?:{_LINK}\s+)?{_CAPITALISED})*"
_NAME = re.compile(rf"(?<![\w'])(?P<value>{_NAME_FORM})")

_PHRASE_STOPS = sorted(
    PREPOSITIONS | {"and", "are", "is", "now", "please", "right", "today", "tomorrow", "tonight"}
)
_PHRASE_FORM = (
    r"[^\W\d][^,;?!\0]*?"
    rf"(?=\s+(?:{'|'.join(_PHRASE_STOPS)})\b|\s+\d|\s*[,;?!\0]|\s*\.(?:\s|$)|\s*$)"
)

_TRAILING_LEAD = re.compile(r"\s+(?:to|in|into|for|from|with|at|on)\s*$")

_EMAIL_NAMES = frozenset({"email", "mail", "address", "recipient", "to", "cc"})
_URL_NAMES = frozenset({"url", "uri", "link", "website"})
_ID_NAMES = frozenset({"id", "code", "number", "sku", "reference", "ticket", "order", "tracking"})

# Which prepositions lead to the value of a parameter that is named so.
_PLACE = ("in", "at", "for", "of", "near")
_LEADS = {
    **dict.fromkeys(("city", "location", "place", "town", "country", "region"), _PLACE),
    **dict.fromkeys(("to", "destination", "recipient", "arrival", "target"), ("to", "for", "into")),
    **dict.fromkeys(("from", "source", "origin", "sender", "departure"), ("from",)),
    "language": ("to", "into", "in"),
}
_OTHER_LEADS = ("for", "of", "about", "named", "called", "with", "on", "in", "at", "to")
_TOPIC_LEADS = ("for", "about", "on", "saying", "named", "called", "that")


def find_text(parameter: Parameter, sentence: Sentence, rivals: Sequence[Parameter]) -> str | None:
    """Find a value, looking for what is surest first; guess only what is required."""
    return (
        _shaped(parameter, sentence)
        or _quoted(parameter, sentence, only_named=any(each.kind == "topic" for each in rivals))
        or _after_lead(parameter, sentence)
        or (_name(sentence) if parameter.required else None)
    )


def find_topic(parameter: Parameter, sentence: Sentence, rivals: Sequence[Parameter]) -> str | None:
    """Find a text of many words: quoted, after "for" or "about", or what is left."""
    value = _quoted(parameter, sentence, only_named=False)
    if value or not parameter.required:
        return value
    for lead in _TOPIC_LEADS:
        for found in sentence.find(re.compile(rf"\b{lead}\s+(?P<value>[^\0]+)", re.IGNORECASE)):
            sentence.take_all()
            return found.text.strip(" .?!,;") or None
    return _what_is_left(sentence)


def _shaped(parameter: Parameter, sentence: Sentence) -> str | None:
    """Take an address, a link or an identifier, where the parameter is one."""
    names = set(readable(parameter.name).split())
    for known, form, pattern in (
        (_EMAIL_NAMES, "email", _EMAIL),
        (_URL_NAMES, "uri", _URL),
        (_ID_NAMES, "uuid", _IDENTIFIER),
    ):
        if parameter.format == form or names & known:
            value = _take_first(sentence, sentence.find(pattern))
            if value:
                return value
    return None


def _quoted(parameter: Parameter, sentence: Sentence, *, only_named: bool) -> str | None:
    """Take the quotation that follows the parameter's name, else the first one if that may be."""
    quotations = [*sentence.find(_QUOTED), *sentence.find(_SINGLE_QUOTED)]
    named = [each for each in quotations if _word_before(each) in parameter.stems]
    return _take_first(sentence, named if only_named else named or quotations)


def _after_lead(parameter: Parameter, sentence: Sentence) -> str | None:
    """Take the name, or the words, after a preposition that leads to such a value."""
    leads = _leads(parameter)
    if leads is None and not parameter.required:
        return None
    for form in (f"(?-i:{_NAME_FORM})", _PHRASE_FORM):
        for lead in leads or _OTHER_LEADS:
            pattern = rf"\b{lead}\s+(?:(?:the|my|our)\s+)?(?P<value>{form})"
            places = sentence.find(re.compile(pattern, re.IGNORECASE))
            value = _take_first(sentence, (each for each in places if words(each.text)))
            if value:
                return value
    return None


def _leads(parameter: Parameter) -> tuple[str, ...] | None:
    for name in readable(parameter.name).split():
        if name in _LEADS:
            return _LEADS[name]
    return None


def _name(sentence: Sentence) -> str | None:
    """Take capitalised words that are neither the tool's words nor those sentences begin with."""
    for found in sentence.find(_NAME):
        start = found.start
        for word in re.finditer(r"\S+\s*", found.text):
            if not _is_filler(word.group().strip(), sentence):
                break
            start = found.start + word.end()
        if start < found.end:
            return sentence.take(Found(found.match, start, found.end))
    return None


def _is_filler(word: str, sentence: Sentence) -> bool:
    plain = word.lower().removesuffix("'s")
    return plain.replace("'", "") in STOP_WORDS or stem(plain) in sentence.tool_stems


def _what_is_left(sentence: Sentence) -> str | None:
    """Take what follows the tool's words, up to what is used up already."""
    rest = sentence.unused()
    start = 0
    for word in re.finditer(r"[^\W\d_]+|\S", rest):
        if not _is_filler(word.group(), sentence):
            break
        start = word.end()
    left = _TRAILING_LEAD.sub("", rest[start:].split("\0")[0]).strip(" .?!,;:")
    if left:
        sentence.take_all()
    return left or None


def _word_before(found: Found) -> str:
    before = re.findall(r"[^\W\d_]+", found.before)
    return stem(before[-1].lower()) if before else ""


def _take_first(sentence: Sentence, places: Iterable[Found]) -> str | None:
    for found in places:
        return sentence.take(found)
    return None
