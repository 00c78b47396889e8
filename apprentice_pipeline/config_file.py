"""The text of `apprentice.yaml` as a configuration, or as faults with their lines.

Belongs here: YAML, where in it a fault stands. Does not: what a key means (`config`).
Promise: all faults of a file are reported at once, each with its line.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from pydantic import ValidationError

from apprentice_pipeline.config import Config
from apprentice_pipeline.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML as everyone writes it: `2e-4` is a number, which YAML 1.1 reads as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"),
    [*"-+0123456789"],
)


def read_config(file: Path) -> Config:
    """The configuration in `file`. Raises: ConfigError."""
    return parse_config(_text_of(file), source=str(file))


def parse_config(text: str, *, source: str) -> Config:
    """The configuration in `text`; `source` names it in messages.

    Raises: ConfigError with every unknown key, wrong type and impossible value, with lines.
    """
    try:
        root = yaml.compose(text, Loader=_Loader)
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise ConfigError([f"{where}{problem}"], source=source) from None
    if document is None:
        return Config()
    if not isinstance(document, dict):
        raise ConfigError(["line 1: the file must hold a mapping of sections"], source=source)
    faults = _repeated_keys(root)
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        faults += [_fault(root, item["loc"], item["msg"]) for item in error.errors()]
    if faults:
        raise ConfigError(sorted(faults, key=_line_number), source=source)
    return config


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(["line 1: the file is not UTF-8 text"], source=str(file)) from None
    except OSError as error:
        raise ConfigError(
            [f"the file cannot be read: {error.strerror}"],
            source=str(file),
            remedy="check its permissions",
        ) from None


def _line_number(fault: str) -> int:
    head = fault.removeprefix("line ").split(":", 1)[0]
    return int(head) if head.isdigit() else 0


def _fault(root: yaml.Node | None, location: tuple[int | str, ...], message: str) -> str:
    words = {
        "Extra inputs are not permitted": "unknown key",
        "Field required": "this key is required",
    }
    line, path = _locate(root, location)
    text = words.get(message, message.removeprefix("Value error, "))
    return f"line {line}: {path or 'file'}: {text}"


def _locate(root: yaml.Node | None, location: tuple[int | str, ...]) -> tuple[int, str]:
    """The line of the deepest part of `location` that the file holds, and its dotted path."""
    node, line, path = root, 1, ""
    for part in location:
        step = _child(node, part)
        if step is None:
            if isinstance(part, str) and isinstance(node, yaml.MappingNode):
                path = f"{path}.{part}" if path else part
            continue
        key_line, node = step
        line = key_line
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return line, path


def _child(node: yaml.Node | None, part: int | str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark.line + 1, node.value[part]
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key.start_mark.line + 1, value
    return None


def _repeated_keys(node: yaml.Node | None) -> list[str]:
    """YAML keeps the last of two equal keys in silence; a silent loss is a fault."""
    if isinstance(node, yaml.SequenceNode):
        return [fault for item in node.value for fault in _repeated_keys(item)]
    if not isinstance(node, yaml.MappingNode):
        return []
    faults, seen = [], set()
    for key, value in node.value:
        if key.value in seen:
            faults.append(f"line {key.start_mark.line + 1}: {key.value}: this key appears twice")
        seen.add(key.value)
        faults += _repeated_keys(value)
    return faults
