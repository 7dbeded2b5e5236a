"""
The dashboard in a real browser, before a real service and a real worker.

With ``SCREENSHOTS=FOLDER`` a picture of each page, in both themes and as wide as a phone, is written there.
"""

import asyncio
import base64
import csv
import io
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from PIL import Image
from playwright.async_api import Browser, Page, Route, ViewportSize, expect

from tests.service.browser import Tab, new_tab, open_browser
from tests.service.keys import made, write
from tests.service.payloads import PAYLOADS
from tests.service.sample import make_app as make_celery
from tests.service.site import Service, running
from tornado_celery_bridge.service.access.keys import Keyring
from tornado_celery_bridge.service.pages import files as docs

pytestmark = pytest.mark.asyncio(loop_scope="module")

PHONE = ViewportSize(width=390, height=844)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(web_url: str) -> AsyncIterator[Service]:
    app = make_celery(web_url)
    async with running(app) as made:
        yield made
    app.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(chromium: str, site: Service) -> AsyncIterator[Browser]:
    async with open_browser(chromium) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def tab(browser: Browser) -> AsyncIterator[Tab]:
    """A reader's page, on which nothing may go wrong."""
    opened = await new_tab(browser)
    yield opened
    await opened.page.context.close()
    assert opened.complaints == []


@pytest.fixture
def page(tab: Tab) -> Page:
    return tab.page


def url(site: Service, address: str = "") -> str:
    return f"http://127.0.0.1:{site.port}/{address}"


async def submit(site: Service, task: str, given: Any, *, wait: int | None = 20, **options: Any) -> dict[str, Any]:
    response = await site.submit(task, {"input": given, "options": options}, wait=wait)
    job: dict[str, Any] = json.loads(response.body)
    assert response.code in (200, 202), job
    return job


async def read(site: Service, path: str) -> Any:
    return json.loads((await site.fetch(path)).body)


async def job_of(site: Service, page: Page) -> dict[str, Any]:
    """Return the job whose page is shown."""
    await page.wait_for_url(re.compile(r"#/jobs/[0-9a-f-]{36}$"))
    job: dict[str, Any] = await read(site, f"/v1/jobs/{page.url.rpartition('/')[2]}")
    return job


async def settled(page: Page) -> None:
    await expect(page.locator("h1")).to_be_visible()
    await expect(page.locator("[aria-busy=true]")).to_have_count(0)


async def fits(page: Page) -> None:
    """Return once the page is no wider than its window: charts follow a new width only with the next frame."""
    await page.wait_for_function("document.documentElement.scrollWidth <= innerWidth", timeout=5_000)


# The page itself.


async def test_nothing_but_our_own_files(site: Service) -> None:
    shown = await site.fetch("/")
    assert shown.headers["Content-Security-Policy"] == docs.POLICY
    assert "<style" not in shown.body.decode()
    assert re.findall(r"<script(?! src=)", shown.body.decode()) == []
    for name, (_, media_type) in docs.DASHBOARD.items():
        file = await site.fetch(f"/dashboard/{name}")
        assert file.code == 200
        assert file.headers["Content-Type"].startswith(media_type)
        assert file.headers["X-Content-Type-Options"] == "nosniff"


async def test_under_a_prefix(site: Service, tab: Tab) -> None:
    base, prefix = url(site).rstrip("/"), "/some/prefix"
    job = await submit(site, "s.add", {"x": 1})

    async def proxy(route: Route) -> None:
        await route.continue_(url=route.request.url.replace(f"{base}{prefix}", base))

    await tab.page.route(f"{base}{prefix}/**", proxy)
    await tab.page.goto(f"{base}{prefix}/")
    await tab.page.locator(".sections").get_by_role("link", name="Jobs", exact=True).click()
    await tab.page.locator(f"tr[data-id='{job['id']}'] a").first.click()
    await expect(tab.page.locator("h1")).to_contain_text("Succeeded")
    assert all(each.startswith(f"{base}{prefix}/") for each in tab.requests), tab.requests


# Jobs.


async def test_a_job_by_the_form_and_its_bar(site: Service, page: Page) -> None:
    await page.goto(url(site, "#/new"))
    await page.get_by_label("Task").select_option("s.steps")
    await page.get_by_label("count", exact=True).fill("100")
    await page.get_by_text("Options").click()
    await page.get_by_label("tags").fill("by-form, second")
    await page.get_by_role("button", name="Submit").click()
    bar = page.locator("main > .progress progress")
    begun = int(await bar.get_attribute("value") or 0)
    async with asyncio.timeout(30):
        while int(await bar.get_attribute("value") or 0) <= begun + 5:
            await asyncio.sleep(0.02)
    await expect(page.locator("h1")).to_contain_text("Succeeded")
    job = await job_of(site, page)
    assert (job["result"], job["tags"]) == (100, ["by-form", "second"])


