"""Repeated measurements of one quantity: their median, their spread, and ratios of two measured in turns."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median, quantiles


@dataclass(frozen=True)
class Samples:
    """Measurements in the order of the rounds that took them; at least one."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and the upper one."""
        if len(self.values) == 1:
            return self.values[0], self.values[0]
        lower, _, upper = quantiles(self.values, method="inclusive")
        return lower, upper

    @property
    def spread(self) -> float:
        """Distance of the quartiles as a share of the median."""
        lower, upper = self.quartiles
        return (upper - lower) / self.median

    def over(self, other: Samples) -> float:
        """Median of the ratios round by round: what changes from one round to the next, as clocks do, cancels
        out."""
        return median(own / others for own, others in zip(self.values, other.values, strict=True))

    def as_json(self, scale: float = 1.0) -> dict[str, float | int]:
        """Median, quartiles and number, the values multiplied by `scale`."""
        lower, upper = self.quartiles
        return {
            "median": self.median * scale,
            "lower_quartile": lower * scale,
            "upper_quartile": upper * scale,
            "count": len(self.values),
        }


def total(parts: list[Samples]) -> Samples:
    """The sums of the parts, round by round."""
    return Samples(tuple(map(sum, zip(*(part.values for part in parts), strict=True))))
