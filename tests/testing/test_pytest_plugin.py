"""The plugin gives tests their cassettes, costs nothing while it is not used, and fuzzing prints code."""

import json
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

pytestmark = pytest.mark.slow

pytest_plugins = ["pytester"]

TEST = """
    import pytest
    from pathors_agent import Agent
    from pathors_agent.testing import Cassette, ScriptedTransport

    def ask(cassette, question="Hello"):
        return Agent(Cassette(cassette, lambda: ScriptedTransport("Hi."))).run(question).output

    def test_plain(cassette):
        assert ask(cassette) == "Hi."

    class TestGroup:
        @pytest.mark.parametrize("word", ["a b", "c/d"])
        def test_with_word(self, cassette, word):
            assert ask(cassette, word) == "Hi."
"""

# Without the other plugins of this suite; schemathesis changes how Hypothesis prints.
ALONE = ("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:schemathesis", "-q")


def test_plugin_is_found_by_its_entry_point() -> None:
    [found] = entry_points(group="pytest11", name="pathors-agent")

    assert found.value == "pathors_agent.testing.pytest_plugin"


def test_cassettes_are_named_after_their_tests_and_replayed(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile(test_it=TEST).parent
    recorded = pytester.runpytest_subprocess(*ALONE, "--record")
    recorded.assert_outcomes(passed=3)

    files = sorted(str(file.relative_to(path)) for file in path.rglob("*.json"))
    assert files == [
        "cassettes/test_it/TestGroup.test_with_word-a-b.84a0173fc163.json",
        "cassettes/test_it/TestGroup.test_with_word-c-d.acf048c09c5c.json",
        "cassettes/test_it/test_plain.json",
    ]
    pytester.runpytest_subprocess(*ALONE).assert_outcomes(passed=3)


COLLIDING = """
    import pytest
    from pathors_agent import Agent
    from pathors_agent.testing import Cassette, ScriptedTransport

    def record(cassette, word):
        Agent(Cassette(cassette, lambda: ScriptedTransport(word))).run("Hello")

    @pytest.mark.parametrize(
        "word", ["a b", "a-b", "a/b", "A-B", "a-b-", "-a-b", "a:b", "é", "è", "x" * 300, "x" * 301]
    )
    def test_word(cassette, word):
        record(cassette, word)

    def test_word_a_b(cassette):
        record(cassette, "plain")

    class TestOuter:
        class TestInner:
            def test_word(self, cassette):
                record(cassette, "first")

    class TestOther:
        class TestInner:
            def test_word(self, cassette):
                record(cassette, "second")

    class Testother:
        class TestInner:
            def test_word(self, cassette):
                record(cassette, "third")
"""


def test_no_two_tests_have_one_cassette(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile(test_it=COLLIDING).parent
    pytester.runpytest_subprocess(*ALONE, "--record").assert_outcomes(passed=15)

    names = [file.name for file in path.rglob("*.json")]
    assert len({name.casefold() for name in names}) == 15
    assert max(len(name.encode()) for name in names) < 255
    pytester.runpytest_subprocess(*ALONE).assert_outcomes(passed=15)


def test_nothing_is_recorded_without_the_option(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile(test_it=TEST).parent

    result = pytester.runpytest_subprocess(*ALONE)

    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(["*CassetteMiss: there is no recording in *test_plain.json*"])
    assert list(path.rglob("*.json")) == []


def test_changed_request_fails_with_the_first_difference(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile(test_it=TEST).parent
    pytester.runpytest_subprocess(*ALONE, "--record", "-k", "plain").assert_outcomes(passed=1)
    file = path / "cassettes" / "test_it" / "test_plain.json"
    document = json.loads(file.read_text())
    document["exchanges"][0]["request"]["body"]["messages"][0]["content"] = "Good day"
    file.write_text(json.dumps(document))

    result = pytester.runpytest_subprocess(*ALONE, "-k", "plain")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ['*differs first in body.messages[[]0].content: "Good day" before, "Hello" now*']
    )


def test_failing_fuzz_test_prints_the_smallest_script_as_code(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from hypothesis import given, settings
        from pathors_agent import Agent, TransportError, tool
        from pathors_agent.testing import hostile_scripts

        def divide(a: int, b: int) -> int:
            "Divide."
            return a // b

        @given(hostile_scripts([tool(divide)]))
        @settings(derandomize=True, database=None, deadline=None, max_examples=1000)
        def test_agent_never_divides_by_zero(script):
            def sound(a: int, b: int) -> float:
                "Divide."
                seen.append(b)
                return 0
            seen = []
            agent = Agent(script.transport(), tools=[tool(name="divide")(sound)])
            try:
                agent.run("Go.")
            except TransportError:
                pass
            assert 0 not in seen
        """
    )

    result = pytester.runpytest_subprocess(*ALONE)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*script=ScriptedTransport(",
            "*    calls(('divide', {'a': 0, 'b': 0})),",
            "*    then='Enough.',",
            "*),",
        ]
    )


def test_plugin_imports_nothing_heavy() -> None:
    code = """
import sys, pytest
before = set(sys.modules)
import pathors_agent.testing.pytest_plugin
print(sorted(name for name in set(sys.modules) - before if "pathors" not in name))
print(sorted(name for name in sys.modules if name.startswith("pathors_agent")))
"""
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout

    assert printed.splitlines() == [
        "[]",
        "['pathors_agent', 'pathors_agent.lazy_names', 'pathors_agent.testing', "
        "'pathors_agent.testing.pytest_plugin']",
    ]
