"""The first tables of the queue, and the triggers that keep its audit log append-only."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_GOLD = sa.text("gold IS NOT NULL")
_SQLITE = """
CREATE TRIGGER events_keep_{deed} BEFORE {deed} ON events
BEGIN SELECT RAISE(ABORT, 'events are append-only'); END
"""
_POSTGRESQL = (
    """
CREATE FUNCTION rondo_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'events are append-only'; END $$
""",
    """
CREATE TRIGGER events_keep_rows BEFORE UPDATE OR DELETE ON events
FOR EACH ROW EXECUTE FUNCTION rondo_append_only()
""",
    """
CREATE TRIGGER events_keep_all BEFORE TRUNCATE ON events
FOR EACH STATEMENT EXECUTE FUNCTION rondo_append_only()
""",
)


def upgrade() -> None:
    _create_people()
    _create_rounds()
    _create_labels()
    _create_events()


def downgrade() -> None:
    raise NotImplementedError("labels are kept: restore a copy of the database instead")


def _create_people() -> None:
    op.create_table(
        "annotators",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("subject", sa.String(length=300), nullable=True),
        sa.Column("is_disabled", sa.Boolean(), nullable=False),
        sa.Column("is_quarantined", sa.Boolean(), nullable=False),
        sa.Column("gold_counts_from", sa.Float(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_annotators"),
        sa.UniqueConstraint("name", name="uq_annotators_name"),
        sa.UniqueConstraint("subject", name="uq_annotators_subject"),
    )
    op.create_table(
        "invitations",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("token_sha256", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_by", _ID, nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("used_at", sa.Float(), nullable=True),
        sa.Column("used_by", _ID, nullable=True),
        sa.ForeignKeyConstraint(["created_by"], ["annotators.id"], name="fk_invitations_created_by_annotators"),
        sa.ForeignKeyConstraint(["used_by"], ["annotators.id"], name="fk_invitations_used_by_annotators"),
        sa.PrimaryKeyConstraint("id", name="pk_invitations"),
        sa.UniqueConstraint("token_sha256", name="uq_invitations_token_sha256"),
    )
    op.create_table(
        "sessions",
        sa.Column("token_sha256", sa.String(length=64), nullable=False),
        sa.Column("annotator_id", _ID, nullable=False),
        sa.Column("csrf", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["annotator_id"], ["annotators.id"], name="fk_sessions_annotator_id_annotators"),
        sa.PrimaryKeyConstraint("token_sha256", name="pk_sessions"),
    )
    op.create_index("ix_sessions_annotator_id", "sessions", ["annotator_id"], unique=False)
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_secrets"),
    )


def _create_rounds() -> None:
    op.create_table(
        "rounds",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("purpose", sa.String(length=16), nullable=False),
        sa.Column("run_name", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("rules", sa.Text(), nullable=False),
        sa.Column("num_chunks", sa.Integer(), nullable=False),
        sa.Column("num_tasks", sa.Integer(), nullable=False),
        sa.Column("num_resolved", sa.Integer(), nullable=False),
        sa.Column("num_given_up", sa.Integer(), nullable=False),
        sa.Column("num_labels", sa.Integer(), nullable=False),
        sa.Column("num_late", sa.Integer(), nullable=False),
        sa.Column("opened_at", sa.Float(), nullable=False),
        sa.Column("deadline_at", sa.Float(), nullable=True),
        sa.Column("sealed_at", sa.Float(), nullable=True),
        sa.Column("sealed_by", sa.String(length=200), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("told_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_rounds"),
        sa.UniqueConstraint("run_id", "round_id", "purpose", name="uq_rounds_run_id_round_id_purpose"),
    )
    op.create_index("ix_rounds_state", "rounds", ["state"], unique=False)
    op.create_table(
        "chunks",
        sa.Column("round_row", _ID, nullable=False),
        sa.Column("chunk_id", sa.Integer(), nullable=False),
        sa.Column("num_tasks", sa.Integer(), nullable=False),
        sa.Column("keys_sha256", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["round_row"], ["rounds.id"], name="fk_chunks_round_row_rounds"),
        sa.PrimaryKeyConstraint("round_row", "chunk_id", name="pk_chunks"),
    )
    op.create_table(
        "tasks",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("public_id", sa.String(length=32), nullable=False),
        sa.Column("round_row", _ID, nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("prompt_id", sa.Text(), nullable=False),
        sa.Column("a", sa.Integer(), nullable=False),
        sa.Column("b", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Float(), nullable=False),
        sa.Column("gold", sa.String(length=8), nullable=True),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("labels_wanted", sa.Integer(), nullable=False),
        sa.Column("num_labels", sa.Integer(), nullable=False),
        sa.Column("num_skips", sa.Integer(), nullable=False),
        sa.Column("num_held", sa.Integer(), nullable=False),
        sa.Column("is_available", sa.Boolean(), nullable=False),
        sa.Column("outcome", sa.String(length=8), nullable=True),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("adjudicated_by", _ID, nullable=True),
        sa.Column("settled_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["adjudicated_by"], ["annotators.id"], name="fk_tasks_adjudicated_by_annotators"),
        sa.ForeignKeyConstraint(["round_row"], ["rounds.id"], name="fk_tasks_round_row_rounds"),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
        sa.UniqueConstraint("public_id", name="uq_tasks_public_id"),
        sa.UniqueConstraint("round_row", "key", name="uq_tasks_round_row_key"),
    )
    op.create_index(
        "ix_tasks_next", "tasks", ["round_row", "is_available", sa.text("priority DESC"), "id"], unique=False
    )
    op.create_index(
        "ix_tasks_gold", "tasks", ["round_row", "id"], unique=False, sqlite_where=_GOLD, postgresql_where=_GOLD
    )
    op.create_table(
        "payloads",
        sa.Column("task_row", _ID, autoincrement=False, nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["task_row"], ["tasks.id"], name="fk_payloads_task_row_tasks"),
        sa.PrimaryKeyConstraint("task_row", name="pk_payloads"),
    )


def _create_labels() -> None:
    op.create_table(
        "leases",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("task_row", _ID, nullable=False),
        sa.Column("annotator_id", _ID, nullable=False),
        sa.Column("swapped", sa.Boolean(), nullable=False),
        sa.Column("shown_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(["annotator_id"], ["annotators.id"], name="fk_leases_annotator_id_annotators"),
        sa.ForeignKeyConstraint(["task_row"], ["tasks.id"], name="fk_leases_task_row_tasks"),
        sa.PrimaryKeyConstraint("id", name="pk_leases"),
        sa.UniqueConstraint("token", name="uq_leases_token"),
    )
    op.create_index("ix_leases_annotator_id_state", "leases", ["annotator_id", "state"], unique=False)
    op.create_index("ix_leases_state_expires_at", "leases", ["state", "expires_at"], unique=False)
    op.create_index("ix_leases_task_row", "leases", ["task_row"], unique=False)
    op.create_table(
        "labels",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("task_row", _ID, nullable=False),
        sa.Column("annotator_id", _ID, nullable=False),
        sa.Column("lease_token", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=8), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("body_sha256", sa.String(length=64), nullable=False),
        sa.Column("swapped", sa.Boolean(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("submitted_at", sa.Float(), nullable=False),
        sa.Column("is_late", sa.Boolean(), nullable=False),
        sa.Column("is_counted", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["annotator_id"], ["annotators.id"], name="fk_labels_annotator_id_annotators"),
        sa.ForeignKeyConstraint(["task_row"], ["tasks.id"], name="fk_labels_task_row_tasks"),
        sa.PrimaryKeyConstraint("id", name="pk_labels"),
        sa.UniqueConstraint("lease_token", name="uq_labels_lease_token"),
        sa.UniqueConstraint("task_row", "annotator_id", name="uq_labels_task_row_annotator_id"),
    )
    op.create_index("ix_labels_annotator_id_submitted_at", "labels", ["annotator_id", "submitted_at"], unique=False)


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("action", sa.String(length=40), nullable=False),
        sa.Column("round_row", _ID, nullable=True),
        sa.Column("task_row", _ID, nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["round_row"], ["rounds.id"], name="fk_events_round_row_rounds"),
        sa.ForeignKeyConstraint(["task_row"], ["tasks.id"], name="fk_events_task_row_tasks"),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_index("ix_events_round_row", "events", ["round_row"], unique=False)
    if op.get_context().dialect.name == "sqlite":
        for deed in ("UPDATE", "DELETE"):
            op.execute(_SQLITE.format(deed=deed))
    else:
        for statement in _POSTGRESQL:
            op.execute(statement)
