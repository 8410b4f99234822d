"""The nouns of accounts, and why somebody is not let in."""

from dataclasses import dataclass

from judge.human.errors import QueueRefusal
from judge.human.types import Identity, Role


class SignInRefused(QueueRefusal):
    """Name and password do not belong together, or the account may not sign in."""

    status = 401


class InvitationGone(QueueRefusal):
    """The invitation was used, revoked or has expired, or never was."""

    status = 410


class UnknownAccount(QueueRefusal):
    """There is no such account or invitation."""

    status = 404


@dataclass(frozen=True, kw_only=True)
class SessionTokens:
    """A new session: token is for the cookie alone, csrf for forms and headers."""

    token: str
    csrf: str


@dataclass(frozen=True, kw_only=True)
class Session:
    """Somebody's session, and the token that their forms carry."""

    identity: Identity
    csrf: str


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """What a link invites to: a new account, or with `name` a new password for that account."""

    role: Role
    note: str
    name: str | None
    expires_at: float


@dataclass(frozen=True, kw_only=True)
class InvitationRow:
    """An invitation as administrators see it; its link is shown once, when it is made."""

    row_id: int
    role: Role
    note: str
    made_by: str | None
    created_at: float
    expires_at: float
    used_at: float | None
    name: str | None


@dataclass(frozen=True, kw_only=True)
class Person:
    """An account as administrators see it."""

    annotator_id: int
    name: str
    role: Role
    is_disabled: bool
    is_quarantined: bool
    has_password: bool
    has_provider: bool
    created_at: float
