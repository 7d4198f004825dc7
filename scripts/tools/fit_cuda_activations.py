"""Fits the coefficients of kernels/cuda/ds_gated_activations.cuh and prints them as C.

The tail of the normal distribution is written as Phi(-a) = exp(-a*a/2) * P(t), t = 1/(1 + p*a), the form of
Abramowitz and Stegun 7.1.25, with P(t) = c1*t + ... + c4*t^4. P is fitted by Lawson's iteration (a weighted
least squares whose weights grow where the error is large) so that the largest error of a * Phi(-a) is least,
measured against an allowance: an absolute one, and a relative one where that is smaller. The best p is
searched for. Then the function is swept in float32 arithmetic.

Needs mpmath and numpy: python scripts/tools/fit_cuda_activations.py
"""

import numpy as np
from mpmath import mp, mpf

mp.dps = 30
LAST, TERMS = 6.0, 4
ABSOLUTE, RELATIVE = 1e-5, 2.5e-4


def distribution(x: float) -> mpf:
    return mp.erfc(-mpf(x) / mp.sqrt(2)) / 2


def fit(p: float, a: np.ndarray, scaled: np.ndarray) -> tuple[float, np.ndarray]:
    """Largest error in units of the allowance, and the coefficients."""
    t = 1 / (1 + p * a)
    powers = np.stack([t**k for k in range(1, TERMS + 1)], axis=1)
    factor = a * np.exp(-a * a / 2)
    scale = factor / np.minimum(ABSOLUTE, RELATIVE * factor * scaled)
    weights = np.ones_like(a)
    best = (np.inf, np.zeros(TERMS))
    for _ in range(200):
        row = np.sqrt(weights) * scale
        coefficients = np.linalg.lstsq(powers * row[:, None], scaled * row, rcond=None)[0]
        errors = np.abs(powers @ coefficients - scaled) * scale
        if errors.max() < best[0]:
            best = (float(errors.max()), coefficients)
        weights *= errors / errors.max() + 1e-3
        weights /= weights.mean()
    return best


def gelu_float32(x: np.ndarray, p: np.float32, coefficients: np.ndarray) -> np.ndarray:
    one = np.float32(1)
    a = np.minimum(np.abs(x), np.float32(64))
    exponential = np.exp2(a * a * np.float32(-0.5 / np.log(2))).astype(np.float32)
    t = one / (one + p * a)
    polynomial = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        polynomial = polynomial * t + coefficient
    return np.where(x > 0, x, np.float32(0)) - exponential * t * polynomial * a


def main() -> None:
    count = 200
    a = LAST * (1 - np.cos(np.pi * (np.arange(count) + 0.5) / count)) / 2
    scaled = np.array([float(mp.exp(mpf(x) ** 2 / 2) * distribution(-x)) for x in a])
    fits = [(*fit(p, a, scaled), p) for p in np.arange(0.3, 0.6, 0.005)]
    error, coefficients, p = min(fits, key=lambda found: found[0])
    print(f"largest error of the fit: {error * ABSOLUTE:.2g}, or {error * RELATIVE:.2g} of a * Phi(-a)")
    print(f"p = {p:.3f}f, coefficients " + ", ".join(f"{c:.9g}f" for c in coefficients))

    x = np.linspace(-8, 8, 16001, dtype=np.float32)
    exact = np.array([float(mpf(float(value)) * distribution(float(value))) for value in x])
    errors = np.abs(gelu_float32(x, np.float32(p), coefficients.astype(np.float32)) - exact)
    relative = errors[x != 0] / np.abs(exact[x != 0])
    near = np.abs(x[x != 0]) <= LAST
    print(f"in float32: largest error {errors.max():.2g}, relative {relative[near].max():.2g} up to {LAST:g}")


if __name__ == "__main__":
    main()
