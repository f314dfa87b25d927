"""What a convex program means: the words that the formula alone cannot say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Symbol:
    """The meaning of one named Variable or Parameter of a program.

    Parameters
    ----------
    name : str
        Name of the cvxpy Variable or Parameter.
    meaning : str
        What it stands for, in a few words.
    sharing : str
        ``"per instance"`` when every instance has its own value, ``"shared"`` when all have the same.
    latex : str, optional
        How it is typeset; by default this follows from the name.
    """

    name: str
    meaning: str
    sharing: str
    latex: str | None = None

    def __post_init__(self) -> None:
        if self.sharing not in ("per instance", "shared"):
            raise ValueError(
                f"sharing of symbol {self.name!r} is {self.sharing!r}; expected 'per instance' or 'shared'"
            )


@dataclass(frozen=True)
class Description:
    """What a program is, of what it holds one, what its symbols mean, and where it comes from.

    Parameters
    ----------
    title : str
        Name of the program.
    instance : str
        What one instance is, for example ``"one sample"``.
    symbols : tuple of Symbol
        The symbols worth explaining; others are shown without a meaning.
    source : str
        Paper and section.
    mathematics : str, optional
        The program as its author would write it, in plain text.
    """

    title: str
    instance: str
    symbols: tuple[Symbol, ...]
    source: str
    mathematics: str = ""

    def symbol(self, name: str) -> Symbol | None:
        """Return the symbol of this name, or None where nothing is known of it."""
        return next((symbol for symbol in self.symbols if symbol.name == name), None)
