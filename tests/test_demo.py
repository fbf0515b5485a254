import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import get_args

import pytest

from pathors_agent import Request, ToolError, testing
from pathors_agent.cli.demo_tools import Unit, calculate, convert, demo_tools
from servers import STALL, LLMockServer, ScriptedServer, answer

StartServer = Callable[..., ScriptedServer]

NOON_UTC = datetime(2025, 6, 3, 12, 0, tzinfo=UTC)
*_, local_time = demo_tools(now=lambda: NOON_UTC)

MILLISECONDS = re.compile(r"  \d+\.\d ms$", re.MULTILINE)


# - the tools -


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("1 + 2 * 3", "7"),
        ("(1+2)*3", "9"),
        ("0.1 + 0.2", "0.3"),
        ("1 / 3", "0.333333333333"),
        ("7 % 3", "1"),
        ("-7 % 3", "2"),
        ("-2 ** 2", "-4"),
        ("2 ** 0.5", "1.41421356237"),
        ("2 ** 128", "340282366920938463463374607431768211456"),
        ("5 - 5.0", "0"),
        ("1.50 * 2", "3"),
        ("1e3 + .5", "1000.5"),
        ("10 ** 300", "1e+300"),
        ("1 / 10 ** 20", "1e-20"),
    ],
)
def test_calculation_is_exact(expression: str, result: str) -> None:
    assert calculate(expression) == f"{expression} = {result}"


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("1 / 0", "A division by zero has no result."),
        ("0 ** -1", "A division by zero has no result."),
        ("0 / 0", "The expression has no result."),
        ("(-8) ** 0.5", "The expression has no result."),
        ("9 ** 9 ** 9", "The exponent is larger than 1000."),
        ("10 ** 1000 " * 2, "The expression cannot be read as arithmetic."),
        ("10 ** 1000" + " * 10 ** 1000" * 10, "The result has more than 10000 digits."),
        ("2 +", "The expression cannot be read as arithmetic."),
        ("7 // 2", "The expression cannot be read as arithmetic."),
        ("01", "The expression cannot be read as arithmetic."),
        ("", "Only numbers, + - * / % ** and parentheses can be used."),
        ("1and 2", "Only numbers, + - * / % ** and parentheses can be used."),
        ("__import__('os')", "Only numbers, + - * / % ** and parentheses can be used."),
        ("(" * 200 + "1" + ")" * 200, "The expression is longer than 300 characters."),
    ],
)
def test_impossible_calculations_are_reported(expression: str, problem: str) -> None:
    with pytest.raises(ToolError) as caught:
        calculate(expression)

    assert str(caught.value) == problem


def test_longest_expression_of_signs_is_calculated() -> None:
    assert calculate("-" * 298 + "1").endswith(" = 1")


@pytest.mark.parametrize(
    ("value", "unit", "to", "result"),
    [
        ("26.2", "mile", "km", "26.2 mile = 42.1648128 km"),
        ("12", "inch", "foot", "12 inch = 1 foot"),
        ("1", "pound", "ounce", "1 pound = 16 ounce"),
        ("1", "gallon", "liter", "1 gallon = 3.785411784 liter"),
        ("-40", "celsius", "fahrenheit", "-40 celsius = -40 fahrenheit"),
        ("0", "kelvin", "celsius", "0 kelvin = -273.15 celsius"),
        ("98.6", "fahrenheit", "celsius", "98.6 fahrenheit = 37 celsius"),
        ("1", "gibibyte", "megabyte", "1 gibibyte = 1073.741824 megabyte"),
        ("1", "week", "minute", "1 week = 10080 minute"),
        ("60", "mph", "km/h", "60 mph = 96.56064 km/h"),
    ],
)
def test_conversion_is_exact(value: str, unit: Unit, to: Unit, result: str) -> None:
    assert convert(Decimal(value), unit, to) == result


@pytest.mark.parametrize("unit", get_args(Unit))
def test_every_unit_is_known(unit: Unit) -> None:
    assert convert(Decimal(300), unit, unit) == f"300 {unit} = 300 {unit}"


