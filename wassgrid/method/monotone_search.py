"""The search that keeps J falling: moves are shortened until no particle's own Q rises."""

from __future__ import annotations

import numpy as np

from wassgrid.evaluation import Evaluation, rounding

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
    cells, particles = q.shape
    allowed = rounding(evaluation)
    new = candidates.copy()
    halvings = np.zeros((cells, particles), np.int64)
    moved = np.any(new != old, axis=2)
    rows, columns = np.nonzero(moved)
    for halving in range(_HALVINGS + 1):
        trial = evaluation.q_values(rows, new[rows, columns][:, None, :])[:, 0]
        limit = q[rows, columns] + allowed
        if slope is not None:
            limit = limit + 1e-4 * 0.5**halving * slope[rows, columns]
        rising = ~(trial <= limit)
        rows, columns = rows[rising], columns[rising]
        if rows.size == 0:
            break
        halvings[rows, columns] += 1
        if halving == _HALVINGS:
            new[rows, columns] = old[rows, columns]
            break
        # the segment between two points of a box stays in the box
        new[rows, columns] = 0.5 * (new[rows, columns] + old[rows, columns])
    return new, halvings
