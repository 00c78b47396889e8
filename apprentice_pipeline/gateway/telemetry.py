"""OpenTelemetry spans of captured calls, by the conventions for generative AI. Opt-in.

Belongs here: from what is known of a finished call to a span, and its export. Does not: what is
known (`observing`). The attributes are those of the `gen_ai.*` conventions (1.42, in development)
that hold no content, and our own ids. Promise: spans are made after the response, wait in a
bounded queue for a thread of their own, and are dropped where the collector is slow or gone;
no attribute holds content, a key, a header or a path.

The exporter reads the standard `OTEL_EXPORTER_OTLP_*` variables for its headers, certificates
and time limits; `OTEL_RESOURCE_ATTRIBUTES` adds to the resource.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from apprentice_pipeline import __version__
from apprentice_pipeline.config import Telemetry
from apprentice_pipeline.errors import UsageError
from apprentice_pipeline.gateway.observing import Observation

if TYPE_CHECKING:
    from apprentice_pipeline.gateway.recording import Call

CLOSE_S = 3.0
MOST_NAME = 128
PROVIDER_NAMES = {"openai": "openai", "anthropic": "anthropic", "gemini": "gcp.gemini"}
OPERATIONS = {"gemini": "generate_content"}
"""The operation is `chat` for every provider that is not named here."""


class Spans:
    """Makes spans and exports them. One per process."""

    def __init__(self, wanted: Telemetry) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        except ImportError:
            raise UsageError(
                "gateway.telemetry needs the OpenTelemetry SDK and its OTLP exporter",
                remedy="pip install 'apprentice-pipeline[otel]'",
            ) from None
        service = {"service.name": "apprentice-gateway", "service.version": __version__}
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(wanted.sample)),
            resource=Resource.create(service),
            shutdown_on_exit=False,
        )
        logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)  # not every retry
        exporter = OTLPSpanExporter(endpoint=_traces_url(wanted.otlp_endpoint))
        self._provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                max_queue_size=wanted.queue_size,
                max_export_batch_size=min(512, wanted.queue_size),
                schedule_delay_millis=1_000,
            )
        )
        self._tracer = self._provider.get_tracer("apprentice_pipeline.gateway", __version__)

    def take(self, seen: Observation) -> None:
        """See `Watcher`. A call that is not one to capture makes no span."""
        call = seen.call
        if call is None:
            return
        from opentelemetry.trace import SpanKind, StatusCode

        told = attributes(seen, call)
        span = self._tracer.start_span(
            f"{told['gen_ai.operation.name']} {told.get('gen_ai.request.model', '')}".strip(),
            context=_parent(seen.traceparent),
            kind=SpanKind.CLIENT,
            attributes=told,
            start_time=seen.began_us * 1_000,
        )
        if "error.type" in told:
            span.set_status(StatusCode.ERROR)
        span.end(end_time=(seen.began_us + seen.latency_us) * 1_000)

    def close(self) -> None:
        """See `Watcher`. A collector that does not answer is not waited for."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(CLOSE_S)


def attributes(seen: Observation, call: Call) -> dict[str, Any]:
    """A span's attributes, those that are known."""
    exchange, request = call.exchange, call.known_request
    usage = exchange.usage if exchange is not None else None
    first_us = exchange.first_byte_us if exchange is not None else None
    finish = call.finish_reason
    told: dict[str, Any] = {
        "gen_ai.operation.name": OPERATIONS.get(call.provider, "chat"),
        "gen_ai.provider.name": PROVIDER_NAMES.get(call.provider, call.provider),
        "gen_ai.request.model": request.model[:MOST_NAME] if request is not None else None,
        "gen_ai.request.max_tokens": request.max_output_tokens if request is not None else None,
        "gen_ai.request.stream": request.streamed if request is not None else None,
        "gen_ai.response.model": exchange.model[:MOST_NAME] if exchange is not None else None,
        "gen_ai.response.finish_reasons": [finish[:MOST_NAME]] if finish else None,
        "gen_ai.usage.input_tokens": usage.input_tokens if usage else None,
        "gen_ai.usage.output_tokens": usage.output_tokens if usage else None,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens if usage else None,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens if usage else None,
        "apprentice.usage_source": usage.source if usage else None,
        "gen_ai.response.time_to_first_chunk": first_us / 1e6 if first_us is not None else None,
        "http.response.status_code": seen.status or None,
        "error.type": _error_type(seen),
        "apprentice.tenant": call.tenant,
        "apprentice.namespace": call.namespace,
        "apprentice.pair_id": call.pair_id,
        "apprentice.served_by": exchange.served_by if exchange is not None else None,
    }
    return {name: value for name, value in told.items() if value not in (None, "")}


def _error_type(seen: Observation) -> str | None:
    """The status of a refusal, `incomplete` where the response broke off, else None."""
    if seen.status >= 400:
        return str(seen.status)
    return None if seen.whole else "incomplete"


def _parent(traceparent: str) -> Any:
    """The client's trace as a context; a new trace where there is none, or no valid one."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent})


def _traces_url(endpoint: str) -> str:
    """Where the traces of an OTLP endpoint go."""
    base = endpoint.rstrip("/")
    return base if base.endswith("/v1/traces") else f"{base}/v1/traces"
