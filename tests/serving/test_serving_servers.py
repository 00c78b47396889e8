"""The backends over servers that others run, against a small server that speaks their HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.errors import DeadlineMissed, Overloaded, ServingError
from apprentice_pipeline.serving.backend import Backend, LocalRequest
from apprentice_pipeline.serving.opening import open_backend
from apprentice_pipeline.store.state import ChampionRecord
from apprentice_pipeline.store.workspace import Workspace

LOGPROBS = [{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -0.2}]


class LocalServer:
    """What vLLM, llama.cpp and Ollama answer, as far as they are asked here."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.adapters: list[dict[str, Any]] = []
        self.models = ["tiny-base"]
        self.logprobs: Any = {"content": LOGPROBS}
        self.status = 200
        self.hold = threading.Event()
        self.hold.set()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self.hold.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def bodies(self, path: str) -> list[Any]:
        return [body for called, body in self.calls if called == path]

    def answer(self, path: str, body: Any) -> Any:
        if path == "/v1/models":
            return {"data": [{"id": name, "root": name} for name in self.models]}
        if path == "/lora-adapters":
            return self.adapters
        if path == "/api/tags":
            return {"models": [{"model": name} for name in self.models]}
        if path == "/api/create":
            self.models.append(body["model"])
            return {"status": "success"}
        if path == "/api/generate":
            return {
                "response": "ab",
                "done": True,
                "done_reason": "stop",
                "prompt_eval_count": 7,
                "eval_count": 3,
                "logprobs": LOGPROBS,
            }
        if path == "/v1/chat/completions":
            choice = {"message": {"content": "ab"}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 7, "completion_tokens": 3}
            return {"choices": [choice | {"logprobs": self.logprobs}], "usage": usage}
        return {}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._reply(None)

            def do_POST(self) -> None:
                if self.headers.get("transfer-encoding") == "chunked":
                    body = self._chunks()
                else:
                    body = self.rfile.read(int(self.headers.get("content-length") or 0))
                self._reply(json.loads(body) if body.startswith(b"{") else len(body))

            def _chunks(self) -> bytes:
                data = b""
                while size := int(self.rfile.readline(), 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return b"(blob)" + data

            def _reply(self, body: Any) -> None:
                server.calls.append((self.path, body))
                if "completions" in self.path:
                    server.hold.wait(10)
                reply = json.dumps(server.answer(self.path, body)).encode()
                self.send_response(server.status)
                self.send_header("content-length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *args: Any) -> None:
                pass

        return Handler


def names_in(folder: str | Path) -> list[str]:
    return sorted(file.name for file in Path(folder).iterdir())


@pytest.fixture
def server() -> Iterator[LocalServer]:
    running = LocalServer()
    yield running
    running.close()


@pytest.fixture
def make(
    open_workspace: Callable[..., Workspace], tmp_path: Path, server: LocalServer
) -> Callable[..., Backend]:
    def make_one(name: str, **local: Any) -> Backend:
        settings = {"url": server.url} | local
        return open_backend(open_workspace(tmp_path, backend=name, **settings))

    return make_one


def ask(champion: ChampionRecord, **changes: Any) -> LocalRequest:
    return LocalRequest(
        tenant=champion.tenant,
        namespace=champion.namespace,
        version=champion.version,
        conversation=[{"role": "user", "content": "hello"}],
        max_new_tokens=16,
        deadline_ms=changes.get("deadline_ms", 10_000),
    )


async def test_vllm_is_given_the_verified_adapter_and_asked_for_it_by_name(
    make: Callable[..., Backend], server: LocalServer, factory: Any
) -> None:
    backend, champion = make("vllm"), factory.champion("tickets")
    assert await backend.ready(champion, wait_s=30), backend.refusal(champion)
    answer = await backend.answer(ask(champion))
    assert (answer.text, answer.output_tokens, answer.complete) == ("ab", 3, True)
    assert answer.confidence == pytest.approx(0.7408, abs=1e-4)
    (loaded,) = server.bodies("/v1/load_lora_adapter")
    (asked,) = server.bodies("/v1/chat/completions")
    assert asked["model"] == loaded["lora_name"] == "apprentice-default.tickets-v1"
    assert asked["temperature"] == 0
    assert names_in(loaded["lora_path"]) == ["adapter_config.json", "adapter_model.safetensors"]
    await backend.close()


async def test_vllm_with_another_base_is_refused(
    make: Callable[..., Backend], server: LocalServer, factory: Any
) -> None:
    server.models = ["another-model"]
    backend, champion = make("vllm"), factory.champion("tickets")
    assert not await backend.ready(champion, wait_s=30)
    assert "does not run tiny-base" in (backend.refusal(champion) or "")
    assert not server.bodies("/v1/load_lora_adapter")
    await backend.close()


async def test_llama_cpp_answers_with_the_one_adapter_of_the_champion(
    make: Callable[..., Backend], server: LocalServer, factory: Any
) -> None:
    backend, champion = make("llama_cpp"), factory.champion("tickets")
    server.adapters = [{"id": 0, "path": "/models/other.gguf", "scale": 0.0}]
    server.adapters += [{"id": 1, "path": f"/models/{champion.digest[:12]}.gguf", "scale": 0.0}]
    assert await backend.ready(champion, wait_s=30), backend.refusal(champion)
    await backend.answer(ask(champion))
    (asked,) = server.bodies("/v1/chat/completions")
    assert asked["lora"] == [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}]
    await backend.close()


async def test_llama_cpp_without_the_adapter_says_how_to_give_it(
    make: Callable[..., Backend], factory: Any
) -> None:
    backend, champion = make("llama_cpp"), factory.champion("tickets")
    assert not await backend.ready(champion, wait_s=30)
    assert "convert_lora_to_gguf.py" in (backend.refusal(champion) or "")
    await backend.close()


async def test_ollama_gets_the_merged_model_once_and_prompts_as_the_base_wants_them(
    make: Callable[..., Backend], server: LocalServer, factory: Any, tmp_path: Path
) -> None:
    backend, champion = make("ollama"), factory.champion("tickets")
    assert await backend.ready(champion, wait_s=120), backend.refusal(champion)
    answer = await backend.answer(ask(champion))
    assert answer.confidence == pytest.approx(0.7408, abs=1e-4)
    (created,) = server.bodies("/api/create")
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(created["files"])
    (asked,) = server.bodies("/api/generate")
    assert asked["raw"]
    assert asked["prompt"] == "<|user|>hello<|end|><|assistant|>"
    assert asked["model"] == created["model"]
    await backend.close()
    again = make("ollama")
    assert await again.ready(champion, wait_s=60)
    assert len(server.bodies("/api/create")) == 1
    assert names_in(tmp_path / "run" / "ollama") == []
    await again.close()


async def test_a_forged_champion_never_reaches_a_server(
    make: Callable[..., Backend], server: LocalServer, factory: Any
) -> None:
    real = factory.champion("tickets")
    forged = ChampionRecord("default", "tickets", 1, "0" * 64, real.path, {}, 0)
    for name in ("vllm", "llama_cpp", "ollama"):
        backend = make(name)
        assert not await backend.ready(forged, wait_s=30)
        assert "champion record says" in (backend.refusal(forged) or "")
        await backend.close()
    assert server.calls == []


async def test_a_server_without_log_probabilities_gives_no_answers(
    make: Callable[..., Backend], server: LocalServer, factory: Any
) -> None:
    backend, champion = make("vllm"), factory.champion("tickets")
    assert await backend.ready(champion, wait_s=30)
    server.logprobs = None
    with pytest.raises(ServingError, match="log-probabilities"):
        await backend.answer(ask(champion))
    await backend.close()


async def test_a_slow_server_misses_the_deadline_and_a_busy_one_is_full(
    make: Callable[..., Backend], server: LocalServer, factory: Any
) -> None:
    import asyncio

    backend, champion = make("vllm", queue_size=1), factory.champion("tickets")
    assert await backend.ready(champion, wait_s=30)
    server.hold.clear()
    slow = asyncio.create_task(backend.answer(ask(champion, deadline_ms=300)))
    await asyncio.sleep(0.05)
    with pytest.raises(Overloaded):
        await backend.answer(ask(champion))
    with pytest.raises(DeadlineMissed):
        await slow
    await backend.close()


async def test_a_server_that_is_not_there_is_a_refusal_with_the_remedy(
    make: Callable[..., Backend], factory: Any
) -> None:
    champion = factory.champion("tickets")
    for name in ("vllm", "llama_cpp"):
        backend = make(name, url="http://127.0.0.1:9")
        assert not await backend.ready(champion, wait_s=30)
        assert "correct local.url" in (backend.refusal(champion) or "")
        await backend.close()
