"""A child process that compiles a chat template and renders small conversations with it.

Belongs here: the sandbox and its limits. Does not: anything of the product: this file runs
alone, as `python -I template_trial.py`, so that a template that eats memory or time takes only
this process with it. Reads `{"template", "variables"}` from stdin, writes `{"fault"}` to
stdout: null, or one of the words in `FAULTS`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

CPU_SECONDS = 2
MEMORY_BYTES = 512 << 20
MAX_RENDERED_CHARACTERS = 65_536
FAULTS = ("syntax", "unsafe", "fails", "long", "memory")
_USER = {"role": "user", "content": 'A question, with "quotes" and <marks>.'}
_CONVERSATIONS = (
    [_USER],
    [{"role": "system", "content": "Be brief."}, _USER],
    [_USER, {"role": "assistant", "content": "An answer."}, _USER],
)


class _RefusedError(Exception):
    """The template itself refuses a conversation (`raise_exception`): allowed."""


def environment() -> Any:
    """The sandbox that chat templates are written for: what the libraries offer, no more."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`: marks the assistant's part; here it only renders its body."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def refuse(message: str) -> str:
        raise _RefusedError(message)

    def to_json(value: Any, **options: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **options})

    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    sandbox.filters["tojson"] = to_json
    sandbox.globals["raise_exception"] = refuse
    sandbox.globals["strftime_now"] = lambda _format: "2000-01-01"
    return sandbox


def fault_of(source: str, variables: dict[str, Any]) -> str | None:
    """What is wrong with the template, as a word of `FAULTS`, or None."""
    from jinja2 import TemplateError, TemplateSyntaxError
    from jinja2.exceptions import SecurityError

    try:
        template = environment().from_string(source)
        for number, messages in enumerate(_CONVERSATIONS):
            if (fault := _render(template, messages, variables)) and (
                fault != "refused" or number == 0
            ):
                return "fails" if fault == "refused" else fault
    except TemplateSyntaxError:
        return "syntax"
    except SecurityError:
        return "unsafe"
    except MemoryError:
        return "memory"
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError):
        return "fails"
    return None


def _render(template: Any, messages: Any, variables: dict[str, Any]) -> str | None:
    size = 0
    try:
        for piece in template.generate(
            **variables, messages=messages, add_generation_prompt=True, tools=None
        ):
            size += len(piece)
            if size > MAX_RENDERED_CHARACTERS:
                return "long"
    except _RefusedError:
        return "refused"
    return None


def _limit() -> None:
    """Hard limits of this process; where the platform has none, the parent's clock remains."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    if sys.platform != "darwin":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """One trial: a request on stdin, a verdict on stdout."""
    request = json.loads(sys.stdin.buffer.read())
    import jinja2.ext
    import jinja2.sandbox  # noqa: F401 - loaded before the limits bind

    _limit()
    sys.stdout.write(json.dumps({"fault": fault_of(request["template"], request["variables"])}))


if __name__ == "__main__":
    main()
