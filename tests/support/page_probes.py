"""A page with routes as the other modules have them, for what stands in front of every route."""

from fastapi import HTTPException
from pydantic import BaseModel

from judge.human.errors import LeaseExpired, TooFast, UnknownLease
from judge.human.page.shell import Administrator, SignedIn
from rollout.errors import InfraError


class Body(BaseModel):
    choice: str


def with_probes(page):
    """Routes as the other modules have them; each call of a writing one is noted."""
    page.app.state.written = []

    @page.app.post("/api/probe")
    def probe(body: Body, identity: SignedIn) -> dict[str, str]:
        page.app.state.written.append(body.choice)
        return {"name": identity.name}

    @page.app.post("/probe")
    async def form(identity: SignedIn) -> dict[str, str]:
        page.app.state.written.append("form")
        return {}

    @page.app.get("/api/fails/{kind}")
    def fails(kind: str, identity: SignedIn) -> None:
        raise {
            "gone": LeaseExpired("This pair was held too long."),
            "fast": TooFast("Too fast.", 2.5),
            "unknown": UnknownLease("<script>alert(1)</script>"),
            "http": HTTPException(418, "A teapot."),
            "bug": ValueError("the secret plan"),
            "down": InfraError("the database at 10.0.0.1 gave no answer"),
        }[kind]

    @page.app.get("/boss")
    def boss(identity: Administrator) -> dict[str, str]:
        return {}

    return page
