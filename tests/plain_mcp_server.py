"""An MCP server of the standard library only, which says word for word what its script holds.

python plain_mcp_server.py SCRIPT, where SCRIPT is JSON: `tools`, `results` by the name of the tool,
`capabilities`, and `then`: the tools after the first call, which the server announces. A tool
without a result answers with the number of its process.
"""

import json
import os
import sys
from typing import Any


def put(**message: Any) -> None:
    """Send one message."""
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Answer requests until the input ends."""
    script = json.loads(sys.argv[1])
    tools, then = script["tools"], script.get("then")
    for line in sys.stdin:
        message = json.loads(line)
        key, params = message.get("id"), message.get("params", {})
        match message.get("method"):
            case _ if key is None:
                pass
            case "initialize":
                put(
                    id=key,
                    result={
                        "protocolVersion": params["protocolVersion"],
                        "capabilities": script.get("capabilities", {"tools": {}}),
                        "serverInfo": {"name": "plain", "version": "1"},
                    },
                )
            case "tools/list":
                listing = tools if isinstance(tools, dict) else {"tools": tools}
                put(id=key, result=listing)
            case "tools/call":
                if then is not None:
                    tools, then = then, None
                    put(method="notifications/tools/list_changed")
                pid = {"content": [{"type": "text", "text": str(os.getpid())}]}
                put(id=key, result=script.get("results", {}).get(params["name"], pid))
            case method:
                put(id=key, error={"code": -32601, "message": f"there is no {method}"})


if __name__ == "__main__":
    main()
