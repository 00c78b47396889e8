"""The configuration: the contract's file loads, every fault comes at once with its line."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, ValidationError

from apprentice_pipeline.cli.template import TEMPLATE
from apprentice_pipeline.config import ConfidenceThresholds, Config, Task, config_document
from apprentice_pipeline.config_file import parse_config
from apprentice_pipeline.errors import ConfigError
from apprentice_pipeline.settings import Home, load_settings

CONTRACT = """\
tasks:
  - name: classify_ticket
    description: "Classify support tickets by category and priority"
    input_schema: {text: str, metadata: dict}
    output_schema: {category: str, priority: int, confidence: float}
    evaluator: structured_match        # or: semantic_similarity, exact_match, custom
    match_fields: [category, priority]
    confidence_thresholds:
      phase1_to_phase2: 50             # training examples before attempting local
      phase2_to_phase3: 0.85           # correlation to graduate
      coaching_trigger: 0.70           # below this, sampling increases
      emergency_threshold: 0.50        # below this, full remote
remote:
  provider: anthropic
  model: claude-sonnet-4-5-20250929
  api_key_env: ANTHROPIC_API_KEY
  additional_providers:
    - {provider: openai, model: gpt-4o, api_key_env: OPENAI_API_KEY}
local:
  backend: ollama                      # or: embedded, vllm, llama_cpp
  base_model: llama3.1:8b
  fine_tune_backend: unsloth           # or: huggingface, axolotl, openai
  fine_tune_batch_size: 100
  model_dir: ./models/
sampling:
  decay_function: exponential          # or: linear, step
  min_floor: 0.02
  window_size: 100
  trend_sensitivity: 0.05
budget: {daily: 10.00, weekly: 50.00, monthly: 150.00, currency: USD}
"""
FIVE_FAULTS = """\
taks: []
tasks:
  - name: Bad Name
    confidence_thresholds:
      emergency_threshold: 0.9
remote:
  provider: skynet
verify: {fraction: 2}
distill:
  threshold: many
