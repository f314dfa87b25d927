"""Errors that a person can act on: what was seen, what was expected, the remedy."""

from __future__ import annotations


class UsageError(ValueError):
    """Bad input or a request that cannot be met; the command line prints it and exits with 2."""


class NoConvexModelError(UsageError):
    """A convex model was asked of a function that has none among cvxpy's atoms."""


class NotDisciplinedError(UsageError):
    """A program is not DCP, or not DPP in its parameters; the message names the offending expression."""
