"""No form of a secret reaches a cassette: escaped, percent-encoded, in base64, or spread over events."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pathors_agent import Agent, AsyncAgent, HTTPTransport, Request
from pathors_agent.testing import (
    AsyncCassette,
    AsyncScriptedTransport,
    Cassette,
    CassetteRefused,
    ScriptedTransport,
    Scrub,
    raw,
)
from pathors_agent.transports.scrubbing import masked, masked_spread_texts, spread_texts
from servers import ScriptedServer, answer

pytestmark = pytest.mark.anyio

# - the forms of a text -


def json_text(text: str) -> str:
    return json.dumps(text)[1:-1]


def all_unicode_escapes(text: str) -> str:
    units = text.encode("utf-16-be", errors="surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def basic(text: str, user: str = "ada") -> str:
    return base64.b64encode(f"{user}:{text}".encode(errors="surrogatepass")).decode()


def percent(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode(errors="surrogatepass"))


def safely(quoting: Callable[..., str]) -> Callable[[str], str]:
    return lambda text: quoting(text.encode(errors="surrogatepass"))


FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "JSON": json_text,
    "JSON in UTF-8": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON in JSON": lambda text: json_text(json_text(text)),
    "JSON in JSON in JSON": lambda text: json_text(json_text(json_text(text))),
    "JSON with all escapes": all_unicode_escapes,
    "JSON with capital escapes": lambda text: all_unicode_escapes(text).upper().replace("U", "u"),
    "JSON in JSON with all escapes": lambda text: json_text(all_unicode_escapes(text)),
    "JSON with escaped slashes": lambda text: json_text(text).replace("/", "\\/"),
    "URL": safely(quote),
    "URL with all escapes": percent,
    "URL with capital escapes": lambda text: percent(text).upper(),
    "URL in a URL": lambda text: quote(safely(quote)(text)),
    "path of a URL": lambda text: quote(text.encode(errors="surrogatepass"), safe=""),
    "form": safely(quote_plus),
    "bytes of Python": lambda text: repr(text.encode(errors="surrogatepass"))[2:-1],
    "text of Python": ascii,
    "HTML": lambda text: text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;"),
}

SECRETS = [
    "hunter2!",
    "Anna Smith",
    'a"b\\c/d e&f=g',
    "pässwörd→\U0001f511",
    "0123456789",
    "line\none\ttwo",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("form", FORMS)
def test_named_secret_is_masked_in_every_form(form: str, secret: str) -> None:
    written = FORMS[form](secret).encode()
    body = b'{"text": "before ' + written + b' after"}'

    scrubbed = masked(body, [secret])

    assert len(scrubbed) == len(body)
    assert scrubbed.startswith(b'{"text": "before ')
    assert scrubbed.endswith(b' after"}')
    assert set(scrubbed[17:-8]) <= set(b"*'\"\\")


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("user", ["", "a", "ad", "ada"])
@pytest.mark.parametrize("escape", [str, lambda text: text.replace("/", "\\/"), quote])
def test_named_secret_is_masked_in_base64(
    escape: Callable[[str], str], user: str, secret: str
) -> None:
    plain = base64.b64encode(f"{user}{secret}, and more".encode())
    url = base64.urlsafe_b64encode(f"{user}{secret}, and more".encode())
    for encoded in (plain, url):
        scrubbed = masked(escape(encoded.decode()).encode(), [secret])

        rest = re.sub(rb"%2[BF]|\\", b"", scrubbed)
        assert b"*" in rest
        assert len(rest.replace(b"*", b"")) <= len(encoded) - 4 * len(secret.encode()) // 3 + 4


ANY = st.text(st.characters(codec="utf-8"), min_size=5, max_size=12)


@given(ANY, st.data())
@example("\\\\\\\\\\", None)
def test_named_secret_is_masked_however_each_character_is_written(secret: str, data: Any) -> None:
    assume(not secret.isspace())
    written = "".join(
        FORMS[data.draw(st.sampled_from(sorted(FORMS.keys() - {"text of Python"})))](character)
        if data
        else character
        for character in secret
    )

    scrubbed = masked(f"<{written}>".encode(), [secret])

    assert b"*" in scrubbed
    # What stays of it are backslashes of an escape around it.
    assert len(scrubbed.strip(b"<>\\").replace(b"*", b"").replace(b"\\", b"")) == 0


@given(st.dictionaries(ANY, st.lists(ANY | st.integers() | st.booleans())), ANY)
def test_request_without_the_secret_is_left_as_it_is(body: dict[str, Any], secret: str) -> None:
    assume(secret not in json.dumps(body, ensure_ascii=False))
    scrubbed = Scrub(secrets=[secret]).request_body(body)
    assert json.dumps(scrubbed).count("*") >= json.dumps(body).count("*")
    json.dumps(scrubbed)


@pytest.mark.parametrize(
    "where", ['{"n": 4711}', '{"n":4711}', "[1,4711]", "4711", '{"n": [4711 ]}']
)
def test_secret_that_is_a_number_is_masked_by_a_number(where: str) -> None:
    scrubbed = masked(where.encode(), ["4711"])
    assert json.loads(scrubbed) == json.loads(where.replace("4711", "9999"))


def test_secret_of_nines_is_masked_by_another_number() -> None:
    assert masked(b'{"n":9999}', ["9999"]) == b'{"n":8888}'


def test_number_of_a_request_is_masked() -> None:
    assert Scrub(secrets=["4711"]).request_body({"pin": 4711, "more": [4711.5, 5]}) == {
        "pin": 9999,
        "more": ["****.5", 5],
    }


# - the shapes of keys -

LETTERS = "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"
KEYS = [
    "sk-" + LETTERS,
    "sk-proj-" + LETTERS,
    "sk-ant-api03-" + LETTERS + "_-AA",
    "sk_live_" + LETTERS,
    "gsk_" + LETTERS,
    "AIza" + LETTERS[:35],
    "AKIA" + LETTERS.upper()[:16],
    "ASIA" + LETTERS.upper()[:16],
    "gho_" + LETTERS,
    "ghp_" + LETTERS,
    "ghs_" + LETTERS,
    "github_pat_" + LETTERS + "_" + LETTERS,
    "glpat-" + LETTERS[:20],
    "xoxb-123456789012-123456789012-" + LETTERS[:24],
    "xoxp-123456789012-" + LETTERS[:24],
    "hf_" + LETTERS[:34],
    "ya29." + LETTERS,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "SG." + LETTERS[:22] + "." + LETTERS,
    "npm_" + LETTERS,
]
PLACES: dict[str, Callable[[str], str]] = {
    "alone": str,
    "in words": "the key is {}, keep it".format,
    "in JSON": lambda key: json.dumps({"key": key}),
    "after an escape": lambda key: json.dumps({"text": f"the key:\n{key}\n"}),
    "in JSON in JSON": lambda key: json.dumps({"arguments": json.dumps({"key": f"\t{key}"})}),
    "in a URL": "https://example.com/%20{}/x".format,
    "in a header": "Authorization: Bearer {}".format,
    "in a form": lambda key: urlencode({"a": 1, "value": key}),
}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("place", PLACES)
def test_key_is_masked_by_its_shape(place: str, key: str) -> None:
    written = PLACES[place](key)

    scrubbed = masked(written.encode()).decode()

    assert len(scrubbed) == len(written)
    assert scrubbed.replace("*", "") == written.replace(key, "")


@pytest.mark.parametrize(
    ("written", "secret"),
    [
        ("GET /v1?api_key={}&a=1", "abcd1234"),
        ("GET /v1?key={}", "abc"),
        ("GET /v1?a=1&token={}", "abc"),
        ("GET /v1?a=1&access_token={}#top", "abcd1234"),
        ("GET /v1?X-Amz-Signature={}", "abcd1234"),
        ("?subscription-key={}", "abcd1234"),
        ("?sig={}&b=2", "ab%2Fcd%3D"),
        ('{"url": "https:\\/\\/h\\/?key={}"}', "ab\\/cd"),
        ("redirect=https%3A%2F%2Fh%2F%3Fkey%3D{}%26a%3D1", "abcd1234"),
        ('"https://h/?a=1\\u0026key={}\\u0026b=2"', "abcd1234"),
        ("api_key={}&a=1", "abcd1234"),
        ("grant_type=x&client_secret={}", "abcd1234"),
        ("password={}", "correct+horse"),
        ("https://ada:{}@example.com/v1", "hunter2"),
        ("postgresql+psycopg://ada:{}@db/x", "hunter2"),
        ("Authorization: Bearer {}", "abcdefghijklmnop1234"),
        ("authorization: bearer {}", "abcdefghijklmnop1234"),
        ("Authorization: Basic {}", basic("hunter2")),
        ("Proxy-Authorization: Basic {}", basic("x/y?z>")),
        (
            "-----BEGIN RSA PRIVATE KEY-----{}-----END RSA PRIVATE KEY-----",
            "\\nMIIEpAIBAAKCAQEA\\n7bq\\n",
        ),
    ],
)
def test_secret_is_masked_by_its_place(written: str, secret: str) -> None:
    scrubbed = masked(written.replace("{}", secret).encode()).decode()

    assert scrubbed.replace("*", "") == written.replace("{}", "")


@pytest.mark.parametrize(
    "text",
    [
        "The basic information about masks, skis and keyboards.",
        "sorted(names, key=len)",
        "risk-assessment and task-oriented, desk-1",
        "max_tokens=5",
        "https://example.com:8080/a@b",
        "https://example.com/?a=1&b=2",
        '{"token": "Hi", "key": "value", "data:image/png;base64": "iVBORw0KGgo"}',
        "bearer of bad news",
        "AKIAsomething eyJust a name",
    ],
)
def test_words_that_only_look_like_it_are_left(text: str) -> None:
    assert masked(text.encode()) == text.encode()


def test_long_bodies_are_searched_in_linear_time() -> None:
    # A search of quadratic time takes minutes here.
    for body in (b"a" * 300_000, b"\\" * 5_000, b"key=" * 30_000, b"%25" * 30_000, b"://" * 30_000):
        masked(body, ["hunter2", "\\\\ \\"])


# - in a cassette -


def recorded(path: Path, entry: Any, *, body: Any = None, scrub: Scrub | None = None) -> str:
    request = Request(body=json.dumps(body or {"messages": []}).encode())
    with Cassette(path, ScriptedTransport(entry), scrub=scrub, record=True).send(request) as got:
        list(got.pieces)
    return path.read_text()


def deltas(*texts: str) -> bytes:
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)


@pytest.mark.parametrize("form", FORMS)
def test_secret_reaches_no_cassette(form: str, tmp_path: Path) -> None:
    secret = "pässwörd 42/7"
    written = FORMS[form](secret)
    scrub = Scrub(secrets=[secret])

    text = recorded(
        tmp_path / "a.json",
        raw(written.encode()),
        body={"a": written, "b": [{written: 1}]},
        scrub=scrub,
    )

    assert written not in text
    assert json.loads(text)["exchanges"][0]["request"]["body"]["a"].strip("*'") == ""


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_secret_that_a_stream_spreads_over_events_is_masked_in_each(
    cut: int, tmp_path: Path
) -> None:
    path, scrub = tmp_path / "a.json", Scrub(secrets=["Anna Smith"])
    stream = deltas("Dear An", "na S", "mith", ", hello", " Anna", ".")
    with Cassette(path, ScriptedTransport(raw(stream), cut=cut), scrub=scrub).send(
        Request(body=b"{}")
    ) as response:
        list(response.pieces)

    with Cassette(path).send(Request(body=b"{}")) as response:
        pieces = list(response.pieces)
    assert b"".join(spread_texts(b"".join(pieces))) == b"Dear **********, hello Anna."
    assert len(pieces) == -(-len(stream) // cut)


def test_key_that_a_stream_spreads_over_events_is_masked(tmp_path: Path) -> None:
    text = recorded(tmp_path / "a.json", raw(deltas("the key is s", "k-abcdefgh", "ijklmnopqrst")))

    assert "abcdefgh" not in text
    assert "ijklmnop" not in text


def test_texts_of_two_calls_are_not_one() -> None:
    def call(index: int, arguments: str) -> dict[str, Any]:
        return {"delta": {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}}

    values = [call(0, "An"), call(1, "na"), call(0, "n"), call(1, "na"), call(0, "a")]
    body = b"".join(b"data: %s\n" % json.dumps(value).encode() for value in values)

    assert sorted(spread_texts(body)) == [b"Anna", b"nana"]


@given(st.lists(st.text(max_size=6), min_size=1, max_size=6), st.integers(1, 40))
def test_pieces_without_a_secret_stay_as_they_are(texts: list[str], size: int) -> None:
    body = deltas(*texts)
    pieces = [body[i : i + size] for i in range(0, len(body), size)]

    assert masked_spread_texts(pieces, lambda text: text) is None


@given(st.lists(st.text(max_size=6), min_size=1, max_size=6), st.integers(1, 40))
def test_masked_pieces_are_the_same_events(texts: list[str], size: int) -> None:
    assume("".join(texts))
    body = deltas(*texts)
    pieces = [body[i : i + size] for i in range(0, len(body), size)]

    changed = masked_spread_texts(pieces, lambda text: b"x" * len(text))

    assert changed is not None or set("".join(texts)) == {"x"}
    assert len(changed or pieces) == len(pieces)
    whole = "".join(texts).encode(errors="surrogatepass")
    assert b"".join(spread_texts(b"".join(changed or pieces))) == b"x" * len(whole)


def test_recording_with_a_missed_secret_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the masking had a gap.
    monkeypatch.setattr(Scrub, "pieces", lambda self, pieces: list(pieces))
    path = tmp_path / "a.json"

    with pytest.raises(CassetteRefused, match="because the response's body of POST ") as caught:
        recorded(path, raw(b'{"text": "hunter2"}'), scrub=Scrub(secrets=["hunter2"]))

    assert "holds secrets[0]" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert not path.exists()


@pytest.mark.parametrize(
    "body",
    [
        b'{"text": "\\u0073\\u006b\\u002dabcdefghijklmnopqrst"}',
        b"sk%2Dabcdefghijklmnopqrst",
        b'{"text": "\\u0041KIAABCDEFGHIJKLMNOP"}',
    ],
)
def test_key_in_an_unusual_form_is_masked_or_refused(body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    try:
        recorded(path, raw(body))
    except CassetteRefused:
        assert not path.exists()
    else:
        assert "abcdefgh" not in path.read_text()
        assert "ABCDEFGH" not in path.read_text()


OWN_KEY = "our-plain-words-42"


@pytest.mark.parametrize(
    ("status", "echo"),
    [("200 OK", "Your key is {}."), ("401 Unauthorized", "Wrong key: \\u006f{}.")],
)
def test_answer_that_repeats_the_key_of_the_transport_is_refused_until_it_is_named(
    status: str, echo: str, tmp_path: Path, scripted_server: Callable[..., ScriptedServer]
) -> None:
    key = OWN_KEY if "\\" not in echo else OWN_KEY[1:]
    body = ('{"error": {"message": "' + echo.replace("{}", key) + '"}}').encode()
    refused = answer(body, status)
    server = scripted_server([refused], [refused])
    path = tmp_path / "a.json"
    request = Request(body=b"{}")

    def send(scrub: Scrub) -> None:
        with Cassette(path, HTTPTransport(server.url, api_key=OWN_KEY), scrub=scrub) as model:
            with model.send(request) as response:
                list(response.pieces)

    with pytest.raises(CassetteRefused, match="holds a key of the transport"):
        send(Scrub())
    assert not path.exists()
    send(Scrub(secrets=[OWN_KEY]))
    assert OWN_KEY[1:] not in path.read_text()


def test_refused_recording_leaves_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    model = Cassette(
        path, ScriptedTransport(raw(b"fine"), raw(b"hunter2")), scrub=Scrub(secrets=["hunter2"])
    )
    for body in (b'{"n":1}', b'{"n":2}'):
        if body == b'{"n":2}':
            monkeypatch.setattr(Scrub, "pieces", lambda self, pieces: list(pieces))
        try:
            with model.send(Request(body=body)) as response:
                list(response.pieces)
        except CassetteRefused:
            pass

    stored = json.loads(path.read_text())["exchanges"]
    assert [each["request"]["body"] for each in stored] == [{"n": 1}]


async def test_async_recording_with_a_missed_secret_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scrub, "pieces", lambda self, pieces: list(pieces))
    model = AsyncCassette(
        tmp_path / "a.json",
        AsyncScriptedTransport("I am hunter2."),
        scrub=Scrub(secrets=["hunter2"]),
    )

    with pytest.raises(CassetteRefused, match=r"secrets\[0\]"):
        await AsyncAgent(model).run("Hi")


def test_run_is_recorded_and_replayed_with_its_secrets_masked(tmp_path: Path) -> None:
    path, scrub = tmp_path / "a.json", Scrub(secrets=["Anna Smith"])
    said = "Hello Anna Smith, your token is ghp_" + LETTERS

    first = Agent(Cassette(path, ScriptedTransport(said), scrub=scrub)).run("I am Anna Smith.")
    second = Agent(Cassette(path, scrub=scrub)).run("I am Anna Smith.")

    assert first.output == said
    assert second.output == "Hello **********, your token is " + "*" * 40
