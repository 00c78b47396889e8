"""The state database, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from apprentice_pipeline.errors import StorageFull, StoreError, UsageError
from apprentice_pipeline.store.state import ChampionRecord, State
from apprentice_pipeline.store.tombstones import Tombstone
from apprentice_pipeline.vault import Vault, key_version


def test_a_key_is_found_by_its_token_until_it_is_revoked(state: State) -> None:
    assert not state.any_keys()
    created = state.create_key(
        tenant="acme", namespace="tickets", role="capture", provider="openai", now_us=5
    )
    assert created.key.startswith("ak_")
    found = state.find_key(created.key)
    assert found is not None
    assert (found.id, found.tenant, found.namespace) == (created.id, "acme", "tickets")
    assert (found.role, found.provider, found.created_at_us) == ("capture", "openai", 5)
    assert state.revoke_key(created.id, 9)
    assert state.find_key(created.key) is None
    assert not state.revoke_key(created.id, 10)
    assert state.list_keys()[0].revoked_at_us == 9


def test_revoking_the_last_key_does_not_open_the_server_again(state: State) -> None:
    created = state.create_key(tenant="acme", namespace=None, role="tenant", now_us=5)
    state.revoke_key(created.id, 6)
    assert state.any_keys()


@pytest.mark.parametrize("token", ["", "ak_", "ak_unknown", "sk-something", "ak_' OR 1=1 --", "ü"])
def test_a_token_that_is_none_is_not_found(token: str, state: State) -> None:
    state.create_key(tenant="acme", namespace=None, role="tenant", now_us=5)
    assert state.find_key(token) is None


def test_no_token_can_be_read_back(tmp_path: Path) -> None:
    state = State.open(f"sqlite:///{tmp_path / 'state.db'}")
    created = state.create_key(tenant="acme", namespace=None, role="tenant", now_us=5)
    state.close()
    for file in tmp_path.iterdir():
        assert created.key.removeprefix("ak_").encode() not in file.read_bytes()


@pytest.mark.parametrize(
    ("tenant", "namespace", "role"),
    [("Acme", None, "tenant"), ("acme", "../x", "capture"), ("acme", None, "capture"),
     ("acme", None, "root")],
)  # fmt: skip
def test_a_key_that_makes_no_sense_is_refused(
    tenant: str, namespace: str | None, role: str, state: State
) -> None:
    with pytest.raises(UsageError):
        state.create_key(tenant=tenant, namespace=namespace, role=role, now_us=5)
    assert not state.any_keys()


def test_sealed_provider_keys_are_kept_and_replaced(state: State) -> None:
    assert state.provider_key("acme", "openai") is None
    state.put_provider_key("acme", "openai", b"\x00first")
    state.put_provider_key("acme", "openai", b"second\xff")
    assert state.provider_key("acme", "openai") == b"second\xff"
    assert state.provider_key("umbrella", "openai") is None


def test_the_vault_keeps_its_data_keys_here(state: State) -> None:
    place = {"tenant": "acme", "namespace": "tickets", "pair_id": "p", "field": "input"}
    keys = state.data_keys
    sealed = Vault(bytes(32), keys).seal(b"content", **place)
    assert Vault(bytes(32), keys).open(sealed, **place) == b"content"
    keys.add_wrapped_key("acme", 1, b"a later writer", mark=str(keys.mark()))
    assert Vault(bytes(32), keys).open(sealed, **place) == b"content"
    keys.delete_wrapped_keys("acme")
    assert keys.wrapped_keys("acme") == {}


def test_a_version_of_a_deleted_data_key_is_never_used_again(state: State) -> None:
    """Not by a process either that had no time to hear of the deletion."""
    place = {"tenant": "acme", "namespace": "tickets", "pair_id": "p", "field": "input"}
    keys = state.data_keys
    vault = Vault(bytes(32), keys)
    for version in (1, 2, 3):
        assert key_version(vault.seal(b"content", **place)) == version
        vault.forget("acme")
        keys.add_wrapped_key("acme", version, b"late", mark=str(keys.mark()))
        assert keys.wrapped_keys("acme") == {}
        assert keys.forgotten_version("acme") == version
        keys.delete_wrapped_keys("acme")
        assert keys.forgotten_version("acme") == version


def test_an_expired_key_is_found_no_more(state: State) -> None:
    created = state.create_key(
        tenant="acme", namespace=None, role="tenant", now_us=5, expires_at_us=20
    )
    assert state.find_key(created.key, at_us=19) is not None
    assert state.find_key(created.key, at_us=20) is None
    assert not state.revoke_key(created.id, 21)


def test_a_rotated_key_has_the_same_rights_and_the_old_one_ends_after_its_grace(
    state: State,
) -> None:
    old = state.create_key(
        tenant="acme", namespace="tickets", role="capture", provider="openai", now_us=5
    )
    new = state.rotate_key(old.id, grace_us=10, now_us=100)
    assert new is not None
    assert new.key != old.key
    found = state.find_key(new.key, at_us=10_000)
    assert found is not None
    assert (found.tenant, found.namespace, found.role) == ("acme", "tickets", "capture")
    assert (found.provider, found.revoked_at_us) == ("openai", None)
    assert state.find_key(old.key, at_us=109) is not None
    assert state.find_key(old.key, at_us=110) is None
    assert state.rotate_key(old.id, now_us=110) is None
    assert state.rotate_key("key_unknown", now_us=110) is None


def test_rotation_neither_prolongs_a_key_nor_makes_it_last_for_good(state: State) -> None:
    old = state.create_key(
        tenant="acme", namespace=None, role="tenant", now_us=0, expires_at_us=100
    )
    new = state.rotate_key(old.id, grace_us=1_000, now_us=60)
    assert new is not None
    ends = {key.id: key.revoked_at_us for key in state.list_keys()}
    assert ends == {old.id: 100, new.id: 160}


def test_a_key_in_its_grace_can_be_revoked_at_once(state: State) -> None:
    old = state.create_key(tenant="acme", namespace=None, role="tenant", now_us=0)
    state.rotate_key(old.id, grace_us=1_000, now_us=10)
    assert state.revoke_key(old.id, 20)
    assert state.find_key(old.key, at_us=20) is None


def test_deleted_wrapped_keys_leave_no_byte_in_the_files(tmp_path: Path) -> None:
    """Who has the master key and the disk must not bring an erased tenant back."""
    state = State.open(f"sqlite:///{tmp_path / 'state.db'}")
    keys, place = state.data_keys, {"namespace": "n", "pair_id": "p", "field": "input"}
    vault = Vault(bytes(32), keys)
    for number in range(20):
        vault.seal(b"content", tenant=f"tenant{number}", **place)
    (wrapped,) = keys.wrapped_keys("tenant7").values()
    found = [file for file in tmp_path.iterdir() if wrapped in file.read_bytes()]
    assert found
    keys.delete_wrapped_keys("tenant7")
    for file in tmp_path.iterdir():
        assert wrapped not in file.read_bytes(), file.name
    state.close()


def test_the_champion_is_set_replaced_and_withdrawn(state: State) -> None:
    facts = {"chance": 0.25, "certificate": {"tau": 0.9}, "digests": ["a", "ü"]}
    one = ChampionRecord("acme", "tickets", 1, "d1", "/path/1", facts, 10)
    two = ChampionRecord("acme", "tickets", 2, "d2", "/path/2", {}, 20)
    other = ChampionRecord("acme", "mail", 7, "d7", "/path/7", {}, 30)
    assert state.champion("acme", "tickets") is None
    for record in (one, other):
        state.set_champion(record.tenant, record.namespace, record)
    assert state.champion("acme", "tickets") == one
    state.set_champion("acme", "tickets", two)
    assert state.champions() == [other, two]
    state.set_champion("acme", "tickets", None)
    assert state.champions() == [other]


def test_control_is_updated_in_a_transaction(state: State) -> None:
    assert state.control("acme", "tickets") is None
    assert state.update_control("acme", "tickets", lambda old: f"{old}+1") == "None+1"
    assert state.update_control("acme", "tickets", lambda old: f"{old}+2") == "None+1+2"
    assert state.control("acme", "tickets") == "None+1+2"
    assert state.control("acme", "mail") is None


def test_a_change_of_control_that_fails_changes_nothing(state: State) -> None:
    state.update_control("acme", "tickets", lambda _: "kept")

    def fail(_: str | None) -> str:
        raise ValueError("the caller's own")

    with pytest.raises(ValueError, match="the caller's own"):
        state.update_control("acme", "tickets", fail)
    assert state.control("acme", "tickets") == "kept"


def test_no_change_of_control_is_lost_between_threads(state: State) -> None:
    def count() -> None:
        for _ in range(25):
            state.update_control("acme", "tickets", lambda old: str(int(old or 0) + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state.control("acme", "tickets") == "100"


COUNT = """
import sys
from apprentice_pipeline.store.state import State

