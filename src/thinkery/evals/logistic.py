"""Logistic regression on soft targets with a penalty, solved to the optimum by Newton's method in plain numpy.

Small problems only: each iteration builds the Hessian of all coefficients.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

ITERATIONS = 100
HALVINGS = 30
TOLERANCE = 1e-9


def fit_l2(
    rows: np.ndarray, targets: np.ndarray, weights: np.ndarray, ridge: float, start: np.ndarray | None = None
) -> np.ndarray:
    """The w that minimises ridge · ‖w‖² / 2 + Σ weight · cross-entropy(target, sigmoid(row · w)); no intercept."""

    def loss(w: np.ndarray) -> float:
        return ridge / 2 * float(w @ w) + _cross_entropy(rows @ w, targets, weights)

    w = np.zeros(rows.shape[1]) if start is None else start
    for _ in range(ITERATIONS):
        gradient, hessian = _slopes(rows, w, targets, weights)
        step = -np.linalg.solve(hessian + ridge * np.eye(len(w)), gradient + ridge * w)
        step = _shortened(step, w, loss)
        w = w + step
        if np.abs(step).max() < TOLERANCE:
            break
    return w


def fit_l1(rows: np.ndarray, targets: np.ndarray, weights: np.ndarray, strength: float) -> np.ndarray:
    """The w that minimises ‖w‖₁ + strength · Σ weight · cross-entropy(target, sigmoid(row · w)); no intercept.

    The quadratic model of each Newton step is solved together with the penalty, by coordinate descent.
    """

    def loss(w: np.ndarray) -> float:
        return float(np.abs(w).sum()) + strength * _cross_entropy(rows @ w, targets, weights)

    w = np.zeros(rows.shape[1])
    for _ in range(ITERATIONS):
        gradient, hessian = _slopes(rows, w, targets, strength * weights)
        step = _shortened(_penalised_step(w, gradient, hessian), w, loss)
        w = w + step
        if np.abs(step).max() < TOLERANCE:
            break
    return w


def _cross_entropy(z: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    return float(weights @ (np.logaddexp(0, z) - targets * z))


def _slopes(rows: np.ndarray, w: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and second derivatives of the cross-entropy."""
    p = 0.5 + 0.5 * np.tanh(rows @ w / 2)  # the sigmoid, which cannot overflow this way
    return rows.T @ (weights * (p - targets)), (rows.T * (weights * p * (1 - p))) @ rows


def _shortened(step: np.ndarray, w: np.ndarray, loss: Callable[[np.ndarray], float]) -> np.ndarray:
    """The step, halved until it does not lead uphill; nothing where rounding is all that is left to gain."""
    here = loss(w)
    for _ in range(HALVINGS):
        if loss(w + step) <= here:
            return step
        step = step / 2
    return np.zeros_like(step)


def _penalised_step(w: np.ndarray, gradient: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """The s that minimises gradient · s + s · hessian · s / 2 + ‖w + s‖₁."""
    step = np.zeros_like(w)
    for _ in range(1000):
        before = step.copy()
        for i in range(len(w)):
            curvature = hessian[i, i] + 1e-12
            slope = gradient[i] + hessian[i] @ step
            free = w[i] + step[i] - slope / curvature
            step[i] = np.sign(free) * max(abs(free) - 1 / curvature, 0) - w[i]
        if np.abs(step - before).max() < 1e-12:
            break
    return step
