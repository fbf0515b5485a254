"""Run the app: listen, serve in one process or several, and stop in good order."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pathors_agent.errors import CannotListen
from pathors_agent.server.metrics import shared_by_workers
from pathors_agent.server.process import AppMaker, serve_here
from pathors_agent.server.workers import Supervisor


def serve(
    make_app: AppMaker,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    on_ready: Callable[[str], object] | None = None,
) -> int:
    """Serve until SIGTERM or Ctrl-C; give the exit status.

    Port 0 is any free one; `on_ready` is told the address, as "http://127.0.0.1:8000", once
    requests are answered. The first signal lets running turns go on for the settings'
    `grace_seconds` and takes no new ones; a second ends the process at once. `workers` are
    processes of their own, on one socket, each with an app that `make_app` makes there.

    The status is 0 after an end in good order, else 1.
    """
    with _listening(host, port) as listener:
        address = _address(listener)

        def tell() -> None:
            if on_ready is not None:
                on_ready(address)

        if workers > 1:
            with shared_by_workers():
                return Supervisor(make_app, listener, workers, tell).run()
        return serve_here(make_app, listener, on_ready=tell)


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Hold a socket that is bound to the address, and not yet listened to."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CannotListen(f"cannot listen on {host}: {error.strerror}") from None
    with listener:
        if os.name == "posix":  # elsewhere it would let two programs share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            reason = f"cannot listen on {host}, port {port}: {error.strerror}"
            raise CannotListen(reason) from None
        yield listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
