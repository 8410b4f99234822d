"""The tables of the queue, for SQLite and PostgreSQL alike.

Times are seconds since the epoch. Whatever people or models wrote is stored as ASCII JSON, because PostgreSQL's text
takes neither NUL nor lone surrogates. Tokens that open something (sessions, invitations) are stored as sha256.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
_ID = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself for INTEGER alone


def _row_id() -> Column[int]:
    return Column("id", _ID, primary_key=True, autoincrement=True)


rounds = Table(
    "rounds",
    metadata,
    _row_id(),
    Column("run_id", String(64), nullable=False),
    Column("round_id", Integer, nullable=False),
    Column("purpose", String(16), nullable=False),
    Column("run_name", Text, nullable=False),
    Column("state", String(16), nullable=False),  # open, collecting, sealed
    Column("rules", Text, nullable=False),
    Column("num_chunks", Integer, nullable=False),
    Column("num_tasks", Integer, nullable=False, default=0),
    Column("num_resolved", Integer, nullable=False, default=0),
    Column("num_given_up", Integer, nullable=False, default=0),
    Column("num_labels", Integer, nullable=False, default=0),  # that count, gold and skips left out
    Column("num_late", Integer, nullable=False, default=0),
    Column("opened_at", Float, nullable=False),
    Column("deadline_at", Float),
    Column("sealed_at", Float),
    Column("sealed_by", String(200), nullable=False, default=""),  # quorum, exhausted, deadline, or who did it
    Column("sha256", String(64), nullable=False, default=""),
    Column("told_at", Float),  # when the webhook was answered
    UniqueConstraint("run_id", "round_id", "purpose"),
    Index("ix_rounds_state", "state"),
)

# A round is filled once all of its num_chunks chunks are here, also those without a pair for people.
chunks = Table(
    "chunks",
    metadata,
    Column("round_row", ForeignKey("rounds.id"), primary_key=True),
    Column("chunk_id", Integer, primary_key=True),
    Column("num_tasks", Integer, nullable=False),
    Column("keys_sha256", String(64), nullable=False),
)

tasks = Table(
    "tasks",
    metadata,
    _row_id(),
    Column("public_id", String(32), nullable=False, unique=True),
    Column("round_row", ForeignKey("rounds.id"), nullable=False),
    Column("key", String(64), nullable=False),
    Column("prompt_id", Text, nullable=False),
    Column("a", Integer, nullable=False),
    Column("b", Integer, nullable=False),
    Column("priority", Float, nullable=False),
    Column("gold", String(8)),
    Column("origin", Text, nullable=False),
    Column("labels_wanted", Integer, nullable=False),
    Column("num_labels", Integer, nullable=False, default=0),
    Column("num_skips", Integer, nullable=False, default=0),
    Column("num_held", Integer, nullable=False, default=0),  # active leases
    # Unsettled, and fewer labels and leases than wanted; never true of gold, which has its own way to people.
    Column("is_available", Boolean, nullable=False),
    Column("outcome", String(8)),  # null while unsettled, abstain where given up
    Column("reason", String(32), nullable=False, default=""),
    Column("adjudicated_by", ForeignKey("annotators.id")),
    Column("settled_at", Float),
    UniqueConstraint("round_row", "key"),
    Index("ix_tasks_next", "round_row", "is_available", text("priority DESC"), "id"),
    Index(
        "ix_tasks_gold",
        "round_row",
        "id",
        sqlite_where=text("gold IS NOT NULL"),
        postgresql_where=text("gold IS NOT NULL"),
    ),
)

# What is shown, apart from what is counted: SQLite rewrites a whole row whenever one of its columns changes.
payloads = Table(
    "payloads",
    metadata,
    Column("task_row", ForeignKey("tasks.id"), primary_key=True, autoincrement=False),
    Column("payload", Text, nullable=False),  # messages, a, b
)

leases = Table(
    "leases",
    metadata,
    _row_id(),
    Column("token", String(64), nullable=False, unique=True),
    Column("task_row", ForeignKey("tasks.id"), nullable=False),
    Column("annotator_id", ForeignKey("annotators.id"), nullable=False),
    Column("swapped", Boolean, nullable=False),  # a is shown on the right
    Column("shown_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("state", String(16), nullable=False),  # active, submitted, expired, released, undone
    Index("ix_leases_annotator_id_state", "annotator_id", "state"),
    Index("ix_leases_state_expires_at", "state", "expires_at"),
    Index("ix_leases_task_row", "task_row"),
)

labels = Table(
    "labels",
    metadata,
    _row_id(),
    Column("task_row", ForeignKey("tasks.id"), nullable=False),
    Column("annotator_id", ForeignKey("annotators.id"), nullable=False),
    Column("lease_token", String(64), nullable=False, unique=True),
    Column("label", String(8), nullable=False),  # a, b, tie, both_bad, skip
    Column("body", Text, nullable=False),  # strength, reason, comment, criteria
    Column("body_sha256", String(64), nullable=False),
    Column("swapped", Boolean, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("submitted_at", Float, nullable=False),
    Column("is_late", Boolean, nullable=False, default=False),
    # False for late ones and for those of annotators in quarantine; fixed for good when the round is sealed.
    Column("is_counted", Boolean, nullable=False, default=True),
    UniqueConstraint("task_row", "annotator_id"),
    Index("ix_labels_annotator_id_submitted_at", "annotator_id", "submitted_at"),
)

annotators = Table(
    "annotators",
    metadata,
    _row_id(),
    Column("name", String(200), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("password_hash", Text),
    Column("subject", String(300), unique=True),  # of an OpenID provider: issuer and sub
    Column("is_disabled", Boolean, nullable=False, default=False),
    Column("is_quarantined", Boolean, nullable=False, default=False),
    Column("gold_counts_from", Float, nullable=False, default=0.0),  # a lifted quarantine starts the count anew
    Column("created_at", Float, nullable=False),
)

invitations = Table(
    "invitations",
    metadata,
    _row_id(),
    Column("token_sha256", String(64), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("note", Text, nullable=False),
    Column("created_by", ForeignKey("annotators.id")),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("used_at", Float),
    Column("used_by", ForeignKey("annotators.id")),
)

sessions = Table(
    "sessions",
    metadata,
    Column("token_sha256", String(64), primary_key=True),
    Column("annotator_id", ForeignKey("annotators.id"), nullable=False),
    Column("csrf", String(64), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Index("ix_sessions_annotator_id", "annotator_id"),
)

# Append-only: a trigger refuses every update and delete.
events = Table(
    "events",
    metadata,
    _row_id(),
    Column("at", Float, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("action", String(40), nullable=False),
    Column("round_row", ForeignKey("rounds.id")),
    Column("task_row", ForeignKey("tasks.id")),
    Column("detail", Text, nullable=False),
    Index("ix_events_round_row", "round_row"),
)

# Keys that this queue drew for itself: for left and right, and for nothing else.
secrets = Table(
    "secrets", metadata, Column("name", String(40), primary_key=True), Column("value", Text, nullable=False)
)
