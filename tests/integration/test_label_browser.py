"""The labelling page in a real browser: what annotators do, with the keyboard alone, and what goes wrong meanwhile."""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from sqlalchemy import select

from judge.human.database import Database
from judge.human.rounds import Rounds
from judge.human.schema import labels
from tests.support.label_desk import (
    CHROMIUM,
    OUTPUT,
    RUN_NAME,
    Visit,
    add_person,
    open_queue,
    open_round,
    served,
)
from tests.support.label_pairs import HOSTILE, many_tasks

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def queue(tmp_path: Path, browser: Browser) -> Iterator[Database]:
    database = open_queue(tmp_path)
    add_person(database)
    yield database
    for context in browser.contexts:
        context.close()


def stored(queue: Database) -> list[dict]:
    with queue.read() as connection:
        rows = connection.execute(select(labels).order_by(labels.c.id)).mappings().all()
    return [dict(row) | json.loads(row["body"]) for row in rows]


def as_shown(row: dict) -> str:
    sides = {"a": "right", "b": "left"} if row["swapped"] else {"a": "left", "b": "right"}
    return sides.get(row["label"], row["label"])


def test_twenty_pairs_are_labelled_with_the_keyboard_alone(browser, queue):
    open_round(queue, many_tasks(30))
    with served(queue) as address:
        visit = Visit(browser, address).sign_in()
        visit.page.get_by_role("link", name="Start labelling").focus()
        with visit.page.expect_response(lambda response: "/api/next" in response.url):
            visit.page.keyboard.press("Enter")
        keys = ["1", "2", "3", "4", "Shift+1"] * 4
        tokens = [visit.label(key) for key in keys]
        visit.sent()
        times = visit.page.evaluate("performance.getEntriesByName('label-to-next-pair').map(one => one.duration)")
        visit.keep("after-twenty")

        rows = {row["lease_token"]: row for row in stored(queue)}
        assert list(rows) == tokens
        meant = {"1": "left", "2": "right", "3": "tie", "4": "both_bad", "Shift+1": "left"}
        assert [as_shown(rows[token]) for token in tokens] == [meant[key] for key in keys]
        assert [rows[token]["strength"] for token in tokens] == [
            "clearly" if key == "Shift+1" else None for key in keys
        ]
        assert {row["swapped"] for row in rows.values()} == {True, False}
        assert len(times) == 20
        figures = {"num": 20, "median_ms": statistics.median(times), "most_ms": max(times)}
        (OUTPUT / "label-to-next-pair.json").write_text(json.dumps(figures))
        assert figures["median_ms"] < 100, figures
        assert all(url.startswith(address) for url in visit.requested)
        assert visit.problems == []


def test_undo_brings_the_pair_back_with_the_former_label_and_takes_another(browser, queue):
    open_round(queue, many_tasks(6))
    with served(queue) as address:
        visit = Visit(browser, address).sign_in().desk()
        text = visit.page.locator('[data-side="left"] .prose').inner_text()
        visit.page.get_by_label("Comment").fill("a remark")
        visit.page.keyboard.press("Escape")
        visit.label("Shift+2")
        waiting = visit.token()
        visit.sent()
        visit.press("u")
        expect(visit.page.locator("#asks")).to_contain_text("Undone")
        assert visit.page.locator('[data-side="left"] .prose').inner_text() == text
        expect(visit.page.locator("[data-choice=right]")).to_have_attribute("aria-pressed", "true")
        expect(visit.page.get_by_label("Comment")).to_have_value("a remark")
        expect(visit.page.get_by_label("clearly")).to_be_checked()
        assert stored(queue) == []
        visit.keep("undone")
        visit.label("3")
        assert visit.token() == waiting
        visit.sent()
        assert [row["label"] for row in stored(queue)] == ["tie"]
        visit.page.reload()
        visit.page.locator(".pair").wait_for()
        assert visit.token() == waiting, "a reload shows the same pair"
        visit.press("u")  # also what was labelled before the reload
        expect(visit.page.locator("#asks")).to_contain_text("Undone")
        assert stored(queue) == []


def test_a_skip_asks_for_its_reason_and_takes_keys(browser, queue):
    open_round(queue, many_tasks(6))
    with served(queue) as address:
        visit = Visit(browser, address).sign_in().desk()
        visit.press("s")
        dialog = visit.page.get_by_role("dialog")
        expect(dialog.get_by_role("button", name="Skip the pair")).to_be_disabled()
        visit.keep("skip")
        visit.press("Escape")
        expect(dialog).to_be_hidden()
        visit.press("s")
        visit.press("2")
        visit.label("Enter")
        visit.press("s")
        visit.press("5")
        visit.page.keyboard.type("1 2 3: it is about me")
        visit.label("Enter")
        visit.sent()
        rows = stored(queue)
        assert [row["label"] for row in rows] == ["skip", "skip"]
        assert [row["reason"] for row in rows] == ["I do not read this language well", "1 2 3: it is about me"]


