"""Who gets in: administrators, accounts in good standing, whom a trusted proxy names; nobody with a made-up cookie."""

import pytest
from sqlalchemy import select

from judge.human.config import PageConfig
from judge.human.schema import annotators, sessions
from tests.support.label_page import csrf_of, tiny_page
from tests.support.page_probes import with_probes


@pytest.fixture
def page(tmp_path):
    return with_probes(tiny_page(tmp_path))


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
