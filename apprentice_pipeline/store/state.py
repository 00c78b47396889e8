"""The state database: everything that replicas of the gateway must agree on.

Belongs here: one method a question, each one transaction. Does not: policy, sealing, SQL of a
subject (see `keys`, `ledger`, `journal`).
Promises: safe across threads and processes; SQLite by default, PostgreSQL by URL; every failure
is a StoreError with its remedy. Times are UTC microseconds, money US dollars.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from decimal import Decimal
from typing import Any

from sqlalchemy import Row, delete, select

from apprentice_pipeline.control.budget import RESERVATION_US, Limits, Settlement
from apprentice_pipeline.records import now_us
from apprentice_pipeline.store import journal, keys, ledger, tombstones
from apprentice_pipeline.store.data_keys import DataKeys
from apprentice_pipeline.store.database import Database
from apprentice_pipeline.store.erased import Erased
from apprentice_pipeline.store.journal import ALERT_WINDOW_US, Alert, Job
from apprentice_pipeline.store.keys import CreatedKey, KeyRecord
from apprentice_pipeline.store.ledger import Spending
from apprentice_pipeline.store.rounds import Rounds
from apprentice_pipeline.store.schema import CHAMPIONS, CONTROL
from apprentice_pipeline.store.sealing import SealedRow
from apprentice_pipeline.store.tombstones import Tombstone


@dataclass(frozen=True, slots=True)
class ChampionRecord:
    """The model version that serving follows; `facts` are plain JSON (chance, certificate, …)."""

    tenant: str
    namespace: str
    version: int
    digest: str
    path: str
    facts: dict[str, Any]
    at_us: int


class State:
    """The state database, open. `data_keys` is the vault's `DataKeyStore`; `rounds` says whose
    turn recurring work is."""

    def __init__(self, database: Database, keys_changed: Callable[[], None]) -> None:
        self._database = database
        self._keys_changed = keys_changed
        self.data_keys = DataKeys(database, keys_changed)
        self.rounds = Rounds(database)

    @classmethod
    def open(cls, url: str, keys_changed: Callable[[], None] = lambda: None) -> State:
        """Opens `url` (`sqlite:////path` or `postgresql+psycopg://…`), creating what is missing.

        `keys_changed` is called after every change of an access or provider key.
        Raises: StoreError; StorageFull when the disk has no room.
        """
        return cls(Database.open(url), keys_changed)

    def close(self) -> None:
        """Gives every connection back."""
        self._database.close()

    # access keys

    def create_key(
        self,
        *,
        tenant: str,
        namespace: str | None,
        role: str,
        provider: str | None = None,
        now_us: int,
        expires_at_us: int | None = None,
        label: str | None = None,
    ) -> CreatedKey:
        """A new access key; its token is returned this once. `label` is a person's name for it.

        Raises: UsageError on bad names.
        """
        created = keys.create_key(
            self._database,
            tenant=tenant,
            namespace=namespace,
            role=role,
            provider=provider,
            now_us=now_us,
            expires_at_us=expires_at_us,
            label=label,
        )
        self._keys_changed()
        return created

    def rotate_key(self, key_id: str, *, grace_us: int = 0, now_us: int) -> CreatedKey | None:
        """A new key with the rights and lifetime of `key_id`, which is good for `grace_us` more
        (never longer than before); None when there is no such key that is still good.
        """
        created = keys.rotate_key(self._database, key_id, grace_us=grace_us, now_us=now_us)
        self._keys_changed()
        return created

    def find_key(self, token: str, at_us: int | None = None) -> KeyRecord | None:
        """The key with this token if it is good at that time (default: now), else None."""
        return keys.find_key(self._database, token, now_us() if at_us is None else at_us)

    def list_keys(self) -> list[KeyRecord]:
        """Every key, revoked ones too, oldest first."""
        return keys.list_keys(self._database)

    def revoke_key(self, key_id: str, now_us: int) -> bool:
        """Revokes a key by its id; False when there is no such key that is still good."""
        revoked = keys.revoke_key(self._database, key_id, now_us)
        self._keys_changed()
        return revoked

    def any_keys(self) -> bool:
        """Whether a key was ever made: revoking the last one does not open the server again."""
        return keys.any_keys(self._database)

    def put_provider_key(self, tenant: str, provider: str, sealed: bytes) -> None:
        """Stores a provider's API key that the vault has sealed, replacing an earlier one."""
        keys.put_provider_key(self._database, tenant, provider, sealed)
        self._keys_changed()

    def provider_key(self, tenant: str, provider: str) -> bytes | None:
        """The sealed provider key, None when there is none."""
        return keys.provider_key(self._database, tenant, provider)

    def provider_keys(self) -> list[tuple[str, str]]:
        """(tenant, provider) of every sealed provider key, sorted."""
        return keys.provider_keys(self._database)

    def delete_provider_key(self, tenant: str, provider: str) -> bool:
        """Forgets a provider key; False when there was none."""
        deleted = keys.delete_provider_key(self._database, tenant, provider)
        self._keys_changed()
        return deleted

    # champions

    def set_champion(self, tenant: str, namespace: str, champion: ChampionRecord | None) -> None:
        """Points serving at a version, or at none."""
        owner = {"tenant": tenant, "namespace": namespace}
        with self._database.write(f"champion/{tenant}/{namespace}") as connection:
            connection.execute(delete(CHAMPIONS).filter_by(**owner))
            if champion is not None:
                row = owner | {
                    "version": champion.version,
                    "digest": champion.digest,
                    "path": champion.path,
                    "facts": json.dumps(champion.facts),
                    "at_us": champion.at_us,
                }
                connection.execute(CHAMPIONS.insert().values(row))

    def champion(self, tenant: str, namespace: str) -> ChampionRecord | None:
        """The version in service, None when there is none."""
        query = select(CHAMPIONS).filter_by(tenant=tenant, namespace=namespace)
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else _champion(row)

    def champions(self) -> list[ChampionRecord]:
        """Every version in service, by tenant and namespace."""
        query = select(CHAMPIONS).order_by(CHAMPIONS.c.tenant, CHAMPIONS.c.namespace)
        with self._database.read() as connection:
            return [_champion(row) for row in connection.execute(query)]

    # controller state

    def control(self, tenant: str, namespace: str) -> str | None:
        """The controller's document as it was last written, None before the first time."""
        query = select(CONTROL.c.document).filter_by(tenant=tenant, namespace=namespace)
        with self._database.read() as connection:
            return connection.execute(query).scalar()

    def update_control(
        self, tenant: str, namespace: str, change: Callable[[str | None], str]
    ) -> str:
        """Replaces the document by `change(document)` in one transaction; returns the new one.

        Serialised across threads and processes: no change is lost. `change` must be quick and
        must not use this State. What it raises undoes nothing but its own change.
        """
        query = select(CONTROL.c.document).filter_by(tenant=tenant, namespace=namespace)
        with self._database.write(f"control/{tenant}/{namespace}") as connection:
            document = change(connection.execute(query).scalar())
            row = {"tenant": tenant, "namespace": namespace, "document": document}
            statement = self._database.upsert(CONTROL).values(row)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["tenant", "namespace"], set_={"document": document}
                )
            )
        return document

    # money

    def reserve(
        self,
        *,
        tenant: str,
        namespace: str,
        kind: str,
        maximum_usd: Decimal | None,
        overall: Limits,
        task: Limits | None = None,
        zone: tzinfo = UTC,
        now_us: int,
        hold_us: int = RESERVATION_US,
        count_passthrough: bool = False,
    ) -> str:
        """Holds the most a call can cost and returns the reservation's id.

        `overall` binds the sum over all tenants, `task` that of this namespace. Pass-through
        spending counts only with `count_passthrough`.
        Raises: BudgetExhausted when a limit binds; PriceUnknown when `maximum_usd` is None.
        """
        return ledger.reserve(
            self._database,
            tenant=tenant,
            namespace=namespace,
            kind=kind,
            maximum_usd=maximum_usd,
            overall=overall,
            task=task,
            zone=zone,
            now_us=now_us,
            hold_us=hold_us,
            count_passthrough=count_passthrough,
        )

    def settle(self, reservation_id: str, actual_usd: Decimal | float | None) -> Settlement | None:
        """Charges the actual cost (None: the whole reservation; 0: the call never started).

        None when the reservation had been settled, or had expired and so was charged in full.
        """
        return ledger.settle(self._database, reservation_id, actual_usd)

    def meter(
        self,
        tenant: str,
        namespace: str,
        kind: str,
        usd: Decimal | float,
        at_us: int,
        *,
        zone: tzinfo = UTC,
        calls: int = 1,
    ) -> None:
        """Records spending that nothing reserved."""
        self.meter_all({(tenant, namespace): (usd, calls)}, kind, at_us, zone=zone)

    def meter_all(
        self,
        spent: Mapping[tuple[str, str], tuple[Decimal | float, int]],
        kind: str,
        at_us: int,
        *,
        zone: tzinfo = UTC,
    ) -> None:
        """`meter` for many streams, each with its sum and its calls, in one transaction."""
        ledger.meter(self._database, spent, kind=kind, at_us=at_us, zone=zone)

    def spent(
        self,
        tenant: str | None = None,
        namespace: str | None = None,
        *,
        now_us: int,
        zone: tzinfo = UTC,
        count_passthrough: bool = False,
    ) -> Spending:
        """What the current day, week and month hold: of one tenant or all, one namespace or all."""
        return ledger.spending(
            self._database,
            tenant=tenant,
            namespace=namespace,
            zone=zone,
            now_us=now_us,
            count_passthrough=count_passthrough,
        )

    def lifetime_spending(
        self, tenant: str | None = None, namespace: str | None = None
    ) -> dict[str, tuple[Decimal, int]]:
        """Dollars and calls by kind since the beginning."""
        return ledger.lifetime(self._database, tenant, namespace)

    # counters

    def count(
        self, tenant: str, namespace: str, day: str, increments: Mapping[str, int | float]
    ) -> None:
        """Adds to the counters of a day (`YYYY-MM-DD`), all in one transaction."""
        journal.count(self._database, {(tenant, namespace, day): increments})

    def count_all(self, entries: Mapping[journal.Place, Mapping[str, int | float]]) -> None:
        """`count` for many streams and days, all in one transaction."""
        journal.count(self._database, entries)

    def counters(
        self,
        tenant: str,
        namespace: str | None = None,
        *,
        since_day: str | None = None,
        until_day: str | None = None,
    ) -> dict[str, float]:
        """Sums by counter over the days given, both ends included."""
        return journal.counters(self._database, tenant, namespace, since_day, until_day)

    def forget_counters(self, tenant: str) -> None:
        """Removes every counter of what stands in a tenant's place (`loss_files`)."""
        journal.forget_counters(self._database, tenant)

    # jobs

    def create_job(
        self, *, tenant: str, namespace: str, kind: str, request: Mapping[str, Any], now_us: int
    ) -> Job:
        """A new job, queued. `request` is plain JSON and holds no customer text."""
        return journal.create_job(
            self._database,
            tenant=tenant,
            namespace=namespace,
            kind=kind,
            request=request,
            now_us=now_us,
        )

    def start_job(
        self, *, tenant: str, namespace: str, kind: str, request: Mapping[str, Any], now_us: int
    ) -> tuple[Job, bool]:
        """The job of this kind that is queued or running in the stream, else a new one; and
        whether it is new. Of two that ask at once, one gets a new job and the other gets that."""
        return journal.start_job(
            self._database,
            tenant=tenant,
            namespace=namespace,
            kind=kind,
            request=request,
            now_us=now_us,
        )

    def update_job(
        self,
        job_id: str,
        *,
        state: str | None = None,
        log: str | None = None,
        result: Mapping[str, Any] | None = None,
        now_us: int,
    ) -> Job:
        """Moves a job on: `log` is appended, `result` merged. Raises: StoreError if unknown."""
        return journal.update_job(
            self._database, job_id, state=state, log=log, result=result, now_us=now_us
        )

    def job(self, job_id: str, *, tenant: str | None = None) -> Job | None:
        """A job by id; with `tenant`, only that tenant's."""
        return journal.job(self._database, job_id, tenant)

    def jobs(self, tenant: str, namespace: str | None = None, *, limit: int = 100) -> list[Job]:
        """Jobs of a tenant, newest first."""
        return journal.jobs(self._database, tenant, namespace, limit)

    # alerts

    def add_alert(
        self,
        tenant: str,
        namespace: str,
        kind: str,
        message: str,
        *,
        now_us: int,
        window_us: int = ALERT_WINDOW_US,
    ) -> bool:
        """Records an alert; True when it is new, False when one of its kind was raised within
        the window and is now counted once more. `message` holds no customer text."""
        return journal.add_alert(
            self._database,
            tenant=tenant,
            namespace=namespace,
            kind=kind,
            message=message,
            now_us=now_us,
            window_us=window_us,
        )

    def alerts(
        self,
        tenant: str | None = None,
        namespace: str | None = None,
        *,
        since_us: int = 0,
        limit: int = 100,
    ) -> list[Alert]:
        """Alerts, newest first."""
        return journal.alerts(self._database, tenant, namespace, since_us, limit)

    # erasure

    def add_tombstones(self, stones: Sequence[Tombstone], *, once: bool = False) -> None:
        """Records what was erased, or is about to be: from now on no drain lets it in.

        `once`: of two that do so for the same pair at the same time, one does.
        """
        tombstones.add_tombstones(self._database, stones, once=once)

    def put_erasure(self, scope: Sequence[str], document: str) -> None:
        """Notes an erasure that begins (tenant, namespace, pair id; empty: all) and what it is to
        take, in place of what was noted of one that was cut short."""
        tombstones.put_erasure(self._database, scope, document)

    def erasure(self, scope: Sequence[str]) -> str | None:
        """What was noted of an erasure of this scope that has not come to its end."""
        return tombstones.erasure(self._database, scope)

    def end_erasure(self, scope: Sequence[str]) -> None:
        """Forgets the note: the erasure is done, and proven where it can be."""
        tombstones.end_erasure(self._database, scope)

    def count_erased(self, stones: Sequence[Tombstone]) -> None:
        """Writes into tombstones that were added with no rows how many went."""
        tombstones.count_erased(self._database, stones)

    def erased_of(self, tenant: str, rows: Sequence[SealedRow]) -> Erased:
        """What was erased of the tenant that concerns these rows (an `erased.ErasedOf`)."""
        named = ((row.namespace, row.pair_id) for row in rows)
        scopes, pairs = tombstones.erased_among(self._database, tenant, named)
        return Erased(self.data_keys.forgotten_version(tenant), scopes, pairs)

    def tombstones(self, tenant: str, namespace: str | None = None) -> list[Tombstone]:
        """What was erased of a tenant (with `namespace`: of it, or of everything), oldest first."""
        return tombstones.tombstones(self._database, tenant, namespace)

    def erased_pairs(self, tenant: str, namespace: str, pair_ids: Iterable[str]) -> set[str]:
        """Those of `pair_ids` that were erased by id."""
        return tombstones.erased_pairs(self._database, tenant, namespace, pair_ids)


def _champion(row: Row[Any]) -> ChampionRecord:
    return ChampionRecord(
        tenant=row.tenant,
        namespace=row.namespace,
        version=row.version,
        digest=row.digest,
        path=row.path,
        facts=json.loads(row.facts),
        at_us=row.at_us,
    )
