"""The content of a certificate file, and ways to change it: what the tests of certificates share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from convexblocks.certificates.checker import data_digest

Content = dict[str, Any]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all real numbers."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, list | dict):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(entry, (*path, key))


def put(content: Any, path: tuple[Any, ...], change: Callable[[float], float]) -> None:
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = change(float.fromhex(content[path[-1]])).hex()


def numbers_of(content: Content) -> tuple[list[list[float]], list[float]]:
    """X and y."""
    data = content["data"]
    return [[float.fromhex(entry) for entry in row] for row in data["X"]], [float.fromhex(entry) for entry in data["y"]]


def permuted(content: Content, order: list[int]) -> Content:
    """The samples in another order, in the data and in the evidence, and pairs and partners in reverse."""
    content = copy.deepcopy(content)
    place = {old: new for new, old in enumerate(order)}
    vectors = [(content["data"], "X"), (content["data"], "y"), (content["evidence"], "v")]
    for name in ("plus", "minus"):
        side = content["evidence"][name]
        vectors += [(side, key) for key in ("quadratic", "linear", "rows") if side[key] is not None]
        for pair in side["pairs"]:
            pair["of"] = place[pair["of"]]
            pair["partners"] = [[place[j], c] for j, c in reversed(pair["partners"])]
        side["pairs"].reverse()
    for owner, key in vectors:
        owner[key] = [owner[key][old] for old in order]
    content["statement"]["data_sha256"] = data_digest(*numbers_of(content))
    return content
