"""Random small problems with kinks and jumps, some of them exactly on an action bound, for brute-force checks of lower bounds."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from wassgrid.problem.boundary import BOUNDARIES
from wassgrid.transition.axis_kernels import AXIS_KERNELS

ONE_COST = [
    "{c}*abs(a - ({k}))", "{c}*abs(a - ({k})) - 0.5*{c}*a", "-{c}*abs(a - ({k}))", "{c}*max(a, {k})", "-{c}*max(a, {k}) + a**2",
    "{c}*min(a**2, a + ({k}))", "{c}*a**2 + clip(a, {k}, 2)", "where(a > {k}, {c}, 0.2*a)", "where(a >= {k}, 0.1*a**2, {c})",
    "{c}*cos(7*a) + 0.1*a", "{c}*mod(a - ({k}), 0.7)", "{c}*(a**3 - a)", "{c}*abs(3*a - 3*({k}))", "{c}*abs(a**3 - ({k})**3)",
]  # fmt: skip
ONE_MEAN = [
    "{r}*x + a", "{r}*x + 0.8*sin(3*a)", "{r}*x + clip(a, -2, {k})", "{r}*x + abs(a - ({k}))", "{r}*x + 3*a",
    "{r}*x + max(a, {k}) - 0.5*a", "{r}*x + where(a > {k}, 0.5, -0.2)",
]  # fmt: skip


def _bounds(rng: np.random.Generator) -> tuple[float, float]:
    low = round(float(rng.uniform(-1.5, 0.2)), 1)
    return low, round(low + float(rng.uniform(0.5, 2.0)), 1)


def _kink(rng: np.random.Generator, low: float, high: float) -> float:
    """A place for a kink: an action bound as often as not, else somewhere, 0 or a round number."""
    return float(rng.choice([low, high, low, high, 0.0, round(float(rng.uniform(low, high)), 1), float(rng.uniform(low, high))]))


def _axis(rng: np.random.Generator, name: str, text: str, points: int) -> tuple[str, str]:
    # open axes are long, too long for two of them
    boundary = rng.choice([name for name, model in BOUNDARIES.items() if points > 8 or not model.widens])
    kernel = AXIS_KERNELS[rng.choice([kernel.name for kernel in AXIS_KERNELS.values() if kernel.nonnegative])]
    noise = float(rng.uniform(0.55, 1.6)) * 4.0 / (points - 1)
    if kernel.least_noise == 0.0:
        noise *= float(rng.choice([0.3, 1.0]))
    table = f'[states.{name}]\nnext = "{text}"\nnoise = "{noise}"\ndomain = [-2, 2]\nboundary = "{boundary}"\n'
    return table, f'{name} = "{kernel.name}"'


def random_problem(seed: int, actions: int) -> str:
    """Return the text of a case with one action on a line, or with two actions in the plane."""
    rng = np.random.default_rng(seed)
    low, high = _bounds(rng)
    k, c, r = _kink(rng, low, high), round(float(rng.uniform(0.1, 1.5)), 2), round(float(rng.uniform(0.2, 0.9)), 2)
    cost = str(rng.choice(ONE_COST)).format(c=c, k=k)
    mean = str(rng.choice(ONE_MEAN)).format(r=r, k=_kink(rng, low, high))
    discounted = '[criterion]\nkind = "discounted"\ndiscount = 0.8\n' if rng.random() < 0.3 else ""
    if actions == 1:
        points = int(rng.integers(7, 14))
        table, kernel = _axis(rng, "x", mean, points)
        return (
            f"{table}[actions.a]\nbounds = [{low}, {high}]\n[cost]\nstage = \"0.5*x**2 + {cost}\"\n"
            f"[grid]\npoints = {{ x = {points} }}\nkernel = {{ {kernel} }}\n{discounted}"
        )
    low_b, high_b = _bounds(rng)
    k_b = _kink(rng, low_b, high_b)
    other = re.sub(r"\ba\b", "b", str(rng.choice(ONE_COST)).format(c=c, k=k_b))
    moves = ["0.5*y + b", "0.6*y - 0.2*x", "0.5*y + b - 0.3*a", f"0.4*y + 0.2*x + abs(b - ({k_b}))", "0.7*y + 2*a*b"]
    second = str(rng.choice(moves))
    points = int(rng.integers(5, 8))
    (one, kernel), (two, kernel_b) = _axis(rng, "x", mean, points), _axis(rng, "y", second, points)
    return (
        f"{one}{two}[actions.a]\nbounds = [{low}, {high}]\n[actions.b]\nbounds = [{low_b}, {high_b}]\n"
        f"[cost]\nstage = \"0.5*x**2 + 0.4*y**2 + {cost} + {other} + {rng.choice(['0', '0.3*a*b', '0.2*x*b'])}\"\n"
        f"[grid]\npoints = {{ x = {points}, y = {points} }}\nkernel = {{ {kernel}, {kernel_b} }}\n{discounted}"
    )


def clamped_problem(seed: int, actions: int) -> str:
    """Return the text of a case whose actions carry the means over clamped ends, an axis each, or every axis by all of them."""
    rng = np.random.default_rng(seed)
    names, forces = "xyz"[:actions], "abc"[:actions]
    own = bool(rng.random() < 0.5)
    points = {1: 13, 2: 7, 3: 5}[actions]
    tables, costs = [], []
    for j, name in enumerate(names):
        push = [
            f"{float(rng.uniform(1.0, 2.5) if i == j else (0.0 if own else rng.uniform(-0.8, 0.8))):.3f}*{force}"
            for i, force in enumerate(forces)
        ]
        drag = " + ".join(
            f"{float(rng.uniform(0.5, 1.0) if i == j else rng.uniform(-0.4, 0.4)):.3f}*{other}" for i, other in enumerate(names)
        )
        noise = float(rng.uniform(0.8, 1.5)) * 4.0 / (points - 1)
        tables.append(f'[states.{name}]\nnext = "{drag} + {" + ".join(push)}"\nnoise = "{noise:.4f}"\ndomain = [-2, 2]\n')
        costs.append(f"({name} - ({float(rng.uniform(-1, 1)):.3f}))**2 + {float(rng.uniform(0.02, 0.4)):.3f}*{forces[j]}**2")
    bounds = "".join(f"[actions.{force}]\nbounds = [-1.5, 1.2]\n" for force in forces)
    grid = ", ".join(f"{name} = {points}" for name in names)
    return f"{''.join(tables)}{bounds}[cost]\nstage = \"{' + '.join(costs)}\"\n[grid]\npoints = {{ {grid} }}\n"


# -- the whole case language -------------------------------------------------------------------------------------------------


class Draw:
    """Random expressions of one problem in the case language; `kinks`: on an action bound as often as not."""

    def __init__(self, rng: np.random.Generator, actions: dict[str, tuple[float, float]], states: list[str]) -> None:
        self.rng, self.actions, self.states = rng, actions, states
        self.ends: dict[str, tuple[str, str]] = {}  # of actions whose bounds depend on the states

    def one(self, *choices: str) -> str:
        return str(self.rng.choice(choices))

    def number(self, low: float = -2.0, high: float = 2.0) -> str:
        return f"{self.rng.uniform(low, high):.3g}"

    def action(self) -> str:
        return self.one(*self.actions)

    def place(self, action: str) -> str:
        """Where a kink may be: an action bound, a probe, between two, or anywhere."""
        if action in self.ends and self.rng.random() < 0.5:
            return self.one(*self.ends[action])
        low, high = (end if np.isfinite(end) else sign for end, sign in zip(self.actions[action], (-1.0, 1.0), strict=True))
        kind = self.rng.integers(6)
        if kind < 3:
            return repr(float(self.rng.choice([low, high])))
        if kind == 3:  # probes are at eighths of the box
            return repr(low + (high - low) * float(self.rng.integers(9)) / 8.0)
        return repr(round(float(self.rng.uniform(low, high)), int(self.rng.integers(1, 8))))

    def moving(self, action: str) -> tuple[str, str]:
        """Bounds that depend on a state and do not cross; where it is 0, or at an end of its axis, some leave one action only."""
        x, (low, high) = self.one(*self.states), self.actions[action]
        w, k = self.number(0.2, 1.5), self.number(-1.0, 1.0)
        forms = [
            (f"{low}", f"{low} + {w}*abs({x})"), (f"{low}", f"{low} + {w}*max(2 + {x}, 0)"), (f"{low} - {w}*{x}**2", f"{high}"),
            (f"{k} + {x} - {w}", f"{k} + {x} + {w}"), (f"-{w}*abs({x})", f"{w}*abs({x})"),
            (f"{low}", f"where({x} > {k}, {high}, {low} + {w})"), (f"where({x} >= {k}, {low}, {high} - {w})", f"{high}"),
            (f"max({low}, {x} - {w})", f"max({low}, {x} - {w}) + {w}*(1 + sin(3*{x})**2)"),
            (f"{low}*exp({x}/4)", f"{low}*exp({x}/4) + {w}"), (f"{k}*{x}", f"{k}*{x}"),
        ]  # fmt: skip
        return forms[int(self.rng.integers(len(forms) if self.rng.random() < 0.2 else len(forms) - 1))]

    def leaf(self) -> str:
        kind = self.rng.random()
        if kind < 0.6:
            return self.action()
        return self.one(*self.states) if kind < 0.85 else self.number()

    def kink(self) -> str:
        """A function of one action with a kink, a jump or an end of its domain."""
        a = self.action()
        k, c = self.place(a), self.number(0.1, 1.5)
        if self.rng.random() < 0.3:
            # a narrow well whose bottom is beside the kink: the slope at the kink is not that of the other side
            well, slope, bend = self.number(5, 30), self.number(-3, 3), self.number(-4, 4)
            broken = self.one(
                f"max({a}, {k})", f"max({k}, {a})", f"min({a}, {k})", f"min({k}, {a})", f"abs({a} - ({k}))", f"clip({a}, {k}, 2)",
                f"clip({a}, -2, {k})", f"where({a} >= {k}, 0, {a} - ({k}))", f"where({a} > {k}, {a} - ({k}), 0)",
                f"where({k} <= {a}, {a} - ({k}), 0)", f"max(2*{a} - ({k}), {a})",
            )  # fmt: skip
            return f"({well}*({a} - ({k}))**2 + {slope}*{a} + {bend}*{broken})"
        return self.one(
            f"{c}*abs({a} - ({k}))", f"-{c}*abs({a} - ({k}))", f"{c}*max({a}, {k})", f"-{c}*max({k}, {a})", f"{c}*min({a}, {k})",
            f"-{c}*min({a}**2, {a} + ({k}))", f"{c}*clip({a}, {k}, 2)", f"-{c}*clip({a}, -2, {k})",
            f"where({a} > {k}, {c}, 0.2*{a})", f"where({a} >= {k}, -{c}, 0.1*{a})", f"where({a} < {k}, {a}, {c})",
            f"where({a} <= {k} or {self.one(*self.states)} > 0, {a}**2, {c})", f"where({a} == {k}, -{c}, 0)",
            f"where(not {a} > {k} and {a} > -9, {c}*{a}, 0)", f"{c}*mod({a} - ({k}), 0.7)", f"-{c}*mod({a}, {c})",
            f"{c}*sign({a} - ({k}))", f"{c}*sqrt(abs({a} - ({k})))", f"-{c}*sqrt(abs({a} - ({k})))",
            f"{c}*abs({a} - ({k}))**{self.one('0.5', '1.5', '2.5', '3')}", f"{c}*({a} - ({k}))**2*sign({a} - ({k}))",
            f"{c}*wrap_angle(3*{a} - 3*({k}) + pi)", f"{c}*abs({a}**3 - ({k})**3)", f"{c}*abs(abs({a}) - abs({k}))",
            f"{c}*max(abs({a} - ({k})), {self.number(0.0, 0.5)})",
            f"{c}*atan2({a} - ({k}), {self.one('1', '-1', self.one(*self.states))})",
        )  # fmt: skip

    def wild(self) -> str:
        """Powers, remainders, poles and functions that grow."""
        a, c, x = self.action(), self.number(0.1, 1.5), self.one(*self.states)
        return self.one(
            f"{c}*{a}**{self.one('2', '3', '4', '5')}", f"({a} + 3)**{self.one('0.5', '1.5', '-1', '-0.5', '2.2')}",
            f"abs({a})**{self.one('0.5', '1.2', '2', x, '-0.3')}", f"({a})**round_{self.one('2', '4', '3')}",
            f"(1.3 + {a}**2)**({c}*{a})", f"{c}**{a}", f"mod({a}, {c})**2", f"mod({a}*{x}, {c})", f"mod(49*{a}, 49)",
            f"mod(-{a}, -{c})",
            f"{c}/(1 + {a}**2)", f"1/({a} + 4)", f"{c}/({a} - {self.place(a)} + 1e-3)**2", f"exp({c}*{a})", f"exp(-{a}**2)",
            f"log({a} + 5)", f"log(1 + {a}**2)", f"sqrt({a} + 4)", f"sqrt(1 + {a}**2)", f"sinh({a})", f"cosh({a} - {c})",
            f"tanh(4*{a})",
            f"asin(clip({a}, -1, 1))", f"acos(clip({a}/3, -1, 1))", f"atan(5*{a})", f"cos({self.one('3', '7', '20')}*{a})",
            f"sin(9*{a} + {x})", f"tan({a}/{self.one('2', '4')})", f"{a}*{x}", f"({a} - {c})**2*({a} + {c})**2", f"{a}**3 - {a}",
            f"{x}**2*{a}**2", f"sin(1/({a}**2 + 0.05))",
        )  # fmt: skip

    def tree(self, depth: int) -> str:
        """A composition without a form of its own."""
        if depth == 0:
            return self.leaf()
        kind = self.rng.integers(12)
        x, y = self.tree(depth - 1), self.tree(self.rng.integers(depth))
        forms = [
            f"({x} + {y})", f"({x} - {y})", f"({x})*({y})", f"({x})/(1.5 + abs({y}))", f"sin({x})", f"abs({x})", f"tanh({x})",
            f"max({x}, {y})", f"min({x}, {y}, {self.number()})", f"where({x} > {y}, {y}, {self.number()})", f"mod({x}, 1.3)",
            f"clip({x}, -1, 1)",
        ]  # fmt: skip
        return forms[kind]

    def term(self, kinks: bool) -> str:
        """One random term."""
        kind = self.rng.random()
        text = self.kink() if kinks or kind < 0.4 else self.wild() if kind < 0.75 else self.tree(int(self.rng.integers(1, 4)))
        # a power that is an array of numbers: exponents that depend on the state, or are whole
        return re.sub(r"\*\*round_(\d)", r"**(\1 + 0*x)", text)


def _scale(rng: np.random.Generator, common: float) -> float:
    return 1.0 if rng.random() < common else float(10.0 ** rng.integers(-8, 9))


# as often as they are drawn
DRAWN_BOUNDARIES = ("clamp", "clamp", "reflect", "periodic", "project", "truncate", "open")
_OPEN_NOISE = 0.9  # cells, of an open axis in the plane: it goes on for eight times as much


def _state_table(
    draw: Draw, k: int, lengths: list[float], points: int, continuous: bool, degenerate: bool, moves: list[str],
    boundaries: Sequence[str],
) -> str:  # fmt: skip
    """The table of state k, with its kernel as a comment that `wide_problem` takes out."""
    rng, name, length = draw.rng, "xyz"[k], lengths[k]
    kernel = draw.one("gaussian", "gaussian", "linear", "auto", "matched")
    ratio = float(rng.uniform(0.85, 1.6)) if kernel == "gaussian" else float(rng.choice([0.3, 0.7, 1.2]))
    if degenerate or (kernel == "linear" and k and rng.random() < 0.4):
        kernel, ratio = draw.one("linear", "linear", "auto", "cubic" if points >= 4 else "linear"), 0.0
    unit_of_noise = 4.0 * length / (points - 1)
    noise = f"{ratio * unit_of_noise:.6g}"
    widened = f"{min(ratio, _OPEN_NOISE) * unit_of_noise:.6g}"
    if ratio and rng.random() < 0.2:
        noise += f"*(1 + 0.2*abs(tanh({draw.states[k]})))"
    text = f"{draw.number(0.2, 1.0)}*{name} + {length!r}*({' + '.join(moves)})"
    if k and rng.random() < 0.6:
        other = draw.one(f"next({draw.states[0][1]})" if "/" in draw.states[0] else f"next({draw.states[0]})", "")
        unit = f"/{lengths[0]!r}" if lengths[0] != 1.0 else ""
        text += f" + {length!r}*{draw.number(-0.6, 0.6)}*{other + unit if other else draw.states[0]}"
    # open axes are long: on the line, or one of two where there is one action; they follow none
    fits = len(lengths) == 1 or (len(lengths) == 2 and len(draw.actions) == 1 and k == 0)
    boundary = draw.one(*boundaries)
    if boundary == "open" and not (fits and "next(" not in text):
        boundary = "truncate"
    if boundary == "open" and len(lengths) == 2:
        noise = widened
    # s + 0.25 (law - s)/0.25
    law = f'drift = "4*(({text}) - {name})"\ndiffusion = "2*({noise})"' if continuous else f'next = "{text}"\nnoise = "{noise}"'
    return f'#{kernel}\n[states.{name}]\n{law}\ndomain = [{-2 * length!r}, {2 * length!r}]\nboundary = "{boundary}"\n'


def wide_problem(
    seed: int, kinks: bool = False, boundaries: Sequence[str] = DRAWN_BOUNDARIES, moving: bool = False
) -> str:
    """Return the text of a case drawn from the whole language; boundaries: from which those of its axes are drawn.

    One to three states, one or two actions, bounded or not, every kernel and boundary, axes that follow others, noise that is
    missing or depends on the state, discounted or not, costs and states at scales of 1e-8 to 1e8. kinks: every term of cost and
    law has a kink or jump, half of them exactly on an action bound. moving: bounds of actions depend on the states.
    """
    rng = np.random.default_rng([seed, int(kinks) + 2 * int(moving), 7])
    dimension = int(rng.choice([1, 2, 3], p=[0.62, 0.35, 0.03]))
    lengths = [_scale(rng, 0.85) for _ in range(dimension)]
    names = "xyz"[:dimension]
    unbounded = not kinks and not moving and rng.random() < 0.15
    actions = {
        name: (-np.inf, np.inf) if unbounded and rng.random() < 0.7 else _bounds(rng)
        for name in "ab"[: int(rng.choice([1, 2], p=[0.7, 0.3]))]
    }
    scaled = [name if length == 1.0 else f"({name}/{length!r})" for name, length in zip(names, lengths, strict=True)]
    draw = Draw(rng, actions, scaled)
    if moving:
        draw.ends = {name: draw.moving(name) for name in actions if name == "a" or rng.random() < 0.5}
    scale, continuous, degenerate = _scale(rng, 0.6), bool(rng.random() < 0.15), bool(rng.random() < 0.06)
    tables, kernels, sizes = [], [], []
    for k, name in enumerate(names):
        points = int(rng.integers(*{1: (6, 14), 2: (4, 8), 3: (3, 5)}[dimension]))
        moves = [draw.term(kinks) if rng.random() < 0.6 else draw.action()]
        if k == 0 and not kinks and rng.random() < 0.08:
            a = draw.action()
            moves = [draw.one(f"tan({a}*1.5707963267948966)", f"1e20*{a}", f"exp(40*{a})", f"1e12*max({a}, 0)", f"1/{a}**2")]
        if k and rng.random() < 0.4:
            moves = [draw.number()]
        state = _state_table(draw, k, lengths, points, continuous, degenerate, moves, boundaries)
        kernel, table = state[1:].split("\n", 1)
        tables.append(table)
        kernels.append(f'{name} = "{kernel}"')
        sizes.append(f"{name} = {points}")
    for name, (low, high) in actions.items():
        ends = ", ".join(f'"{end}"' for end in draw.ends[name]) if name in draw.ends else f"{low}, {high}"
        tables.append(f"[actions.{name}]\n" + (f"bounds = [{ends}]\n" if np.isfinite(low) else ""))
    terms = [f"{draw.number(0.1, 1)}*{state}**2" for state in scaled]
    terms += [draw.term(kinks) for _ in range(int(rng.integers(1, 4)))]
    if unbounded and rng.random() < 0.9:
        terms += [f"{draw.number(0.1, 1)}*{name}**2" for name in actions]
    discount = draw.one("0.5", "0.8", "0.95", "0.999")
    discounted = f'[criterion]\nkind = "discounted"\ndiscount = {discount}\n' if rng.random() < 0.25 else ""
    starts = ['"normal", std = "0.5"', '"point", mean = "0.1"', '"uniform"']
    initial = f"{{ distribution = {starts[int(rng.integers(2 if unbounded else 3))]} }}"
    return (
        f'{"".join(tables)}[cost]\n{"rate" if continuous else "stage"} = "{scale!r}*({" + ".join(terms)})"\n'
        f"[grid]\npoints = {{ {', '.join(sizes)} }}\nkernel = {{ {', '.join(kernels)} }}\n{discounted}"
        + ("[time]\nstep = 0.25\n" if continuous else "")
        + f"[policy]\nparticles = {int(rng.integers(1, 4))}\ninitial = {initial}\nseed = {int(rng.integers(1000))}\n"
        f"[flow]\nstop = {{ gap = {1e-6 * scale!r}, steps = 10 }}\n"
    )


def mixed_problem(seed: int) -> str:
    """Return the text of a case of `wide_problem` with two actions, of which one takes two to four values of a list.

    Ends of its bounds, where kinks and jumps stand, are among the values as often as not; a third of the problems have a kink in
    every term, a fifth bounds of the other action that depend on the states, a third values that are not allowed in some states.
    """
    rng = np.random.default_rng([seed, 19])
    kinks, moving = bool(rng.random() < 0.3), bool(rng.random() < 0.2)
    for attempt in range(1000):
        text = wide_problem(1000 * seed + attempt, kinks=kinks, moving=moving)
        bounds = re.findall(r"\[actions\.(\w)\]\nbounds = \[([^\"\]]*), ([^\"\]]*)\]", text)
        if text.count("[actions.") == 2 and bounds:
            break
    if moving:
        text = text.replace(" == ", " >= ")  # at an end that moves rounding decides what is equal to it
    name, low, high = bounds[int(rng.integers(len(bounds)))]
    drawn = np.round(rng.uniform(float(low), float(high), 4), 3).tolist()
    values = list(dict.fromkeys([*drawn[:2], float(low), float(high), *drawn[2:]]))[: int(rng.integers(2, 5))]
    values = [values[k] for k in rng.permutation(len(values))]
    table = f"[actions.{name}]\nvalues = {values}"
    if rng.random() < 0.35:
        place, kept = float(re.search(r"domain = \[(.*),", text)[1]) * rng.uniform(-1.0, 1.0), values[0]  # type: ignore[index]
        table += f'\nallowed = "{name} == {kept} or x {rng.choice(["<", ">="])} {place:.4g} and {name} < {max(values)}"'
    return text.replace(f"[actions.{name}]\nbounds = [{low}, {high}]", table)


def proximal_problem(seed: int) -> str:
    """Return the text of a case that is solved by proximal steps: a third with a list beside bounds, a third with lists alone.

    Most terms have kinks or jumps. Lists have the distances of their numbers or a matrix of their own, those alone a
    regularisation as often as not; steps are adaptive, or of one length, 1e-4 to 1e4 in units of the problem.
    """
    rng = np.random.default_rng([seed, 23])
    kind, kinks = seed % 3, bool(rng.random() < 0.7)
    text = mixed_problem(seed) if kind == 1 else wide_problem(seed, kinks=kinks, moving=kind == 0 and bool(rng.random() < 0.2))
    if kind == 2:
        for attempt in range(1000):
            bounds = re.findall(r"\[actions\.(\w)\]\nbounds = \[([^\"\]]*), ([^\"\]]*)\]", text)
            if len(bounds) == text.count("[actions."):
                break
            text = wide_problem(1000 * seed + attempt, kinks=kinks)
        text = text.replace(" == ", " >= ")  # at a value rounding decides what is equal to it
        for name, low, high in bounds:
            drawn = sorted({float(low), float(high), *np.round(rng.uniform(float(low), float(high), 3), 3).tolist()})
            values = [drawn[k] for k in rng.permutation(len(drawn))]
            text = text.replace(f"[actions.{name}]\nbounds = [{low}, {high}]", f"[actions.{name}]\nvalues = {values}")
        text = re.sub(r"\[policy\]\n(?:.*\n)*?(?=\[flow\])", "[policy]\nseed = 1\n", text)
    scale = abs(float(re.search(r'(?:rate|stage) = "([^*]*)\*', text)[1]))  # type: ignore[index]
    for values in re.findall(r"\[actions\.\w\]\nvalues = (\[.*\])", text):
        if rng.random() < 0.5:
            count = values.count(",") + 1
            apart = np.round(rng.uniform(1.0, 2.0, (count, count)), 3)
            matrix = (np.triu(apart, 1) + np.triu(apart, 1).T).tolist()
            text = text.replace(f"values = {values}", f"values = {values}\ndistance = {matrix}")
    flow = '[flow]\nmethod = "proximal"\n'
    if rng.random() < 0.5:
        flow += f"step = {10.0 ** rng.uniform(-4.0, 4.0) / scale!r}\n"
    if kind == 2 and rng.random() < 0.5:
        flow += f"regularisation = {scale * 10.0 ** rng.uniform(-3.0, 1.0)!r}\n"
    return text.replace("[flow]\n", flow)


def soft_problem(seed: int) -> str:
    """Return the text of a case of `wide_problem` whose entropy has a price: on a list of values or on even nodes.

    The price is a millionth to a hundred times the scale of the cost, now and then 1e-12 or 1e6; every reference law; half of the
    runs by policy iteration, the others by exponential steps or euler; first weights equal or not.
    """
    rng = np.random.default_rng([seed, 13])
    moving = seed % 5 == 4  # bounds that depend on the states
    text = wide_problem(seed, kinks=bool(rng.random() < 0.3), moving=moving)
    text = text.replace(" == ", " >= ")  # all particles stand on ends, and rounding decides what is equal to one that moves
    scale = abs(float(re.search(r'(?:rate|stage) = "([^*]*)\*', text)[1]))  # type: ignore[index]
    price = scale * 10.0 ** rng.uniform(-6.0, 2.0) if rng.random() < 0.85 else float(rng.choice([1e-12, 1e6]))
    actions = re.findall(r"\[actions\.(\w)\]\n(?:bounds = \[(.*), (.*)\])?", text)
    bounded = all(low for _, low, _ in actions)
    side = int(rng.integers(2, 6 if len(actions) == 1 else 4))
    count = side ** len(actions)
    reference = rng.choice(["uniform", "lebesgue", "numbers"])
    listed = bounded and rng.random() < 0.3 and not moving
    if listed:
        for name, low, high in actions:
            drawn = np.round(rng.uniform(float(low), float(high), side), 3).tolist()
            values = sorted({*drawn, float(low), float(high)})[:side]
            text = text.replace(f"[actions.{name}]\nbounds = [{low}, {high}]", f"[actions.{name}]\nvalues = {values}")
        reference = "uniform" if reference == "lebesgue" else reference
    numbers = [round(float(x), 4) for x in rng.uniform(0.05, 2.0, count)]
    law = str(numbers) if reference == "numbers" else f'"{reference}"'
    free = [name for name, low, _ in actions if not low]
    low, high = (", ".join(f"{name} = {end}" for name in free) for end in ("-1.5", '"1 + 0.1*tanh(x)"'))
    ends = f'initial = {{ distribution = "even", low = {{ {low} }}, high = {{ {high} }} }}\n' if free else ""
    weights = f"weights = {[round(float(x), 4) for x in rng.uniform(0.01, 1.0, count)]}\n" if rng.random() < 0.5 else ""
    method = str(rng.choice(["policy_iteration", "policy_iteration", "exponential", "euler"]))
    policy = f"[policy]\nentropy = {price!r}\nreference = {law}\nparticles = {count}\n{ends}{weights}"
    text = re.sub(r"\[policy\]\n(?:.*\n)*?(?=\[flow\])", policy, text)
    return text.replace("[flow]\n", f'[flow]\nmethod = "{method}"\n').replace("steps = 10", "steps = 30")


def blob_problem(seed: int) -> str:
    """Return the text of a case of `soft_problem` whose policy is one of blobs that slide, weights at rest or moving too."""
    rng = np.random.default_rng([seed, 23])
    for attempt in range(1000):
        text = soft_problem(1000 * seed + attempt)
        if "values =" not in text:
            break
    geometry = rng.choice(["wasserstein", "wasserstein_fisher_rao"])
    text = re.sub(r'method = "\w+"', f'method = "{rng.choice(["euler", "heun", "rk4"])}"\ngeometry = "{geometry}"', text)
    text = re.sub(r"\nweights = .*", "", text)
    given = f"blobs = {int(rng.integers(1, 4)) ** text.count('[actions.')}\n" if rng.random() < 0.6 else ""
    if rng.random() < 0.4 and not re.search(r"particles = [24]\n", text):
        given += f"bandwidth = {rng.choice([0.3, 0.5, 1.0])}\n"
    return text.replace("[policy]\n", "[policy]\n" + given).replace("steps = 30", "steps = 12")


# geometries with the methods that they take
_METHODS = {
    "wasserstein": ("newton", "full_newton", "proximal", "euler", "rk4"),
    "fisher_rao": ("exponential", "policy_iteration", "euler", "heun"),
    "wasserstein_fisher_rao": ("newton", "euler", "heun"),
}


def _listed(text: str, rng: np.random.Generator) -> str:
    """Return the text with values of lists for all bounds of actions, some not allowed in some states."""
    for name, low, high in re.findall(r"\[actions\.(\w)\]\nbounds = \[([^\"\]]*), ([^\"\]]*)\]", text):
        drawn = np.round(rng.uniform(float(low), float(high), 3), 3).tolist()
        values = list(dict.fromkeys([float(low), *drawn, float(high)]))[: int(rng.integers(2, 6))]
        table = f"[actions.{name}]\nvalues = {[values[k] for k in rng.permutation(len(values))]}"
        if rng.random() < 0.4:
            place = float(re.search(r"domain = \[(.*),", text)[1]) * rng.uniform(-1.0, 1.0)  # type: ignore[index]
            table += f'\nallowed = "{name} == {values[0]} or x {rng.choice(["<", ">="])} {place:.4g}"'
        text = text.replace(f"[actions.{name}]\nbounds = [{low}, {high}]", table)
    text = re.sub(r"\nparticles = \d+", "", text)
    return re.sub(r"\ninitial = .*", "", text)


def _with_goal(text: str, rng: np.random.Generator) -> str:
    """Return the text with a goal, at which the chain stops or starts again, or with a start law alone.

    Where the total cost counts, the stage cost becomes one of 0.5 to 2.5 of its scale, seen to be positive.
    """
    kind = str(rng.choice(["total", "total", "restart", "discounted", "start"]))
    names = re.findall(r"\[states\.(\w)\]", text)
    ends = [abs(float(end)) for end in re.findall(r"domain = \[(.*),", text)]
    sides = [
        f"{x} {rng.choice(['>=', '<', '>', '<='])} {end * rng.uniform(-0.9, 0.9):.4g}" for x, end in zip(names, ends, strict=True)
    ]
    far, joined = f"abs({names[0]}) > {ends[0] * rng.uniform(0.4, 0.9):.4g}", f" {rng.choice(['and', 'or'])} ".join(sides)
    condition = rng.choice([sides[0], far, joined])
    scale = re.search(r'stage = "([^*]*)\*\((.*)\)"', text)
    assert scale is not None
    growing = f"{scale[1]}*{rng.uniform(0.1, 2.0):.3g}*({names[0]}/{ends[0]!r})**2"
    final = rng.choice(["0", growing, f"{scale[1]}*{rng.uniform(-1.0, 1.0):.3g}"])
    start = ""
    for x, end in zip(names, ends, strict=True):
        low, high = np.sort(rng.uniform(-end, end, 2))
        start += str(rng.choice([
            "", f"{x} = {low:.4g}\n", f"{x} = [{low:.4g}, {high:.4g}]\n", f"{x} = {{ mean = {low:.4g}, std = {0.2 * end:.4g} }}\n"
        ]))  # fmt: skip
    start = f"[start]\n{start}" if start else ""
    goal = f'[goal]\nwhere = "{condition}"\ncost = "{final}"\n'
    text = re.sub(r"\[criterion\]\n(?:.*=.*\n)*", "", text)
    discounted = f'[criterion]\nkind = "discounted"\ndiscount = {rng.choice(["0.5", "0.9", "0.99"])}\n'
    if kind == "total":
        text = text.replace(scale[0], f'stage = "{scale[1]}*(1.5 + tanh({scale[2]}))"')
        return f'{text}[criterion]\nkind = "total"\n{goal}{start}'
    if kind == "restart":
        return f'{text}{discounted if rng.random() < 0.3 else ""}{goal}then = "restart"\n{start}'
    return f"{text}{discounted}{goal if kind == 'discounted' else ''}{start}"


def whole_problem(seed: int) -> str:
    """Return the text of a case from all of the language at once.

    Actions between bounds, that may depend on the states, values of lists, some not allowed, one beside the other, prices of
    entropy on particles or blobs; every geometry and the methods that it takes, jumps and kinks also for those that need no
    derivatives; two thirds with a goal (total cost, discounted cost, or an average over episodes) or a start law.
    """
    rng = np.random.default_rng([seed, 29])
    kind = str(rng.choice(["wide", "moving", "lists", "mixed", "soft", "blobs"], p=[0.25, 0.1, 0.15, 0.15, 0.2, 0.15]))
    for attempt in range(1000):
        number = 1000 * seed + attempt
        if kind in ("soft", "mixed", "blobs"):
            text = {"soft": soft_problem, "mixed": mixed_problem, "blobs": blob_problem}[kind](number)
        else:
            text = wide_problem(number, kinks=bool(rng.random() < 0.4), moving=kind == "moving")
        bounded = text.count("bounds = [") == text.count("[actions.")
        if "[time]" not in text and text.count("[states.") < 3 and (kind != "lists" or bounded):
            break
    if kind == "lists":
        text = _listed(text, rng)
    if kind not in ("soft", "blobs"):
        geometry = "fisher_rao" if kind == "lists" else str(rng.choice(list(_METHODS)))
        method = str(rng.choice(_METHODS[geometry]))
        escape = "escape = true\n" if method in ("exponential", "policy_iteration") and kind != "lists" else ""
        text = text.replace("[flow]\n", f'[flow]\ngeometry = "{geometry}"\nmethod = "{method}"\n{escape}')
        if kind != "lists" and geometry != "wasserstein":
            text = re.sub(r"\nparticles = 1\n", "\nparticles = 3\n", text)
    if rng.random() < 0.65:
        text = _with_goal(text, rng)
    return text