def test_quantities_are_not_mixed() -> None:
    with pytest.raises(ToolError, match=r"A length \(km\) cannot be converted to a mass \(kg\)\."):
        convert(Decimal(1), "km", "kg")
    with pytest.raises(ToolError, match=r"A temperature \(celsius\) cannot be converted to a time"):
        convert(Decimal(1), "celsius", "day")


def test_nothing_is_colder_than_absolute_zero() -> None:
    with pytest.raises(ToolError, match="below absolute zero"):
        convert(Decimal(-274), "celsius", "kelvin")


@pytest.mark.parametrize(
    ("city", "answer"),
    [
        ("Tokyo", "In Tokyo it is Tuesday 2025-06-03 21:00 (JST)."),
        ("new york", "In New York it is Tuesday 2025-06-03 08:00 (EDT)."),
        (" S\u00e3o Paulo ", "In Sao Paulo it is Tuesday 2025-06-03 09:00 (-03)."),
        ("Auckland", "In Auckland it is Wednesday 2025-06-04 00:00 (NZST)."),
    ],
)
def test_time_is_that_of_the_city(city: str, answer: str) -> None:
    assert local_time(city) == answer


def test_unknown_city_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        ToolError, match=r"in Atlantis is unknown\. Known cities: Amsterdam, Athens"
    ):
        local_time("Atlantis")


@pytest.mark.slow
def test_error_on_a_machine_without_time_zones_names_the_package() -> None:
    code = (
        "import sys; sys.modules['tzdata'] = None\n"
        "from pathors_agent.cli.demo_tools import demo_tools\n"
        "try: demo_tools()[2]('Tokyo')\n"
        "except Exception as error: print(repr(error))"
    )

    printed = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONTZPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert printed.strip() == (
        "ToolError('This machine has no time zone data; install the Python package tzdata.')"
    )


# - the command -


def environment(**more: str) -> dict[str, str]:
    kept = {name: v for name, v in os.environ.items() if not name.startswith("PATHORS_")}
    kept.pop("NO_COLOR", None)
    return {**kept, **more}


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pathors_agent", *arguments],
        env=environment(**more),
        capture_output=True,
        text=True,
        check=False,
    )


def streamed(*script: testing.Entry) -> Iterator[list[bytes]]:
    """Return the HTTP answers of a scripted model, for a real server to send."""
    for entry in script:
        with testing.ScriptedTransport(entry).send(Request(body=b'{"stream": true}')) as response:
            body = b"".join(response.pieces)
        yield [answer(body, Content_Type="text/event-stream")]


@pytest.mark.process
def test_demo_shows_a_conversation_with_parallel_tools() -> None:
    shown = run("demo")

    assert shown.stderr == ""
    assert shown.returncode == 0
    lines = MILLISECONDS.sub("", shown.stdout).splitlines()
    time = r"\w+day \d{4}-\d\d-\d\d \d\d:\d\d \(\w+\)\."
    expected = [
        r"The answers come from rules, not from a language model; the tools are real\.",
        r"A server answers over HTTP, and runs the tools: http://127\.0\.0\.1:\d+/v1/projects/demo",
        r"",
        r"you     How many kilometres are 26\.2 miles\?",
        r'call    convert\(value=26\.2, unit="mile", to="km"\)',
        r"result  26\.2 mile = 42\.1648128 km",
        r"model   26\.2 mile = 42\.1648128 km\.",
        r"",
        r"you     Divide that by 3\.5, and tell me what time it is in Tokyo and in New York\.",
        r'call    calculate\(expression="42\.1648128 / 3\.5"\)',
        r'call    local_time\(city="Tokyo"\)',
        r'call    local_time\(city="New York"\)',
        r"result  calculate: 42\.1648128 / 3\.5 = 12\.0470893714",
        rf"result  local_time: In Tokyo it is {time}",
        rf"result  local_time: In New York it is {time}",
        rf"model   42\.1648128 / 3\.5 = 12\.0470893714\. In Tokyo it is {time}"
        rf" In New York it is {time}",
        r"",
        r"you     And in Lisbon\?",
        r'call    local_time\(city="Lisbon"\)',
        rf"result  In Lisbon it is {time}",
        rf"model   In Lisbon it is {time}",
        r"",
        r"The server kept all of it as session-[0-9a-f]+\.",
    ]
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line


