"""What the pages on moving here show of other libraries runs with those, against our server."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from client_programs import ROOT, Environments, plain_environment
from live_server import Live, live
from pathors_agent.offline import AsyncOfflineTransport
from pathors_agent.server import Project

# Others are large, and compiled when they are first imported.
SECONDS = 240

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * SECONDS)]

BEFORE = re.compile(r"^```py\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live(Project(id="demo", transport=AsyncOfflineTransport())) as running:
        yield running


# The libraries of the pages, each with the environment that has it.
ENVIRONMENTS = {
    "openai": "openai",
    "openai-agents": "openai-agents",
    "pydantic-ai": "langchain",
    "langchain": "langchain",
}


@pytest.mark.parametrize("library", ENVIRONMENTS)
def test_program_of_another_library_prints_what_the_page_says(
    library: str, server: Live, client_environments: Environments, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "howto" / f"move-from-{library}.md").read_text()
    (program,) = BEFORE.findall(page)

    done = subprocess.run(
        [*client_environments.command(ENVIRONMENTS[library], "python"), "-c", program],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=plain_environment(tmp_path) | {"BASE_URL": server.base, "API_KEY": server.key},
        check=False,
    )

    assert done.stdout == "weather (Oslo): sunny in Oslo.\n", done.stderr
    assert "# -> ... sunny in Oslo." in program
