"""The session endpoints, over HTTP, on the contract's rules."""

import re
from typing import Any
from urllib.parse import quote

import pytest

from live_server import Live, live, on_loop
from pathors_agent.server import Project, make_key
from pathors_agent.testing import AsyncScriptedTransport

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def project(*script: Any, name: str = "demo") -> Project:
    return Project(id=name, transport=AsyncScriptedTransport(*script))


def create(server: Live, session_id: str, **fields: Any) -> Any:
    return server.client.post("/sessions", json={"session_id": session_id, **fields})


def test_session_is_created_and_queried() -> None:
    with live(project()) as server:
        made = create(server, "s1", variables={"name": "Bo"}, provider="web")
        found = server.client.get("/sessions/s1").json()

        assert made.json() == {"sessionId": "s1", "pathwayId": "demo"}
        assert found["sessionId"] == "s1"
        assert found["data"] == found["state"] == {"variables": {"name": "Bo"}, "messages": []}
        assert TIME.fullmatch(found["createdAt"])
        assert TIME.fullmatch(found["updatedAt"])


def test_creating_it_again_is_the_same_and_with_other_content_a_conflict() -> None:
    with live(project()) as server:
        create(server, "s1", variables={"a": 1})
        same = create(server, "s1", variables={"a": 1})
        other = create(server, "s1", variables={"a": 2})

        assert (same.status_code, other.status_code) == (200, 409)


NO_ID = "Invalid session id: session_id: must be 1 to 255 visible ASCII characters without spaces"
NO_SEGMENT = "Invalid session id: session_id: must not be '{}', which URLs cannot hold"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "session_id is required"),
        ({"session_id": ""}, "session_id is required"),
        ({"session_id": 5}, "Invalid request body: session_id: must be a string"),
        ({"session_id": "a b"}, NO_ID),
        ({"session_id": "x" * 256}, NO_ID),
        ({"session_id": "s\r\nx"}, NO_ID),
        ({"session_id": "é"}, NO_ID),
        ({"session_id": "."}, NO_SEGMENT.format(".")),
        ({"session_id": ".."}, NO_SEGMENT.format("..")),
        (
            {"session_id": "s", "variables": []},
            "Invalid request body: variables: must be an object",
        ),
        (
            {"session_id": "s", "provider": "x" * 256},
            "Invalid request body: provider: is over 255 characters",
        ),
    ],
)
def test_session_that_cannot_be_is_refused(body: dict[str, Any], message: str) -> None:
    with live(project()) as server:
        refused = server.client.post("/sessions", json=body)

        assert refused.status_code == 400
        assert refused.json()["error"]["message"] == message


@pytest.mark.parametrize(
    "session_id", ["a/b", "a//b", "/", "a%2Fb", "...", "~!@#$&*()=:;,'\"<>?[]{}|", "search"]
)
def test_every_visible_id_works_in_a_path(session_id: str) -> None:
    with live(project()) as server:
        create(server, session_id)
        found = server.client.get(f"{server.base}/sessions/{quote(session_id, safe='')}")

        assert found.json()["sessionId"] == session_id


@pytest.mark.parametrize("session_id", ["s1\n", "\ns1", "s\r\nX-Evil: 1", "s1\0", "s 1", "é"])
def test_id_that_cannot_be_is_none_in_a_path(session_id: str) -> None:
    with live(project()) as server:
        create(server, "s1")
        refused = server.client.get(f"{server.base}/sessions/{quote(session_id, safe='')}")

        assert refused.status_code == 400
        assert "x-evil" not in refused.headers


def test_unknown_session_is_not_found() -> None:
    with live(project()) as server:
        missing = server.client.get("/sessions/s1")

        assert missing.status_code == 404
        assert missing.json()["error"]["message"] == "Session not found"


def test_ended_session_is_deleted_and_may_be_created_again() -> None:
    with live(project("one", "two")) as server:
        server.complete("first", session="s1")
        ended = server.client.request("DELETE", "/sessions", json={"session_id": "s1"})
        again = server.client.request("DELETE", "/sessions", json={"session_id": "s1"})

        assert (
            ended.json()
            == again.json()
            == {"success": True, "sessionId": "s1", "message": "Session ended successfully"}
        )
        assert server.client.get("/sessions/s1").status_code == 404
        server.complete("second", session="s1")
        assert [m["content"] for m in server.stored("s1")] == ["second", "two"]


def test_search_finds_literal_text_with_case_newest_update_first() -> None:
    with live(project("100%_sure", "Grüße", "none")) as server:
        server.complete("one", session="s1")
        server.complete("two", session="s2")
        server.complete("three", session="s3")

        def found(text: str, **fields: Any) -> list[str]:
            body = {"search_string": text, **fields}
            answered = server.client.post("/sessions/search", json=body)
            assert answered.status_code == 200, answered.text
            return [each["sessionId"] for each in answered.json()["results"]]

        assert found("100%_sure") == ["s1"]
        assert found("%") == ["s1"]
        assert found("_") == ["s3", "s2", "s1"]  # finish_reason
        assert found("Grüße") == ["s2"]
        assert found("grüße") == []
        assert found('"role":"user"') == ["s3", "s2", "s1"]
        assert found('"role":"user"', limit=1, offset=1) == ["s2"]
        assert found("") == ["s3", "s2", "s1"]


