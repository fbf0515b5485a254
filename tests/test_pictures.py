"""The pictures of the docs are what their code draws now, from the table that the core goes by."""

import runpy
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DRAWN = list(runpy.run_path(str(ROOT / "docs" / "drawings" / "draw.py"))["pictures"]())


@pytest.mark.parametrize(("path", "content"), DRAWN, ids=lambda value: getattr(value, "name", ""))
def test_committed_picture_is_what_the_code_draws(path: Path, content: str) -> None:
    assert path.read_text() == content, "run: python docs/drawings/draw.py"


def words(name: str) -> Counter[str]:
    root = ET.fromstring((ROOT / "docs" / "images" / name).read_text())
    return Counter(text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text"))


def test_state_machine_shows_every_legal_move() -> None:
    shown = words("state-machine.svg")

    # Two of the names are events as well as roles; 10 cells of the table hold a role.
    assert shown == {
        "start": 1,
        "USER": 3,
        "ASSISTANT": 1,
        "TOOL": 1,
        "SYSTEM": 2,
        "ANSWER": 2,
        "TOOL_CALLS": 2,
        "TOOL_RESULT": 1,
        "LAST_TOOL_RESULT": 1,
    }


def test_line_of_data_shows_every_step() -> None:
    shown = words("line-of-data.svg")

    assert [str(step) for step in range(1, 12) if shown[str(step)] != 1] == []
