"""The vault: what is sealed opens in its own place only, and not at all once its key is gone."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.errors import CannotOpen, KeyMissing, VaultError
from apprentice_pipeline.vault import MemoryDataKeys, Vault, load_master_key

SECRET = "the customer said: my card is 4111"
PLACE = {"tenant": "acme", "namespace": "tickets", "pair_id": "p-1", "field": "input"}
SHARED = Vault(bytes(range(32)), MemoryDataKeys())
SEALED = SHARED.seal(SECRET.encode(), **PLACE)


@pytest.fixture
def vault() -> Vault:
    return Vault(bytes(range(32)), MemoryDataKeys())


@given(st.binary(max_size=4_000), st.text(max_size=30), st.text(max_size=30))
def test_what_is_sealed_opens_in_its_place(data: bytes, pair_id: str, namespace: str) -> None:
    place = {"tenant": "acme", "namespace": namespace, "pair_id": pair_id, "field": "output"}
    assert SHARED.open(SHARED.seal(data, **place), **place) == data


def test_a_sealed_value_shows_nothing_of_what_it_holds(vault: Vault) -> None:
    first, second = (vault.seal(SECRET.encode(), **PLACE) for _ in range(2))
    assert SECRET.encode() not in first
    assert b"4111" not in first
    assert first != second


@pytest.mark.parametrize(
    "moved",
    [
        {"pair_id": "p-2"},
        {"field": "output"},
        {"namespace": "billing"},
        {"namespace": "ticketsp-1", "pair_id": ""},
        {"namespace": "ticket", "pair_id": "sp-1"},
    ],
    ids=["another row", "output for input", "another namespace", "glued", "shifted"],
)
def test_a_moved_value_does_not_open(vault: Vault, moved: dict[str, str]) -> None:
    sealed = vault.seal(SECRET.encode(), **PLACE)
    with pytest.raises(CannotOpen, match="does not open") as refusal:
        vault.open(sealed, **{**PLACE, **moved})
    assert "moved or changed" in refusal.value.remedy
    assert SECRET not in str(refusal.value)


def test_another_tenant_cannot_open_it_even_with_a_key_of_its_own(vault: Vault) -> None:
    sealed = vault.seal(SECRET.encode(), **PLACE)
    with pytest.raises(KeyMissing, match="'globex' has no data key"):
        vault.open(sealed, **{**PLACE, "tenant": "globex"})
    vault.seal(b"something", **{**PLACE, "tenant": "globex"})
    with pytest.raises(CannotOpen, match="does not open"):
        vault.open(sealed, **{**PLACE, "tenant": "globex"})


def test_another_master_key_opens_nothing_and_says_which_one_is_wanted() -> None:
    keys = MemoryDataKeys()
    sealed = Vault(bytes(32), keys).seal(SECRET.encode(), **PLACE)
    with pytest.raises(CannotOpen, match="master key") as refusal:
        Vault(b"\1" * 32, keys).open(sealed, **PLACE)
    assert "APPRENTICE_MASTER_KEY" in refusal.value.remedy


def test_a_wrapped_key_of_one_tenant_does_not_serve_another() -> None:
    """Someone who can write to the database cannot hand one tenant's rows to another."""
    keys = MemoryDataKeys()
    vault = Vault(bytes(32), keys)
    vault.seal(b"x", **PLACE)
    keys.add_wrapped_key("globex", 1, keys.wrapped_keys("acme")[1])
    with pytest.raises(CannotOpen, match="'globex' does not open"):
        vault.seal(b"x", **{**PLACE, "tenant": "globex"})


def test_a_forgotten_tenant_is_unreadable_everywhere_and_the_others_are_not() -> None:
    keys = MemoryDataKeys()
    vault = Vault(bytes(32), keys)
    sealed = vault.seal(SECRET.encode(), **PLACE)
    other = vault.seal(SECRET.encode(), **{**PLACE, "tenant": "globex"})
    vault.forget("acme")
    for reader in (vault, Vault(bytes(32), keys)):
        with pytest.raises(KeyMissing, match="erased"):
            raise_with_remedy(reader, sealed)
        assert reader.open(other, **{**PLACE, "tenant": "globex"}) == SECRET.encode()


