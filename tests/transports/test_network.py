"""Errors name what failed on the way to an endpoint: proxy, certificate, address, credentials."""

import base64
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
import trustme

from pathors_agent.errors import AgentError, InvalidSetting, TransportError
from pathors_agent.testing.loopback_server import refused_port
from pathors_agent.transports.http import AsyncHTTPTransport, HTTPTransport
from servers import CLOSE, answer
from transports.fetching import REQUEST, StartServer, of_each_kind

SECRET = "a-password-of-the-proxy"


def send(make: Any, url: str, **settings: Any) -> bytes:
    """Build a transport, send one request, and return its answer."""
    settings.setdefault("retries", 0)

    async def main() -> bytes:
        async with make(url, **settings) as transport, transport.send(REQUEST) as response:
            return b"".join([piece async for piece in response.pieces])

    if make is not HTTPTransport:
        return anyio.run(main)
    with HTTPTransport(url, **settings) as transport, transport.send(REQUEST) as response:
        return b"".join(response.pieces)


def error_of(make: Any, url: str, **settings: Any) -> AgentError:
    with pytest.raises(AgentError) as caught:
        send(make, url, **settings)
    return caught.value


# - certificates -


@pytest.mark.parametrize("content", [None, b"", b"no certificate", "a folder"])
@of_each_kind
def test_certificate_file_that_cannot_be_used_is_named(
    make: Any, content: bytes | str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "authorities.pem"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        path.mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(path))

    with pytest.raises(InvalidSetting) as caught:
        make("https://127.0.0.1:1/v1")

    assert f"SSL_CERT_FILE names {path}" in str(caught.value)
    assert ("Is a directory" in str(caught.value)) is (content == "a folder")


