"""A commented case file to begin with."""

from __future__ import annotations

import tomli_w

_TEXT = """\
# A cart on a rail is pushed about by gusts and held near the middle, with little force. Change it into your own problem:
# states and actions with names of your choice, their laws, the cost, the grid.
#
#   wassgrid check {file}       what it would take, and whether the grid is fine enough
#   wassgrid run {file}         solves it: {stem}.h5
#   wassgrid plot {stem}.h5     figures
#   wassgrid functions          what expressions may use

{title}

[parameters]                  # numbers, or expressions of earlier ones in quotes; --set parameters.force=3 changes one
friction = 0.5                # 1/s
gust     = 0.6                # m/s per square root of a second
force    = 2.0                # m/s^2, the largest
price    = 0.1                # of force

[time]                        # continuous time, in steps; without this table: next, noise and stage in place of drift,
step = 0.2                    # diffusion and rate
unit = "s"

[states.x]
drift  = "next(v)"            # rate of change; next(v): with the speed at the end of the step
domain = [-3.0, 3.0]          # what the grid covers
unit   = "m"

[states.v]
drift     = "u - friction*v"
diffusion = "gust"            # noise per square root of time
domain    = [-3.0, 3.0]
unit      = "m/s"

[actions.u]
bounds = ["-force", "force"]  # left out: none
unit   = "m/s^2"

[cost]
rate = "x**2 + price*u**2"    # per unit of time; its long-run average is minimised

[grid]
points = {{ x = 121, v = "aligned" }}   # aligned: speeds for which positions land on grid points; else a number of points

[policy]
particles = 4                 # actions per grid point, to begin with
"""


def starter(stem: str) -> str:
    """Return the text of a commented case that can be solved as it is; stem: the name of its file, without the ending."""
    plain = "".join(c if c.isprintable() else "?" for c in stem)
    title = tomli_w.dumps({"title": f"{stem.encode('utf-8', 'replace').decode()}: a cart in gusts"}).strip()
    return _TEXT.format(file=f"{plain}.toml", stem=plain, title=title)
