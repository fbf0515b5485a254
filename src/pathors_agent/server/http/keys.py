"""Authentication: API keys, stored as digests, and users that the app authenticates itself."""

import asyncio
import hashlib
import hmac
import secrets
import string
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
from starlette.requests import Request

from pathors_agent.errors import StoreError
from pathors_agent.server.http.problems import unauthorized, unavailable
from pathors_agent.stores.base import Store
from pathors_agent.stores.values import StoredKey, now
from pathors_agent.tools.registry import is_async

KEY_PREFIX = "sk_"
# 256 bits; in base62 they are 43 characters.
_KEY_BYTES = 32
_KEY_CHARACTERS = 43
_SHOWN = 4
# No key is longer, so a longer text is refused without a query of the store.
MAX_KEY = 200
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
# Often enough to see which keys are in use; a write for each request would cost more than the
# request.
NOTE_USED_SECONDS = 60.0
# A revoked key is refused within a second, including the time of the request.
KNOWN_SECONDS = 0.5
MAX_KNOWN = 1_000

# An app's own authentication calls a database or an identity provider while the client waits.
AUTHENTICATE_SECONDS = 10.0
MAX_PRINCIPAL_ID = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A user or a program that an app authenticates itself, see `create_app(authenticate=...)`.

    - `project`: the project that the request may use.
    - `id`: the app's id of the user, 1 to 255 printable characters. The limits per key apply to it.
    - `own_sessions`: whether the user has sessions of their own, and can use no others. False
      shares the sessions of the project's keys, and of all users without sessions of their own.
    """

    project: str
    id: str = field(repr=False)
    own_sessions: bool = True

    def __post_init__(self) -> None:
        text: object = self.id  # ids of databases are often numbers
        is_text = isinstance(text, str) and text.isprintable()
        if not (is_text and 0 < len(self.id) <= MAX_PRINCIPAL_ID):
            raise ValueError(
                f"Principal.id must be a text of 1 to {MAX_PRINCIPAL_ID} printable characters"
            )


Authenticate = Callable[[Request], Awaitable[Principal | None]]
"""Returns the principal of a request, or None if only a key can authenticate it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The key or the principal of a request.

    `id` identifies it in limits and Idempotency-Keys. `space` is the name of its sessions in the
    store: the project's, or the principal's own. `principal` is the app's id of the user.
    """

    project: str
    id: str
    space: str
    principal: str | None = None


def _of_principal(principal: Principal) -> Caller:
    # Ids of projects and keys never contain "/" or ":".
    own = f"{principal.project}/{principal.id}"
    return Caller(
        project=principal.project,
        id=f"user:{principal.id}",
        space=own if principal.own_sessions else principal.project,
        principal=principal.id,
    )


def make_key(project: str, *, name: str = "") -> tuple[str, StoredKey]:
    """Return a new key: its text, which is not stored, and the value to store."""
    text = KEY_PREFIX + _base62(int.from_bytes(secrets.token_bytes(_KEY_BYTES)))
    key = StoredKey(
        id=f"key_{secrets.token_hex(8)}",
        project=project,
        digest=digest_of(text),
        prefix=text[: len(KEY_PREFIX) + _SHOWN],
        last_four=text[-_SHOWN:],
        name=name,
        created_at=now(),
    )
    return text, key


def digest_of(text: str) -> str:
    """Return the SHA-256 of a key.

    It has no salt, because keys are random and the store finds them by their digest.
    """
    return hashlib.sha256(text.encode()).hexdigest()


def _base62(number: int) -> str:
    digits = []
    for _ in range(_KEY_CHARACTERS):
        number, digit = divmod(number, len(_BASE62))
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


class Authenticator:
    """Finds the caller of a request: a principal of the app's own, or a key of the store.

    A key is cached for less than a second, so that a burst of requests reads the store once, and a
    revoked key is refused in every process within a second.
    """

    def __init__(self, store: Store, authenticate: Authenticate | None = None) -> None:
        self._store = store
        if authenticate is not None and not is_async(authenticate):
            raise TypeError("create_app: authenticate= must be an async function")
        self._authenticate = authenticate
        self._noted: dict[str, float] = {}
        self._known: dict[str, tuple[float, StoredKey]] = {}
        self._lookups: dict[str, asyncio.Future[StoredKey | None]] = {}

    async def caller_of(self, request: Request, project: str) -> Caller:
        """Return the caller of a request to this project; raise one `Problem` for all others."""
        principal = await self._principal_of(request)
        if principal is None:
            key = await self._key_of(request)
            if not hmac.compare_digest(key.project.encode(), project.encode()):
                raise unauthorized()
            await self._note_used(key)
            return Caller(project=project, id=key.id, space=project)
        if principal.project != project:
            raise unauthorized()
        return _of_principal(principal)

    async def project_of(self, request: Request) -> str:
        """Return the project that a request's key or principal may use."""
        principal = await self._principal_of(request)
        return (await self._key_of(request) if principal is None else principal).project

    async def _principal_of(self, request: Request) -> Principal | None:
        if self._authenticate is None:
            return None
        # Without its body: it is not known yet whether the request may send one.
        asked = Request(request.scope)
        with anyio.move_on_after(AUTHENTICATE_SECONDS):
            principal = await self._authenticate(asked)
            if principal is not None and not isinstance(principal, Principal):
                kind = type(principal).__name__
                raise TypeError(f"authenticate= must return a Principal or None, not {kind}")
            return principal
        raise unavailable("Requests cannot be authenticated now")

    async def _key_of(self, request: Request) -> StoredKey:
        text = bearer(request)
        digest = digest_of(text)
        key = await self._found(digest) if text else None
        # Compared again, because databases compare texts in different ways.
        if key is None or not hmac.compare_digest(key.digest, digest):
            raise unauthorized()
        if key.revoked_at is not None:
            raise unauthorized()
        return key

    async def _found(self, digest: str) -> StoredKey | None:
        until, key = self._known.get(digest, (0.0, None))
        if time.monotonic() < until:
            return key
        lookup = self._lookups.get(digest)
        if lookup is None:  # a burst of requests reads the store once
            lookup = self._lookups[digest] = asyncio.ensure_future(self._find_in_store(digest))
            lookup.add_done_callback(lambda done: self._end_lookup(digest, done))
        return await asyncio.shield(lookup)

    async def _find_in_store(self, digest: str) -> StoredKey | None:
        moment = time.monotonic()
        key = await self._store.find_key(digest)
        if key is not None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[digest] = (moment + KNOWN_SECONDS, key)
        return key

    def _end_lookup(self, digest: str, done: "asyncio.Future[StoredKey | None]") -> None:
        self._lookups.pop(digest, None)
        if not done.cancelled():
            done.exception()  # marks it as retrieved, in case nothing waits for it

    async def _note_used(self, key: StoredKey) -> None:
        moment = time.monotonic()
        if moment - self._noted.get(key.id, -NOTE_USED_SECONDS) < NOTE_USED_SECONDS:
            return
        self._noted[key.id] = moment
        # A read-only store still answers requests that only read.
        with suppress(StoreError):
            await self._store.note_key_used(key.id)


def bearer(request: Request) -> str:
    """Return the bearer token of a request, or "" if it has none that can be a key."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    text = text.strip()
    fits = scheme.lower() == "bearer" and len(text) <= MAX_KEY and text.isascii()
    return text if fits else ""
