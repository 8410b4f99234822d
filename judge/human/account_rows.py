"""Accounts as rows of the database. A row has the columns of ACCOUNT."""

from typing import Any

from sqlalchemy import Connection, bindparam, func, select, text

from judge.human.errors import Conflict
from judge.human.people import UnknownAccount
from judge.human.schema import annotators
from judge.human.types import Identity

WHO = (annotators.c.id, annotators.c.name, annotators.c.role, annotators.c.is_quarantined)
ACCOUNT = (*WHO, annotators.c.password_hash, annotators.c.subject, annotators.c.is_disabled)
_BY_NAME = select(*ACCOUNT).where(annotators.c.name == bindparam("name"))


def lock(connection: Connection) -> None:
    """Names of any case and the last administrator are seen to by one writer at a time, as SQLite has it anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE annotators IN SHARE ROW EXCLUSIVE MODE"))


def named(connection: Connection, name: str) -> Any:
    """The account of a clean name, whatever its case; nearly always by the index."""
    row = connection.execute(_BY_NAME, {"name": name}).one_or_none()
    if row is not None:
        return row
    wanted = name.casefold()
    for known in connection.execute(select(annotators.c.name)).scalars():
        if known.casefold() == wanted:
            return connection.execute(_BY_NAME, {"name": known}).one_or_none()
    return None


def account(connection: Connection, annotator_id: int) -> Any:
    row = connection.execute(select(*ACCOUNT).where(annotators.c.id == annotator_id)).one_or_none()
    if row is None:
        raise UnknownAccount("There is no such account.")
    return row


def check_subject(connection: Connection, subject: str | None, annotator_id: int | None) -> None:
    if subject is None:
        return
    owner = connection.execute(select(annotators.c.id).where(annotators.c.subject == subject)).scalar()
    if owner is not None and owner != annotator_id:
        raise Conflict("You have an account already; sign in with it.")


def num_administrators(connection: Connection) -> int:
    query = select(func.count()).select_from(annotators)
    query = query.where(annotators.c.role == "administrator", annotators.c.is_disabled.is_(False))
    return connection.execute(query).scalar_one()


def identity(row: Any) -> Identity:
    return Identity(annotator_id=row.id, name=row.name, role=row.role, is_quarantined=row.is_quarantined)
