"""Calls of the tools of a project and of its clients, through one session."""

import json
from typing import Any

import pytest

from completion_requests import add, sent
from live_server import events, external, live, project, result
from pathors_agent import AsyncAgent, Tool, ToolRegistry, tool
from pathors_agent.server import Project
from pathors_agent.testing import AsyncScriptedTransport, answer, calls


@tool(approve=True)
def pay(amount: int) -> str:
    """Pay an amount."""
    return f"paid {amount}"


# - tools of both kinds -

WEATHER = external("weather", city=str)


def test_client_gets_an_external_call_and_sends_only_its_result() -> None:
    script = (calls(("weather", {"city": "Oslo"})), "Sunny.")
    with live(project(*script)) as server:
        asked = server.complete("Weather?", session="s1", tools=[WEATHER]).json()["choices"][0]
        assert asked["finish_reason"] == "tool_calls"
        assert asked["message"]["content"] is None
        assert asked["message"]["tool_calls"] == [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
            }
        ]

        told = server.complete(result("call_1", "sunny"), session="s1", tools=[WEATHER])
        assert told.json()["choices"][0]["message"]["content"] == "Sunny."
        assert [m["role"] for m in sent(server)[1]["messages"]] == ["user", "assistant", "tool"]


def test_streamed_external_call_is_one_delta_with_an_index() -> None:
    script = (calls(("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"})),)
    with live(project(*script)) as server:
        chunks = events(server.complete("Weather?", stream=True, tools=[WEATHER]).text)

        deltas = [c["choices"][0]["delta"] for c in chunks[:-1]]
        found = [call for delta in deltas for call in delta.get("tool_calls", ())]
        assert [(call["index"], call["id"]) for call in found] == [(0, "call_1"), (1, "call_2")]
        assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_server_runs_its_own_and_keeps_the_results_until_the_client_has_run_the_others() -> None:
    script = (calls(("weather", {"city": "Oslo"}), ("add", {"a": 1, "b": 2})), "3 and sunny.")
    with live(project(*script, tools=[add])) as server:
        asked = server.complete("Both?", session="s1", tools=[WEATHER]).json()["choices"][0]
        assert [c["function"]["name"] for c in asked["message"]["tool_calls"]] == ["weather"]

        server.complete(result("call_1", "sunny"), session="s1", tools=[WEATHER])
        results = [m for m in sent(server)[1]["messages"] if m["role"] == "tool"]
        assert [(m["tool_call_id"], m["content"]) for m in results] == [
            ("call_1", "sunny"),
            ("call_2", "3"),
        ]


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        ([result("call_1", "x")], "call_2"),
        ([result("call_1", "x"), result("call_1", "y")], "call_2"),
        ([result("nope", "x")], "call_1, call_2"),
    ],
    ids=["missing", "repeated", "unknown"],
)
def test_results_that_do_not_fit_are_refused_naming_the_open_calls(
    messages: list[Any], named: str
) -> None:
    script = (calls(("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"})), "Fine.")
    with live(project(*script)) as server:
        server.complete("Weather?", session="s1", tools=[WEATHER])
        refused = server.complete(*messages, session="s1", tools=[WEATHER])

        assert refused.status_code == 400
        assert named.rsplit(", ", maxsplit=1)[-1] in refused.json()["error"]["details"][0]
        done = [result("call_2", "b"), result("call_1", "a")]
        assert server.complete(*done, session="s1", tools=[WEATHER]).status_code == 200
        assert [m.get("tool_call_id") for m in server.stored("s1")[2:4]] == ["call_1", "call_2"]


def test_name_of_both_kinds_is_refused() -> None:
    with live(project(tools=[add])) as server:
        refused = server.complete("Hi", tools=[external("add", a=str)])

        assert refused.status_code == 400
        assert "add" in refused.json()["error"]["details"][0]


def test_tools_are_not_kept_in_the_session() -> None:
    with live(project("one", "two")) as server:
        server.complete("first", session="s1", tools=[WEATHER])
        server.complete("second", session="s1")

        assert "tools" in sent(server)[0]
        assert "tools" not in sent(server)[1]


def test_call_that_waits_for_approval_is_shown_with_its_digest_and_run_after_a_yes() -> None:
    with live(project(calls(("pay", {"amount": 5})), "Paid.", tools=[pay])) as server:
        asked = server.complete("Pay 5", session="s1").json()["choices"][0]
        (call,) = asked["message"]["tool_calls"]
        yes = json.dumps({"approved": True, "digest": call["approval"]["digest"]})

        plain_text = server.complete(result("call_1", "paid"), session="s1")
        wrong = json.dumps({"approved": True, "digest": "0" * 32})
        stale = server.complete(result("call_1", wrong), session="s1")
        answered = server.complete(result("call_1", yes), session="s1")

        assert asked["finish_reason"] == "tool_calls"
        assert plain_text.status_code == stale.status_code == 400
        assert "approved" in plain_text.json()["error"]["details"][0]
        assert answered.json()["choices"][0]["message"]["content"] == "Paid."
        assert server.stored("s1")[2]["content"] == "paid 5"


