"""What runs and what it says: `serve`, `dev`, `run`, `status`, `report`, `simulate`, `demo`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from apprentice_pipeline.cli import opening
from apprentice_pipeline.cli.terminal import json_option, terminal
from apprentice_pipeline.cli.traffic import tenant_option
from apprentice_pipeline.errors import UsageError
from apprentice_pipeline.settings import Settings


@click.command()
@click.argument(
    "file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--base", metavar="DIR", help="With FILE: the base it was grown from, where not at hand."
)
@click.option("--public-key", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--host", help="Default: gateway.host, 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), help="Default: gateway.port, 8710.")
@click.option("--workers", type=click.IntRange(min=1), help="Default: gateway.workers, 1.")
@click.option("--tls-certificate", metavar="PEM", help="Default: gateway.tls_certificate, none.")
@click.option("--tls-key", metavar="PEM", help="Default: gateway.tls_key, none.")
@json_option
def serve(
    file: Path | None,
    base: str | None,
    public_key: Path | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    tls_certificate: str | None,
    tls_key: str | None,
) -> None:
    """The capture gateway and router; or, with FILE, one verified .kolm alone."""
    settings = _with_tls(opening.settings(), tls_certificate, tls_key)
    limits = settings.config.gateway
    host = host or limits.host
    port = limits.port if port is None else port
    if file is None:
        from apprentice_pipeline.gateway.server import serve as run

        run(settings, host, port, workers or limits.workers)
        return
    if settings.config.gateway.tls_certificate:
        raise UsageError(
            "one artifact alone is served on loopback, without TLS",
            remedy="leave TLS out, or register the model and run `apprentice serve`",
        )
    from apprentice_pipeline.artifact.kolm import trusted_key
    from apprentice_pipeline.gateway.single import serve_artifact

    pinned = str(public_key) if public_key else settings.config.signing.public_key
    serve_artifact(
        file,
        public_key=trusted_key(settings.home.keys, public_key=pinned),
        secret=settings.signing_secret,
        base=base,
        configured_base=settings.config.local.base_model,
        host=host,
        port=port,
    )


def _with_tls(settings: Settings, certificate: str | None, key: str | None) -> Settings:
    """The settings with the certificate and key of the command line, where it names any."""
    named = {"tls_certificate": certificate, "tls_key": key}
    given = {name: value for name, value in named.items() if value}
    gateway = settings.config.gateway.model_copy(update=given)
    return replace(settings, config=settings.config.model_copy(update={"gateway": gateway}))


@click.command()
@click.option("--gateway-port", type=click.IntRange(1, 65535), default=8710)
@click.option("--dagster-port", type=click.IntRange(1, 65535), default=3000)
@click.option("--mlflow-port", type=click.IntRange(1, 65535), default=5000)
@json_option
def dev(gateway_port: int, dagster_port: int, mlflow_port: int) -> None:
    """Gateway, Dagster and MLflow together on one home; Ctrl-C stops all three."""
    from apprentice_pipeline.cli.development import run_together

    run_together(opening.settings(), terminal(), gateway_port, dagster_port, mlflow_port)


@click.command()
@click.argument("task")
@click.option("--input", "input_", required=True, metavar="JSON", help="The task's input object.")
@json_option
def run(task: str, input_: str) -> None:
    """One request through the router."""
    from apprentice_pipeline.apprentice import Apprentice

    try:
        value = json.loads(input_)
    except ValueError:
        raise UsageError(
            "--input is not JSON", remedy='quote it: --input \'{"text": "…"}\''
        ) from None
    with Apprentice(opening.settings()) as apprentice:
        result = apprentice.run(task, value)
    document = {
        "output": result.output,
        "served_by": result.served_by,
        "cost_usd": result.cost_usd,
        "latency_ms": result.latency_ms,
        "pair_id": result.pair_id,
        "quality_risk": result.quality_risk,
    }
    terminal().result(
        document,
        json.dumps(result.output, ensure_ascii=False, indent=2)
        if not isinstance(result.output, str)
        else result.output,
    )
    terminal().say(f"served by {result.served_by} in {result.latency_ms:.0f} ms")
    if result.quality_risk:
        terminal().say("quality at risk: below the threshold, and no budget for a remote answer")


@click.command()
@click.option("--task", help="One task or namespace; default: all.")
@tenant_option
@json_option
def status(task: str | None, tenant: str | None) -> None:
    """Phase, agreement, sampling, cost, savings, alerts; and what to do next."""
    from apprentice_pipeline.stages import report as gathering
    from apprentice_pipeline.stages.streams import require_known

    tenant = opening.checked_tenant(tenant)
    if task is not None:
        opening.checked_name(task, "task")
    with opening.workspace() as workspace:
        if task is not None:
            require_known(workspace, tenant, task)
        found = gathering.status(workspace, tenant, task)
    terminal().result(found.to_dict(), found.text())


@click.command()
@click.option("--format", "form", type=click.Choice(["text", "json", "html"]), default="text")
@tenant_option
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Default: stdout.")
@json_option
def report(form: str, tenant: str | None, out: Path | None) -> None:
    """Every task's numbers, each with its interval."""
    from apprentice_pipeline.stages import report as gathering

    tenant = opening.checked_tenant(tenant)
    with opening.workspace() as workspace:
        found = gathering.report(workspace, tenant)
    text = json.dumps(found.to_dict(), indent=2) if form == "json" else found.render(form)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
        terminal().result({"path": str(out)}, f"wrote {out}")
        return
    terminal().result(found.to_dict(), text)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def simulate(file: Path) -> None:
    """The real controller over a described stream, on a virtual clock."""
    from apprentice_pipeline.stages import simulation

    days = simulation.simulate_file(file)
    terminal().result([asdict(day) for day in days], simulation.text(days))


@click.command()
@click.option("--traffic", type=click.Path(path_type=Path), help="Lines {text, answer fields}.")
@click.option("--test", type=click.Path(path_type=Path), help="The second wave; else held back.")
@click.option("--base-model", metavar="M", help="`embedded`, a Hugging Face id, or a folder.")
@json_option
def demo(traffic: Path | None, test: Path | None, base_model: str | None) -> None:
    """The whole product on this machine: capture, distill, prove, serve, report."""
    from apprentice_pipeline.cli.watching import stage_bars
    from apprentice_pipeline.demo.run import run_demo

    with stage_bars(terminal()) as progress:
        done = run_demo(
            os.environ,
            traffic=traffic,
            test=test,
            base_model=base_model,
            say=terminal().say,
            progress=progress,
        )
    document: dict[str, Any] = done.to_dict()
    terminal().result(document, done.text())
