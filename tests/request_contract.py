"""Validate the requests that the suite sends against OpenAI's published schema and our own rules.

`watch` notes what the library writes and what its transports send. Each body that is both is
validated once, so tests of transports may send what they like. The schema stands in the folder of
recorded data; without that folder nothing is validated.
"""

import json
import os
from functools import cache, wraps
from pathlib import Path
from typing import Any

from pathors_agent.testing.history_rules import check_request
from pathors_agent.testing.scripted_transport import Player
from pathors_agent.transports.base import Request
from pathors_agent.transports.endpoint import Endpoint
from pathors_agent.wire.chat_completions import RequestTemplate
from pathors_agent.wire.profiles import EndpointProfile

SHARED = Path(__file__).parent.parent.parent / "shared"
FILE = Path(os.environ.get("CONFORMANCE_DATA", SHARED)) / "openai_contract" / "chat.schema.json"

# Hashes of bodies: of those that the library wrote and no transport sent yet.
_written: set[int] = set()
_found: list[str] = []


def problems_of(body: bytes | str) -> list[str]:
    """Return what does not fit the schema; nothing when the schema is absent."""
    if not FILE.is_file():
        return []
    # Local endpoints need no model; the schema wants one.
    request = {"model": "any", **json.loads(body)}
    return [
        f"{error.instance_path}: {error.message[:300]}"
        for error in _validator().iter_errors(request)
    ]


def taken_problems() -> list[str]:
    """Return the problems of what was sent since the last call."""
    found = _found.copy()
    _found.clear()
    return found


@cache
def _validator() -> Any:
    import jsonschema_rs  # late: a run without the schema has no use for it

    definitions = json.loads(FILE.read_text())["$defs"]
    schema = {"$ref": "#/$defs/CreateChatCompletionRequest", "$defs": definitions}
    return jsonschema_rs.Draft202012Validator(schema)


def _check_sent(request: Request, profile: EndpointProfile | None) -> None:
    key = hash(request.body)
    if key not in _written:
        return
    _written.discard(key)
    _found.extend(problems_of(request.body))
    if profile is not None:  # what the schema cannot say: arguments are JSON, calls have results
        try:
            check_request(json.loads(request.body), profile)
        except AssertionError as error:
            _found.append(str(error))


def watch() -> None:
    """Validate each request from now on."""
    if not FILE.is_file():
        return
    encode = RequestTemplate.encode

    @wraps(encode)
    def noted_encode(*arguments: Any, **options: Any) -> bytes:
        body = encode(*arguments, **options)
        _written.add(hash(body))
        return body

    RequestTemplate.encode = noted_encode  # type: ignore[method-assign]  # the same signature
    # The two places that each request passes: of transports that play, and of those over HTTP.
    Player._take = _checking(Player._take)  # type: ignore[method-assign]  # the same signature
    Endpoint.exchange = _checking(Endpoint.exchange)  # type: ignore[method-assign]  # the same signature


def _checking(send: Any) -> Any:
    @wraps(send)
    def check_and_send(self: Any, request: Request) -> Any:
        _check_sent(request, self.profile if isinstance(self, Player) else None)
        return send(self, request)

    return check_and_send
