"""The administration's pages: who gets in, what each deed does, and that nothing that people wrote acts in them."""

import html
import io
import json
import re
import shutil
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from sqlalchemy import func, select, update

from judge.human.accounts import Accounts
from judge.human.agreement import Agreement, PairAgreement
from judge.human.oversight import disagreements
from judge.human.page import administration
from judge.human.page.charts import bars, matrix
from judge.human.rounds import Rounds
from judge.human.schema import events, labels, leases, tasks
from judge.human.tasks import Tasks
from judge.human.types import NewTask, RoundKey, Rules, Submission
from tests.support.label_page import tiny_page

RULES = Rules(overlap=2, double_share=0.0, max_labels=3, min_dwell_s=0.0, labels_per_minute=1_000, deadline_s=600.0)
NASTY = "<script>alert(1)</script><img src=x onerror=alert(1)>"


class Administered:
    """A page with one filled round, two annotators, and an administrator's browser."""

    def __init__(self, page, row_id):
        self.page = page
        self.db = page.database
        self.row_id = row_id
        self.rounds = Rounds(page.database)

    @property
    def view(self):
        return self.rounds.view(self.row_id)

    def label(self, annotator_id, label, **more):
        """Draw a pair and say a, b, tie or both_bad about it; its public id."""
        lease = Tasks(self.db).draw(annotator_id, holding=1)
        with self.db.read() as connection:
            swapped = connection.execute(select(leases.c.swapped).where(leases.c.token == lease.token)).scalar_one()
        choice = {"a": "right" if swapped else "left", "b": "left" if swapped else "right"}.get(label, label)
        Tasks(self.db).submit(annotator_id, lease.token, Submission(choice=choice, **more))
        return lease.task_id

    def disagree(self):
        """One pair with a vote for each answer; its public id."""
        found = {self.label(self.ana, "a", comment=NASTY), self.label(self.ben, "b")}
        assert len(found) == 1
        return found.pop()

    def count(self, table, *where):
        with self.db.read() as connection:
            return connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one()

    async def read(self, path, status=200):
        answer = await self.boss.get(path)
        assert answer.status_code == status, (path, answer.status_code, answer.text)
        return answer.text

    async def post(self, path, status=303, **fields):
        answer = await self.boss.post(path, data=fields)
        assert answer.status_code == status, (path, answer.status_code, answer.text)
        return answer


@pytest.fixture
async def desk(tmp_path, template):
    shutil.copy(template, tmp_path / "queue.sqlite")
    page = tiny_page(tmp_path)
    rounds = Rounds(page.database)
    row_id = rounds.open(RoundKey(run_id="r" * 16, round_id=7), f"run {NASTY}", RULES, 1).row_id
    pairs = [
        NewTask(
            key=f"{number:064d}",
            prompt_id=f"p{number}",
            a=0,
            b=1,
            messages=({"role": "user", "content": f"Question {number} {NASTY}"},),
            text_a=f"first {NASTY}",
            text_b="second $x^2$",
            priority=-number,
        )
        for number in range(5)
    ]
    rounds.submit_chunk(row_id, 0, pairs)
    made = Administered(page, row_id)
    made.boss = await page.signed_in("Boss", "administrator")
    made.ana, made.ben = (page.accounts.add(name, "annotator", "correct horse").annotator_id for name in ("Ana", "Ben"))
    return made


async def every_page(desk, task_id=None):
    task_id = task_id or desk.disagree()
    paths = ["", "/annotators", "/invitations", "/events?every=true"]
    paths += [f"/rounds/{desk.row_id}{rest}" for rest in ("", "/seal", "/disagreements")] + [f"/tasks/{task_id}"]
    return {f"/admin{path}": await desk.read(f"/admin{path}") for path in paths}


