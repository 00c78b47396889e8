"""What one kind of request is: a name and phrasings.

Types only; the phrasings are in the modules beside it, written by hand for this project.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One category. `cores` and `details` hold one phrasing a line.

    In a phrasing, `(a|b|)` stands for one of its alternatives and `{slot}` for a word of
    `manners.SLOTS`. A core says what is wanted and suffices for the category; a detail only goes
    with one. Neither holds a word of urgency: people put that anywhere.
    """

    category: str
    cores: str
    details: str

    def core_lines(self) -> list[str]:
        """The cores, in the order written."""
        return self.cores.strip().splitlines()

    def detail_lines(self) -> list[str]:
        """The details, in the order written."""
        return self.details.strip().splitlines()
