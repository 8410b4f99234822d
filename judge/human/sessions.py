"""Who is signed in: sessions in the database, so that a restarted page knows them."""

from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from judge.human.account_rows import WHO, account, identity
from judge.human.credentials import digest, new_token
from judge.human.database import Database
from judge.human.events import write_event
from judge.human.people import Session, SessionTokens, SignInRefused
from judge.human.schema import annotators, sessions
from rollout.errors import InfraError

_LONGEST_S = 30 * 86_400.0  # a session ends then, used or not
_SLIDE_S = 60.0  # a session's end is moved on at most so often
_SESSION = (
    select(*WHO, sessions.c.csrf, sessions.c.created_at, sessions.c.expires_at)
    .join_from(sessions, annotators, sessions.c.annotator_id == annotators.c.id)
    .where(
        sessions.c.token_sha256 == bindparam("token_sha256"),
        sessions.c.expires_at > bindparam("now"),
        annotators.c.is_disabled.is_(False),
    )
)


class Sessions:
    """Sessions that end session_s seconds after their last use."""

    def __init__(self, db: Database, *, session_s: float) -> None:
        self._db = db
        self._session_s = session_s

    def start(self, annotator_id: int, *, how: str = "password") -> SessionTokens:
        """Sign an account in; sessions that have expired are removed on the way."""
        tokens = SessionTokens(token=new_token(), csrf=new_token())

        def act(connection: Connection) -> SessionTokens:
            now = self._db.clock()
            account_row = account(connection, annotator_id)
            if account_row.is_disabled:
                raise SignInRefused("This account has been disabled.")
            connection.execute(delete(sessions).where(sessions.c.expires_at <= now))
            connection.execute(
                insert(sessions).values(
                    token_sha256=digest(tokens.token),
                    annotator_id=annotator_id,
                    csrf=tokens.csrf,
                    created_at=now,
                    expires_at=now + self._session_s,
                )
            )
            write_event(connection, actor=account_row.name, action="signed_in", how=how)
            return tokens

        return self._db.transact(act)

    def find(self, token: str) -> Session | None:
        """The session of a cookie, None where it has ended; using it moves its end on."""
        key, now = digest(token), self._db.clock()
        row = self._row({"token_sha256": key, "now": now})
        if row is None:
            return None
        until = min(now + self._session_s, row.created_at + _LONGEST_S)
        if until - row.expires_at >= min(_SLIDE_S, self._session_s / 10):
            mine = sessions.c.token_sha256 == key
            self._db.transact(lambda c: c.execute(update(sessions).where(mine).values(expires_at=until)))
        return Session(identity=identity(row), csrf=row.csrf)

    def _row(self, values: dict[str, Any]) -> Any:
        try:
            with self._db.read() as connection:  # every request comes by: fetch would cost it a quarter more
                return connection.execute(_SESSION, values).one_or_none()
        except InfraError:
            return self._db.fetch(lambda connection: connection.execute(_SESSION, values).one_or_none())

    def end(self, token: str) -> None:
        """Sign out."""
        self._db.transact(lambda c: c.execute(delete(sessions).where(sessions.c.token_sha256 == digest(token))))
