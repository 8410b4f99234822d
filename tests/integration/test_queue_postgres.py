"""The queue on PostgreSQL: the same tests as on SQLite, and what a server can do that a file cannot."""

import threading
import time

import pytest
from sqlalchemy import event

from judge.human.database import Database
from judge.human.schema import labels, leases, tasks
from rollout.errors import InfraError, UsageError
from tests.people.test_queue_agreement import *  # noqa: F403
from tests.people.test_queue_database import *  # noqa: F403
from tests.people.test_queue_oversight import *  # noqa: F403
from tests.people.test_queue_races import *  # noqa: F403
from tests.people.test_queue_rounds import *  # noqa: F403
from tests.people.test_queue_tasks import *  # noqa: F403
from tests.people.test_queue_trust import *  # noqa: F403
from tests.support.postgres import postgres_bin, running_postgres
from tests.support.tiny_queue import LEFT, TinyQueue

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(postgres_bin() is None, reason="Debian's package postgresql is not installed"),
]

CHANGES = [("INSERT INTO", "labels"), ("INSERT INTO", "events")]
CHANGES += [("UPDATE", table) for table in ("leases", "tasks", "rounds")]


@pytest.fixture(scope="module")
def server():
    with running_postgres() as running:
        yield running


@pytest.fixture
def queue(server):
    made = TinyQueue(server.database())
    yield made
    made.database.close()


def test_two_processes_that_start_together_upgrade_once(server):
    url = server.database()
    found = []

    def upgrade():
        database = Database(url)
        try:
            database.upgrade()
            found.append(database.secret("x"))
        finally:
            database.close()

    threads = [threading.Thread(target=upgrade) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    assert len(set(found)) == 1


def test_the_next_pair_is_found_by_its_index_among_many(queue):
    queue.round(num=3000)
    queue.label(queue.ann)
    with queue.database.read() as connection:
        query = (
            "EXPLAIN SELECT free.id FROM tasks AS free WHERE free.round_row = 1 AND free.is_available = true AND NOT "
            "EXISTS (SELECT 1 FROM labels WHERE labels.task_row = free.id AND labels.annotator_id = 1) "
            "ORDER BY free.priority DESC, free.id LIMIT 1 FOR UPDATE OF free SKIP LOCKED"
        )
        plan = " ".join(row[0] for row in connection.exec_driver_sql(query))
    assert "ix_tasks_next" in plan
    assert "Sort" not in plan


def test_a_rehearsal_opens_all_connections_and_changes_nothing(server, queue):
    queue.round(num=1)
    engines = (queue.database.engine, queue.database._passing, queue.database._reading)
    for engine in engines:
        engine.dispose()
    queue.tasks.rehearse()
    assert [engine.pool.checkedin() for engine in engines] == [engine.pool.size() for engine in engines]
    assert queue.count(labels) == queue.count(leases) == 0
    assert queue.draw(queue.ann) is not None


def test_a_label_and_all_that_follows_from_it_are_one_statement(queue):
    queue.round(num=2)
    lease = queue.draw(queue.ann)
    changes = []
    event.listen(queue.database.engine, "before_cursor_execute", lambda *given: changes.append(given[2]))
    queue.tasks.submit(queue.ann, lease.token, LEFT)
    writing = [text for text in changes if not text.startswith("SELECT")]
    assert len(writing) == 1
    assert [writing[0].count(f"{verb} {table}") for verb, table in CHANGES] == [1] * len(CHANGES)


def test_an_outage_is_an_infra_error_and_afterwards_all_goes_on(server, queue):
    row_id = queue.round(num=2)
    queue.label(queue.ann)
    lease = queue.draw(queue.ann)
    server.stop()
    try:
        with pytest.raises(InfraError, match="gave no answer"):
            queue.tasks.submit(queue.ann, lease.token, LEFT)
        with pytest.raises(UsageError, match="cannot be used"):
            queue.database.check()
    finally:
        server.start()
    assert queue.tasks.submit(queue.ann, lease.token, LEFT).is_round_sealed
    assert queue.count(labels) == 2
    queue.rounds.verify(row_id)


def test_a_short_outage_is_waited_for(server, queue):
    queue.round(num=2)
    lease = queue.draw(queue.ann)
    server.stop()
    restart = threading.Timer(0.3, server.start)
    restart.start()
    begun = time.monotonic()
    try:
        receipt = None
        while receipt is None and time.monotonic() - begun < 60:
            try:
                receipt = queue.tasks.submit(queue.ann, lease.token, LEFT)
            except InfraError:
                time.sleep(0.2)  # what a browser does
    finally:
        restart.join()
    assert receipt is not None
    assert queue.count(labels) == 1
    assert queue.count(tasks, tasks.c.outcome.is_not(None)) == 1
