"""What stands in front of every route: nobody without a session, nothing from another site, nothing too large."""

import asyncio
import re
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from judge.human.config import PageConfig
from judge.human.errors import UnknownLease
from judge.human.page.limits import Buckets, Limits, Rate
from judge.human.page.security import HEADERS, OPEN, OPEN_BELOW
from judge.human.page.shell import SignedIn
from rollout.errors import InfraError
from tests.support.label_page import PASSWORD, Clock, tiny_page
from tests.support.page_probes import with_probes

PAGE = Path(__file__).parents[2] / "judge/human/page"


@pytest.fixture
def page(tmp_path):
    return with_probes(tiny_page(tmp_path))


def address_of(route):
    return re.sub(r"\{[^}]+\}", "1", route.path)


async def test_nothing_but_the_open_paths_answers_without_a_session(page):
    browser = page.browser()
    routes = [route for route in page.app.routes if isinstance(route, APIRoute)]
    assert len(routes) > 8
    for route in routes:
        path = address_of(route)
        for method in route.methods:
            answer = await browser.request(method, path)
            if path in OPEN or path.startswith(OPEN_BELOW):
                assert "/sign-in?next=" not in answer.headers.get("location", "")
            elif path.startswith("/api/"):
                assert answer.status_code == 401
                assert answer.json()["kind"] == "signed_out"
            else:
                assert (answer.status_code, answer.headers["location"].split("?")[0]) == (303, "/sign-in")
    assert page.app.state.written == []


@pytest.mark.parametrize(
    "path",
    ["/no-such-page", "/docs", "/redoc", "/openapi.json", "/sign-in/", "/invitation", "/STATIC/base.css", "//",
     "/admin", "/static", "/metrics/", "/api/next"],
)  # fmt: skip
async def test_what_does_not_exist_looks_like_what_does(page, path):
    answer = await page.browser().get(path)
    assert answer.status_code in {303, 401}


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fsecurity.py", "/static/"])
async def test_static_files_are_those_of_their_folder(page, path):
    assert (await page.browser().get(path)).status_code in {303, 404}


async def test_every_answer_has_the_headers(page):
    browser = await page.signed_in()
    stranger = page.browser()
    answers = [
        await stranger.get("/sign-in"),
        await stranger.get("/nowhere"),
        await stranger.get("/api/nowhere"),
        await stranger.get("/healthz"),
        await stranger.get("/static/base.css"),
        await stranger.get("/static/none.css"),
        await stranger.get("/invitation/none"),
        await stranger.post("/sign-in", data={"name": "Ana", "password": "wrong"}),
        await stranger.post("/static/base.css"),
        await stranger.post("/sign-in", content=b"x" * 70_000),
        *[await browser.get(f"/api/fails/{kind}") for kind in ("gone", "bug", "down")],
        await browser.get("/boss"),
        await browser.get("/nowhere"),
        await browser.post("/probe", headers={"origin": "https://evil.test"}),
    ]
    assert len({answer.status_code for answer in answers}) >= 9
    for answer in answers:
        for name, value in HEADERS:
            assert answer.headers.get_list(name.decode()) == [value.decode()], (answer.url, answer.status_code)
        static = answer.url.path.startswith("/static") and answer.status_code < 400
        assert answer.headers["cache-control"] == ("no-cache" if static else "no-store")
    policy = answers[0].headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "http" not in policy
    assert policy.startswith("default-src 'none';")


async def test_files_are_kept_by_the_browser_under_an_address_of_their_contents(page):
    html = (await page.browser().get("/sign-in")).text
    addresses = re.findall(r'(?:href|src)="(/static/[^"]+)"', html)
    assert len(addresses) >= 3
    for address in addresses:
        assert "immutable" in (await page.browser().get(address)).headers["cache-control"]