async def test_what_the_api_finds_wrong_is_said_at_the_field(site: Service, tab: Tab) -> None:
    page = tab.page
    await page.goto(url(site, "#/new/s.steps"))
    await page.get_by_label("count", exact=True).fill("1000")
    await page.get_by_label("count", exact=True).press("Enter")
    await expect(page.get_by_label("count", exact=True)).to_have_attribute("aria-invalid", "true")
    await expect(page.get_by_label("count", exact=True)).to_be_focused()
    await expect(page.locator(".fault")).to_contain_text("less than or equal to 100")
    assert all("422" in each for each in tab.complaints)
    tab.complaints.clear()


async def test_a_retry_has_the_exact_input(site: Service, page: Page) -> None:
    given = {"message": "not 1, but\n\"1.0\" 'é' \u2028 \\ null"}
    failed = await submit(site, "s.fail", given)
    await page.goto(url(site, f"#/jobs/{failed['id']}"))
    await expect(page.locator("pre.text")).to_have_text(given["message"])
    await page.get_by_role("button", name="Retry", exact=True).click()
    await page.wait_for_url(lambda address: failed["id"] not in address)
    again = await job_of(site, page)
    assert again["links"]["retry_of"].endswith(failed["id"])
    assert await read(site, f"/v1/jobs/{again['id']}/input") == given
    await page.get_by_role("link", name=failed["id"][:8]).click()
    await expect(page.get_by_role("region", name="Lineage")).to_contain_text(again["id"][:8])


async def test_a_checkpoint_as_it_comes_and_a_retry_from_it(site: Service, page: Page) -> None:
    begun = await submit(site, "s.goes_on", {"count": 60, "pause": 0.1}, wait=None)
    await page.goto(url(site, f"#/jobs/{begun['id']}"))
    shown = page.get_by_role("group", name="Checkpoint")
    places: set[str] = set()
    async with asyncio.timeout(60):
        while len(places) < 2:
            places.add(await shown.inner_text())
            await asyncio.sleep(0.1)
    await expect(page.locator("h1")).to_contain_text("Failed")
    await expect(shown).to_contain_text('"done": 30')
    if folder := os.environ.get("SCREENSHOTS"):
        await page.screenshot(path=f"{folder}/checkpoint.png", full_page=True)
    await page.get_by_role("button", name="Retry from checkpoint").click()
    await page.wait_for_url(lambda address: begun["id"] not in address)
    again = await job_of(site, page)
    await expect(page.locator("h1")).to_contain_text("Succeeded")
    assert (await read(site, again["links"]["self"]))["result"] == list(range(30, 60))
    await expect(page.get_by_role("button", name="Retry from checkpoint")).to_have_count(0)


async def test_a_traceback_as_it_comes_and_later(site: Service, page: Page) -> None:
    waiting = await submit(site, "s.fail", {"message": "no such order"}, wait=None, countdown=2)
    await page.goto(url(site, f"#/jobs/{waiting['id']}"))
    traceback = page.get_by_label("Traceback")
    await expect(traceback).to_contain_text("raise ValueError(message)\nValueError: no such order", timeout=20_000)
    await page.reload()
    await expect(traceback).to_contain_text("ValueError: no such order")


async def test_edit_and_retry(site: Service, page: Page) -> None:
    failed = await submit(site, "s.fail", {"message": "first"}, tags=["kept"])
    await page.goto(url(site, f"#/jobs/{failed['id']}"))
    await page.get_by_role("button", name="Edit and retry…").click()
    await expect(page.get_by_label("message")).to_have_value("first")
    await page.get_by_label("message").fill("second")
    await page.get_by_role("dialog").get_by_role("button", name="Retry").click()
    await page.wait_for_url(lambda address: failed["id"] not in address)
    again = await job_of(site, page)
    assert await read(site, f"/v1/jobs/{again['id']}/input") == {"message": "second"}
    assert again["tags"] == ["kept"]


async def test_a_job_is_cancelled(site: Service, page: Page) -> None:
    job = await submit(site, "s.add", {"x": 1}, wait=None, queue="quiet")
    await page.goto(url(site, f"#/jobs/{job['id']}"))
    await expect(page.locator("h1")).to_contain_text("Waiting")
    await page.get_by_role("button", name="Cancel", exact=True).click()
    await expect(page.locator("h1")).to_contain_text("Cancelled")
    await expect(page.get_by_role("button", name="Retry", exact=True)).to_be_enabled()


async def test_log_input_and_an_image(site: Service, page: Page) -> None:
    logged = await submit(site, "s.log", {"lines": 3})
    await page.goto(url(site, f"#/jobs/{logged['id']}"))
    await expect(page.get_by_role("log").locator(".line")).to_have_count(3)
    shown = await submit(site, "s.echo", {"value": picture()})
    await page.goto(url(site, f"#/jobs/{shown['id']}"))
    await expect(page.locator(".picture img")).to_have_js_property("naturalWidth", 60)


