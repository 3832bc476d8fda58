"""Case files that must be refused: name -> (case text, fragments of the one-line message: the key, what is wrong, the remedy)."""

from __future__ import annotations

GOOD = """\
title = "Scalar nonlinear regulator"

[parameters]
step  = 0.1
sigma = 0.5
r     = 0.1

[states.s]
next     = "s + step*(s - s**3 + a)"
noise    = "sigma*sqrt(step)"
domain   = [-3.0, 3.0]
boundary = "clamp"

[actions.a]
bounds = [-5.0, 5.0]

[cost]
stage = "s**2 + r*a**2"

[grid]
points = { s = 121 }

[policy]
particles = 16
initial   = { distribution = "normal", mean = "-s", std = 1.0 }

[flow]
method = "newton"
stop   = { gap = 1e-6, steps = 20 }
"""

LISTED = """\
[states.s]
next   = "0.9*s + a"
noise  = 0.3
domain = [-3.0, 3.0]
[actions.a]
bounds = [-5.0, 5.0]
[cost]
stage = "s**2"
[grid]
points = { s = 41 }
[policy]
seed = 1
[flow]
"""

# what else a case can say: goals and starts, lists of actions with a price of entropy, bounds that depend on the state
TOTAL = """\
[states.x]
next   = "x + 0.4*a"
noise  = 0.3
domain = [-4, 4]
[actions.a]
bounds = [-1, "1 + 0.1*x**2"]
[cost]
stage = "0.2 + 0.1*x**2 + 0.3*a**2"
[criterion]
kind = "total"
[goal]
where = "abs(x) >= 1.775"
cost  = "where(x < 0, 0.5, 0)"
[start]
x = { mean = 0.1, std = 0.4 }
[grid]
points = { x = 81 }
[policy]
particles = 2
"""
RESTARTED = (
    TOTAL.replace('kind = "total"', 'kind = "average"').replace("[goal]", '[goal]\nthen = "restart"').replace("particles = 2", "")
)
SOFT = LISTED.replace("bounds = [-5.0, 5.0]", "values = [-1, 0, 1]").replace("seed = 1", "entropy = 0.1\nreference = [1, 2, 1]")
HARVEST = """\
[states.x]
next   = "max(x - h, 0) + 0.3*(x - h)*(1 - x + h)"
noise  = 0.1
domain = [0, 1.5]
[actions.h]
bounds = [0, "x"]
[cost]
stage = "0.3*h**2 - h"
[criterion]
kind = "discounted"
discount = 0.9
[grid]
points = { x = 41 }
"""
OTHER = (TOTAL, RESTARTED, SOFT, HARVEST)

FAMILY = """\
[indices]
i = { count = 2, periodic = true }

[states."q[i]"]
next   = "q[i] + 0.1*(q[i+1] - q[i] + u[i])"
noise  = 0.2
domain = [-1, 1]

[actions."u[i]"]

[cost]
stage = "sum(i, q[i]**2 + u[i]**2)"

[grid]
points = { "q[i]" = 11 }
"""


def changed(old: str, new: str, text: str = GOOD) -> str:
    """Return the case with one place changed."""
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the case"
    return text.replace(old, new)


def with_next(expression: str) -> str:
    """Return the good case with another law of the state."""
    return changed('"s + step*(s - s**3 + a)"', f"'''{expression}'''")


