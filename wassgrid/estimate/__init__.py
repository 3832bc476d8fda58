"""The cost in the problem itself, with continuous states, of the policy that is greedy for a value function: an estimate.

Let h be any bounded function of the state, here the spline through V on the nodes, and r = c + g E h(s') - h for the greedy
policy. Under its stationary law mu, off the grid,

    J = mu c = mu r,    discounted:  J = (1 - g) rho h + d r,    d = (1 - g) rho (I - g P)^{-1},

and r is nearly constant where h is nearly the value function: a few thousand states give what a plain simulation needs millions
for, without its error from h. The states are those of independent chains, so that the standard error is that of independent
draws; each draws a shift of its own for the rule that takes the expectation, which is then unbiased.
"""

from wassgrid.estimate.off_grid import ASKED, Estimate, Plan, allowance, estimate, plan

__all__ = ["ASKED", "Estimate", "Plan", "allowance", "estimate", "plan"]
