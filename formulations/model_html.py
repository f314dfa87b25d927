"""The summary of a program as an HTML fragment, its formulas in MathML."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, Template
from latex2mathml.converter import convert
from markupsafe import Markup

from .cones import cone_text
from .model_text import left_out, opening, property_lines
from .naming import text_latex
from .reading import attempt

# Browsers know no bold numbers but as characters of their own.
BOLD_ONE = '<mn mathvariant="bold">1</mn>'
NAMESPACE = "{http://www.w3.org/1998/Math/MathML}"
ELEMENTS = set(
    """math mrow mi mn mo ms mtext mspace msub msup msubsup mover munder munderover mfrac msqrt mroot
    mtable mtr mtd mstyle mpadded""".split()
)
ATTRIBUTES = set(
    """display stretchy fence form separator accent largeop movablelimits lspace rspace minsize maxsize
    linebreak mathvariant columnalign rowspacing columnspacing displaystyle scriptlevel width height depth
    linethickness columnlines""".split()
)


def summary_html(summary: dict[str, Any], cap: int | None) -> str:
    """Fill the template with the summary of `render_json`."""
    sections = {
        "objective": (summary["objective"], "terms"),
        "constraints": (summary["constraints"], "constraints"),
        "symbols": (summary["symbols"], "symbols"),
        "convexity": (summary["convexity"], "rows"),
    }
    shown = {key: rows[:cap] for key, (rows, _) in sections.items()}
    rest = {key: left_out(len(rows), cap, what) for key, (rows, what) in sections.items()}
    return _template().render(
        {**summary, **shown},
        rest=rest,
        opening=opening(summary["mathematics"]),
        cone_sentence=cone_text(summary["cones"]),
        property_lines=property_lines(summary["properties"]),
        symbol_latex=_symbol_latex,
    )


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["mathml"] = mathml
    return environment.from_string(files(__package__).joinpath("model.html").read_text(encoding="utf-8"))


def _symbol_latex(symbol: dict[str, Any]) -> str:
    return rf"{symbol['latex'] or text_latex(symbol['name'])} \in {symbol['set_latex']}"


def mathml(latex: str) -> Markup | str:
    """Convert LaTeX to MathML; return the LaTeX itself, to be escaped as text, where that fails."""
    # The converter does not escape text: what it returns is trusted only if it holds nothing but MathML.
    bold_one = "<mn>\N{MATHEMATICAL BOLD DIGIT ONE}</mn>"
    return attempt(lambda: _checked(convert(latex).replace(BOLD_ONE, bold_one)), latex)


def _checked(converted: str) -> Markup:
    for element in ElementTree.fromstring(converted).iter():
        name = element.tag.removeprefix(NAMESPACE)
        if name not in ELEMENTS or not ATTRIBUTES.issuperset(element.attrib):
            raise ValueError(f"unexpected element {name} in MathML")
    return Markup(converted)