def test_call_of_a_sub_agent_waits_for_a_decision_and_its_agent_continues() -> None:
    buyer = AsyncAgent(
        AsyncScriptedTransport(answer(calls=[("pay", {"amount": 5})], ids=["inner_1"]), "Bought."),
        tools=[pay],
    )
    buy = buyer.as_tool("buy", "Buy something.")
    with live(
        project(calls(("buy", {"prompt": "tea"})), "Here is tea.", "Welcome.", tools=[buy])
    ) as server:
        asked = server.complete("Tea, please", session="s1").json()["choices"][0]
        (call,) = asked["message"]["tool_calls"]
        yes = json.dumps({"approved": True, "digest": call["approval"]["digest"]})
        answered = server.complete(result(call["id"], yes), session="s1")

        assert (call["id"], call["function"]["name"]) == ("inner_1", "pay")
        assert answered.json()["choices"][0]["message"]["content"] == "Here is tea."
        stored = server.stored("s1")
        assert [m["role"] for m in stored][-1] == "assistant"
        assert stored[-2]["content"] == "Bought."
        thanked = server.complete("Thanks", session="s1").json()["choices"][0]
        assert thanked["message"]["content"] == "Welcome."
        assert [m["role"] for m in sent(server)[-1]["messages"]] == [
            *("user", "assistant", "tool", "assistant", "user")
        ]


def test_equal_ids_of_calls_in_agents_side_by_side_are_decided_by_their_digests() -> None:
    paid: list[int] = []

    def spend(amount: int) -> str:
        """Spend."""
        paid.append(amount)
        return "spent"

    tools = [Tool.from_function(spend, approve=True)]

    def buying(amount: int) -> AsyncAgent[None, str]:
        script = (calls(("spend", {"amount": amount})), "Bought.")
        return AsyncAgent(AsyncScriptedTransport(*script), tools=tools)

    agents = [buying(5).as_tool("tea", "Buy tea."), buying(7).as_tool("rum", "Buy rum.")]
    asks = calls(("tea", {"prompt": "Buy."}), ("rum", {"prompt": "Buy."}))
    with live(project(asks, "Done.", tools=agents)) as server:
        asked = server.complete("Tea and rum", session="s1").json()["choices"][0]
        tea, rum = asked["message"]["tool_calls"]
        decided = [
            result("call_1", json.dumps({"approved": yes, "digest": call["approval"]["digest"]}))
            for call, yes in ((rum, False), (tea, True))
        ]
        answered = server.complete(*decided, session="s1")

        assert json.loads(tea["function"]["arguments"]) == {"amount": 5}
        assert answered.json()["choices"][0]["message"]["content"] == "Done."
        assert paid == [5]


@pytest.mark.parametrize("words", [None, "I shall ask the buyer."])
def test_client_that_resends_its_history_continues_a_suspended_sub_agent(words: str | None) -> None:
    buyer = AsyncAgent(
        AsyncScriptedTransport(
            answer("First the tea.", calls=[("pay", {"amount": 5})], ids=["inner_1"]),
            answer(calls=[("pay", {"amount": 7})], ids=["inner_2"]),
            "Bought.",
        ),
        tools=[pay],
    )
    buy = buyer.as_tool("buy", "Buy something.")
    asks = answer(words, calls=[("buy", {"prompt": "tea"})], ids=["outer"])
    with live(project(asks, "Here is tea.", "Welcome.", tools=[buy])) as server:
        history: list[Any] = [{"role": "user", "content": "Tea, please"}]
        for _ in range(2):
            said = server.complete(*history, session="s1").json()["choices"][0]["message"]
            (call,) = said["tool_calls"]
            yes = json.dumps({"approved": True, "digest": call["approval"]["digest"]})
            history += [said, result(call["id"], yes)]
        history.append(server.complete(*history, session="s1").json()["choices"][0]["message"])
        history.append({"role": "user", "content": "Thanks"})
        thanked = server.complete(*history, session="s1")

        assert history[-2]["content"] == "Here is tea."
        assert thanked.json()["choices"][0]["message"]["content"] == "Welcome."
        assert "x-session-rewound" not in thanked.headers
        assert [(m["role"], m["content"]) for m in sent(server)[-1]["messages"]] == [
            ("user", "Tea, please"),
            ("assistant", words),
            ("tool", "Bought."),
            ("assistant", "Here is tea."),
            ("user", "Thanks"),
        ]


def twice_asking_buyer() -> Project:
    buyer = AsyncAgent(
        AsyncScriptedTransport(
            answer("First the tea.", calls=[("pay", {"amount": 5})], ids=["inner_1"]),
            answer(calls=[("pay", {"amount": 7})], ids=["inner_2"]),
            "Bought.",
        ),
        tools=[pay],
    )
    asks = answer("I ask.", calls=[("buy", {"prompt": "tea"})], ids=["outer"])
    return project(asks, "Here is tea.", "Welcome.", tools=[buyer.as_tool("buy", "Buy it.")])