async def test_items_as_they_come(site: Service, page: Page) -> None:
    job = await submit(site, "s.yields", {"count": 3}, wait=None, countdown=1)
    await page.goto(url(site, f"#/jobs/{job['id']}"))
    items = page.get_by_role("log", name="Items")
    await expect(items.locator(".line")).to_have_count(3, timeout=20_000)
    await expect(items).to_contain_text('2 {"x":1,"y":0}')
    await expect(page.get_by_role("link", name="All items that are kept")).to_have_attribute(
        "href", f"v1/jobs/{job['id']}/items"
    )


def picture() -> dict[str, Any]:
    content = io.BytesIO()
    Image.effect_mandelbrot((60, 40), (-2, -1.2, 1, 1.2), 60).save(content, "PNG")
    encoded = base64.b64encode(content.getvalue()).decode()
    return {"image": encoded, "format": "PNG", "width": 60, "height": 40}


# Lists.


async def test_filters_are_in_the_address(site: Service, page: Page) -> None:
    failed = await submit(site, "s.fail", {}, tags=["of filters"])
    fine = await submit(site, "s.add", {"x": 1}, tags=["of filters"])
    await page.goto(url(site, "#/jobs"))
    search = page.get_by_label("Search jobs")
    await expect(search).to_be_visible()
    await page.keyboard.press("/")
    await expect(search).to_be_focused()
    await page.keyboard.type('state:failed tag:"of filters" since:1h')
    await page.keyboard.press("Enter")
    await expect(page.locator("tbody tr")).to_have_count(1)
    await expect(page.locator(f"tr[data-id='{failed['id']}']")).to_be_visible()
    assert page.url.endswith("#/jobs?tag=of+filters&state=FAILURE&since=1h")
    await page.reload()
    await expect(search).to_have_value('tag:"of filters" state:FAILURE since:1h')
    await expect(page.get_by_role("navigation", name="States").get_by_role("link", name="Failed")).to_have_attribute(
        "aria-current", "true"
    )
    await page.get_by_role("link", name="Succeeded", exact=True).click()
    await expect(page.locator(f"tr[data-id='{fine['id']}']")).to_be_visible()
    await page.go_back()
    await expect(page.locator(f"tr[data-id='{failed['id']}']")).to_be_visible()
    await search.fill("colour:red")
    await search.press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("not understood")
    await search.fill(fine["id"])
    await search.press("Enter")
    assert (await job_of(site, page))["id"] == fine["id"]


async def test_many_are_cancelled_and_tried_again_at_once(site: Service, page: Page) -> None:
    jobs = [await submit(site, "s.add", {"x": n}, wait=None, queue="quiet", tags=["many"]) for n in range(4)]
    await page.goto(url(site, "#/jobs?tag=many"))
    await expect(page.locator("tbody tr")).to_have_count(4)
    await page.get_by_label(f"Select job {jobs[0]['id']}").check()
    await page.get_by_role("button", name="Cancel 1 selected…").click()
    await expect(page.get_by_role("dialog")).to_contain_text("Cancel 1 job?")
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await page.get_by_label(f"Select job {jobs[0]['id']}").uncheck()
    await page.get_by_role("button", name="Cancel all that match…").click()
    await expect(page.get_by_role("dialog")).to_contain_text("Cancel 4 jobs?")
    await page.get_by_role("button", name="Cancel 4").click()
    await expect(page.get_by_role("status")).to_contain_text("Cancel: 4 done.")
    found = await read(site, "/v1/jobs?tag=many&state=REVOKED")
    assert {job["id"] for job in found["jobs"]} == {job["id"] for job in jobs}
    await page.get_by_role("button", name="Retry all that match…").click()
    await page.get_by_role("button", name="Retry 4").click()
    await expect(page.get_by_role("status")).to_contain_text("Retry: 4 done.")
    waiting = await read(site, "/v1/jobs?tag=many&state=PENDING")
    assert {job["links"]["retry_of"][-36:] for job in waiting["jobs"]} == {job["id"] for job in jobs}
    await page.get_by_role("button", name="Delete all that match…").click()
    await expect(page.get_by_role("dialog")).to_contain_text("Delete 4 jobs?")
    await page.get_by_role("button", name="Delete 4").click()
    await expect(page.get_by_role("status")).to_contain_text("Delete: 4 done.")
    await expect(page.locator("tbody tr")).to_have_count(4)
    left = await read(site, "/v1/jobs?tag=many")
    assert left == waiting


async def test_jobs_are_searched_by_what_is_in_them(site: Service, page: Page) -> None:
    """By the keyboard alone; the search is in the address."""
    found, other = [
        await submit(site, "s.add", {"x": n}, wait=None, queue="quiet", tags=["in"], metadata={"order": str(n)})
        for n in (98_765, 43_210)
    ]
    await page.goto(url(site, "#/jobs"))
    search = page.get_by_label("Search jobs")
    await search.focus()
    await page.keyboard.type('98765 queue:quiet waited:0 tag:in "order"')
    await page.keyboard.press("Enter")
    await expect(page.locator("tbody tr")).to_have_count(1)
    await expect(page.locator(f"tr[data-id='{found['id']}']")).to_be_visible()
    await page.reload()
    await expect(page.locator("tbody tr")).to_have_count(1)
    assert await search.input_value() == 'tag:in queue:quiet waited:0 98765 "order"'
    await search.fill("ran:long")
    await search.press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("takes a number of seconds")
    await page.goto(url(site, f"#/jobs/{other['id']}"))
    await expect(page.get_by_role("main")).to_contain_text("43210")


