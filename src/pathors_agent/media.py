"""Read images, audio clips and files for content parts: their type, and OpenAI's form of their data.

A path is the only thing that is read, once, and up to `MAX_PART_BYTES`.
"""

import base64
import binascii
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

# OpenAI accepts requests of 50 MB, base64 adds a third, and each later request of the conversation
# contains the part again.
MAX_PART_BYTES = 20 * 1024**2

MediaSource = str | bytes | Path
"""Media as bytes, as the path of a file, or as a URL."""

# The types that OpenAI accepts.
_IMAGE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
AUDIO_FORMATS = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
}
"""OpenAI's names of its audio formats, by media type."""

_TYPE_BY_START = (
    (rb"\x89PNG\r\n", "image/png"),
    (rb"\xff\xd8\xff", "image/jpeg"),
    (rb"GIF8[79]a", "image/gif"),
    (rb"RIFF....WEBP", "image/webp"),
    (rb"RIFF....WAVE", "audio/wav"),
    (rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]", "audio/mpeg"),  # a tag, or a frame of layer III
    (rb"fLaC", "audio/flac"),
    (rb"OggS", "audio/ogg"),
    (rb"....ftypM4A", "audio/mp4"),
    (rb"%PDF-", "application/pdf"),
)
_OFFICE = "application/vnd.openxmlformats-officedocument"
# Not `mimetypes`, whose answers depend on the files of the machine.
_TYPE_BY_SUFFIX = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".wav": "audio/wav",
    ".mp3": "audio/mpeg",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".m4a": "audio/mp4",
    ".pdf": "application/pdf",
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".docx": f"{_OFFICE}.wordprocessingml.document",
    ".xlsx": f"{_OFFICE}.spreadsheetml.sheet",
    ".pptx": f"{_OFFICE}.presentationml.presentation",
}
_SUFFIX_BY_TYPE = {kind: suffix for suffix, kind in reversed(_TYPE_BY_SUFFIX.items())}


def image_url(source: MediaSource, media_type: str | None) -> str:
    """Return the URL of an image, which is a `data:` URL unless the endpoint can fetch it."""
    if isinstance(source, str) and _scheme(source) in ("http", "https", "gs"):
        return source
    media = _media(source, media_type)
    return media.data_url(media.expected("image", _IMAGE_TYPES, media_type))


def audio_data(source: MediaSource, media_type: str | None) -> tuple[str, str]:
    """Return an audio clip in base64, and OpenAI's name of its format."""
    media = _media(source, media_type)
    kind = media.expected("audio", AUDIO_FORMATS, media_type)
    return media.base64, audio_format(kind)


def file_fields(
    source: MediaSource, filename: str | None, media_type: str | None
) -> dict[str, str]:
    """Return the fields of a file: its id, or its name and data."""
    if isinstance(source, str) and source and not _scheme(source):
        return {"file_id": source}
    media = _media(source, media_type, filename)
    kind = media.expected("file", (), media_type or media.kind)
    name = filename or media.filename or f"file{_SUFFIX_BY_TYPE.get(kind, '')}"
    return {"filename": name, "file_data": media.data_url(kind)}


class _Media(NamedTuple):
    """The bytes of a part, the type that they seem to have, and the name of their file."""

    data: bytes
    kind: str | None
    filename: str | None = None

    @property
    def base64(self) -> str:
        return base64.b64encode(self.data).decode()

    def data_url(self, kind: str) -> str:
        return f"data:{kind};base64,{self.base64}"

    def expected(self, what: str, accepted: Collection[str], given: str | None) -> str:
        """Return the media type: the given one, or the own one if it is accepted."""
        if given is not None or (self.kind is not None and self.kind in accepted):
            return given or self.kind or ""
        found = "of an unknown type" if self.kind is None else self.kind
        wanted = f", not {', '.join(dict.fromkeys(accepted))}" if accepted else ""
        raise ValueError(
            f"ContentPart.{what}: the data is {found}{wanted}; convert it, or pass media_type= "
            "for an endpoint that accepts it"
        )


def _media(source: MediaSource, given: str | None, filename: str | None = None) -> _Media:
    """Read media of any source; `given` is the media type that the caller named."""
    if given is not None and not _MEDIA_TYPE.fullmatch(given):
        raise ValueError(f"media_type= should be a type such as image/png, not {given!r}")
    declared = None
    match source:
        case bytes():
            data = source
        case str():
            declared, data = _read_data_url(source)
        case Path():
            filename = filename or source.name
            with source.open("rb") as file:  # not `read_bytes`: the file may have no end
                data = file.read(MAX_PART_BYTES + 1)
        case _:
            kind = type(source).__name__
            raise TypeError(f"a part is built from bytes, a Path or a URL, not from a {kind}")
    if not data:
        raise ValueError("the data of a content part is empty")
    if len(data) > MAX_PART_BYTES:
        raise ValueError(f"a content part may have {MAX_PART_BYTES:,} bytes (MAX_PART_BYTES)")
    named = _TYPE_BY_SUFFIX.get(Path(filename or "").suffix.lower())
    return _Media(data, _type_of(data) or declared or named or _text_type(data), filename)


_MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+")
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):")  # one letter is a drive of Windows
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[\w-]+=[^;,]*)*;base64,", re.IGNORECASE)


def _scheme(url: str) -> str:
    found = _SCHEME.match(url)
    return found[1].lower() if found else ""


def _read_data_url(url: str) -> tuple[str, bytes]:
    if _scheme(url) != "data":
        raise ValueError(
            "a content part is built from bytes, a Path or a data: URL, and an image also from an "
            "https: URL; pass pathlib.Path(...) for a file of this machine"
        )
    head = _DATA_URL.match(url)
    if head is None:
        raise ValueError("a data: URL should begin with data:TYPE/SUBTYPE;base64,")
    if len(url) - head.end() > 4 * MAX_PART_BYTES:  # far beyond any valid one: do not decode it
        raise ValueError(f"a content part may have {MAX_PART_BYTES:,} bytes (MAX_PART_BYTES)")
    try:
        return head[1].lower(), base64.b64decode(url[head.end() :], validate=True)
    except binascii.Error as error:
        raise ValueError(f"a data: URL has invalid base64: {error}") from None


def _type_of(data: bytes) -> str | None:
    return next((kind for start, kind in _TYPE_BY_START if re.match(start, data, re.DOTALL)), None)


def _text_type(data: bytes) -> str | None:
    try:
        return None if "\0" in data.decode() else "text/plain"
    except UnicodeDecodeError:
        return None


def audio_format(media_type: str) -> str:
    """Return OpenAI's name of an audio format, or the subtype of any other media type."""
    return AUDIO_FORMATS.get(media_type, media_type.rpartition("/")[2])
