"""Signing in on the page: by password, by invitation, by a provider; and out again."""

import asyncio
import re

import pytest
from joserfc.jwk import ECKey, OctKey
from sqlalchemy import func, select

from judge.human.config import OidcConfig, PageConfig
from judge.human.page.app import make_app
from judge.human.page.limits import Limits, Rate
from judge.human.page.sign_in import local_path
from judge.human.schema import sessions
from rollout.errors import InfraError, UsageError
from tests.support.fake_provider import CLIENT_ID, SECRET, fake_provider
from tests.support.label_page import PASSWORD, csrf_of, tiny_page, tiny_queue


@pytest.fixture
def page(tmp_path):
    return tiny_page(tmp_path)


def num_sessions(page):
    with page.database.read() as connection:
        return connection.execute(select(func.count()).select_from(sessions)).scalar_one()


async def sign_in(browser, name="Ana", password=PASSWORD, **fields):
    return await browser.post("/sign-in", data={"name": name, "password": password, **fields})


async def test_who_is_sent_to_the_sign_in_page_comes_back_to_where_they_wanted(page):
    page.accounts.add("Ana", "annotator", PASSWORD)
    browser = page.browser()
    sent = await browser.get("/label?round=2")
    assert (sent.status_code, sent.headers["location"]) == (303, "/sign-in?next=/label%3Fround%3D2")
    form = await browser.get(sent.headers["location"])
    wanted = re.search(r'name="next" value="([^"]*)"', form.text)[1]
    answer = await sign_in(browser, next=wanted)
    assert (answer.status_code, answer.headers["location"]) == (303, "/label?round=2")
    assert (await browser.get("/sign-in?next=/label")).headers["location"] == "/label"


@pytest.mark.parametrize(
    "path",
    ["//evil.test", "/\\evil.test", "https://evil.test", "javascript:alert(1)", "", "label", "/a\r\nset-cookie: x=1",
     "/\t/evil.test", "/a\\b", "/\u202e", "/\x00"],
)  # fmt: skip
async def test_nobody_is_sent_elsewhere_after_signing_in(page, path):
    assert local_path(path) == "/"
    page.accounts.add("Ana", "annotator", PASSWORD)
    assert (await sign_in(page.browser(), next=path)).headers["location"] == "/"


async def test_a_refused_sign_in_says_no_more_than_that(page):
    page.accounts.add("Ana", "annotator", PASSWORD)
    wrong = await sign_in(page.browser(), password="wrong horse")
    unknown = await sign_in(page.browser(), name="Nobody")
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.text.replace("Ana", "Nobody") == unknown.text
    assert "wrong horse" not in wrong.text
    assert not wrong.cookies
    assert num_sessions(page) == 0


@pytest.mark.parametrize(
    "name",
    ["' OR 1=1 --", '"; DROP TABLE sessions; --', "a\x00b", "\ud800".encode("utf-8", "surrogatepass"), "x" * 5_000],
)
async def test_odd_names_are_only_wrong(page, name):
    page.accounts.add("Ana", "annotator", PASSWORD)
    assert (await sign_in(page.browser(), name=name)).status_code == 401
    assert (await sign_in(page.browser())).status_code == 303


async def test_markup_in_a_name_stays_text(page):
    answer = await sign_in(page.browser(), name='"><script>alert(1)</script>')
    assert "<script>alert" not in answer.text


async def test_every_sign_in_has_a_session_of_its_own(page):
    browser = await page.signed_in()
    name = page.app.state.page.cookie
    former = browser.cookies[name]
    assert (await sign_in(browser)).status_code == 303
    assert browser.cookies[name] != former
    assert num_sessions(page) == 1
    planted = page.browser()
    planted.cookies.set(name, "chosen-by-somebody-else", domain="page.test")
    answer = await sign_in(planted)
    assert answer.cookies[name] != "chosen-by-somebody-else"


