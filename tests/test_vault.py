"""The vault: what is sealed opens in its own place only, and not at all once its key is gone."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.errors import CannotOpen, KeyErased, KeyMissing, VaultError
from apprentice_pipeline.vault import MasterKey, MemoryDataKeys, Vault, key_version

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
    keys.add_wrapped_key("globex", 1, keys.wrapped_keys("acme")[1], mark="")
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


def test_no_key_of_a_tenant_has_the_version_of_a_forgotten_one() -> None:
    """So what the old key sealed is told from what is merely damaged, forever."""
    keys = MemoryDataKeys()
    vault = Vault(bytes(32), keys)
    sealed = [vault.seal(SECRET.encode(), **PLACE)]
    for _ in range(2):
        vault.forget("acme")
        sealed.append(vault.seal(SECRET.encode(), **PLACE))
    assert [key_version(each) for each in sealed] == [1, 2, 3]
    for dead in sealed[:2]:
        with pytest.raises(KeyErased):
            vault.open(dead, **PLACE)
    assert vault.open(sealed[2], **PLACE) == SECRET.encode()


def raise_with_remedy(reader: Vault, sealed: bytes) -> None:
    try:
        reader.open(sealed, **PLACE)
    except KeyMissing as error:
        raise KeyMissing(f"{error}: {error.remedy}") from None


def test_a_tenant_that_comes_back_gets_a_new_key_that_opens_no_old_row(vault: Vault) -> None:
    sealed = vault.seal(SECRET.encode(), **PLACE)
    vault.forget("acme")
    vault.seal(b"new", **PLACE)
    with pytest.raises(KeyErased):
        vault.open(sealed, **PLACE)


WORD = st.text(st.sampled_from("ab1-_/.é\x00"), max_size=4)


@given(st.tuples(WORD, WORD, WORD, WORD), st.tuples(WORD, WORD, WORD, WORD))
def test_no_place_but_its_own_opens_a_value(
    sealed_for: tuple[str, str, str, str], tried: tuple[str, str, str, str]
) -> None:
    """Whatever the names: of tenants with data keys of their own, glued, shifted or empty."""
    names = ("tenant", "namespace", "pair_id", "field")
    place, other = dict(zip(names, sealed_for, strict=True)), dict(zip(names, tried, strict=True))
    sealed = SHARED.seal(SECRET.encode(), **place)
    SHARED.seal(b"so that it has a key", **other)
    if place == other:
        assert SHARED.open(sealed, **other) == SECRET.encode()
        return
    with pytest.raises(CannotOpen, match="does not open"):
        SHARED.open(sealed, **other)


@given(st.binary(min_size=32, max_size=32), WORD, st.integers(1, 9), st.binary(max_size=40))
def test_a_wrapped_key_opens_with_its_master_key_tenant_and_version_only(
    master: bytes, tenant: str, version: int, data_key: bytes
) -> None:
    key = MasterKey(master)
    wrapped = key.wrap(tenant, version, data_key)
    assert key.unwrap(tenant, version, wrapped) == data_key
    others = [
        (MasterKey(bytes([master[0] ^ 1]) + master[1:]), tenant, version),
        (key, f"{tenant}x", version),
        (key, tenant, version + 1),
    ]
    for other, of, number in others:
        with pytest.raises(CannotOpen):
            other.unwrap(of, number, wrapped)
    assert key.mark != others[0][0].mark


def test_a_vault_follows_a_new_master_key_and_keeps_its_data_keys() -> None:
    """A process that was running when the keys were re-wrapped."""
    keys, old, new = MemoryDataKeys(), MasterKey(bytes(32)), MasterKey(b"\1" * 32)
    in_force = [old]
    sealed = Vault(old, keys).seal(SECRET.encode(), **PLACE)
    data_key = old.unwrap("acme", 1, keys.wrapped_keys("acme")[1])
    keys = MemoryDataKeys()
    keys.add_wrapped_key("acme", 1, new.wrap("acme", 1, data_key), mark=new.mark)
    vault = Vault(old, keys, lambda: in_force[0])
    with pytest.raises(CannotOpen, match="master key"):
        vault.open(sealed, **PLACE)
    in_force[0] = new
    assert vault.open(sealed, **PLACE) == SECRET.encode()
    assert Vault(new, keys).open(sealed, **PLACE) == SECRET.encode()


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


def test_a_master_key_of_another_length_is_refused() -> None:
    with pytest.raises(VaultError, match="32 bytes"):
        Vault(b"short", MemoryDataKeys())
