"""Wrong values of options, errors in the command line's words, and machine-readable output."""

import json
import re
import sys
from datetime import datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pathors_agent.cli.app import app
from pathors_agent.cli.output import in_own_words

NOWHERE = "sqlite:////nowhere/x.db"
COMMANDS = ["", "serve", "chat", "check", "demo", "worker", "batch"]
COMMANDS += ["keys", *(f"keys {each}" for each in ("create", "list", "revoke"))]
COMMANDS += ["sessions", *(f"sessions {each}" for each in ("list", "show", "search", "end"))]
RUNS = ["list", "show", "cancel", "resume", "delete", "waiting", "approve", "deny", "answer"]
COMMANDS += ["runs", *(f"runs {each}" for each in (*RUNS, "limit", "doubts", "forget", "serve"))]

WRONG: list[tuple[str, list[str], str]] = [
    ("runs list --status done", ["--status"], "'done' is not one of 'queued', 'running'"),
    ("runs list --offset 9223372036854775808", ["--offset"], "9223372036854775807"),
    ("sessions list --project p --offset 9223372036854775808", ["--offset"], "9223372036854775807"),
    ("runs cancel --status finished", ["--status"], "queued or running or suspended"),
    ("runs list --since yesterday", ["--since"], "an age such as 30m"),
    ("runs approve r c --arguments [1]", ["--arguments"], "a JSON object"),
    ("runs list --limit 0", ["--limit"], "'0' is not a whole number from 1 to 10000"),
    (
        "runs list --offset=-1",
        ["--offset"],
        "'-1' is not a whole number from 0 to 9223372036854775807",
    ),
    ("serve --port 65536", ["--port"], "from 0 to 65535"),
    ("serve --workers two", ["--workers"], "'two' is not a whole number from 1 to 256"),
    ("check http://h/v1 --seconds nan", ["--seconds"], "'nan' is not a number from 1 to 86400"),
    ("chat --url http://127.0.0.1:9/v1/chat/completions", ["--url"], "leave out /chat/completions"),
    ("check http://127.0.0.1:9/v1/chat/completions/", ["URL"], "leave out /chat/completions"),
    ("chat --key sk_x", ["--key"], "pass --url, or set PATHORS_BASE_URL"),
    ("chat --model small", ["--model"], "pass --url, or set PATHORS_BASE_URL"),
    ("chat --session s", ["--session"], "pass --url, or set PATHORS_BASE_URL"),
    ("demo --model small", ["--model"], "set PATHORS_BASE_URL"),
    (
        "runs list --database mysql://me:s3cret@x/y",
        ["--database"],
        "sqlite:///FILE or postgresql://",
    ),
    ("keys create --project a/b", ["--project"], "A-Z a-z 0-9 . _ ~ -"),
    ("keys list --project ..", ["--project"], "A-Z a-z 0-9 . _ ~ -"),
    ("sessions list --project", ["--project"], "requires an argument"),
    ("worker --app agent --queue q", ["--app"], "MODULE:OBJECT"),
    ("worker --app :agent --queue q", ["--app"], "MODULE:OBJECT"),
    ("worker --app .a:b --queue q", ["--app"], "MODULE:OBJECT"),
    ("worker --app nothing_here:agent --queue q", ["--app"], "no module nothing_here"),
    ("worker --app json:agent --queue q", ["--app"], "has no 'agent'"),
    ("worker --app json:dumps --queue q", ["--app"], "an AsyncAgent"),
    ("worker --app json:decoder --queue q", ["--app"], "of the type module"),
    ("batch pyproject.toml --output . --app a:b", ["--output"], "name a file in a folder"),
    ("worker --app a:b --queue q --retention 3x", ["--retention"], "such as 30d"),
    ("serve --config missing.toml", ["--config"], "does not exist"),
    ("serve --access-log xml", ["--access-log"], "'xml' is not one of 'text', 'json'"),
    ("chat --url localhost:8000", ["--url"], "https://host/path"),
    ("chat --url http://host:port/v1", ["--url"], "https://host/path"),
    ("chat --session ..", ["--session"], "must not be"),
    ("check ftp://host/v1", ["URL"], "https://host/path"),
]


