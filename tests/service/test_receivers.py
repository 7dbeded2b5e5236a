"""Who may be called back: what is refused when a job is submitted, and what when it is called."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.site import Service, problem
from tornado_celery_bridge.base.settings import SettingsError
from tornado_celery_bridge.service.access.receivers import Receivers
from tornado_celery_bridge.service.resources.callbacks.deliverer import Deliverer
from tornado_celery_bridge.service.resources.callbacks.signatures import Secrets

PRIVATE = [
    *("127.0.0.1", "127.1", "0x7f.1", "2130706433", "017700000001", "0.0.0.0", "0", "10.1.2.3", "172.16.0.1"),
    *("192.168.1.1", "169.254.169.254", "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "255.255.255.255"),
    *(
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[fe80::1]",
        "[fe80::1%25lo]",
        "[fec0::1]",
        "[fc00::1]",
    ),
    *("[ff02::1]", "[2001:db8::1]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::7f00:1]"),
    # Of protocols, relays and AS 112, which Python calls global; and of Azure's host.
    *("192.0.0.9", "192.0.0.10", "192.0.0.192", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.175.48.1"),
    *("168.63.129.16", "100.100.100.200", "[2001:1::1]", "[2001:3::1]", "[2001:4:112::1]", "[2001:20::1]"),
    *("[2620:4f:8000::1]", "[3fff::1]", "[2002:101:101::]", "[64:ff9b::a83f:8110]", "[::ffff:168.63.129.16]"),
    *("[2002:7f00:1::]", "[2002:a00:1::1]", "[2001:0:7f00:1::]", "localhost", "LocalHost", "a.localhost"),
]
PUBLIC = [
    "1.1.1.1",
    "example.org",
    "xn--bcher-kva.example",
    "a_b.example",
    "[2606:4700:4700::1111]",
    "[64:ff9b::101:101]",
]
MISWRITTEN = [
    *("https://", "https:///x", "https://user@example.org/", "https://user:word@example.org/", "https://@example.org/"),
    *("https://example.org:0/", "https://example.org:65536/", "https://example.org:x/", "https://example.org:/"),
    *(
        "https://[::1/",
        "https://[x]/",
        "https://exam ple.org/",
        "https://example.org\\@127.0.0.1/",
        "https://ex\tample.org/",
    ),
    *("https://example.org/\r\nX: y", "https://bücher.example/", "https://example.org./", "https://-x.example/"),
    *("https://a..example/", "https://127.0.0.1%00.example.org/"),
]


@pytest.mark.parametrize("host", PRIVATE)
def test_private_hosts_are_seen(host: str) -> None:
    assert Receivers().fault_of(f"https://{host}:8443/x") == "This host may not be called."


@pytest.mark.parametrize("host", PUBLIC)
def test_public_hosts_may_be_called_by_https_alone(host: str) -> None:
    assert Receivers().fault_of(f"https://{host}:1/a?b=c") is None
    assert Receivers().fault_of(f"http://{host}/") == "This should be https."


@pytest.mark.parametrize("url", [*MISWRITTEN, "", "x", "//example.org/", "ftp://example.org/", "file:///etc/passwd"])
def test_urls_that_are_none(url: str) -> None:
    assert Receivers().fault_of(url)
    assert Receivers("example.org,0.0.0.0/0,::/0").fault_of(url)


def test_what_the_operator_allows() -> None:
    receivers = Receivers(" 10.1.0.0/16, ::1,Hooks.internal ,")
    for url in (
        "http://10.1.2.3:80/",
        "https://10.1.2.3/",
        "http://[::1]/",
        "http://hooks.INTERNAL/",
        "https://x.test/",
    ):
        assert receivers.fault_of(url) is None, url
    for url in (
        "http://10.2.0.1/",
        "https://10.2.0.1/",
        "http://x.hooks.internal/",
        "http://x.test/",
        "https://[::2]/",
    ):
        assert receivers.fault_of(url), url
    assert receivers.may_reach("hooks.internal", "192.168.0.1")
    assert receivers.may_reach("x.test", "10.1.0.1")
    assert receivers.may_reach("x.test", "::ffff:10.1.0.1")
    assert not receivers.may_reach("x.test", "192.168.0.1")
    assert not receivers.may_reach("x.test", "fe80::1%lo")


@pytest.mark.parametrize("allow", ["10.0.0.1/8", "10.0.0.0/33", "*", "https://x", "a b", "127.1", "x:80"])
def test_settings_that_make_no_sense(allow: str) -> None:
    with pytest.raises(SettingsError, match="CALLBACK_ALLOW"):
        Receivers(f"x.test,{allow}")


@pytest.mark.parametrize("url", ["https://127.1/", "http://example.org/", "https://u@example.org", "ftp://x", 5, ""])
async def test_refused_at_submit_with_a_pointer(service: Service, url: Any) -> None:
    refused = await service.submit("s.add", {"input": [1], "options": {"callback_url": url}})
    document = problem(refused, 422, "invalid-options")
    assert [error["pointer"] for error in document["errors"]] == ["/options/callback_url"]


# When it is called, whatever was seen before.


class Listener:
    """Counts the connections that reach it."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.count += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()


@pytest.fixture
async def listener() -> AsyncIterator[tuple[Listener, int]]:
    made = Listener()
    server = await asyncio.start_server(made, "127.0.0.1", 0)
    yield made, server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


async def post(url: str, allow: str = "") -> tuple[int | None, str | None]:
    deliverer = Deliverer(None, Receivers(allow), Secrets(Path("none")))  # type: ignore[arg-type]
    status, error, _ = await deliverer._post(url, {}, b"{}")
    await deliverer.close()
    return status, error


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
    """Have ``rebinding.test`` looked up as the first of *answers* the first time, and so on."""
    left, real = list(answers), socket.getaddrinfo

    def look_up(host: str, port: int, *rest: Any) -> Any:
        if host != "rebinding.test":
            return real(host, port, *rest)
        return [found for address in left.pop(0) for found in real(address, port, *rest)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]", "[::1]", "localhost", "0"]
)
async def test_nothing_reaches_a_private_address(listener: tuple[Listener, int], scheme: str, host: str) -> None:
    assert await post(f"{scheme}://{host}:{listener[1]}/") == (None, "This host may not be called.")
    assert listener[0].count == 0


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["::ffff:127.0.0.1"], ["127.0.0.2", "127.0.0.1"]])
async def test_a_name_with_any_private_address_is_not_called(
    listener: tuple[Listener, int], monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    resolve_to(monkeypatch, addresses)
    refused = await post(f"http://rebinding.test:{listener[1]}/", allow="127.0.0.2")
    assert refused == (None, "This host may not be called.")
    assert listener[0].count == 0


async def test_a_name_is_looked_up_once_and_the_checked_address_called(
    listener: tuple[Listener, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Listener()
    allowed = await asyncio.start_server(other, "127.0.0.2", listener[1])
    resolve_to(monkeypatch, ["127.0.0.2"], ["127.0.0.1"])
    url = f"http://rebinding.test:{listener[1]}/"
    assert await post(url, allow="127.0.0.2") == (204, None)
    assert await post(url, allow="127.0.0.2") == (None, "This host may not be called.")
    assert (other.count, listener[0].count) == (1, 0)
    allowed.close()
    await allowed.wait_closed()


async def test_what_cannot_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert await post(f"http://127.0.0.1:{port}/", allow="127.0.0.1") == (None, "No connection.")
    assert await post("https://no.such.host.invalid/") == (None, "The host was not found.")
