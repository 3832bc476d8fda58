"""Coupled linear oscillators: a linear-quadratic regulator of any dimension in one line of equations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from wassgrid.problem.exact.case_text import Kernel, Points, write_case
from wassgrid.problem.exact.linear_quadratic import VectorLQ


@dataclass(frozen=True)
class OscillatorRing:
    """Ring of coupled linear oscillators with a force on each, in semi-implicit Euler steps.

    p_i' = p_i + step (-stiffness q_i + coupling (q_{i+1} + q_{i-1} - 2 q_i) - damping p_i + u_i) + noise sqrt(step) w_i
    and q_i' = q_i + step p_i'; the cost per step is the mean over sites of q^2 + p^2 + action_cost u^2.
    """

    sites: int
    step: float = 0.1
    stiffness: float = 1.0
    coupling: float = 1.0
    damping: float = 0.1
    noise: float = 0.3
    action_cost: float = 0.1

    @cached_property
    def linear_quadratic(self) -> VectorLQ:
        """The same problem with the state vector (q_1 ... q_N, p_1 ... p_N)."""
        one, none = np.eye(self.sites), np.zeros((self.sites, self.sites))
        neighbours = np.roll(one, 1, axis=0) + np.roll(one, -1, axis=0)
        force = -self.stiffness * one + self.coupling * (neighbours - 2 * one)
        # (q', p') = (q + step p', p')
        kick_then_drift = np.block([[one, self.step * one], [none, one]])
        kick = np.block([[one, none], [self.step * force, (1 - self.step * self.damping) * one]])
        push = np.vstack([none, one])
        noise = kick_then_drift @ push * self.noise * math.sqrt(self.step)
        return VectorLQ(
            state_matrix=kick_then_drift @ kick,
            action_matrix=kick_then_drift @ push * self.step,
            state_cost=np.eye(2 * self.sites) / self.sites,
            action_cost=self.action_cost * one / self.sites,
            noise_covariance=noise @ noise.T,
        )

    @property
    def objective(self) -> float:
        """Optimal average cost per step."""
        return self.linear_quadratic.objective

    def case_text(self, points: Points = 33, kernel: Kernel = "auto", *, deviations: float = 7.0, **tables: Any) -> str:
        """Return the case, stated by an index family over the sites."""
        problem = self.linear_quadratic
        widths = deviations * np.sqrt(np.diag(problem.covariance(problem.gain)))[[0, self.sites]]
        force = "-stiffness*q[i] + coupling*(q[i+1] + q[i-1] - 2*q[i]) - damping*p[i] + u[i]"
        states = ("q[i]", "p[i]")
        described = {
            "title": f"Ring of {self.sites} coupled linear oscillators",
            "indices": {"i": {"count": self.sites, "periodic": True}},
            "parameters": {
                "step": self.step,
                "stiffness": self.stiffness,
                "coupling": self.coupling,
                "damping": self.damping,
                "sigma": self.noise,
                "action_cost": self.action_cost,
            },
            "states": {
                states[0]: {"next": "q[i] + step*next(p[i])", "domain": [-float(widths[0]), float(widths[0])]},
                states[1]: {
                    "next": f"p[i] + step*({force})",
                    "noise": "sigma*sqrt(step)",
                    "domain": [-float(widths[1]), float(widths[1])],
                },
            },
            "actions": {"u[i]": {}},
            "cost": {"stage": f"sum(i, q[i]**2 + p[i]**2 + action_cost*u[i]**2)/{self.sites}"},
        }
        return write_case(described, states, points, kernel, tables)
