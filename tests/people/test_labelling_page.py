"""What the labelling page answers: to annotators, and to those who would like to be one."""

import json
import re
from dataclasses import replace

import pytest
from sqlalchemy import func, select, update

from judge.human.rounds import Rounds
from judge.human.schema import annotators, labels, leases
from judge.human.types import RoundKey, Rules
from tests.support.html_seen import Seen
from tests.support.label_page import tiny_page
from tests.support.label_pairs import HOSTILE, many_tasks

LEFT = {"choice": "left"}
RUN_NAME, RUN_ID = "secret-model-7b-dpo", "run-4f1d0c"
SQL = "'); DROP TABLE labels; --"


@pytest.fixture
async def page(tmp_path):
    page = tiny_page(tmp_path)
    yield page
    for browser in page.browsers:
        await browser.aclose()


def open_round(page, tasks, round_id=7, **rules):
    rounds = Rounds(page.database)
    chosen = Rules(**{"double_share": 0.0, "min_dwell_s": 0.0, **rules})
    view = rounds.open(RoundKey(run_id=RUN_ID, round_id=round_id), RUN_NAME, chosen, num_chunks=1)
    rounds.submit_chunk(view.row_id, 0, tasks)
    return view.row_id


def num_labels(page):
    with page.database.read() as connection:
        return connection.execute(select(func.count()).select_from(labels)).scalar_one()


async def drawn(browser):
    answer = await browser.get("/api/next")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_pair_comes_with_its_conversation_and_both_answers_and_nothing_else(page):
    open_round(page, many_tasks(3), guidelines="Be *fair*.", webhook="http://hook.invalid/secret")
    browser = await page.signed_in()
    seen = (await browser.get("/label")).text
    seen += json.dumps(await drawn(browser)) + (await browser.get("/")).text + (await browser.get("/guidelines")).text
    token = re.search('data-token="([^"]+)"', seen)[1]
    for path in ("difference", "guidelines", "raw/left"):
        seen += (await browser.get(f"/api/leases/{token}/{path}")).text
    seen += (await browser.post(f"/api/leases/{token}/heartbeat")).text + (await browser.get("/api/progress")).text
    seen += (await browser.post(f"/api/labels/{token}", json=LEFT)).text
    for expected in ("The capital of France is <strong>Paris</strong>", "Canberra", "Be <em>fair</em>."):
        assert expected in seen
    with page.database.read() as connection:
        task_rows = connection.execute(select(leases.c.task_row, leases.c.swapped)).all()
    assert task_rows
    for hidden in (
        RUN_NAME,
        RUN_ID,
        "pair-000",
        "prompt-0",
        "rounds/0007",
        "hook.invalid",
        "swapped",
        "text_a",
        "gold",
    ):
        assert hidden not in seen, hidden


async def test_a_label_is_taken_once_however_often_it_is_sent(page):
    open_round(page, many_tasks(3))
    browser = await page.signed_in()
    token = (await drawn(browser))["token"]
    body = {"choice": "right", "strength": "clearly", "comment": "well said"}
    first, again = [await browser.post(f"/api/labels/{token}", json=body) for _ in range(2)]
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json()["label_id"] == again.json()["label_id"]
    assert (first.json()["is_replay"], again.json()["is_replay"]) == (False, True)
    other = await browser.post(f"/api/labels/{token}", json=LEFT)
    assert (other.status_code, other.json()["kind"]) == (409, "conflict")
    assert num_labels(page) == 1


async def test_another_persons_pair_cannot_be_seen_labelled_held_released_or_undone(page):
    open_round(page, many_tasks(3))
    ana, bob = await page.signed_in("Ana"), await page.signed_in("Bob", address="10.0.0.10")
    token = (await drawn(ana))["token"]
    for path in ("raw/left", "difference", "guidelines"):
        assert (await bob.get(f"/api/leases/{token}/{path}")).status_code == 404
    for path in (f"/api/leases/{token}/heartbeat", f"/api/leases/{token}/release"):
        assert (await bob.post(path)).status_code == 404
    assert (await bob.post(f"/api/labels/{token}", json=LEFT)).status_code == 404
    label_id = (await ana.post(f"/api/labels/{token}", json=LEFT)).json()["label_id"]
    assert (await bob.post(f"/api/labels/{label_id}/undo")).status_code == 404
    assert num_labels(page) == 1
    unknown = await bob.post("/api/labels/no-such-token", json=LEFT)
    assert unknown.status_code == 404


