"""The exception tree: one root, a remedy that stays, a picture that is true."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from apprentice_pipeline import errors
from apprentice_pipeline.errors import ApprenticeError, ConfigError, GateRefused, RemoteError

TREE = sorted(
    (found for _, found in inspect.getmembers(errors, inspect.isclass)), key=lambda c: c.__name__
)
SPECIAL = {ApprenticeError, ConfigError, GateRefused, RemoteError}


@pytest.mark.parametrize("error", TREE, ids=lambda error: error.__name__)
def test_every_error_is_one_of_ours_and_says_what_it_stands_for(error: type) -> None:
    assert issubclass(error, ApprenticeError)
    assert error.__doc__
    assert error.__doc__.strip()


@pytest.mark.parametrize(
    "error", [e for e in TREE if e not in SPECIAL], ids=lambda error: error.__name__
)
def test_a_remedy_is_kept_beside_the_cause(error: type[ApprenticeError]) -> None:
    raised = error("the disk is full", remedy="free some space")
    assert (str(raised), raised.message, raised.remedy) == (
        "the disk is full",
        "the disk is full",
        "free some space",
    )
    always = (
        error is errors.ArtifactError
    )  # whatever is wrong with a file, the next step is the same
    assert bool(error("the disk is full").remedy) == always


def test_errors_with_facts_of_their_own_keep_them() -> None:
    refused = GateRefused(["K 0.4 below 0.85", "no newer rows"], remedy="capture more")
    assert refused.failures == ("K 0.4 below 0.85", "no newer rows")
    assert "K 0.4 below 0.85; no newer rows" in refused.message
    assert refused.remedy == "capture more"
    failed = RemoteError("the provider answered 529", status=529, remedy="wait")
    assert (failed.status, failed.remedy) == (529, "wait")
    assert RemoteError("no answer").status == 0


def test_a_configuration_error_counts_and_lists_its_faults() -> None:
    one = ConfigError(["line 3: taks: unknown key"], source="apprentice.yaml")
    two = ConfigError(["line 1: a", "line 2: b"], source="x.yaml", remedy="look")
    assert one.message.startswith("apprentice.yaml: 1 fault\n")
    assert "apprentice init" in one.remedy
    assert two.message.splitlines() == ["x.yaml: 2 faults", "  line 1: a", "  line 2: b"]
    assert (two.faults, two.remedy) == (("line 1: a", "line 2: b"), "look")


def test_the_tree_in_the_module_is_the_tree_in_the_code() -> None:
    """Names and indentation: a child stands deeper than its parent, right under it."""
    drawn: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"([ │├└─]*)([A-Z]\w+)\b", line)
        if not found or not hasattr(errors, found[2]):
            continue
        depth = len(found[1])
        path = [(d, name) for d, name in path if d < depth]
        drawn[found[2]] = path[-1][1] if path else "Exception"
        path.append((depth, found[2]))
    assert drawn == {error.__name__: error.__base__.__name__ for error in TREE}


def test_an_error_crosses_a_process_boundary_with_its_message() -> None:
    """Workers hand errors to their parents pickled."""
    back = pickle.loads(pickle.dumps(errors.StorageFull("no room", remedy="free some")))
    assert isinstance(back, errors.StorageFull)
    assert (back.message, back.remedy) == ("no room", "free some")
