"""Parts from outside: an installed package's entry points and dotted paths, of all four kinds."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline import Apprentice, parts
from apprentice_pipeline.config import Local, Task
from apprentice_pipeline.config_file import parse_config
from apprentice_pipeline.demo.frontier import FrontierSettings, start_frontier
from apprentice_pipeline.distill.trainers import trainer_of
from apprentice_pipeline.distill.training import LoraSettings, TrainingRow
from apprentice_pipeline.errors import ConfigError, DistillError
from apprentice_pipeline.serving.opening import open_backend
from apprentice_pipeline.stages.adapter import trainer_name
from apprentice_pipeline.verify.evaluators import evaluator_for

ENTRY_POINTS = """\
[apprentice_pipeline.evaluators]
same_length = acme_parts.judging:same_length
[apprentice_pipeline.backends]
acme = acme_parts.serving:open_backend
[apprentice_pipeline.trainers]
acme = acme_parts.training:train
careless = acme_parts.training:careless
unsloth = acme_parts.training:train
[apprentice_pipeline.providers]
acme = acme_parts.providers:acme
broken = acme_parts.breaking:provider
"""
MODULES = {
    "__init__": "",
    "judging": "def same_length(reference, candidate):\n"
    "    return float(len(reference) == len(candidate))\n",
    "serving": "class Backend:\n    pass\n\n\ndef open_backend(workspace):\n    return Backend()\n",
    "training": "from apprentice_pipeline.distill.training import train_adapter\n\n\n"
    "def train(rows, base, out, settings, on_step=None):\n"
    "    report = train_adapter(rows, base, out, settings, on_step)\n"
    "    (out.parent / 'trained-by-acme').touch()\n"
    "    return report\n\n\n"
    "def careless(rows, base, out, settings, on_step=None):\n    return None\n",
    "providers": "import os\n\nfrom apprentice_pipeline.remote.providers import RemoteProvider\n"
    "from apprentice_pipeline.wire import openai\n\n\n"
    "def acme():\n"
    "    return RemoteProvider(openai, os.environ['ACME_URL'], 'chat.completions')\n",
    "breaking": "raise RuntimeError('canary')\n",
}


@pytest.fixture
def acme(tmp_path: Path) -> Iterator[Path]:
    """A package with entry points, installed the way pip leaves one."""
    folder = tmp_path / "site"
    (folder / "acme_parts").mkdir(parents=True)
    for name, text in MODULES.items():
        (folder / "acme_parts" / f"{name}.py").write_text(text)
    about = folder / "acme_parts-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-parts\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    yield folder
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.startswith("acme_parts")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "name", ["same_length", "acme_parts.judging:same_length", "acme_parts.judging.same_length"]
)
def test_an_evaluator_is_found_by_entry_point_and_by_dotted_path(acme: Path, name: str) -> None:
    config = parse_config(f"tasks: [{{name: t, evaluator: '{name}'}}]", source="x")
    evaluator = evaluator_for(config.task("t"))
    assert (evaluator.score("abc", "xyz"), evaluator.score("abc", "x")) == (1.0, 0.0)


def test_custom_is_the_entry_point_named_like_the_task(acme: Path) -> None:
    assert evaluator_for(Task(name="same_length", evaluator="custom")).score("ab", "xy") == 1.0


@pytest.mark.parametrize("name", ["acme", "acme_parts.serving:open_backend"])
def test_a_backend_is_found_by_entry_point_and_by_dotted_path(
    acme: Path, home: Any, name: str
) -> None:
    home.configure(f"local: {{backend: '{name}'}}")
    with home.open() as workspace:
        assert type(open_backend(workspace)).__module__ == "acme_parts.serving"


@pytest.mark.parametrize("name", ["acme", "acme_parts.providers.acme"])
def test_run_asks_a_provider_from_outside(
    acme: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with start_frontier(FrontierSettings(require_key="a-key"), {"hello": "hi"}) as frontier:
        monkeypatch.setenv("ACME_URL", frontier.url)
        file = tmp_path / "apprentice.yaml"
        file.write_text(
            "tasks: [{name: greet, output_schema: {}}]\n"
            f"remote: {{provider: '{name}', model: gpt-4o, api_key_env: A_KEY}}\n"
        )
        environment = {"APPRENTICE_HOME": str(tmp_path / "home"), "A_KEY": "a-key"}
        with Apprentice.from_config(file, environment=environment) as apprentice:
            result = apprentice.run("greet", {"text": "hello"})
    assert (result.output, result.served_by) == ("hi", "remote")


QUICK = LoraSettings(rank=2, alpha=4, epochs=1, batch_size=4, max_length=200)
ROWS = [TrainingRow(({"role": "user", "content": f"request {n}"},), "answer") for n in range(4)]


@pytest.mark.parametrize("name", ["acme", "unsloth", "acme_parts.training:train"])
def test_a_trainer_is_found_by_entry_point_and_by_dotted_path(
    acme: Path, tmp_path: Path, name: str
) -> None:
    from apprentice_pipeline.distill.base_model import resolve_base

    local = parse_config(f"local: {{fine_tune_backend: '{name}'}}", source="x").local
    trainer = trainer_of(trainer_name(local, None))
    report = trainer(ROWS, resolve_base("embedded").path, tmp_path / "out", QUICK, None)
    assert report.rows == len(ROWS)
    assert (tmp_path / "trained-by-acme").exists()


def test_a_trainer_that_leaves_no_adapter_is_refused(acme: Path, tmp_path: Path) -> None:
    with pytest.raises(DistillError, match=r"careless left no adapter_config\.json and no"):
        trainer_of("careless")(ROWS, tmp_path, tmp_path / "out", QUICK, None)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("tasks: [{name: a, evaluator: magic}]", "structured_match, .*, custom, same_length;"),
        ("local: {backend: magic}", "embedded, ollama, vllm, llama_cpp, acme;"),
        ("local: {fine_tune_backend: magic}", "huggingface, acme, careless, unsloth"),
        ("remote: {provider: magic}", "anthropic, openai, gemini, acme, broken;"),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(acme: Path, text: str, known: str) -> None:
    with pytest.raises(ConfigError, match=f"choose one of {known}") as refusal:
        parse_config(text, source="x")
    assert "package.module:attribute" in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("no_such_module:thing", "there is no module no_such_module"),
        ("acme_parts.serving:absent", "AttributeError"),
        ("broken", "RuntimeError"),
        ("gone", "nothing of that name is registered"),
    ],
)
def test_a_part_that_cannot_be_loaded_says_why_and_what_there_is(
    acme: Path, name: str, cause: str
) -> None:
    with pytest.raises(ConfigError, match=cause) as refusal:
        parts.load(parts.PROVIDERS, name)
    assert "canary" not in str(refusal.value)
    assert "anthropic, openai, gemini, acme, broken" in refusal.value.remedy


def test_naming_a_part_imports_nothing_of_it(acme: Path) -> None:
    parse_config("remote: {provider: broken}\nlocal: {backend: acme}", source="x")
    assert not [name for name in sys.modules if name.startswith("acme_parts")]


CONTRACT_LOCAL = "backend: ollama, base_model: 'llama3.1:8b', fine_tune_backend: unsloth"


def test_what_cannot_be_trained_is_refused_at_once_with_what_to_give(
    home: Any, run_apprentice: Callable[..., Any]
) -> None:
    home.configure(f"local: {{{CONTRACT_LOCAL}}}")
    outcome = run_apprentice(home, "distill", "--namespace", "tickets")
    assert outcome.status == 1
    assert "llama3.1:8b is no model that can be trained" in outcome.err
    assert "an Ollama tag that is no folder" in outcome.err
    assert "--base-model meta-llama/Llama-3.1-8B-Instruct" in outcome.err
    assert "fine_tune_backend unsloth is not installed" in outcome.err
    assert "--base-model embedded" in outcome.err
    assert "local.fine_tune_backend: huggingface" in outcome.err


def test_a_tag_whose_weights_are_not_known_is_refused_without_a_guess() -> None:
    local = Local(backend="ollama", base_model="mine:7b")
    with pytest.raises(DistillError, match="an Ollama tag") as refusal:
        trainer_name(local, None)
    assert refusal.value.remedy.startswith("give `--base-model embedded`")


def test_a_base_given_for_the_run_goes_to_the_built_in_trainer() -> None:
    local = Local(backend="ollama", base_model="llama3.1:8b", fine_tune_backend="unsloth")
    assert trainer_name(local, "embedded") == "huggingface"
    with pytest.raises(DistillError, match="base nonsense is no model"):
        trainer_name(local, "nonsense")
    with pytest.raises(DistillError, match="unsloth is not installed"):
        trainer_name(local.model_copy(update={"base_model": "embedded"}), None)


def test_a_name_found_in_data_is_never_imported(acme: Path, home: Any) -> None:
    from apprentice_pipeline.config import Remote
    from apprentice_pipeline.errors import RemoteError
    from apprentice_pipeline.remote.providers import remote_provider

    for name in ("acme", "os:getcwd"):
        with pytest.raises(RemoteError, match="unknown provider"):
            remote_provider(name, Remote())
    assert "acme_parts.providers" not in sys.modules
