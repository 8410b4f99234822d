"""axe-core on every page of labelling and in every state of it: light and dark, phone and desk."""

from collections.abc import Iterator
from pathlib import Path

import axe_core_python
import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.support.label_desk import CHROMIUM, Visit, add_person, open_queue, open_round, served
from tests.support.label_pairs import many_tasks

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]
AXE = Path(axe_core_python.__file__).parent / "axe.min.js"
GUIDELINES = "# How to judge\n\nPrefer what is **correct**.\n\n### Ties\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


def violations(visit: Visit, state: str) -> list[str]:
    """axe's findings. What hides behind the bar at the lower edge is brought up by scrolling: it is no finding."""
    visit.page.wait_for_timeout(200)
    found = visit.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{state}: {rule['id']}: {node['html'][:160]} {node['failureSummary'][:200]}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(375, 740), (1280, 900)])
def test_axe_finds_nothing_on_any_page_in_any_state(browser, tmp_path, scheme, width, height):
    queue = open_queue(tmp_path)
    add_person(queue)
    open_round(queue, many_tasks(8), guidelines=GUIDELINES, criteria=(("truth", "Which answer is more truthful?"),))
    options = {"width": width, "height": height, "color_scheme": scheme, "bypass_csp": True}
    with served(queue) as address:
        visit = Visit(browser, address, **options)
        visit.context.add_init_script(path=AXE)
        visit.page.goto(f"{address}/sign-in")
        found = violations(visit, "sign-in")
        visit.sign_in()
        for path in ("/", "/guidelines", "/settings", "/no-such-page"):
            visit.page.goto(f"{address}{path}")
            found += violations(visit, path)
            visit.keep(f"{scheme}-{width}-{path.strip('/') or 'home'}")
        visit.desk()
        for index in range(8):
            found += violations(visit, f"pair {index}")
            visit.keep(f"{scheme}-{width}-pair-{index}")
            for key, state in (("d", "differences"), ("r", "source"), ("r", "rendered"), ("?", "keys"), ("Escape", "")):
                visit.press(key)
                if state and index < 2:
                    found += violations(visit, f"pair {index}, {state}")
            if index == 1:
                visit.page.locator(".tools [data-action=guidelines]").click()
                found += violations(visit, "guidelines beside the pair")
                visit.page.locator(".guidelines [data-action=guidelines]").click()
                visit.press("s")
                found += violations(visit, "skip")
                visit.press("Escape")
            visit.press("1")
            found += violations(visit, f"question {index}")
            visit.press("3")
            visit.page.wait_for_timeout(300)
        visit.page.locator("[data-state=empty]").wait_for()
        found += violations(visit, "nothing to label")
        visit.keep(f"{scheme}-{width}-empty")
        assert found == []
