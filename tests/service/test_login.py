"""The login page: sessions, which do what their keys do and end with them, and nobody else's pages."""

import asyncio
import json
import re
import time
from pathlib import Path

import pytest
import tornado.web
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from tests.servers import wait_for
from tests.service.browser import Tab
from tests.service.keys import KEYS, Guarded, command, made, write
from tests.service.logins import cookie_of, forget_attempts, log_in, with_cookie
from tests.service.processes import serving
from tests.service.site import Service, problem
from tornado_celery_bridge.service.access import sessions
from tornado_celery_bridge.service.access.keys import ROLES, Keyring, Principal
from tornado_celery_bridge.service.access.limits import Rate
from tornado_celery_bridge.service.pages import login
from tornado_celery_bridge.service.process.routes import ENDPOINTS

#: What answers without a login. All else is refused, or leads to the login page.
PUBLIC = {"/healthz", "/readyz", "/openapi.json", "/docs", "/docs/{file}", "", "/", "/dashboard/{part}", "/login"}


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    all_made = {name: made(**fields) for name, fields in {**KEYS, "bad": {}}.items()}
    path = write(tmp_path / "keys.json", *(entry for _, entry in all_made.values()))
    return path, {name: key for name, (key, _) in all_made.items()}


@pytest.fixture
async def site(site: Guarded) -> Guarded:
    await forget_attempts(site.service)
    return site


async def test_a_session_is_as_good_as_its_key(site: Guarded) -> None:
    page = await site.service.fetch("/login")
    assert page.code == 200
    assert page.headers["Content-Security-Policy"] == login.POLICY
    assert b"<script" not in page.body
    response = await log_in(site, site.keys["alice"])
    assert (response.code, response.headers["Location"]) == (303, "./")
    attributes = [part.strip() for part in response.headers["Set-Cookie"].split(";")[1:]]
    assert {"HttpOnly", "Path=/", "SameSite=Lax"} <= set(attributes)
    assert "Secure" not in attributes
    cookie = cookie_of(response)
    assert cookie.startswith("session=")
    assert site.keys["alice"].split("_", 2)[2] not in cookie
    assert (await with_cookie(site, cookie, "/v1/tasks")).code == 200
    task = b'{"input": [1]}'
    submitted = await with_cookie(
        site, cookie, "/v1/tasks/s.add/jobs", "POST", task, Sec_Fetch_Site="same-origin", Prefer="wait=10"
    )
    assert (submitted.code, json.loads(submitted.body)["result"]) == (200, 2)
    job = json.loads(submitted.body)
    assert b"event: end" in (await with_cookie(site, cookie, f"{job['links']['events']}")).body
    socket = await websocket_connect(
        HTTPRequest(
            f"ws://127.0.0.1:{site.service.port}/v1/jobs/{job['id']}/ws",
            headers={"Cookie": cookie, "Origin": f"http://127.0.0.1:{site.service.port}"},
        )
    )
    assert json.loads(str(await socket.read_message()))["event"] == "state"
    socket.close()
    problem(await with_cookie(site, cookie, "/v1/jobs/none"), 404, "unknown-job")
    problem(await with_cookie(site, cookie, "/v1/tasks", Authorization="Bearer wrong"), 401, "unauthorized")
    assert b"logged in" in (await with_cookie(site, cookie, "/login")).body

    gone = await with_cookie(site, cookie, "/logout", "POST", b"", Sec_Fetch_Site="same-origin")
    assert (gone.code, gone.headers["Location"]) == (303, "login")
    assert sorted(each.partition("=")[0] for each in gone.headers.get_list("Set-Cookie")) == [
        "__Host-session",
        "session",
    ]
    assert all("expires=" in each for each in gone.headers.get_list("Set-Cookie"))


@pytest.mark.parametrize("name", ["reader", "submitter", "admin"])
async def test_a_session_may_what_its_key_may(site: Guarded, name: str) -> None:
    cookie = cookie_of(await log_in(site, site.keys[name]))
    for method, path in (("GET", "/v1/jobs"), ("POST", "/v1/jobs/x/cancel"), ("POST", "/v1/tasks/s.add/jobs")):
        by_key = await site.fetch(name, path, method, body=None if method == "GET" else b"{}")
        by_session = await with_cookie(
            site, cookie, path, method, None if method == "GET" else b"{}", Sec_Fetch_Site="same-origin"
        )
        assert by_key.code == by_session.code


async def test_with_tls_the_cookie_is_for_this_host_and_tls_alone(site: Guarded) -> None:
    port = site.service.port
    response = await log_in(site, site.keys["alice"], Origin=f"https://127.0.0.1:{port}")
    cookie = response.headers["Set-Cookie"]
    assert cookie.startswith("__Host-session=")
    assert "Secure" in cookie
    assert "Domain" not in cookie
    assert (await with_cookie(site, cookie_of(response), "/v1/me")).code == 200


