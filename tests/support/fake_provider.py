"""An OpenID provider on a loopback port that signs in whomever a test says, and can lie in every way that counts."""

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

CLIENT_ID, SECRET = "labels", "provider's secret"


class FakeProvider:
    """`twist` changes the claims before they are signed; `key` is what signs them, `header` how."""

    def __init__(self, port: int, clock: Callable[[], float]) -> None:
        self.issuer = f"http://127.0.0.1:{port}"
        self.published = ECKey.generate_key("P-256", {"kid": "one"})
        self.key: Any = self.published
        self.header: dict[str, Any] = {"alg": "ES256", "kid": "one"}
        self.twist: Callable[[dict[str, Any]], None] = lambda claims: None
        self.named_issuer = self.issuer
        self._clock = clock
        self._codes: dict[str, tuple[dict[str, str], dict[str, Any]]] = {}

    def consent(self, url: str, **person: Any) -> str:
        """What the person's browser is sent back to after it was at `url`."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        code = secrets.token_urlsafe(8)
        self._codes[code] = (asked, person)
        back = urlsplit(asked["redirect_uri"])
        return f"{back.path}?{urlencode({'code': code, 'state': asked['state']})}"

    def token(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        wanted = base64.b64encode(f"{CLIENT_ID}:{SECRET}".encode()).decode()
        asked, person = self._codes.pop(form.get("code", ""), ({}, {}))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if (
            authorization != f"Basic {wanted}"
            or challenge.decode().rstrip("=") != asked.get("code_challenge")
            or form.get("redirect_uri") != asked.get("redirect_uri")
        ):
            return 400, {"error": "invalid_grant"}
        now = int(self._clock())
        claims = {"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": asked["nonce"], **person}
        self.twist(claims)
        if self.header["alg"] == "none":
            parts = (
                base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
                for part in (self.header, claims)
            )
            id_token = ".".join((*parts, ""))
        else:
            id_token = jwt.encode(self.header, claims, self.key)
        return 200, {"access_token": "unused", "token_type": "Bearer", "id_token": id_token}

    def answer(self, path: str) -> dict[str, Any]:
        if path == "/jwks":
            return dict(KeySet([self.published]).as_dict(private=False))
        names = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "jwks"}
        return {"issuer": self.named_issuer} | {name: f"{self.issuer}/{place}" for name, place in names.items()}


@contextmanager
def fake_provider(clock: Callable[[], float] = time.time) -> Iterator[FakeProvider]:
    """The provider, while it serves."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, provider.answer(self.path))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            self._send(*provider.token(form, self.headers.get("authorization", "")))

        def _send(self, status: int, body: dict[str, Any]) -> None:
            sent = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider = FakeProvider(server.server_address[1], clock)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
