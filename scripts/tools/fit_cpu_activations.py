"""Fits the coefficients of kernels/cpu/ds_cpu_activations.h and prints them as C.

Two functions are fitted so that the largest relative error is least, by Lawson's iteration (a weighted least
squares whose weights grow where the error is large) in 50-digit arithmetic:

* the scaled tail of the normal distribution, exp(a*a/2) * Phi(-a) on [0, 13.28], by a quotient of polynomials;
* exp(r) on [-0.39, 0.35], by a polynomial.

Needs mpmath: python scripts/tools/fit_cpu_activations.py
"""

from collections.abc import Callable

from mpmath import mp, mpf

mp.dps = 50
Function = Callable[[mpf], mpf]


def scaled_tail(a: mpf) -> mpf:
    return mp.exp(a * a / 2) * mp.erfc(a / mp.sqrt(2)) / 2


def tail_points(count: int) -> list[mpf]:
    """Chebyshev points of a/(a + 2): dense near zero, where the function bends most."""
    last = mpf("13.28")
    scaled = [last / (last + 2) * (1 - mp.cos(mp.pi * (i + mpf(1) / 2) / count)) / 2 for i in range(count)]
    return [2 * t / (1 - t) for t in scaled]


def exponential_points(count: int) -> list[mpf]:
    low, high = mpf("-0.39"), mpf("0.35")
    return [(low + high) / 2 - (high - low) / 2 * mp.cos(mp.pi * (i + mpf(1) / 2) / count) for i in range(count)]


def fit(function: Function, points: list[mpf], top: int, bottom: int) -> tuple[mpf, list[mpf], list[mpf]]:
    """Largest relative error, numerator of degree `top`, denominator of degree `bottom` (constant terms:
    function(0) and 1)."""
    values = [function(x) for x in points]
    start = function(mpf(0))
    weights = [mpf(1)] * len(points)
    denominators = [mpf(1)] * len(points)
    best = (mp.inf, [], [])
    for _ in range(80):
        system = mp.matrix(len(points), top + bottom)
        right = mp.matrix(len(points), 1)
        for i, (x, y) in enumerate(zip(points, values)):
            scale = mp.sqrt(weights[i]) / (y * denominators[i])
            for k in range(1, top + 1):
                system[i, k - 1] = scale * x**k
            for k in range(1, bottom + 1):
                system[i, top + k - 1] = -scale * y * x**k
            right[i] = scale * (y - start)
        solution = mp.lu_solve(system.T * system, system.T * right)
        numerator = [start] + [solution[k] for k in range(top)]
        denominator = [mpf(1)] + [solution[top + k] for k in range(bottom)]
        denominators = [mp.polyval(denominator[::-1], x) for x in points]
        errors = [
            abs(mp.polyval(numerator[::-1], x) / d / y - 1) for x, y, d in zip(points, values, denominators)
        ]
        largest = max(errors)
        if largest < best[0]:
            best = (largest, numerator, denominator)
        weights = [w * (e / largest + mpf("1e-3")) for w, e in zip(weights, errors)]
        total = sum(weights)
        weights = [w * len(points) / total for w in weights]
    return best


def show(name: str, coefficients: list[mpf]) -> None:
    print(f"{name}: " + ", ".join(mp.nstr(c, 9) + "f" for c in coefficients))


def main() -> None:
    error, numerator, denominator = fit(scaled_tail, tail_points(150), 4, 5)
    print(f"scaled tail, largest relative error {mp.nstr(error, 3)}")
    show("  numerator", numerator)
    show("  denominator", denominator)
    error, polynomial, _ = fit(mp.exp, exponential_points(80), 6, 0)
    print(f"exp, largest relative error {mp.nstr(error, 3)}")
    show("  polynomial", polynomial)


if __name__ == "__main__":
    main()
