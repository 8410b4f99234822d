"""The database: one schema on both kinds, errors in one line, commits that are shared and never half done."""

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import delete, event, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from judge.human.database import Database, TryAgain
from judge.human.errors import Invalid
from judge.human.events import write_event
from judge.human.schema import events, metadata, secrets
from rollout.errors import InfraError, UsageError
from tests.support.tiny_queue import a_task


def differences(connection):
    """Between the tables there are and those of the schema; of ix_tasks_next, Alembic cannot read the order."""
    options = {"version_table": "rondo_schema", "compare_type": True, "compare_server_default": True}
    options["include_object"] = lambda _object, name, *_more: name != "ix_tasks_next"
    return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)


def test_the_migrations_make_the_tables_of_the_schema(queue):
    with queue.database.read() as connection:
        assert differences(connection) == []
    queue.database.upgrade()


def test_a_table_that_differs_from_the_schema_is_seen(queue):
    with queue.database.write() as connection:
        connection.execute(text("DROP INDEX ix_leases_task_row"))
        connection.execute(text("ALTER TABLE tasks ADD COLUMN more INTEGER"))
        found = differences(connection)
    assert sorted(step[0] for step in found) == ["add_index", "remove_column"]


def test_every_statement_of_a_draw_a_label_and_an_undo_goes_by_an_index(queue):
    if not queue.database.is_sqlite:
        pytest.skip("PostgreSQL reads tables as small as these from end to end, and is right")
    row_id = queue.round(
        *(a_task(f"g{index}", gold="a") for index in range(9)), a_task("x"), a_task("y"), gold_share=0.5
    )
    said = []
    event.listen(queue.database.engine, "before_cursor_execute", lambda *call: said.append(call[2:4]))
    for who in (queue.ann, queue.ben):
        queue.tasks.undo(who, queue.label(who).label_id)
    queue.clock.now += 10_000
    queue.tasks.draw(queue.cem)
    assert queue.view(row_id).num_tasks == 2
    plans = {}
    with queue.database.read() as connection:
        for statement, parameters in [one for one in said if one[0].split()[0] in {"SELECT", "UPDATE", "DELETE"}]:
            given = parameters[0] if isinstance(parameters, list) else parameters
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)
            plans[statement] = [row[3] for row in rows]
    assert len(plans) > 15
    for statement, steps in plans.items():
        assert not [step for step in steps if step.startswith("SCAN") and "CONSTANT" not in step], (statement, steps)
        if statement.startswith("UPDATE tasks") and "LIMIT" in statement:
            assert "ix_tasks_next" in " ".join(steps), (statement, steps)
            assert not [step for step in steps if "TEMP B-TREE" in step], (statement, steps)


def test_events_are_append_only(queue):
    with queue.database.write() as connection:
        write_event(connection, actor="boss", action="note", text="\x00\ud800")
    for wrong in (update(events).values(actor="x"), delete(events)):
        with pytest.raises(DBAPIError, match="append-only"), queue.database.write() as connection:
            connection.execute(wrong)
    assert queue.count(events, events.c.actor == "boss") == 1


def test_a_secret_is_drawn_once(queue):
    first = queue.database.secret("one")
    assert (queue.database.secret("one"), len(first)) == (first, 32)
    assert queue.database.secret("other") != first


def test_a_newer_schema_is_a_usage_error(queue):
    with queue.database.write() as connection:
        connection.execute(text("UPDATE rondo_schema SET version_num = 'zz'"))
    for deed in (queue.database.check, queue.database.upgrade):
        with pytest.raises(UsageError, match=r"has schema zz.*use the newer version"):
            deed()


@pytest.mark.parametrize(
    "url", ["", "nonsense", "mysql://x/y", "sqlite://", "sqlite:///:memory:", "postgresql+nothing", "http://x"]
)
def test_an_address_that_is_none_is_a_usage_error(url):
    with pytest.raises(UsageError, match="sqlite:///path or postgresql://"):
        Database(url)


def test_a_database_out_of_reach_is_a_usage_error_in_one_line(tmp_path):
    (tmp_path / "text").write_text("this is a letter, and no database at all. " * 100)
    for url in (f"sqlite:///{tmp_path}/text", "postgresql://nobody:hidden@127.0.0.1:1/x", f"sqlite:///{tmp_path}"):
        with pytest.raises(UsageError) as error:
            Database(url).check()
        assert "cannot be used" in str(error.value)
        assert "\n" not in str(error.value)
        assert "hidden" not in str(error.value)


def test_a_database_that_does_not_exist_is_made_with_its_folder(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/runs/labels/queue.sqlite")
    database.check()
    assert not (tmp_path / "runs").exists()
    database.upgrade()
    assert database.secret("x")
    with database.read() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2


def test_a_deed_that_fails_leaves_nothing_and_one_that_must_wait_is_tried_again(queue):
    attempts = []

    def deed(connection):
        connection.execute(insert(secrets), {"name": f"n{len(attempts)}", "value": ""})
        attempts.append(1)
        if len(attempts) < 3:
            raise TryAgain("not yet")
        return len(attempts)

    assert queue.database.transact(deed) == 3
    assert queue.count(secrets, secrets.c.name.like("n%")) == 1
    with pytest.raises(Invalid):
        queue.database.transact(lambda connection: (deed(connection), (_ for _ in ()).throw(Invalid("no"))))
    assert queue.count(secrets, secrets.c.name.like("n%")) == 1


def test_what_never_succeeds_ends_as_an_infra_error(queue):
    def deed(connection):
        raise TryAgain("never")

    with pytest.raises(InfraError, match="never; nothing was changed"):
        queue.database.transact(deed)


def crowd(database, deeds):
    """Let deeds wait behind a writer, so that they come in one batch; what each returned or raised."""
    found = [None] * len(deeds)

    def run(index):
        try:
            found[index] = database.transact(deeds[index])
        except Exception as error:
            found[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(deeds))]
    with database.write():
        for thread in threads:
            thread.start()
            thread.join(0.05)
    for thread in threads:
        thread.join(30)
    return found


def put(name):
    def deed(connection):
        connection.execute(insert(secrets), {"name": name, "value": ""})
        return threading.get_ident()

    return deed


def test_writers_that_wait_share_a_commit_in_their_order(queue):
    runners = crowd(queue.database, [put(f"n{index}") for index in range(6)])
    if queue.database.is_sqlite:
        assert len(set(runners)) == 1, "the first runs all"
    with queue.database.read() as connection:
        assert len(connection.execute(select(secrets.c.name).where(secrets.c.name.like("n%"))).all()) == 6


def test_one_refusal_in_a_shared_commit_undoes_itself_alone(queue):
    def refused(connection):
        put("refused")(connection)
        raise Invalid("no")

    found = crowd(queue.database, [put("one"), refused, put("two")])
    assert isinstance(found[1], Invalid)
    with queue.database.read() as connection:
        assert set(connection.execute(select(secrets.c.name)).scalars()) == {"sides", "one", "two"}


def test_an_error_in_a_shared_commit_loses_nobody_elses_deed(queue):
    def broken(connection):
        put("broken")(connection)
        put("broken")(connection)

    def crashed(connection):
        raise ZeroDivisionError

    found = crowd(queue.database, [broken, put("one"), crashed, put("two")])
    assert isinstance(found[0], DBAPIError)
    assert isinstance(found[2], ZeroDivisionError)
    with queue.database.read() as connection:
        assert set(connection.execute(select(secrets.c.name)).scalars()) == {"sides", "one", "two"}