"""
DOCUMENTATION = Path(__file__).parents[1] / "docs" / "CONFIGURATION.md"


def faults_of(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refusal:
        parse_config(text, source="apprentice.yaml")
    return refusal.value.faults


def test_the_contract_s_file_loads_as_it_stands() -> None:
    config = parse_config(CONTRACT, source="contract")
    task = config.task("classify_ticket")
    assert task is not None
    assert task.match_fields == ("category", "priority")
    assert config.first_training_needs("classify_ticket") == 50
    assert config.first_training_needs("captured-only") == 1_000
    assert config.budget.monthly == Decimal("150.00")
    assert config.remote.additional_providers[0].model == "gpt-4o"
    assert (config.local.backend, config.local.base_model) == ("ollama", "llama3.1:8b")


def test_an_empty_file_means_defaults() -> None:
    assert parse_config("", source="x") == parse_config("# nothing\n", source="x") == Config()


def test_the_file_that_init_writes_loads_and_its_comments_are_the_defaults() -> None:
    config = parse_config(TEMPLATE, source="template")
    assert [task.name for task in config.tasks] == ["classify_ticket"]
    commented = [line.removeprefix("# ") for line in TEMPLATE.splitlines() if line.startswith("# ")]
    sections = "\n".join(line for line in commented if ": {" in line)
    given = parse_config(sections, source="comments").model_dump(exclude_unset=True)
    limits = given.pop("budget")
    assert set(limits) == {"daily", "weekly", "monthly"}
    assert given == subset(Config().model_dump(), given)


def subset(whole: dict[str, object], names: dict[str, object]) -> dict[str, object]:
    return {
        name: subset(whole[name], value) if isinstance(value, dict) else whole[name]  # type: ignore[arg-type]
        for name, value in names.items()
    }


def test_every_fault_of_a_file_comes_at_once_each_with_its_line() -> None:
    faults = faults_of(FIVE_FAULTS)
    assert [fault.split(":")[0] for fault in faults] == [
        "line 1",
        "line 3",
        "line 5",
        "line 7",
        "line 8",
        "line 10",
    ]
    assert faults[0] == "line 1: taks: unknown key"
    assert "task names match" in faults[1]
    assert "thresholds must rise" in faults[2]
    assert "remote.provider" in faults[3]
    assert "verify.fraction" in faults[4]
    assert "distill.threshold" in faults[5]


def test_faults_between_keys_come_with_all_others_each_with_its_line() -> None:
    faults = faults_of(
        "tasks:\n"
        "  - name: a\n"
        "    output_schema: {x: string}\n"
        "    match_fields: [y]\n"
        "  - name: Bad Name\n"
        "  - name: a\n"
        "    confidence_thresholds:\n"
        "      phase2_to_phase3: high\n"
        "      coaching_trigger: 0.4\n"
        "verify: {k: 0}\n"
    )
    said = [
        ("line 3", "output_schema.x"),
        ("line 4", "match_fields not in output_schema: y"),
        ("line 5", "task names match"),
        ("line 6", "tasks declared twice: a"),
        ("line 8", "phase2_to_phase3"),
        ("line 9", "thresholds must rise"),
        ("line 10", "verify.k"),
    ]
    assert [fault.split(":")[0] for fault in faults] == [line for line, _ in said]
    assert all(words in fault for fault, (_, words) in zip(faults, said, strict=True))


def test_a_fault_is_not_taken_for_a_fault_between_keys() -> None:
    """What is not known to be wrong is not said to be wrong."""
    (fault,) = faults_of(
        "tasks: [{name: a, confidence_thresholds: {coaching_trigger: x, emergency_threshold: 0.8}}]"
    )
    assert "coaching_trigger" in fault
    (fault,) = faults_of("tasks: [{name: a, output_schema: [x], match_fields: [y]}]")
    assert "output_schema" in fault


def test_faults_between_keys_are_faults_in_code_too() -> None:
    with pytest.raises(ValidationError, match="thresholds must rise"):
        ConfidenceThresholds(coaching_trigger=0.9)
    with pytest.raises(ValidationError, match="declared twice"):
        Config(tasks=(Task(name="a"), Task(name="a")))


def test_a_key_that_stands_twice_is_a_fault_at_its_second_line() -> None:
    assert faults_of("distill:\n  rank: 4\n  epochs: 2\n  rank: 8\n") == (
        "line 4: rank: this key appears twice",
    )
    assert faults_of("budget: {}\nlocal: {}\nbudget: {}\n") == (
        "line 3: budget: this key appears twice",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("local: {backend: gpu_magic}", "choose one of embedded, ollama, vllm, llama_cpp"),
        ("local: {fine_tune_backend: magic}", "choose one of huggingface"),
        ("tasks: [{name: a, evaluator: magic}]", "package.module:attribute"),
        ("tasks: [{name: a, input_schema: {text: string}}]", "input_schema.text"),
        ("tasks: [{description: b}]", "name: this key is required"),
        ("tasks: [{name: a}, {name: a}]", "tasks declared twice: a"),
        (
            "tasks: [{name: a, output_schema: {x: str}, match_fields: [y]}]",
            "match_fields not in output_schema: y",
        ),
        ("tasks: {name: a}", "tasks"),
        ("remote: {prices: {m: {input: -1, output: 1}}}", "remote.prices.m.input"),
        ("budget: {currency: EUR}", "budget.currency"),
        ("budget: {daily: -1}", "budget.daily"),
        ("gateway: {port: 70000}", "gateway.port"),
        ("distill: {holdout_fraction: 1.0}", "distill.holdout_fraction"),
        ("- just\n- a list\n", "mapping of sections"),
        ("tasks: [\n", "line 2"),
        ("a: 'b", "line 1"),
        ("1: x", "1"),
        ("serving: {max_disagreement: 0}", "serving.max_disagreement"),
        ("serving: {max_disagreement: 1}", "serving.max_disagreement"),
        ("serving: {risk_delta: 0.0}", "serving.risk_delta"),
        ("serving: {risk_delta: 1.0}", "serving.risk_delta"),
        ("kscore: {bootstrap: 100000000}", "kscore.bootstrap"),
        ("distill: {learning_rate: .inf}", "distill.learning_rate"),
        ("verify: {fraction: .nan}", "verify.fraction"),
        ("{[a, b]: c}", "line 1"),
        ("a: 1\n---\nb: 2\n", "line 2"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(text: str, said: str) -> None:
    (fault,) = faults_of(text)
    assert said in fault
    assert fault.startswith("line ")


@pytest.mark.parametrize(
    "text",
    [
        "sampling: {window_size: true}",
        "sampling: {window_size: '100'}",
        "sampling: {window_size: 100.0}",
        "sampling: {min_floor: '0.1'}",
        "sampling: {min_floor: true}",
        "gateway: {port: '8710'}",
        "capture: {inject_usage: 1}",
        "capture: {inject_usage: 'yes'}",
        "budget: {daily: '10'}",
        "budget: {daily: true}",
        "remote: {model: 4}",
    ],
)
def test_a_value_is_not_taken_for_one_of_another_type(text: str) -> None:
    (fault,) = faults_of(text)
    section, key = re.findall(r"\w+", text)[:2]
    assert f"{section}.{key}" in fault


def test_no_key_takes_a_value_of_another_type() -> None:
    """Every number and every truth value of every section, whatever is added to it."""
    wrong = {int: (True, "1", 1.0), float: (True, "0.5"), bool: (1, "true"), Decimal: (True, "1")}
    tried = 0
    for section in sections(Config):
        for name, field in section.model_fields.items():
            for value in (v for kind in kinds(field.annotation) for v in wrong.get(kind, ())):
                with pytest.raises(ValidationError, match=rf"\n{name}\n"):
                    section.model_validate({name: value})
                tried += 1
    assert tried > 100


def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for kind in kinds(field.annotation):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from sections(kind)


def kinds(annotation: object) -> Iterator[object]:
    """The types an annotation is made of."""
    parts = get_args(annotation)
    if not parts:
        yield annotation
    for part in parts:
        yield from kinds(part)


def test_numbers_are_read_as_everyone_writes_them() -> None:
    config = parse_config(
        "distill: {learning_rate: 2e-4, dropout: 0}\nsampling: {min_floor: 1}\n"
        "budget: {daily: 10, weekly: 0.30}",
        source="x",
    )
    assert config.distill.learning_rate == 0.0002
    assert (config.distill.dropout, config.sampling.min_floor) == (0.0, 1.0)
    assert (config.budget.daily, config.budget.weekly) == (Decimal(10), Decimal("0.3"))


def test_a_step_table_rises_in_at_falls_in_pi_and_needs_the_step_decay() -> None:
    config = parse_config(
        "sampling: {decay_function: step, step_table: [{at: 0, pi: 1}, {at: 0.5, pi: 0.2}]}",
        source="x",
    )
    assert [(step.at, step.pi) for step in config.sampling.step_table] == [(0, 1), (0.5, 0.2)]
    faults = faults_of(
        "sampling:\n"
        "  step_table:\n"
        "    - {at: 0, pi: 0.5}\n"
        "    - {at: 0, pi: 0.6}\n"
        "    - {at: 1.5}\n"
    )
    assert [fault.split(":")[0] for fault in faults] == [f"line {n}" for n in (2, 4, 4, 5, 5)]
    assert "decay_function: step" in faults[0]
    assert {"step_table[1].at", "step_table[1].pi"} == {f.split(": ")[1][9:] for f in faults[1:3]}


def test_a_time_zone_that_does_not_exist_is_refused() -> None:
    (fault,) = faults_of("budget: {timezone: Mars/Olympus}")
    assert "budget.timezone" in fault
    assert parse_config("budget: {timezone: Europe/Berlin}", source="x").budget.timezone


def test_plug_ins_are_named_by_dotted_path() -> None:
    config = parse_config(
        "tasks: [{name: a, evaluator: 'my.judges:strict'}]\n"
        "local: {backend: 'my.backends:open', fine_tune_backend: 'my.trainers:go'}",
        source="x",
    )
    assert config.tasks[0].evaluator == "my.judges:strict"
    assert config.local.backend == "my.backends:open"


def test_a_file_that_was_named_must_exist_and_the_default_file_need_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist") as refusal:
        load_settings({"APPRENTICE_CONFIG": str(tmp_path / "absent.yaml")})
    assert "apprentice init" in refusal.value.remedy
    with pytest.raises(ConfigError, match="does not exist"):
        load_settings({}, path=tmp_path / "absent.yaml")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "apprentice.yaml"
    file.write_bytes(b"\xff\xfe\x00tasks")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_settings({}, path=file)


def test_settings_come_from_the_environment_given_and_from_no_other(tmp_path: Path) -> None:
    file = tmp_path / "apprentice.yaml"
    file.write_text("distill: {threshold: 7}")
    environment = {
        "APPRENTICE_CONFIG": str(file),
        "APPRENTICE_HOME": str(tmp_path / "home"),
        "APPRENTICE_MASTER_KEY": base64.b64encode(bytes(range(32))).decode(),
        "APPRENTICE_SIGNING_SECRET": "hush",
        "SOME_KEY": "sk-1",
        "EMPTY_KEY": "",
    }
    settings = load_settings(environment)
    assert settings.config.distill.threshold == 7
    assert settings.home == Home(tmp_path / "home")
    assert settings.master_key == bytes(range(32))
    assert settings.signing_secret == b"hush"
    assert settings.api_key("SOME_KEY") == "sk-1"
    assert settings.api_key("EMPTY_KEY") is None
    assert settings.api_key("PATH") is None
    assert not (tmp_path / "home").exists()


def test_without_an_environment_there_is_no_secret_and_the_home_is_here(tmp_path: Path) -> None:
    file = tmp_path / "apprentice.yaml"
    file.write_text("")
    settings = load_settings({}, path=file)
    assert settings.home.root == Path("./.apprentice").absolute()
    assert (settings.master_key, settings.signing_secret) == (None, None)


@pytest.mark.parametrize("text", ["short", "c2hvcnQ=", "!" * 44, base64.b64encode(bytes(33))])
def test_a_master_key_that_is_not_32_bytes_in_base64_is_refused_without_being_shown(
    text: str | bytes,
) -> None:
    given = text.decode() if isinstance(text, bytes) else text
    with pytest.raises(ConfigError, match="32 bytes in base64") as refusal:
        load_settings({"APPRENTICE_MASTER_KEY": given})
    assert given not in str(refusal.value)
    assert "openssl rand" in refusal.value.remedy


def test_the_folder_of_models_is_taken_from_the_file_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "elsewhere").mkdir()
    file = tmp_path / "project" / "apprentice.yaml"
    monkeypatch.chdir(tmp_path / "elsewhere")
    placed = {
        "./models/": tmp_path / "project" / "models",
        "../shared": tmp_path / "shared",
        str(tmp_path / "absolute"): tmp_path / "absolute",
        "~/models": Path.home() / "models",
    }
    for given, folder in placed.items():
        file.write_text(f"local: {{model_dir: {given}}}")
        found = Path(load_settings({}, path="../project/apprentice.yaml").config.local.model_dir)
        assert found.is_absolute()
        assert found.resolve() == folder.resolve()
    assert load_settings({}).config.local.model_dir == str(tmp_path / "elsewhere" / "models")


def test_faults_of_the_environment_come_with_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "apprentice.yaml"
    file.write_text("verify:\n  k: 0\nsampling: {window_size: true}\n")
    with pytest.raises(ConfigError) as refusal:
        load_settings({"APPRENTICE_MASTER_KEY": "short"}, path=file)
    assert [fault.split(":")[0] for fault in refusal.value.faults] == [
        "line 2",
        "line 3",
        "APPRENTICE_MASTER_KEY must be 32 bytes in base64",
    ]
    assert f"{file} and environment: 3 faults" in refusal.value.message
    assert "correct the lines" in refusal.value.remedy
    assert "openssl rand" in refusal.value.remedy


def test_a_wrong_environment_and_an_absent_file_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_settings({"APPRENTICE_MASTER_KEY": "short"}, path=tmp_path / "absent.yaml")
    assert len(refusal.value.faults) == 2
    assert "apprentice init" in refusal.value.remedy
    assert "openssl rand" in refusal.value.remedy


def test_the_effective_configuration_is_plain_json_that_loads_again() -> None:
    import json

    config = parse_config(CONTRACT, source="contract")
    again = parse_config(json.dumps(config_document(config)), source="again")
    assert again == config


def test_every_path_of_a_home_lies_under_its_root(tmp_path: Path) -> None:
    home = Home(tmp_path)
    public = (getattr(home, name) for name in vars(Home) if not name.startswith("_"))
    named = [value for value in public if isinstance(value, Path)]
    assert len(named) > 8
    assert all(path.is_relative_to(tmp_path) for path in named)
    assert list(tmp_path.iterdir()) == []


def leaves(model: type[BaseModel]) -> Iterator[str]:
    """The names of every key, sections and leaves alike."""
    for name, found in model.model_fields.items():
        yield name
        for part in (found.annotation, *get_args(found.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from leaves(part)


@pytest.mark.skipif(not DOCUMENTATION.exists(), reason="docs/CONFIGURATION.md is not written yet")
def test_every_key_is_documented() -> None:
    text = DOCUMENTATION.read_text(encoding="utf-8")
    missing = sorted(
        {name for name in leaves(Config) if not re.search(rf"(?<!\w){name}(?!\w)", text)}
    )
    assert missing == []
