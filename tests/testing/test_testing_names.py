"""The toolkit for tests loads what a program uses of it, and no more."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_transports_need_no_hypothesis() -> None:
    code = """
import sys
sys.modules["hypothesis"] = None
from pathors_agent.testing import *
""".replace("*", "Cassette, HostileTransport, ScriptedTransport, check_tool, expect, replay")

    subprocess.run([sys.executable, "-c", code], check=True)