def run(arguments: list[str]) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize(("line", "names", "allowed"), WRONG, ids=[line for line, _, _ in WRONG])
def test_wrong_value_is_refused_with_its_option_and_the_allowed_values(
    line: str, names: list[str], allowed: str
) -> None:
    shown = run(line.split())

    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "Traceback" not in shown.stderr
    assert "Value error" not in shown.stderr
    for text in (*names, allowed):
        assert text in shown.stderr
    assert "s3cret" not in shown.stderr


@pytest.mark.parametrize("key", ["se cret ", "s\u00e9cret", "secret\n"])
def test_key_that_cannot_be_sent_is_refused_and_not_repeated(key: str) -> None:
    shown = run(["chat", "--url", "http://127.0.0.1:1/v1", "--key", key])

    assert shown.exit_code == 2
    assert "--key" in shown.stderr
    assert key.strip() not in shown.stderr


@pytest.mark.parametrize("option", ["name", "queue"])
def test_empty_name_is_refused(option: str) -> None:
    names = {"queue": "q", "name": "n"} | {option: " "}
    options = [text for name, value in names.items() for text in (f"--{name}", value)]
    shown = run(["worker", "--app", "json:dumps", *options])

    assert shown.exit_code == 2
    assert f"--{option}" in shown.stderr


@pytest.mark.parametrize(
    "command",
    [
        "keys revoke",
        "runs limit",
        "serve --host",
        "runs serve --host",
        *(f"runs list --{each}" for each in ("agent", "queue")),
    ],
)
def test_name_of_an_unset_variable_is_refused(command: str) -> None:
    """Keys may have an empty name, so that the command would revoke one of them."""
    shown = run([*command.split(), ""])

    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "must not be empty" in shown.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_short_option_shows_help(command: str) -> None:
    short, long = (run([*command.split(), option]) for option in ("-h", "--help"))

    assert short.exit_code == 0
    assert short.stdout == long.stdout


@pytest.mark.parametrize("group", ["", "keys", "sessions", "runs"])
def test_list_of_commands_cuts_no_sentence(group: str) -> None:
    shown = CliRunner().invoke(app, [*group.split(), "--help"], env={"COLUMNS": "80"}).stdout

    listed = shown.partition("Commands:\n")[2]
    assert len(listed.splitlines()) > 2
    assert "..." not in listed


NO_DATA = ("", "keys", "sessions", "runs", "worker")


@pytest.mark.parametrize("command", [each for each in COMMANDS if each not in NO_DATA])
def test_each_command_that_writes_data_has_json(command: str) -> None:
    assert "--json" in run([*command.split(), "--help"]).stdout


def test_project_that_the_database_does_not_know_is_refused_with_those_it_knows(
    tmp_path: Path,
) -> None:
    database = ["--database", f"sqlite:///{tmp_path / 'sessions.db'}"]
    assert run(["sessions", "list", "--project", "new", *database]).exit_code == 0
    run(["keys", "create", "--project", "support", *database])
    run(["keys", "create", "--project", "demo", *database])

    for command in (["sessions", "list"], ["sessions", "end", "s"], ["keys", "list"]):
        shown = run([*command, "--project", "suport", *database])
        assert shown.exit_code == 2
        assert "--project suport" in shown.stderr
        assert "demo, support" in shown.stderr


def test_tables_and_json_have_the_same_iso_times(tmp_path: Path) -> None:
    database = ["--database", f"sqlite:///{tmp_path / 'sessions.db'}"]
    run(["keys", "create", *database])
    (key,) = json.loads(run(["keys", "list", "--json", *database]).stdout)["data"]

    shown = run(["keys", "list", *database]).stdout

    (time,) = re.findall(r"\d{4}-\d\d-\d\dT\S+", shown)
    assert time == key["created_at"]
    assert datetime.fromisoformat(time).utcoffset() is not None


