"""Read what callers say in plain values: a prompt, a history of OpenAI's message dicts. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from pydantic import ValidationError

from pathors_agent.core.conversation import Conversation
from pathors_agent.errors import ConversationError
from pathors_agent.messages import ContentPart, Message, UserMessage

Prompt = str | Sequence[ContentPart | Mapping[str, object]] | UserMessage | Mapping[str, object]
"""What the user says: text, content parts, or a whole message; each as OpenAI's dicts, too."""

GivenConversation = Conversation | Iterable[Message | Mapping[str, object]]
"""A conversation, or messages to begin one with, as OpenAI's dicts, too."""


def user_message(prompt: Prompt) -> UserMessage:
    """Make a message of what the user says."""
    if isinstance(prompt, UserMessage):
        return prompt
    if isinstance(prompt, str):
        return UserMessage(content=prompt)
    if isinstance(prompt, Mapping):
        [message] = _read([prompt])
        if not isinstance(message, UserMessage):
            raise ConversationError(
                f"prompt= is a message of the role {message.role}, not what the user says; "
                "give a history as conversation="
            )
        return message
    return UserMessage(content=tuple(_part(index, part) for index, part in enumerate(prompt)))


def conversation_of(given: GivenConversation | None) -> Conversation:
    """Give the conversation itself, or begin one with the messages."""
    if isinstance(given, Conversation):
        return given
    if isinstance(given, str | bytes | Mapping):
        raise TypeError(
            f"conversation= is a {type(given).__name__}; give a Conversation or a list of "
            "messages, such as load_messages() gives"
        )
    return Conversation(_read(given or ()))


def _read(values: Iterable[object]) -> list[Message]:
    if not values:
        return []
    from pathors_agent.history.loading import load_messages  # here: few agents need it

    return load_messages(values, format="openai")


def _part(index: int, part: object) -> ContentPart:
    if isinstance(part, Mapping) and "role" in part:
        raise ConversationError("prompt= is a list of messages; give it as conversation=")
    try:
        return ContentPart.model_validate(part)
    except ValidationError as error:
        [first, *_] = error.errors(include_url=False, include_input=False, include_context=False)
        raise ConversationError(f"prompt[{index}]: {first['msg']}") from None