@pytest.mark.parametrize("resends", [False, True], ids=["new messages", "whole history"])
def test_messages_that_come_with_decisions_wait_until_the_sub_agent_is_done(resends: bool) -> None:
    with live(twice_asking_buyer()) as server:
        history: list[Any] = []

        def say(*messages: Any) -> Any:
            history.extend(messages)
            told = server.complete(*(history if resends else messages), session="s1")
            history.append(told.json()["choices"][0]["message"])
            assert "x-session-rewound" not in told.headers
            return history[-1]

        asked = say({"role": "user", "content": "Tea, please"})
        for wish in ("With milk", "With milk"):
            (call,) = asked["tool_calls"]
            yes = json.dumps({"approved": True, "digest": call["approval"]["digest"]})
            asked = say(result(call["id"], yes), {"role": "user", "content": wish})
        assert asked["content"] == "Here is tea."
        say({"role": "user", "content": "Thanks"})

        told = [
            *("Tea, please", "I ask.", "Bought.", "With milk", "With milk", "Here is tea."),
            "Thanks",
        ]
        assert [m["content"] for m in sent(server)[-1]["messages"]] == told
        stored = [m["content"] for m in server.stored("s1")]
        assert [each for each in stored if not each.startswith("Suspended")] == [*told, "Welcome."]


def test_user_who_passes_over_a_suspended_sub_agent_is_heard_after_earlier_messages() -> None:
    with live(twice_asking_buyer()) as server:
        asked = server.complete("Tea, please", session="s1").json()["choices"][0]["message"]
        (call,) = asked["tool_calls"]
        yes = json.dumps({"approved": True, "digest": call["approval"]["digest"]})
        server.complete(result(call["id"], yes), "With milk", session="s1")
        server.complete("Forget it", session="s1")
        server.complete("Thanks", session="s1")

        said = [m["content"] for m in sent(server)[-1]["messages"] if m["role"] == "user"]
        assert said == ["Tea, please", "With milk", "Forget it", "Thanks"]


def test_call_that_was_denied_is_not_run() -> None:
    with live(project(calls(("pay", {"amount": 5})), "As you like.", tools=[pay])) as server:
        (call,) = server.complete("Pay 5", session="s1").json()["choices"][0]["message"][
            "tool_calls"
        ]
        no = {"approved": False, "digest": call["approval"]["digest"], "reason": "too much"}
        server.complete(result("call_1", json.dumps(no)), session="s1")

        assert server.stored("s1")[2]["content"] == "Not run: a person said no: too much."


@pytest.mark.parametrize("second", ["the same", "a result"])
def test_call_is_decided_about_once(second: str) -> None:
    with live(project(calls(("pay", {"amount": 5})), "Paid.", tools=[pay])) as server:
        asked = server.complete("Pay 5", session="s1").json()["choices"][0]
        (call,) = asked["message"]["tool_calls"]
        yes = json.dumps({"approved": True, "digest": call["approval"]["digest"]})
        more = yes if second == "the same" else "paid a million"

        refused = server.complete(result("call_1", yes), result("call_1", more), session="s1")
        answered = server.complete(result("call_1", yes), session="s1")

        assert refused.status_code == 400
        assert refused.json()["error"]["details"][0].startswith("messages[1].")
        assert answered.status_code == 200
        assert server.stored("s1")[2]["content"] == "paid 5"


@pytest.mark.parametrize("said", ["[" * 100_000, "NaN", '{"approved": 1}', ""])
def test_decision_that_is_none_is_refused(said: str) -> None:
    with live(project(calls(("pay", {"amount": 5})), tools=[pay])) as server:
        server.complete("Pay 5", session="s1")
        refused = server.complete(result("call_1", said), session="s1")

        assert refused.status_code == 400
        assert refused.json()["error"]["details"][0].startswith("messages[0].content: must be")


# - tools that are searched -


def test_session_offers_the_tools_that_its_turns_have_found() -> None:
    many = ToolRegistry([add]).searchable()
    script = (calls(("search_tools", {"query": "add numbers"})), "Found.", "3.")
    with live(project(*script, tools=many)) as server:
        server.complete("What can you do?", session="s1", tools=[WEATHER])
        server.complete("Then add.", session="s1", tools=[WEATHER])

        names = [[tool["function"]["name"] for tool in each["tools"]] for each in sent(server)]
        assert names == [
            ["weather", "search_tools"],
            ["weather", "search_tools", "add"],
            ["weather", "search_tools", "add"],
        ]


def test_client_tool_may_not_take_the_place_of_the_search() -> None:
    with live(project("Hi.", tools=ToolRegistry([add]).searchable())) as server:
        refused = server.complete("Hi.", tools=[external("search_tools", query=str)])

        assert refused.status_code == 400
        assert "search_tools is a tool of the project" in refused.json()["error"]["message"]
