"""Mutants of what sends requests: what goes back, what is sent again, waits, keys, schemas."""

from mutants.mutant import mutant

REQUESTS = "wire/chat_completions.py"

REQUEST_TESTS = "test_chat_completions.py::"
HTTP_TESTS = "transports/test_http.py::"
RETRY_TESTS = "transports/test_retry.py::"

SENDING = [
    # - rule 9: what came with a message goes back with it
    mutant(
        "a thought signature does not go back",
        "rule 9",
        REQUESTS,
        "extra = call.extra if profile.echoes_call_fields else {}",
        "extra: dict[str, JSONValue] = {}",
        REQUEST_TESTS + "test_extra_of_a_call_goes_back_and_cannot_replace_the_call",
    ),
    mutant(
        "reasoning_details do not go back",
        "rule 9",
        REQUESTS,
        "for name in profile.echoed_fields:",
        "for name in ():",
        REQUEST_TESTS + "test_message_is_encoded_to_these_bytes",
    ),
    mutant(
        "reasoning does not go back where it is asked for",
        "rule 9",
        REQUESTS,
        "if profile.reasoning_field and message.reasoning:",
        "if False:",
        REQUEST_TESTS + "test_reasoning_goes_back_with_calls_under_the_profiles_field",
    ),
    mutant(
        "unknown fields of a call are lost",
        "rule 9",
        "wire/message_builder.py",
        "self.gathered += call.extra.add_all(extra)",
        "pass",
        "conformance/test_streams.py",
    ),
    mutant(
        "arguments that are no JSON object go back as they came",
        "rule 8",
        REQUESTS,
        '"arguments": call.arguments if is_json_object(call.arguments) else "{}",',
        '"arguments": call.arguments,',
        REQUEST_TESTS
        + "test_arguments_go_back_as_written_and_as_an_empty_object_when_they_are_none",
    ),
    mutant(
        "an image of a result is lost behind a long history",
        "rule 9",
        REQUESTS,
        "or _carried(_results_before(messages, start), profile)",
        "or False",
        "test_legal_requests.py::test_long_history_of_pictures_is_sent_in_the_same_bytes",
    ),
    mutant(
        "Mistral is sent ids that it refuses",
        "rule 10",
        REQUESTS,
        'if profile.call_ids == "any" or _NINE.fullmatch(call_id):',
        'if profile.call_ids == "any" or _NINE.match(call_id):',
        REQUEST_TESTS + "test_ids_become_nine_letters_and_digits_the_same_in_call_and_result",
    ),
    # - promise 2: a request is sent again before the first byte only
    mutant(
        "an answer that breaks in its middle is asked for again",
        "promise 2",
        "transports/first_byte.py",
        "pieces = iter(response.pieces)",
        "pieces = iter(list(response.pieces))",
        RETRY_TESTS + "test_failure_after_the_first_byte_is_not_sent_again",
    ),
    mutant(
        "another endpoint is asked after an answer broke in its middle",
        "promise 2",
        "transports/first_byte.py",
        "pieces = iter(response.pieces)",
        "pieces = iter(list(response.pieces))",
        "transports/test_fallback.py::test_failure_after_the_first_byte_is_raised",
    ),
    mutant(
        "an error that would come again is asked for again",
        "promise 2",
        "transports/retry.py",
        "may_pass = outcome.retryable",
        "may_pass = True",
        RETRY_TESTS + "test_failure_that_would_come_again_is_raised_at_once",
    ),
    mutant(
        "each attempt has an Idempotency-Key of its own",
        "promise 2, idempotency",
        "transports/retry.py",
        'return any(name.lower() == "idempotency-key" for name in headers)',
        "return False",
        RETRY_TESTS + "test_idempotency_key_of_the_caller_is_kept",
    ),
    mutant(
        "attempts of attempts multiply",
        "promise 2",
        "transports/retry.py",
        'changes["retries"] = 0',
        "pass",
        "transports/test_http_retries.py::test_attempts_of_attempts_do_not_multiply",
    ),
    mutant(
        "a retry waits beyond the end of its run",
        "promise 6",
        "transports/retry.py",
        "self._end is not None and time.monotonic() + state.upcoming_sleep >= self._end",
        "False",
        "transports/test_http_retries.py::test_no_wait_goes_beyond_the_time_of_the_run",
    ),
    mutant(
        "a client stays open after its event loop",
        "promise 6",
        "transports/loops.py",
        "        await anext(closer)",
        "        assert closer",
        "transports/test_loops.py::test_clients_are_closed_with_their_loop",
    ),
    mutant(
        "a server that asks for a day is waited for",
        "promise 6",
        "transports/retry.py",
        "return may_pass and self._asked(outcome) <= self._retries.max_retry_after",
        "return may_pass",
        RETRY_TESTS + "test_server_that_asks_for_too_long_is_not_asked_again",
    ),
    mutant(
        "a silent server is waited for",
        "promise 6",
        "transports/exchange.py",
        '            return self._end(start + self._timeouts.seconds("between_bytes"), '
        '"between_bytes")\n        if self._first_end',
        "            return self._whole_end\n        if self._first_end",
        HTTP_TESTS + "test_slow_server_is_left_at_the_limit",
    ),
    mutant(
        "a whole answer may take for ever",
        "promise 6",
        "transports/exchange.py",
        '        if monotonic() >= self._whole_end:\n            raise self.timed_out("whole")\n',
        "",
        HTTP_TESTS + "test_whole_is_limited_where_no_read_waits",
    ),
    # - promise 7: a schema fetches nothing
    mutant(
        "a reference is fetched",
        "promise 7",
        "schema/references.py",
        "registry: Registry[Any] = Registry().with_resource(",
        "registry: Registry[Any] = Registry(\n"
        "                retrieve=lambda uri: __import__('urllib.request').request.urlopen(uri)\n"
        "            ).with_resource(",
        "test_schema.py::test_nothing_is_fetched",
    ),
    mutant(
        "a pattern is searched for by Python's engine",
        "promise 6, promise 7",
        "schema/patterns.py",
        'regex_engine="rust-regex"',
        'regex_engine="python-re"',
        "test_schema_patterns.py::test_pattern_that_the_engine_cannot_search_for_is_refused",
    ),
    # - promise 11: a key stays where it belongs
    mutant(
        "a redirect is followed with the key",
        "promise 11, key checks",
        "transports/http.py",
        "            return self._client.send(posted, stream=True, follow_redirects=False)\n",
        "            return self._client.send(posted, stream=True, follow_redirects=True)\n",
        HTTP_TESTS + "test_redirect_is_refused_and_the_key_stays_here",
    ),
    mutant(
        "an error quotes the key that the provider quoted",
        "promise 11, key checks",
        "transports/exchange.py",
        "return self._secrets.masked_bytes(piece) if self._is_error else piece",
        "return piece",
        HTTP_TESTS + "test_key_in_an_error_of_the_provider_is_masked",
    ),
    mutant(
        "a message shows what it holds",
        "promise 11",
        "messages.py",
        "yield name, value if shown else _Counted(value)",
        "yield name, value",
        "test_messages.py::test_repr_and_str_never_show_contents",
    ),
]
