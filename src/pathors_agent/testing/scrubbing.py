"""Take secrets out of a recording: keys, tokens, and the texts that are named."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pathors_agent.messages import JSONValue
from pathors_agent.testing.secret_forms import MASK, found_secrets, masked
from pathors_agent.testing.spread_text import masked_spread_texts

# The headers by which answers are read; all others describe servers, accounts and requests.
KEPT_HEADERS = frozenset({"content-type", "retry-after", "retry-after-ms", "x-session-id"})

# Never kept, even if `Scrub.headers` names it.
_SECRET_HEADER = re.compile(r"auth|cookie|key|token|secret|password|signature", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrub:
    """What is taken out of requests and answers before they are compared and stored.

    What has the shape of a key or a token is always masked. No header of a request is stored, and
    of an answer's headers those that the library reads.

    - `secrets`: texts to mask wherever they stand, escaped, percent-encoded or in base64, too.
    - `headers`: names of further headers of answers to keep.
    - `body`: a function that changes the decoded body of each request, for example to leave out
      what differs from run to run.
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
        """Return a request's body with its secrets masked."""
        value = self.body(body) if self.body is not None else body
        return self._json(value)

    def text(self, text: str) -> str:
        """Mask what is secret in a text."""
        code = text.encode(errors="surrogatepass")
        scrubbed = self._masked(code)
        return text if scrubbed == code else scrubbed.decode(errors="replace")

    def kept_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of an answer that may be stored."""
        wanted = KEPT_HEADERS | {name.lower() for name in self.headers}
        return {name: self.text(value) for name, value in headers.items() if name in wanted}

    def pieces(self, pieces: Iterable[bytes]) -> list[bytes]:
        """Mask what is secret in a body, cut into pieces where it was cut before.

        A text that a stream spreads over several events is masked in each of them.
        """
        given = list(pieces)
        given = masked_spread_texts(given, self._masked) or given
        body = b"".join(given)
        scrubbed = self._masked(body)
        if scrubbed == body:
            return given
        cuts, start = [], 0
        for piece in given:
            cuts.append(scrubbed[start : start + len(piece)])
            start += len(piece)
        return cuts

    def missed(self, texts: Iterable[bytes]) -> str | None:
        """Return what kind of secret is still in one of the texts, or None."""
        for text in texts:
            for found in found_secrets(text, self.secrets):
                if text[slice(*found.span)].strip(MASK):
                    return found.name
        return None

    def _masked(self, body: bytes) -> bytes:
        return masked(body, self.secrets)

    def _json(self, value: JSONValue) -> JSONValue:
        match value:
            case str():
                return self.text(value)
            case list():
                return [self._json(item) for item in value]
            case dict():
                return {self.text(name): self._json(item) for name, item in value.items()}
            case None | bool():
                return value
            case _:
                written = json.dumps(value)
                scrubbed = masked(written.encode(), self.secrets).decode()
                return value if scrubbed == written else _number(scrubbed)


def _number(scrubbed: str) -> JSONValue:
    """Return a masked number: a number again, or the text if a part of it was masked."""
    try:
        number: JSONValue = json.loads(scrubbed)
    except ValueError:
        return scrubbed
    return number
