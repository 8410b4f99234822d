"""GET /metrics: who may read it, that its figures are the queue's, and that it tells no name and no text."""

import re
import shutil

import pytest
from prometheus_client.parser import text_string_to_metric_families

from judge.human.page.metrics import TOKEN_ENV
from judge.human.rounds import Rounds
from judge.human.types import NewTask, RoundKey, Rules
from tests.support.label_page import tiny_page

NOTHING = frozenset()
RULES = Rules(overlap=1, double_share=0.0, min_dwell_s=0.0, deadline_s=600.0)


def fill(page, num_pairs=4, num_gold=1):
    rounds = Rounds(page.database)
    row_id = rounds.open(RoundKey(run_id="r" * 16, round_id=0), "secret-run", RULES, 1).row_id
    pairs = [
        NewTask(
            key=f"{number:064d}",
            prompt_id=f"p{number}",
            a=0,
            b=1,
            messages=({"role": "user", "content": "secret prompt"},),
            text_a="one",
            text_b="two",
            gold="a" if number < num_gold else None,
        )
        for number in range(num_pairs + num_gold)
    ]
    rounds.submit_chunk(row_id, 0, pairs)
    return row_id


async def read(browser, **headers):
    answer = await browser.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found[sample.name, frozenset(sample.labels.values())] = sample.value
    return found, answer.text


@pytest.fixture
def page(tmp_path, template):
    shutil.copy(template, tmp_path / "queue.sqlite")
    return tiny_page(tmp_path)


async def label_one(browser, choice="left"):
    html = (await browser.get("/api/next")).text
    token = re.search(r'data-token=\\"([^\\"]+)\\"', html)[1]
    return token, await browser.post(f"/api/labels/{token}", json={"choice": choice})


async def test_administrators_and_the_bearer_of_the_token_read_metrics(page, monkeypatch):
    monkeypatch.setenv(TOKEN_ENV, "scrape me")
    boss = await page.signed_in("Boss", "administrator")
    await read(boss)
    await read(page.browser(), authorization="Bearer scrape me")


async def test_nobody_else_reads_metrics(page, monkeypatch):
    stranger, annotator = page.browser(), await page.signed_in("Ana")
    for browser in (stranger, annotator):
        assert (await browser.get("/metrics")).status_code == 403
        monkeypatch.setenv(TOKEN_ENV, "scrape me")
        for sent in ("Bearer scrape", "Bearer scrape me too", "Basic scrape me", "Bearer ", "scrape me"):
            assert (await browser.get("/metrics", headers={"authorization": sent})).status_code == 403, sent
        monkeypatch.delenv(TOKEN_ENV)
        assert (await browser.get("/metrics", headers={"authorization": "Bearer "})).status_code == 403


async def test_figures_are_those_of_the_queue(page):
    boss = await page.signed_in("Boss", "administrator")
    found, _ = await read(boss)
    assert found["rondo_backlog_pairs", NOTHING] == 0
    fill(page)
    ana = await page.signed_in("Ana")
    _, answer = await label_one(ana)
    assert answer.status_code == 200, answer.text
    page.clock.now += 100
    found, text = await read(boss)
    assert found["rondo_rounds", frozenset({"collecting"})] == 1
    places = {"0", "pairs", "r" * 16}
    waiting, resolved = (found["rondo_round_pairs", frozenset({state, *places})] for state in ("waiting", "resolved"))
    assert waiting + resolved == 4
    assert found["rondo_round_deadline_seconds", frozenset(places)] == 500
    assert sum(value for (name, _), value in found.items() if name == "rondo_labels") == 1
    assert found["rondo_annotators", frozenset({"active"})] == 2
    assert found["rondo_submission_seconds_count", NOTHING] == 1
    assert found["rondo_submission_seconds_bucket", frozenset({"+Inf"})] == 1
    for word in ("Ana", "Boss", "secret"):
        assert word not in text


async def test_refusals_are_counted_by_reason(page):
    boss = await page.signed_in("Boss", "administrator")
    fill(page)
    ana = await page.signed_in("Ana")
    token, answer = await label_one(ana)
    assert answer.status_code == 200
    again = await ana.post(f"/api/labels/{token}", json={"choice": "right"})
    assert again.status_code == 409
    assert (await ana.post("/api/labels/nonsense", json={"choice": "right"})).status_code == 404
    assert (await ana.post(f"/api/labels/{token}", json={"choice": "up"})).status_code == 422
    found, _ = await read(boss)
    by_reason = {next(iter(labels)): value for (name, labels), value in found.items() if name == "rondo_refusals_total"}
    assert by_reason == {"conflict": 1, "unknown_lease": 1, "invalid": 1}
    assert found["rondo_submission_seconds_count", NOTHING] == 4
