"""Remove secrets from a recording: keys, tokens and given texts, in every encoding."""

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from pathors_agent.messages import JSONValue

MASK = b"*"

Span = tuple[int, int]

# A key begins after anything but a letter, a digit or an underscore; and after an escape, whose
# last character is one of those.
_START = r"(?:(?<![A-Za-z0-9_])|(?<=\\[bfnrt])|(?<=%[0-9A-Fa-f]{2})|(?<=\\u[0-9A-Fa-f]{4}))"
# The value of a parameter ends where a URL, a JSON string or a form goes on, however that is
# escaped. A value that begins with an asterisk is masked already.
_CHARACTER = r"(?:\\+/|(?!%26|%22|&amp;)[^&\s\"'<>#\\])"
_EQUALS = r"(?:=|%3[Dd]|\\{1,16}u003[dD])"
_SEPARATOR = r"(?:\A|[?&]|%3[Ff]|%26|&amp;|\\u0026|\\u003[fF])"

# What the keys of providers look like; lengths are a little below those that they issue.
_KEYS = (
    r"(?:sk|rk|pk|gsk|pat|csk|sess)[-_][A-Za-z0-9_-]{16,}",
    r"(?:AIza[A-Za-z0-9_-]{20,}|(?:ya29\.|GOCSPX-)[A-Za-z0-9_-]{16,})",  # Google
    r"(?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA)[A-Z0-9]{12,}",  # AWS
    r"(?:gh[opsur]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,})",
    r"gl(?:pat|dt|rt|cbt|ptt)-[A-Za-z0-9_-]{16,}",  # GitLab
    r"(?:xox[a-z]|xapp)-[A-Za-z0-9-]{10,}",  # Slack
    r"(?:hf|api_org)_[A-Za-z0-9]{16,}",  # Hugging Face
    r"(?:npm|r8|tgp_v1|fw|dop_v1|pypi)[-_][A-Za-z0-9_-]{20,}",
    r"(?:xai|pplx|nvapi)-[A-Za-z0-9_-]{16,}",
    r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",  # SendGrid
    r"eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){1,4}",  # JSON web tokens
)
# One search for all, which looks at the first letter before anything else.
_KEY = rf"(?=[skrpgcAyGxahnetfdS]){_START}(?P<secret>{'|'.join(_KEYS)})"

_SHAPES = {
    name: re.compile(pattern.encode())
    for name, pattern in {
        "a key": _KEY,
        "a bearer token": r"(?i)bearer(?: |%20|\+)+(?P<secret>[A-Za-z0-9._~+/=-]{16,})",
        "a private key": (
            r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----(?P<secret>(?!\*).+?)"
            r"-----END [A-Z ]*PRIVATE KEY"
        ),
        "a password in a URL": r"://[^/\s:@\"'\\]*:(?P<secret>(?!\*)[^/\s@\"'\\]+)@",
        "a parameter of a URL": (
            rf"(?i){_SEPARATOR}[\w.-]{{0,40}}?(?:key|token|secret|passwd|password|signature|sig"
            rf"|auth){_EQUALS}(?P<secret>(?!\*){_CHARACTER}+)"
        ),
        "a secret parameter": (
            rf"(?i)(?:token|secret|passwd|password|api[-_]?key)"
            rf"{_EQUALS}(?P<secret>(?!\*){_CHARACTER}{{4,}})"
        ),
    }.items()
}
# A word after "basic" is a secret only if it holds a user name and a password.
_BASIC = re.compile(rb"(?i)basic(?: |%20|\+)+(?P<secret>(?:[A-Za-z0-9+/_-]|%2[BbFf]|\\+/){6,}=*)")


class FoundSecret(NamedTuple):
    """A secret that was found: its place, and its name in errors."""

    span: Span
    name: str


def found_secrets(data: bytes, secrets: Iterable[str] = ()) -> Iterator[FoundSecret]:
    """Find every secret: the given texts in any form, and what has the shape of a key."""
    for number, secret in enumerate(secrets):
        for match in pattern_of(secret).finditer(data):
            yield FoundSecret(match.span(), f"secrets[{number}]")
    for name, pattern in _SHAPES.items():
        for match in pattern.finditer(data):
            yield FoundSecret(match.span("secret"), name)
    for match in _BASIC.finditer(data):
        if _is_basic(match["secret"]):
            yield FoundSecret(match.span("secret"), "the credentials of basic authentication")


def masked(data: bytes, secrets: Iterable[str] = ()) -> bytes:
    """Mask every secret; the length stays the same."""
    result = bytearray(data)
    for found in found_secrets(data, secrets):
        start, end = found.span
        result[start:end] = _mask(data, start, end)
    return bytes(result)


def _mask(data: bytes, start: int, end: int) -> bytes:
    """Return the mask of a span; a number of JSON stays a number."""
    if not data[start:end].isdigit() or not _is_number(data, start, end):
        return MASK * (end - start)
    nines = b"9" * (end - start)
    return nines if nines != data[start:end] else b"8" * (end - start)


