"""The explicit Runge-Kutta schemes of the gradient flow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scheme:
    """An explicit Runge-Kutta scheme for the flow: a_{n+1} = a_n + h sum_q b_q k_q, k_q = -grad_a Q at stage q.

    Of weights that move the logarithms are advanced, (log w)' = -kappa (Q - V): they stay positive and of sum one, at the same
    order; the step of euler is the exponential one. Where entropy has a price, Q + eps log(w/rho) stands for Q.

    order: the declared order of accuracy in h; couplings: strictly lower triangle of the tableau; weights: b.
    """

    name: str
    order: int
    couplings: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


SCHEMES = {
    "euler": Scheme("euler", 1, ((),), (1.0,)),
    "heun": Scheme("heun", 2, ((), (1.0,)), (0.5, 0.5)),
    "rk4": Scheme("rk4", 4, ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
