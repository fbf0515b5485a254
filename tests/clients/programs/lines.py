"""The way in which the programs take scenarios: one for each line of standard input."""

import json
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any


def perform(*scenarios: Callable[[dict[str, Any]], Any]) -> None:
    """Perform the scenarios that the lines name, and write what each saw.

    What a library prints goes to standard error, so that standard output holds the answers alone.
    """
    named = {each.__name__: each for each in scenarios}
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            with redirect_stdout(sys.stderr):
                answer = {"seen": named[asked["scenario"]](asked)}
        except Exception:  # noqa: BLE001  (the test reads it)
            answer = {"failed": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


def session_headers(asked: dict[str, Any]) -> dict[str, str]:
    """Return the header that names the scenario's session, if it has one."""
    header = asked["given"].get("header")
    return {"X-Session-ID": header} if header else {}
