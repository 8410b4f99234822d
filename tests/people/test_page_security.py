"""What stands in front of every route: nobody without a session, nothing from another site, nothing too large."""

import asyncio
import re
from pathlib import Path

import pytest
from fastapi import HTTPException
from fastapi.routing import APIRoute
from pydantic import BaseModel
from sqlalchemy import select

from judge.human.config import PageConfig
from judge.human.errors import LeaseExpired, TooFast, UnknownLease
from judge.human.page.limits import Buckets, Limits, Rate
from judge.human.page.security import HEADERS, OPEN, OPEN_BELOW
from judge.human.page.shell import Administrator, SignedIn, csrf_field, duration, share, when
from judge.human.schema import annotators, sessions
from rollout.errors import InfraError
from tests.support.label_page import PASSWORD, Clock, csrf_of, tiny_page

PAGE = Path(__file__).parents[2] / "judge/human/page"


class Body(BaseModel):
    choice: str


def with_probes(page):
    """Routes as the other modules have them; each call of a writing one is noted."""
    page.app.state.written = []

    @page.app.post("/api/probe")
    def probe(body: Body, identity: SignedIn) -> dict[str, str]:
        page.app.state.written.append(body.choice)
        return {"name": identity.name}

    @page.app.post("/probe")
    async def form(identity: SignedIn) -> dict[str, str]:
        page.app.state.written.append("form")
        return {}

    @page.app.get("/api/fails/{kind}")
    def fails(kind: str, identity: SignedIn) -> None:
        raise {
            "gone": LeaseExpired("This pair was held too long."),
            "fast": TooFast("Too fast.", 2.5),
            "unknown": UnknownLease("<script>alert(1)</script>"),
            "http": HTTPException(418, "A teapot."),
            "bug": ValueError("the secret plan"),
            "down": InfraError("the database at 10.0.0.1 gave no answer"),
        }[kind]

    @page.app.get("/boss")
    def boss(identity: Administrator) -> dict[str, str]:
        return {}

    return page


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


async def test_administration_is_for_administrators(page):
    assert (await (await page.signed_in("Ana")).get("/boss")).status_code == 403
    assert (await (await page.signed_in("Bo", "administrator")).get("/boss")).status_code == 200


async def test_a_disabled_account_is_out_at_its_next_request(page):
    browser = await page.signed_in()
    assert (await browser.get("/api/fails/http")).status_code == 418
    page.accounts.disable(1)
    assert (await browser.get("/api/fails/http")).status_code == 401


@pytest.mark.parametrize("cookie", ["", "x", "' OR '1'='1", "a" * 5_000])
async def test_made_up_cookies_open_nothing(page, cookie):
    await page.signed_in()
    browser = page.browser()
    answer = await browser.get("/api/next", headers={"cookie": f"{page.app.state.page.cookie}={cookie}"})
    assert answer.status_code == 401


PROXIED = PageConfig(trusted_header="X-Remote-User", trusted_proxies=("10.1.0.0/16", "::1/128"))


async def test_a_proxys_header_is_believed_from_the_proxy_alone(tmp_path):
    page = with_probes(tiny_page(tmp_path, PROXIED))
    named = {"x-remote-user": "Ana"}
    for address in ("10.2.0.1", "127.0.0.1", "not an address"):
        forged = {**named, "x-forwarded-for": "10.1.0.1"}
        assert (await page.browser(address=address).get("/api/fails/http", headers=forged)).status_code == 401
    with page.database.read() as connection:
        assert connection.execute(select(annotators)).all() == []
    proxy = page.browser(address="10.1.0.7")
    assert (await proxy.get("/api/fails/http", headers=named)).status_code == 418
    assert (await proxy.get("/api/fails/http")).status_code == 401
    assert (await proxy.get("/api/fails/http", headers=[*named.items(), ("x-remote-user", "Eve")])).status_code == 400
    assert (await proxy.get("/api/fails/http", headers={"x-remote-user": "\u202eAna".encode()})).status_code == 401
    assert (await proxy.get("/boss", headers=named)).status_code == 403
    with page.database.read() as connection:
        assert connection.execute(select(annotators.c.name)).scalars().all() == ["Ana"]
        assert connection.execute(select(sessions)).all() == []