async def test_every_route_is_for_administrators_alone(desk):
    task_id = desk.disagree()
    stranger, annotator = desk.page.browser(), await desk.page.signed_in("Eve")
    names = {"row_id": desk.row_id, "task_id": task_id, "annotator_id": desk.ana, "invitation_id": 1}
    names |= {"name": "labels.jsonl", "deed": "quarantine"}
    routes = [route for route in desk.page.app.routes if route.path.startswith("/admin")]
    assert len(routes) >= 14
    before = desk.count(events)
    for route in routes:
        path = route.path.format(**names)
        for method in route.methods - {"HEAD"}:
            fields = {"outcome": "a", "hours": "5", "role": "administrator", "days": "3"}
            refused = await annotator.request(method, path, data=fields if method == "POST" else None)
            assert refused.status_code == 403, (method, path)
            assert "Question" not in refused.text
            away = await stranger.request(method, path)
            assert away.status_code == 303
            assert away.headers["location"].startswith("/sign-in")
    assert desk.count(events) == before
    assert desk.view.state == "collecting"


async def test_a_deed_without_the_sessions_token_or_from_elsewhere_changes_nothing(desk):
    task_id = desk.disagree()
    paths = [f"/admin/rounds/{desk.row_id}/seal", f"/admin/tasks/{task_id}/outcome", "/admin/invitations"]
    paths += [f"/admin/annotators/{desk.ana}/quarantine", f"/admin/rounds/{desk.row_id}/deadline"]
    fields = {"outcome": "a", "hours": "5", "role": "administrator", "days": "3"}
    before = desk.count(events)
    for path in paths:
        for headers in ({"x-csrf-token": "wrong"}, {"origin": "https://evil.test"}, {"sec-fetch-site": "cross-site"}):
            answer = await desk.boss.post(path, data=fields, headers=headers)
            assert answer.status_code == 403, path
    assert desk.count(events) == before
    for text in (await every_page(desk, task_id)).values():
        for form in re.findall(r'<form method="post".*?</form>', text, re.DOTALL):
            assert re.search(r'name="csrf" value="[^"]{20,}"', form), form


async def test_pages_hold_no_script_or_style_of_their_own_and_escape_what_people_wrote(desk):
    for path, text in (await every_page(desk)).items():
        assert "<script>" not in text, path
        assert not re.search(r"<[^>]*\s(style|on\w+)\s*=", text), path
        assert "<img src=x" not in text, path
        for tag in re.findall(r"<script[^>]*>", text):
            assert re.search(r'src="/static/\w+\.js\?v=', tag), tag


async def test_every_table_has_a_caption_and_its_headers_say_what_they_head(desk):
    num_tables = 0
    for path, text in (await every_page(desk)).items():
        for table in re.findall(r"<table.*?</table>", text, re.DOTALL):
            num_tables += 1
            assert "<caption>" in table, path
            assert all("scope=" in tag for tag in re.findall(r"<th\b[^>]*>", table)), path
    assert num_tables >= 8


async def test_a_round_is_sealed_only_after_it_was_asked_once_more(desk):
    asked = await desk.read(f"/admin/rounds/{desk.row_id}/seal")
    assert "cannot be opened again" in asked
    assert desk.view.state == "collecting"
    await desk.post(f"/admin/rounds/{desk.row_id}/seal")
    assert (desk.view.state, desk.view.sealed_by) == ("sealed", "Boss")
    sealed = await desk.read(f"/admin/rounds/{desk.row_id}")
    assert desk.view.sha256 in sealed
    assert "Seal now" not in sealed
    assert (await desk.boss.get(f"/admin/rounds/{desk.row_id}/seal")).status_code == 303
    await desk.post(f"/admin/rounds/{desk.row_id}/deadline", status=410, hours=5)


async def test_the_deadline_moves_on_from_where_it_is(desk):
    before = desk.view.deadline_at
    await desk.post(f"/admin/rounds/{desk.row_id}/deadline", hours=2)
    assert desk.view.deadline_at == before + 7_200
    desk.page.clock.now = desk.view.deadline_at + 1_000
    await desk.boss.post("/sign-in", data={"name": "Boss", "password": "correct horse"})
    for hours in ("0", "-3", "nan", "1e9", "soon"):
        answer = await desk.boss.post(f"/admin/rounds/{desk.row_id}/deadline", data={"hours": hours})
        assert answer.status_code in {403, 422}, hours
    assert desk.view.deadline_at == before + 7_200


