"""Commented case files to begin with, one for each kind of problem."""

from __future__ import annotations

from dataclasses import dataclass

import tomli_w

DEFAULT = "continuous"


@dataclass(frozen=True)
class Template:
    """A case to begin with.

    meaning: what kind of problem it is, in a few words; subject: what it is about; text: of the file, but for its title and the
    commands that go with it, which stand after the first paragraph.
    """

    meaning: str
    subject: str
    text: str


_COMMANDS = """\
#   wassgrid check {file}       what it would take, and whether the grid is fine enough
#   wassgrid run {file}         solves it: {stem}.h5
#   wassgrid plot {stem}.h5     figures
#   wassgrid functions          what expressions may use
"""

_CONTINUOUS = """\
# A cart on a rail is pushed about by gusts and held near the middle, with little force. Change it into your own problem:
# states and actions with names of your choice, their laws, the cost, the grid.

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
points = { x = 121, v = "aligned" }   # aligned: speeds for which positions land on grid points; else a number of points

[policy]
particles = 4                 # actions per grid point, to begin with
"""

_DISCRETE = """\
# A reservoir is filled by the rain of a week, which nobody knows beforehand, and gives what is asked for as far as its level
# allows. Change it into your own problem: states and actions with names of your choice, their laws, the cost, the grid.

[parameters]                  # numbers, or expressions of earlier ones in quotes; --set parameters.price=3 changes one
rain    = 1.0                 # in a week, on average
scatter = 0.5                 # its standard deviation
asked   = 1.2                 # water that is asked for in a week
price   = 2.0                 # of water that is not given

[states.level]
next   = "level + rain - outflow"   # mean of the level a week later
noise  = "scatter"                  # standard deviation of what is added to it
domain = [0.0, 8.0]                 # what the grid covers: so wide that the level is hardly ever at an end

[actions.outflow]
bounds = [0.0, 3.0]           # left out: none

[cost]
stage = "0.1*(level - 4)**2 + price*(outflow - asked)**2"   # of a week; its long-run average is minimised

[grid]
points = { level = 81 }       # two points and more for each standard deviation of the noise

[policy]
particles = 4                 # actions per grid point, to begin with
"""

_DISCOUNTED = """\
# A workshop invests in machines, which wear out, and sells what they make; a profit is minus a cost. Change it into your own
# problem: states and actions with names of your choice, their laws, the cost, the grid.

[parameters]                  # numbers, or expressions of earlier ones in quotes; --set parameters.wear=0.2 changes one
wear    = 0.1                 # share of the machines that is lost in a year
scatter = 0.2                 # standard deviation of a year's losses and finds
change  = 1.0                 # price of fast changes

[states.machines]
next     = "(1 - wear)*machines + bought" # mean of the next state
noise    = "scatter"                      # standard deviation of what is added to it
domain   = [0.0, 10.0]                    # what the grid covers
boundary = "reflect"                      # what happens at its ends: also project, truncate, open, periodic

[actions.bought]
bounds = [0.0, 1.5]           # left out: none

[cost]
stage = "bought + change*bought**2 - 2*sqrt(machines)"   # of a year

[criterion]
kind     = "discounted"       # a cost of next year counts `discount` of one of this year
discount = 0.95

[start]
machines = 1.0                # where it begins; [0, 2]: anywhere between; without this table: anywhere in the domain

[grid]
points = { machines = 101 }

[policy]
particles = 4                 # actions per grid point, to begin with
"""

_GOAL = """\
# A boat is rowed over a lake in gusts of wind, to the other side: soon, and with little force. Change it into your own problem:
# states and actions with names of your choice, their laws, the cost, the goal, the grid.

[parameters]                  # numbers, or expressions of earlier ones in quotes; --set parameters.haste=2 changes one
haste = 1.0                   # price of a minute
gust  = 0.4                   # standard deviation of what the wind does in a minute

[states.x]
next     = "x + speed"        # mean of the next state
noise    = "gust"             # standard deviation of what is added to it
domain   = [0.0, 12.0]        # what the grid covers; it goes on behind the goal, where gusts may carry the boat
boundary = "reflect"          # what happens at its ends: also project, truncate, open, periodic

[actions.speed]
bounds = [-1.0, 1.0]          # left out: none

[cost]
stage = "haste + 2*speed**2"  # of a minute: without a price of time there might be no best policy

[criterion]
kind = "total"                # the cost until the goal, expected

[goal]
where = "x >= 9.95"           # half way between two grid points, where the grid is off least
cost  = "0"                   # of being there, once

[start]
x = 1.0                       # where it begins; [0, 2]: anywhere between

[grid]
points = { x = 121 }

[policy]
particles = 4                 # actions per grid point, to begin with
initial   = { distribution = "point", mean = "0.5" }   # one that gets to the goal from everywhere
"""

_VALUES = """\
# A room is heated by an oven that can be off, low or high, and loses its warmth to the outside. Change it into your own problem:
# states and actions with names of your choice, their laws, the cost, the grid.

[parameters]                  # numbers, or expressions of earlier ones in quotes; --set parameters.price=0.5 changes one
outside = 5.0                 # deg C
loss    = 0.1                 # 1/h
draught = 0.7                 # deg C per step of an hour
price   = 1.0                 # of a degree that is heated

[states.room]
next   = "room + loss*(outside - room) + heat"   # mean of the next state
noise  = "draught"                               # standard deviation of what is added to it
domain = [8.0, 32.0]                             # what the grid covers
unit   = "deg C"

[actions.heat]
values = [0, 1, 3]            # the actions that there are, in place of bounds
unit   = "deg C"

[cost]
stage = "(room - 20)**2 + price*heat"   # of an hour; its long-run average is minimised

[grid]
points = { room = 121 }       # two points and more for each standard deviation of the noise
"""

TEMPLATES = {
    "continuous": Template("two states in continuous time, average cost", "a cart in gusts", _CONTINUOUS),
    "discrete": Template("one state in discrete time, average cost", "a reservoir", _DISCRETE),
    "discounted": Template("one state in discrete time, discounted cost from a start on", "a workshop", _DISCOUNTED),
    "goal": Template("one state in discrete time, total cost until a goal", "a boat on a lake", _GOAL),
    "values": Template("one state in discrete time, an action from a list", "an oven", _VALUES),
}


def starter(stem: str, template: str = DEFAULT) -> str:
    """Return the text of a commented case that can be solved as it is.

    stem: the name of its file, without the ending; template: a name of `TEMPLATES`.
    """
    chosen = TEMPLATES[template]
    opening, body = chosen.text.split("\n\n", 1)
    plain = "".join(c if c.isprintable() else "?" for c in stem)
    commands = _COMMANDS.format(file=f"{plain}.toml", stem=plain)
    title = tomli_w.dumps({"title": f"{stem.encode('utf-8', 'replace').decode()}: {chosen.subject}"})
    return f"{opening}\n#\n{commands}\n{title}\n{body}"
