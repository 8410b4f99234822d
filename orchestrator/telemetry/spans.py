"""OpenTelemetry: a trace a round, with a span for each stage and for each shard that an engine or a judge had."""

from typing import Any

from orchestrator.telemetry.sink import Event


class Spans:
    """A sink that makes finished spans out of events, whose times are known only when they are over.

    provider is an OpenTelemetry TracerProvider; spans of a round have the round's own span as their parent, which is
    exported when the round is done, or when the run ends before that.
    """

    def __init__(self, provider: Any) -> None:
        self._provider, self._tracer = provider, provider.get_tracer("rondo")
        self._rounds: dict[int, Any] = {}

    def take(self, event: Event) -> None:
        from opentelemetry.trace import set_span_in_context

        if event["kind"] == "round_done":
            span = self._rounds.pop(event["record"].round_id, None)
            if span is not None:
                span.set_attribute("rondo.num_pairs", event["record"].num_pairs)
                span.end(_ns(event["time"]))
            return
        if event["round"] is None:
            return
        if event["kind"] == "stage_started" and event["round"] not in self._rounds:
            attributes = {"rondo.round": event["round"]}
            self._rounds[event["round"]] = self._tracer.start_span(
                "round", start_time=_ns(event["time"]), attributes=attributes
            )
        found = _finished(event)
        parent = self._rounds.get(event["round"])
        if found and parent is not None:
            name, start, end, attributes = found
            span = self._tracer.start_span(
                name, context=set_span_in_context(parent), start_time=_ns(start), attributes=attributes
            )
            span.end(_ns(end))

    def close(self) -> None:
        for span in self._rounds.values():
            span.end()
        self._rounds = {}
        self._provider.shutdown()


def otlp_provider(endpoint: str, *, run: str) -> Any:
    """A provider that sends spans to an OTLP/HTTP endpoint in batches, off the driver's thread."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "rondo", "rondo.run": run}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")))
    return provider


def _finished(event: Event) -> tuple[str, float, float, dict[str, Any]] | None:
    now = event["time"]
    if event["kind"] == "stage":
        return event["stage"], event["started"], now, {"rondo.own_seconds": event["seconds"]}
    if event["kind"] == "generated":
        engine = {"rondo.engine": event["engine"], "rondo.num_tokens": event["num_tokens"]}
        return "generate shard", now - event["seconds"], now, engine
    if event["kind"] == "shard_judged":
        judge = {"rondo.judge": event["judge"], "rondo.num_pairs": event["num_pairs"]}
        return "judge shard", event["submitted"], event["finished"], judge
    if event["kind"] == "sync":
        return "load weights", now - event["load_s"], now, {"rondo.engine": event["engine"]}
    return None


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
