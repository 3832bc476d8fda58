"""Plain cases as somebody new writes them: no key that has a default. Each must end with exit status 0 and a true verdict."""

LINE = """
[states.x]
next = "0.9*x + a"
noise = "0.5"
domain = [-5, 5]
[actions.a]
bounds = [-2, 2]
[cost]
stage = "x**2 + 0.5*a**2"
[grid]
points = { x = 101 }
"""

PLANE = """
[states.x]
next = "0.9*x + 0.2*y"
noise = "0.3"
domain = [-4, 4]
[states.y]
next = "0.8*y - 0.1*x + a"
noise = "0.4"
domain = [-4, 4]
[actions.a]
bounds = [-1, 1]
[cost]
stage = "x**2 + 0.2*y**2 + 0.1*a**2"
[grid]
points = { x = 41, y = 41 }
"""

DISCOUNTED = """
[states.x]
next = "x + 0.3*a"
noise = "0.2"
domain = [0, 4]
boundary = "reflect"
[actions.a]
bounds = [-1, 1]
[cost]
stage = "(x - 3)**2 + 0.2*a**2"
[criterion]
kind = "discounted"
discount = 0.95
[grid]
points = { x = 81 }
"""

PERIODIC = """
[states.phi]
next = "phi + 0.2 + 0.3*a"
noise = "0.3"
domain = ["-pi", "pi"]
boundary = "periodic"
[actions.a]
bounds = [-1, 1]
[cost]
stage = "1 - cos(phi) + 0.1*a**2"
[grid]
points = { phi = 64 }
"""

NOISE_FREE_POSITION = """
[time]
step = 0.1
[states.position]
drift = "velocity"
domain = [-3, 3]
[states.velocity]
drift = "force"
diffusion = "0.5"
domain = [-3, 3]
[actions.force]
bounds = [-2, 2]
[cost]
rate = "position**2 + 0.2*velocity**2 + 0.5*force**2"
[grid]
points = { position = 61, velocity = 61 }
"""

TWO_ACTIONS = """
[states.x]
next = "0.9*x + 0.3*y + u"
noise = "0.4"
domain = [-4, 4]
[states.y]
next = "0.8*y - 0.1*x + v"
noise = "0.4"
domain = [-4, 4]
[actions.u]
bounds = [-1, 1]
[actions.v]
bounds = [-1, 1]
[cost]
stage = "x**2 + y**2 + 0.5*u**2 + 0.3*v**2"
[grid]
points = { x = 31, y = 31 }
"""

UNBOUNDED = """
[states.x]
next = "x + a"
noise = "1"
domain = [-8, 8]
[actions.a]
[cost]
stage = "x**2 + a**2"
[grid]
points = { x = 81 }
"""

CONTINUOUS_TIME = """
[time]
step = 0.05
[states.x]
drift = "x - x**3 + a"
diffusion = "0.6"
domain = [-3, 3]
[actions.a]
bounds = [-3, 3]
[cost]
rate = "(x - 0.5)**2 + 0.3*a**2"
[grid]
points = { x = 121 }
"""

# a grid too coarse for the noise: what the verdict has to say
VAN_DER_POL = """
[time]
step = 0.05
[states.x]
drift = "v"
domain = [-3, 3]
[states.v]
drift = "(1 - x**2)*v - x + a"
diffusion = "0.3"
domain = [-4, 4]
[actions.a]
bounds = [-3, 3]
[cost]
rate = "x**2 + v**2 + 0.1*a**2"
[grid]
points = { x = 81, v = 61 }
"""

PLAIN = {
    "line": LINE, "plane": PLANE, "discounted": DISCOUNTED, "periodic": PERIODIC, "noise_free_position": NOISE_FREE_POSITION,
    "two_actions": TWO_ACTIONS, "unbounded": UNBOUNDED, "continuous_time": CONTINUOUS_TIME,
}  # fmt: skip
