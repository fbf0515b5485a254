"""Take out of a recording what is nobody's business: keys, tokens, and what its owner names."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pathors_agent.messages import JSONValue

# What answers are read by; all other headers tell of servers, accounts and requests.
KEPT_HEADERS = frozenset({"content-type", "retry-after", "retry-after-ms", "x-session-id"})

# Kept by nobody, whatever is asked for.
_SECRET_HEADER = re.compile(r"auth|cookie|key|token|secret|password|signature", re.IGNORECASE)

# Keys of OpenAI's kind and others', bearer tokens, JSON web tokens, secrets in addresses.
_SECRETS = (
    re.compile(rb"\b(?:sk|rk|gsk|pat|ghp)[-_][A-Za-z0-9_-]{16,}"),
    re.compile(rb"(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{16,}"),
    re.compile(rb"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
    re.compile(rb"(?i)(?<=[?&]key=|oken=|cret=)[^&\s\"']{4,}"),
)
_MASK = b"*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrub:
    """What is taken out of requests and answers before they are compared and stored.

    Keys, bearer tokens and the like are always found by their looks and masked; of an answer's
    headers only those are kept that the library reads, and of a request's none.

    - `secrets`: texts to be masked wherever they stand.
    - `headers`: names of further headers of answers to keep.
    - `body`: a function that changes the decoded body of each request, to leave out what differs
      from run to run.
    """

    secrets: Sequence[str] = ()
    headers: Sequence[str] = ()
    body: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.secrets, str) or not all(self.secrets):
            raise ValueError("Scrub.secrets must be a list of texts, none of them empty")
        if secret := next(filter(_SECRET_HEADER.search, self.headers), None):
            raise ValueError(f"Scrub.headers names {secret!r}, which may hold a secret")

    def request_body(self, body: JSONValue) -> JSONValue:
        """Give a request's body without what is secret."""
        value = self.body(body) if self.body is not None else body
        return self._json(value)

    def text(self, text: str) -> str:
        """Mask what is secret in a text."""
        [masked] = self.pieces([text.encode(errors="surrogatepass")])
        return masked.decode(errors="replace")

    def kept_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Give the headers of an answer that may be stored."""
        wanted = KEPT_HEADERS | {name.lower() for name in self.headers}
        return {name: self.text(value) for name, value in headers.items() if name in wanted}

    def pieces(self, pieces: Iterable[bytes]) -> list[bytes]:
        """Mask what is secret in a body, its pieces cut where they were."""
        given = list(pieces)
        body = b"".join(given)
        masked = self._masked(body)
        if masked == body:
            return given
        cuts, start = [], 0
        for piece in given:
            cuts.append(masked[start : start + len(piece)])
            start += len(piece)
        return cuts

    def _masked(self, body: bytes) -> bytes:
        for secret in self.secrets:
            known = secret.encode()
            body = body.replace(known, _MASK * len(known))
        for pattern in _SECRETS:
            body = pattern.sub(lambda match: _MASK * len(match[0]), body)
        return body

    def _json(self, value: JSONValue) -> JSONValue:
        match value:
            case str():
                return self.text(value)
            case list():
                return [self._json(item) for item in value]
            case dict():
                return {self.text(name): self._json(item) for name, item in value.items()}
            case _:
                return value
