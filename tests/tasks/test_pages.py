"""The fetch of pages, called as a function; nothing on the internet is asked."""

import subprocess
import sys

import pytest
import tornado.httpserver
import tornado.testing
import tornado.web

from tasks import pages
from tasks.pages import fetch_pages, is_public


class Home(tornado.web.RequestHandler):
    def get(self, size: str) -> None:
        if size == "0":
            self.redirect("/1")
            return
        self.write("x" * int(size))


async def test_fetches_pages_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "is_public", lambda address: True)
    sock, port = tornado.testing.bind_unused_port()
    server = tornado.httpserver.HTTPServer(tornado.web.Application([("/([0-9]+)", Home)]))
    server.add_socket(sock)
    urls = [f"http://127.0.0.1:{port}/{path}" for path in ("5", "0", "none", "1000001")]
    found = await fetch_pages(urls)
    server.stop()
    await server.close_all_connections()
    assert [page["url"] for page in found] == urls
    assert [(page["status"], page["bytes"]) for page in found[:2]] == [(200, 5), (302, 0)]
    assert found[2]["status"] == 404
    assert found[3]["status"] is None, "it is too large"


async def test_fetches_nothing_of_a_private_network() -> None:
    sock, port = tornado.testing.bind_unused_port()
    urls = [f"http://{host}:{port}/" for host in ("127.0.0.1", "localhost", "127.1", "[::1]", "2130706433", "0")]
    found = await fetch_pages([*urls, "ftp://127.0.0.1/", "http://"])
    sock.close()
    assert [page["status"] for page in found] == [None] * len(found)
    assert all("not a public address" in (page["error"] or "") for page in found[: len(urls)]), found


PRIVATE = ["10.0.0.1", "169.254.169.254", "224.0.0.1", "::", "fe80::1%eth0", "::ffff:10.0.0.1", "64:ff9b::a00:1"]


@pytest.mark.parametrize("address", [*PRIVATE, "2002:a00:1::", "ff0e::1"])
def test_what_is_not_public(address: str) -> None:
    assert not is_public(address)


def test_what_is_public() -> None:
    assert is_public("93.184.215.14")
    assert is_public("2606:2800:21f:cb07:6820:80da:af6b:8b2c")


def test_a_process_that_fetches_nothing_loads_no_tornado() -> None:
    code = "import tasks.pages, sys; assert 'tornado' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