def _is_number(data: bytes, start: int, end: int) -> bool:
    """Return whether the digits of a span are a whole JSON number, as far as its ends show."""
    before = data[max(0, start - _NEAR) : start].rstrip()[-1:]
    after = data[end : end + _NEAR].lstrip()[:1]
    return before in (b"", b":", b",", b"[") and after in (b"", b",", b"}", b"]")


# As much white space may stand around a number.
_NEAR = 20


def _is_basic(token: bytes) -> bool:
    plain = re.sub(rb"\\+/|%2[Ff]", b"/", re.sub(rb"%2[Bb]", b"+", token)).rstrip(b"=")
    try:
        pair = base64.b64decode(plain.translate(_STANDARD) + b"=" * (-len(plain) % 4))
    except binascii.Error:
        return False
    return b":" in pair


_STANDARD = bytes.maketrans(b"-_", b"+/")


# - the forms of a text

# What JSON, JavaScript and Python write for a character beside its number.
_SHORT_ESCAPES = {
    "\b": "b",
    "\f": "f",
    "\n": "n",
    "\r": "r",
    "\t": "t",
    '"': '"',
    "'": "'",
    "/": "/",
}
# A text inside of JSON inside of JSON has its backslashes doubled, each time: here four times.
_MOST_BACKSLASHES = 16
_BACKSLASHES = rb"\\{1,%d}" % _MOST_BACKSLASHES


@lru_cache(maxsize=256)
def pattern_of(text: str) -> re.Pattern[bytes]:
    """Return the pattern of a text in every form: escaped, percent-encoded, in base64."""
    # Backslashes in a row are one part: nothing shows where the escape of each ends.
    parts = re.findall(r"(?s)\\+|.", text)
    plain = b"".join(_any_form(part[0], len(part)) for part in parts)
    return re.compile(b"|".join([plain, *_base64_forms(text)]))


def _any_form(character: str, count: int) -> bytes:
    """Return the pattern of a character; `count` is 1, or the length of a row of backslashes."""
    code = character.encode(errors="surrogatepass")
    forms: list[bytes] = [re.escape(code), _percent(code)]
    forms.append(b"".join(_BACKSLASHES + b"x" + _hex(b"%02x" % byte) for byte in code))
    units = character.encode("utf-16-be", errors="surrogatepass").hex()
    forms.append(
        b"".join(
            _BACKSLASHES + b"u" + _hex(units[i : i + 4].encode()) for i in range(0, len(units), 4)
        )
    )
    # JavaScript and Python write any character by its code point, too.
    number = b"%x" % ord(character)
    forms.append(_BACKSLASHES + rb"[uU]\{?0*" + _hex(number) + rb"\}?")
    if character in _SHORT_ESCAPES:
        forms.append(_BACKSLASHES + re.escape(_SHORT_ESCAPES[character].encode()))
    if character == "\\":
        row = rb"\\{%d,%d}" % (count, count * _MOST_BACKSLASHES)
        return b"(?:%s|(?:%s){%d})" % (row, b"|".join(forms), count)
    if character == " ":
        forms.append(rb"\+")
    if "\x80" <= character <= "\xff":  # headers are Latin-1
        latin = character.encode("latin-1")
        forms += [
            re.escape(latin),
            _percent(latin),
            _BACKSLASHES + b"x" + _hex(latin.hex().encode()),
        ]
    if character in _ENTITIES:
        forms.append(b"&" + _ENTITIES[character] + b";")
    # Longer forms first: a backslash alone is the beginning of others.
    forms.sort(key=len, reverse=True)
    return b"(?:" + b"|".join(forms) + b")"


_ENTITIES = {"&": b"amp", "<": b"lt", ">": b"gt", '"': b"quot", "'": b"#39"}


def _percent(code: bytes) -> bytes:
    """Return the pattern of bytes that are percent-encoded once, or several times."""
    return b"".join(b"%(?:25)*" + _hex(b"%02x" % byte) for byte in code)


def _hex(digits: bytes) -> bytes:
    """Return the pattern of hexadecimal digits in small or capital letters."""
    return b"".join(
        b"[%c%c]" % (digit, digit ^ 0x20) if chr(digit).isalpha() else b"%c" % digit
        for digit in digits
    )


def _base64_forms(text: str) -> Iterator[bytes]:
    """Yield the patterns of a text inside of base64, at each of the three places in a group.

    Only the characters that the text decides alone are looked for; a short text has too few.
    """
    code = text.encode(errors="surrogatepass")
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + code)
        first = (0, 2, 3)[offset]
        whole = (len(code) + offset) // 3 * 4
        partial = (0, 1, 2)[(len(code) + offset) % 3]
        core = encoded[first : whole + partial]
        if len(core) >= _SHORTEST_BASE64:
            yield b"".join(map(_base64_character, core))


# By chance, six characters of base64 are equal at one of 69,000 million places.
_SHORTEST_BASE64 = 6


def _base64_character(byte: int) -> bytes:
    match bytes([byte]):
        case b"+":
            return rb"(?:\+|-|%2[Bb]|\\+u002[bB])"
        case b"/":
            return rb"(?:/|_|%2[Ff]|\\+/|\\+u002[fF])"
        case letter:
            return letter