async def test_signing_out_ends_the_session_and_not_only_the_cookie(page):
    browser = await page.signed_in()
    cookie = browser.cookies[page.app.state.page.cookie]
    assert (await browser.post("/sign-out", headers={"x-csrf-token": "wrong"})).status_code == 403
    assert num_sessions(page) == 1
    answer = await browser.post("/sign-out", data={"csrf": await csrf_of(browser)})
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert num_sessions(page) == 0
    again = page.browser()
    again.cookies.set(page.app.state.page.cookie, cookie, domain="page.test")
    assert (await again.get("/api/next")).status_code == 401


async def test_guessing_a_password_is_slowed_down_for_this_name_and_address(page):
    page.accounts.add("Ana", "annotator", PASSWORD)
    page.accounts.add("Bea", "annotator", PASSWORD)
    thief, owner = page.browser(address="10.0.0.66"), page.browser(address="10.0.0.1")
    statuses = [(await sign_in(thief, name=name, password="wrong")).status_code for name in ("Ana", "ana", " ANA ") * 3]
    assert statuses == [401] * 6 + [429] * 3
    refused = await sign_in(thief)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) == 30
    assert (await sign_in(owner)).status_code == 303
    assert (await sign_in(thief, name="Bea")).status_code == 303
    page.clock.now += 30
    assert (await sign_in(thief)).status_code == 303


async def test_guessing_many_names_is_slowed_down_for_the_address(tmp_path):
    page = tiny_page(tmp_path, limits=Limits(address=Rate(burst=5, per_s=0.1)))
    browser = page.browser()
    statuses = [(await sign_in(browser, name=f"name {number}")).status_code for number in range(7)]
    assert statuses == [401] * 5 + [429] * 2


async def test_right_passwords_cost_nothing(page):
    page.accounts.add("Ana", "annotator", PASSWORD)
    browser = page.browser()
    assert {(await sign_in(browser)).status_code for _ in range(12)} == {303}


async def test_a_crowd_that_signs_in_at_once_is_let_in_two_at_a_time(tmp_path):
    page = tiny_page(tmp_path, limits=Limits(num_waiting=12))
    page.accounts.add("Ana", "annotator", PASSWORD)
    answers = await asyncio.gather(*(sign_in(page.browser()) for _ in range(12)))
    assert {answer.status_code for answer in answers} == {303}
    answers = await asyncio.gather(*(sign_in(page.browser()) for _ in range(30)))
    assert {answer.status_code for answer in answers} == {303, 503}


async def test_an_invitation_link_makes_an_account_and_signs_it_in(page):
    link = f"/invitation/{page.accounts.invite('annotator', 'team of five')}"
    browser = page.browser()
    form = await browser.get(link)
    assert form.status_code == 200
    assert "Choose the name" in form.text
    fields = {"name": "Ana", "password": PASSWORD, "again": PASSWORD}
    for wrong, status in (
        ({"again": "other"}, 422),
        ({"password": "short", "again": "short"}, 422),
        ({"name": ""}, 422),
    ):
        answer = await browser.post(link, data={**fields, **wrong})
        assert (answer.status_code, PASSWORD in answer.text) == (status, False)
    assert page.accounts.people() == []
    answer = await browser.post(link, data=fields)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert (await browser.get("/no-such-page")).status_code == 404
    assert (await page.browser().get(link)).status_code == 410
    assert (await page.browser().post(link, data={**fields, "name": "Eve"})).status_code == 410
    assert [person.name for person in page.accounts.people()] == ["Ana"]


async def test_a_taken_name_is_said_and_the_link_still_works(page):
    page.accounts.add("Ana", "annotator", PASSWORD)
    link = f"/invitation/{page.accounts.invite('annotator')}"
    fields = {"name": "ana", "password": PASSWORD, "again": PASSWORD}
    answer = await page.browser().post(link, data=fields)
    assert answer.status_code == 409
    assert "taken" in answer.text
    assert (await page.browser().post(link, data={**fields, "name": "Bea"})).status_code == 303


