"""What people may be called, and what they prove it with."""

import hashlib
import re
import secrets
import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from judge.human.errors import Invalid

MIN_PASSWORD, MAX_PASSWORD, MAX_NAME = 10, 1_024, 80
_RESERVED = frozenset({"command line", "deadline", "page", "quorum", "rondo", "system"})  # they act in the audit log
# Letters and marks that show nothing; str.isprintable takes them, and refuses controls of every other kind.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def clean_name(name: str) -> str:
    """The name as it is stored: NFKC, no spaces around it, one between words.

    Raises Invalid for an empty or long name, and for one with controls, invisible or bidirectional characters.
    """
    clean = " ".join(unicodedata.normalize("NFKC", name).split())
    if not 1 <= len(clean) <= MAX_NAME:
        raise Invalid(f"A name has 1 to {MAX_NAME} characters; this one has {len(clean)}.")
    if not clean.isprintable() or _UNSEEN.search(clean) or not any(map(str.isalnum, clean)):
        raise Invalid("A name is made of visible letters, digits and signs; this one has others.")
    if clean.casefold() in _RESERVED:
        raise Invalid("This name is taken by the page itself; please choose another.")
    return clean


def check_password(password: str, name: str) -> None:
    """Raise Invalid unless the password is long enough and not the name again."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise Invalid(f"A password has at least {MIN_PASSWORD} characters; this one has {len(password)}.")
    if password.casefold() == name.casefold() or len(set(password)) < 4:
        raise Invalid("This password is too easy to guess; please choose another.")


def digest(token: str) -> str:
    """What the database keeps of a token: sha256, so that a stolen copy opens nothing."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def new_token() -> str:
    """256 random bits for a URL or a cookie."""
    return secrets.token_urlsafe(32)


class Passwords:
    """Argon2id hashes, RFC 9106's second choice (64 MiB) unless another hasher is given."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._decoy = self._hasher.hash(new_token())

    def hash(self, password: str) -> str:
        """The hash to store."""
        return self._hasher.hash(_bytes(password))

    def is_right(self, stored: str | None, password: str) -> bool:
        """Whether the password is the stored one; without a stored one just as slow, and False."""
        try:
            return self._hasher.verify(stored or self._decoy, _bytes(password[:MAX_PASSWORD])) and bool(stored)
        except (VerificationError, InvalidHashError):
            return False

    def needs_rehash(self, stored: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)


def _bytes(password: str) -> bytes:
    """NFKC, since keyboards differ in how they compose a letter."""
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
