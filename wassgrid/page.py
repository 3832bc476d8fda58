"""One page on a run, to send or to keep: HTML that loads nothing and runs nothing."""

from __future__ import annotations

import base64
import hashlib
import io
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wassgrid.case.stored import case_of
from wassgrid.closed_loop import CHAINS, simulate_from_dearest
from wassgrid.errors import WassgridError
from wassgrid.report import RESOLUTION_COLUMNS, origin_rows, resolution_row, rounded, summary_rows, too_coarse
from wassgrid.runs.schema import ESTIMATE, LOWER_BOUND, OBJECTIVE, UPPER_END
from wassgrid.runs.summary import summary_of
from wassgrid.storage import ResultFile, StorageError
from wassgrid.storage.whole import write_whole
from wassgrid.text import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEGINS = b"<!doctype html>\n<!-- wassgrid report -->\n"  # by which an earlier page is known when it is replaced
_ALLOWED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_DOTS_PER_INCH = 110
_WHAT = {
    "convergence": ("Convergence", "J, its bounds and the gradient norm, step by step."),
    "policy": ("Policy", "The mean action in every cell."),
    "stationary": ("Stationary law", "Where the closed loop spends its time."),
    "value": ("Value", "V: what it costs more, in the long run, to start there."),
    "trajectories": ("Particles", "Actions of chosen cells along the run."),
    "curvature": ("Curvature", "Extreme eigenvalues of the Hessian along the run."),
    "loop": (
        "Closed loop",
        f"{CHAINS} chains from the state with the largest V, simulated off the grid: bands hold 50 and 90 % of them.",
    ),
}
_VERDICTS = {
    "converged": "good", "stopped": "fair", "interrupted": "fair", "running": "fair", "failed": "poor",
}  # fmt: skip
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; margin: 0 auto; max-width: 62rem; padding: 1.5rem 1.2rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid #d0d7de; }
p.of { color: #57606a; margin: 0 0 1.2rem; } .verdict { border-left: .5rem solid; padding: .7rem 1rem; background: #f6f8fa; }
.good { border-color: #0072b2; } .fair { border-color: #e69f00; } .poor { border-color: #d55e00; }
.verdict strong { font-size: 1.1rem; } .verdict p { margin: .3rem 0 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #eaeef2; }
th { font-weight: 600; white-space: nowrap; } td { overflow-wrap: anywhere; }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; height: auto; } figcaption { color: #57606a; }
pre { background: #f6f8fa; padding: .8rem 1rem; overflow-x: auto; font-size: .85rem; }
@media print { body { max-width: none; } figure { break-inside: avoid; } }
"""


def write_page(path: str | PathLike[str], output: str | PathLike[str] | None = None) -> Path:
    """Write the page on a result file and return where: beside nothing else, in the folder one is in, as NAME.html.

    Raises StorageError, also where `output` is a file of another kind.
    """
    where = Path(output) if output is not None else Path(f"{Path(path).stem}.html")
    write_whole(where, page(path).encode(), BEGINS)
    return where


def page(path: str | PathLike[str]) -> str:
    """Return the page on a result file as HTML.  Raises StorageError."""
    from wassgrid.plotting import figures

    with ResultFile(path) as result:
        if not result.records("convergence"):
            raise StorageError(f"'{path}' has no step yet: there is nothing to report")
        case = case_of(result)
        title, name = result.text("title"), result.text("case_name")
        parts = [_verdict(result), _table("Numbers", summary_rows(result, case)), *_noise(result)]
        origin = _table("Provenance", _provenance(result))
        text = result.case_text
        gridded = result.records("trajectory") > 0 and "value" in result.variables("trajectory")
    drawn = figures([path])
    shown = [_figure(key.rpartition("_")[2], figure) for key, figure in drawn.items()]
    if gridded:
        shown.append(_closed_loop(path))
    return (
        BEGINS.decode()
        + '<html lang="en"><head><meta charset="utf-8">\n'
        + f'<meta http-equiv="Content-Security-Policy" content="{_ALLOWED}">\n'
        + '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        + f"<title>{_safe(title or name)}</title>\n<style>{_STYLE}</style></head>\n<body>\n"
        + f'<h1>{_safe(title or name)}</h1>\n<p class="of">{_safe(name)}, solved by wassgrid</p>\n'
        + "\n".join(parts)
        + "\n<h2>Figures</h2>\n"
        + "\n".join(shown)
        + f"\n<h2>Case</h2>\n<pre>{_lines(text)}</pre>\n{origin}\n</body></html>\n"
    )


def _verdict(result: ResultFile) -> str:
    """Say in words what is proven, of what, and what is estimated."""
    last, summary = result.last("convergence"), summary_of(result)
    objective, bound = summary.get(OBJECTIVE, last[OBJECTIVE]), last.get(LOWER_BOUND, np.nan)
    says = [f"<strong>{_safe(result.status)}: {_safe(result.reason or 'no reason was stored')}</strong>"]
    says.append(f"<p>The policy costs J = {objective:.8g}.</p>")
    if np.isfinite(bound):
        upper = last.get(UPPER_END, objective)
        says.append(
            f"<p>No policy of the problem on this grid costs less than {bound:.8g}: that is proven, and this policy is within "
            f"{max(upper - bound, 0.0):.1e} of it.</p>"
        )
    else:
        says.append("<p>Nothing is proven about better policies.</p>")
    found = summary.get(ESTIMATE)
    if found is not None and "value" in found:
        says.append(
            f"<p>In the problem itself, off the grid, it costs {_safe(rounded(found['value'], found['standard_error']))}: an "
            "estimate by simulation, with its standard error.</p>"
        )
        if (warning := too_coarse(found, objective)) is not None:
            says.append(f"<p><strong>Warning: {_safe(warning)}.</strong></p>")
    return f'<div class="verdict {_VERDICTS.get(result.status, "fair")}">{"".join(says)}</div>'


def _noise(result: ResultFile) -> list[str]:
    axes = summary_of(result).get("resolution")
    if not axes:
        return []
    head = "".join(f"<th>{name}</th>" for name in RESOLUTION_COLUMNS)
    cells = ("".join(f"<td>{_safe(text)}</td>" for text in resolution_row(axis)) for axis in axes)
    rows = "".join(f"<tr>{row}</tr>" for row in cells)
    return [f"<h2>Noise per step, of the problem and of the grid</h2>\n<table><tr>{head}</tr>{rows}</table>"]


def _provenance(result: ResultFile) -> list[tuple[str, str]]:
    with open(result.path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return [("file", f"{result.path.name}, SHA-256 {digest}"), *origin_rows(result)]


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    body = "".join(f"<tr><th>{_safe(name)}</th><td>{_safe(text)}</td></tr>" for name, text in rows)
    return f"<h2>{_safe(title)}</h2>\n<table>{body}</table>"


def _figure(kind: str, figure: Figure) -> str:
    title, caption = _WHAT.get(kind, (kind, ""))
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DOTS_PER_INCH)
    image = base64.b64encode(stream.getvalue()).decode()
    return (
        f'<figure><img alt="{_safe(title)}" src="data:image/png;base64,{image}">'
        f"<figcaption>{_safe(title)}. {_safe(caption)}</figcaption></figure>"
    )


def _closed_loop(path: str | PathLike[str]) -> str:
    """Simulate the policy and show it; say why where that cannot be done."""
    from wassgrid.plotting import closed_loop

    try:
        with np.errstate(all="ignore"):
            return _figure("loop", closed_loop(simulate_from_dearest(path)))
    except WassgridError as error:
        return f"<p>The closed loop is not shown: {_safe(error)}</p>"


def _lines(text: str) -> str:
    return "\n".join(_safe(line) for line in text.splitlines())


def _safe(text: object) -> str:
    """Return text from a file as text of a page."""
    return escape(visible(text))
