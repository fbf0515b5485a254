"""What type checkers see of the public names; mypy is run by `make check`, pyright here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from client_programs import ROOT, Environments

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent / "typing"

SETTINGS = {
    "typeCheckingMode": "strict",
    # An error that is expected has its comment; where it is none, the comment is one.
    "reportUnnecessaryTypeIgnoreComment": "error",
}


@pytest.mark.timeout(900)  # its first use installs it
def test_pyright_takes_the_examples_and_refuses_what_they_say(
    client_environments: Environments, tmp_path: Path
) -> None:
    pyright = client_environments.folder("pyright") / "node_modules" / "pyright" / "index.js"
    for example in EXAMPLES.glob("*.py"):
        (tmp_path / example.name).write_text(example.read_text())
    settings = {**SETTINGS, "include": ["."], "extraPaths": [str(ROOT / "src")]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))

    command = [*client_environments.command("pyright", "node"), str(pyright), "--outputjson"]
    done = subprocess.run(
        [*command, "--pythonpath", sys.executable],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    told = json.loads(done.stdout)

    assert told["summary"]["filesAnalyzed"] == len(list(EXAMPLES.glob("*.py")))
    assert [
        f"{Path(found['file']).name}:{found['range']['start']['line'] + 1}: {found['message']}"
        for found in told["generalDiagnostics"]
    ] == []