# The headers by which answers are read; all others describe servers, accounts and requests.
KEPT_HEADERS = frozenset({"content-type", "retry-after", "retry-after-ms", "x-session-id"})

# Never kept, even if `Scrub.headers` names it.
_SECRET_HEADER = re.compile(r"auth|cookie|key|token|secret|password|signature", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrub:
    """Rules for removing secrets from requests and answers before they are compared and stored.

    Everything in the shape of a key or a token is masked. No header of a request is stored, and
    only those headers of an answer that the library reads.

    - `secrets`: texts to mask, also if they are escaped, percent-encoded or in base64.
    - `headers`: names of more headers of answers to keep.
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
        """Mask the secrets of a text."""
        code = text.encode(errors="surrogatepass")
        scrubbed = self._masked(code)
        return text if scrubbed == code else scrubbed.decode(errors="replace")

    def kept_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of an answer that may be stored."""
        wanted = KEPT_HEADERS | {name.lower() for name in self.headers}
        return {name: self.text(value) for name, value in headers.items() if name in wanted}

    def pieces(self, pieces: Iterable[bytes]) -> list[bytes]:
        """Mask the secrets of a body, and return it in the same pieces.

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
        """Return the kind of a secret that is still in one of the texts, or None."""
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


# - texts that a stream spreads over several events: deltas of one field -

# Each line of a body that holds JSON, with or without `data:` before it, is an event. The strings
# at one path in all events are the pieces of one text.
Path = tuple[str | int, ...]

_PREFIX = b"data:"


@dataclass(slots=True)
class _EventLine:
    """A line: where it stands in the body, and its JSON."""

    start: int
    end: int
    value: Any
    is_changed: bool = False


@dataclass(slots=True)
class _SpreadText:
    """The strings of one path: where each is kept, and its bytes."""

    places: list[tuple[_EventLine, Any, Any]] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)


def spread_texts(body: bytes) -> Iterator[bytes]:
    """Yield each text of a body, joined over its events."""
    _, texts = _read_events(body)
    return (b"".join(text.pieces) for text in texts)


def masked_spread_texts(
    pieces: Sequence[bytes], mask: Callable[[bytes], bytes]
) -> list[bytes] | None:
    """Return the pieces of a body with what `mask` masks in joined texts, or None without changes.

    Only events that change are written anew; the pieces are cut at the same places of all others.
    """
    body = b"".join(pieces)
    events, texts = _read_events(body)
    for text in texts:
        _mask_text(text, mask)
    changed = [event for event in events if event.is_changed]
    if not changed:
        return None
    return list(_cut(pieces, body, changed))


def _read_events(body: bytes) -> tuple[list[_EventLine], list[_SpreadText]]:
    events, start = [], 0
    texts: dict[Path, _SpreadText] = {}
    for line in body.splitlines(keepends=True):
        begin = start + (len(_PREFIX) if line.startswith(_PREFIX) else 0)
        end = start + len(line.rstrip(b"\r\n"))
        start += len(line)
        try:
            value = json.loads(body[begin:end])
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict | list):
            event = _EventLine(begin, end, value)
            events.append(event)
            _gather(event, value, (), texts)
    return events, list(texts.values())


def _gather(event: _EventLine, value: Any, path: Path, texts: dict[Path, _SpreadText]) -> None:
    """Add the strings in a value to the texts of their paths."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        # A delta says by `index` to which item of a list it belongs.
        step = item["index"] if isinstance(value, list) and _has_index(item) else key
        if isinstance(item, str):
            text = texts.setdefault((*path, step), _SpreadText())
            text.places.append((event, value, key))
            text.pieces.append(item.encode(errors="surrogatepass"))
        elif isinstance(item, dict | list):
            _gather(event, item, (*path, step), texts)


def _has_index(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("index"), int)


def _mask_text(text: _SpreadText, mask: Callable[[bytes], bytes]) -> None:
    whole = b"".join(text.pieces)
    changed = mask(whole)
    if changed == whole:
        return
    start = 0
    for (event, owner, key), piece in zip(text.places, text.pieces, strict=True):
        part = changed[start : start + len(piece)]
        start += len(piece)
        if part != piece:
            owner[key] = part.decode(errors="replace")
            event.is_changed = True


def _cut(pieces: Sequence[bytes], body: bytes, changed: Sequence[_EventLine]) -> Iterator[bytes]:
    """Write the changed events into the body, and cut it into the pieces again."""
    position = 0
    for piece in pieces:
        end = position + len(piece)
        written, at = b"", position
        for event in changed:
            if event.end <= position or event.start >= end:
                continue
            new = json.dumps(event.value, ensure_ascii=False, separators=(",", ":"))
            line = new.encode(errors="replace")
            first, last = event.start >= position, event.end <= end
            # A piece that ends inside of the event takes as much of the new one.
            line_start = 0 if first else min(position - event.start, len(line))
            line_end = len(line) if last else min(end - event.start, len(line))
            written += body[at : max(at, event.start)] + line[line_start:line_end]
            at = min(event.end, end)
        yield written + body[at:end]
        position = end
