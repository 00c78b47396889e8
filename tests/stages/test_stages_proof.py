"""The proof of an erasure: exact, signed, checked offline; and what it says is true on the disk."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from apprentice_pipeline.artifact.canonical import read_canonical
from apprentice_pipeline.errors import KeyErased
from apprentice_pipeline.records import new_pair_id, now_us
from apprentice_pipeline.stages import erasure, export, labelling, readiness
from apprentice_pipeline.store.drain import drain
from apprentice_pipeline.store.spool import Spool

Run = Callable[..., Any]
SCOPES = {
    "pair": ("--tenant", "acme", "--namespace", "tickets", "--pair"),
    "namespace": ("--tenant", "acme", "--namespace", "tickets", "--all"),
    "tenant": ("--tenant", "acme"),
}


class Filled:
    """Pairs of two tenants in lake and spool, a correction, a worker that goes on running."""

    def __init__(self, workspace: Any, captured: Callable[..., list[Any]]) -> None:
        self.workspace = workspace
        self.root: Path = workspace.home.root
        self.spool = Spool.open(workspace.home.spool, workspace.vault)
        self.ids: dict[tuple[str, str], list[str]] = {}
        for tenant, namespace in (("acme", "tickets"), ("acme", "mail"), ("globex", "tickets")):
            made = captured(workspace, 3, tenant=tenant, namespace=namespace)
            late = [each._replace(pair_id=new_pair_id(now_us())) for each in made[:2]]
            self._put(late[:1])
            drain(workspace.home.spool, workspace.lake)
            self._put(late[1:])
            self.ids[tenant, namespace] = [each.pair_id for each in (*made, *late)]
        self.one = self.ids["acme", "tickets"][0]
        labelling.record_feedback(workspace, "acme", self.one, action="edit", edit={"a": "b" * 99})

    def _put(self, exchanges: list[Any]) -> None:
        for each in [self.spool.put(made, tenant=made.tenant) for made in exchanges]:
            assert each.exception(60) is None

    def sealed(self) -> dict[tuple[str, str], list[bytes]]:
        """Sealed and keyed bytes of every row by (tenant, pair), from lake and spools."""
        found: dict[tuple[str, str], list[bytes]] = {}
        for tenant in ("acme", "globex"):
            for table, columns in (("captures", ("input", "output")), ("feedback", ("edit",))):
                for row in self.workspace.lake.scan(tenant, table).collect().to_dicts():
                    values = [row[name] for name in columns if row[name]]
                    found.setdefault((tenant, row["pair_id"]), []).extend(values)
        for file in self.workspace.home.spool.glob("*.db"):
            with closing(sqlite3.connect(file)) as connection:
                rows = connection.execute("SELECT tenant, pair_id, first, second FROM rows")
                for tenant, pair_id, *values in rows:
                    found.setdefault((tenant, pair_id), []).extend(v for v in values if v)
        return found

    def found(self, marks: list[bytes]) -> int:
        """How many of these values have bytes in any file under the home."""
        files = [file.read_bytes() for file in self.root.rglob("*") if file.is_file()]
        parts = [mark[20:56] for mark in marks]
        return sum(any(part in content for content in files) for part in parts)

    def kept_ids(self, pair_id: str) -> list[str]:
        """Files of intermediate results that name the pair."""
        files = [file for file in self.workspace.home.work.rglob("*") if file.is_file()]
        return [file.name for file in files if pair_id.encode() in file.read_bytes()]

    def scope(self, name: str) -> set[tuple[str, str]]:
        """(tenant, pair) of what this scope covers."""
        if name == "pair":
            return {("acme", self.one)}
        namespaces = ["tickets"] if name == "namespace" else ["tickets", "mail"]
        return {("acme", pair) for each in namespaces for pair in self.ids["acme", each]}


@pytest.fixture
def filled(workspace: Any, captured: Callable[..., list[Any]]) -> Any:
    made = Filled(workspace, captured)
    yield made
    made.spool.close()


@pytest.mark.parametrize("scope", SCOPES)
def test_what_the_proof_names_is_gone_from_every_file_and_nothing_else_is(
    filled: Filled, home: Any, run_apprentice: Run, tmp_path: Path, scope: str
) -> None:
    sealed, gone = filled.sealed(), filled.scope(scope)
    erased = [value for place, values in sealed.items() if place in gone for value in values]
    kept = [value for place, values in sealed.items() if place not in gone for value in values]
    assert {place for place in sealed if place in gone} == gone
    assert filled.found(erased) == len(erased)
    for namespace in ("tickets", "mail"):
        readiness.of_stream(filled.workspace, "acme", namespace)
    assert any(filled.kept_ids(pair) for _, pair in gone)
    (wrapped,) = filled.workspace.state.data_keys.wrapped_keys("acme").values()

    file = tmp_path / "proof.json"
    last = (filled.one,) if scope == "pair" else ()
    done = run_apprentice(home, "erase", *SCOPES[scope], *last, "--proof", str(file), "--json")
    assert done.status == 0, done.err
    assert filled.found(erased) == 0
    assert filled.found(kept) == len(kept)
    assert not any(filled.kept_ids(pair) for _, pair in gone)
    assert filled.found([wrapped]) == (0 if scope == "tenant" else 1)

    facts = done.document["proof"]["facts"]
    assert set(facts["pair_ids"]) == {pair for _, pair in gone}
    assert facts["rows"]["spool"] + facts["rows"]["lake"] == len(gone) == done.document["pairs"]
    assert facts["tables"]["captures"]["rows"] == facts["rows"]["lake"]
    assert facts["tables"]["feedback"]["rows"] == 1
    assert all(each["version_after"] > each["version_before"] for each in facts["tables"].values())
    assert facts["data_keys_deleted"] == (scope == "tenant")
    assert read_canonical(file.read_bytes().removesuffix(b"\n"), "proof") == done.document["proof"]
    (copy,) = (home.root / "erasures").iterdir()
    assert copy.read_bytes() == file.read_bytes()


STEPS = (
    "noted",
    "buried",
    "spools-erased",
    "lake-erased",
    "exports-removed",
    "marked",
    "proven",
)


class Died(Exception):
    """The process ended here."""


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("scope", SCOPES)
def test_an_erasure_that_died_on_the_way_is_proven_whole_by_its_repetition(
    filled: Filled, home: Any, tmp_path: Path, scope: str, step: str
) -> None:
    exported = tmp_path / "a.jsonl"
    export.write_file(filled.workspace, export.Request("acme", "tickets"), exported)
    gone = {pair for _, pair in filled.scope(scope)}
    namespace = None if scope == "tenant" else "tickets"
    what = ("acme", namespace, filled.one if scope == "pair" else None)

    def die(done: str) -> None:
        if done == step:
            raise Died

    with home.open() as dying, pytest.raises(Died):
        erasure.erase(dying, *what, on_step=die)
    with home.open() as fresh:
        done = erasure.erase(fresh, *what)
        assert done.pairs == len(gone)
        assert done.proof is not None
        facts = done.proof["facts"]
        assert set(facts["pair_ids"]) == gone
        assert facts["rows"]["spool"] + facts["rows"]["lake"] == len(gone)
        assert facts["tables"]["feedback"]["rows"] == 1
        assert facts["exports_deleted"] == ["a.jsonl"]
        assert not exported.exists()
        again = erasure.erase(fresh, *what)
        assert again.proof is not None
        assert again.proof["facts"]["pair_ids"] == []


def test_a_shredded_tenants_sealed_bytes_open_no_more(
    filled: Filled, home: Any, run_apprentice: Run
) -> None:
    """Not in the process that was running, not in a new one, not with a key made since."""
    row = filled.workspace.lake.scan("acme", "captures").collect().to_dicts()[0]
    place = {name: row[name] for name in ("namespace", "pair_id")}
    assert run_apprentice(home, "erase", "--tenant", "acme").status == 0
    with home.open() as fresh:
        for _ in range(2):
            with pytest.raises(KeyErased):
                fresh.vault.open(row["input"], tenant="acme", field="input", **place)
            fresh.vault.seal(b"again", tenant="acme", field="input", **place)
    filled.workspace.vault.refresh("acme")
    with pytest.raises(KeyErased):
        filled.workspace.vault.open(row["input"], tenant="acme", field="input", **place)


@pytest.fixture
def proven(filled: Filled, home: Any, run_apprentice: Run, tmp_path: Path) -> Path:
    """The proof of an erased pair."""
    file = tmp_path / "proof.json"
    arguments = (*SCOPES["pair"], filled.one, "--proof", str(file))
    done = run_apprentice(home, "erase", *arguments)
    assert f"proof     {file}" in done.out
    return file


def test_a_proof_is_checked_offline_with_the_public_key_alone(
    proven: Path, home: Any, run_apprentice: Run, tmp_path: Path
) -> None:
    """By someone who has neither the home nor its secrets."""
    public = tmp_path / "their.pub"
    shutil.copy(home.root / "keys" / "signing.pub", public)
    stranger = type(home).in_folder(tmp_path / "stranger")
    done = run_apprentice(stranger, "verify", str(proven), "--public-key", str(public), "--json")
    assert done.status == 0, done.err
    assert done.document["verified"] is True
    assert done.document["scope"]["tenant"] == "acme"
    assert not stranger.root.exists()
    said = run_apprentice(home, "verify", str(proven)).out
    assert "erased    1 pairs of acme.tickets" in said
    spelt = json.dumps(json.loads(proven.read_bytes()), indent=3)
    proven.write_text(spelt)
    assert run_apprentice(home, "verify", str(proven)).status == 0


def test_what_cannot_be_proven_is_not_erased_where_a_proof_is_asked_for(
    filled: Filled, home: Any, run_apprentice: Run, tmp_path: Path
) -> None:
    home.configure(f"signing: {{public_key: {home.root / 'keys' / 'signing.pub'}}}\n")
    arguments = (*SCOPES["pair"], filled.one)
    refused = run_apprentice(home, "erase", *arguments, "--proof", str(tmp_path / "p"), "--json")
    assert refused.status == 1
    assert "signing.private_key" in refused.document["remedy"]
    nowhere = run_apprentice(home, "erase", *arguments, "--proof", str(tmp_path / "no" / "p"))
    assert nowhere.status == 2
    assert filled.workspace.state.erased_pairs("acme", "tickets", [filled.one]) == set()
    done = run_apprentice(home, "erase", *arguments, "--json").document
    assert (done["pairs"], done["proof"]) == (1, None)


def test_exports_that_may_hold_what_was_erased_are_deleted_and_changed_ones_named(
    filled: Filled, home: Any, run_apprentice: Run, tmp_path: Path
) -> None:
    files = {}
    for name, namespace, form in (
        ("a.jsonl", "tickets", "jsonl"),
        ("b.parquet", "tickets", "parquet"),
        ("edited.jsonl", "tickets", "jsonl"),
        ("mail.jsonl", "mail", "jsonl"),
    ):
        files[name] = tmp_path / name
        export.write_file(filled.workspace, export.Request("acme", namespace, form), files[name])
    files["edited.jsonl"].write_text("by hand")

    def erase(pair: str) -> Any:
        return run_apprentice(home, "erase", *SCOPES["pair"], pair, "--json").document

    nothing = erase("0198-nobody")
    assert (nothing["exports_deleted"], nothing["exports_left"]) == ([], [])
    done = erase(filled.one)
    assert set(done["exports_deleted"]) == {str(files["a.jsonl"]), str(files["b.parquet"])}
    assert done["exports_left"] == [str(files["edited.jsonl"])]
    facts = done["proof"]["facts"]
    assert facts["exports_deleted"] == ["a.jsonl", "b.parquet"]
    assert facts["exports_left"] == ["edited.jsonl"]
    assert [name for name, file in files.items() if file.exists()] == ["edited.jsonl", "mail.jsonl"]
    everything = run_apprentice(home, "erase", "--tenant", "acme", "--json").document
    assert everything["exports_deleted"] == [str(files["mail.jsonl"])]
