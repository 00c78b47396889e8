"""Dagster's entry point: `workspace.yaml` and `dagster_cloud.yaml` name this module."""

from apprentice_pipeline.orchestration.definitions import build_defs

defs = build_defs()