async def test_a_job_that_waits_is_held_changed_and_released(site: Service, page: Page) -> None:
    job = await submit(site, "s.add", {"x": 1}, wait=None, countdown=600)
    await page.goto(url(site, f"#/jobs/{job['id']}"))
    await page.get_by_role("button", name="Hold").click()
    await expect(page.locator("h1")).to_contain_text("On hold")
    await page.get_by_role("button", name="Change…").click()
    await page.get_by_label("x required").fill("41")
    await page.get_by_role("dialog").get_by_role("button", name="Change").click()
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await page.get_by_role("button", name="Run now").click()
    await expect(page.get_by_role("button", name="Run now")).to_have_count(0)
    await page.get_by_role("button", name="Release").click()
    await expect(page.locator("h1")).to_contain_text("Succeeded")
    assert (await read(site, f"/v1/jobs/{job['id']}/input"))["x"] == 41


async def test_a_list_is_followed_and_paged(site: Service, page: Page) -> None:
    jobs = [await submit(site, "s.add", {"x": n}, wait=None, queue="quiet", tags=["paged"]) for n in range(51)]
    await page.goto(url(site, "#/jobs?tag=paged"))
    row = page.locator(f"tr[data-id='{jobs[-1]['id']}']")
    await expect(row).to_contain_text("Waiting")
    await site.post(f"/v1/jobs/{jobs[-1]['id']}/cancel")
    await expect(row).to_contain_text("Cancelled")
    await page.get_by_role("link", name="Older").click()
    await expect(page.locator("tbody tr")).to_have_count(1)
    await expect(page.locator(f"tr[data-id='{jobs[0]['id']}']")).to_be_visible()
    await page.get_by_role("link", name="Newest").click()
    await expect(page.locator("tbody tr")).to_have_count(50)


async def test_export(site: Service, page: Page) -> None:
    job = await submit(site, "s.fail", {"message": "=1+1"}, tags=["-exported", 'with "quotes", and\nlines'])
    await page.goto(url(site, "#/jobs?tag=-exported"))
    exported = {}
    for name in ("CSV", "JSON"):
        async with page.expect_download() as download:
            await page.get_by_role("button", name=f"Export as {name}").click()
        exported[name] = await asyncio.to_thread((await (await download.value).path()).read_text)
    assert [each["id"] for each in json.loads(exported["JSON"])] == [job["id"]]
    [row] = csv.DictReader(io.StringIO(exported["CSV"]))
    assert (row["id"], row["state"], json.loads(row["tags"])) == (job["id"], "FAILURE", job["tags"])
    assert "=1+1" in row["error"]


async def test_no_exported_cell_is_a_formula(site: Service, page: Page) -> None:
    values = {"=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1"}
    for value in values:
        await submit(site, "s.echo", {"value": value}, tags=["formula"])
    await page.goto(url(site, "#/jobs?tag=formula"))
    async with page.expect_download() as download:
        await page.get_by_role("button", name="Export as CSV").click()
    path = await (await download.value).path()
    text = await asyncio.to_thread(lambda: path.read_bytes().decode())
    assert {row["result"] for row in csv.DictReader(io.StringIO(text, newline=""))} == {f"'{value}" for value in values}


async def test_failures_are_grouped_and_tried_again(site: Service, page: Page) -> None:
    await submit(site, "s.headers", {"before": 1})
    failed = [await submit(site, "s.total", {"numbers": ["a"]}) for _ in range(2)]
    await page.goto(url(site, "#/failures"))
    group = page.get_by_role("region", name="TypeError in s.total")
    await expect(group).to_contain_text("unsupported operand")
    await expect(group).to_contain_text("service/sample.py in total")
    await group.get_by_role("link", name="2 jobs not retried").click()
    await expect(page.locator("tbody tr")).to_have_count(2)
    await page.go_back()
    await group.get_by_role("button", name="Retry all…").click()
    await page.get_by_role("dialog").get_by_role("button", name="Retry 2").click()
    await expect(page.get_by_role("status")).to_contain_text("2 submitted again")
    found = await read(site, "/v1/jobs?task=s.total")
    origins = {job["links"].get("retry_of", "")[-36:] for job in found["jobs"]}
    assert origins >= {job["id"] for job in failed}
    await expect(group.locator(".count")).to_have_text("4 times")  # as they fail again
    await group.get_by_role("button", name="Resolve").click()
    await expect(group).to_have_count(0)
    assert "s.total" not in [each["task"] for each in (await read(site, "/v1/failures"))["failures"]]


# Workflows and schedules.


