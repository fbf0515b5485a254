"""Make arguments for a tool: such as fit, and such as models send by mistake."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from pathors_agent.messages import JSONValue
from pathors_agent.schema.arguments import ArgumentsRefused
from pathors_agent.testing.draws import CannotDraw, Draws
from pathors_agent.testing.schema_values import schema_value
from pathors_agent.tools.tool import Tool

# What is made fits almost always; a schema that refuses so many asks for what only a person knows.
ATTEMPTS = 20

Arguments = dict[str, Any]


def fitting_arguments(tool: Tool, draws: Draws) -> Arguments:
    """Make arguments that the tool takes, or raise `CannotDraw`."""
    refusal = ""
    for _ in range(ATTEMPTS):
        made: Arguments = schema_value(tool.sent_parameters, draws)
        try:
            tool.arguments.read(json.dumps(made))
        except ArgumentsRefused as refused:
            refusal = str(refused)
            continue
        return made
    raise CannotDraw(f"made {ATTEMPTS} times, they {refusal}")


def probable_arguments(parameters: Any, draws: Draws) -> Arguments:
    """Make arguments that probably fit a schema; none where that cannot be done."""
    try:
        made = schema_value(parameters, draws)
    except CannotDraw:
        return {}
    return made if isinstance(made, dict) else {}


def mistaken_arguments(parameters: Any, draws: Draws) -> Mapping[str, JSONValue] | str:
    """Make arguments as models get them wrong: no JSON, no object, or with wrong values."""
    made = probable_arguments(parameters, draws)
    return draws.choice(_MISTAKES)(made, draws)


def cut_arguments(parameters: Any, draws: Draws) -> str:
    """Make arguments that end before their end."""
    text = json.dumps(probable_arguments(parameters, draws), ensure_ascii=False)
    return text[: draws.integer(0, len(text) - 1)]


def _is_empty(made: Arguments, draws: Draws) -> Arguments:
    return {}


def _is_no_object(made: Arguments, draws: Draws) -> str:
    return draws.choice(["null", "[]", "1", '"a"', "", " "])


def _is_no_json(made: Arguments, draws: Draws) -> str:
    return draws.choice(["{", "{'a': 1}", "{a: 1}", "None", "\x00", "[" * 200])


def _is_cut(made: Arguments, draws: Draws) -> str:
    text = json.dumps(made)
    return text[: draws.integer(1, len(text) - 1)]


def _is_sent_twice(made: Arguments, draws: Draws) -> str:
    return json.dumps(made) * 2


def _is_a_text_of_it(made: Arguments, draws: Draws) -> str:
    return json.dumps(json.dumps(made))


def _lacks_one(made: Arguments, draws: Draws) -> Arguments:
    if not made:
        return {}
    name = draws.choice(list(made))
    return {other: value for other, value in made.items() if other != name}


def _has_one_more(made: Arguments, draws: Draws) -> Arguments:
    return {**made, "unknown": 1}


def _has_one_twice(made: Arguments, draws: Draws) -> str:
    if not made:
        return '{"a": 1, "a": 2}'
    name = draws.choice(list(made))
    value = f"{json.dumps(name)}: {json.dumps(made[name])}"
    return "{" + f"{value}, {value}" + "}"


def _has_one_of_another_type(made: Arguments, draws: Draws) -> Mapping[str, JSONValue] | str:
    if not made:
        return "[]"
    name = draws.choice(list(made))
    return {**made, name: draws.choice(_VALUES)}


def _has_no_number(made: Arguments, draws: Draws) -> str:
    name = json.dumps(draws.choice(list(made) or ["a"]))
    return "{" + f"{name}: {draws.choice(['NaN', 'Infinity', '1e999', '-'])}" + "}"


_VALUES: list[JSONValue] = [None, "", 0, -1, 10**30, 0.5, True, [], {}, "5", "é" * 3, "../../etc"]
_MISTAKES: list[Callable[[Arguments, Draws], Mapping[str, JSONValue] | str]] = [
    *(_is_empty, _lacks_one, _has_one_more, _has_one_of_another_type),
    *(_is_no_object, _is_no_json, _is_cut, _is_sent_twice, _is_a_text_of_it),
    *(_has_one_twice, _has_no_number),
]
