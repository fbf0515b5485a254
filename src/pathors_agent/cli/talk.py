"""Talk to an endpoint: one conversation, shown as it goes."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pathors_agent.agents.agent import Agent
from pathors_agent.agents.result import RunResult
from pathors_agent.cli.activity import ToolActivity
from pathors_agent.cli.output import Screen
from pathors_agent.cli.scene import Scene
from pathors_agent.cli.timelines import ServerCalls
from pathors_agent.core.conversation import Conversation
from pathors_agent.messages import AssistantMessage, JSONValue, Message, ToolCall, ToolMessage
from pathors_agent.transports.http import HTTPTransport
from pathors_agent.views.timeline import TimedCall
from pathors_agent.wire.chat_completions import ModelOptions

# What an endpoint that keeps sessions is asked to tell: also what its own tools do.
_TELL_ALL: dict[str, JSONValue] = {
    "stream_options": {"include_usage": True, "include_tool_activity": True}
}

Decide = Callable[[ToolCall], bool]
"""Asks a person whether a call may be made."""


@dataclass(slots=True)
class Talk:
    """A conversation with an endpoint.

    `activities` are what it said of its tools, and `times` those of the calls for the last answer.
    """

    agent: Agent[str]
    screen: Screen
    decide: Decide
    conversation: Conversation = field(default_factory=Conversation)
    activities: list[dict[str, Any]] = field(default_factory=list)
    times: list[TimedCall] = field(default_factory=list)
    scene: Scene | None = None
    _server_calls: ServerCalls = field(default_factory=ServerCalls)

    def say(self, prompt: str) -> RunResult[str]:
        """Say something, and show the answer as it comes."""
        self.activities.clear()
        self.times = []
        before = self.conversation
        self.conversation = _copy(before, before.messages)
        try:
            result = self._answer(prompt)
            while result.open_calls:
                for call in result.open_calls:
                    self.conversation.append(self._reply(call))
                result = self._answer(None)
        except KeyboardInterrupt:
            self.conversation.close_open_calls("the user stopped the answer")
            raise
        except Exception:
            self.conversation = before  # what was refused is not said again with the next
            raise
        finally:
            self.screen.end_line()
        return result

    def tell(self, activity: dict[str, Any]) -> None:
        """Show what the endpoint says of its tools."""
        self.activities.append(activity)
        self._server_calls.take(activity)
        if self.scene is not None:
            self.scene.show_activity(activity)

    def _answer(self, prompt: str | None) -> RunResult[str]:
        self.scene = scene = Scene(self.screen)
        self._server_calls = ServerCalls()
        stream = self.agent.stream(prompt, conversation=self.conversation)
        try:
            with stream:
                for item in stream:
                    scene.show(item)
                    if isinstance(item, AssistantMessage) and item.tool_calls:
                        break  # these calls are for a person to decide on, and no tools of ours
        finally:
            self.times += [*stream.result.times, *self._server_calls.times]
        return stream.result

    def _reply(self, call: ToolCall) -> ToolMessage:
        """Answer a call that is open: only those can be that wait for a person's yes."""
        approval = (call.extra or {}).get("approval")
        digest = approval.get("digest") if isinstance(approval, dict) else None
        if digest is None:
            text = "This client has no tools."
            return ToolMessage(tool_call_id=call.id, content=text, outcome="error")
        said = {"approved": self.decide(call), "digest": digest}
        return ToolMessage(tool_call_id=call.id, content=json.dumps(said))


@contextmanager
def talking(
    url: str | None,
    screen: Screen,
    *,
    key: str | None = None,
    model: str | None = None,
    session: str | None = None,
    decide: Decide = lambda call: False,
) -> Iterator[Talk]:
    """Open a conversation with an endpoint, new or a session's."""
    http = HTTPTransport(url, api_key=key)
    options = ModelOptions(extra=_TELL_ALL if http.profile.sends == "new_messages" else {})
    with http:
        told: list[Talk] = []
        transport = ToolActivity(http, lambda activity: told[0].tell(dict(activity)))
        agent = Agent(transport, model=model, options=options)
        told.append(Talk(agent, screen, decide, Conversation(session_id=session)))
        yield told[0]


def _copy(conversation: Conversation, messages: Sequence[Message]) -> Conversation:
    return Conversation(messages, session_id=conversation.session_id)
