"""litellm's proxy in a process of its own, in litellm's environment: `python -m benchmarks.litellm_proxy`.

It takes the address of the model behind it, and prints its port and its key. `/usage` returns its CPU seconds.
"""

import asyncio
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

# Of our servers; the proxy has another.
PATH = "/v1/projects/bench/chat/completions"

App = Callable[[Any, Any, Any], Awaitable[None]]


def with_usage(proxy: App) -> App:
    """Return the proxy at the path of our servers, beside `/usage`."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/usage":
            body = json.dumps({"cpu": time.process_time()}).encode()
            headers = [(b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        if scope.get("path") == PATH:
            path = "/v1/chat/completions"
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await proxy(scope, receive, send)

    return app


async def main(base_url: str, folder: str) -> None:
    served = {"model": "openai/*", "api_base": base_url, "api_key": "none"}
    config = Path(folder) / "config.yaml"
    # JSON is YAML.
    config.write_text(json.dumps({"model_list": [{"model_name": "*", "litellm_params": served}]}))
    key = f"sk-{secrets.token_hex(16)}"
    os.environ |= {
        "CONFIG_FILE_PATH": str(config),
        "LITELLM_MASTER_KEY": key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it would be fetched over the network
    }

    # The proxy prints its own greetings.
    stdout, sys.stdout = sys.stdout, sys.stderr

    import uvicorn
    from litellm.proxy.proxy_server import app

    settings = uvicorn.Config(with_usage(app), port=0, log_level="error", access_log=False)
    server = uvicorn.Server(settings)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  (uvicorn has no event for it)
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    print(json.dumps({"port": port, "key": key}), file=stdout, flush=True)
    await task


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(main(sys.argv[1], name))
