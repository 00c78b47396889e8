"""Seeds of a fuzzing run: small inputs that reach deep, made by the product's own writers.

Belongs here: bytes for `properties.taken_apart`. Does not: keeping them; they are made anew in
a folder of the run. Nothing in them is anyone's traffic.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson

from apprentice_pipeline.errors import WireError
from apprentice_pipeline.records import Answer, Usage
from apprentice_pipeline.wire.forms import WireRequest
from apprentice_pipeline.wire.outputs import function_call, normal_form
from fuzz.properties import CODINGS, COMPRESSORS, READERS

CUTS = bytes([4, 20, 90, 91, 200])
ANSWERS = (
    "yes",
    normal_form([{"type": "text", "text": "é😀"}], [function_call("c1", "f", '{"a":[1]}')]),
    normal_form([{"type": "refusal", "refusal": "no"}], []),
)
LINES = b"\xef\xbb\xbf: note\r\nevent: x\rdata: 1\ndata\r\n\r\ndata:2\n\nid: 7\ndata: 3"
HEADERS = (
    b"connection: close, x-mine\nx-mine: 1\ntransfer-encoding: chunked\nx-apprentice-key: ak_1\n"
    b"authorization: Bearer t\ncontent-length: 5\naccept: */*\naccept: text/plain\nx-l: \xe9"
)
BODIES = (
    b'{"model":"m","messages":[{"role":"user","content":"q"}],"stream":true,"max_tokens":5}',
    b'{"model":"m","input":"q","instructions":"i","max_output_tokens":5}',
    b'{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"q"}]}]}',
    b'{"model":"m","system":[{"type":"text","text":"s"}],"messages":[],"max_tokens":1e400}',
    b'{"contents":[{"role":"user","parts":[{"text":"q"}]}],"generationConfig":{}}',
)


def write_seeds(target: str, folder: Path) -> int:
    """Writes the seeds of a target; how many."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for number, seed in enumerate(_seeds(target), start=1):
        (folder / f"seed-{number}").write_bytes(seed)
    return number


def _seeds(target: str) -> Iterator[bytes]:
    if target == "headers":
        yield HEADERS
    elif target == "sse":
        yield b"\0" + CUTS + LINES
    elif target == "encodings":
        for choice, coding in enumerate(CODINGS):
            for body in (b"plain", b"a" * 200):
                packed = COMPRESSORS.get(coding, bytes)(body)
                yield bytes([choice]) + CUTS + packed
    elif target == "requests":
        for choice in range(len(READERS)):
            yield from (bytes([choice]) + CUTS + body for body in BODIES)
    else:
        yield from _answers(streamed=target in {"streams", "tee"})


def _answers(*, streamed: bool) -> Iterator[bytes]:
    """Every reader's answers, plain and in every coding."""
    for choice, (wire, endpoint) in enumerate(READERS):
        for output in ANSWERS:
            answer = Answer(output, "m", "local", 1, Usage(3, 4, 1, 0, "provider"))
            write = wire.write_stream if streamed else wire.write_response
            try:
                made = write(endpoint, _ASKED, answer, response_id="r", created_s=1)
                body = made if isinstance(made, bytes) else b"".join(made)
            except WireError:
                continue
            for number, coding in enumerate(CODINGS[:5]):
                packed = COMPRESSORS.get(coding, bytes)(body)
                yield bytes([choice + number * len(READERS)]) + CUTS + packed
    yield b"\0" + CUTS + orjson.dumps({"choices": [{"message": {"content": [{"type": "x"}]}}]})


_ASKED = WireRequest("m", True, {"messages": [], "parameters": {}}, None, include_usage=True)
