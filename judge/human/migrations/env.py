"""What Alembic runs: the migrations, on the connection and in the transaction that the caller opened."""

from alembic import context

from judge.human.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=context.config.attributes["version_table"],
    transactional_ddl=True,  # true of SQLite, too, once the driver does not commit on its own
)
with context.begin_transaction():
    context.run_migrations()