@pytest.mark.slow
def test_every_result_shows_its_time() -> None:
    shown = run("demo", "-p", "What is 1 + 1 and 2 + 2?").stdout

    results = [line for line in shown.splitlines() if line.startswith("result")]
    assert len(results) == 2
    assert all(MILLISECONDS.search(line) for line in results)


@pytest.mark.slow
def test_own_prompts_are_one_conversation_and_errors_are_shown() -> None:
    shown = run("demo", "--prompt", "Convert 5 km to kg", "--prompt", "Convert 5 km to m")

    assert shown.returncode == 0
    assert MILLISECONDS.sub("", shown.stdout).splitlines()[3:-2] == [
        "you     Convert 5 km to kg",
        'call    convert(value=5, unit="km", to="kg")',
        "error   A length (km) cannot be converted to a mass (kg).",
        "model   convert (5, km, kg) failed: A length (km) cannot be converted to a mass (kg).",
        "",
        "you     Convert 5 km to m",
        'call    convert(value=5, unit="km", to="m")',
        "result  5 km = 5000 m",
        "model   5 km = 5000 m.",
    ]


def on_terminal(*arguments: str, **more: str) -> str:
    """Run the demo with a terminal for its output; return what it showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pathors_agent", "demo", "-p", "1 + 1", *arguments],
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
    )
    os.close(theirs)
    shown = b"".join(iter(lambda: read_terminal(ours), b""))
    os.close(ours)
    assert process.wait() == 0
    return shown.decode()


def read_terminal(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux's way to say that the other side is closed
        return b""


@pytest.mark.slow
def test_terminal_gets_colours() -> None:
    assert "\x1b[36mcall\x1b[0m    calculate" in on_terminal()


@pytest.mark.slow
def test_no_color_in_the_environment_or_as_an_option_turns_them_off() -> None:
    assert "\x1b" not in on_terminal(NO_COLOR="1")
    assert "\x1b" not in on_terminal("--no-color")


@pytest.mark.slow
def test_endpoint_of_the_environment_answers(scripted_server: StartServer) -> None:
    call = testing.calls(("calculate", {"expression": "6 * 7"}))
    server = scripted_server(*streamed(call, "It is 42."))

    shown = run("demo", "-p", "6 times 7?", "--model", "m-1", PATHORS_BASE_URL=server.url)

    assert shown.stderr == ""
    assert shown.returncode == 0
    assert MILLISECONDS.sub("", shown.stdout).splitlines() == [
        f"The answers come from HTTPTransport('{server.url}/chat/completions');"
        " the tools run here.",
        "",
        "you     6 times 7?",
        'call    calculate(expression="6 * 7")',
        "result  6 * 7 = 42",
        "model   It is 42.",
    ]
    assert b'"model":"m-1"' in server.requests[0].body
    assert b'"content":"6 * 7 = 42"' in server.requests[1].body


@pytest.mark.slow
def test_timeline_draws_the_calls(scripted_server: StartServer, tmp_path: Path) -> None:
    call = testing.calls(("calculate", {"expression": "6 * 7"}))
    server = scripted_server(*streamed(call, "It is 42.", "It is <b>."))
    file = tmp_path / "run.html"
    prompts = ("-p", "6 times 7?", "-p", "And <i>?")

    shown = run("demo", *prompts, "--timeline", str(file), PATHORS_BASE_URL=server.url)

    assert shown.returncode == 0
    assert shown.stderr == f"{file} shows all calls.\n"
    text = file.read_text(encoding="utf-8")
    assert re.findall("<h1>(.*)</h1>", text) == ["6 times 7?", "And &lt;i&gt;?"]
    assert re.findall(r'<th scope="row"[^>]*>(\w+)<small>([\w/]+)<', text) == [
        *(("model", "model/0"), ("calculate", "tool/0/0"), ("model", "model/1")),
        ("model", "model/2"),
    ]


@pytest.mark.slow
def test_timeline_that_cannot_be_written_is_reported_before_the_first_prompt(
    tmp_path: Path,
) -> None:
    shown = run("demo", "--timeline", str(tmp_path / "none" / "run.html"))

    assert shown.returncode == 1
    assert shown.stdout == ""
    assert shown.stderr == f"error: {tmp_path}/none/run.html: No such file or directory\n"


@pytest.mark.slow
def test_model_cannot_steer_the_terminal(scripted_server: StartServer) -> None:
    server = scripted_server(*streamed("\x1b[2Jgone\x07"))

    shown = run("demo", "-p", "Hi", PATHORS_BASE_URL=server.url)

    assert shown.stdout.endswith("model   \ufffd[2Jgone\ufffd\n")


def test_outside_server_answers_with_tools(llmock_server: LLMockServer) -> None:
    call = {"name": "local_time", "arguments": {"city": "Tokyo"}}
    llmock_server.scenario(
        {"type": "reply", "tool_calls": [call]}, {"type": "reply", "text": "It is late."}
    )

    shown = run("demo", "-p", "Time?", "--model", "gpt-4o", PATHORS_BASE_URL=llmock_server.url)

    assert shown.stderr == ""
    assert 'call    local_time(city="Tokyo")' in shown.stdout
    assert "result  In Tokyo it is" in shown.stdout
    assert shown.stdout.endswith("model   It is late.\n")


@pytest.mark.slow
def test_refusal_is_one_line_on_stderr(scripted_server: StartServer) -> None:
    body = b'{"error": {"message": "Invalid authentication", "type": "authentication_error"}}'
    server = scripted_server([answer(body, "401 Unauthorized")])

    shown = run("demo", PATHORS_BASE_URL=server.url, PATHORS_API_KEY="sk_wrong")

    assert shown.returncode == 1
    assert re.fullmatch(r"error: .*Invalid authentication.*\n", shown.stderr)
    assert "sk_wrong" not in shown.stdout + shown.stderr


@pytest.mark.slow
def test_key_without_project_is_one_line_on_stderr() -> None:
    shown = run("demo", PATHORS_API_KEY="sk_1")

    assert shown.returncode == 1
    assert re.fullmatch(r"error: .*PATHORS_PROJECT_ID.*\n", shown.stderr)


@pytest.mark.slow
def test_run_without_an_answer_is_one_line_on_stderr(scripted_server: StartServer) -> None:
    call = testing.calls(("calculate", {"expression": "1 + 1"}))
    server = scripted_server(*streamed(*[call] * 100))

    shown = run("demo", "-p", "1 + 1", PATHORS_BASE_URL=server.url)

    assert shown.returncode == 1
    assert re.fullmatch(r"error: the run has no answer: it stopped at .*\n", shown.stderr)


@pytest.mark.slow
def test_ctrl_c_ends_it_cleanly(scripted_server: StartServer) -> None:
    server = scripted_server([STALL])
    process = subprocess.Popen(
        [sys.executable, "-m", "pathors_agent", "demo", "-p", "Hi"],
        env=environment(PATHORS_BASE_URL=server.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("you"):
            break

    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()

    assert errors == ""
    assert process.returncode == 130


@pytest.mark.slow
def test_ctrl_c_ends_its_server_too() -> None:
    prompts = [word for _ in range(100) for word in ("-p", "1 + 1")]
    process = subprocess.Popen(
        [sys.executable, "-m", "pathors_agent", "demo", *prompts],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    shown = "".join(iter(process.stdout.readline, "you     1 + 1\n"))
    port = int(re.findall(r"http://127\.0\.0\.1:(\d+)/", shown)[0])

    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()

    assert errors == ""
    assert process.returncode == 130
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.slow
def test_closed_pipe_ends_the_command_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pathors_agent", "demo"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None

    assert process.stdout.readline().startswith("The answers come from rules")
    process.stdout.close()

    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 1


@pytest.mark.slow
def test_help_names_the_command_and_its_options() -> None:
    shown = run("--help")
    demo = run("demo", "--help")

    assert shown.returncode == demo.returncode == 0
    assert "demo" in shown.stdout
    for word in ("--prompt", "--model", "--no-color", "PATHORS_BASE_URL", "NO_COLOR"):
        assert word in demo.stdout


@pytest.mark.slow
def test_missing_command_is_a_usage_error() -> None:
    shown = run()

    assert shown.returncode == 2
    assert shown.stderr.startswith("Usage: pathors-agent [OPTIONS] COMMAND")