def test_search_reports_its_page_and_the_total() -> None:
    with live(project()) as server:
        for number in range(3):
            create(server, f"s{number}")
        answered = server.client.post("/sessions/search", json={"search_string": "", "limit": 2})

        assert answered.json()["pagination"] == {"limit": 2, "offset": 0, "count": 2, "total": 3}
        assert set(answered.json()["results"][0]) == {"sessionId", "data", "createdAt", "updatedAt"}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"search_string": 3},
        {"search_string": "", "limit": 0},
        {"search_string": "", "limit": 201},
        {"search_string": "", "limit": True},
        {"search_string": "", "offset": -1},
        {"search_string": "", "offset": 10**30},
    ],
)
def test_search_that_cannot_be_is_refused(body: dict[str, Any]) -> None:
    with live(project()) as server:
        assert server.client.post("/sessions/search", json=body).status_code == 400


@pytest.mark.parametrize("path", ["/sessions", "/session-history"])
def test_list_has_ended_sessions_too_newest_first(path: str) -> None:
    with live(project("one")) as server:
        server.complete("first", session="s1")
        create(server, "s2", provider="web")
        server.client.request("DELETE", "/sessions", json={"session_id": "s1"})
        listed = server.client.get(path).json()

        assert [each["sessionId"] for each in listed["data"]] == ["s2", "s1"]
        assert [each["messageCount"] for each in listed["data"]] == [0, 2]
        assert [each["provider"] for each in listed["data"]] == ["web", ""]
        assert listed["data"][0]["endTime"] is None
        assert TIME.fullmatch(listed["data"][1]["endTime"])
        assert listed["pagination"] == {"page": 1, "totalPages": 1, "total": 2}


def test_list_is_paged_and_searched() -> None:
    with live(project()) as server:
        for number in range(5):
            create(server, f"s{number}", variables={"n": number})

        def listed(**query: Any) -> Any:
            return server.client.get("/sessions", params=query).json()

        second = listed(page=2, pageSize=2)
        assert [each["sessionId"] for each in second["data"]] == ["s2", "s1"]
        assert second["pagination"] == {"page": 2, "totalPages": 3, "total": 5}
        assert [each["sessionId"] for each in listed(search='"n":3')["data"]] == ["s3"]
        assert [each["sessionId"] for each in listed(search="s4")["data"]] == ["s4"]


@pytest.mark.parametrize("query", ["page=0", "page=x", "pageSize=0", "pageSize=201", "page=1e3"])
def test_page_that_cannot_be_is_refused(query: str) -> None:
    with live(project()) as server:
        refused = server.client.get(f"/sessions?{query}")

        assert refused.status_code == 400
        assert set(refused.json()["error"]) == {"message", "type", "param", "code", "details"}


def test_one_id_in_two_projects_is_two_sessions() -> None:
    with live(project("mine"), project(name="other")) as server:
        server.complete("Hi", session="s1")
        text, key = make_key("other")
        on_loop(server.app, server.store.add_key(key))
        headers = {"Authorization": f"Bearer {text}"}
        base = f"{server.url}/v1/projects/other"

        assert server.client.get(f"{base}/sessions/s1", headers=headers).status_code == 404
        listed = server.client.get(f"{base}/sessions", headers=headers).json()
        searched = server.client.post(
            f"{base}/sessions/search", json={"search_string": ""}, headers=headers
        ).json()
        assert listed["data"] == searched["results"] == []


@pytest.mark.parametrize(
    "base", ["/project/demo", "/project/demo/integration/api", "/api/project/demo"]
)
def test_older_addresses_of_sessions_answer_equally(base: str) -> None:
    with live(project()) as server:
        url = f"{server.url}{base}"
        made = server.client.post(f"{url}/session", json={"session_id": "s1"})
        got = server.client.get(f"{url}/session/s1")
        found = server.client.post(f"{url}/session/search", json={"search_string": ""})
        ended = server.client.request("DELETE", f"{url}/session", json={"session_id": "s1"})

        assert made.json()["sessionId"] == got.json()["sessionId"] == "s1"
        assert found.json()["pagination"]["total"] == 1
        assert ended.json()["success"] is True
        assert {a.headers["deprecation"] for a in (made, got, found, ended)} == {"true"}


def test_every_endpoint_wants_a_key_before_it_reads_anything() -> None:
    with live(project()) as server:
        del server.client.headers["Authorization"]
        answers = [
            server.client.post("/sessions", content=b"{"),
            server.client.get("/sessions/s1"),
            server.client.post("/sessions/search", content=b"{"),
            server.client.request("DELETE", "/sessions", content=b"{"),
            server.client.get("/sessions?page=x"),
            server.client.get("/session-history"),
        ]
        assert {a.status_code for a in answers} == {401}
        assert len({a.content for a in answers}) == 1
