"""A scripted model server for many runs at once: each run's prompt names what is done to it."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from servers import CLOSE, Received, ScriptedServer, Step, answer

Script = Sequence[Step]

DONE = [
    answer(
        b'data: {"choices":[{"index":0,"delta":{"content":"Done."},"finish_reason":"stop"}]}\n\n',
        Connection="close",
    )
]


class CaseServer(ScriptedServer):
    """Answers the n-th request of a case by the n-th of its scripts; those after by the last.

    The first line of a prompt names its case. A request that brings the results of tools is
    answered with "Done.".
    """

    def __init__(self, cases: Mapping[str, Sequence[Script]]) -> None:
        self._cases = cases
        self.count: Counter[str] = Counter()
        self.results: Counter[str] = Counter()
        super().__init__()

    def script_for(self, request: Received) -> Script:
        if not request.body:
            return [CLOSE]  # a redirect that was followed
        messages = json.loads(request.body)["messages"]
        prompt = next(m["content"] for m in messages if m["role"] == "user")
        case = prompt.partition("\n")[0]
        self.count[case] += 1
        if messages[-1]["role"] == "tool":
            self.results[case] += 1
            return DONE
        scripts = self._cases[case]
        return scripts[min(self.count[case], len(scripts)) - 1]


@contextmanager
def serving(cases: Mapping[str, Sequence[Script]]) -> Iterator[CaseServer]:
    """Run a server for these cases."""
    server = CaseServer(cases)
    try:
        yield server
    finally:
        server.stop()