def test_differences_and_source_are_a_key_away(browser, queue):
    open_round(queue, many_tasks(7)[4:])
    with served(queue) as address:
        visit = Visit(browser, address).sign_in().desk()
        visit.press("d")
        left = visit.page.locator('[data-side="left"] [data-view="difference"]')
        expect(left).to_be_visible()
        assert {"ducks", "gulls"} & set(left.locator("del").all_inner_texts())
        expect(visit.page.locator('[data-side="left"] [data-view="rendered"]')).to_be_hidden()
        visit.keep("differences")
        visit.press("d")
        expect(left).to_be_hidden()
        visit.press("r")
        expect(visit.page.locator('[data-side="right"] .source')).to_contain_text("**1.** The river")
        assert visit.problems == []


def test_keys_do_not_label_while_one_types_or_when_they_are_off_or_moved(browser, queue):
    open_round(queue, many_tasks(6))
    with served(queue) as address:
        visit = Visit(browser, address).sign_in().desk()
        first = visit.token()
        visit.page.get_by_label("Comment").click()
        visit.page.keyboard.type("1234sud")
        assert visit.token() == first
        expect(visit.page.get_by_label("Comment")).to_have_value("1234sud")

        visit.page.goto(f"{address}/settings")
        visit.page.get_by_label("The left answer is better").fill("2")
        visit.page.get_by_role("button", name="Save").click()
        expect(visit.page.get_by_role("alert")).to_contain_text("two actions")
        visit.page.get_by_label("The left answer is better").fill("f")
        visit.page.get_by_role("button", name="Save").click()
        visit.desk()
        visit.press("1")
        assert visit.token() == first
        visit.label("f")

        visit.page.goto(f"{address}/settings")
        visit.page.get_by_label("Use single keys").uncheck()
        visit.page.get_by_role("button", name="Save").click()
        visit.desk()
        second = visit.token()
        for key in ("f", "2", "3", "4"):
            visit.press(key)
        assert visit.token() == second
        visit.page.get_by_role("button", name="Equally good").focus()
        visit.label("Enter")
        visit.sent()
        assert [as_shown(row) for row in stored(queue)] == ["left", "tie"]


def test_a_round_that_seals_under_ones_hands_gives_way_to_the_next(browser, queue):
    row = open_round(queue, many_tasks(4), round_id=7)
    with served(queue) as address:
        visit = Visit(browser, address).sign_in().desk()
        open_round(queue, many_tasks(9)[5:], round_id=8)
        sealed = Rounds(queue).seal(row, "somebody")
        visit.press("1")
        expect(visit.page.locator("#notice")).to_contain_text("kept as late")
        expect(visit.page.locator(".prompt .aside")).to_have_text("Round 8")
        visit.keep("sealed")
        assert [label["is_late"] for label in stored(queue)] == [True]
        assert Rounds(queue).view(row).sha256 == sealed.sha256
        Rounds(queue).verify(row)
        visit.label("2")
        visit.sent()
        assert [label["is_late"] for label in stored(queue)] == [True, False]


def test_a_label_is_kept_while_the_server_is_away_and_stored_once(browser, queue):
    open_round(queue, many_tasks(6))
    with served(queue) as address:
        visit = Visit(browser, address).sign_in().desk()
        visit.context.set_offline(True)
        token = visit.label("1")
        expect(visit.page.locator("#unsent")).to_be_visible()
        expect(visit.page.locator("#unsent")).to_contain_text("1 label not sent yet")
        visit.keep("offline")
        visit.context.set_offline(False)
        visit.sent()
        expect(visit.page.locator("#unsent")).to_be_hidden()
        assert [row["lease_token"] for row in stored(queue)] == [token]

        # The answer to a label gets lost on its way: it is sent again, and stored once.
        lost = []
        visit.page.route("**/api/labels/*", lambda route: (lost.append(route.fetch().status), route.abort()))
        second = visit.label("2")
        expect(visit.page.locator("#unsent")).to_be_visible()
        assert lost[0] == 200
        visit.page.unroute_all(behavior="ignoreErrors")
        visit.sent()

        # The window is closed before a label could be sent: the next visit sends it.
        visit.page.route("**/api/labels/*", lambda route: route.abort())
        third = visit.label("3")
        expect(visit.page.locator("#unsent")).to_be_visible()
        visit.page.on("dialog", lambda dialog: dialog.accept())
        visit.page.unroute_all(behavior="ignoreErrors")
        visit.page.close()
        assert [row["lease_token"] for row in stored(queue)] == [token, second]
        visit.page = visit.context.new_page()
        visit.desk()
        visit.sent()
        assert [row["lease_token"] for row in stored(queue)] == [token, second, third]


