"""scikit-learn's handwritten digits as coloured drawings, and a classifier that says which digit one shows.

1797 digits of 8 x 8 counts: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
Learning Repository, 1998, in the copy that scikit-learn carries. Each count is the number of black pixels in
4 x 4 of a bitmap of 32 x 32, so drawings are made and recognised at that size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC
from torch import Tensor

SIZE = 32  # pixels of a drawing, in each direction
_COUNTED = 4  # pixels that one count is of, in each direction
_LARGEST_COUNT = 16

COLOURS = {
    "black": (0.0, 0.0, 0.0),
    "red": (0.85, 0.1, 0.1),
    "green": (0.05, 0.6, 0.2),
    "blue": (0.1, 0.25, 0.85),
    "orange": (0.95, 0.55, 0.05),
    "purple": (0.5, 0.1, 0.65),
}

# Bicubic interpolation blurs what had sharp edges: this much contrast, around this value, sharpens them.
_CONTRAST, _EDGE = 2.5, 0.45
# Counts fill their frame from the top to the bottom: this much smaller, a drawing has a margin.
_MARGIN = 1.15


@dataclass(frozen=True)
class Digits:
    """`counts` [N, 1, 8, 8] in float32, 0 to 1; `labels` [N] in int64."""

    counts: Tensor
    labels: Tensor


def digits() -> tuple[Digits, Digits]:
    """Three quarters of the digits to train with, and the others, which nothing is trained with."""
    data = load_digits()
    parts = train_test_split(data.images, data.target, test_size=0.25, stratify=data.target, random_state=0)
    train_images, held_out_images, train_labels, held_out_labels = map(torch.from_numpy, parts)

    def scaled(images: Tensor) -> Tensor:
        return (images / _LARGEST_COUNT).float().unsqueeze(1)

    return (
        Digits(scaled(train_images), train_labels.long()),
        Digits(scaled(held_out_images), held_out_labels.long()),
    )


def ink(
    counts: Tensor, angle: Tensor | float = 0, scale: Tensor | float = 1, shift: Tensor | float = 0
) -> Tensor:
    """Digits as ink on paper: float32 [N, 1, 32, 32], 0 where the paper is bare, 1 where it is covered.

    Args:
        counts: [N, 1, 8, 8], 0 to 1.
        angle: to turn each by, radians: [N], or a number for all.
        scale: to enlarge each by: [N], or a number.
        shift: to the right and down, in halves of the drawing's width: [N, 2], or a number.
    """
    many = len(counts)
    angle, scale = (torch.as_tensor(value, device=counts.device).expand(many) for value in (angle, scale))
    cosine, sine = angle.cos() * _MARGIN / scale, angle.sin() * _MARGIN / scale
    transform = counts.new_zeros(many, 2, 3)
    transform[:, 0, 0], transform[:, 0, 1] = cosine, -sine
    transform[:, 1, 0], transform[:, 1, 1] = sine, cosine
    transform[:, :, 2] = -torch.as_tensor(shift, device=counts.device)
    grid = F.affine_grid(transform, [many, 1, SIZE, SIZE], align_corners=False)
    smooth = F.grid_sample(counts, grid, mode="bicubic", align_corners=False)
    return ((smooth - _EDGE) * _CONTRAST + 0.5).clamp(0, 1)


def paint(ink: Tensor, colour: Tensor) -> Tensor:
    """White paper with ink of a colour for each drawing: [N, 1, H, W] and [N, 3] to [N, 3, H, W], 0 to 1."""
    return 1 - ink * (1 - colour[:, :, None, None])


class Classifier:
    """A support vector machine that knows digits by their counts. `accuracy`: its share of right answers on
    the `held_out` digits that it was not fitted to, drawn as the others."""

    def __init__(self) -> None:
        train, held_out = digits()
        self._machine = SVC(gamma="scale", C=10).fit(
            _counts(1 - ink(train.counts)).numpy(), train.labels.numpy()
        )
        self.held_out = len(held_out.labels)
        self.accuracy = (self.classify(1 - ink(held_out.counts)) == held_out.labels).double().mean().item()

    def classify(self, drawings: Tensor) -> Tensor:
        """The digit that each drawing shows: [N, 1 or 3, 32, 32], 0 to 1, to int64 [N] on the CPU."""
        return torch.from_numpy(self._machine.predict(_counts(drawings).numpy())).long()


def _counts(drawings: Tensor) -> Tensor:
    """How much ink is where, whatever its colour: float32 [N, 64], 0 to 1."""
    covered = (1 - drawings.float().cpu()).amax(dim=1, keepdim=True)
    strongest = covered.amax(dim=(2, 3), keepdim=True).clamp(min=0.1)
    return F.avg_pool2d(covered / strongest, _COUNTED).flatten(1)