async def test_behind_a_proxy_its_word_counts(web_url: str, keys: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    settings = {"SAMPLE_URL": web_url, "REDIS_URL": web_url, "CELERY_APP": "tests.service.sample"}
    more = {"API_KEYS_FILE": str(keys[0]), "BEHIND_PROXY": "1", "DATA_DIR": str(tmp_path / "data")}

    def drive() -> tuple[str, int]:
        with serving(tmp_path / "log", **settings, **more) as process:
            first = process.log_in(keys[1]["alice"], **{"X-Forwarded-Proto": "https", "X-Real-IP": "192.0.2.7"})
            wait_for(lambda: "ip=192.0.2.7" in (tmp_path / "log").read_text())
        with serving(tmp_path / "log", **settings, **more) as process:  # the secret is kept
            assert process.fetch("/v1/me", Cookie=first.partition(";")[0])[1]["login"] == "session"
        return first, (tmp_path / "data" / "callback-secret").stat().st_mode & 0o777

    cookie, mode = await asyncio.to_thread(drive)
    assert cookie.startswith("__Host-session=")
    assert mode == 0o600


async def test_a_session_ends_with_its_key(site: Guarded, keys: tuple[Path, dict[str, str]]) -> None:
    path, (key, entry) = keys[0], made()
    entries = json.loads(await asyncio.to_thread(path.read_text))["keys"]
    await asyncio.to_thread(write, path, *entries, entry)
    await site.keyring.refresh()
    cookie = cookie_of(await log_in(site, key))
    assert (await with_cookie(site, cookie, "/v1/me")).code == 200
    for replaced in (
        [{**entry, "hash": made()[1]["hash"]}],  # another key of the same id
        [{**entry, "expires_at": "2020-01-01T00:00:00Z"}],
        [],
    ):
        await asyncio.to_thread(write, path, *entries, *replaced)
        await site.keyring.refresh()
        problem(await with_cookie(site, cookie, "/v1/me"), 401, "unauthorized")
    await asyncio.to_thread(write, path, *entries, {**entry, "scopes": ["read"]})
    await site.keyring.refresh()
    assert json.loads((await with_cookie(site, cookie, "/v1/me")).body)["scopes"] == ["read"]


async def test_no_other_cookie_is_a_session(site: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    cookie = cookie_of(await log_in(site, site.keys["alice"]))
    name, _, value = cookie.partition("=")
    key_id = site.keys["alice"].split("_")[1]
    note = site.keyring.note(site.keyring._keys[key_id].principal)
    foreign = tornado.web.create_signed_value("another secret", name, note).decode()
    other_name = tornado.web.create_signed_value(site.service.product.cookie_secret, "other", note).decode()
    for wrong in (value[:-1], value[:-1] + ("0" if value[-1] != "0" else "1"), note, "", '""', foreign, other_name):
        problem(await with_cookie(site, f"{name}={wrong}", "/v1/me"), 401, "unauthorized")
    problem(await with_cookie(site, f"__Host-session={value}", "/v1/me"), 401, "unauthorized")
    assert (await with_cookie(site, cookie, "/v1/me")).code == 200
    later = time.time() + sessions._LENGTH * 86_400 + 1
    monkeypatch.setattr("time.time", lambda: later)
    problem(await with_cookie(site, cookie, "/v1/me"), 401, "unauthorized")


async def test_other_sites_pages_change_nothing(site: Guarded) -> None:
    cookie = cookie_of(await log_in(site, site.keys["admin"]))
    ours = f"http://127.0.0.1:{site.service.port}"
    foreign: list[dict[str, str]] = [
        {},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site", "Origin": ours},
        {"Sec_Fetch_Site": "same-site"},
    ]
    for path in ("/v1/tasks/s.add/jobs", "/v1/jobs/x/cancel", "/v1/batches", "/logout"):
        for headers in foreign:
            problem(await with_cookie(site, cookie, path, "POST", b"{}", **headers), 403, "forbidden")
        # A log-out ends the session.
        for headers in ({"Sec_Fetch_Site": "same-origin"}, {"Origin": ours}) if path != "/logout" else ():
            assert (await with_cookie(site, cookie, path, "POST", b"{}", **headers)).code != 403
    for headers in foreign[1:]:  # a login in the attacker's name
        response = await log_in(site, site.keys["bob"], **{k.replace("_", "-"): v for k, v in headers.items()})
        problem(response, 403, "forbidden")
    handshake = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13"}
    for headers in foreign:
        problem(await with_cookie(site, cookie, "/v1/jobs/x/ws", **handshake, **headers), 403, "forbidden")  # type: ignore[arg-type]
    response = await with_cookie(site, cookie, "/v1/jobs/x/ws", **handshake, Origin=ours)  # type: ignore[arg-type]
    problem(response, 404, "unknown-job")


@pytest.mark.parametrize(
    ("following", "location"),
    [
        ("", "./"),
        ("flower/tasks?x=1&y=%2F", "./flower/tasks?x=1&y=%2F"),
        ("//evil.example/", "./evil.example/"),
        ("\\\\evil.example", "./evil.example"),
        ("https://evil.example", "./https://evil.example"),
        ("javascript:alert(1)", "./javascript:alert(1)"),
        ("a\r\nSet-Cookie: a=b", "./a%0D%0ASet-Cookie:%20a=b"),
        ("./../x", "././../x"),
    ],
)
async def test_a_login_leads_to_no_other_host(site: Guarded, following: str, location: str) -> None:
    response = await log_in(site, site.keys["alice"], following)
    assert (response.code, response.headers["Location"]) == (303, location)


async def test_a_wrong_key(site: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    for key in ("", "nonsense", site.keys["expired"], site.keys["alice"][:-1], "<script>"):
        response = await log_in(site, key, '"><script>')
        assert response.code == 401
        assert "Set-Cookie" not in response.headers
        assert response.headers["Content-Type"].startswith("text/html")
        assert b"no valid key" in response.body
        assert b"<script" not in response.body
    form = b"key=x"
    problem(await site.service.post("/login", form), 415, "unsupported-media-type")
    is_form = {"Content-Type": "application/x-www-form-urlencoded"}
    for broken in (b"\xff", b"a=b&" * 20):
        problem(await site.service.post("/login", broken, is_form), 400, "bad-request")
    problem(await site.service.post("/login", b"x" * 2_000_000, is_form), 413, "body-too-large")
    assert site.keys["expired"] not in caplog.text


async def test_attempts_are_limited(site: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "RATE", Rate(3, 3600))
    assert [(await log_in(site, "wrong")).code for _ in range(4)] == [401, 401, 401, 429]
    response = await log_in(site, site.keys["alice"])
    assert (response.code, "Set-Cookie" in response.headers) == (429, False)
    assert int(response.headers["Retry-After"]) >= 1
    await forget_attempts(site.service)
    assert (await log_in(site, site.keys["alice"])).code == 303


async def test_without_a_login_nothing_is_shown(site: Guarded) -> None:
    seen = set()
    for route in (endpoint.route for endpoint in ENDPOINTS):
        path = re.sub(r"{.*?}", "x", route.path)
        seen.add(route.path)
        for method in () if route.path in PUBLIC else route.methods:
            for accept in ("application/json", "text/html,*/*"):
                response = await site.service.fetch(
                    path, method, headers={"Accept": accept}, follow_redirects=False, body=None
                )
                if response.code == 303 and accept != "application/json":
                    assert re.fullmatch(r"(\.\./)*login(\?next=.+)?", response.headers["Location"]), path
                elif method == "HEAD":
                    assert response.code == 401
                else:
                    problem(response, 401, "unauthorized")
    assert seen >= PUBLIC


async def test_where_there_are_no_keys_there_is_no_login(service: Service) -> None:
    for method in ("GET", "POST"):
        response = await service.fetch("/login", method, follow_redirects=False, body=None)
        assert (response.code, response.headers["Location"]) == (303, "./")
    assert json.loads((await service.fetch("/v1/me")).body) == {
        "login": "none",
        "key": None,
        "owner": "",
        "role": "admin",
        "scopes": ["submit", "read", "cancel", "schedule", "monitor", "admin"],
        "tasks": ["*"],
    }


async def test_me(site: Guarded) -> None:
    me = json.loads((await site.fetch("some", "/v1/me")).body)
    key_id = site.keys["some"].split("_")[1]
    assert me == {
        "login": "key",
        "key": key_id,
        "owner": "some",
        "role": None,  # no viewer lacks the numbers
        "scopes": ["submit", "read", "cancel"],
        "tasks": KEYS["some"]["tasks"],
    }
    cookie = cookie_of(await log_in(site, site.keys["some"]))
    assert json.loads((await with_cookie(site, cookie, "/v1/me")).body) == {**me, "login": "session"}


def test_roles(tmp_path: Path) -> None:
    def role(*scopes: str) -> str | None:
        return Principal(owner="a", scopes=frozenset(scopes)).role

    assert {name: role(*scopes) for name, scopes in ROLES.items()} == {name: name for name in ROLES}
    assert (role("submit", "read"), role("read", "monitor", "submit")) == (None, "viewer")
    path = tmp_path / "keys.json"
    for name, scopes in ROLES.items():
        key = command(path, "make", "--owner", "a", "--role", name).stdout.strip()
        found = Keyring(path).find(key)
        assert found is not None
        assert found.scopes == frozenset(scopes)
    assert command(path, "make", "--owner", "a", "--role", "king").returncode == 2
    assert command(path, "make", "--owner", "a", "--role", "admin", "--scopes", "read").returncode == 2


async def test_the_page_works_in_a_browser(site: Guarded, tab: Tab) -> None:
    base = f"http://127.0.0.1:{site.service.port}"
    page = tab.page
    await page.goto(f"{base}/login?next=login")
    assert await page.title() == "Log in: Jobs over Celery"
    await page.get_by_label("API key").fill(site.keys["reader"])
    await page.get_by_role("button", name="Log in").click()
    await page.get_by_text("You are logged in").wait_for()
    assert (await page.context.cookies())[0]["httpOnly"] is True
    await page.get_by_role("button", name="Log out").click()
    await page.get_by_label("API key").wait_for()
    assert await page.context.cookies() == []
    assert tab.complaints == []