@of_each_kind
def test_certificate_file_does_not_matter_to_http(
    scripted_server: StartServer, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/authorities.pem")

    assert send(make, scripted_server([answer(b"hi")]).url) == b"hi"


def tls_server(scripted_server: StartServer, folder: Path) -> tuple[str, Path]:
    """Serve over TLS; return the address, and the file of the authority that makes it trusted."""
    authority = trustme.CA()
    file = folder / "authority.pem"
    authority.cert_pem.write_to_path(file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = scripted_server([answer(b"hi")], tls=context)
    return server.url.replace("http:", "https:"), file


@pytest.mark.parametrize("trusts_others", [False, True])
@of_each_kind
def test_error_for_an_untrusted_certificate_says_how_to_trust_it(
    scripted_server: StartServer,
    make: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trusts_others: bool,
) -> None:
    url, file = tls_server(scripted_server, tmp_path)
    said = "set SSL_CERT_FILE to a file with the certificate of its authority"
    if trusts_others:
        trustme.CA().cert_pem.write_to_path(file)
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        said = f"trusted are the authorities in SSL_CERT_FILE={file}"

    error = error_of(make, url)

    assert isinstance(error, TransportError)
    assert not error.retryable
    assert "has a certificate that is not trusted" in str(error)
    assert said in str(error)


@of_each_kind
def test_certificate_file_is_used(
    scripted_server: StartServer, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, authority = tls_server(scripted_server, tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))

    assert send(make, url) == b"hi"


# - proxies -


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize(
    "proxy",
    [
        f"http://me:{SECRET}@127.0.0.1:port",
        f"http://me:{SECRET}@",
        f"ftp://me:{SECRET}@127.0.0.1:9",
        f"http://me:{SECRET}@[::1",
    ],
)
@of_each_kind
def test_proxy_that_is_no_address_is_named_by_its_variable(
    make: Any, proxy: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, proxy)

    with pytest.raises(InvalidSetting) as caught:
        make("https://elsewhere.invalid/v1")

    assert str(caught.value).startswith(f"The proxy in {variable} is not an address")
    assert SECRET not in repr(caught.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
@of_each_kind
def test_proxy_that_refuses_is_named(
    make: Any, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refused_port() as refused:
        port = urlsplit(refused).port
        monkeypatch.setenv(f"{scheme}_proxy", f"http://me:{SECRET}@127.0.0.1:{port}")
        error = error_of(make, f"{scheme}://elsewhere.invalid/v1")

    assert f"No connection to the proxy http://127.0.0.1:{port}, through which " in str(error)
    assert f"{scheme}://elsewhere.invalid is reached: [Errno" in str(error)
    assert SECRET not in repr(error) + repr(error.__cause__)


@of_each_kind
def test_proxy_that_does_not_connect_is_named(
    scripted_server: StartServer, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = scripted_server([answer(b"", "502 Bad Gateway")])
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")

    error = error_of(make, "https://elsewhere.invalid/v1")

    assert f"The proxy http://127.0.0.1:{proxy.port} refused a connection to" in str(error)
    assert "502" in str(error)


@pytest.mark.parametrize("scheme", ["http", "https"])
@of_each_kind
def test_proxy_that_wants_a_password_is_named(
    scripted_server: StartServer, make: Any, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = scripted_server([answer(b"", "407 Proxy Authentication Required")])
    monkeypatch.setenv(f"{scheme}_proxy", f"http://127.0.0.1:{proxy.port}")

    error = error_of(make, f"{scheme}://elsewhere.invalid/v1", retries=2)

    assert f"proxy http://127.0.0.1:{proxy.port}" in str(error)
    assert "407" in str(error)
    assert len(proxy.requests) == 1


@of_each_kind
def test_user_name_of_a_proxy_is_sent_to_it(
    scripted_server: StartServer, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = scripted_server([answer(b"hi")])
    monkeypatch.setenv("http_proxy", f"http://me:{SECRET}@127.0.0.1:{proxy.port}")

    assert send(make, "http://elsewhere.invalid/v1") == b"hi"

    pair = base64.b64encode(f"me:{SECRET}".encode()).decode()
    assert proxy.requests[0].headers["proxy-authorization"] == f"Basic {pair}"


@pytest.mark.parametrize(
    "no_proxy", ["*", "127.0.0.1", "localhost, 127.0.0.0/8", "10.0.0.0/8,127.0.0.1"]
)
@of_each_kind
def test_hosts_without_a_proxy(
    scripted_server: StartServer, make: Any, no_proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", no_proxy)
    with refused_port() as refused:
        port = urlsplit(refused).port
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")

        assert send(make, scripted_server([answer(b"hi")]).url) == b"hi"


@pytest.mark.parametrize("make", [HTTPTransport, AsyncHTTPTransport])
def test_socks_without_its_package_names_the_package(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1080")
    monkeypatch.setattr("pathors_agent.transports.httpx_client.find_spec", lambda name: None)

    with pytest.raises(InvalidSetting, match=r"SOCKS proxy.*pip install 'httpx2\[socks\]'"):
        make("https://elsewhere.invalid/v1")


# - hosts -


@pytest.mark.parametrize(
    "host", ["a" * 64 + ".test", "a..test", ".test", "a." * 130 + "test", "host:0", "host:70000"]
)
@of_each_kind
def test_host_that_cannot_be_looked_up_is_refused(make: Any, host: str) -> None:
    with pytest.raises(InvalidSetting, match="base_url is not an address"):
        make(f"http://{host}/v1")


# - credentials in the address -

ADDRESS = f"http://me:{SECRET}@127.0.0.1:1/v1"


@pytest.mark.parametrize("api_key", [None, ""])
@of_each_kind
def test_credentials_in_the_address_are_sent(
    scripted_server: StartServer, make: Any, api_key: str | None
) -> None:
    server = scripted_server([answer(b"hi")])

    send(make, server.url.replace("http://", f"http://me:{SECRET}@"), api_key=api_key)

    pair = base64.b64encode(f"me:{SECRET}".encode()).decode()
    assert server.requests[0].headers["authorization"] == f"Basic {pair}"


@pytest.mark.parametrize(
    "settings", [{"api_key": "sk_1"}, {"headers": {"authorization": "Bearer sk_1"}}]
)
@of_each_kind
def test_credentials_and_a_key_together_are_refused(make: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting, match="only one of them can be sent") as caught:
        make(ADDRESS, **settings)

    assert SECRET not in repr(caught.value)


@of_each_kind
def test_credentials_of_the_environment_override_its_key(
    scripted_server: StartServer, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted_server([answer(b"hi")])
    monkeypatch.setenv("PATHORS_API_KEY", "sk_1")
    monkeypatch.setenv("PATHORS_BASE_URL", server.url.replace("http://", "http://me@"))

    send(make, "")

    assert server.requests[0].headers["authorization"] == "Basic bWU6"


@of_each_kind
def test_user_name_with_a_colon_is_refused(make: Any) -> None:
    with pytest.raises(InvalidSetting, match="contains a colon"):
        make("http://a%3Ab:c@127.0.0.1:1/v1")


@of_each_kind
def test_credentials_are_never_shown(
    scripted_server: StartServer, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    pair = base64.b64encode(f"me:{SECRET}".encode()).decode()
    server = scripted_server([answer(b"no " + pair.encode(), "400 No")], [CLOSE])
    url = server.url.replace("http://", f"http://me:{SECRET}@")

    shown = [repr(make(url)), send(make, url).decode()]
    shown.append(repr(error_of(make, url)))
    with refused_port() as refused:
        port = urlsplit(refused).port
        shown.append(repr(error_of(make, url.replace(str(server.port), str(port)))))

    texts = "".join(shown) + caplog.text
    assert not [secret for secret in (SECRET, pair) if secret in texts]