state = State.open(sys.argv[1])
for _ in range(25):
    state.update_control("acme", "tickets", lambda old: str(int(old or 0) + 1))
    state.count("acme", "tickets", "2026-01-01", {"calls": 1})
"""


def test_no_change_of_control_is_lost_between_processes(
    state_url: str, child: Callable[..., subprocess.Popen[str]]
) -> None:
    """They create the database at once, too."""
    children = [child(COUNT, state_url) for _ in range(3)]
    for each in children:
        _, errors = each.communicate(timeout=120)
        assert each.returncode == 0, errors
    state = State.open(state_url)
    assert state.control("acme", "tickets") == "75"
    assert state.counters("acme") == {"calls": 75}
    state.close()


def test_counters_add_up_by_day_and_namespace(state: State) -> None:
    state.count("acme", "tickets", "2026-01-01", {"calls": 2, "usd": 0.5})
    state.count("acme", "tickets", "2026-01-02", {"calls": 3})
    state.count("acme", "mail", "2026-01-02", {"calls": 10})
    state.count("acme", "mail", "2026-01-02", {})
    assert state.counters("acme", "tickets") == {"calls": 5, "usd": 0.5}
    assert state.counters("acme") == {"calls": 15, "usd": 0.5}
    assert state.counters("acme", since_day="2026-01-02") == {"calls": 13}
    assert state.counters("acme", until_day="2026-01-01") == {"calls": 2, "usd": 0.5}
    assert state.counters("umbrella") == {}


def test_a_job_moves_on_and_keeps_its_log(state: State) -> None:
    job = state.create_job(
        tenant="acme", namespace="tickets", kind="distill", request={"base": "b"}, now_us=1
    )
    assert (job.state, job.request) == ("queued", {"base": "b"})
    state.update_job(job.id, state="running", log="one", now_us=2)
    moved = state.update_job(job.id, log="two\n", result={"run": "r"}, now_us=3)
    done = state.update_job(job.id, state="done", result={"k": 0.9}, now_us=4)
    assert (moved.state, moved.log) == ("running", "one\ntwo\n")
    assert (done.state, done.result, done.updated_at_us) == ("done", {"run": "r", "k": 0.9}, 4)
    assert state.job(job.id) == done
    assert state.job(job.id, tenant="acme") == done
    assert state.job(job.id, tenant="umbrella") is None
    with pytest.raises(StoreError):
        state.update_job("job_none", now_us=5)


def test_of_many_that_start_a_job_at_once_one_does(state: State) -> None:
    """And once it is at its end, another may be started; other streams have their own."""

    def start(namespace: str) -> tuple[str, bool]:
        job, new = state.start_job(
            tenant="acme", namespace=namespace, kind="distill", request={}, now_us=1
        )
        return job.id, new

    with ThreadPoolExecutor(8) as pool:
        started = list(pool.map(start, ["tickets"] * 8))
    assert len({job_id for job_id, _ in started}) == 1
    assert sum(new for _, new in started) == 1
    assert start("mail")[1]
    state.update_job(started[0][0], state="failed", now_us=2)
    again, new = start("tickets")
    assert (new, again != started[0][0]) == (True, True)


def test_jobs_are_listed_newest_first_by_tenant(state: State) -> None:
    ids = [
        state.create_job(tenant="acme", namespace=space, kind="distill", request={}, now_us=at).id
        for at, space in enumerate(["tickets", "mail", "tickets"])
    ]
    assert [job.id for job in state.jobs("acme")] == ids[::-1]
    assert [job.id for job in state.jobs("acme", "mail")] == [ids[1]]
    assert [job.id for job in state.jobs("acme", limit=1)] == [ids[2]]
    assert state.jobs("umbrella") == []


def test_alerts_of_a_kind_are_one_alert_within_the_window(state: State) -> None:
    raised = [
        state.add_alert("acme", "tickets", "drift", f"at {at}", now_us=at, window_us=100)
        for at in (0, 50, 99, 100, 120)
    ]
    assert raised == [True, False, False, True, False]
    assert state.add_alert("acme", "mail", "drift", "elsewhere", now_us=60)
    found = state.alerts("acme", "tickets")
    assert [(alert.first_at_us, alert.last_at_us, alert.count) for alert in found] == [
        (100, 120, 2),
        (0, 99, 3),
    ]
    assert found[0].message == "at 120"
    assert len(state.alerts()) == 3
    assert len(state.alerts(since_us=100)) == 1


def test_tombstones_say_what_was_erased(state: State) -> None:
    stones = [Tombstone("acme", "tickets", f"pair-{number}", 10 + number, 2) for number in range(3)]
    whole = Tombstone("acme", "", "", 20, 9)
    state.add_tombstones([*stones, whole])
    state.add_tombstones([])
    assert state.tombstones("acme") == [*stones, whole]
    assert state.tombstones("acme", "mail") == [whole]
    ids = [f"pair-{number}" for number in range(2, 1_500)]
    assert state.erased_pairs("acme", "tickets", ids) == {"pair-2"}
    assert state.erased_pairs("acme", "mail", ids) == set()


def test_text_of_every_sort_survives(state: State) -> None:
    facts = {"ü\u2028": ["\U0001f600", "'; DROP TABLE keys; --", ""]}
    state.update_control("acme", "tickets", lambda _: json.dumps(facts, ensure_ascii=False))
    assert json.loads(state.control("acme", "tickets") or "") == facts


@pytest.mark.parametrize("url", ["nonsense", "nosuch://x/y", "mysql://u@h/d", ""])
def test_a_url_that_cannot_be_used_is_reported_without_credentials(url: str) -> None:
    with pytest.raises(StoreError) as raised:
        State.open(url)
    assert "sqlite:" in raised.value.remedy


def test_a_database_out_of_reach_is_reported_without_credentials() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError) as raised:
        State.open("postgresql+psycopg://user:hunter2@127.0.0.1:1/db")
    assert raised.value.remedy
    assert "hunter2" not in f"{raised.value} {raised.value.remedy} {raised.value.__cause__}"


def test_a_damaged_database_is_reported(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"not a database at all" * 500)
    with pytest.raises(StoreError, match="damaged") as raised:
        State.open(f"sqlite:///{tmp_path / 'state.db'}")
    assert "backup" in raised.value.remedy


def test_a_database_of_before_keys_had_labels_is_brought_up_to_date(state_url: str) -> None:
    older = State.open(state_url)
    kept = older.create_key(tenant="acme", namespace=None, role="tenant", now_us=5)
    older.close()
    engine = create_engine(state_url)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE access_keys DROP COLUMN label"))
        connection.execute(text("UPDATE meta SET value = '1' WHERE name = 'schema'"))
    engine.dispose()
    opened = [State.open(state_url) for _ in range(2)]
    made = opened[0].create_key(
        tenant="acme", namespace=None, role="tenant", now_us=6, label="the web shop"
    )
    labels = {key.id: key.label for key in opened[1].list_keys()}
    assert labels == {kept.id: None, made.id: "the web shop"}
    for state in opened:
        state.close()


@pytest.mark.parametrize("label", ["", " ", "two\nlines", "\x1b[31mred", "x" * 101])
def test_a_label_that_would_not_show_as_one_line_is_refused(label: str, state: State) -> None:
    with pytest.raises(UsageError, match="cannot name a key"):
        state.create_key(tenant="acme", namespace=None, role="tenant", now_us=5, label=label)
    assert not state.any_keys()


def test_a_database_of_a_newer_version_is_refused(state_url: str) -> None:
    State.open(state_url).close()
    engine = create_engine(state_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE meta SET value = '99'"))
    engine.dispose()
    with pytest.raises(StoreError, match="schema 99"):
        State.open(state_url)


def test_a_full_disk_is_told_from_other_failures(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    state = State.open(url)
    connection = sqlite3.connect(tmp_path / "state.db")
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.close()
    with state._database.read() as limited:
        limited.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFull) as raised:
        state.update_control("acme", "tickets", lambda _: "x" * 1_000_000)
    assert raised.value.remedy
    state.close()


def test_a_database_server_that_accepts_and_never_speaks_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port, began = server.getsockname()[1], time.monotonic()
        with pytest.raises(StoreError, match="state database failed"):
            State.open(f"postgresql+psycopg://user@127.0.0.1:{port}/db")
        assert time.monotonic() - began < 15
