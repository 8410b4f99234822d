"""Who may label: accounts, invitations and sessions.

An invitation whose used_by is set while its used_at is not belongs to that account: it sets a new password there.
Names are unique whatever their case. Every change writes an event.
"""

from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from judge.human.account_rows import ACCOUNT, account, check_subject, identity, lock, named, num_administrators
from judge.human.credentials import Passwords, check_password, clean_name, digest, new_token
from judge.human.database import Database
from judge.human.errors import Conflict, Invalid
from judge.human.events import write_event
from judge.human.people import (
    Invitation,
    InvitationGone,
    InvitationRow,
    Person,
    Session,
    SessionTokens,
    SignInRefused,
    UnknownAccount,
)
from judge.human.schema import annotators, invitations, sessions
from judge.human.sessions import Sessions
from judge.human.types import Identity, Role

_DAY_S = 86_400.0


class Accounts:
    """Accounts, invitations and sessions in the queue's database; `by` is None for the command line."""

    def __init__(self, db: Database, *, session_s: float = 43_200.0, passwords: Passwords | None = None) -> None:
        self._db = db
        self._sessions = Sessions(db, session_s=session_s)
        self._passwords = passwords or Passwords()

    def add(self, name: str, role: Role, password: str | None = None, *, by: Identity | None = None) -> Identity:
        """Make an account; without a password only a proxy or a provider can sign it in.

        Raises Invalid for a bad name or password, and Conflict where the name is taken.
        """
        name, stored = clean_name(name), None
        if password is not None:
            check_password(password, name)
            stored = self._passwords.hash(password)

        def act(connection: Connection) -> Identity:
            made = self._insert(connection, name, role, stored, None)
            self._event(connection, by, "account_added", annotator=name, role=role)
            return made

        return self._db.transact(act)

    def has_administrator(self) -> bool:
        """Whether anybody can administer the page."""
        return self._db.fetch(num_administrators) > 0

    def people(self) -> list[Person]:
        """All accounts, oldest first."""
        query = select(*ACCOUNT, annotators.c.created_at).order_by(annotators.c.id)
        rows = self._db.fetch(lambda c: c.execute(query).all())
        return [
            Person(
                annotator_id=row.id,
                name=row.name,
                role=row.role,
                is_disabled=row.is_disabled,
                is_quarantined=row.is_quarantined,
                has_password=row.password_hash is not None,
                has_provider=row.subject is not None,
                created_at=row.created_at,
            )
            for row in rows
        ]

    # Invitations

    def invite(self, role: Role, note: str = "", by: Identity | None = None, days: float = 7.0) -> str:
        """Make an invitation and return its token, which is not kept; the link is /invitation/TOKEN."""
        return self._db.transact(lambda connection: self._invite(connection, role, note, by, days, None))

    def reset(self, annotator_id: int, by: Identity | None = None, days: float = 2.0) -> str:
        """Make a link with which an account gets a new password; earlier such links end. The token as in invite."""

        def act(connection: Connection) -> str:
            person = account(connection, annotator_id)
            connection.execute(
                update(invitations)
                .where(invitations.c.used_by == annotator_id, invitations.c.used_at.is_(None))
                .values(expires_at=self._db.clock())
            )
            return self._invite(connection, person.role, f"new password for {person.name}", by, days, annotator_id)

        return self._db.transact(act)

    def revoke(self, invitation_id: int, by: Identity | None = None) -> None:
        """End an invitation that nobody has used; raises UnknownAccount where there is none."""

        def act(connection: Connection) -> None:
            now = self._db.clock()
            mine = (invitations.c.id == invitation_id, invitations.c.used_at.is_(None))
            if not connection.execute(update(invitations).where(*mine).values(expires_at=now)).rowcount:
                raise UnknownAccount("There is no open invitation of this number.")
            self._event(connection, by, "invitation_revoked", invitation=invitation_id)

        self._db.transact(act)

    def invitation(self, token: str) -> Invitation:
        """What a link invites to; raises InvitationGone where it opens nothing any more."""
        row = self._db.fetch(lambda c: self._open_invitation(c, token))
        return Invitation(role=row.role, note=row.note, name=row.name, expires_at=row.expires_at)

    def invitations(self, limit: int = 200) -> list[InvitationRow]:
        """Invitations, newest first: for a reset, and once it is used, `name` says whose it is."""
        maker, user = annotators.alias("maker"), annotators.alias("user")
        query = (
            select(invitations, maker.c.name.label("made_by"), user.c.name)
            .join_from(invitations, maker, invitations.c.created_by == maker.c.id, isouter=True)
            .join(user, invitations.c.used_by == user.c.id, isouter=True)
            .order_by(invitations.c.id.desc())
            .limit(limit)
        )
        rows = self._db.fetch(lambda c: c.execute(query).all())
        return [
            InvitationRow(
                row_id=row.id,
                role=row.role,
                note=row.note,
                made_by=row.made_by,
                created_at=row.created_at,
                expires_at=row.expires_at,
                used_at=row.used_at,
                name=row.name,
            )
            for row in rows
        ]

    def accept(self, token: str, name: str, password: str | None = None, *, subject: str | None = None) -> Identity:
        """Use an invitation, once: a new account of that name, or for a reset link a new password.

        The account signs in by password, or by `subject` of an OpenID provider. Raises InvitationGone, Invalid for a
        bad name or password, Conflict where the name or the subject is taken.
        """
        name = self.invitation(token).name or clean_name(name)
        stored = None
        if subject is None:
            check_password(password or "", name)
            stored = self._passwords.hash(password or "")

        def act(connection: Connection) -> Identity:
            row = self._open_invitation(connection, token)
            if row.used_by is None:
                made = self._insert(connection, name, row.role, stored, subject)
            else:
                made = identity(account(connection, row.used_by))
                check_subject(connection, subject, made.annotator_id)
                secret = {"subject": subject} if subject else {"password_hash": stored}
                mine = annotators.c.id == made.annotator_id
                connection.execute(update(annotators).where(mine).values(**secret))
                connection.execute(delete(sessions).where(sessions.c.annotator_id == made.annotator_id))
            used = update(invitations).where(invitations.c.id == row.id, invitations.c.used_at.is_(None))
            if not connection.execute(used.values(used_at=self._db.clock(), used_by=made.annotator_id)).rowcount:
                raise InvitationGone("This invitation was used a moment ago.")  # two at once, on PostgreSQL
            self._event(connection, made, "invitation_used", invitation=row.id, role=made.role)
            return made

        return self._db.transact(act)

    # Signing in

    def sign_in(self, name: str, password: str) -> Identity:
        """Whose name and password these are; raises SignInRefused, the same and as slowly for every cause."""
        row = self._named(name)
        right = self._passwords.is_right(row.password_hash if row else None, password)
        if row is None or not right or row.is_disabled:
            raise SignInRefused("Name and password do not belong together.")
        if self._passwords.needs_rehash(row.password_hash):
            stored = self._passwords.hash(password)
            mine = (annotators.c.id == row.id, annotators.c.password_hash == row.password_hash)
            self._db.transact(lambda c: c.execute(update(annotators).where(*mine).values(password_hash=stored)))
        return identity(row)

    def by_header(self, name: str) -> Identity | None:
        """Whom a trusted proxy names: an annotator, made on first sight; None for disabled or bad names."""
        try:
            name = clean_name(name)
        except Invalid:
            return None
        row = self._named(name)
        if row is not None:
            return None if row.is_disabled else identity(row)
        try:
            return self.add(name, "annotator")
        except Conflict:  # made by another request meanwhile
            row = self._named(name)
            return None if row is None or row.is_disabled else identity(row)

    def by_subject(self, subject: str, name: str, *, may_join: bool, is_verified: bool) -> Identity:
        """Whose subject of an OpenID provider this is.

        A new subject gets the account of its name where an administrator made one without a password and the provider
        has verified the claim, or with may_join an account of its own; raises SignInRefused, Conflict or Invalid.
        """
        query = select(*ACCOUNT).where(annotators.c.subject == subject)
        row = self._db.fetch(lambda c: c.execute(query).one_or_none())
        if row is not None:
            if row.is_disabled:
                raise SignInRefused("This account has been disabled.")
            return identity(row)
        name = clean_name(name)

        def act(connection: Connection) -> Identity:
            lock(connection)
            known = named(connection, name)
            if known is None and may_join and is_verified:
                made = self._insert(connection, name, "annotator", None, subject)
                self._event(connection, made, "account_added", annotator=name, role="annotator")
                return made
            is_free = known is not None and not (known.password_hash or known.subject or known.is_disabled)
            if known is None or not is_free or not is_verified:
                raise SignInRefused("You are not invited yet; ask an administrator for a link.")
            connection.execute(update(annotators).where(annotators.c.id == known.id).values(subject=subject))
            self._event(connection, identity(known), "account_linked", annotator=known.name)
            return identity(known)

        return self._db.transact(act)

    # Sessions

    def start_session(self, annotator_id: int, *, how: str = "password") -> SessionTokens:
        """See Sessions.start."""
        return self._sessions.start(annotator_id, how=how)

    def session(self, token: str) -> Session | None:
        """See Sessions.find."""
        return self._sessions.find(token)

    def end_session(self, token: str) -> None:
        """See Sessions.end."""
        self._sessions.end(token)

    # Administration

    def set_role(self, annotator_id: int, role: Role, by: Identity | None = None) -> None:
        """Give an account another role; raises Conflict for the last administrator."""
        self._change(annotator_id, by, "role_changed", {"role": role}, role != "administrator")

    def disable(self, annotator_id: int, on: bool = True, by: Identity | None = None) -> None:
        """Shut an account, its sessions at once, or open it again; raises Conflict for the last administrator."""
        self._change(annotator_id, by, "account_disabled" if on else "account_enabled", {"is_disabled": on}, on)

    def _change(self, annotator_id: int, by: Identity | None, action: str, values: dict[str, Any], less: bool) -> None:
        def act(connection: Connection) -> None:
            lock(connection)
            person = account(connection, annotator_id)
            connection.execute(update(annotators).where(annotators.c.id == annotator_id).values(**values))
            if less and person.role == "administrator" and not num_administrators(connection):
                raise Conflict(f"{person.name} is the only administrator; make another one first.")
            if values.get("is_disabled"):
                connection.execute(delete(sessions).where(sessions.c.annotator_id == annotator_id))
            self._event(connection, by, action, annotator=person.name, **values)

        self._db.transact(act)

    def _named(self, name: str) -> Any:
        try:
            name = clean_name(name)
        except Invalid:
            return None
        clean = name
        return self._db.fetch(lambda c: named(c, clean))

    def _insert(
        self, connection: Connection, name: str, role: Role, password_hash: str | None, subject: str | None
    ) -> Identity:
        lock(connection)
        if named(connection, name) is not None:
            raise Conflict("This name is taken; please choose another.")
        check_subject(connection, subject, None)
        values = {"name": name, "role": role, "password_hash": password_hash, "subject": subject}
        row = insert(annotators).values(**values, created_at=self._db.clock()).returning(annotators.c.id)
        return Identity(annotator_id=connection.execute(row).scalar_one(), name=name, role=role)

    def _invite(
        self, connection: Connection, role: Role, note: str, by: Identity | None, days: float, annotator_id: int | None
    ) -> str:
        if not 0 < days <= 90 or len(note) > 200 or not note.isprintable():
            raise Invalid("An invitation is open for up to 90 days, and its note has up to 200 visible characters.")
        token, now = new_token(), self._db.clock()
        row = insert(invitations).values(
            token_sha256=digest(token),
            role=role,
            note=note,
            created_by=by.annotator_id if by else None,
            created_at=now,
            expires_at=now + days * _DAY_S,
            used_by=annotator_id,
        )
        invitation = connection.execute(row.returning(invitations.c.id)).scalar_one()
        action = "invited" if annotator_id is None else "reset"
        self._event(connection, by, action, invitation=invitation, role=role, annotator_id=annotator_id)
        return token

    def _open_invitation(self, connection: Connection, token: str) -> Any:
        row = connection.execute(
            select(invitations, annotators.c.name)
            .join_from(invitations, annotators, invitations.c.used_by == annotators.c.id, isouter=True)
            .where(
                invitations.c.token_sha256 == digest(token),
                invitations.c.used_at.is_(None),
                invitations.c.expires_at > self._db.clock(),
                func.coalesce(annotators.c.is_disabled, False).is_(False),
            )
        ).one_or_none()
        if row is None:
            raise InvitationGone("This invitation was used, was revoked or has expired; ask for a new one.")
        return row

    def _event(self, connection: Connection, by: Identity | None, action: str, **detail: Any) -> None:
        write_event(connection, actor=by.name if by else "command line", action=action, **detail)
