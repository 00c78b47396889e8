"""`apprentice dev`: what is started, and what runs elsewhere already."""

from __future__ import annotations

from typing import Any

import pytest

from apprentice_pipeline.cli.development import registry_server, services_of
from apprentice_pipeline.settings import load_settings


def test_the_three_services_run_on_one_home(home: Any) -> None:
    settings = load_settings(home.environment)
    assert registry_server(settings) is None
    started = {service.name: service for service in services_of(settings, 1, 2, 3)}
    assert set(started) == {"gateway", "dagster", "mlflow"}
    assert f"sqlite:///{home.root}/mlflow/mlflow.db" in started["mlflow"].command


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://mlflow.test:5000", "http://mlflow.test:5000"),
        ("https://someone:secret@mlflow.test/models?token=t", "https://mlflow.test/models"),
    ],
)
def test_a_registry_that_is_a_server_is_named_not_started(home: Any, uri: str, shown: str) -> None:
    home.configure(f"registry: {{tracking_uri: '{uri}'}}")
    settings = load_settings(home.environment)
    assert registry_server(settings) == shown, "its address, without credentials"
    assert {service.name for service in services_of(settings, 1, 2, 3)} == {"gateway", "dagster"}


def test_a_registry_in_another_database_is_shown_by_a_server_of_ours(home: Any) -> None:
    uri = "postgresql+psycopg://registry.test/mlflow"
    home.configure(f"registry: {{tracking_uri: '{uri}'}}")
    services = services_of(load_settings(home.environment), 1, 2, 3)
    (mlflow,) = [service for service in services if service.name == "mlflow"]
    assert uri in mlflow.command
