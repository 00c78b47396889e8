"""The state database's tables, as SQLAlchemy Core knows them.

Belongs here: names, types, keys. Does not: any statement. Times are UTC microseconds; money is
decimal text, because neither SQLite nor a float holds it exactly.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

SCHEMA_VERSION: Final = 2
METADATA: Final = MetaData()

META: Final = Table(
    "meta", METADATA, Column("name", String, primary_key=True), Column("value", String)
)
LOCKS: Final = Table("locks", METADATA, Column("name", String, primary_key=True))
DATA_KEYS: Final = Table(
    "data_keys",
    METADATA,
    Column("tenant", String, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("wrapped", LargeBinary, nullable=False),
)
ACCESS_KEYS: Final = Table(
    "access_keys",
    METADATA,
    Column("id", String, primary_key=True),
    Column("token_hash", String, nullable=False, unique=True),
    Column("tenant", String, nullable=False),
    Column("namespace", String),
    Column("role", String, nullable=False),
    Column("provider", String),
    Column("created_at_us", BigInteger, nullable=False),
    Column("revoked_at_us", BigInteger),
    Column("label", String),
)
PROVIDER_KEYS: Final = Table(
    "provider_keys",
    METADATA,
    Column("tenant", String, primary_key=True),
    Column("provider", String, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)
CHAMPIONS: Final = Table(
    "champions",
    METADATA,
    Column("tenant", String, primary_key=True),
    Column("namespace", String, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("digest", String, nullable=False),
    Column("path", String, nullable=False),
    Column("facts", Text, nullable=False),
    Column("at_us", BigInteger, nullable=False),
)
CONTROL: Final = Table(
    "control",
    METADATA,
    Column("tenant", String, primary_key=True),
    Column("namespace", String, primary_key=True),
    Column("document", Text, nullable=False),
)
RESERVATIONS: Final = Table(
    "reservations",
    METADATA,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("namespace", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("amount", String, nullable=False),
    Column("day", String, nullable=False),
    Column("week", String, nullable=False),
    Column("month", String, nullable=False),
    Column("reserved_at_us", BigInteger, nullable=False),
    Column("expires_at_us", BigInteger, nullable=False),
)
SPENDING: Final = Table(
    "spending",
    METADATA,
    Column("tenant", String, primary_key=True),
    Column("namespace", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("period", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("usd", String, nullable=False),
    Column("calls", BigInteger, nullable=False),
    Index("spending_by_period", "period", "key"),
)
COUNTERS: Final = Table(
    "counters",
    METADATA,
    Column("tenant", String, primary_key=True),
    Column("namespace", String, primary_key=True),
    Column("day", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("value", Float, nullable=False),
)
JOBS: Final = Table(
    "jobs",
    METADATA,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("namespace", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("state", String, nullable=False),
    Column("request", Text, nullable=False),
    Column("result", Text, nullable=False),
    Column("log", Text, nullable=False),
    Column("created_at_us", BigInteger, nullable=False),
    Column("updated_at_us", BigInteger, nullable=False),
    Index("jobs_by_owner", "tenant", "namespace", "created_at_us"),
)
ALERTS: Final = Table(
    "alerts",
    METADATA,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("namespace", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("message", Text, nullable=False),
    Column("first_at_us", BigInteger, nullable=False),
    Column("last_at_us", BigInteger, nullable=False),
    Column("times", Integer, nullable=False),
    Index("alerts_by_kind", "tenant", "namespace", "kind", "last_at_us"),
)
TOMBSTONES: Final = Table(
    "tombstones",
    METADATA,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("namespace", String, nullable=False),
    Column("pair_id", String, nullable=False),
    Column("erased_at_us", BigInteger, nullable=False),
    Column("rows", Integer, nullable=False),
    Index("tombstones_by_pair", "tenant", "pair_id"),
)
