"""The search that keeps J falling: moves are shortened until no particle's own Q rises."""

from __future__ import annotations

import numpy as np

from wassgrid.evaluation import Evaluation, rounding
from wassgrid.transition.together import Together

_HALVINGS = 40  # of one particle's move before it stays where it is


def monotone_search(
    evaluation: Evaluation, candidates: np.ndarray, slope: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Shorten the move of every particle whose own Q_pi(s, .) would rise, V frozen.

    By the performance difference identity J(pi') - J(pi) = int mu_{pi'} int [Q_pi(s, a') pi'_s(da') - Q_pi(s, a) pi_s(da)]
    J cannot rise if no particle's Q does. candidates (cells, N, m). With `slope` (cells, N), the predicted first-order
    change of Q along each full move (negative), the decrease must be a fraction 1e-4 of it (Armijo).
    Returns the actions and the number of halvings of every particle (cells, N); a particle that finds no decrease stays.
    """
    old, q = evaluation.policy.actions, evaluation.q
    allowed = rounding(evaluation)
    together = Together.of(old, candidates, q) if slope is None else Together.of(old, candidates, q, slope)
    old, new, limit = together.chosen(old), together.chosen(candidates), together.chosen(q) + allowed
    least = 0.0 if slope is None else 1e-4 * together.chosen(slope)
    halvings = np.zeros(len(new), np.int64)
    rows = np.flatnonzero(np.any(new != old, axis=1))
    for halving in range(_HALVINGS + 1):
        trial = evaluation.q_values(together.cells[rows], new[rows, None])[:, 0]
        rows = rows[~(trial <= (limit + 0.5**halving * least)[rows])]
        if rows.size == 0:
            break
        halvings[rows] += 1
        if halving == _HALVINGS:
            new[rows] = old[rows]
            break
        # the segment between two points of a box stays in the box
        new[rows] = 0.5 * (new[rows] + old[rows])
    return new[together.number], halvings[together.number]
