"""Ways to break the source, one for each promise at least, and the tests that must notice."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src" / "pathors_agent"


@dataclass(frozen=True)
class Mutant:
    """A promise broken in one place.

    `breaks` are the broken promises and stream rules, separated by commas. `at` is the qualified
    name of a function, class or module constant; `old` stands there once and is replaced by `new`.
    The `tests`, by the names of their functions, must fail then.
    """

    says: str
    breaks: str
    at: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self) -> tuple[Path, str]:
        """Return the file to change and its new text; raise ValueError unless `old` is there once."""
        found = [
            (path, text, start, part)
            for path in sorted(SOURCE.rglob("*.py"))
            for text in [path.read_text(encoding="utf-8")]
            if self.at.rpartition(".")[2] in text
            for name, start, part in definitions(text)
            if name == self.at and part.count(self.old) == 1
        ]
        if len(found) != 1:
            raise ValueError(
                f"{self.old!r} stands in {len(found)} definitions of {self.at}, not in 1"
            )
        [(path, text, start, part)] = found
        end = start + len(part)
        return path, text[:start] + part.replace(self.old, self.new) + text[end:]

    @property
    def test_ids(self) -> list[str]:
        """The tests as pytest names them, relative to the root; raise ValueError for unknown ones."""
        return [f"tests/{file_of(test).relative_to(TESTS)}::{test}" for test in self.tests]


def file_of(test: str) -> Path:
    """Return the one file that holds a test."""
    start = f"def {test.partition('[')[0]}("
    found = [path for path in sorted(TESTS.rglob("test_*.py")) if start in path.read_text("utf-8")]
    if len(found) != 1:
        raise ValueError(f"{test} stands in {len(found)} files, not in 1")
    return found[0]


def definitions(text: str) -> Iterator[tuple[str, int, str]]:
    """Yield the qualified name, offset and source of each definition and constant of a module."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, int, str]]:
        for child in ast.iter_child_nodes(node):
            name = defined_name(child)
            if name is None:
                continue
            assert isinstance(child, ast.stmt)
            start, end = starts[child.lineno - 1], starts[child.end_lineno or child.lineno]
            yield f"{prefix}{name}", start, text[start:end]
            yield from walk(child, f"{prefix}{name}.")

    yield from walk(ast.parse(text), "")


def defined_name(node: ast.AST) -> str | None:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
        case _:
            return None


# The rules of streams (docs/explanation/reliability.md) and the promises, by their numbers.
TO_BREAK = frozenset(
    {f"rule {number}" for number in range(1, 12)}
    | {f"promise {number}" for number in range(1, 13)}
    | {"state table", "limits", "approvals", "leases", "idempotency", "key checks"}
)

