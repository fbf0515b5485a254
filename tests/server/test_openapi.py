"""What the server answers is what its OpenAPI document says: requests made from the document."""

from collections.abc import Iterator
from typing import Any

import anyio
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from live_server import events, live
from pathors_agent.offline import AsyncOfflineTransport
from pathors_agent.server import Project, create_app, make_key
from pathors_agent.stores import MemoryStore

pytestmark = pytest.mark.slow

KEY, STORED_KEY = make_key("demo")
STORE = MemoryStore()
APP = create_app([Project(id="demo", transport=AsyncOfflineTransport())], STORE, front_ends=True)
DOCUMENT = schemathesis.openapi.from_dict(APP.openapi())
DOCUMENT.app = APP
DOCUMENT.config.parameters = {"project_id": "demo"}
DOCUMENT.config.max_stream_events = 1_000
# The key is given below, and what no operation knows is ignored everywhere.
DOCUMENT.config.generation.update(with_security_parameters=False, allow_extra_parameters=False)


@pytest.fixture(scope="module", autouse=True)
def _served() -> Iterator[None]:
    anyio.run(STORE.add_key, STORED_KEY)
    yield
    asgi.shutdown_lifespans()


CHECKED = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
    ignored_auth,
]


HEADERS = {"Authorization": f"Bearer {KEY}"}
BOUNDED = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate),  # to shrink what failed takes a minute
    suppress_health_check=list(HealthCheck),
)


@DOCUMENT.parametrize()
@BOUNDED
def test_server_answers_as_its_document_describes(case: Any) -> None:
    case.call_and_validate(checks=CHECKED, headers=HEADERS)


COMPLETION = DOCUMENT["/v1/projects/{project_id}/chat/completions"]["POST"]


CASES = COMPLETION.as_strategy(GenerationMode.POSITIVE, path_parameters={"project_id": "demo"})


@given(case=CASES, stream=st.booleans())
@BOUNDED
def test_request_that_fits_the_document_is_answered_as_it_says(case: Any, stream: bool) -> None:
    # No schema can describe which messages may follow each other, or that names differ.
    case.body["messages"] = [{"role": "user", "content": "What is 2 + 3?"}]
    tools = case.body["tools"] = (case.body.get("tools") or [])[:1]
    case.body["functions"] = [] if tools else (case.body.get("functions") or [])[:1]
    case.body["stream"] = stream
    case.headers = {}
    case.body.pop("session_id", None)

    answered = case.call_and_validate(checks=CHECKED, headers=HEADERS)

    assert answered.status_code == 200, answered.text
    if stream:
        chunks = events(answered.text)
        assert chunks.pop() == "[DONE]"
        for chunk in chunks:
            CHUNK.validate(chunk)
    else:
        ANSWER.validate(answered.json())


def component(name: str) -> Any:
    """Return the validator of one of the document's schemas, which takes no field that it lacks."""
    schemas = APP.openapi()["components"]["schemas"]
    closed = {each: {**schema, "additionalProperties": False} for each, schema in schemas.items()}
    return Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": {"schemas": closed}}
    )


CHUNK, ANSWER = component("CompletionChunk"), component("CompletionAnswer")


def test_document_names_the_key_and_every_error_by_our_body() -> None:
    document = APP.openapi()
    operations = [
        (path, operation)
        for path, methods in document["paths"].items()
        for operation in methods.values()
    ]

    assert document["security"] == [{"key": []}]
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, operation in operations:
        answers = operation["responses"]
        needed = set() if path in ("/healthz", "/readyz") else {"400", "401", "404", "500", "503"}
        assert needed <= set(answers), path
        for status in set(answers) - {"200", "204"}:
            schema = answers[status]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ErrorBody"}, (path, status)
        assert all(parameter["schema"] for parameter in operation.get("parameters", ()))
    assert "ValidationError" not in str(document)


def test_document_is_open_and_the_same_each_time() -> None:
    with live(Project(id="demo", transport=AsyncOfflineTransport()), front_ends=True) as server:
        server.client.headers.pop("Authorization")
        first = server.client.get(f"{server.url}/openapi.json")
        again = server.client.get(f"{server.url}/openapi.json")

        assert first.status_code == 200
        assert first.json() == again.json() == APP.openapi()


@pytest.mark.parametrize(
    "path",
    [
        "sessions/%FF",
        "sessions/%00",
        "sessions/a%20b",
        "sessions/" + "x" * 256,
        "sessions?page=%FF",
        "sessions?page=x",
        "sessions?page=1&page=0",
        "sessions?pageSize=1e3",
        "sessions?pageSize=\u0663",
        "sessions?search=" + "x" * 1001,
        "nowhere",
    ],
)
def test_bad_address_is_reported_in_the_apis_form(path: str) -> None:
    with live(Project(id="demo", transport=AsyncOfflineTransport())) as server:
        refused = server.client.get(f"{server.base}/{path}")

        assert refused.status_code in (400, 404)
        error = refused.json()["error"]
        assert set(error) == {"message", "type", "param", "code", "details"}
