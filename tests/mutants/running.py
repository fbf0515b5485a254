"""Mutants of what runs agents: the state table, tools, limits, approvals."""

from mutants.mutant import mutant

CONVERSATION = "core/conversation.py"
LIMITS = "core/limits.py"

CONVERSATION_TESTS = "core/test_conversation.py::"
TABLE_TEST = "conformance/test_state_table.py::test_cell_is_as_documented"
DRIVER_TESTS = "test_drivers.py::"
DISPATCH_TESTS = "test_dispatch.py::"
LIMIT_TESTS = "core/test_limits.py::"
APPROVAL_TESTS = "test_approvals.py::"

RUNNING = [
    # - the state table
    mutant(
        "the user may speak while calls are open",
        "state table, promise 4",
        CONVERSATION,
        "    Role.TOOL: {\n",
        "    Role.TOOL: {\n        Event.USER: Role.ASSISTANT,\n",
        TABLE_TEST,
    ),
    mutant(
        "the last result is followed by the user",
        "state table",
        CONVERSATION,
        "Event.LAST_TOOL_RESULT: Role.ASSISTANT,",
        "Event.LAST_TOOL_RESULT: Role.USER,",
        TABLE_TEST,
    ),
    mutant(
        "an answer nobody asked for is refused",
        "state table",
        CONVERSATION,
        "        Event.USER: Role.ASSISTANT,\n        Event.ANSWER: Role.USER,\n"
        "        Event.TOOL_CALLS: Role.TOOL,\n    },\n    Role.ASSISTANT: {\n",
        "        Event.USER: Role.ASSISTANT,\n    },\n    Role.ASSISTANT: {\n",
        TABLE_TEST,
    ),
    mutant(
        "results are kept as they arrive",
        "state table",
        CONVERSATION,
        "return [self.results[place] for place in sorted(self.results)]",
        "return list(self.results.values())",
        CONVERSATION_TESTS + "test_results_are_kept_in_call_order_however_they_arrive",
    ),
    mutant(
        "a call gets two results",
        "promise 4, state table",
        CONVERSATION,
        "elif place in self._batch.results:",
        "elif place < 0:",
        CONVERSATION_TESTS + "test_result_for_closed_call_is_rejected",
    ),
    mutant(
        "two calls of one message share an id",
        "promise 4, state table, rule 10",
        CONVERSATION,
        "if places.setdefault(call.id, place) != place:",
        "if places.setdefault(call.id, place) < 0:",
        CONVERSATION_TESTS + "test_two_calls_with_one_id_are_rejected",
    ),
    # - rule 7: tool calls decide whether tools run
    mutant(
        "finish_reason decides whether tools run",
        "rule 7",
        CONVERSATION,
        "return Event.TOOL_CALLS if message.tool_calls else Event.ANSWER",
        'return Event.TOOL_CALLS if message.finish_reason == "tool_calls" else Event.ANSWER',
        "conformance/test_streams.py::"
        "test_tools_run_only_where_a_quirk_leaves_no_doubt_of_the_call",
    ),
    mutant(
        "a call that length cut off runs",
        "rule 7, rule 8, promise 1",
        "messages.py",
        '            "length",\n            "max_tokens",\n',
        '            "max_tokens",\n',
        LIMIT_TESTS + "test_cut_answer_runs_no_call_without_a_whole_object",
    ),
    mutant(
        "a call that a filter cut off runs",
        "rule 7, rule 8, promise 1",
        "messages.py",
        '            "content_filter",\n            "content_filtered",\n',
        '            "content_filtered",\n',
        LIMIT_TESTS + "test_cut_answer_runs_no_call_without_a_whole_object",
    ),
    # - rule 8: arguments are one JSON object
    mutant(
        "no arguments are wrong arguments",
        "rule 8",
        "schema/arguments.py",
        "    if not text or text.isspace():\n        return {}\n",
        "",
        "tools/test_tools.py::test_no_arguments_mean_an_empty_object",
    ),
    mutant(
        "arguments are read as far as they go",
        "rule 8",
        "schema/arguments.py",
        "from_json(text.encode(), allow_inf_nan=False)",
        "from_json(text.encode(), allow_inf_nan=False, allow_partial=True)",
        "tools/test_tools.py::test_text_that_is_no_object_is_explained",
    ),
    mutant(
        "of two equal names in arguments the last counts",
        "rule 8",
        "schema/arguments.py",
        "    if len(value) < len(pairs):\n",
        "    if not pairs:\n",
        "test_arguments.py::test_name_twice_in_one_object_is_refused",
    ),
    # - rule 10: ids that are sent back
    mutant(
        "an id of an earlier turn is used again",
        "rule 10",
        "core/run.py",
        "        if not any(call.id in used for call in message.tool_calls):\n",
        "        if used is not None:\n",
        "core/test_run.py::test_call_id_used_before_is_replaced_when_recorded",
    ),
    # - promise 1: nothing runs before the stream ended
    mutant(
        "what broke off is a whole answer",
        "promise 1, rule 6",
        "agents/ask.py",
        "        if self.stream.is_complete:\n            return\n",
        "        if self.stream.received:\n            self.stream._done = True\n            return\n",
        DRIVER_TESTS + "test_nothing_of_a_broken_answer_runs",
    ),
    # - promise 3: what was begun is not run again
    mutant(
        "a call that the end of the time cut off is owed again",
        "promise 3",
        "agents/perform/batches.py",
        "            control.record(message)\n        messages.append(message)\n",
        "            continue\n        messages.append(message)\n",
        DRIVER_TESTS + "test_tools_are_stopped_when_the_time_of_the_run_is_over",
    ),
    mutant(
        "a tool that went on after its run was stopped is owed again",
        "promise 3",
        "agents/perform/tasks.py",
        "            raise left_alone() from None\n",
        "            raise\n",
        DISPATCH_TESTS + "test_cancelled_run_leaves_a_deaf_tool_soon_and_its_outcome_is_unknown",
    ),
    mutant(
        "a call whose time was over before it began is begun",
        "promise 3",
        "agents/perform/functions.py",
        '            elif self._state == "new":\n                self._state = "ended"\n',
        "",
        DISPATCH_TESTS + "test_call_whose_time_is_over_before_it_began_is_not_begun",
    ),
    mutant(
        "a result is recorded after a checkpoint",
        "promise 3, promise 4",
        "agents/perform/batches.py",
        "                control.record(message)\n                results[effect.call.id] = message\n",
        "                await anyio.lowlevel.checkpoint()\n"
        "                control.record(message)\n                results[effect.call.id] = message\n",
        DRIVER_TESTS + "test_result_that_an_async_tool_gives_while_cancelled_is_kept"
        "_and_the_run_stops",
        DRIVER_TESTS + "test_one_of_three_cancelled_tools_is_still_owed",
    ),
    mutant(
        "a durable run runs again what a crash cut off",
        "promise 3",
        "agents/perform/doubt.py",
        "    if bound.tool.reconcile is None:\n        return _unknown(bound)\n",
        "    if bound.tool.reconcile is None:\n        return None\n",
        "durable/test_kills.py::test_run_killed_anywhere_ends_as_the_run_that_never_was[sqlite]",
    ),
    # - promise 4: exactly one result
    mutant(
        "an exception of a tool ends the run",
        "promise 4",
        "agents/perform/dispatch.py",
        "        except Exception as error:  # noqa: BLE001  (as in call_tool)\n",
        "        except ValueError as error:\n",
        DISPATCH_TESTS + "test_exception_is_told_to_the_model",
    ),
    mutant(
        "an exception whose text raises ends the run",
        "promise 4",
        "agents/perform/dispatch.py",
        "    except Exception as second:  # noqa: BLE001  (an exception's own __str__ may raise)\n",
        "    except ZeroDivisionError as second:\n",
        "faults/test_tools.py::test_what_a_tool_raises_is_the_result_of_its_call",
    ),
    mutant(
        "closing open calls leaves one",
        "promise 4",
        CONVERSATION,
        "        for call in self.open_calls:\n            outcome, text",
        "        for call in self.open_calls[1:]:\n            outcome, text",
        CONVERSATION_TESTS
        + "test_closed_calls_say_what_is_known_of_them_beside_the_results_there_are",
    ),
    # - promise 6: waits and limits
    mutant(
        "one turn more than the limit",
        "limits, promise 6",
        LIMITS,
        "if self._turns >= limits.turns:",
        "if self._turns > limits.turns:",
        "core/test_run.py::test_default_limit_is_25_turns",
    ),
    mutant(
        "one tool call more than the limit",
        "limits",
        LIMITS,
        "if limits.tool_calls is not None and self._calls > limits.tool_calls:\n"
        "            return _not_run",
        "if limits.tool_calls is not None and self._calls > limits.tool_calls + 1:\n"
        "            return _not_run",
        LIMIT_TESTS + "test_calls_that_do_not_fit_are_refused_and_the_rest_runs",
    ),
    mutant(
        "a call may be repeated for ever",
        "limits",
        LIMITS,
        "if limits.repeats is not None and repetitions >= limits.repeats:",
        "if False:",
        LIMIT_TESTS + "test_third_call_alike_is_warned_of_and_the_sixth_refused",
    ),
    mutant(
        "arguments in another order are no repetition",
        "limits",
        LIMITS,
        'json.dumps(json.loads(arguments or "{}"), sort_keys=True, ',
        'json.dumps(json.loads(arguments or "{}"), ',
        LIMIT_TESTS + "test_canonical_arguments",
    ),
    mutant(
        "a result is counted before its batch is whole",
        "limits",
        "core/run.py",
        "tally.read(self.conversation.settled(tally.place))",
        "tally.read(self.conversation.messages[tally.place :])",
        "properties/test_tally_properties.py",
    ),
    mutant(
        "the time of a run has no end",
        "limits, promise 6",
        "agents/control.py",
        "        if left <= 0:\n            raise TimeIsUp\n        return left\n",
        "        return max(left, 1)\n",
        DRIVER_TESTS + "test_model_that_takes_too_long_ends_the_run_at_its_limit",
        DRIVER_TESTS + "test_tools_are_stopped_when_the_time_of_the_run_is_over",
    ),
    mutant(
        "any number of tools runs at once",
        "limits",
        "agents/perform/batches.py",
        "            async with places:\n",
        "            async with anyio.Semaphore(10**9):\n",
        DRIVER_TESTS + "test_no_more_tools_run_at_once_than_allowed",
    ),
    mutant(
        "a tool that hangs is started for ever",
        "limits, promise 6",
        "agents/perform/dispatch.py",
        "if hung_calls(bound.function) < MAX_HUNG_CALLS:",
        "if hung_calls(bound.function) < 10**9:",
        DISPATCH_TESTS + "test_tool_with_hung_calls_is_refused_until_one_returns",
    ),
    # - promise 8: cancelling
    mutant(
        "a cancelled run waits for a deaf tool",
        "promise 8",
        "agents/perform/tasks.py",
        "    async def stop(self, seconds: float = STOP_SECONDS)",
        "    async def stop(self, seconds: float = 30)",
        DISPATCH_TESTS + "test_cancelled_run_leaves_a_deaf_tool_soon_and_its_outcome_is_unknown",
    ),
    mutant(
        "a process that was cancelled goes on",
        "promise 8",
        "agents/perform/process.py",
        "        process.stop()\n        await task.wait_shielded(STOP_SECONDS)\n",
        "        await task.wait_shielded(STOP_SECONDS)\n",
        "test_tool_process.py::test_cancellation_kills_the_process_at_once_and_the_call_is_owed",
    ),
    mutant(
        "what a killed process had started goes on",
        "promise 8",
        "agents/perform/process.py",
        "os.killpg(process.pid, signal.SIGKILL)",
        "os.kill(process.pid, signal.SIGKILL)",
        "test_tool_process.py::test_what_a_killed_process_had_started_is_killed",
    ),
    # - answers that cannot come
    mutant(
        "an answer that was cut off is asked for again",
        "rule 7",
        "core/run.py",
        "if fault is None or self.out_of_time or self._is_cut_off():",
        "if fault is None or self.out_of_time:",
        "test_structured.py::test_answer_that_cannot_come_is_named_and_not_asked_for_again",
    ),
    # - approvals
    mutant(
        "a tool that needs approval runs without",
        "approvals",
        "agents/approvals.py",
        "        if not callable(tool.approve):\n            return True\n",
        "        if not callable(tool.approve):\n            return False\n",
        APPROVAL_TESTS + "test_run_waits_and_says_for_what",
    ),
    mutant(
        "an approval fits other arguments",
        "approvals",
        "agents/approvals.py",
        "seen = [call.id, tool.name, tool.parameters, canonical_arguments(call.arguments)]",
        "seen = [call.id, tool.name, tool.parameters]",
        APPROVAL_TESTS + "test_decision_does_not_fit_other_arguments",
    ),
    mutant(
        "an approval fits another tool of that name",
        "approvals",
        "agents/approvals.py",
        "seen = [call.id, tool.name, tool.parameters, canonical_arguments(call.arguments)]",
        "seen = [call.id, tool.name, canonical_arguments(call.arguments)]",
        APPROVAL_TESTS + "test_decision_does_not_fit_another_tool_of_that_name",
    ),
    mutant(
        "a decision that fits nothing is ignored",
        "approvals",
        "agents/approvals.py",
        "            if call is None:\n                raise ConversationError(",
        "            if call is None:\n                continue\n"
        "                raise ConversationError(",
        APPROVAL_TESTS + "test_second_and_late_decisions_are_refused_and_nothing_happens",
    ),
    mutant(
        "where the author's function fails, the call runs",
        "approvals",
        "agents/approvals.py",
        "a person is the safe answer)\n            return True\n",
        "a person is the safe answer)\n            return False\n",
        APPROVAL_TESTS + "test_function_that_fails_leaves_the_decision_to_a_person",
    ),
    # - idempotency
    mutant(
        "calls of two conversations have one idempotency key",
        "idempotency",
        "core/run.py",
        'return f"{self.conversation.id}/{effect.key}"',
        "return effect.key",
        "test_agent.py::test_keys_of_two_conversations_differ",
    ),
]