async def test_behind_a_proxy_a_write_still_needs_the_token(tmp_path):
    page = with_probes(tiny_page(tmp_path, PROXIED))
    ana, bea = page.browser(address="10.1.0.7"), page.browser(address="10.1.0.7")
    ana.headers["x-remote-user"], bea.headers["x-remote-user"] = "Ana", "Bea"
    token, others = await csrf_of(ana), await csrf_of(bea)
    assert token != others
    for wrong in ("", others):
        answer = await ana.post("/api/probe", json={"choice": "left"}, headers={"x-csrf-token": wrong})
        assert answer.status_code == 403
    answer = await ana.post("/api/probe", json={"choice": "left"}, headers={"x-csrf-token": token})
    assert answer.json() == {"name": "Ana"}


def test_templates_and_scripts_keep_the_policy():
    for file in PAGE.glob("templates/*.html"):
        html = file.read_text()
        assert not re.search(r"\sstyle\s*=|<style|\son[a-z]+\s*=|javascript:", html), file
        assert not re.search(r"<script(?![^>]*\ssrc=)", html), file
        assert not re.search(r"(?:src|href|action)\s*=\s*[\"'](?:https?:)?//", html), file
        assert not re.search(r"\|\s*safe\b", html), file
        for form in re.findall(r'<form[^>]*method="post".*?</form>', html, re.DOTALL):
            is_open = re.search(r'action="/(?:sign-in|invitation)', form)
            assert is_open or "csrf_field(csrf)" in form, (file, form)
    for file in (*PAGE.glob("static/*.css"), *PAGE.glob("static/*.js")):
        assert not re.search(r"@import|https?://|\beval\(|new Function", file.read_text()), file


def luminance(colour):
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """WCAG 2.2, relative luminance."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_have_the_contrast_of_aa(theme):
    css = (PAGE / "static/base.css").read_text()
    found = re.findall(r"--([a-z-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", css)
    colours = {name: pair[theme] for name, *pair in found}
    grounds = ["paper", "surface", "sunken"]
    text = [(ink, ground) for ink in ("ink", "soft", "accent", "accent-strong") for ground in grounds]
    text += [(state, ground) for state in ("good", "warn", "bad", "left", "right") for ground in grounds]
    text += [(name, f"{name}-wash") for name in ("good", "warn", "bad", "left", "right", "accent")]
    text += [("ink", f"{name}-wash") for name in ("good", "warn", "bad", "left", "right", "accent")]
    text += [("on-accent", "accent"), ("on-accent", "accent-strong"), ("paper", "ink")]
    low = {pair: round(contrast(*(colours[name] for name in pair)), 2) for pair in text}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 4.5} == {}
    parts = [(name, ground) for name in ("edge", "focus") for ground in grounds]
    low = {pair: round(contrast(*(colours[name] for name in pair)), 2) for pair in parts}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 3} == {}


def test_the_measure_of_contrast_is_right():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


def test_figures_read_well():
    shown = [duration(seconds) for seconds in (None, 0.24, 9.9, 59.6, 125, 7_260, 200_000, 3_600)]
    assert shown == ["–", "0.2 s", "9.9 s", "1 min", "2 min 5 s", "2 h 1 min", "2 d 7 h", "1 h"]
    assert [share(None), share(0.666)] == ["–", "67 %"]
    assert when(0.0) == '<time datetime="1970-01-01T00:00:00Z">1970-01-01 00:00 UTC</time>'
    assert csrf_field('"><b>') == '<input type="hidden" name="csrf" value="&#34;&gt;&lt;b&gt;">'
