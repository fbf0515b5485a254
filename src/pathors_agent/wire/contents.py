"""Write contents as JSON values; where a message may hold text only, notes stand for other parts.

OpenAI takes images, audio and files in user messages alone, and of few types. It refuses a request
with any other, and then every later request of the conversation. Pure.
"""

from collections.abc import Sequence
from typing import Literal

from pathors_agent.messages import Content, ContentPart, JSONValue

ResultMedia = Literal["user_message", "tool_message", "left_out"]
"""Where the parts of a tool's result that are not text are sent."""

RESULT_ORIGIN = "From the result of tool call "
"""The text before each result's parts, if a user message carries several; the call's id follows."""

_IN_USER_MESSAGE = "in the next user message"
_NOT_SENT = "not sent"

# Part types that have no place outside of user messages, in words for the model.
_WORDS = {"image_url": "image", "input_audio": "audio", "file": "file"}
_IMAGE_STARTS = tuple(f"data:image/{name};" for name in ("png", "jpeg", "jpg", "gif", "webp"))
_AUDIO_FORMATS = ("wav", "mp3")


def any_content(content: Content) -> JSONValue:
    """Return a content with all its parts."""
    # Endpoints refuse an empty list.
    return content if isinstance(content, str) else write_parts(content) or ""


def text_content(content: Content) -> JSONValue:
    """Return a content for a system or assistant message: notes stand for images, audio and files."""
    if isinstance(content, str) or not any(part.type in _WORDS for part in content):
        return any_content(content)
    return _lines(content)


def result_content(content: Content, media: ResultMedia) -> JSONValue:
    """Return the content of a tool message; notes stand for parts that go elsewhere.

    With "left_out", it is always a string: some endpoints refuse any list of parts there.
    """
    if isinstance(content, str) or media == "tool_message":
        return any_content(content)
    if media == "user_message" and not _others(content):
        return any_content(content)
    return _lines(content, carried_parts(content, media))


def carried_parts(content: Content, media: ResultMedia) -> list[ContentPart]:
    """Return the parts of a tool's result that a user message carries."""
    if isinstance(content, str) or media != "user_message":
        return []
    return [part for part in _others(content) if _is_accepted(part)]


def write_parts(parts: Sequence[ContentPart]) -> list[JSONValue]:
    """Return parts as `history` stores them: a loaded message is sent with the same bytes."""
    return [_write_part(part) for part in parts]


def _write_part(part: ContentPart) -> JSONValue:
    if part.type == "text" and not part.model_extra:  # four times as fast, for nearly every part
        return {"type": "text", "text": part.text}
    dumped: dict[str, JSONValue] = part.model_dump(mode="json", exclude_defaults=True)
    return dumped


def _others(parts: Sequence[ContentPart]) -> list[ContentPart]:
    return [part for part in parts if part.type != "text"]


def _lines(parts: Sequence[ContentPart], carried: Sequence[ContentPart] = ()) -> str:
    """Return the text parts as lines, and a line such as "[image: not sent]" for each other part."""
    lines = []
    for part in parts:
        where = _IN_USER_MESSAGE if part in carried else _NOT_SENT
        note = f"[{_WORDS.get(part.type, part.type)}: {where}]"
        lines.append(part.text or "" if part.type == "text" else note)
    return "\n".join(lines)


def _is_accepted(part: ContentPart) -> bool:
    """Return False for what OpenAI is known to refuse; other types are for other endpoints."""
    value = (part.model_extra or {}).get(part.type)
    match part.type:
        case "image_url":
            return _is_image(value)
        case "input_audio":
            return isinstance(value, dict) and value.get("format") in _AUDIO_FORMATS
        case "file":
            return isinstance(value, dict)
        case _:
            return True


def _is_image(value: JSONValue) -> bool:
    url = value.get("url") if isinstance(value, dict) else None
    if not isinstance(url, str):
        return False
    return not url.startswith("data:") or url.startswith(_IMAGE_STARTS)