def raise_with_remedy(reader: Vault, sealed: bytes) -> None:
    try:
        reader.open(sealed, **PLACE)
    except KeyMissing as error:
        raise KeyMissing(f"{error}: {error.remedy}") from None


def test_a_tenant_that_comes_back_gets_a_new_key_that_opens_no_old_row(vault: Vault) -> None:
    sealed = vault.seal(SECRET.encode(), **PLACE)
    vault.forget("acme")
    vault.seal(b"new", **PLACE)
    with pytest.raises(CannotOpen):
        vault.open(sealed, **PLACE)


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_a_changed_byte_anywhere_is_noticed(place: int, difference: int) -> None:
    changed = bytearray(SEALED)
    changed[place] ^= difference
    with pytest.raises(VaultError):
        SHARED.open(bytes(changed), **PLACE)


@given(st.integers(0, len(SEALED) - 1))
def test_a_value_cut_short_is_noticed(length: int) -> None:
    with pytest.raises(VaultError):
        SHARED.open(SEALED[:length], **PLACE)


@given(st.binary(max_size=200))
def test_bytes_that_were_never_sealed_do_not_open(noise: bytes) -> None:
    with pytest.raises(VaultError):
        SHARED.open(noise, **PLACE)


def test_fingerprints_are_stable_within_a_tenant_and_purpose_and_nowhere_else() -> None:
    keys = MemoryDataKeys()
    vault = Vault(bytes(32), keys)
    mark = vault.fingerprint("acme", "dedup", b"hello")
    assert len(mark) == 32
    assert mark == Vault(bytes(32), keys).fingerprint("acme", "dedup", b"hello")
    others = {
        vault.fingerprint("acme", "dedup", b"hello."),
        vault.fingerprint("acme", "split", b"hello"),
        vault.fingerprint("globex", "dedup", b"hello"),
        Vault(bytes(32), MemoryDataKeys()).fingerprint("acme", "dedup", b"hello"),
    }
    assert mark not in others
    assert len(others) == 4


def test_threads_that_seal_at_once_agree_on_one_key() -> None:
    keys = MemoryDataKeys()
    vault = Vault(bytes(32), keys)
    sealed: list[bytes] = []
    start = threading.Barrier(8)

    def seal() -> None:
        start.wait()
        sealed.append(vault.seal(SECRET.encode(), **PLACE))

    threads = [threading.Thread(target=seal) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fresh = Vault(bytes(32), keys)
    assert {fresh.open(value, **PLACE) for value in sealed} == {SECRET.encode()}


def test_a_given_master_key_is_used_and_no_file_is_made(tmp_path: Path) -> None:
    assert load_master_key(b"k" * 32, tmp_path / "keys") == b"k" * 32
    assert not (tmp_path / "keys").exists()


def test_the_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    key = load_master_key(None, folder)
    file = folder / "master.key"
    assert len(key) == 32
    assert load_master_key(None, folder) == key == file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [entry.name for entry in folder.iterdir()] == ["master.key"]


def test_processes_that_start_at_once_agree_on_one_master_key(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib; from apprentice_pipeline.vault import load_master_key\n"
        "print(flush=True); sys.stdin.read()\n"
        "print(load_master_key(None, pathlib.Path(sys.argv[1])).hex())"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "keys")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        )
        for _ in range(4)
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
    keys = set()
    for process in started:
        with process:
            assert process.stdout is not None
            keys.add(process.stdout.read().strip())
    assert len(keys) == 1
    assert keys == {(tmp_path / "keys" / "master.key").read_bytes().hex()}


def test_a_damaged_key_file_is_refused_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "master.key").write_bytes(b"short")
    with pytest.raises(KeyMissing, match="32-byte key") as refusal:
        load_master_key(None, tmp_path)
    assert "restore" in refusal.value.remedy
    assert (tmp_path / "master.key").read_bytes() == b"short"


def test_a_master_key_of_another_length_is_refused() -> None:
    with pytest.raises(VaultError, match="32 bytes"):
        Vault(b"short", MemoryDataKeys())