def test_hostile_answers_do_nothing_and_their_source_shows_every_byte(browser, queue):
    open_round(queue, [many_tasks(7)[6]])
    with served(queue) as address:
        visit = Visit(browser, address).sign_in()
        visit.page.goto(f"{address}/label")
        visit.page.locator(".pair").wait_for()
        hostile = visit.page.locator(".answer").filter(has_text="window.pwned")
        side = hostile.get_attribute("data-side")
        visit.page.keyboard.press("d")
        visit.page.wait_for_timeout(300)
        visit.page.keyboard.press("r")
        source = hostile.locator(".source")
        expect(source).to_contain_text('<img src="http://remote.invalid/x.png" onerror=')
        for mark in ("U+202E", "U+200B", "U+0000"):
            expect(source).to_contain_text(mark)
        visit.keep("hostile")
        raw = visit.page.evaluate(
            "async ([token, side]) => (await fetch(`/api/leases/${token}/raw/${side}`)).text()", [visit.token(), side]
        )
        assert raw == HOSTILE.replace("\ud800", "\\ud800")
        assert visit.page.evaluate("window.pwned") is None
        assert visit.page.locator(".pair :is(script, style, img, iframe, svg, form, input, object)").count() == 0
        assert all(url.startswith(address) for url in visit.requested), visit.requested
        assert visit.problems == []
        everything = visit.page.content()
        for hidden in (RUN_NAME, "run-4f1d0c", "pair-00", "prompt-6", "rounds/0007", "function:"):
            assert hidden not in everything


def test_the_questions_of_a_round_are_answered_by_key_before_the_label_goes(browser, queue):
    criteria = (("truth", "Which answer is more truthful?"), ("style", "Which answer is better written?"))
    open_round(queue, many_tasks(4), criteria=criteria)
    with served(queue) as address:
        visit = Visit(browser, address).sign_in().desk()
        visit.press("2")
        expect(visit.page.locator("#asks")).to_contain_text("Question 1 of 2: Which answer is more truthful?")
        visit.keep("questions")
        visit.press("1")
        visit.label("3")
        visit.sent()
        (row,) = stored(queue)
        across = (
            {"a": "right", "b": "left", "tie": "tie"} if row["swapped"] else {"a": "left", "b": "right", "tie": "tie"}
        )
        assert as_shown(row) == "right"
        assert {name: across[value] for name, value in row["criteria"].items()} == {"truth": "left", "style": "tie"}


def test_the_colours_follow_the_system_and_the_button_and_stay(browser, queue):
    open_round(queue, many_tasks(3))
    background = "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)[0] < 60"
    with served(queue) as address:
        assert Visit(browser, address, color_scheme="dark").sign_in().desk().page.evaluate(background)
        visit = Visit(browser, address, color_scheme="light").sign_in().desk()
        assert not visit.page.evaluate(background)
        for _ in range(2):
            visit.page.locator("[data-theme-toggle]").click()
        assert visit.page.evaluate(background)
        visit.desk()
        assert visit.page.evaluate(background)


@pytest.mark.parametrize(("width", "height"), [(320, 640), (375, 740), (768, 1024), (1920, 1080)])
def test_nothing_needs_sideways_scrolling_and_targets_are_large(browser, queue, width, height):
    open_round(queue, many_tasks(12), criteria=(("truth", "Which answer is more truthful?"),))
    with served(queue) as address:
        visit = Visit(browser, address, width=width, height=height).sign_in()
        for path in ("/", "/guidelines", "/settings", "/label"):
            visit.page.goto(f"{address}{path}")
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= width, path
            small = visit.page.evaluate(
                """() => [...document.querySelectorAll('main button, main input, main textarea, .bar a, .bar button')]
                .map(one => [one.textContent.trim(), one.closest('label') || one])
                .map(([text, one]) => [text, one.getBoundingClientRect()])
                .filter(([, box]) => box.width && (box.width < 24 || box.height < 24)).map(([text]) => text)"""
            )
            assert small == [], path
        for index in range(7):
            visit.keep(f"{width}-{index}")
            visit.page.locator(".vote-skip").click()
            visit.page.get_by_text("I would rather not read this").click()
            visit.page.get_by_role("button", name="Skip the pair").click()
            visit.page.wait_for_timeout(400)
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
