"""A call that has passed, and what its bytes turn out to be: an exchange.

Belongs here: reading a request and its response after the fact, what they cost, what they count
as. Does not: when, or in which process: mostly the spool's writer (`writer`), so that a worker's
event loop only passes bytes on.
Promise: nothing here raises but `Unstorable`; what cannot be read is counted and kept without its
content.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import orjson

from apprentice_pipeline.config import Config
from apprentice_pipeline.errors import Unstorable, WireError
from apprentice_pipeline.reading.encodings import decoded, decoder
from apprentice_pipeline.reading.pricing import Pricing
from apprentice_pipeline.records import CUT, REFUSED, WHOLE, Exchange, Usage
from apprentice_pipeline.store.sealing import PlainRow, plain_row
from apprentice_pipeline.store.unread import UNREAD, Counts, Reading
from apprentice_pipeline.wire.conversation import estimate_usage
from apprentice_pipeline.wire.forms import WireFormat, WireRequest, WireResponse
from apprentice_pipeline.wire.outputs import ending_of
from apprentice_pipeline.wire.providers import PROVIDERS, wire_format
from apprentice_pipeline.wire.redaction import Redactor, redactor

NO_CONTENT: dict[str, Any] = {"messages": [], "parameters": {}}
Form = Literal["events", "whole", "none"]
_FORMATS: dict[str, WireFormat] = {name: wire_format(name) for name in PROVIDERS}
_NOT_WHOLE = {CUT: "answers_cut", REFUSED: "answers_refused"}


class Passed(NamedTuple):
    """One call after it passed, unread: lives in memory only.

    `form` says how the response came: as events, as one body, or not to be read at all; `ended`
    whether it came to its end. `target` is the upstream path with its query.
    """

    pair_id: str
    tenant: str
    namespace: str
    request: bytes
    response: bytes
    provider: str
    endpoint: str
    target: str
    created_at_us: int
    status: int
    form: Form
    ended: bool
    latency_us: int
    first_byte_us: int | None
    inclusion_probability: float
    request_coding: str
    response_coding: str

    @property
    def is_good(self) -> bool:
        """Whether the provider said so."""
        return 200 <= self.status < 300

    def row(self) -> PlainRow:
        """The call as an unread row."""
        facts = (
            self.provider,
            self.endpoint,
            self.target,
            self.created_at_us,
            self.status,
            self.form,
            self.ended,
            self.latency_us,
            self.first_byte_us,
            self.inclusion_probability,
            self.request_coding,
            self.response_coding,
        )
        return PlainRow(
            UNREAD,
            self.tenant,
            self.namespace,
            self.pair_id,
            orjson.dumps(facts),
            self.request,
            self.response,
        )

    @classmethod
    def of(cls, row: PlainRow) -> Passed:
        """The call in an unread row."""
        return cls(
            row.pair_id,
            row.tenant,
            row.namespace,
            row.first or b"",
            row.second or b"",
            *orjson.loads(row.facts),
        )


class Told(NamedTuple):
    """What a call turned out to be; `unreadable`: how many of its two halves are not."""

    exchange: Exchange
    finish_reason: str | None
    unreadable: int


class ExchangeReader:
    """Reads calls. One per process."""

    def __init__(self, pricing: Pricing, most_bytes: int, redact: Redactor | None = None) -> None:
        self._pricing = pricing
        self.most_bytes = most_bytes
        self._redact = redact or Redactor(())

    @classmethod
    def of(cls, config: Config) -> ExchangeReader:
        """With a configuration's prices, limits and redaction."""
        capture = config.capture
        return cls(Pricing(config.remote.prices), capture.max_bytes, redactor(capture))

    def __call__(self, row: PlainRow) -> Reading:
        """See `store.unread.Reader`."""
        told = self.read(Passed.of(row))
        kept, told = self.kept(told)
        return Reading(kept, counts_of(told))

    def kept(self, told: Told) -> tuple[PlainRow, Told]:
        """The row to store: redacted, and without its content where that cannot be stored."""
        tenant = told.exchange.tenant
        try:
            return plain_row(self._redact.redacted(told.exchange), tenant), told
        except (Unstorable, RecursionError):
            told = without_content(told)
            return plain_row(told.exchange, tenant), told

    def read(self, passed: Passed) -> Told:
        """The exchange that a call was."""
        wire = _FORMATS[passed.provider]
        request = self._request(wire, passed)
        response, complete, readable = self._response(wire, passed)
        usage = _usage(request, response, whole=complete and passed.is_good)
        answered = request is not None and response is not None and passed.is_good
        output = response.output if answered and response is not None else None
        said = response.model if response is not None else ""
        model = said or (request.model if request is not None else "")
        priced = output is not None
        exchange = Exchange(
            pair_id=passed.pair_id,
            tenant=passed.tenant,
            namespace=passed.namespace,
            created_at_us=passed.created_at_us,
            provider=passed.provider,
            endpoint=passed.endpoint,
            model=model,
            status=passed.status,
            complete=complete,
            streamed=request is not None and request.streamed,
            served_by="remote",
            input=request.input if request is not None else NO_CONTENT,
            output=output,
            latency_us=passed.latency_us,
            first_byte_us=passed.first_byte_us,
            usage=usage,
            cost_usd=self._pricing.cost_usd(passed.provider, model, usage) if priced else None,
            inclusion_probability=passed.inclusion_probability,
            ending=ending_of(response) if answered and response is not None else WHOLE,
        )
        reason = response.finish_reason if response is not None else None
        return Told(exchange, reason, (request is None) + (not readable))

    def _request(self, wire: WireFormat, passed: Passed) -> WireRequest | None:
        try:
            plain = decoded(passed.request, passed.request_coding, self.most_bytes)
            return wire.read_request(passed.endpoint, plain, passed.target)
        except WireError:
            return None

    def _response(self, wire: WireFormat, passed: Passed) -> tuple[WireResponse | None, bool, bool]:
        """The answer as far as it came, whether it came whole, and whether it can be read."""
        if passed.form == "events":
            return self._events(wire, passed)
        if passed.form == "none" or not passed.is_good:
            return None, passed.ended, True
        try:
            body = decoded(passed.response, passed.response_coding, self.most_bytes)
            return wire.read_response(passed.endpoint, body), passed.ended, True
        except WireError:
            return None, passed.ended, False

    def _events(self, wire: WireFormat, passed: Passed) -> tuple[WireResponse | None, bool, bool]:
        reader = wire.stream_reader(passed.endpoint)
        readable = True
        try:
            reader.feed(decoder(passed.response_coding, self.most_bytes).feed(passed.response))
        except WireError:
            readable = False
        if passed.ended:
            reader.close()
        response = reader.result()
        empty = reader.complete and response is None  # an end alone is no answer
        readable = readable and not reader.malformed and not empty
        return response, reader.complete and readable, readable