def test_data_folder_that_cannot_be_created_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PATHORS_DATA_DIR", str(tmp_path / "file" / "data"))

    shown = run(["keys", "list"])

    assert (shown.exit_code, shown.stdout) == (1, "")
    assert shown.stderr.startswith(f"error: the data folder {tmp_path}/file/data cannot be created")
    assert "PATHORS_DATA_DIR" in shown.stderr


def test_revoked_key_is_not_revoked_by_its_name_again(tmp_path: Path) -> None:
    database = ["--database", f"sqlite:///{tmp_path / 'sessions.db'}"]
    run(["keys", "create", "laptop", *database])
    run(["keys", "revoke", "laptop", *database])

    again = run(["keys", "revoke", "laptop", *database])

    assert again.exit_code == 1
    assert again.stderr == "error: the key with this name is already revoked; see `keys list`\n"


@pytest.mark.parametrize("command", ["keys list", "sessions list", "sessions search x"])
def test_lists_are_one_object_with_their_data(command: str, tmp_path: Path) -> None:
    database = ["--database", f"sqlite:///{tmp_path / 'sessions.db'}"]

    shown = run([*command.split(), "--json", *database])

    assert json.loads(shown.stdout)["data"] == []


@pytest.mark.parametrize(
    ("code", "error"), [("1 / 0", "ZeroDivisionError: division"), ("import no.such", "no module")]
)
def test_module_that_cannot_be_imported_is_shown_without_our_frames(
    code: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_agent.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    shown = run(["worker", "--app", "broken_agent:agent", "--queue", "q"])

    assert shown.exit_code == 1
    *trace, last = shown.stderr.lower().splitlines()
    assert trace[1] == f'  file "{tmp_path}/broken_agent.py", line 1, in <module>'.lower()
    assert last.startswith("error: --app broken_agent:agent: the module cannot be imported: ")
    assert error.lower() in last


def test_revoked_key_is_written_as_json(tmp_path: Path) -> None:
    database = ["--database", f"sqlite:///{tmp_path / 'sessions.db'}"]
    made = json.loads(run(["keys", "create", "--json", *database]).stdout)

    shown = run(["keys", "revoke", made["id"], "--json", *database])

    assert json.loads(shown.stdout) == {"id": made["id"], "project": "demo", "revoked": True}


@pytest.mark.parametrize(
    ("text", "options", "shown"),
    [
        ("x; check the key (api_key=, PATHORS_API_KEY)", ["api_key"], "(--key, PATHORS_API_KEY)"),
        ("x; check the key (api_key=, PATHORS_API_KEY)", [], "the key (PATHORS_API_KEY)"),
        ("check what it may do (api_key=, model=)", ["model"], "what it may do (--model)"),
        ("the address and the model (base_url=, model=)", [], "the address and the model"),
        ("No API key: pass api_key= or set PATHORS_API_KEY.", ["api_key"], "pass --key or set P"),
        ("No API key: pass api_key= or set PATHORS_API_KEY.", [], "key: set PATHORS_API_KEY."),
        ("base_url is not an address", ["base_url"], "--url is not an address"),
        ("base_url is not an address", [], "PATHORS_BASE_URL is not an address"),
        ("the provider says model='x'", ["model"], "says model='x'"),
    ],
)
def test_error_names_options_in_place_of_parameters(
    text: str, options: list[str], shown: str
) -> None:
    names = {"api_key": "--key", "base_url": "--url", "model": "--model"}

    assert shown in in_own_words(text, {name: names[name] for name in options})


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completes_commands_and_options(shell: str) -> None:
    words = {"bash": "pathors-agent runs ca", "zsh": "pathors-agent runs ca", "fish": ""}[shell]
    environment = {
        "_PATHORS_AGENT_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": words,
        "COMP_CWORD": "2",
        "_TYPER_COMPLETE_ARGS": "pathors-agent runs ca",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_WORD_TO_COMPLETE": "ca",
    }

    shown = CliRunner().invoke(app, [], prog_name="pathors-agent", env=environment)

    assert "cancel" in shown.stdout
    assert "resume" not in shown.stdout