async def test_a_reset_link_shows_whose_it_is_and_sets_the_password(page):
    browser = await page.signed_in()
    link = f"/invitation/{page.accounts.reset(1)}"
    assert "<strong>Ana</strong>" in (await page.browser().get(link)).text
    fields = {"name": "Eve", "password": "battery staple", "again": "battery staple"}
    assert (await page.browser().post(link, data=fields)).status_code == 303
    assert (await browser.get("/api/next")).status_code == 401
    assert (await sign_in(page.browser(), password="battery staple")).status_code == 303


async def test_the_theme_of_the_cookie_is_in_the_first_byte(page):
    browser = page.browser()
    assert "data-theme" not in (await browser.get("/sign-in")).text.split("<body>")[0]
    browser.cookies.set("rondo-theme", "dark", domain="page.test")
    assert '<html lang="en" data-theme="dark">' in (await browser.get("/sign-in")).text
    browser.cookies.set("rondo-theme", '"><script>', domain="page.test")
    assert "data-theme" not in (await browser.get("/sign-in")).text.split("<body>")[0]


async def test_health_says_whether_the_database_answers(page, monkeypatch):
    browser = page.browser()
    assert ((await browser.get("/healthz")).json()) == {"status": "ok"}

    def fails():
        raise InfraError("gone")

    monkeypatch.setattr(page.database, "read", fails)
    assert (await browser.get("/healthz")).status_code == 503


# With a provider


@pytest.fixture
def provided(tmp_path, monkeypatch):
    """A page with a provider whose clock it shares; addresses at x.org may join."""
    monkeypatch.setenv("RONDO_OIDC_SECRET", SECRET)
    clock = tiny_page(tmp_path).clock
    with fake_provider(clock) as provider:
        oidc = OidcConfig(issuer=provider.issuer, client_id=CLIENT_ID, allowed_domains=("x.org",))
        yield tiny_page(tmp_path, PageConfig(oidc=oidc, public_url="https://page.test")), provider


ANA = {"sub": "1", "email": "ana@x.org", "email_verified": True}


async def begin(browser, path="/sign-in/oidc"):
    answer = await browser.get(path)
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


async def test_a_person_of_an_allowed_domain_joins_and_comes_back(provided):
    page, provider = provided
    browser = page.browser()
    assert "/sign-in/oidc?next=/label" in (await browser.get("/sign-in?next=/label")).text
    url = await begin(browser, "/sign-in/oidc?next=/label")
    assert url.startswith(f"{provider.issuer}/authorize?")
    answer = await browser.get(provider.consent(url, **ANA))
    assert (answer.status_code, answer.headers["location"]) == (303, "/label")
    assert [(person.name, person.role) for person in page.accounts.people()] == [("ana@x.org", "annotator")]
    assert (await browser.get("/no-such-page")).status_code == 404
    again = page.browser()
    renamed = {**ANA, "email": "new@elsewhere.org"}
    assert (await again.get(provider.consent(await begin(again), **renamed))).status_code == 303
    assert len(page.accounts.people()) == 1


@pytest.mark.parametrize(
    "person",
    [
        {**ANA, "email_verified": False},
        {**ANA, "email_verified": "true"},
        {"sub": "1", "email": "ana@x.org"},
        {**ANA, "email": "ana@elsewhere.org"},
        {**ANA, "email": "ana@x.org.evil.test"},
        {**ANA, "email": "x.org"},
    ],
)
async def test_others_need_an_invitation(provided, person):
    page, provider = provided
    browser = page.browser()
    answer = await browser.get(provider.consent(await begin(browser), **person))
    assert answer.status_code == 401
    assert "ask an administrator" in answer.text
    assert page.accounts.people() == []
    token = page.accounts.invite("administrator")
    assert f"/sign-in/oidc?invitation={token}" in (await browser.get(f"/invitation/{token}")).text
    url = await begin(browser, f"/sign-in/oidc?invitation={token}")
    assert (await browser.get(provider.consent(url, **person))).status_code == 303
    assert [made.role for made in page.accounts.people()] == ["administrator"]


