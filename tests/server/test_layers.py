"""The rooms of the server: each imports from those before it only."""

import ast
from pathlib import Path

import pytest

SERVER = Path(__file__).parents[2] / "src" / "pathors_agent" / "server"
PREFIX = "pathors_agent.server."

# Names in one line do not import each other.
ORDER = [
    "settings",
    "http",
    "streams",
    "turns",
    "config running",
    "endpoints front_ends page",
    "app runs_app",
]
PLACES = {room: place for place, rooms in enumerate(ORDER) for room in rooms.split()}


def imported_rooms(path: Path) -> set[str]:
    """Return the server's rooms that a file imports anywhere in it."""
    nodes = ast.walk(ast.parse(path.read_text()))
    modules = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {m.removeprefix(PREFIX).split(".")[0] for m in modules if m.startswith(PREFIX)}


def room(path: Path) -> str:
    return path.relative_to(SERVER).with_suffix("").parts[0]


@pytest.mark.parametrize("name", PLACES)
def test_room_imports_from_rooms_before_it(name: str) -> None:
    files = [path for path in sorted(SERVER.rglob("*.py")) if room(path) == name]
    others = set().union(*map(imported_rooms, files)) - {name}

    assert files
    assert all(PLACES[other] < PLACES[name] for other in others), others


def test_every_room_has_a_place() -> None:
    rooms = {room(path) for path in SERVER.rglob("*.py")} - {"__init__"}

    assert rooms == PLACES.keys()
