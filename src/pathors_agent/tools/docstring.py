"""Read a docstring: what the function does, and what each parameter means. Pure."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple


class Docstring(NamedTuple):
    """A description without its sections, and the descriptions of parameters by name."""

    description: str
    parameters: dict[str, str]


def read_docstring(function: Callable[..., Any]) -> Docstring:
    """Read the docstring of a function in Google, NumPy or Sphinx style."""
    text = inspect.cleandoc(function.__doc__ or "")
    if "\n" not in text:
        return Docstring(text, {})
    return _read_sections(text)


def _read_sections(text: str) -> Docstring:
    # Imported late: it costs as much as the rest of `tools`, and most programs start without it.
    from docstring_parser import ParseError, parse

    try:
        parsed = parse(text)
    except ParseError:
        return Docstring(text, {})
    parameters = {
        name.strip(): param.description
        for param in parsed.params
        for name in param.arg_name.split(",")
        if param.description
    }
    return Docstring((parsed.description or "").strip(), parameters)
