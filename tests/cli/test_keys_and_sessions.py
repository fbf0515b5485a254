import json
import re
from collections.abc import Iterator

import pytest

from command_line import Server, run, serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    with serving(f"sqlite:///{folder}/sessions.db") as server:
        yield server


def on(server: Server, *arguments: str) -> str:
    """Run a command on the server's database; return what it wrote to standard output."""
    done = run(*arguments, "--database", server.database)
    assert done.returncode == 0, done.stderr
    return done.stdout


# - keys -


def test_key_alone_is_on_stdout_and_opens_the_running_server(server: Server) -> None:
    made = run("keys", "create", "phone", "--database", server.database)

    assert re.fullmatch(r"sk_[0-9A-Za-z]{43}\n", made.stdout)
    assert re.fullmatch(
        r"key_[0-9a-f]{16} of the project demo; the key is shown only now:\n", made.stderr
    )
    assert server.ask("1 + 1", key=made.stdout.strip()).text == "1 + 1 = 2."


def test_revoked_key_is_refused_by_the_running_server_at_once(server: Server) -> None:
    made = json.loads(on(server, "keys", "create", "lost", "--json"))
    assert server.ask("Hi", key=made["key"]).status == 200

    revoked = run("keys", "revoke", "lost", "--database", server.database)

    assert revoked.stdout == ""
    assert revoked.stderr == f"{made['id']} of the project demo is revoked.\n"
    assert server.ask("Hi", key=made["key"]).status == 401


def test_list_shows_keys_by_their_ends_only(server: Server) -> None:
    made = json.loads(on(server, "keys", "create", "tablet", "--json"))
    key = made["key"]

    shown = on(server, "keys", "list")
    told = json.loads(on(server, "keys", "list", "--json"))

    line = next(line for line in shown.splitlines() if "tablet" in line)
    assert line.split()[:4] == [made["id"], "demo", "tablet", f"{key[:7]}...{key[-4:]}"]
    assert key not in shown
    ours = next(each for each in told["data"] if each["id"] == made["id"])
    assert ours == {
        "id": made["id"],
        "project": "demo",
        "name": "tablet",
        "key": f"{key[:7]}...{key[-4:]}",
        "last_four": key[-4:],
        "created_at": made["created_at"],
        "revoked_at": None,
        "last_used_at": None,
    }


def test_keys_of_one_project_are_listed_alone(server: Server) -> None:
    on(server, "keys", "create", "--project", "other")

    told = json.loads(on(server, "keys", "list", "--project", "other", "--json"))

    assert [key["project"] for key in told["data"]] == ["other"]


def test_key_that_is_none_or_two_is_not_revoked(server: Server) -> None:
    on(server, "keys", "create", "twin")
    on(server, "keys", "create", "twin")

    none = run("keys", "revoke", "sk_nobodys", "--database", server.database)
    two = run("keys", "revoke", "twin", "--database", server.database)

    assert (none.returncode, two.returncode) == (1, 1)
    assert none.stderr == "error: no key has this id or name; see `keys list`\n"
    assert two.stderr == "error: 2 keys have this name: pass the id; see `keys list`\n"


# - sessions -


def test_session_is_shown_as_it_was_said(server: Server) -> None:
    server.ask("What is 6 * 7?", session="shown")

    shown = on(server, "sessions", "show", "shown")
    told = json.loads(on(server, "sessions", "show", "shown", "--json"))

    first, *lines = shown.splitlines()
    assert re.fullmatch(r"session shown, started \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first)
    assert lines == [
        "you     What is 6 * 7?",
        'call    calculate(expression="6 * 7")',
        "result  6 * 7 = 42",
        "model   6 * 7 = 42.",
    ]
    assert told["sessionId"] == "shown"
    roles = [message["role"] for message in told["data"]["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant"]


def test_sessions_are_found_by_a_text_in_them(server: Server) -> None:
    server.ask("Convert 5 km to m", session="found")

    shown = on(server, "sessions", "search", "5 km to m")
    told = json.loads(on(server, "sessions", "search", "5 km to m", "--json"))
    nothing = run("sessions", "search", "5 KM TO M", "--database", server.database)

    assert shown.splitlines()[-1].split()[:2] == ["found", "4"]
    assert [found["sessionId"] for found in told["data"]] == ["found"]
    assert told["total"] == 1
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert nothing.stderr == "No session has this text.\n"


def test_ended_session_is_listed_without_contents(server: Server) -> None:
    server.ask("Hi", session="over")

    ended = run("sessions", "end", "over", "--database", server.database)
    again = run("sessions", "end", "over", "--json", "--database", server.database)
    shown = run("sessions", "show", "over", "--database", server.database)
    told = json.loads(on(server, "sessions", "list", "--json"))

    assert ended.stderr == "over has ended; its variables and messages are deleted.\n"
    assert again.returncode == shown.returncode == 1
    assert shown.stderr == (
        "error: the project demo has no such session, or it has ended; "
        "see `sessions list --project demo`\n"
    )
    listed = next(each for each in told["data"] if each["sessionId"] == "over")
    assert listed["endTime"] is not None
    assert "over" in on(server, "sessions", "list")


def test_long_list_says_how_to_see_the_rest(server: Server) -> None:
    for name in ("one", "two"):
        server.ask("Hi", session=name)

    done = run("sessions", "list", "--limit", "1", "--database", server.database)

    assert re.fullmatch(r"1 of \d+; continue with --offset 1\n", done.stderr)


def test_texts_of_sessions_cannot_steer_the_terminal(server: Server) -> None:
    server.ask("\x1b[2Jgone\x07 \u202egone", session="hostile")

    shown = on(server, "sessions", "show", "hostile")
    told = on(server, "sessions", "show", "hostile", "--json")

    assert "you     \ufffd[2Jgone\ufffd \ufffdgone\n" in shown
    assert not {"\x1b", "\x07", "\u202e"} & {*shown, *told}