def without_content(told: Told) -> Told:
    """The same as a call that could not be read: no pair any more."""
    exchange = told.exchange._replace(input=NO_CONTENT, output=None)
    return Told(exchange, told.finish_reason, told.unreadable + 1)


def counts_of(told: Told) -> Counts:
    """What a remote exchange adds to its stream's counters."""
    exchange, usage = told.exchange, told.exchange.usage
    counts: dict[str, float] = {}
    if exchange.is_pair:
        counts["pairs"] = 1
    elif exchange.status >= 400:
        counts["errors"] = 1
    elif not exchange.complete:
        counts["incomplete"] = 1
    elif exchange.ending != WHOLE:
        counts[_NOT_WHOLE[exchange.ending]] = 1
    if told.unreadable:
        counts["unreadable"] = told.unreadable
    if usage.input_tokens is not None:
        counts["input_tokens"] = usage.input_tokens
    if usage.output_tokens is not None:
        counts["output_tokens"] = usage.output_tokens
    if usage.source == "estimated":
        counts["usage_estimated"] = 1
    if exchange.cost_usd is not None:
        counts |= {"cost_usd": exchange.cost_usd, "priced": 1}
    elif exchange.output is not None:
        counts["unpriced"] = 1
    return counts


def _usage(request: WireRequest | None, response: WireResponse | None, *, whole: bool) -> Usage:
    if response is None:
        return Usage()
    if response.usage.source != "none" or not whole or request is None:
        return response.usage
    return estimate_usage(request.input, response.output)
