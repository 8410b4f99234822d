"""Labels leave and enter a queue on PostgreSQL as on SQLite, and its metrics and figures are read there, too."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from judge.human.database import Database
from judge.human.formats import export_round, import_labels
from judge.human.formats_rows import labelled_pairs
from judge.human.oversight import events_of
from judge.human.page.metrics import QueueCollector
from judge.human.rounds import Rounds
from judge.human.types import RoundKey, Rules
from tests.support.postgres import postgres_bin, running_postgres
from tests.support.tiny_queue import a_task

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(postgres_bin() is None, reason="Debian's postgresql is not installed"),
]
USERS = {"ada": "11111111-1111-4111-8111-111111111111"}
PLACES = {"jsonl": "labels.jsonl", "parquet": "labels.parquet", "label_studio": "studio", "argilla": "argilla"}


@pytest.fixture(scope="module")
def server():
    with running_postgres() as running:
        yield running


def new_queue(server):
    db = Database(server.database(), clock=lambda: 1_000.0)
    db.upgrade()
    rounds = Rounds(db)
    row_id = rounds.open(RoundKey(run_id="run", round_id=0), "tiny", Rules(double_share=0.0), 1).row_id
    rounds.submit_chunk(row_id, 0, [a_task(f"t{number}", text_a="NUL \x00 and \ud800") for number in range(600)])
    return db, row_id


def labels_in(db, row_id):
    return {pair.key: [(n.annotator, n.given.label) for n in pair.labels] for pair in labelled_pairs(db, row_id)}


def test_six_hundred_labels_come_in_leave_and_come_back(server, tmp_path):
    db, row_id = new_queue(server)
    lines = [f'{{"key": "t{n}", "label": "{"ab"[n % 2]}", "annotator": "ada"}}' for n in range(600)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    assert import_labels(db, row_id, tmp_path / "in.jsonl", "jsonl", by="ada").num_labels == 600
    assert Rounds(db).view(row_id).sealed_by == "quorum"
    before = labels_in(db, row_id)
    assert len(before) == 600
    for format, place in PLACES.items():
        export_round(db, row_id, tmp_path / place, format, users=USERS)
        other, other_row = new_queue(server)
        assert import_labels(other, other_row, tmp_path / place, format, by="ada", users=USERS).num_labels == 600
        assert labels_in(other, other_row) == before
        again = import_labels(other, other_row, tmp_path / place, format, by="ada", users=USERS)
        assert dict(again.num_refused) == {"already_labelled": 600}
        other.close()
    registry = CollectorRegistry()
    registry.register(QueueCollector(db))
    text = generate_latest(registry).decode()
    assert 'rondo_rounds{state="sealed"} 1.0' in text
    assert 'rondo_labels{label="a"} 300.0' in text
    assert [event.action for event in events_of(db, row_id, 2, leaving_out=("import",))] == ["seal", "chunk"]
    db.close()
