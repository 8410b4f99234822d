"""Sign-in by an OpenID provider: code flow with PKCE (RFC 7636), state and nonce (OpenID Connect Core 1.0, 3.1)."""

import base64
import json
import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from authlib.integrations.httpx_client import OAuth2Client
from joserfc import jwt
from joserfc.jwk import KeySet

from judge.human.config import OidcConfig
from judge.human.errors import QueueRefusal
from rollout.errors import UsageError

_LOG = logging.getLogger(__name__)
# Signed by the provider's private key, each of them: `none` and the shared-secret ones are not taken.
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA"]
_LEEWAY_S = 60
_TIMEOUT_S = 10.0
_FRESH_S = 3_600.0  # how long the provider's description is believed


class ProviderFailed(QueueRefusal):
    """The provider did not sign the person in, or said something that does not hold."""

    status = 502


@dataclass(frozen=True, kw_only=True)
class Pending:
    """What a browser keeps, in a cookie for its server alone, while it is at the provider."""

    state: str
    nonce: str
    verifier: str
    next: str
    invitation: str

    def packed(self) -> str:
        """As the value of a cookie."""
        return base64.urlsafe_b64encode(json.dumps(asdict(self)).encode()).decode()

    @classmethod
    def unpacked(cls, value: str) -> "Pending | None":
        """The other way; None for anything that packed did not make."""
        try:
            fields = json.loads(base64.urlsafe_b64decode(value.encode("ascii")))
            made = cls(**fields)
        except (ValueError, TypeError):
            return None
        return made if all(isinstance(part, str) for part in fields.values()) else None


@dataclass(frozen=True, kw_only=True)
class Claims:
    """Who the provider says it is; subject is unique among providers; is_verified: the claim is the provider's word."""

    subject: str
    name: str
    is_verified: bool
    may_join: bool


class Oidc:
    """One provider; its description and keys are fetched on first use. Blocking: for threads."""

    def __init__(self, settings: OidcConfig, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        secret = os.environ.get(settings.client_secret_env)
        if not secret:
            raise UsageError(
                f"page.oidc.client_secret_env: the environment has no {settings.client_secret_env}; "
                "set it to the client secret that the provider gave"
            )
        self._secret = secret
        self._described: tuple[float, dict[str, Any]] | None = None

    def begin(self, redirect_uri: str, *, next_path: str, invitation: str) -> tuple[str, Pending]:
        """The address at the provider to send the browser to, and what to remember meanwhile."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        pending = Pending(state=state, nonce=nonce, verifier=verifier, next=next_path, invitation=invitation)
        with self._client(redirect_uri) as client:
            endpoint = self._description(client)["authorization_endpoint"]
            url, _ = client.create_authorization_url(endpoint, state=state, code_verifier=verifier, nonce=nonce)
        return url, pending

    def finish(self, redirect_uri: str, *, code: str, pending: Pending) -> Claims:
        """Trade the code for the provider's word on who it is; raises ProviderFailed."""
        try:
            with self._client(redirect_uri) as client:
                description = self._description(client)
                token = client.fetch_token(
                    description["token_endpoint"],
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=pending.verifier,
                )
                answer = client.request("GET", description["jwks_uri"], withhold_token=True)
                keys = answer.raise_for_status().json()
            return self._claims(token["id_token"], keys, pending.nonce)
        except ProviderFailed:
            raise
        except Exception as error:  # of a network, of OAuth, of JOSE: for the person they are one
            _LOG.warning("sign-in by %s failed: %s: %s", self._settings.issuer, type(error).__name__, error)
            raise ProviderFailed("The sign-in at your provider did not come through; please try again.") from None

    def _claims(self, id_token: str, keys: dict[str, Any], nonce: str) -> Claims:
        claims = jwt.decode(id_token, KeySet.import_key_set(keys), algorithms=_ALGORITHMS).claims  # type: ignore[arg-type]
        client_id = self._settings.client_id
        jwt.JWTClaimsRegistry(
            now=lambda: int(self._clock()),
            leeway=_LEEWAY_S,
            iss={"essential": True, "value": self._settings.issuer},
            sub={"essential": True},
            aud={"essential": True, "value": client_id},
            exp={"essential": True},
            iat={"essential": True},
            nonce={"essential": True, "value": nonce},
        ).validate(claims)
        if claims.get("azp", client_id) != client_id:
            raise ValueError(f"azp is {claims['azp']!r}, expected {client_id!r}")
        name = claims.get(self._settings.claim)
        if not isinstance(name, str) or not name.strip():
            raise ProviderFailed(f"Your provider does not say your {self._settings.claim}; tell an administrator.")
        # Anybody can write anybody's address into their profile at some providers: only a verified one counts.
        is_verified = self._settings.claim != "email" or claims.get("email_verified") is True
        domain = name.rpartition("@")[2].strip().lower()
        allowed = {known.lower().lstrip("@") for known in self._settings.allowed_domains}
        return Claims(
            subject=f"{self._settings.issuer} {claims['sub']}",
            name=name,
            is_verified=is_verified,
            may_join="@" in name and domain in allowed and is_verified,
        )

    def _client(self, redirect_uri: str) -> Any:
        return OAuth2Client(
            client_id=self._settings.client_id,
            client_secret=self._secret,
            scope="openid email profile",
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
            timeout=_TIMEOUT_S,
        )

    def _description(self, client: Any) -> dict[str, Any]:
        if self._described is not None and self._clock() - self._described[0] < _FRESH_S:
            return self._described[1]
        url = f"{self._settings.issuer.rstrip('/')}/.well-known/openid-configuration"
        try:
            found: dict[str, Any] = client.request("GET", url, withhold_token=True).raise_for_status().json()
        except Exception as error:
            _LOG.warning("%s: %s: %s", url, type(error).__name__, error)
            raise ProviderFailed("Your sign-in provider does not answer; please try again later.") from None
        if found.get("issuer") != self._settings.issuer:
            _LOG.warning("%s names the issuer %r, expected %r", url, found.get("issuer"), self._settings.issuer)
            raise ProviderFailed("Your sign-in provider is not set up for this page; tell an administrator.")
        self._described = (self._clock(), found)
        return found
