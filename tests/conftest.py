"""What all tests share."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from convexblocks.solvers.recoveries import CanonicalFormError


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """Skip what a version of cvxpy before 1.9.3 makes wrong, and is therefore refused with."""
    try:
        return (yield)
    except CanonicalFormError as refusal:
        if "silently loses quadratic terms" in str(refusal):
            pytest.skip(str(refusal))
        raise
