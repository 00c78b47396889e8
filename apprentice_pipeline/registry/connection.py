"""The connection to MLflow: quiet, late, and one writer at a time where it is a file.

Belongs here: the client, locks, and what MLflow's errors become. Does not: models and versions.
Promises: MLflow is imported at first use (it takes seconds) and told beforehand to send nothing
home; two processes that meet an empty home at once make one schema; MLflow's own messages, which
may hold addresses with passwords, never reach an error of ours.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from apprentice_pipeline.errors import RegistryError, StorageFull
from apprentice_pipeline.store.full_disk import means_full

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SETTLED_S = 2.0
_SQLITE = "sqlite:///"
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


class Connection:
    """MLflow behind a URI. Nothing is opened or imported before the first use."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.database = Path(unquote(uri.removeprefix(_SQLITE))) if is_file(uri) else None
        self._client: MlflowClient | None = None

    @property
    def is_empty(self) -> bool:
        """Whether this is a file that does not exist yet: nothing can be registered in it."""
        return self.database is not None and not self.database.exists()

    @contextmanager
    def reading(self, doing: str) -> Iterator[MlflowClient]:
        """The client; `doing` names the operation in errors. Raises: RegistryError, StorageFull."""
        with _mapped(doing):
            yield self._connected()

    @contextmanager
    def writing(self, doing: str) -> Iterator[MlflowClient]:
        """As `reading`, one writer of a file at a time. Raises: RegistryError, StorageFull."""
        with _mapped(doing):
            client = self._connected()
            with self._lock("registry"):
                yield client

    def mark(self) -> tuple[int, int] | None:
        """What tells one state of the database file from another, None when it cannot.

        Only `stat`: opening the file would drop SQLite's own locks on it. A file changed a
        moment ago is not trusted, for the clock of a file system ticks coarsely.
        """
        if self.database is None:
            return None
        try:
            facts = self.database.stat()
        except OSError:
            return None
        if time.time() - facts.st_mtime < _SETTLED_S:
            return None
        return facts.st_mtime_ns, facts.st_size

    def _connected(self) -> MlflowClient:
        if self._client is None:
            client_class = _client_class()
            with self._lock("schema"):
                self._check_file()
                client = client_class(tracking_uri=self.uri, registry_uri=self.uri)
                client.search_registered_models(max_results=1)
                client.search_experiments(max_results=1)
                self._client = client
        return self._client

    def _check_file(self) -> None:
        """MLflow retries an unusable file for most of an hour; this says so at once."""
        if self.database is None or not self.database.exists():
            return
        address = f"file:{quote(str(self.database))}?mode=rw"
        try:
            with closing(sqlite3.connect(address, uri=True, timeout=30)) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.DatabaseError as error:
            if means_full(error):
                raise
            raise RegistryError(
                f"{self.database} is not a usable SQLite database",
                remedy="restore it, or move it away: an empty registry is made at the next start",
            ) from None

    @contextmanager
    def _lock(self, what: str) -> Iterator[None]:
        if self.database is None:
            yield
            return
        self.database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.database.with_name(f"{what}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def is_file(uri: str) -> bool:
    """Whether the registry is an SQLite file on this machine."""
    return uri.startswith(_SQLITE)


def without_credentials(uri: str) -> str:
    """The URI as it may be shown: no user, password, query or fragment."""
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def file_uri(database: Path) -> str:
    """The URI of an SQLite file."""
    return f"{_SQLITE}{database.absolute()}"


def error_code(error: Exception) -> str:
    """MLflow's own word for what went wrong."""
    return str(getattr(error, "error_code", type(error).__name__))


def _client_class() -> type[MlflowClient]:
    """MLflow, told to keep to itself before it is imported."""
    for variable, value in _QUIET.items():
        os.environ.setdefault(variable, value)
    import mlflow

    for logger in ("mlflow", "alembic"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # SQL and its values
    client_class: type[MlflowClient] = mlflow.MlflowClient
    return client_class


@contextmanager
def _mapped(doing: str) -> Iterator[None]:
    """MLflow's errors as ours, by their code."""
    try:
        yield
    except RegistryError:
        raise
    except ImportError:
        raise RegistryError(
            "MLflow is not installed", remedy="pip install 'apprentice-pipeline[registry]'"
        ) from None
    except OSError as error:
        if means_full(error):
            raise _full(doing) from None
        raise RegistryError(f"cannot {doing}: {error.strerror or type(error).__name__}") from None
    except _foreign_errors() as error:
        if means_full(error):
            raise _full(doing) from None
        raise RegistryError(
            f"MLflow could not {doing}: {error_code(error)}",
            remedy="check registry.tracking_uri, that the server answers and the disk has room",
        ) from None


def _full(doing: str) -> StorageFull:
    return StorageFull(
        f"MLflow could not {doing}: its disk is full",
        remedy="free space under APPRENTICE_HOME/mlflow, then run the command again",
    )


def _foreign_errors() -> tuple[type[Exception], ...]:
    """MLflow's error and its database's, where MLflow lets one through."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.db.utils import sqlalchemy as database

    return MlflowException, database.exc.SQLAlchemyError, sqlite3.Error