MUTANTS = [
    Mutant(
        "a CR LF that is cut in two ends two lines",
        "rule 1",
        at="LineEnds.normalise",
        old="        self.pending = data[-1] == _CR\n",
        new="",
        tests=("test_line_ends_are_the_same_for_any_cut",),
    ),
    Mutant(
        "bytes that are no UTF-8 raise an error of Python's",
        "rule 1, promise 5",
        at="SSEParser._take",
        old='line.decode(errors="replace")',
        new="line.decode()",
        tests=(
            "test_body_is_read_as_these_events_whole_and_byte_by_byte",
            "test_any_cut_yields_the_same_events",
        ),
    ),
    Mutant(
        "an error inside a choice is overlooked",
        "rule 2",
        at="read_chunk",
        old="        if error := find_error(choice, is_answer=True):\n            return error\n",
        new="",
        tests=("test_quirk_is_read_as_expected_however_it_is_cut[Q92-error-inside-the-choice]",),
    ),
    Mutant(
        "choices that are null break the reader",
        "rule 3, promise 5",
        at="as_list",
        old="return value if isinstance(value, list) else []",
        new="return value  # type: ignore[return-value]",
        tests=(
            "test_quirk_is_read_as_expected_however_it_is_cut[Q29-choices-missing-or-null-in-a-chunk]",
        ),
    ),
    Mutant(
        "arguments are set, not appended",
        "rule 4",
        at="CallBuilder.add",
        old="            self.parts.append(arguments)\n",
        new="            self.parts = [arguments]\n",
        tests=("test_quirk_is_read_as_expected_however_it_is_cut[Q61-id-repeated-on-every-piece]",),
    ),
    Mutant(
        "an index that is used again never opens a call",
        "rule 5",
        at="MessageBuilder._call_of_piece",
        old="if _begins_call(call, id, name, arguments):",
        new="if False:",
        tests=(
            "test_quirk_is_read_as_expected_however_it_is_cut[Q58-index-0-on-every-parallel-call-ids-differ]",
        ),
    ),
    Mutant(
        "a stream that was cut off is a message",
        "rule 6, promise 1",
        at="ResponseStream.is_complete",
        old="ended_on_purpose = self._done or bool(self._builder.finish_reason)",
        new="ended_on_purpose = True",
        tests=(
            "test_quirk_is_read_as_expected_however_it_is_cut[Q24-connection-ends-in-the-middle-of-tool-call-argum]",
            "test_nothing_of_a_broken_answer_runs",
        ),
    ),
    Mutant(
        "an error after the finish_reason is overlooked",
        "rule 6, rule 7, promise 1",
        at="ResponseStream.finish",
        old="        if self._failure is not None:\n            raise self._failure\n",
        new="        if self._failure is not None and not self._builder.finish_reason:\n            raise self._failure\n",
        tests=(
            "test_error_after_the_finish_reason_takes_the_message_back",
            "test_quirk_is_read_as_expected_however_it_is_cut[Q93-a-tool-call-complete-then-an-error]",
        ),
    ),
    Mutant(
        "two calls of one id are given on",
        "rule 10, promise 4",
        at="MessageBuilder._tool_calls",
        old="if not call_id or call_id in taken:",
        new="if not call_id:",
        tests=("test_quirk_is_read_as_expected_however_it_is_cut[Q63-two-calls-share-one-id]",),
    ),
    Mutant(
        "an event grows for ever",
        "rule 11, promise 6",
        at="EventLanes._hold",
        old='if len(self._tail) - data.endswith(b"\\n") > bound:',
        new="if not self._tail:",
        tests=("test_endless_event_is_refused_at_its_bound",),
    ),
    Mutant(
        "half of a character leaves the library",
        "promise 5",
        at="MessageBuilder.finish",
        old='self.text.append("\\ufffd")',
        new="pass",
        tests=(
            "test_quirk_is_read_as_expected_however_it_is_cut[Q09-a-surrogate-pair-split-over-two-deltas-as-u-esca]",
            "test_deltas_are_returned_with_the_bytes_that_complete_them",
            "test_half_a_character_at_the_end_becomes_one_that_can_be_sent",
        ),
    ),
    Mutant(
        "the user may speak while calls are open",
        "state table, promise 4",
        at="TRANSITIONS",
        old="Role.TOOL: {Event.TOOL_RESULT",
        new="Role.TOOL: {Event.USER: Role.ASSISTANT, Event.TOOL_RESULT",
        tests=("test_cell_is_as_documented",),
    ),
    Mutant(
        "two calls of one message share an id",
        "promise 4, state table, rule 10",
        at="Conversation._open_batch",
        old="if places.setdefault(call.id, place) != place:",
        new="if places.setdefault(call.id, place) < 0:",
        tests=("test_two_calls_with_one_id_are_rejected",),
    ),
    Mutant(
        "a call that length cut off runs",
        "rule 7, rule 8, promise 1",
        at="_ENDED_BY",
        old='            "length",\n            "max_tokens",\n',
        new='            "max_tokens",\n',
        tests=("test_cut_answer_runs_no_call_without_a_whole_object",),
    ),
    Mutant(
        "arguments are read as far as they go",
        "rule 8",
        at="parse_object",
        old="from_json(text.encode(), allow_inf_nan=False)",
        new="from_json(text.encode(), allow_inf_nan=False, allow_partial=True)",
        tests=("test_text_that_is_no_object_is_explained",),
    ),
    Mutant(
        "a tool that went on after its run was stopped is pending again",
        "promise 3",
        at="run_in_task",
        old="            raise left_alone() from None\n",
        new="            raise\n",
        tests=("test_cancelled_run_leaves_a_deaf_tool_soon_and_its_outcome_is_unknown",),
    ),
    Mutant(
        "a durable run runs again what a crash cut off",
        "promise 3",
        at="settle",
        old="    if bound.tool.reconcile is None:\n        return unknown\n",
        new="    if bound.tool.reconcile is None:\n        return None\n",
        tests=("test_run_killed_anywhere_ends_as_the_run_that_never_was[sqlite]",),
    ),
    Mutant(
        "an exception of a tool ends the run",
        "promise 4",
        at="call_tool_async",
        old="        except Exception as error:  # noqa: BLE001  (as in call_tool)\n",
        new="        except ValueError as error:\n",
        tests=("test_model_reads_the_exception",),
    ),
    Mutant(
        "one turn more than the limit",
        "limits, promise 6",
        at="Tally.limit",
        old="if self._turns >= limits.turns:",
        new="if self._turns > limits.turns:",
        tests=("test_default_limit_is_25_turns",),
    ),
    Mutant(
        "the time of a run has no end",
        "limits, promise 6",
        at="RunControl.left",
        old="        if left <= 0:\n            raise self.out_of_time()\n        return left\n",
        new="        return max(left, 1)\n",
        tests=(
            "test_model_that_takes_too_long_ends_the_run_at_its_limit",
            "test_tools_are_stopped_when_the_time_of_the_run_is_over",
        ),
    ),
    Mutant(
        "what a killed process had started goes on",
        "promise 8",
        at="_kill",
        old="os.killpg(process.pid, signal.SIGKILL)",
        new="os.kill(process.pid, signal.SIGKILL)",
        tests=("test_children_of_a_killed_process_are_killed",),
    ),
    Mutant(
        "an approval fits other arguments",
        "approvals",
        at="digest",
        old="seen = [call.id, tool.name, tool.parameters, canonical_arguments(call.arguments)]",
        new="seen = [call.id, tool.name, tool.parameters]",
        tests=("test_decision_does_not_fit_other_arguments",),
    ),
    Mutant(
        "calls of two conversations have one idempotency key",
        "idempotency",
        at="Run.call_key",
        old='return f"{self.conversation.id}/{effect.key}"',
        new="return effect.key",
        tests=("test_keys_of_two_conversations_differ",),
    ),
    Mutant(
        "reasoning_details do not go back",
        "rule 9",
        at="_wire_assistant",
        old="for name in profile.echoed_fields:",
        new="for name in ():",
        tests=("test_message_is_encoded_to_these_bytes",),
    ),
    Mutant(
        "an answer that breaks in its middle is asked for again",
        "promise 2",
        at="open_answer",
        old="pieces = iter(response.pieces)",
        new="pieces = iter(list(response.pieces))",
        tests=("test_failure_after_the_first_byte_is_not_sent_again",),
    ),
    Mutant(
        "a reference is fetched",
        "promise 7",
        at="_Linker._root_resolver",
        old="registry: Registry[Any] = Registry().with_resource(",
        new="registry: Registry[Any] = Registry(\n                retrieve=lambda uri: __import__('urllib.request').request.urlopen(uri)\n            ).with_resource(",
        tests=("test_nothing_is_fetched",),
    ),
    Mutant(
        "an error quotes the key that the provider quoted",
        "promise 11, key checks",
        at="Exchange.masked",
        old="return self._secrets.masked_bytes(piece)",
        new="return piece",
        tests=("test_key_in_an_error_of_the_provider_is_masked",),
    ),
    Mutant(
        "a body of any size is read",
        "promise 6",
        at="_gathered",
        old="        if size > settings.max_body_bytes:\n            raise",
        new="        if size < 0:\n            raise",
        tests=("test_body_beyond_the_limit_is_refused_with_and_without_its_length",),
    ),
    Mutant(
        "a turn is stored without its last message",
        "promise 9",
        at="added_messages",
        old="if id(message) not in known]",
        new="if id(message) not in known][:-1]",
        tests=("test_session_is_continued_by_header",),
    ),
    Mutant(
        "a turn is stored without its lease",
        "promise 10, leases",
        at="_check_held",
        old="    if not is_held:\n        raise changed_conflict(lease)\n",
        new="",
        tests=("test_sqlite_store_follows_every_rule",),
    ),
    Mutant(
        "a revoked key opens",
        "promise 11, key checks",
        at="Authenticator._key_of",
        old="        if key.revoked_at is not None:\n            raise unauthorized()\n",
        new="",
        tests=(
            "test_every_wrong_key_gets_the_same_answer",
            "test_revoked_key_is_refused_within_a_second",
        ),
    ),
    Mutant(
        "a session of another project exists",
        "promise 11",
        at="THIS",
        old='matching(sessions, "project"), ',
        new="",
        tests=("test_sqlite_store_follows_every_rule",),
    ),
    Mutant(
        "another body under the same key gets the old answer",
        "promise 12, idempotency",
        at="HeldSession._begun",
        old="if record.body_digest != turn.body_digest:",
        new="if not record.body_digest:",
        tests=("test_other_body_or_session_with_the_same_key_is_refused",),
    ),
]
