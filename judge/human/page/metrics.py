"""GET /metrics for Prometheus: what the queue holds, read at each scrape, and how this process answers submissions.

For administrators who are signed in, and for a scraper that sends `Authorization: Bearer` with the value of the
environment variable RONDO_METRICS_TOKEN (without that variable there is no such way in). Names of annotators and texts
are not among the metrics.
"""

import hmac
import json
import os
import time
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from sqlalchemy import and_, case, func, select
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from judge.human.database import Database
from judge.human.page.shell import page_of, session_of
from judge.human.schema import annotators, labels, leases, rounds, tasks

TOKEN_ENV = "RONDO_METRICS_TOKEN"
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_MAX_REFUSAL_BYTES = 4_096  # a refusal is a short JSON object; whatever is longer is something else

router = APIRouter()


class QueueCollector(Collector):
    """Gauges of the queue, from one read transaction at each scrape."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def collect(self) -> Iterator[Metric]:
        """Rounds, tasks, labels, leases, gold answers and annotators as they are now."""
        now = self._db.clock()
        with self._db.read() as connection:
            yield _counted(connection, "rondo_rounds", "Rounds by state", "state", rounds.c.state)
            yield _counted(connection, "rondo_labels", "Labels in the queue by what they say", "label", labels.c.label)
            yield _late(connection)
            yield from _open_rounds(connection, now)
            active = (leases.c.state == "active", leases.c.expires_at > now)
            num_leases = connection.execute(select(func.count()).select_from(leases).where(*active)).scalar_one()
            yield GaugeMetricFamily("rondo_leases_active", "Pairs that annotators hold now", value=num_leases)
            yield _gold(connection)
            yield _annotators(connection)


class Metrics:
    """The registry of one app: the queue's gauges, and submissions as this process answered them."""

    def __init__(self, db: Database) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(QueueCollector(db))
        self._seconds = Histogram(
            "rondo_submission_seconds",
            "Seconds from a submitted label to its answer",
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._refusals = Counter(
            "rondo_refusals", "Requests of the labelling page that were refused", ["reason"], registry=self.registry
        )

    def submitted(self, seconds: float) -> None:
        """Count a submission, whatever became of it, with the time that its answer took."""
        self._seconds.observe(seconds)

    def refused(self, reason: str) -> None:
        """Count a refusal."""
        self._refusals.labels(reason=reason).inc()


class Measured:
    """Middleware: times POST /api/labels/..., and counts what any /api/ route refuses by the reason in its answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http" or not scope["path"].startswith("/api/"):
            await self._app(scope, receive, send)
            return
        status, body = 500, b""

        async def watch(message: Message) -> None:
            nonlocal status, body
            if message["type"] == "http.response.start":
                status = message["status"]
            elif status >= 400 and len(body) <= _MAX_REFUSAL_BYTES:
                body += message.get("body", b"")
            await send(message)

        start = time.perf_counter()
        try:
            await self._app(scope, receive, watch)
        finally:
            if scope["method"] == "POST" and scope["path"].startswith("/api/labels/"):
                self._metrics.submitted(time.perf_counter() - start)
            if status >= 400:
                self._metrics.refused(_reason(status, body))


def install(app: FastAPI, db: Database) -> Metrics:
    """Make the app's metrics, and measure its /api/ routes from now on."""
    metrics = Metrics(db)
    app.state.metrics = metrics
    app.add_middleware(Measured, metrics=metrics)
    return metrics


def is_scraper(authorization: str | None) -> bool:
    """Whether an Authorization header carries the token of RONDO_METRICS_TOKEN."""
    token = os.environ.get(TOKEN_ENV, "")
    scheme, _, given = (authorization or "").partition(" ")
    return bool(token) and scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


@router.get("/metrics")
def metrics(request: Request) -> Response:
    """Prometheus text format."""
    session = session_of(request)
    is_administrator = session is not None and session.identity.role == "administrator"
    if not is_administrator and not is_scraper(request.headers.get("authorization")):
        raise HTTPException(403, f"Metrics are for administrators, or for a bearer token as in {TOKEN_ENV}.")
    found: Metrics | None = getattr(request.app.state, "metrics", None)
    registry = (found or Metrics(page_of(request).database)).registry
    return Response(generate_latest(registry), headers={"content-type": CONTENT_TYPE_LATEST})


def _reason(status: int, body: bytes) -> str:
    try:
        kind = json.loads(body)["kind"]
        return kind if isinstance(kind, str) and kind.isidentifier() else f"status_{status}"
    except (ValueError, KeyError, TypeError):
        return f"status_{status}"


def _counted(connection: Any, name: str, text: str, label: str, column: Any) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in connection.execute(select(column, func.count()).group_by(column).order_by(column)):
        family.add_metric([value], count)
    return family


def _late(connection: Any) -> Metric:
    query = select(func.count()).select_from(labels).where(labels.c.is_late)
    return GaugeMetricFamily(
        "rondo_labels_late",
        "Labels that came after their round was sealed",
        value=connection.execute(query).scalar_one(),
    )


def _open_rounds(connection: Any, now: float) -> Iterator[Metric]:
    names = ["run_id", "round_id", "purpose"]
    pairs = GaugeMetricFamily("rondo_round_pairs", "Pairs of a round that is not sealed", labels=[*names, "state"])
    deadline = GaugeMetricFamily(
        "rondo_round_deadline_seconds", "Seconds until a round is sealed; below 0 it is overdue", labels=names
    )
    backlog = 0
    for row in connection.execute(select(rounds).where(rounds.c.state != "sealed").order_by(rounds.c.id)).mappings():
        about = [row["run_id"], str(row["round_id"]), row["purpose"]]
        waiting = row["num_tasks"] - row["num_resolved"] - row["num_given_up"]
        backlog += waiting
        states = {"waiting": waiting, "resolved": row["num_resolved"], "given_up": row["num_given_up"]}
        for state, count in states.items():
            pairs.add_metric([*about, state], count)
        if row["deadline_at"] is not None:
            deadline.add_metric(about, row["deadline_at"] - now)
    yield pairs
    yield deadline
    yield GaugeMetricFamily("rondo_backlog_pairs", "Pairs of all open rounds that people still have to settle", backlog)


def _gold(connection: Any) -> Metric:
    family = GaugeMetricFamily("rondo_gold_answers", "Answers to pairs with a known label", labels=["result"])
    is_right = case((labels.c.label == tasks.c.gold, "right"), else_="wrong").label("result")
    counted = (tasks.c.gold.is_not(None), labels.c.label != "skip")
    query = (
        select(is_right, func.count()).join_from(labels, tasks, labels.c.task_row == tasks.c.id).where(and_(*counted))
    )
    for result, count in connection.execute(query.group_by(is_right).order_by(is_right)):
        family.add_metric([result], count)
    return family


def _annotators(connection: Any) -> Metric:
    family = GaugeMetricFamily("rondo_annotators", "Accounts by state", labels=["state"])
    state = case(
        (annotators.c.is_disabled, "disabled"), (annotators.c.is_quarantined, "quarantined"), else_="active"
    ).label("state")
    for name, count in connection.execute(select(state, func.count()).group_by(state).order_by(state)):
        family.add_metric([name], count)
    return family
