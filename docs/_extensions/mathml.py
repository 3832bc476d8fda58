"""Formulas as MathML, written into the pages: browsers draw it without a script, and nothing is loaded."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator


def mathml(text: str, as_block: bool = False) -> str:
    """Return TeX as MathML, with delimiters of one size and primes that are primes; those of \\left and \\right stretch."""
    found = tex2mathml(text, as_block=as_block)
    found = re.sub(r'<mo(?: class="[^"]*")?>([⟨⟩‖∥|])</mo>', r'<mo stretchy="false">\1</mo>', found)
    return re.sub(r"<mo>'</mo>|<mi>'</mi>", "<mo>′</mo>", found)


def inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def block(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math"))
    self.body.append(mathml(node.astext(), as_block=True))
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
