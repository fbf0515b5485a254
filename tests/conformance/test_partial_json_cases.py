"""The JSON texts of JSONTestSuite, and cut texts on whose value two other libraries agree."""

import base64
import json
from pathlib import Path
from typing import Any

from pathors_agent.wire.partial_json import PartialJSON


def cases(folder: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "json" / name).read_text())["cases"]
    return found


def body(case: dict[str, Any]) -> bytes:
    if "repeat" in case:
        return base64.b64decode(case["repeat"]["unit_base64"]) * int(case["repeat"]["times"])
    return base64.b64decode(case["body_base64"])


def read(text: str, piece: int) -> PartialJSON:
    parser = PartialJSON()
    for at in range(0, len(text), piece):
        parser.feed(text[at : at + piece])
    return parser


def test_every_cut_text_has_the_value_of_other_parsers(conformance_data: Path) -> None:
    partial = cases(conformance_data, "partial.json")
    assert len(partial) >= 181

    wrong = [
        (case["prefix"], got)
        for case in partial
        for piece in (1, 3, 1_000)
        if repr(got := read(case["prefix"], piece).value) != repr(case["value"])
    ]

    assert wrong == []


def test_only_valid_objects_are_whole(conformance_data: Path) -> None:
    parsing = cases(conformance_data, "parsing.json")
    assert len(parsing) >= 318

    wrong = []
    for case in parsing:
        parser = read(body(case).decode(errors="replace"), 7)
        match case["expect"]:
            case "accept":
                value = json.loads(body(case))
                right = parser.is_whole_object == isinstance(value, dict)
            case "reject":
                right = not parser.is_whole_object
            case _:
                right = True
        if not right:
            wrong.append(case["name"])

    assert wrong == []


def test_every_valid_container_has_the_value_that_python_reads(conformance_data: Path) -> None:
    valid = [c for c in cases(conformance_data, "parsing.json") if c["expect"] == "accept"]

    wrong = [
        case["name"]
        for case in valid
        if repr(read(body(case).decode() + " ", 5).value) != repr(json.loads(body(case)))
    ]

    assert wrong == []
