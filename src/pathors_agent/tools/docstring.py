"""Read a function's docstring: its description, and those of its parameters. Pure."""

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple


class Docstring(NamedTuple):
    """A description without its sections, and the descriptions of parameters by name."""

    description: str
    parameters: dict[str, str]


def read_docstring(function: Callable[..., Any]) -> Docstring:
    """Read the docstring of a function in Google, NumPy or Sphinx style.

    A `functools.partial` has the docstring of its function; a callable object has those of its
    `__call__` and of its class.
    """
    if isinstance(function, functools.partial):
        return read_docstring(function.func)
    if inspect.isroutine(function):
        return _read(inspect.getdoc(function))  # a method may have that of its base class
    calls = (vars(kind)["__call__"] for kind in type(function).__mro__ if "__call__" in vars(kind))
    call = _read(next((call.__doc__ for call in calls if call.__doc__), None))
    own = _read(type(function).__doc__)
    description = call.description or own.description
    return Docstring(description, own.parameters | call.parameters)


def _read(docstring: str | None) -> Docstring:
    text = inspect.cleandoc(docstring or "")
    if "\n" not in text:
        return Docstring(text, {})
    parameters: dict[str, str] = {}
    lines = _without_sections(text.splitlines(), parameters)
    other = _read_other_styles("\n".join(_underlined(lines)).strip())
    return Docstring(other.description, other.parameters | parameters)


# - Google's style -
#
# Its sections are read here in the forms that people write: under several titles, with names in
# backticks or as a list, and also at the beginning. `docstring_parser` reads the other styles.

_TITLE: Final = re.compile(
    r"(?P<markup>#+\s*|\*\*)?"
    r"(?:args|arguments|params|parameters|kwargs|(?:keyword|other) (?:args|arguments|parameters))"
    r"(?P<end>:?\*\*:?|\s?:)?\s*",  # French has a space before a colon
    re.IGNORECASE,
)
_ANY_TITLE: Final = re.compile(r"#+\s.*|\*\*[^*]+\*\*:?\s*|[A-Z][A-Za-z ]*:\s*")
_BULLET: Final = re.compile(r"^[-*+•]\s+")
_ENTRY: Final = re.compile(
    r"(?P<names>[\w.*`]+(?:\s*,\s*[\w.*`]+)*)"
    r"\s*(?:\(.*?\))?"
    r"(?:\s*:\s*|\s+[-\u2013\u2014]{1,2}\s+)"
    r"(?P<text>.*)"
)


def _without_sections(lines: list[str], parameters: dict[str, str]) -> list[str]:
    """Return the lines outside of sections of parameters; read those inside."""
    kept: list[str] = []
    at = 0
    while at < len(lines):
        end = _end_of_section(lines, at) if _is_title(lines[at].strip()) else at
        if end > at:
            parameters |= _entries(lines[at + 1 : end])
            at = end
        else:
            kept.append(lines[at])
            at += 1
    return kept


def _is_title(line: str) -> bool:
    match = _TITLE.fullmatch(line)
    return match is not None and bool(match["markup"] or match["end"])


def _end_of_section(lines: list[str], start: int) -> int:
    """Return the end of the section that a title begins, or `start` if it has no lines."""
    title = _indent(lines[start])
    filled = (at for at in range(start + 1, len(lines)) if lines[at].strip())
    first = next(filled, start)
    if first == start or _is_underline(lines[first]):
        return start
    # The first line of a docstring has no indentation to compare.
    is_flat = _indent(lines[first]) == title and (start == 0 or _BULLET.match(lines[first].strip()))
    end = first
    for at in range(first, len(lines)):
        line = lines[at]
        if line.strip() and not (_indent(line) > title or (is_flat and _is_inside(line))):
            break
        end = at + 1
    return end if end > first else start


def _is_inside(line: str) -> bool:
    """Return True if an unindented line belongs to an unindented section."""
    return _ANY_TITLE.fullmatch(line) is None and not line.startswith((":", "@"))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _is_underline(line: str) -> bool:
    return set(line.strip()) == {"-"}


def _entries(lines: list[str]) -> dict[str, str]:
    base = min((_indent(line) for line in lines if line.strip()), default=0)
    found: dict[str, list[str]] = {}
    names: list[str] = []
    for line in lines:
        text = line.strip()
        match = _ENTRY.fullmatch(_BULLET.sub("", text, count=1)) if _indent(line) == base else None
        if match:
            names, text = list(_names(match["names"])), match["text"]
        for name in names:
            found.setdefault(name, []).append(text)
    described = ((name, "\n".join(texts).strip()) for name, texts in found.items())
    return {name: text for name, text in described if text}


def _names(written: str) -> Iterator[str]:
    """Yield the names of one entry, without backticks and stars."""
    for name in written.split(","):
        yield name.strip().strip("`*")


# - the other styles -


def _underlined(lines: list[str]) -> Iterator[str]:
    """Lengthen the underline of each title to the title's length, as NumPy's style requires."""
    before = ""
    for line in lines:
        is_short = _is_underline(line) and before.strip() and len(line.strip()) > 2
        yield "-" * len(before) if is_short else line
        before = line


# Sphinx has these field names, which the parser does not know.
_KEYWORD_FIELD: Final = re.compile(r"^(\s*[:@])(?:kwarg|kwparam)\b", re.MULTILINE)


def _read_other_styles(text: str) -> Docstring:
    if "\n" not in text and not text.startswith((":", "@")):
        return Docstring(text, {})
    # Imported late: it costs as much as the rest of `tools`, and few docstrings need it.
    from docstring_parser import ParseError, parse

    try:
        parsed = parse(_KEYWORD_FIELD.sub(r"\1param", text))
    except ParseError:
        return Docstring(text, {})
    parameters = {
        name: param.description
        for param in parsed.params
        for name in _names(param.arg_name)
        if param.description
    }
    return Docstring((parsed.description or "").strip(), parameters)