async def test_without_the_csrf_token_or_from_elsewhere_nothing_is_written(page):
    open_round(page, many_tasks(3))
    browser = await page.signed_in()
    token = (await drawn(browser))["token"]
    good = browser.headers.pop("x-csrf-token")
    for headers in ({}, {"x-csrf-token": "x"}, {"x-csrf-token": good, "origin": "https://evil.invalid"}):
        for path in (f"/api/labels/{token}", f"/api/leases/{token}/release", "/api/labels/1/undo"):
            answer = await browser.post(path, json=LEFT, headers=headers)
            assert answer.status_code == 403, (path, headers)
    assert num_labels(page) == 0
    with page.database.read() as connection:
        assert connection.execute(select(leases.c.state)).scalars().all() == ["active"]


async def test_a_lease_that_ended_and_a_round_that_is_sealed_are_told_apart(page):
    row = open_round(page, many_tasks(3), lease_s=60.0)
    browser = await page.signed_in()
    token = (await drawn(browser))["token"]
    page.clock.now += 61
    expired = await browser.post(f"/api/labels/{token}", json=LEFT)
    assert (expired.status_code, expired.json()["kind"]) == (410, "lease_expired")
    token = (await drawn(browser))["token"]
    sealed = Rounds(page.database).seal(row, "somebody")
    late = await browser.post(f"/api/labels/{token}", json=LEFT)
    assert (late.status_code, late.json()["kind"]) == (410, "round_sealed")
    assert (await browser.post(f"/api/leases/{token}/heartbeat")).status_code == 410
    assert num_labels(page) == 1
    view = Rounds(page.database).view(row)
    assert (view.sha256, view.num_late) == (sealed.sha256, 1)
    assert (await drawn(browser))["state"] == "empty"
    assert "Nothing to label right now" in (await browser.get("/label")).text


async def test_undo_hands_the_pair_out_again_with_what_was_said(page):
    open_round(page, many_tasks(3))
    browser = await page.signed_in()
    first = await drawn(browser)
    body = {"choice": "left", "strength": "slightly", "comment": 'a "remark" <b>'}
    label_id = (await browser.post(f"/api/labels/{first['token']}", json=body)).json()["label_id"]
    assert f"[{label_id}]" in (await browser.get("/label")).text
    again = (await browser.post(f"/api/labels/{label_id}/undo")).json()
    assert num_labels(page) == 0
    assert again["token"] != first["token"]
    former = re.search('data-former="([^"]+)"', again["html"])[1]
    assert "&#34;choice&#34;: &#34;left&#34;" in former
    assert "<b>" not in former
    assert again["html"].count("card-title") == first["html"].count("card-title")


async def test_the_source_is_every_byte_as_plain_text(page):
    million = "a\r\nb\x00\u202e" + "é" * 1_000_000
    hostile = many_tasks(7)[6]
    open_round(page, [replace(hostile, text_b=million)])
    browser = await page.signed_in()
    pair = await drawn(browser)
    sides = {side: await browser.get(f"/api/leases/{pair['token']}/raw/{side}") for side in ("left", "right")}
    for answer in sides.values():
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert {answer.content for answer in sides.values()} == {
        million.encode(),
        HOSTILE.encode("utf-8", "backslashreplace"),
    }
    assert "of 1,000,006 characters" in re.sub(r"\s+", " ", pair["html"])
    assert len(pair["html"]) < 100_000
    difference = (await browser.get(f"/api/leases/{pair['token']}/difference")).json()
    assert difference["is_cut"]
    assert (await browser.get(f"/api/leases/{pair['token']}/raw/middle")).status_code == 422


async def test_payloads_in_every_text_come_out_inert(page):
    hostile = many_tasks(7)[6]
    script = "<script>alert(1)</script>"
    messages = ({"role": script, "content": HOSTILE}, {"role": "user", "content": script})
    tasks = [replace(hostile, key=f"pair-{i}", messages=messages, text_b=script) for i in range(2)]
    open_round(page, tasks, criteria=(("c", f"{script}?"),), guidelines=HOSTILE)
    browser = await page.signed_in("<img src=x onerror=alert(1)>")
    token = re.search('data-token="([^"]+)"', (await browser.get("/label")).text)[1]
    for path in ("/label", "/", "/guidelines", "/settings", f"/api/leases/{token}/difference", "/api/next"):
        answer = await browser.get(path)
        assert answer.status_code == 200, path
        for html in _htmls(answer):
            seen = Seen(html)
            assert "img" not in seen.tags[seen.tags.index("main") :] if "main" in seen.tags else "img" not in seen.tags
            assert "alert(1)" in seen.text or path == "/settings", "the payload is there to be read"
            assert seen.tags.count("script") == sum(
                name == "src" and tag == "script" for tag, name, _ in seen.attributes
            )
            for tag, name, value in seen.attributes:
                assert not name.startswith("on"), (tag, name)
                assert name not in {"src", "href", "action"} or value.startswith(("/", "#")), (tag, name, value)


