"""Mutants of what serves and stores: turns, leases, keys, repeats."""

from mutants.mutant import mutant

TURN = "server/turn.py"
REPEATS = "server/repeats.py"
KEYS = "server/keys.py"

COMPLETION_TESTS = "server/test_completions.py::"
APP_TESTS = "server/test_app.py::"
MEMORY_RULES = "stores/test_check_store.py::test_memory_store_follows_every_rule"
SQLITE_RULES = "stores/test_check_store.py::test_sqlite_store_follows_every_rule"

SERVING = [
    # - promise 5 and 6: what a client may send
    mutant(
        "a body of any size is read",
        "promise 6",
        "server/body.py",
        "        if size > settings.max_body_bytes:\n            raise",
        "        if size < 0:\n            raise",
        COMPLETION_TESTS + "test_body_beyond_the_limit_is_refused_with_and_without_its_length",
    ),
    mutant(
        "a body is waited for without end",
        "promise 6",
        "server/body.py",
        "with anyio.fail_after(settings.body_seconds):",
        "with anyio.fail_after(None):",
        COMPLETION_TESTS + "test_body_that_comes_too_slowly_is_refused",
    ),
    mutant(
        "a body of any depth is taken",
        "promise 6",
        "server/body.py",
        "if depth_over(value, settings.max_json_depth):",
        "if False:",
        COMPLETION_TESTS + "test_body_that_is_no_plain_json_object_is_refused",
    ),
    mutant(
        "a turn may take any time",
        "promise 6",
        TURN,
        "with anyio.fail_after(self.shared.settings.turn_seconds):",
        "with anyio.fail_after(None):",
        COMPLETION_TESTS + "test_turn_beyond_its_time_is_a_504",
    ),
    mutant(
        "any number of turns runs at once",
        "promise 6, limits",
        "server/admission.py",
        "self.running = anyio.Semaphore(size)",
        "self.running = anyio.Semaphore(10**9)",
        COMPLETION_TESTS + "test_turn_that_waits_for_a_place_asks_no_model_until_it_has_one",
    ),
    mutant(
        "a client that does not read is waited for",
        "promise 6",
        "server/writers.py",
        "            self.write_end = self.last_sent + self._write_seconds\n",
        "",
        "faults/test_server_faults.py::"
        "test_readers_that_do_not_read_cost_little_memory_and_are_given_up",
    ),
    # - promise 3: what was begun is not run again
    mutant(
        "a repeated turn begins again what was begun",
        "promise 3, idempotency",
        "server/journal.py",
        "if effect.call.id in self._begun and run.conversation.turns == self._begun_in:",
        "if not effect.key:",
        "server/test_killed_servers.py::test_repeat_of_a_killed_turn_runs_no_tool_twice",
    ),
    # - promise 8: cancelling
    mutant(
        "a turn goes on without its client",
        "promise 8",
        "server/sending.py",
        "here.start_soon(_listen, receive, line, here.cancel_scope.cancel)",
        "here.start_soon(_listen, receive, line, lambda: None)",
        COMPLETION_TESTS + "test_client_that_leaves_ends_the_model_call_and_nothing_is_stored",
    ),
    # - promise 9: whole turns only
    mutant(
        "the statements of a turn are stored one by one",
        "promise 9",
        "stores/sql_database.py",
        '            options = {"pathors_begin": "BEGIN IMMEDIATE"}\n',
        '            options = {"pathors_begin": None}\n',
        "stores/test_sql_store.py::test_turn_that_fails_in_its_middle_leaves_nothing_of_itself",
    ),
    mutant(
        "a turn is stored without its last message",
        "promise 9",
        TURN,
        "added = [m for m in conversation.messages if id(m) not in before]",
        "added = [m for m in conversation.messages if id(m) not in before][:-1]",
        COMPLETION_TESTS + "test_session_is_continued_by_header",
    ),
    mutant(
        "a client hears the end of its turn before it is stored",
        "promise 9",
        "stores/memory.py",
        "        live.messages += texts\n",
        "        live.messages += texts[:0]\n",
        MEMORY_RULES,
    ),
    # - promise 10: two writers
    mutant(
        "a lease is given twice",
        "promise 10, leases",
        "stores/memory.py",
        "if held is not None and held.until > monotonic():",
        "if held is not None and held.until < 0:",
        MEMORY_RULES,
    ),
    mutant(
        "a lease that is over is held for ever",
        "leases, promise 6",
        "stores/memory.py",
        "if held is not None and held.until > monotonic():",
        "if held is not None:",
        MEMORY_RULES,
    ),
    mutant(
        "a turn is stored without its lease",
        "promise 10, leases",
        "stores/sql_turns.py",
        "    if not await _is_held(connection, lease, drop=drop):\n"
        "        raise _conflict(lease)\n",
        "    await _is_held(connection, lease, drop=drop)\n",
        SQLITE_RULES,
    ),
    mutant(
        "a turn is stored on a session that was changed",
        "promise 10",
        "stores/sql_turns.py",
        "            sessions.c.revision == seen.revision,\n",
        "",
        SQLITE_RULES,
    ),
    mutant(
        "a lease of the same holder is as good as the newest",
        "leases, promise 10",
        "stores/sql_turns.py",
        "        leases.c.fence == lease.fence,\n        leases.c.holder == lease.holder,\n",
        "",
        SQLITE_RULES,
    ),
    mutant(
        "a turn whose session was taken over goes on",
        "leases, promise 10",
        TURN,
        "raise await self._conflict(conflict, lease)",
        "await self._conflict(conflict, lease)",
        APP_TESTS + "test_turn_whose_session_is_taken_over_ends_though_its_model_is_silent",
    ),
    mutant(
        "who waited too long for a session is told that the turn was slow",
        "promise 10",
        TURN,
        "raise _session_busy() from None",
        "raise _too_long() from None",
        COMPLETION_TESTS + "test_second_request_of_a_session_waits_and_then_is_told_so",
    ),
    # - promise 11: keys
    mutant(
        "a key is stored as it is",
        "promise 11, key checks",
        KEYS,
        "        digest=digest_of(text),\n",
        "        digest=text,\n",
        APP_TESTS + "test_key_is_32_random_bytes_in_base62_and_stored_as_a_digest",
    ),
    mutant(
        "what the store found is not compared",
        "promise 11, key checks",
        KEYS,
        "if key is None or not hmac.compare_digest(key.digest, digest):",
        "if key is None:",
        APP_TESTS + "test_key_is_compared_whatever_the_store_found_and_in_constant_time",
    ),
    mutant(
        "a key is compared until its first difference",
        "promise 11, key checks",
        KEYS,
        "not hmac.compare_digest(key.digest, digest)",
        "key.digest != digest",
        APP_TESTS + "test_key_is_compared_whatever_the_store_found_and_in_constant_time",
    ),
    mutant(
        "a key opens every project",
        "promise 11, key checks",
        KEYS,
        "if key.revoked_at is not None or not hmac.compare_digest(\n"
        "            key.project.encode(), project.encode()\n        ):",
        "if key.revoked_at is not None:",
        COMPLETION_TESTS + "test_every_wrong_key_gets_the_same_answer",
    ),
    mutant(
        "a revoked key opens",
        "promise 11, key checks",
        KEYS,
        "if key.revoked_at is not None or not hmac",
        "if not hmac",
        COMPLETION_TESTS + "test_every_wrong_key_gets_the_same_answer",
        APP_TESTS + "test_revoked_key_is_refused_within_a_second",
    ),
    mutant(
        "a key is known for an hour",
        "key checks",
        KEYS,
        "KNOWN_SECONDS = 0.5",
        "KNOWN_SECONDS = 3600.0",
        APP_TESTS + "test_revoked_key_is_refused_within_a_second",
    ),
    mutant(
        "a session of another project exists",
        "promise 11",
        "stores/sql_sessions.py",
        "        sessions.c.project == project, sessions.c.id == session_id, _LIVE\n",
        "        sessions.c.id == session_id, _LIVE\n",
        SQLITE_RULES,
    ),
    mutant(
        "a search looks into other projects",
        "promise 11",
        "stores/sql_sessions.py",
        "found = select(sessions.c.number).where(sessions.c.project == project, _LIVE)",
        "found = select(sessions.c.number).where(_LIVE)",
        SQLITE_RULES,
    ),
    mutant(
        "a bug is logged with its words",
        "promise 11",
        "server/failures.py",
        "error=type(error).__name__, where=where",
        "error=repr(error), where=where",
        APP_TESTS + "test_bug_is_logged_by_its_kind_and_place_and_told_without_them",
    ),
    # - promise 12: repeats
    mutant(
        "another body under the same key gets the old answer",
        "promise 12, idempotency",
        REPEATS,
        "if record.body_digest != body_digest:",
        "if not record.body_digest:",
        COMPLETION_TESTS + "test_other_body_with_the_same_key_is_refused",
    ),
    mutant(
        "a repeat is answered anew",
        "promise 12, idempotency",
        REPEATS,
        "    if record.answer is not None:\n        yield Answer.loaded(record.answer)\n"
        "        return\n",
        "",
        COMPLETION_TESTS + "test_repeat_with_the_same_idempotency_key_gets_the_same_answer",
    ),
    mutant(
        "a request that is being answered is answered a second time",
        "promise 12, idempotency",
        REPEATS,
        'if record.state != "running":',
        'if record.state != "":',
        COMPLETION_TESTS + "test_request_in_progress_is_waited_for_and_then_told_so",
    ),
    mutant(
        "a failed request cannot be repeated",
        "promise 12, idempotency",
        REPEATS,
        "            await store.forget_request(request)\n",
        "            pass\n",
        COMPLETION_TESTS + "test_failed_request_can_be_repeated_under_its_key",
    ),
    mutant(
        "two keys of a project share their repeats",
        "promise 12, idempotency",
        "stores/sql_requests.py",
        "        requests.c.api_key == request.api_key,\n",
        "",
        "stores/test_sql_store.py::test_requests_of_two_keys_under_one_name_are_apart",
    ),
    mutant(
        "the session's name is no part of what is repeated",
        "promise 12, idempotency",
        "server/completions.py",
        'hashlib.sha256(body + b"\\n" + (session_id or "").encode()).hexdigest()',
        "hashlib.sha256(body).hexdigest()",
        COMPLETION_TESTS + "test_other_session_with_the_same_key_is_refused",
    ),
]
