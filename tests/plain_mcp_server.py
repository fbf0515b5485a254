"""An MCP server of the standard library only, which says word for word what its script holds.

python plain_mcp_server.py SCRIPT, where SCRIPT is JSON: `tools`, `results` by the name of the tool,
`capabilities`, and `then`: the tools after the first call, which the server announces. A tool
without a result answers with the number of its process. `mcp_in_process` runs the same in a test.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any


class PlainServer:
    """Answers messages as its script says."""

    def __init__(self, script: dict[str, Any]) -> None:
        self._script = script
        self._tools = script["tools"]
        self._then = script.get("then")

    def answers(self, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield what the server sends for a message."""
        key, params = message.get("id"), message.get("params", {})
        match message.get("method"):
            case _ if key is None:
                pass
            case "initialize":
                capabilities = self._script.get("capabilities", {"tools": {}})
                about = {"serverInfo": {"name": "plain", "version": "1"}}
                version = {"protocolVersion": params["protocolVersion"]}
                yield {"id": key, "result": {**version, "capabilities": capabilities, **about}}
            case "tools/list":
                tools = self._tools
                yield {"id": key, "result": tools if isinstance(tools, dict) else {"tools": tools}}
            case "tools/call":
                if self._then is not None:
                    self._tools, self._then = self._then, None
                    yield {"method": "notifications/tools/list_changed"}
                own = {"content": [{"type": "text", "text": str(os.getpid())}]}
                results = self._script.get("results", {})
                yield {"id": key, "result": results.get(params["name"], own)}
            case method:
                yield {"id": key, "error": {"code": -32601, "message": f"there is no {method}"}}


def main() -> None:
    """Answer the lines of the input until it ends."""
    server = PlainServer(json.loads(sys.argv[1]))
    for line in sys.stdin:
        for answer in server.answers(json.loads(line)):
            sys.stdout.write(json.dumps({"jsonrpc": "2.0", **answer}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
