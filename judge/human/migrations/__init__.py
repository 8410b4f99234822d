"""Alembic's migrations of the queue, run by `Database.upgrade`."""
