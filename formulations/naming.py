"""Names for the leaves of a program: in text and in LaTeX, unique, and safe to typeset."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import cvxpy as cp
from latex2mathml.converter import convert

from .description import Description
from .reading import attempt, scalar_value

GREEK = frozenset(
    """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon
    phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega""".split()
)
# What \text{...} cannot hold in both TeX and latex2mathml is set between two of them, in mathematics mode.
MATHEMATICS_MODE = {
    "<=": r" \le ",
    ">=": r" \ge ",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "<": " < ",
    ">": " > ",
    "^": r"\wedge ",
    "~": r"\sim ",
    "\\": r"\backslash ",
    '"': r"\text{''}",
    "`": r"\text{'}",
}
# A symbol's own LaTeX stands inside cells and braces of ours; these would break out of them.
FORBIDDEN = re.compile(
    r"[%&<>$#~]|\\\\|[_^]\s*(}|$)|"
    r"\\(begin|end|def|newcommand|newenvironment|href|style|class|input|include|write|verb|left|right)"
)


@dataclass
class Names:
    """How each leaf is written, and the arrays of numbers that were given a name of their own."""

    plain: dict[int, str] = field(default_factory=dict)
    latex: dict[int, str] = field(default_factory=dict)
    constants: list[Any] = field(default_factory=list)

    def add(self, leaf: Any, plain: str, latex: str) -> None:
        """Give a leaf its two names."""
        self.plain[key_of(leaf)] = plain
        self.latex[key_of(leaf)] = latex


def key_of(leaf: Any) -> int:
    """Return what identifies a leaf: copies of one Variable are the same unknown, Constants are objects."""
    return id(leaf) if isinstance(leaf, cp.Constant) else int(getattr(leaf, "id", id(leaf)))


def leaf_name(leaf: Any) -> str:
    """Return the name that a leaf was given, without control characters, or a question mark."""
    name = attempt(lambda: str(leaf.name()), "?")
    return printable(name) or "?"


def printable(text: Any) -> str:
    """Return a text in one line, without characters that cannot be shown."""
    words = attempt(lambda: str(text), "").split()
    return "".join(character for character in " ".join(words) if character.isprintable())


def assign_names(problem: Any, description: Description | None = None) -> Names:
    """Name every leaf of a problem; symbols of equal name get primes, arrays of numbers become C_1, C_2, ...

    Parameters
    ----------
    problem : cvxpy.Problem
        Any problem.
    description : Description, optional
        Consulted for the LaTeX of its symbols.

    Returns
    -------
    Names
        The names in text and LaTeX.
    """
    names = Names()
    used: dict[str, int] = {}
    for leaf in symbols_of(problem):
        if key_of(leaf) in names.plain:
            continue
        name = leaf_name(leaf)
        primes = "'" * used.get(name, 0)
        used[name] = used.get(name, 0) + 1
        symbol = description.symbol(name) if description is not None else None
        latex = (symbol and accepted_latex(symbol.latex)) or name_latex(name)
        names.add(leaf, name + primes, f"{{{latex}}}{primes}" if primes else latex)
    number = 0
    constants: list[Any] = attempt(lambda: list(problem.constants()), [])
    for constant in constants:
        if key_of(constant) in names.plain or scalar_value(constant) is not None:
            continue
        given = getattr(constant, "_name", None)
        name = printable(given) if given else ""
        while not name or (not given and name in used):
            number += 1
            name = f"C_{number}"
        used[name] = used.get(name, 0) + 1
        names.add(constant, name, name_latex(name))
        names.constants.append(constant)
    return names


def symbols_of(problem: Any) -> list[Any]:
    """Return the variables and then the parameters of a problem."""
    variables: Iterable[Any] = attempt(lambda: list(problem.variables()), [])
    parameters: Iterable[Any] = attempt(lambda: list(problem.parameters()), [])
    return [*variables, *parameters]


def name_latex(name: str) -> str:
    """Typeset a name: ``Z_1`` and ``x1`` get subscripts, ``gamma`` a Greek letter, words stand upright."""
    base, _, subscript = name.partition("_")
    if not subscript:
        match = re.fullmatch(r"([^\W\d_]+)(\d+)", name)
        base, subscript = (match[1], match[2]) if match else (name, "")
    # A name such as __x__ or x^2 is no base with a subscript: it is shown letter by letter.
    if not base.isalnum() or not subscript.replace("_", "").isalnum():
        return _word_latex(name)
    parts = (part for part in subscript.split("_") if part)
    return f"{_word_latex(base)}_{{{','.join(map(_word_latex, parts))}}}"


def _word_latex(word: str) -> str:
    if word in GREEK:
        return rf"\{word}"
    if word.isascii() and word.isalnum() and (len(word) == 1 or word.isdigit()):
        return word
    # Braces, so that a subscript or a superscript belongs to the whole name.
    return text_latex(word) if word.isalnum() else f"{{{text_latex(word)}}}"


def text_latex(text: Any) -> str:
    r"""Set any text upright, as ``\text{...}``, whatever characters it holds."""
    pieces = re.split(r"(<=|>=|[_%&#$<>^~\\\\\"`{}])", printable(text))
    upright = (MATHEMATICS_MODE.get(piece) or rf"\text{{{piece}}}" for piece in pieces if piece)
    return "".join(upright) or "{}"


def accepted_latex(latex: str | None) -> str | None:
    """Return the LaTeX of a symbol when it can stand inside ours, and None when it could break out of it."""
    if not latex or FORBIDDEN.search(latex) or not _balanced(latex):
        return None
    # In braces: `x^` alone would take what follows it as its exponent.
    safe = latex if re.fullmatch(r"[A-Za-z]|\\[A-Za-z]+|\\math[a-z]+\{[A-Za-z]\}", latex) else f"{{{latex}}}"
    return safe if attempt(lambda: bool(convert(f"{safe}_{{1}}")), False) else None


def _balanced(latex: str) -> bool:
    depth = 0
    for mark in re.findall(r"\\.|[{}]", latex):
        depth += {"{": 1, "}": -1}.get(mark, 0)
        if depth < 0:
            return False
    return depth == 0 and not latex.endswith("\\")


def shape_latex(leaf: Any) -> str:
    r"""Return the set that shape and declared attributes put a leaf in, as in ``\mathbb{R}^{64}_{+}``."""
    attributes: dict[str, Any] = attempt(lambda: leaf.attributes, {})
    sizes = r" \times ".join(str(size) for size in leaf.shape)
    if attributes.get("boolean") is True:
        return r"\{0, 1\}" + (f"^{{{sizes}}}" if sizes else "")
    field_ = r"\mathbb{R}"
    if attributes.get("integer") is True:
        field_ = r"\mathbb{Z}"
    elif attempt(leaf.is_complex, False):
        field_ = r"\mathbb{C}"
    sign = next(
        (mark for key, mark in SIGN_MARKS.items() if attributes.get(key) is True),
        "",
    )
    if attributes.get("PSD") is True or attributes.get("symmetric") is True:
        field_, sizes = r"\mathbb{S}", str(leaf.shape[-1])
    return field_ + (f"^{{{sizes}}}" if sizes else "") + (f"_{{{sign}}}" if sign else "")


SIGN_MARKS = {"nonneg": "+", "nonpos": "-", "pos": "++", "neg": "--", "PSD": "+"}