async def test_a_disagreement_is_decided_whatever_the_votes_are_and_taken_back(desk):
    task_id = desk.disagree()
    listed = await desk.read(f"/admin/rounds/{desk.row_id}/disagreements")
    assert f"/admin/tasks/{task_id}" in listed
    shown = await desk.read(f"/admin/tasks/{task_id}")
    assert "Ana" in shown
    assert "Ben" in shown
    assert "<math" in shown  # the same rendering as for annotators
    await desk.post(f"/admin/tasks/{task_id}/outcome", outcome="both_bad")
    (found,) = disagreements(desk.db, desk.row_id)
    assert (found.outcome, found.adjudicated_by) == ("both_bad", "Boss")
    assert desk.view.num_resolved == 1
    assert "decided by Boss" in await desk.read(f"/admin/rounds/{desk.row_id}/disagreements")
    await desk.post(f"/admin/tasks/{task_id}/outcome", outcome="votes")
    (found,) = disagreements(desk.db, desk.row_id)
    assert (found.outcome, found.adjudicated_by) == (None, None)
    await desk.post(f"/admin/tasks/{task_id}/outcome", status=422, outcome="whatever")
    await desk.post("/admin/tasks/0' OR 1=1 --/outcome", status=404, outcome="a")
    with desk.db.write() as connection:  # a pair without a disagreement has no page, although it exists
        other = connection.execute(select(tasks.c.public_id).where(tasks.c.public_id != task_id)).scalars().first()
    await desk.read(f"/admin/tasks/{other}", status=404)


async def test_in_a_sealed_round_nothing_is_decided(desk):
    task_id = desk.disagree()
    desk.rounds.seal(desk.row_id, "Boss")
    assert "nothing can be decided" in await desk.read(f"/admin/tasks/{task_id}")
    await desk.post(f"/admin/tasks/{task_id}/outcome", status=410, outcome="a")
    desk.rounds.verify(desk.row_id)


async def test_annotators_are_shown_with_their_work_and_changed(desk):
    for _ in range(4):
        desk.label(desk.ana, "a")
    with desk.db.write() as connection:  # as if all had been chosen on the left
        connection.execute(update(labels).values(swapped=False))
    row = re.search(r"<tr>\s*<th scope=\"row\">Ana.*?</tr>", await desk.read("/admin/annotators"), re.DOTALL)[0]
    assert "100 %" in row
    assert "leans" not in row  # four choices prove nothing
    people = {"quarantine": "quarantine", "lift": "active", "disable": "shut", "enable": "active"}
    for deed, state in people.items():
        await desk.post(f"/admin/annotators/{desk.ana}/{deed}")
        row = re.search(r"<th scope=\"row\">Ana.*?</tr>", await desk.read("/admin/annotators"), re.DOTALL)[0]
        assert re.search(rf'<span class="badge[^"]*">{state}</span>', row), deed
    await desk.post(f"/admin/annotators/{desk.ana}/administrator")
    assert {p.name: p.role for p in desk.page.accounts.people()}["Ana"] == "administrator"
    await desk.post(f"/admin/annotators/{desk.ana}/annotator")
    boss = next(person.annotator_id for person in desk.page.accounts.people() if person.name == "Boss")
    await desk.post(f"/admin/annotators/{boss}/annotator", status=409)  # the last administrator stays one
    await desk.post("/admin/annotators/999/quarantine", status=404)
    await desk.post(f"/admin/annotators/{desk.ana}/promote", status=422)


async def test_a_link_for_a_new_password_is_shown_once_and_works(desk):
    answer = await desk.post(f"/admin/annotators/{desk.ana}/password", status=200)
    token = re.search(r"/invitation/([\w-]+)", answer.text)[1]
    assert desk.page.accounts.invitation(token).name == "Ana"
    assert token not in await desk.read("/admin/annotators")


async def test_an_invitation_is_shown_once_listed_and_revoked(desk):
    answer = await desk.post("/admin/invitations", status=200, role="annotator", days="3", note=NASTY)
    token = re.search(r"http://page\.test/invitation/([\w-]+)", answer.text)[1]
    accounts: Accounts = desk.page.accounts
    assert accounts.invitation(token).role == "annotator"
    listed = await desk.read("/admin/invitations")
    assert token not in listed
    assert html.escape("<script>") in listed
    (row,) = accounts.invitations()
    await desk.post(f"/admin/invitations/{row.row_id}/revoke")
    assert (await desk.page.browser().get(f"/invitation/{token}")).status_code == 410
    await desk.post("/admin/invitations", status=422, role="owner", days="3")
    await desk.post("/admin/invitations", status=422, role="annotator", days="400")