BAD_CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    # what newcomers write
    "expression without quotes": (
        changed('"s + step*(s - s**3 + a)"', "s + a  # the law"),
        ("line 9", "TOML", 'text and expressions stand in quotes, next = "s + a"'),
    ),
    "name without quotes": (changed('"clamp"', "clamp"), ('text and expressions stand in quotes, boundary = "clamp"',)),
    "numpy's sine": (with_next("s + np.sin(a)"), ("states.s.next", "there are no modules here, write sin(x)")),
    "numpy's pi": (with_next("s + np.pi*a"), ("states.s.next", "there are no modules here, write pi")),
    "sine of another language": (with_next("arctan(s) + a"), ("unknown function 'arctan', write atan(x)",)),
    "power as a function": (with_next("power(s, 2) + a"), ("unknown function 'power', write x**y",)),
    "function that there is not": (with_next("bessel(s) + a"), ("unknown function 'bessel'", "'wassgrid functions' lists all")),
    "product without a star": (with_next("2s + a"), ("not an expression", "write * for a product")),
    "reserved word as a state": (GOOD.replace("states.s]", "states.lambda]"), ("states.lambda", "reserved word", "lambda_")),
    "time in a law": (with_next("s + a + t"), ("unknown name 't'", "make a clock or a phase a state")),
    "bounds of an action": (
        changed("[-5.0, 5.0]", '["-a", 5.0]'),
        ("actions.a.bounds", "bounds may depend on states and parameters only, not on the action a"),
    ),
    "points as a number": (changed("{ s = 121 }", "121"), ("grid.points: expected a table such as { s = 41 }, got 121",)),
    "boundary of another language": (changed('"clamp"', '"wrap"'), ("states.s.boundary", "periodic winds around")),
    "key at the top": ("gap = 1e-5\n" + GOOD, ("gap: unknown key, it is flow.stop.gap",)),
    # not a case
    "empty file": ("", ("states: missing",)),
    "toml syntax": (changed("step  = 0.1", "step  = = 0.1"), ("line 4", "TOML")),
    "key twice": (changed("step  = 0.1", "step = 0.1\nstep = 0.2"), ("line 5", "TOML")),
    "toml nested deeply": ("a = " + "[" * 50_000, ("TOML", "nested too deeply")),
    "table where a value stands": (changed('"clamp"', "{ kind = 'clamp' }"), ("states.s.boundary", "a table")),
    "value where a table stands": (
        'cost = "s**2"\n' + changed('[cost]\nstage = "s**2 + r*a**2"', ""),
        ("cost: expected a table, got 's**2'",),
    ),
    # misspelt keys
    "misspelt section": (changed("[policy]", "[polcy]"), ("polcy: unknown key", "'policy'")),
    "misspelt key": (changed("domain ", "domian "), ("states.s.domian: unknown key", "'domain'")),
    "misspelt nested key": (changed("gap =", "gapp ="), ("flow.stop.gapp: unknown key", "'gap'")),
    "misspelt initial key": (changed("mean =", "maen ="), ("policy.initial.maen: unknown key", "'mean'")),
    "misspelt expectation": (
        GOOD + "[expect]\naverage_costs = { value = 1.0, relative = 1e-3 }\n",
        ("expect.average_costs: unknown key", "'average_cost'"),
    ),
    "misspelt neural key": (GOOD + "[neural]\nhiden = [8]\n", ("neural.hiden: unknown key", "'hidden'")),
    "misspelt choice": (changed('method = "newton"', 'method = "newtn"'), ("flow.method: expected one of", "'newton'")),
    "misspelt boundary": (changed('"clamp"', '"reflcet"'), ("states.s.boundary: expected one of", "'reflect'")),
    # geometries
    "weights that move under the full Hessian": (
        changed('method = "newton"', 'method = "full_newton"\ngeometry = "wasserstein_fisher_rao"'),
        ("flow.method: full_newton is not defined", "euler, heun, rk4, newton"),
    ),
    "actions that move and do not": (
        changed('method = "newton"', 'method = "newton"\ngeometry = "fisher_rao"'),
        ("flow.method: newton is not defined", "exponential, policy_iteration"),
    ),
    "exponential steps of nothing": (
        changed('method = "newton"', 'method = "exponential"'),
        ("flow.method: exponential is not defined", "euler, heun, rk4, newton, full_newton"),
    ),
    "rate of weights that rest": (
        changed('method = "newton"', "weight_rate = 2"), ("flow.weight_rate: weights rest", "wasserstein_fisher_rao")
    ),
    "length of the limit": (
        changed('method = "newton"', 'method = "policy_iteration"\ngeometry = "fisher_rao"\nstep = 1.0'),
        ("flow.step: policy_iteration has no step length", "adaptive"),
    ),
    "weight of one particle": (
        changed('method = "newton"', 'method = "rk4"\ngeometry = "fisher_rao"', changed("particles = 16", "particles = 1")),
        ("policy.particles: the weight of a single particle",),
    ),
    "weights of a network": (
        changed('method = "newton"', 'geometry = "wasserstein_fisher_rao"') + '[solver]\nkind = "neural"\n',
        ("flow.geometry:", "only solver.kind"),
    ),
    "even start on an uneven number": (
        changed(
            "[actions.a]", "[actions.b]\nbounds = [0, 1]\n[actions.a]",
            changed('{ distribution = "normal", mean = "-s", std = 1.0 }', '{ distribution = "even" }',
                    changed("particles = 16", "particles = 15")),
        ),
        ("policy.particles: 15 particles do not stand evenly over 2 actions", "take 16 or 9"),
    ),
    # values of actions
    "one value": (changed("bounds = [-5.0, 5.0]", "values = [1]"), ("actions.a.values: expected a list of two or more",)),
    "one value twice": (changed("bounds = [-5.0, 5.0]", "values = [1, 0, 1.0]"), ("actions.a.values", "one of them twice")),
    "values and bounds": (changed("bounds = [-5.0", "values = [0, 1]\nbounds = [-5.0", LISTED), ("actions.a.bounds: not",)),
    "one value with a name": (
        changed("bounds = [-5.0, 5.0]", "values = { on = 1 }"), ("actions.a.values: expected names of two",)
    ),
    "one value with two names": (
        changed("bounds = [-5.0, 5.0]", "values = { on = 1, up = 1.0 }"), ("actions.a.values", "one of them twice")
    ),
    "a value without its name": (
        changed("bounds = [-5.0, 5.0]", 'values = { " " = 1, up = 2 }'), ("actions.a.values: expected names of 1 to 40",)
    ),
    "a name without its value": (
        changed("bounds = [-5.0, 5.0]", 'values = { on = "yes", off = 0 }'), ("actions.a.values", "names of two or more")
    ),
    "entropy of values beside an interval": (
        changed("bounds = [-5.0, 5.0]", "values = [0, 1]\n[actions.b]", changed("seed = 1", "entropy = 1", LISTED)),
        ("policy.entropy: a takes values of a list and b does not",),
    ),
    "many values beside an interval": (
        changed("bounds = [-5.0, 5.0]", f"values = {list(range(65))}\n[actions.b]", LISTED),
        ("actions.a.values: more than 64 combinations of values beside b",),
    ),
    "values drawn from a law": (
        changed(
            "bounds = [-5.0, 5.0]", "values = [0, 1]\n[actions.b]",
            changed("seed = 1", 'initial = { mean = { a = "s", b = "0" } }', LISTED),
        ),
        ("policy.initial.mean.a: a run starts with all values",),
    ),
    "even particles that do not fit the values": (
        changed(
            "bounds = [-5.0, 5.0]", "values = [0, 1, 2]\n[actions.b]\nbounds = [0, 1]",
            changed("seed = 1", 'particles = 7\ninitial = { distribution = "even" }', LISTED),
        ),
        ("policy.particles: 7 particles do not stand evenly over 1 actions beside 3 combinations", "6 or 9"),
    ),
    "values and particles": (
        changed("bounds = [-5.0, 5.0]", "values = [0, 1]", changed("seed = 1", "particles = 3", LISTED)),
        ("policy.particles: one stands on each of the 2 actions",),
    ),
    "values and an initial policy": (
        changed("bounds = [-5.0, 5.0]", "values = [0, 1]", changed("seed = 1", 'initial = { mean = "s" }', LISTED)),
        ("policy.initial:", "policy.weights"),
    ),
    "values that move": (
        changed("bounds = [-5.0, 5.0]", "values = [0, 1]", LISTED) + 'geometry = "wasserstein"\n',
        ("flow.geometry: actions with values stay", "fisher_rao"),
    ),
    "values by newton": (
        changed("bounds = [-5.0, 5.0]", "values = [0, 1]", LISTED) + 'method = "newton"\n',
        ("flow.method: newton is not defined", "policy_iteration"),
    ),
    "values to jump to": (
        changed("bounds = [-5.0, 5.0]", "values = [0, 1]", LISTED) + "escape = true\n", ("flow.escape: particles stand on all",)
    ),
    "values of a network": (
        changed("bounds = [-5.0, 5.0]", "values = [0, 1]", LISTED) + '[solver]\nkind = "neural"\n', ("actions.a.values", "grid")
    ),
    "more values than fit": (
        changed("bounds = [-5.0, 5.0]", f"values = {list(range(100))}", LISTED)
        .replace("[cost]", "".join(f"[actions.b{k}]\nvalues = [0, 1]\n" for k in range(7)) + "[cost]"),
        ("actions.b5.values: more than 4096 actions",),
    ),
    # entropy
    "free entropy": (changed("seed = 1", "entropy = 0", LISTED), ("policy.entropy: expected a positive number",)),
    "entropy of particles that move": (
        changed("seed = 1", "entropy = 0.1", LISTED) + 'geometry = "wasserstein_fisher_rao"\nmethod = "newton"\n',
        ("flow.method: where entropy has a price newton moves no actions, take euler", "fisher_rao"),
    ),
    "entropy by newton": (
        changed("seed = 1", "entropy = 0.1", LISTED) + 'method = "newton"\n',
        ("flow.method: newton is not defined", "policy_iteration"),
    ),
    "entropy of particles anywhere": (
        changed("particles = 16", "particles = 16\nentropy = 0.1").replace('[flow]\nmethod = "newton"', "[flow]"),
        ('policy.initial.distribution: "normal" gives particles no density', "even"),
    ),
    "entropy and births": (
        changed("seed = 1", "entropy = 0.1", LISTED) + "escape = true\n", ("flow.escape: where entropy has a price",)
    ),
    "entropy of a network": (
        changed("seed = 1", "entropy = 0.1", LISTED) + '[solver]\nkind = "neural"\n', ("policy.entropy: networks", "grid")
    ),
    "entropy without an end": (
        changed("bounds = [-5.0, 5.0]", "", changed("seed = 1", "entropy = 0.1", LISTED)), ("actions.a.bounds: missing", "low")
    ),
    "reference of nothing": (
        changed("seed = 1", 'reference = "lebesgue"', LISTED), ("policy.reference: not used without policy.entropy",)
    ),
    "misspelt reference": (
        changed("seed = 1", 'entropy = 1\nreference = "lebesque"', LISTED), ("policy.reference: expected one of", "'lebesgue'")
    ),
    "volume of values": (
        changed("bounds = [-5.0, 5.0]", "values = [0, 1]", changed("seed = 1", 'entropy = 1\nreference = "lebesgue"', LISTED)),
        ("policy.reference: values of a list have no volume", "uniform"),
    ),
    "reference of other particles": (
        changed("seed = 1", "entropy = 1\nreference = [1, 2]", LISTED), ("policy.reference: expected 16 numbers",)
    ),
    "reference beyond all numbers": (
        changed("seed = 1", "entropy = 1\nparticles = 2\nreference = [1, 1e-200]", LISTED), ("policy.reference: numbers apart",)
    ),
    # wrong types
    "text for a number": (changed("particles = 16", 'particles = "many"'), ("policy.particles", "'many'")),
    "boolean for a number": (changed("particles = 16", "particles = true"), ("policy.particles", "integer", "true")),
    "fraction for an integer": (changed("particles = 16", "particles = 2.5"), ("policy.particles", "integer", "2.5")),
    "date for a number": (changed("step  = 0.1", "step = 2024-01-01"), ("parameters.step: expected a number",)),
    "number for a word": (changed('"clamp"', "3"), ("states.s.boundary: expected one of clamp",)),
    "number for a list": (changed("[-3.0, 3.0]", "3.0"), ("states.s.domain: expected two numbers",)),
    "three numbers for two": (changed("[-3.0, 3.0]", "[-3, 0, 3]"), ("states.s.domain: expected two numbers",)),
    "list for an expression": (changed('"s**2 + r*a**2"', "['s']"), ("cost.stage: expected an expression",)),
    "number for a flag": (changed('method = "newton"', "escape = 1"), ("flow.escape: expected true or false",)),
    "negative number of particles": (changed("particles = 16", "particles = -4"), ("policy.particles", "at least 1")),
    "huge number of particles": (changed("particles = 16", "particles = 1e300"), ("policy.particles", "at most")),
    "hexadecimal of 40,000 digits": (
        changed("particles = 16", "particles = 0x" + "f" * 40_000),
        ("policy.particles", "not a finite double"),
    ),
    "decimal of 5,000 digits": (changed("particles = 16", "particles = " + "1" * 5_000), ("TOML",)),
    # values out of range
    "domain reversed": (changed("[-3.0, 3.0]", "[3.0, -3.0]"), ("states.s.domain: expected two numbers lower < upper",)),
    "domain empty": (changed("[-3.0, 3.0]", "[1.0, 1.0]"), ("states.s.domain: expected two numbers lower < upper",)),
    "domain missing": (changed("domain   = [-3.0, 3.0]", ""), ("states.s.domain: missing", "grid solver")),
    "bounds reversed": (changed("[-5.0, 5.0]", "[5.0, -5.0]"), ("actions.a.bounds: expected two numbers lower < upper",)),
    "bounds infinite": (changed("[-5.0, 5.0]", "[-inf, inf]"), ("actions.a.bounds", "not a finite double")),
    "parameter nan": (changed("sigma = 0.5", "sigma = nan"), ("parameters.sigma: expected a number", "not a finite double")),
    "parameter infinite": (changed("sigma = 0.5", "sigma = -inf"), ("parameters.sigma", "not a finite double")),
    "parameter not real": (changed("sigma = 0.5", 'sigma = "sqrt(-1)"'), ("parameters.sigma", "sqrt(-1)", "real number")),
    "parameter of a later one": (
        changed("step  = 0.1", 'step = "sigma/5"'),
        ("parameters.step", "earlier parameters", "unknown name 'sigma'"),
    ),
    "parameter named as a function": (changed("r     = 0.1", "exp = 0.1"), ("parameters.exp", "choose another")),
    "parameter named as a state": (changed("r     = 0.1", "r = 0.1\ns = 1"), ("states.s", "parameters.s", "choose another")),
    "dunder name": (changed("r     = 0.1", "r = 0.1\n__class__ = 1"), ("parameters.__class__: expected a name",)),
    "state that is no name": (changed("[states.s]", '[states."s t"]'), ("states.s t", "expected a name")),
    "zero points": (changed("s = 121", "s = 0"), ("grid.points.s: expected an integer of at least 2, got 0",)),
    "one point": (changed("s = 121", "s = 1"), ("grid.points.s: expected an integer of at least 2, got 1",)),
    "points misspelt": (changed("s = 121", 's = "alligned"'), ("grid.points.s", "'aligned'")),
    "points all aligned": (changed("s = 121", 's = "aligned"'), ("grid.points", "at least one needs a number")),
    "points of an unknown state": (changed("s = 121", "s = 121, x = 5"), ("grid.points.x: unknown state",)),
    "points missing": (changed("{ s = 121 }", "{}"), ("grid.points.s: missing",)),
    "too many points": (changed("s = 121", "s = 100_000_000_000"), ("grid.points.s", "at most")),
    "too many cells": (changed('"q[i]" = 11', '"q[i]" = 100_000', FAMILY), ("grid.points: 1e+10 cells", "use fewer points")),
    "unknown kernel": (changed("s = 121 }", 's = 121 }\nkernel = "gausian"'), ("grid.kernel", "'gaussian'")),
    "kernel of an unknown state": (
        changed("s = 121 }", 's = 121 }\nkernel = { t = "linear" }'),
        ("grid.kernel.t: unknown state",),
    ),
    "discount missing": (GOOD + '[criterion]\nkind = "discounted"\n', ("criterion.discount: missing",)),
    "discount of one": (GOOD + '[criterion]\nkind = "discounted"\ndiscount = 1.0\n', ("criterion.discount", "between 0 and 1")),
    "discount of the average cost": (GOOD + "[criterion]\ndiscount = 0.9\n", ("criterion.discount", "discounted")),
    "weights of another number": (changed("particles = 16", "particles = 3\nweights = [1, 2]"), ("policy.weights", "3 numbers")),
    "weights not positive": (changed("particles = 16", "particles = 2\nweights = [1, 0]"), ("policy.weights", "positive")),
    "uniform without bounds": (
        changed('"normal", mean = "-s", std = 1.0', '"uniform"', changed("bounds = [-5.0, 5.0]", "")),
        ("actions.a.bounds: missing", "uniform"),
    ),
    "uniform with a mean": (
        changed('"normal", mean = "-s", std = 1.0', '"uniform", mean = "0"'),
        ("policy.initial.mean: not used", "uniform"),
    ),
    "initial mean of an action": (changed('mean = "-s"', 'mean = "-a"'), ("policy.initial.mean", "not on the action a")),
    "initial mean of another action": (
        changed('mean = "-s"', 'mean = { b = "-s" }'),
        ("policy.initial.mean.b: unknown action",),
    ),
    # numbers at the ends of what a double holds
    "domain of one double": (changed("[-3.0, 3.0]", "[0, 5e-324]"), ("states.s.domain", "cannot be told into 121 grid points")),
    "domain far from its origin": (changed("[-3.0, 3.0]", "[1e16, 10000000000000100]"), ("states.s.domain", "another origin")),
    "domain longer than a double": (changed("[-3.0, 3.0]", "[-1.7e308, 1.7e308]"), ("states.s.domain", "another unit")),
    "discount next to one": (
        GOOD + '[criterion]\nkind = "discounted"\ndiscount = 0.999999999999\n',
        ("criterion.discount", "rounding decides", "average"),
    ),
    "NUL in the title": (changed('"Scalar nonlinear regulator"', '"a\\u0000b"'), ("title", "NUL")),
    "NUL in a unit": (changed('boundary = "clamp"', 'unit = "a\\u0000b"'), ("states.s.unit", "NUL")),
    "negative stop": (changed("gap = 1e-6", "gap = -1"), ("flow.stop.gap: expected a positive number",)),
    "step zero": (changed('method = "newton"', "step = 0"), ("flow.step: expected a positive number",)),
    "tolerance not given": (GOOD + "[expect]\naverage_cost = { value = 1.0 }\n", ("expect.average_cost", "relative or absolute")),
    "neural value out of range": (GOOD + "[neural]\nchains = 0\n", ("neural.chains",)),
    # discrete and continuous time
    "drift in discrete time": (changed("next  ", "drift "), ("states.s.drift", "use next", "[time]")),
    "next in continuous time": (GOOD + "[time]\nstep = 0.1\n", ("states.s.next", "use drift")),
    "rate in discrete time": (changed("stage =", "rate ="), ("cost.rate", "use stage")),
    "no law": (changed('next     = "s + step*(s - s**3 + a)"', ""), ("states.s.next: missing",)),
    "no cost": (changed('stage = "s**2 + r*a**2"', ""), ("cost.stage: missing",)),
    "no states": (
        "[states]\n" + GOOD[GOOD.index("[actions.a]") :].replace("s = 121", ""),
        ("states: expected at least one table [states.NAME]",),
    ),
    "no actions": (changed("[actions.a]\nbounds = [-5.0, 5.0]", "[actions]"), ("actions: expected at least one",)),
    "time step of zero": (GOOD + "[time]\nstep = 0\n", ("time.step: expected a positive number",)),
    "time step missing": (GOOD + '[time]\nscheme = "rk4"\n', ("time.step: missing",)),
    "five dimensions": (
        changed("count = 2", "count = 5", FAMILY),
        ("states: 5 state dimensions", 'solver.kind = "neural"'),
    ),
    # expressions
    "unknown name": (
        changed('"sigma*sqrt(step)"', '"sgma*sqrt(step)"'),
        ("states.s.noise: unknown name 'sgma'", "'sigma'", "column 1"),
    ),
    "unknown function": (with_next("s + sine(s)"), ("states.s.next: unknown function 'sine'", "'sin'")),
    "attribute": (with_next("s.__class__.__mro__"), ("states.s.next: a dot after a name",)),
    "attribute of a call": (with_next("sin(s).real"), ("states.s.next: a dot after a name",)),
    "import": (with_next("__import__('os').system('touch /tmp/x')"), ("states.s.next: only a function's name",)),
    "dunder call": (with_next("__import__('os')"), ("states.s.next: unknown function '__import__'",)),
    "eval": (with_next("eval('1')"), ("states.s.next: unknown function 'eval'",)),
    "comprehension": (with_next("sum(i for i in (1, 2))"), ("states.s.next: sum takes 2 arguments",)),
    "list comprehension": (with_next("[s for s in (1, 2)][0]"), ("states.s.next",)),
    "lambda": (with_next("(lambda: s)()"), ("states.s.next: only a function's name",)),
    "format string": (with_next("f'{s}'"), ("states.s.next: text is not allowed",)),
    "assignment": (with_next("(s := 3)"), ("states.s.next: an assignment is not allowed",)),
    "starred": (with_next("max(*s)"), ("states.s.next: max takes plain arguments",)),
    "keyword": (with_next("max(s, key=a)"), ("states.s.next: max takes plain arguments",)),
    "subscript": (with_next("s[0]"), ("states.s.next: 's' is not an index family",)),
    "text in an expression": (with_next('s + "1"'), ("states.s.next: '1' is not a number",)),
    "complex number": (with_next("s + 1j"), ("states.s.next: 1j is not a number",)),
    "truth value": (with_next("s + True"), ("states.s.next: True is not a number",)),
    "statement": (with_next("import os"), ("states.s.next: not an expression",)),
    "unbalanced": (with_next("s + (a"), ("states.s.next: not an expression",)),
    "empty expression": (with_next(" "), ("states.s.next: the expression is empty",)),
    "caret": (with_next("s^2"), ("states.s.next: ^ is not an operator", "**")),
    "comparison as a number": (with_next("s*(a > 0)"), ("states.s.next: a comparison", "where")),
    "number as a condition": (with_next("where(s, 1, 2)"), ("states.s.next: expected a comparison",)),
    "too few arguments": (with_next("clip(s, 1)"), ("states.s.next: clip takes 3 arguments, clip(x, lo, hi), got 2",)),
    "function without arguments": (with_next("s + sin"), ("states.s.next: sin is a function, write sin(x)",)),
    "division by zero": (with_next("s/(step - 0.1)"), ("states.s.next: division by zero",)),
    "power tower": (with_next("s + 9**9**9**9"), ("states.s.next: 9**3.8742e+08 is not a finite double",)),
    "huge power": (with_next("s + 2**100000"), ("states.s.next: 2**100000 is not a finite double",)),
    "huge exponent": (with_next("s**1000000000"), ("states.s.next: the exponent 1e+09 is beyond 1000",)),
    "huge power in parameters": (
        changed("r     = 0.1", 'r = 0.1\nbig = 1e200\nbigger = "big**9"'),
        ("parameters.bigger", "1e+200**9 is not a finite double"),
    ),
    "huge number": (with_next("s + 1e999"), ("states.s.next: the value is not a finite double",)),
    "nested deeply": (
        with_next("sin(" * 150 + "s" + ")" * 150),
        ("states.s.next: nested more than 40 levels deep",),
    ),
    "brackets nested deeply": (with_next("(" * 5_000 + "s" + ")" * 5_000), ("states.s.next: not an expression",)),
    "signs nested deeply": (with_next("-" * 15_000 + "s"), ("states.s.next: nested",)),
    "chain of 6,000 terms": (with_next("+".join(["s"] * 6_000)), ("states.s.next",)),
    "expression of 500 kB": (with_next("+".join(["s"] * 250_000)), ("states.s.next: the expression has", "20000")),
    "letters of other alphabets": (with_next("ѕ + 1"), ("states.s.next: the character", "column 1")),
    "noise of the action": (changed('"sigma*sqrt(step)"', '"sigma*a"'), ("states.s.noise: noise", "not on the action a")),
    "negative noise": (changed('"sigma*sqrt(step)"', "-0.5"), ("states.s.noise: the noise is negative",)),
    "next in the cost": (changed('"s**2 + r*a**2"', '"next(s)"'), ("cost.stage: next(...) may only stand in",)),
    "next of itself": (with_next("s + next(s)"), ("states.s.next: next(s) stands in its own law",)),
    "next of an action": (with_next("s + next(a)"), ("states.s.next: next(...) takes a state",)),
    # several states: next(...)
    "next in a circle": (
        changed(
            "[actions.a]",
            '[states.t]\nnext = "next(s)"\ndomain = [0, 1]\n[actions.a]',
            changed("s = 121", "s = 12, t = 12", with_next("s + next(t)")),
        ),
        ("states: next(...) goes round in a circle among s, t",),
    ),
    "next not linear": (
        changed(
            "[actions.a]",
            '[states.t]\nnext = "next(s)**2"\ndomain = [0, 1]\n[actions.a]',
            changed("s = 121", "s = 12, t = 12"),
        ),
        ("states.t.next: next(s) must enter linearly",),
    ),
    "next times an action": (
        changed(
            "[actions.a]",
            '[states.t]\nnext = "a*next(s)"\ndomain = [0, 1]\n[actions.a]',
            changed("s = 121", "s = 12, t = 12"),
        ),
        ("states.t.next: the factor of next(s) may depend on states and parameters only",),
    ),
    # index families
    "index missing": (changed("i = { count = 2, periodic = true }", "", FAMILY), ("states.q[i]: unknown index 'i'", "[indices]")),
    "index without a count": (changed("count = 2, ", "", FAMILY), ("indices.i.count: missing",)),
    "family without its index": (changed("q[i+1] - q[i]", "q", FAMILY), ("states.q[i].next: q is a family, write q[i]",)),
    "member out of range": (changed("q[i+1]", "q[7]", FAMILY), ("states.q[i].next: q has the members q[0] to q[1]",)),
    "subscript of a state": (changed("q[i+1]", "q[q[i]]", FAMILY), ("states.q[i].next: expected a subscript such as i",)),
    "slice": (changed("q[i+1]", "q[0:2]", FAMILY), ("states.q[i].next: expected a subscript such as i",)),
    "index outside a sum": (
        changed("sum(i, q[i]**2 + u[i]**2)", "q[i]**2", FAMILY),
        ("cost.stage: the index i has no value here", "sum(i, ...)"),
    ),
    "sum over a state": (
        changed("sum(i, q[i]**2 + u[i]**2)", "sum(q, q[0])", FAMILY),
        ("cost.stage: the first argument of sum is an index",),
    ),
    "too many members": (changed("count = 2", "count = 1_000_000_000", FAMILY), ("indices.i.count", "at most")),
}
