"""Fits the coefficients of kernels/cuda/ds_gated_activations.cuh and prints them as C.

The normal distribution left of the middle is written as Phi(-a) = 2^Q(a). Q is fitted on 0 to LAST by Lawson's
iteration (a weighted least squares whose weights grow where the error is large), so that the largest relative
error of Phi is least, and must fall on and on beyond. Then the function is swept in float32 arithmetic.

Needs mpmath and numpy: python scripts/tools/fit_cuda_activations.py
"""

import numpy as np
from mpmath import mp, mpf

mp.dps = 30
DEGREE = 7
LAST = 7.0


def log2_of_distribution(a: float) -> float:
    """log2(Phi(-a))."""
    return float(mp.log(mp.erfc(mpf(a) / mp.sqrt(2)) / 2, 2))


def fit() -> np.ndarray:
    """The coefficients of Q, the constant one first."""
    x = np.cos(np.pi * (np.arange(400) + 0.5) / 400)
    wanted = np.array([log2_of_distribution(LAST * (value + 1) / 2) for value in x])
    columns = np.polynomial.chebyshev.chebvander(x, DEGREE)
    weights = np.ones_like(x)
    best = (np.inf, np.zeros(DEGREE + 1))
    for _ in range(500):
        root = np.sqrt(weights)
        solution = np.linalg.lstsq(columns * root[:, None], wanted * root, rcond=None)[0]
        errors = np.abs(columns @ solution - wanted)
        if errors.max() < best[0]:
            best = (float(errors.max()), solution)
        weights *= errors
        weights /= weights.mean()
    series = np.polynomial.Chebyshev(best[1], domain=[0, LAST])
    return series.convert(kind=np.polynomial.Polynomial).coef


def distribution_float32(a: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Phi(-a) as the kernel computes it, but for the rounding of 2^Q."""
    power = np.full_like(a, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        power = (power.astype(np.float64) * a + coefficient).astype(np.float32)
    return np.exp2(power.astype(np.float64))


def main() -> None:
    coefficients = fit().astype(np.float32)
    print(", ".join(f"{value:.9g}f" for value in coefficients[::-1]))
    a = np.linspace(0, 20, 40001, dtype=np.float32)
    exact = np.exp2([log2_of_distribution(float(value)) for value in a])
    found = distribution_float32(a, coefficients)
    errors = np.abs(found / exact - 1)
    print(f"largest relative error up to {LAST}: {errors[a <= LAST].max():.2g}")
    print(
        "falls everywhere:",
        bool((np.diff(found) <= 0).all()),
        "and stays below the exact one beyond:",
        bool((found <= exact)[a > LAST + 0.1].all()),
    )


if __name__ == "__main__":
    main()