async def test_a_write_needs_the_sessions_own_token(page):
    browser = await page.signed_in()
    other = await page.signed_in("Bea")
    right = browser.headers.pop("x-csrf-token")
    wrong = [None, "", right[:-1], other.headers["x-csrf-token"], "ü\u202e".encode()]
    for token in wrong:
        headers = {} if token is None else {"x-csrf-token": token}
        answer = await browser.post("/api/probe", json={"choice": "left"}, headers=headers)
        assert (answer.status_code, answer.json()["kind"]) == (403, "csrf")
        form = {"csrf": token.decode() if isinstance(token, bytes) else token} if token else {"x": "1"}
        assert (await browser.post("/probe", data=form)).status_code == 403
    for method in ("PUT", "PATCH", "DELETE", "TRACE", "ODD"):
        assert (await browser.request(method, "/api/probe")).status_code == 403
    assert (await browser.get("/probe", params={"csrf": right})).status_code == 405
    assert page.app.state.written == []
    answer = await browser.post("/api/probe", json={"choice": "left"}, headers={"x-csrf-token": right})
    assert answer.json() == {"name": "Ana"}
    assert (await browser.post("/probe", data={"csrf": right})).status_code == 200
    assert page.app.state.written == ["left", "form"]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/next"), ("GET", "/api/labels/x"), ("PUT", "/api/labels/x")]
)
async def test_the_two_quick_paths_take_one_method_each(page, method, path):
    browser = await page.signed_in()
    assert (await browser.request(method, path)).status_code == 405
    assert (await page.browser().request(method, path)).status_code == 401, "who is not signed in learns nothing"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.test"},
        {"origin": "null"},
        {"origin": "https://page.test"},
        {"origin": "http://page.test.evil.test"},
        {"origin": "http://page.test:81"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://page.test"},
    ],
)
async def test_a_write_from_another_site_is_refused_even_with_the_token(page, headers):
    browser = await page.signed_in()
    answer = await browser.post("/api/probe", json={"choice": "left"}, headers=headers)
    assert (answer.status_code, answer.json()["kind"]) == (403, "cross_site")
    stranger = page.browser()
    answer = await stranger.post("/sign-in", data={"name": "Ana", "password": PASSWORD}, headers=headers)
    assert answer.status_code == 403
    assert not answer.cookies
    assert page.app.state.written == []


async def test_a_write_from_this_site_is_taken(page):
    browser = await page.signed_in()
    headers = {"origin": "http://page.test", "sec-fetch-site": "same-origin"}
    assert (await browser.post("/api/probe", json={"choice": "left"}, headers=headers)).status_code == 200


@pytest.mark.parametrize("public_url", [None, "https://labels.example.org"])
async def test_the_session_cookie_is_for_the_server_and_this_site_alone(tmp_path, public_url):
    page = tiny_page(tmp_path, PageConfig(public_url=public_url))
    page.accounts.add("Ana", "annotator", PASSWORD)
    origin = {"origin": public_url or "http://page.test"}
    answer = await page.browser().post("/sign-in", data={"name": "Ana", "password": PASSWORD}, headers=origin)
    [cookie] = answer.headers.get_list("set-cookie")
    assert "HttpOnly" in cookie
    assert "Path=/" in cookie
    assert "SameSite=lax" in cookie
    assert "Domain" not in cookie
    assert ("Secure" in cookie) == cookie.startswith("__Host-") == (public_url is not None)


async def test_two_queues_on_one_host_have_cookies_of_their_own(tmp_path):
    names = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        names.add(tiny_page(tmp_path / name).app.state.page.cookie)
    assert len(names) == 2


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_that_is_too_large_is_not_read(page, declared):
    browser = await page.signed_in()

    async def parts():
        for _ in range(100):
            yield b"x" * 1_000

    body = b"x" * 65_537 if declared else parts()
    answer = await browser.post("/api/probe", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["kind"]) == (413, "too_large")
    body = '{"choice": "' + "y" * 65_000 + '"}'
    answer = await browser.post("/api/probe", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200
    assert len(page.app.state.written[0]) == 65_000


async def test_a_body_that_drips_in_is_given_up(tmp_path):
    page = with_probes(tiny_page(tmp_path, limits=Limits(body_s=0.05)))
    browser = await page.signed_in()

    async def drip():
        while True:
            yield b"x"
            await asyncio.sleep(0.02)

    answer = await browser.post("/api/probe", content=drip(), headers={"content-type": "application/json"})
    assert answer.status_code == 408


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "text/plain", "", "application/xml"])
async def test_bodies_are_forms_or_json(page, kind):
    browser = await page.signed_in()
    answer = await browser.post("/api/probe", content=b'{"choice": "left"}', headers={"content-type": kind})
    assert answer.status_code == 415
    assert page.app.state.written == []