async def test_the_audit_log_leaves_labels_out_until_they_are_asked_for(desk):
    desk.label(desk.ana, "a")
    few, every = await desk.read("/admin/events"), await desk.read("/admin/events?every=true")
    assert "account added" in few
    assert "label id" not in few
    assert "label id" in every
    assert "Show more" in await desk.read("/admin/events?num=2")
    await desk.read("/admin/events?num=100000", status=422)


async def test_tables_of_a_round_are_downloaded(desk):
    desk.disagree()
    for name in ("labels.jsonl", "labels.parquet", "pairs.jsonl", "pairs.parquet"):
        answer = await desk.boss.get(f"/admin/rounds/{desk.row_id}/export/{name}")
        assert answer.headers["content-disposition"].startswith("attachment")
        is_table = name.endswith("parquet")
        rows = pq.read_table(io.BytesIO(answer.content)).to_pylist() if is_table else answer.text.splitlines()
        assert len(rows) == (2 if name.startswith("labels") else 5)
        row = rows[0] if is_table else json.loads(rows[0])
        assert row["text_a"] == f"first {NASTY}"
    assert (await desk.boss.get(f"/admin/rounds/{desk.row_id}/export/..%2Fqueue.sqlite")).status_code == 404
    assert (await desk.boss.get("/admin/rounds/999/export/labels.jsonl")).status_code == 404


async def test_figures_of_a_round_are_those_of_the_queue(desk):
    desk.label(desk.ana, "a")
    desk.label(desk.ben, "a")
    text = await desk.read(f"/admin/rounds/{desk.row_id}")
    shown = dict(re.findall(r"<dt>(.*?)</dt><dd>([^<]*)", text))
    assert (shown["Settled"], shown["Still waiting"], shown["Given up"], shown["Labels"]) == ("1", "4", "0", "2")
    assert "2 labels in the last 60 minutes" in text
    assert "–</strong> Krippendorff" in text  # one pair with two labels says nothing
    await desk.read("/admin/rounds/999", status=404)


def test_bars_are_as_high_as_their_counts_and_nothing_is_drawn_for_none():
    chart = bars([0, 2, 4], 60.0)
    assert [bar.height for bar in chart.bars] == [67.0, 134.0]
    assert all(bar.y + bar.height == chart.base for bar in chart.bars)
    assert chart.summary == "6 labels in the last 3 minutes, 2.0 a minute; each column is 1 min"
    assert bars([0, 0], 60.0).bars == ()
    assert bars([], 60.0).highest == 1


def test_the_matrix_is_symmetric_and_shows_the_annotators_with_most_in_common():
    pair = PairAgreement(first=1, second=2, kappa=0.5, share=0.7, num_common=9)
    found = [pair, replace(pair, second=3, kappa=None, num_common=1), replace(pair, first=2, second=3, kappa=-0.25)]
    shown = matrix(Agreement(alpha=0.4, num_units=9, pairs=tuple(found)), {1: "Zoe", 2: "Ana", 3: "Ben"})
    assert shown.names == ("Ana", "Ben", "Zoe")
    cells = [[cell.kappa for cell in row] for row in shown.rows]
    assert cells == [["", "−0.25", "0.50"], ["−0.25", "", "–"], ["0.50", "–", ""]]
    many = tuple(replace(pair, second=other, num_common=other) for other in range(2, 22))
    crowd = matrix(Agreement(alpha=None, num_units=9, pairs=many), {n: f"n{n:02d}" for n in range(1, 22)})
    assert (len(crowd.names), crowd.num_left_out) == (12, 9)
    assert crowd.names[0] == "n01"
    assert crowd.names[-1] == "n21"


def test_a_range_of_gold_answers_is_wilsons():
    low, high = administration.administration_people._interval(9, 10, 0.95)
    assert (round(low, 3), round(high, 3)) == (0.596, 0.982)  # Wilson (1927), computed by hand
    assert administration.administration_people._interval(0, 0, 0.95) == (0.0, 1.0)