def lies():
    other = ECKey.generate_key("P-256", {"kid": "one"})
    return {
        "another nonce": {"twist": lambda claims: claims.update(nonce="x")},
        "no nonce": {"twist": lambda claims: claims.pop("nonce")},
        "another page": {"twist": lambda claims: claims.update(aud="other")},
        "another issuer": {"twist": lambda claims: claims.update(iss="https://evil.test")},
        "too old": {"twist": lambda claims: claims.update(exp=claims["iat"] - 3_600)},
        "no end": {"twist": lambda claims: claims.pop("exp")},
        "no subject": {"twist": lambda claims: claims.pop("sub")},
        "meant for another party": {"twist": lambda claims: claims.update(azp="other")},
        "no name": {"twist": lambda claims: claims.pop("email")},
        "another key": {"key": other},
        "no signature": {"header": {"alg": "none"}},
        "a shared secret": {"header": {"alg": "HS256"}, "key": OctKey.import_key(SECRET * 4)},
    }


@pytest.mark.parametrize("lie", lies())
async def test_a_token_that_does_not_hold_signs_nobody_in(provided, lie):
    page, provider = provided
    for name, value in lies()[lie].items():
        setattr(provider, name, value)
    browser = page.browser()
    answer = await browser.get(provider.consent(await begin(browser), **ANA))
    assert answer.status_code == 502
    assert page.accounts.people() == []
    assert num_sessions(page) == 0


async def test_a_callback_belongs_to_the_browser_that_began(provided):
    page, provider = provided
    browser, victim = page.browser(), page.browser()
    url = await begin(browser)
    back = provider.consent(url, **ANA)
    assert (await victim.get(back)).status_code == 400
    await begin(victim)
    assert (await victim.get(back)).status_code == 400
    assert (await browser.get(re.sub(r"state=[^&]+", "state=", back))).status_code == 400
    browser.cookies.set(f"{page.app.state.page.cookie}-oidc", "bm9uc2Vuc2U=", domain="page.test")
    assert (await browser.get(back)).status_code == 400
    assert num_sessions(page) == 0


async def test_a_code_needs_the_verifier_and_works_once(provided):
    page, provider = provided
    browser = page.browser()
    first = provider.consent(await begin(browser), **ANA)
    state = re.search(r"state=([^&]+)", first)[1]
    other = provider.consent(await begin(page.browser()), **ANA)  # for another browser's verifier
    stolen = re.sub(r"state=[^&]+", f"state={state}", other)
    assert (await browser.get(stolen)).status_code == 502
    assert (await browser.get(first)).status_code == 303
    assert (await browser.get(first)).status_code == 400  # what the browser kept for it is gone


async def test_a_provider_that_is_away_or_says_no_is_named_as_the_cause(provided):
    page, provider = provided
    browser = page.browser()
    state = re.search(r"state=([^&]+)", await begin(browser))[1]
    assert (await browser.get(f"/sign-in/oidc/callback?state={state}&error=access_denied")).status_code == 502
    page.clock.now += 4_000
    provider.named_issuer = "https://elsewhere.test"
    assert (await browser.get("/sign-in/oidc")).status_code == 502


async def test_without_a_provider_there_is_no_such_way(page):
    assert (await page.browser().get("/sign-in/oidc")).status_code == 404
    assert (await page.browser().get("/sign-in/oidc/callback?state=x&code=y")).status_code == 404
    assert "organisation" not in (await page.browser().get("/sign-in")).text


def test_a_provider_without_its_secret_is_said_before_anybody_comes(tmp_path, monkeypatch):
    monkeypatch.delenv("RONDO_OIDC_SECRET", raising=False)
    settings = PageConfig(oidc=OidcConfig(issuer="https://idp.test", client_id="x"))
    with pytest.raises(UsageError, match="RONDO_OIDC_SECRET"):
        make_app(tiny_queue(tmp_path, lambda: 0.0), settings)