async def test_a_workflow_is_drawn_and_followed(site: Service, page: Page) -> None:
    step: dict[str, Any] = {"task": "s.add", "input": {"x": 1}}
    quiet = {"task": "s.add", "options": {"queue": "quiet"}}
    sent = {"chain": [step, {"group": [quiet, {"task": "s.add"}]}, {"task": "s.total"}]}
    workflow = json.loads((await site.post("/v1/workflows", sent)).body)
    await page.goto(url(site, f"#/workflows/{workflow['id']}"))
    nodes = page.locator(".graph .node")
    await expect(nodes).to_have_count(4)
    await expect(page.locator(".graph path")).to_have_count(4)
    await expect(nodes.nth(2)).to_contain_text("success")
    await expect(page.locator("h1")).to_contain_text("Running")
    await page.get_by_role("button", name="Cancel", exact=True).click()
    await expect(page.locator("h1")).to_contain_text("Cancelled")
    await expect(nodes.nth(3)).to_contain_text("revoked")
    await page.goto(url(site, "#/workflows"))
    await page.get_by_role("link", name=workflow["id"][:8]).click()
    await nodes.nth(0).click()
    await expect(page.get_by_role("region", name="Lineage")).to_contain_text(workflow["id"][:8])


async def test_a_large_workflow_is_followed_to_its_end(site: Service, page: Page) -> None:
    """One stream follows 100 jobs; the next one follows the rest."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/v1/events" in request.url else None)
    first, last = [{"task": "s.add", "input": {"x": 1}, "options": {"countdown": seconds}} for seconds in (16, 22)]
    workflow = json.loads((await site.post("/v1/workflows", {"group": [first] * 100 + [last] * 50})).body)
    await page.goto(url(site, f"#/workflows/{workflow['id']}"))
    await expect(page.locator("h1")).to_contain_text("Succe", timeout=60_000)
    await expect(page.get_by_text("150 of 150 jobs have ended")).to_be_visible(timeout=10_000)
    before = len(asked)
    assert before >= 2
    await page.wait_for_timeout(3_500)  # a stream that is over is not asked for again after 3 s
    assert len(asked) == before


async def test_a_schedule_is_made_paused_run_and_deleted(site: Service, tab: Tab) -> None:
    page = tab.page
    await page.goto(url(site, "#/schedules"))
    await page.get_by_role("button", name="New schedule…").click()
    form = page.get_by_role("dialog")
    await form.get_by_label("name").fill("by-hand")
    await form.get_by_label("task").select_option("s.add")
    await form.get_by_label("input").fill('{"x": 1}')
    await form.get_by_label("crontab").fill("61 * * * *")
    await form.get_by_role("button", name="Save").click()
    await expect(form.get_by_label("crontab")).to_have_attribute("aria-invalid", "true")
    await form.get_by_label("crontab").fill("0 6 * * mon-fri")
    await form.get_by_label("timezone").fill("Europe/Paris")
    await form.get_by_role("button", name="Save").click()
    await expect(page.locator("h1")).to_contain_text("by-hand Active")
    await expect(page.locator(".lead")).to_contain_text("06:00")
    await expect(page.locator(".slots li")).to_have_count(5)
    await page.get_by_role("button", name="Pause").click()
    await expect(page.locator("h1")).to_contain_text("Paused")
    assert (await read(site, "/v1/schedules/by-hand"))["enabled"] is False
    await page.get_by_role("button", name="Resume").click()
    await expect(page.locator("h1")).to_contain_text("Active")
    await page.get_by_role("button", name="Run now").click()
    job = await job_of(site, page)
    assert job["task"] == "s.add"
    await page.goto(url(site, "#/schedules/by-hand"))
    await expect(page.locator(".strip li")).to_have_count(1)
    await page.get_by_role("button", name="Backfill…").click()
    await form.get_by_label("since").fill("2026-02-02T00:00:00Z")
    await form.get_by_label("until").fill("never")
    await form.get_by_role("button", name="Preview").click()
    await expect(form.get_by_label("until")).to_have_attribute("aria-invalid", "true")
    await form.get_by_label("until").fill("2026-02-10T00:00:00Z")
    await form.get_by_role("button", name="Preview").click()
    await expect(form).to_contain_text("6 runs were due")  # a week, of working days, and a Monday
    assert len((await read(site, "/v1/schedules/by-hand/runs"))["runs"]) == 1
    await form.get_by_role("button", name="Run 6").click()
    await expect(page.get_by_role("status")).to_contain_text("6 runs have begun")
    await expect(page.locator(".strip li")).to_have_count(7)
    await page.get_by_role("button", name="Edit…").click()
    await form.get_by_label("note").fill("changed")
    await form.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("region", name="About")).to_contain_text("changed")
    await page.get_by_role("button", name="Delete…").click()
    await form.get_by_role("button", name="Delete").click()
    await expect(page.locator("h1")).to_have_text("Schedules")
    assert (await site.fetch("/v1/schedules/by-hand")).code == 404
    assert all("422" in each or "404" in each for each in tab.complaints), tab.complaints
    tab.complaints.clear()


#: How many pixels of a chart are in colour: of its series, as all else is grey.
COLOURED = """figure => {
  const canvas = figure.querySelector("canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let place = 0; place < data.length; place += 4) {
    const colours = data.slice(place, place + 3);
    if (data[place + 3] > 200 && Math.max(...colours) - Math.min(...colours) > 60) count++;
  }
  return count;
}"""


async def test_a_chart_shows_the_first_minute(site: Service, page: Page) -> None:
    """One value among an hour without any: no line leads to it."""
    await submit(site, "s.kinds", [[1]])
    await page.goto(url(site, "#/?task=s.kinds"))
    await settled(page)
    for title in ("Throughput", "Wait in the queue", "Run time", "Failure share"):
        figure = page.get_by_role("figure", name=title)
        await expect(figure.locator("canvas")).to_be_visible()
        async with asyncio.timeout(10):
            while await figure.evaluate(COLOURED) < 10:
                await asyncio.sleep(0.05)


async def test_each_attempt_of_a_job(site: Service, page: Page, tmp_path: Path) -> None:
    job = await submit(site, "s.flaky", [str(tmp_path / "tries")])
    await page.goto(url(site, f"#/jobs/{job['id']}"))
    timeline = page.get_by_role("region", name="Timeline")
    await expect(timeline).to_contain_text("Attempt 3")
    await expect(timeline.locator("li").filter(has_text="Attempt 1")).to_contain_text("Retried: OSError: not yet")
    told = page.get_by_role("region", name="Attempts")
    await told.get_by_text("Attempt 1").click()
    await expect(told.get_by_role("group", name="Traceback of attempt 1")).to_contain_text("OSError: not yet")
    if folder := os.environ.get("SCREENSHOTS"):
        await page.screenshot(path=f"{folder}/attempts.png")


# Queues and workers.


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # by Celery's own result backend
async def test_a_queue_is_paused_resumed_and_purged(site: Service, page: Page) -> None:
    jobs = [await submit(site, "s.add", {"x": n}, wait=None, queue="quiet", tags=["purged"]) for n in range(2)]
    await page.goto(url(site, "#/queues"))
    row = page.locator("tr[data-name=quiet]")
    await row.get_by_role("button", name="Pause quiet").click()
    await expect(row).to_contain_text("Paused")
    assert "quiet" in await site.jobs.ledger.queues.paused()
    await row.get_by_role("button", name="Resume quiet").click()
    await expect(row).to_contain_text("Stuck")
    assert await site.jobs.ledger.queues.paused() == {}
    await row.get_by_role("button", name="Purge quiet…").click()
    dialog = page.get_by_role("dialog")
    purge = dialog.get_by_role("button", name="Purge", exact=True)
    await expect(purge).to_be_disabled()
    await dialog.get_by_label("To confirm, type quiet").fill("websample")
    await expect(purge).to_be_disabled()
    await dialog.get_by_label("To confirm, type quiet").fill("quiet")
    await purge.click()
    await expect(page.get_by_role("status")).to_contain_text("jobs have ended")
    found = await read(site, "/v1/jobs?tag=purged")
    assert {job["id"]: job["state"] for job in found["jobs"]} == {job["id"]: "REVOKED" for job in jobs}
    await expect(row).to_contain_text("Unserved")


async def test_a_worker_grows_and_shrinks(site: Service, page: Page) -> None:
    await page.goto(url(site, "#/workers"))
    row = page.locator("tbody tr").filter(has_text="Alive").first
    await expect(row).to_contain_text("of 3")
    await row.get_by_role("button", name="+1 process").click()
    await expect(row).to_contain_text("of 4")
    await row.get_by_role("button", name="\N{MINUS SIGN}1 process").click()
    await expect(row).to_contain_text("of 3")
    await row.get_by_role("button", name="Shut").click()
    await expect(page.get_by_role("dialog")).to_contain_text("It takes no more jobs")
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_limits_are_changed_and_a_task_is_switched_off(site: Service, tab: Tab) -> None:
    """By the keyboard alone."""
    page = tab.page
    await page.goto(url(site, "#/limits"))
    row, dialog = page.locator("tr[data-name='s.nap']"), page.get_by_role("dialog")
    await row.get_by_role("button", name="Change the limits of s.nap…").press("Enter")
    await page.keyboard.type("2")
    await page.keyboard.press("Tab")
    await page.keyboard.type("often")
    await dialog.get_by_role("button", name="Change").press("Enter")
    await expect(page.get_by_role("status")).to_contain_text("The body does not fit")
    await dialog.get_by_label("Rate").fill("10/s")
    await dialog.get_by_role("button", name="Change").press("Enter")
    await expect(dialog).to_have_count(0)
    await expect(row).to_contain_text("set at run time")
    shown = await read(site, "/v1/tasks/s.nap")
    assert (shown["max_concurrency"], shown["max_rate"]) == (2, "10/s")
    await row.get_by_role("button", name="Switch s.nap off…").press("Enter")
    await dialog.get_by_label("Reason").fill("it is late")
    await dialog.get_by_role("button", name="Switch off").press("Enter")
    await expect(row).to_contain_text("it is late")
    assert (await site.submit("s.nap", {"input": [0]})).code == 503
    await row.get_by_role("button", name="Switch s.nap on").press("Enter")
    await expect(row).to_contain_text("On")
    await page.get_by_role("button", name="Limit tasks together…").press("Enter")
    await dialog.get_by_label("Name").fill("naps")
    await dialog.get_by_label("Tasks").fill("s.nap s.add")
    await dialog.get_by_label("At once").fill("5")
    await dialog.get_by_role("button", name="Save").press("Enter")
    shared = page.locator("tr[data-limit=naps]")
    await expect(shared).to_contain_text("s.nap, s.add")
    await expect(row).to_contain_text("with naps")
    await shared.get_by_role("button", name="Remove naps").press("Enter")
    await expect(shared).to_have_count(0)
    await site.fetch("/v1/tasks/s.nap", "PATCH", body=json.dumps({"max_concurrency": None, "max_rate": None}))
    assert ["422" in each for each in tab.complaints] == [True]
    tab.complaints.clear()


async def test_the_system_page_says_what_is_unsafe(site: Service, page: Page) -> None:
    await page.goto(url(site, "#/system"))
    card = page.get_by_role("region", name="What is unsafe")
    told = await read(site, "/readyz?verbose")
    assert {finding["verdict"] for finding in told["findings"]} == {"unwise"}
    for finding in told["findings"]:
        await expect(card).to_contain_text(finding["name"])
        await expect(card).to_contain_text(finding["remedy"])
    await expect(card).to_contain_text(told["broker"]["server"])
    async with page.expect_response(lambda response: "verbose" in response.url):
        await card.get_by_role("button", name="Check again").click()


# Whoever may not.


async def test_login_and_what_a_key_may_not_do(web_url: str, tmp_path: Path, tab: Tab) -> None:
    key, entry = made(scopes=["read", "submit"])
    app = make_celery(web_url)
    keys = await asyncio.to_thread(lambda: Keyring(write(tmp_path / "keys.json", entry)))
    async with running(app, keys=keys) as guarded:
        page = tab.page
        await page.goto(url(guarded, "#/jobs?state=FAILURE"))
        await page.get_by_label("API key").fill(key)
        await page.get_by_role("button", name="Log in").click()
        await page.wait_for_url(url(guarded, "#/jobs?state=FAILURE"))
        await expect(page.get_by_role("button", name="Cancel all that match…")).to_be_disabled()
        await expect(page.get_by_role("button", name="Retry all that match…")).to_be_enabled()
        made_here = await guarded.post(
            "/v1/tasks/s.fail/jobs", {}, {"Authorization": f"Bearer {key}", "Prefer": "wait=20"}
        )
        await page.goto(url(guarded, f"#/jobs/{json.loads(made_here.body)['id']}"))
        await expect(page.locator("pre.text")).to_have_text("as asked")
        await expect(page.get_by_label("Traceback")).to_have_count(0)
        await page.goto(url(guarded, "#/schedules"))
        await expect(page.get_by_role("button", name="New schedule…")).to_be_disabled()
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_label("API key")).to_be_visible()
        assert all("401" in each for each in tab.complaints)
        tab.complaints.clear()
        await page.goto("about:blank")
    app.close()


# By keyboard, in either theme, on a phone, whatever the jobs have in them.


async def test_by_keyboard_alone(site: Service, page: Page) -> None:
    await page.goto(url(site))
    await expect(page.locator("h1")).to_be_focused()
    await page.locator(".brand").focus()
    await page.keyboard.press("Shift+Tab")
    await expect(page.get_by_text("To the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_be_focused()
    await page.get_by_role("link", name="New job").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="New job")).to_be_focused()
    await expect(page.get_by_label("Task")).to_be_visible()  # a person waits for the form, too
    await page.keyboard.press("Tab")
    await expect(page.get_by_label("Task")).to_be_focused()
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("ArrowUp")
    await expect(page.get_by_label("y", exact=True)).to_be_visible()
    await page.keyboard.press("Tab")
    await page.keyboard.type("20")
    await page.keyboard.press("Tab")
    await page.keyboard.type("22")
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_contain_text("Succeeded")
    assert (await job_of(site, page))["result"] == 42


async def test_the_theme_is_chosen_and_kept(site: Service, page: Page) -> None:
    await page.emulate_media(color_scheme="dark")
    await page.goto(url(site))
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    dark = await page.evaluate(ground)
    await page.get_by_role("button", name="Light theme").click()
    light = await page.evaluate(ground)
    assert light != dark
    await page.reload()
    await expect(page.get_by_role("button", name="Dark theme")).to_be_visible()
    assert await page.evaluate(ground) == light


HARM = """() => ({
    ran: document.documentElement.dataset.pwned ?? null,
    made: document.querySelectorAll("main :is(script, iframe, object, embed, base, meta, style, math, marquee)").length,
    wide: document.documentElement.scrollWidth > innerWidth,
})"""
UNHARMED = {"ran": None, "made": 0, "wide": False}


async def test_no_payload_runs_or_breaks_the_layout(site: Service, page: Page) -> None:
    """As an argument, a result, an error's message, and a tag."""
    await page.add_init_script("window.pwned = () => { document.documentElement.dataset.pwned = 'yes'; };")
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    sent = [
        {"task": task, "input": {name: payload}, "options": {"tags": ["xss", payload[:100]]}}
        for payload in PAYLOADS
        for task, name in (("s.echo", "value"), ("s.fail", "message"))
    ]
    answers = json.loads((await site.post("/v1/batches", {"jobs": sent})).body)["jobs"]
    ids = [answer["job"]["id"] for answer in answers]
    await asyncio.gather(*(site.fetch(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=30"}) for job_id in ids))
    for size in (ViewportSize(width=1280, height=900), PHONE):
        await page.set_viewport_size(size)
        await page.goto(url(site, "#/jobs?tag=xss"))
        for _ in range(2):  # the second page has the other half
            await expect(page.locator("tbody tr")).to_have_count(50)
            assert await page.evaluate(HARM) == UNHARMED
            await page.get_by_role("link", name="Older").or_(page.get_by_role("link", name="Newest")).first.click()
        await page.goto(url(site, "#/failures"))
        await expect(page.locator("main section").first).to_be_visible()
        assert await page.evaluate(HARM) == UNHARMED
    failed = set(ids[1::10])  # lists have shown all errors; of pages some will do
    for job_id, payload in zip(ids, [each for each in PAYLOADS for _ in range(2)], strict=True):
        if job_id in ids[1::2] and job_id not in failed:
            continue
        await page.goto(url(site, f"#/jobs/{job_id}"))
        shown = page.locator("pre.text" if job_id in failed else "[aria-label=Result] pre")
        await expect(shown).to_contain_text(payload if job_id in failed else json.dumps(payload, ensure_ascii=False))
        await expect(page.locator("[aria-label=Input] pre")).to_be_visible()
        assert await page.evaluate(HARM) == UNHARMED
    assert dialogs == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def addresses(site: Service) -> dict[str, str]:
    """The addresses of all pages, with something to see on each."""
    failed = await submit(site, "s.fail", {"message": "order 4711 has no address"}, tags=["shown", "orders"])
    shown = await submit(site, "s.echo", {"value": picture()}, tags=["shown"])
    logged = await submit(site, "s.log", {"lines": 5}, tags=["shown"])
    await submit(site, "s.add", {"x": 1}, wait=None, countdown=3600, tags=["shown"])
    await submit(site, "s.add", {"x": 1}, wait=None, queue="quiet", tags=["shown"])
    step: dict[str, Any] = {"task": "s.add", "input": {"x": 1}}
    sent = {"chain": [step, {"group": [{"task": "s.add"}, {"task": "s.add"}]}, {"task": "s.total"}]}
    response = await site.post("/v1/workflows", sent, {"Prefer": "wait=20"})
    schedule = {"task": "s.add", "input": {"x": 1}, "crontab": "0 6 * * mon-fri", "timezone": "Europe/Paris"}
    await site.fetch("/v1/schedules/report", "PUT", body=json.dumps(schedule))
    await site.post("/v1/schedules/report/run")
    return {
        "overview": "#/",
        "jobs": "#/jobs?tag=shown",
        "job-failed": f"#/jobs/{failed['id']}",
        "job-image": f"#/jobs/{shown['id']}",
        "job-log": f"#/jobs/{logged['id']}",
        "new": "#/new/s.steps",
        "failures": "#/failures",
        "dead": "#/dead",
        "workflows": "#/workflows",
        "workflow": f"#/workflows/{json.loads(response.body)['id']}",
        "schedules": "#/schedules",
        "schedule": "#/schedules/report",
        "queues": "#/queues",
        "workers": "#/workers",
        "limits": "#/limits",
        "system": "#/system",
    }


PAGES = (
    *("overview", "jobs", "job-failed", "job-image", "job-log", "new", "failures", "dead", "workflows", "workflow"),
    *("schedules", "schedule", "queues", "workers", "limits", "system"),
)


@pytest.mark.parametrize("name", PAGES)
async def test_a_page_is_accessible(site: Service, page: Page, addresses: dict[str, str], name: str) -> None:
    await page.goto(url(site, addresses[name]))
    await settled(page)
    folder = os.environ.get("SCREENSHOTS")
    # In the other theme there are other colours, and nothing else.
    themes: dict[Any, Any] = {"light": {"resultTypes": ["violations"]}, "dark": {"runOnly": ["color-contrast"]}}
    for theme, options in themes.items():
        await page.emulate_media(color_scheme=theme)
        found = await Axe().run(page, options=options)
        serious = [each for each in found.response["violations"] if each["impact"] in ("serious", "critical")]
        assert not serious, found.generate_report()
        if folder:
            await page.screenshot(path=f"{folder}/{name}-{theme}.png")
    await page.emulate_media(color_scheme="light")
    await page.set_viewport_size(PHONE)
    await fits(page)
    if folder:
        await page.screenshot(path=f"{folder}/{name}-phone.png")
