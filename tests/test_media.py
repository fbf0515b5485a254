"""Images, audio clips and files become the content parts that endpoints accept."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from pathors_agent.core.conversation import Conversation
from pathors_agent.errors import ConversationError
from pathors_agent.history.loading import dump_messages, load_messages, user_message
from pathors_agent.media import MAX_PART_BYTES
from pathors_agent.messages import ContentPart, ToolMessage
from pathors_agent.wire.messages import carried_parts, wire_message
from pathors_agent.wire.profiles import PROFILES

PNG = b"\x89PNG\r\n\x1a\n"
PDF = b"%PDF-1.7\n"
Build = Callable[..., ContentPart]

IMAGES = [
    (PNG, "image/png"),
    (b"\xff\xd8\xff\xe0", "image/jpeg"),
    (b"GIF89a", "image/gif"),
    (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
]
CLIPS = [
    (b"RIFF\x00\x00\x00\x00WAVEfmt ", "wav"),
    (b"ID3\x04\x00", "mp3"),
    (b"\xff\xfb\x90\x00", "mp3"),
    (b"\xff\xf3\x44\xc4", "mp3"),
]


def sent(part: ContentPart) -> object:
    """Return the part as a request has it."""
    message = wire_message(user_message(["Look:", part]))
    content = message["content"]
    assert isinstance(content, list)
    assert content[0] == {"type": "text", "text": "Look:"}
    return content[1]


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(("data", "kind"), IMAGES, ids=[kind for _, kind in IMAGES])
def test_bytes_decide_the_type_of_an_image(data: bytes, kind: str) -> None:
    url = f"data:{kind};base64,{encoded(data)}"

    assert sent(ContentPart.image(data)) == {"type": "image_url", "image_url": {"url": url}}
    wrong = f"data:image/tiff;base64,{encoded(data)}"
    assert ContentPart.image(wrong) == ContentPart.image(data)


def test_url_and_detail_of_an_image_are_sent_unchanged() -> None:
    part = ContentPart.image("https://example.com/a.svg", detail="low")

    shown = {"url": "https://example.com/a.svg", "detail": "low"}
    assert sent(part) == {"type": "image_url", "image_url": shown}


@pytest.mark.parametrize(("data", "name"), CLIPS, ids=["wav", "mp3-tag", "mp3-v1", "mp3-v2"])
def test_bytes_decide_the_format_of_audio(data: bytes, name: str) -> None:
    audio = {"data": encoded(data), "format": name}

    assert sent(ContentPart.audio(data)) == {"type": "input_audio", "input_audio": audio}


def test_other_types_need_the_word_of_the_caller() -> None:
    flac = ContentPart.audio(b"fLaC\x00", media_type="audio/flac")
    tiff = ContentPart.image(b"II*\x00", media_type="image/tiff")

    data = encoded(b"fLaC\x00")
    assert sent(flac) == {"type": "input_audio", "input_audio": {"data": data, "format": "flac"}}
    url = f"data:image/tiff;base64,{encoded(bytes([73, 73, 42, 0]))}"
    assert sent(tiff) == {"type": "image_url", "image_url": {"url": url}}


FILES: list[tuple[bytes, dict[str, str], str, str]] = [
    (PDF, {}, "file.pdf", "application/pdf"),
    (PDF, {"filename": "bill.txt"}, "bill.txt", "application/pdf"),
    (b"a,b\n", {"filename": "table.CSV"}, "table.CSV", "text/csv"),
    (b"Gr\xc3\xbc\xc3\x9fe", {}, "file.txt", "text/plain"),
    (b"PK\x03\x04\xff", {"filename": "a.docx"}, "a.docx", "officedocument.wordprocessingml"),
    (b"\xff\xfe\xff", {"media_type": "application/zip"}, "file", "application/zip"),
]


@pytest.mark.parametrize(("data", "options", "name", "kind"), FILES, ids=[f[2] for f in FILES])
def test_file_has_a_name_and_a_type(
    data: bytes, options: dict[str, str], name: str, kind: str
) -> None:
    part = json.loads(json.dumps(sent(ContentPart.file(data, **options))))

    assert part["type"] == "file"
    assert part["file"]["filename"] == name
    head, _, body = part["file"]["file_data"].partition(";base64,")
    assert head.startswith("data:")
    assert kind in head
    assert base64.b64decode(body) == data


def test_uploaded_file_is_sent_by_its_id() -> None:
    assert sent(ContentPart.file("file-abc")) == {"type": "file", "file": {"file_id": "file-abc"}}


def test_path_is_read_and_names_the_file(tmp_path: Path) -> None:
    picture, paper = tmp_path / "a.bin", tmp_path / "paper.pdf"
    picture.write_bytes(PNG)
    paper.write_bytes(PDF)

    assert ContentPart.image(picture) == ContentPart.image(PNG)
    assert ContentPart.file(paper) == ContentPart.file(PDF, filename="paper.pdf")


REFUSED: list[tuple[str, Build, object, str]] = [
    ("image-of-text", ContentPart.image, b"<svg/>", "the data is text/plain, not image/png"),
    ("image-of-pdf", ContentPart.image, PDF, "the data is application/pdf, not image/png"),
    ("image-by-name", ContentPart.image, "a.png", r"pass pathlib.Path\(...\)"),
    ("image-of-windows", ContentPart.image, "C:\\a.png", r"pass pathlib.Path\(...\)"),
    ("audio-of-flac", ContentPart.audio, b"fLaC", "the data is audio/flac, not audio/wav"),
    ("audio-by-url", ContentPart.audio, "https://example.com/a.mp3", "bytes, a Path or a data:"),
    ("file-by-url", ContentPart.file, "https://example.com/a.pdf", "bytes, a Path or a data:"),
    ("file-unknown", ContentPart.file, b"\xff\xfe\xff", "of an unknown type"),
    ("nothing", ContentPart.image, b"", "is empty"),
    ("bad-base64", ContentPart.image, "data:image/png;base64,a", "invalid base64"),
    ("no-base64", ContentPart.image, "data:image/svg+xml,<svg/>", "should begin with data:"),
    ("too-large", ContentPart.file, b" " * (MAX_PART_BYTES + 1), "20,971,520 bytes"),
    ("too-long", ContentPart.file, f"data:a/b;base64,{' ' * 4 * MAX_PART_BYTES} ", "20,971,520"),
]


@pytest.mark.parametrize(
    ("build", "source", "said"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_unusable_data_is_refused(build: Build, source: object, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        build(source)

    assert len(str(refused.value)) < 300


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="should be a type such as image/png, not 'png'"):
        ContentPart.image(PNG, media_type="png")
    with pytest.raises(TypeError, match="not from a int"):
        ContentPart.image(3)  # type: ignore[arg-type]  # the claim
    with pytest.raises(ConversationError, match=r"prompt\[1\]: "):
        user_message(["Look:", 3])  # type: ignore[list-item]  # the claim


def test_file_without_an_end_is_read_up_to_the_limit(tmp_path: Path) -> None:
    large = tmp_path / "large.pdf"
    with large.open("wb") as file:
        file.truncate(MAX_PART_BYTES + 1)

    with pytest.raises(ValueError, match="20,971,520 bytes"):
        ContentPart.file(large)


@given(st.binary(min_size=1, max_size=40), st.sampled_from([data for data, _ in IMAGES + CLIPS]))
@settings(max_examples=examples(50))
def test_part_that_is_built_is_accepted_by_every_endpoint_and_survives_storage(
    rest: bytes, start: bytes
) -> None:
    build = ContentPart.image if (start in dict(IMAGES)) else ContentPart.audio
    part = build(start + rest)

    history = Conversation([user_message([part])]).messages
    assert load_messages(dump_messages(history)) == list(history)
    for profile in PROFILES.values():
        media = profile.result_media
        assert carried_parts(ToolMessage(tool_call_id="a", content=(part,)).content, media) == [
            part
        ]
    assert encoded(start) not in repr(part)
