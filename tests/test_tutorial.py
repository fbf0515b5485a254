"""The last step of the tutorial, as its reader does it: a real server, and a program that asks it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import PATIENCE_SECONDS, serving

pytestmark = pytest.mark.slow

SERVED = Path(__file__).parent.parent / "docs" / "examples" / "served"


def test_served_agent_answers_the_program_of_the_tutorial(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SERVED, tmp_path / "served"))
    database = f"sqlite:///{tmp_path / 'sessions.db'}"

    with serving(database, "--config", str(folder / "projects.toml"), "--ui") as server:
        address = {
            "PATHORS_BASE_URL": server.base("weather"),
            "PATHORS_API_KEY": server.key("weather"),
        }
        answered = subprocess.run(
            [sys.executable, "ask.py"],
            cwd=folder,
            env=os.environ | address,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    assert answered.stderr == ""
    assert answered.stdout == ("weather (Oslo): sunny in Oslo.\nweather (Rome): sunny in Rome.\n")
