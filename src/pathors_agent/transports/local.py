"""Run a model file in this process: llama.cpp's own server, and the HTTP transports to reach it.

xllamacpp brings llama.cpp; it is imported when a transport is constructed.
"""

import secrets
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import Any, Self

from pathors_agent.errors import InvalidSetting, TransportError
from pathors_agent.transports.base import (
    AsyncResponse,
    AsyncTransport,
    Request,
    Response,
    Transport,
)
from pathors_agent.transports.control_tokens import Texts, control_tokens
from pathors_agent.transports.exchange import DEFAULT_TIMEOUTS, Timeouts
from pathors_agent.transports.http import AsyncHTTPTransport, HTTPTransport
from pathors_agent.wire.chat_completions import DEFAULT_PROFILE, EndpointProfile

# With two on a busy machine of two cores, a small model fell from 25 tokens a second to one.
THREADS = 1
# Of a model of 8B parameters, they take 1 GB.
CONTEXT_TOKENS = 8192
# What earlier conversations may keep of their prompts; llama.cpp's own 8 GB are most machines'.
PROMPT_CACHE_MIB = 256

_GGUF_MAGIC = b"GGUF"
# Otherwise llama.cpp tells standard error of each request.
_SILENT = -1


class LocalTransport(Transport):
    """A transport to a model file (GGUF) that runs in this process, for blocking code.

    Needs the extra `local`. The model is loaded at the first request, or at the start of a `with`
    statement. A control token of the model in a text (`<|im_start|>`) is sent broken up, so that no
    text begins a message. It computes with `threads`, one answer after another; prompt and answer
    together have room for `context_tokens`. Close the transport to get the memory back.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        threads: int = THREADS,
        context_tokens: int = CONTEXT_TOKENS,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        profile: EndpointProfile = DEFAULT_PROFILE,
    ) -> None:
        import httpx2

        self.profile = profile
        self._timeouts = timeouts
        self._model = _Model(Path(path), threads, context_tokens)
        self._client = httpx2.Client(**_client_settings())
        self._http: HTTPTransport | None = None

    def __repr__(self) -> str:
        return f"LocalTransport({self._model.path.name!r})"

    @contextmanager
    def send(self, request: Request) -> Generator[Response]:
        """As `HTTPTransport.send`."""
        http = self._running()
        with http.send(self._model.texts.request(request)) as response:
            yield response

    def _running(self) -> HTTPTransport:
        if self._http is None:
            self._http = HTTPTransport(
                self._model.start(),
                api_key=self._model.key,
                timeouts=self._timeouts,
                profile=self.profile,
                client=self._client,
            )
        return self._http

    def close(self) -> None:
        """End the model, and the answers that it is still giving."""
        self._http = None
        # First: llama.cpp waits up to 30 s for a client that does not read.
        self._client.close()
        self._model.stop()

    def __enter__(self) -> Self:
        self._running()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncLocalTransport(AsyncTransport):
    """`LocalTransport` for asyncio and trio; closed by `aclose` or `async with`.

    The model is loaded in a thread. xllamacpp holds Python's lock while it loads: 0.5 s for a file
    of 100 MB. Where nothing may wait for that, load the model before other tasks start.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        threads: int = THREADS,
        context_tokens: int = CONTEXT_TOKENS,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        profile: EndpointProfile = DEFAULT_PROFILE,
    ) -> None:
        import httpx2

        self.profile = profile
        self._timeouts = timeouts
        self._model = _Model(Path(path), threads, context_tokens)
        self._client = httpx2.AsyncClient(**_client_settings())
        self._http: AsyncHTTPTransport | None = None

    def __repr__(self) -> str:
        return f"AsyncLocalTransport({self._model.path.name!r})"

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncGenerator[AsyncResponse]:
        """As `LocalTransport.send`."""
        http = self._http or await self._start()
        async with http.send(self._model.texts.request(request)) as response:
            yield response

    async def _start(self) -> AsyncHTTPTransport:
        from anyio import to_thread

        base_url = await to_thread.run_sync(self._model.start)
        self._http = AsyncHTTPTransport(
            base_url,
            api_key=self._model.key,
            timeouts=self._timeouts,
            profile=self.profile,
            client=self._client,
        )
        return self._http

    async def aclose(self) -> None:
        """As `LocalTransport.close`."""
        from anyio import CancelScope, to_thread

        self._http = None
        with CancelScope(shield=True):
            await self._client.aclose()
            await to_thread.run_sync(self._model.stop)

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _Model:
    """A model file, and the server that runs it: on the loopback interface, with a key of its own.

    The key keeps other users of the machine from it.
    """

    def __init__(self, path: Path, threads: int, context_tokens: int) -> None:
        self._llama = _xllamacpp()
        _check_gguf(path)
        self.path = path
        self.key = secrets.token_urlsafe(32)
        self.texts = Texts(())
        self._threads = threads
        self._context_tokens = context_tokens
        self._lock = Lock()
        self._server: Any = None
        self._is_closed = False

    def start(self) -> str:
        """Load the model, unless it runs already; give the base URL of its server."""
        with self._lock:
            if self._is_closed:
                raise RuntimeError(
                    "The transport was closed: make another, or use it inside its `with`."
                )
            if self._server is None:
                self._server = self._load()
            return f"{self._server.listening_address}/v1"

    def _load(self) -> Any:
        try:
            server = self._llama.Server(self._settings())
            # One that is stopped before its queue runs hangs for ever, and all of Python with it.
            server.handle_completions({"prompt": "a", "max_tokens": 1})
            self.texts = Texts(control_tokens(self.path))
            return server
        except (RuntimeError, ValueError):  # it says no more than that it failed
            raise TransportError(
                f"llama.cpp cannot run {self.path.name}: the file is damaged or of a kind that it "
                "does not know, or there is too little memory.",
                retryable=False,
            ) from None

    def _settings(self) -> Any:
        settings = self._llama.CommonParams()
        settings.model.path = str(self.path)
        settings.model_alias = {self.path.stem}  # what its answers call it; else the whole path
        settings.hostnames, settings.port = ["127.0.0.1"], 0
        settings.api_keys = [self.key]
        settings.ui = settings.endpoint_slots = False
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = self._threads
        settings.n_ctx = self._context_tokens
        settings.cache_ram_mib = PROMPT_CACHE_MIB
        settings.verbosity = _SILENT
        settings.warmup = False
        return settings

    def stop(self) -> None:
        """End the server for good."""
        with self._lock:
            self._is_closed = True
            self._server = None


def _client_settings() -> dict[str, Any]:
    import httpx2

    return {
        "trust_env": False,  # its proxy is not for what stays in this process
        # llama.cpp now and then hangs up on a second request, and a connection costs nothing here.
        "limits": httpx2.Limits(max_connections=None, max_keepalive_connections=0),
    }


def _xllamacpp() -> Any:
    try:
        return import_module("xllamacpp")
    except ModuleNotFoundError as error:
        if error.name != "xllamacpp":
            raise
        raise ModuleNotFoundError(
            "LocalTransport needs xllamacpp: pip install 'pathors-agent[local]'", name="xllamacpp"
        ) from None


def _check_gguf(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(len(_GGUF_MAGIC))
    except OSError as error:
        raise InvalidSetting(f"The model file {path} cannot be read: {error.strerror}.") from None
    if start != _GGUF_MAGIC:
        raise InvalidSetting(f"{path} is no model file in the form GGUF.")
