"""Fits the coefficients of kernels/cuda/ds_gated_activations.cuh and prints them as C.

The normal distribution is written as Phi(x) = 1/2 + v * P(v * v - 1/8) with v = x / (2L) cut off at -1/2 and
1/2, and the result cut off at 0 and 1. P is fitted by Lawson's iteration (a weighted least squares whose
weights grow where the error is large) so that the largest error of x * Phi(x) is least, with a value just
above 1 at the ends, so that Phi becomes exactly 0 and 1 there. The best L is searched for. Then the function
is swept in float32 arithmetic.

Needs mpmath and numpy: python scripts/tools/fit_cuda_activations.py
"""

import numpy as np
from mpmath import mp, mpf

mp.dps = 30
DEGREE = 10
AT_THE_ENDS = 1 + 6e-7


def distribution(x: float) -> float:
    return float(mp.erfc(-mpf(x) / mp.sqrt(2)) / 2)


def fit(last: float) -> tuple[float, np.ndarray]:
    """The largest error of x * Phi(x) up to `last`, and the coefficients of P."""
    count = 400
    x = last * np.sin(np.pi / 2 * (np.arange(count) + 0.5) / count)
    v = x / (2 * last)
    z = 8 * (v * v - 1 / 8)  # from -1 to 1
    # P(z) = AT_THE_ENDS + (z - 1) * Q(z)
    columns = np.stack([v * (z - 1) * np.cos(k * np.arccos(z)) for k in range(DEGREE)], axis=1)
    right = np.array([distribution(value) - 0.5 for value in x]) - v * AT_THE_ENDS
    weights = np.ones(count)
    best = (np.inf, np.zeros(DEGREE))
    for _ in range(500):
        row = np.sqrt(weights) * x
        solution = np.linalg.lstsq(columns * row[:, None], right * row, rcond=None)[0]
        errors = np.abs(columns @ solution - right) * x
        if errors.max() < best[0]:
            best = (float(errors.max()), solution)
        weights *= errors / errors.max() + 1e-3
        weights /= weights.mean()
    quotient = np.polynomial.chebyshev.cheb2poly(best[1])
    coefficients = np.zeros(DEGREE + 1)
    coefficients[0] = AT_THE_ENDS
    coefficients[1:] += quotient
    coefficients[:-1] -= quotient
    return best[0], coefficients * 8.0 ** np.arange(DEGREE + 1)


def fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    return (a.astype(np.float64) * b + c).astype(np.float32)


def gelu_float32(x: np.ndarray, last: float, coefficients: np.ndarray) -> np.ndarray:
    def cut(values: np.ndarray) -> np.ndarray:
        return np.clip(values, np.float32(0), np.float32(1))

    half = np.float32(0.5)
    v = cut(fused(x, np.float32(1 / (2 * last)), half)) - half
    w = fused(v, v, np.float32(-0.125))
    polynomial = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        polynomial = fused(polynomial, w, coefficient)
    return x * cut(fused(v, polynomial, half))


def main() -> None:
    ends = np.arange(4.4, 5.2, 0.05)
    error, last = min((max(fit(end)[0], end * distribution(-end)), end) for end in ends)
    coefficients = fit(last)[1].astype(np.float32)
    print(f"L = {last:.2f}, largest error of the fit {error:.2g}")
    print(", ".join(f"{value:.9g}f" for value in coefficients))

    x = np.linspace(-8, 8, 40001, dtype=np.float32)
    exact = np.array([float(value) * distribution(float(value)) for value in x])
    print(f"in float32: largest error {np.abs(gelu_float32(x, last, coefficients) - exact).max():.2g}")
    far = np.array([-1e30, -65504, -8, 0, 8, 65504, 1e30], dtype=np.float32)
    print("far out:", gelu_float32(far, last, coefficients).tolist())


if __name__ == "__main__":
    main()
