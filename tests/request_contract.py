"""OpenAI's published schema of requests, for every request that the suite sends.

The schema is read once from the folder of recorded data; without that folder nothing is checked.
"""

import json
import os
from pathlib import Path
from typing import Any, ClassVar

import jsonschema_rs

SHARED = Path(__file__).parent.parent.parent / "shared"
FILE = Path(os.environ.get("CONFORMANCE_DATA", SHARED)) / "openai_contract" / "chat.schema.json"


class RequestContract:
    """The schema, compiled once."""

    _validator: ClassVar[Any] = None

    @classmethod
    def check(cls, body: bytes | str) -> None:
        """Raise AssertionError if a request body does not fit the schema."""
        if not FILE.is_file():
            return
        if cls._validator is None:
            definitions = json.loads(FILE.read_text())["$defs"]
            schema = {"$ref": "#/$defs/CreateChatCompletionRequest", "$defs": definitions}
            cls._validator = jsonschema_rs.Draft202012Validator(schema)
        # Local endpoints need no model; the schema wants one.
        request = {"model": "any", **json.loads(body)}
        problems = [
            f"{error.instance_path}: {error.message[:300]}"
            for error in cls._validator.iter_errors(request)
        ]
        assert not problems, f"a request does not fit the published request schema: {problems}"
