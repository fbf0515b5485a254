"""Settings of a server: every limit and timeout, with the reason for its default."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields

# Long conversations with a few images fit; OpenAI's own limit for a request is 32 MB.
MAX_BODY_BYTES = 8 * 1024 * 1024
# About eight million tokens: more than any model reads, and four times the largest request.
MAX_SESSION_BYTES = 32 * 1024 * 1024
# A phone on a bad line sends 8 MiB in less time; a slower client would occupy a connection for
# nothing.
BODY_SECONDS = 60.0
# OpenAI allows a schema 10 levels; a body adds 5 around it.
MAX_JSON_DEPTH = 64
# A conversation of a thousand turns, sent whole.
MAX_MESSAGES = 10_000
# OpenAI's own limit.
MAX_TOOLS = 128
# More turns at once would only wait for each other in one process.
TURNS_PER_PROJECT = 256
TURNS_PER_KEY = 64
# A burst of requests waits; beyond this queue, an immediate refusal is better for the client.
QUEUE_LENGTH = 64
QUEUE_SECONDS = 5.0
# From the contract: a second request waits for the first one's turn.
SESSION_WAIT_SECONDS = 30.0
# Above the default limits of a turn's tools (300 s) and model calls, below what proxies allow.
TURN_SECONDS = 600.0
# How long the session of a dead process stays locked; a lease is renewed three times in this time.
LEASE_SECONDS = 10.0
# Proxies close streams that are silent for 30 to 60 seconds.
PING_SECONDS = 15.0
# A client that reads less than 64 KiB in this time has disconnected or is hostile.
WRITE_SECONDS = 60.0
# Kubernetes gives a process 30 seconds between SIGTERM and SIGKILL.
GRACE_SECONDS = 20.0


# Fields that are not amounts, or may be zero.
_NO_AMOUNTS = {
    "access_log",
    "cors_origins",
    "cors_private_network",
    "event_ids",
    "metrics",
    "queue_length",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Limits and timeouts of a server; sizes in bytes, times in seconds.

    - `max_body_bytes`, `body_seconds`: of a request's body; 413 and 408 beyond.
    - `max_session_bytes`: of a session's variables and messages, as JSON, at the beginning of a
      turn; 413 beyond.
    - `max_json_depth`, `max_messages`, `max_tools`: of a request; 400 beyond.
    - `turns_per_project`, `turns_per_key`: turns at once in this process. `queue_length` more wait
      for up to `queue_seconds`; 429 with Retry-After beyond.
    - `requests_per_minute`, `tokens_per_minute`: completions of a key in this process, and the
      tokens of its turns; None sets no limit. 429 with Retry-After beyond.
    - `session_wait_seconds`: how long a request waits for the session's running turn; 409 beyond.
    - `turn_seconds`: time of a turn; 504 beyond.
    - `lease_seconds`: how long a session stays locked when its process dies in the middle of a
      turn.
    - `ping_seconds`: silence of a stream before a comment is sent.
    - `event_ids`: whether each event of a stream has an id, so that a client can continue after it.
      Turn it off for clients that read only lines of data, such as Dify.
    - `write_seconds`: how long a client may take to read data that was sent to it.
    - `grace_seconds`: how long running turns may go on after SIGTERM.
    - `access_log`: log each request, as an event of the logger `pathors_agent.access`.
    - `metrics`: answer at `/metrics`, without a key, for Prometheus.
    - `cors_origins`: the origins of web pages that may call the API, such as "https://example.com";
      "*" for all. Raises `ValueError` for an origin that no browser sends.
    - `cors_private_network`: whether these pages may call a server on the user's own machine or
      private network from the internet (Chrome asks for it in a preflight).
    """

    max_body_bytes: int = MAX_BODY_BYTES
    body_seconds: float = BODY_SECONDS
    max_session_bytes: int = MAX_SESSION_BYTES
    max_json_depth: int = MAX_JSON_DEPTH
    max_messages: int = MAX_MESSAGES
    max_tools: int = MAX_TOOLS
    turns_per_project: int = TURNS_PER_PROJECT
    turns_per_key: int = TURNS_PER_KEY
    queue_length: int = QUEUE_LENGTH
    queue_seconds: float = QUEUE_SECONDS
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    session_wait_seconds: float = SESSION_WAIT_SECONDS
    turn_seconds: float = TURN_SECONDS
    lease_seconds: float = LEASE_SECONDS
    ping_seconds: float = PING_SECONDS
    write_seconds: float = WRITE_SECONDS
    grace_seconds: float = GRACE_SECONDS
    event_ids: bool = True
    access_log: bool = False
    metrics: bool = False
    cors_origins: tuple[str, ...] = ()
    cors_private_network: bool = True

    def __post_init__(self) -> None:
        check_origins(self.cors_origins)
        if type(self.queue_length) is not int or self.queue_length < 0:
            raise ValueError("ServerSettings.queue_length must be a whole number of 0 or more")
        for name in {field.name for field in fields(self)} - _NO_AMOUNTS:
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float | None):
                raise ValueError(f"ServerSettings.{name} must be a number, not {value!r}")
            if value is not None and not value > 0:
                raise ValueError(f"ServerSettings.{name} must be over 0")


# - check the origins of web pages that may call the api -


# A browser's Origin: a scheme, a host, and a port other than the scheme's own. Extensions and
# desktop shells have schemes of their own, such as chrome-extension://abc.
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://"
    r"(?P<host>[^\s/?#@:\[\]\\*%]+|\[[0-9a-f:.]+\])"
    r"(?::(?P<port>[1-9]\d{0,4}))?",
    re.ASCII,
)
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_MAX_PORT = 65_535
# The origins without a host: pages from files, in sandboxes, and of some desktop shells.
_WITHOUT_HOST = ("null", "file://")


def check_origins(origins: Iterable[str]) -> None:
    """Raise `ValueError` for an origin that no browser ever sends."""
    given: object = origins
    if not isinstance(given, Iterable) or isinstance(given, bytes):
        raise ValueError(f"cors_origins must be a list of origins, not {given!r}")
    if isinstance(origins, str):
        raise ValueError(f"cors_origins must be a list of origins, such as [{origins!r}]")
    for origin in origins:
        if problem := _problem(origin):
            raise ValueError(f"cors_origins: {origin!r} never matches: {problem}")


def _problem(origin: str) -> str | None:
    if origin == "*" or origin in _WITHOUT_HOST:
        return None
    if "*" in origin:
        return "wildcards are not supported; name each origin, or allow all with '*'"
    if not origin.isascii():
        return "browsers send international hosts in ASCII, as xn--..."
    if "://" not in origin:
        return f"the scheme is missing, as in 'https://{origin}'"
    if origin.endswith("/"):
        return f"an origin has no slash at its end; write {origin.rstrip('/')!r}"
    if origin != origin.lower():
        return f"browsers send origins in lower case; write {origin.lower()!r}"
    found = _ORIGIN.fullmatch(origin)
    if found is None or int(found["port"] or 0) > _MAX_PORT:
        return "an origin is a scheme, a host and perhaps a port, as 'https://example.com:8443'"
    if found["port"] and _DEFAULT_PORTS.get(found["scheme"]) == found["port"]:
        return f"browsers leave out the port {found['port']} of {found['scheme']}"
    return None
