"""The model registry: every version of every namespace's model, and which one is champion.

Belongs here: the only MLflow code. Does not: deciding what is promoted (`control`, people) or
proving an artifact (`artifact`). Promises: one registered model per `tenant.namespace`; a
digest is registered once however often it is asked; older versions return by `rollback` only;
an alias moved by a person in MLflow counts like ours; no customer text and no pickle is logged.
"""

from apprentice_pipeline.registry.models import Registry
from apprentice_pipeline.registry.versions import CHALLENGER, CHAMPION, ModelVersion

__all__ = ["CHALLENGER", "CHAMPION", "ModelVersion", "Registry"]