def _htmls(answer):
    if not answer.headers["content-type"].startswith("application/json"):
        return [answer.text]
    return [value for name, value in answer.json().items() if name in {"html", "left", "right"} and value]


async def test_whatever_is_commented_is_kept_as_it_is(page):
    comments = [SQL, "\x00", "x" * 4000, "\u202egnp.exe", "\ud800", "<script>"]
    open_round(page, many_tasks(len(comments)))
    browser = await page.signed_in()
    for comment in comments:
        token = (await drawn(browser))["token"]
        body = json.dumps({"choice": "skip", "reason": SQL, "comment": comment})
        headers = {"content-type": "application/json"}
        answer = await browser.post(f"/api/labels/{token}", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
    with page.database.read() as connection:
        stored = [
            json.loads(body) for body in connection.execute(select(labels.c.body).order_by(labels.c.id)).scalars()
        ]
    assert [(body["comment"], body["reason"]) for body in stored] == [(comment, SQL) for comment in comments]


NO_LABELS = [
    {},
    {"choice": "a"},
    {"choice": SQL},
    {"choice": "left", "label": "a"},
    {"choice": "left", "strength": "very"},
    {"choice": "tie", "strength": "clearly"},
    {"choice": "left", "comment": "x" * 4001},
    {"choice": "left", "criteria": {"unknown": "left"}},
    {"choice": "left", "criteria": {"truth": "a"}},
    {"choice": "skip"},
    [],
    "left",
]


async def test_a_label_that_is_none_is_refused_in_words(page):
    open_round(page, many_tasks(2), criteria=(("truth", "Which one is true?"),))
    browser = await page.signed_in()
    token = (await drawn(browser))["token"]
    for body in NO_LABELS:
        headers = {"content-type": "application/json"}
        answer = await browser.post(f"/api/labels/{token}", content=json.dumps(body), headers=headers)
        assert answer.status_code == 422, (body, answer.text)
        assert answer.json()["error"]
    assert num_labels(page) == 0


async def test_sql_in_addresses_finds_nothing(page):
    open_round(page, many_tasks(2))
    browser = await page.signed_in()
    assert (await browser.get(f"/api/leases/{SQL}/difference")).status_code == 404
    assert (await browser.post(f"/api/labels/{SQL}", json=LEFT)).status_code == 404
    assert (await browser.post(f"/api/labels/{SQL}/undo")).status_code == 422
    assert (await browser.get("/api/next", params={"other_than": SQL})).status_code == 200


async def test_labels_that_come_too_fast_are_told_when(page):
    open_round(page, many_tasks(4), min_dwell_s=2.0)
    browser = await page.signed_in()
    token = (await drawn(browser))["token"]
    answer = await browser.post(f"/api/labels/{token}", json=LEFT)
    assert (answer.status_code, answer.json()["kind"]) == (429, "too_fast")
    assert 0 < answer.json()["retry_after_s"] <= 2
    page.clock.now += 2
    assert (await browser.post(f"/api/labels/{token}", json=LEFT)).status_code == 200


async def test_the_next_pair_is_another_one_and_a_reload_shows_the_same(page):
    open_round(page, many_tasks(4))
    browser = await page.signed_in()
    shown = [re.search('data-token="([^"]+)"', (await browser.get("/label")).text)[1] for _ in range(2)]
    assert shown[0] == shown[1]
    ahead = [(await browser.get("/api/next", params={"other_than": shown[0]})).json()["token"] for _ in range(2)]
    assert ahead[0] == ahead[1] != shown[0]


async def test_who_is_quarantined_is_told_and_gets_no_pair(page):
    open_round(page, many_tasks(2))
    browser = await page.signed_in()
    with page.database.write() as connection:
        connection.execute(update(annotators).values(is_quarantined=True))
    shown = await browser.get("/label")
    assert shown.status_code == 200
    assert 'class="pair"' not in shown.text
    assert "administrator" in shown.text
    assert (await browser.get("/api/next")).json()["kind"] == "quarantined"
    assert "under review" in (await browser.get("/")).text


async def test_nobody_sees_anything_without_signing_in(page):
    open_round(page, many_tasks(2))
    browser = page.browser()
    for path in ("/", "/label", "/guidelines", "/settings"):
        answer = await browser.get(path)
        assert (answer.status_code, answer.headers["location"].startswith("/sign-in")) == (303, True)
    for path in ("/api/next", "/api/progress", "/api/leases/x/difference", "/api/leases/x/raw/left"):
        assert (await browser.get(path)).status_code == 401