async def test_a_form_of_a_thousand_fields_is_refused(page):
    browser = await page.signed_in()
    browser.headers.pop("x-csrf-token")
    assert (await browser.post("/probe", data={str(number): "" for number in range(1_000)})).status_code == 413


async def test_one_person_cannot_ask_without_end(tmp_path):
    page = with_probes(tiny_page(tmp_path, limits=Limits(person=Rate(burst=10, per_s=2))))
    browser, other = await page.signed_in(), await page.signed_in("Bea")
    statuses = [(await browser.get("/api/fails/http")).status_code for _ in range(12)]
    assert statuses[-3:] == [429, 429, 429]
    refused = await browser.get("/api/fails/http")
    assert refused.headers["retry-after"] == "1"
    assert 0 < refused.json()["retry_after_s"] <= 0.5
    assert (await other.get("/api/fails/http")).status_code == 418
    page.clock.now += 1
    assert (await browser.get("/api/fails/http")).status_code == 418


def test_buckets_forget_whoever_asked_longest_ago():
    buckets = Buckets(Rate(burst=1, per_s=0.001), Clock())
    assert buckets.take("first") == 0
    assert buckets.take("first") > 0
    for number in range(10_000):
        buckets.take(number)
    assert buckets.take("first") == 0


async def test_refusals_are_json_for_scripts_and_pages_for_people(page):
    browser = await page.signed_in()
    gone = await browser.get("/api/fails/gone")
    assert (gone.status_code, gone.json()) == (410, {"error": "This pair was held too long.", "kind": "lease_expired"})
    fast = await browser.get("/api/fails/fast")
    assert (fast.status_code, fast.headers["retry-after"], fast.json()["retry_after_s"]) == (429, "2", 2.5)
    assert (await browser.get("/api/fails/http")).json()["error"] == "A teapot."
    invalid = await browser.post("/api/probe", json={"choose": "left"})
    assert (invalid.status_code, invalid.json()["kind"]) == (422, "invalid")
    broken = await browser.post("/api/probe", content=b"{", headers={"content-type": "application/json"})
    assert broken.status_code == 422
    missing = await browser.get("/nowhere")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "There is no such page" in missing.text
    assert (await browser.get("/nowhere", headers={"accept": "application/json"})).json()["kind"] == "refused"


async def test_a_message_with_markup_stays_text(page):
    browser = await page.signed_in()
    page.app.router.routes[:] = [
        route for route in page.app.router.routes if getattr(route, "path", "") != "/api/fails/{kind}"
    ]

    @page.app.get("/fails")
    def fails(identity: SignedIn) -> None:
        raise UnknownLease("<script>alert(1)</script>")

    answer = await browser.get("/fails")
    assert answer.status_code == 404
    assert "<script>alert" not in answer.text
    assert "&lt;script&gt;alert" in answer.text


async def test_a_bug_tells_nothing_and_an_outage_says_to_try_again(page, caplog):
    browser = await page.signed_in()
    bug = await browser.get("/api/fails/bug")
    assert bug.status_code == 500
    assert "secret plan" not in bug.text
    assert "secret plan" in caplog.text
    down = await browser.get("/api/fails/down")
    assert (down.status_code, down.json()["kind"]) == (503, "unavailable")
    assert "10.0.0.1" not in down.text
    assert down.headers["retry-after"] == "3"


async def test_an_outage_during_the_lookup_of_a_session_is_no_sign_out(page, monkeypatch):
    browser = await page.signed_in()

    def fails(*_):
        raise InfraError("gone")

    monkeypatch.setattr(page.accounts, "session", fails)
    assert (await browser.get("/api/next")).status_code == 503
    assert (await browser.get("/")).status_code == 503
