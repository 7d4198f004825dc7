"""The drawings as one picture: a row for each prompt, and side by side how they were made."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .digits import SIZE

ENLARGED = 2
CELL = SIZE * ENLARGED
GAP = 4
MARGIN = 12
TITLE_SIZE, TEXT_SIZE = 15, 12
LINE = 17
_PAPER, _TEXT, _FAINT = "white", "black", (95, 95, 95)


def group_left(titles: Sequence[Sequence[str]], prompts: Sequence[str], many: int, number: int) -> int:
    """Where the drawings of a group begin, in pixels from the left."""
    widths = _group_widths(titles, many)
    return 2 * MARGIN + _prompts_width(prompts) + sum(widths[:number]) + number * 2 * MARGIN


def rows_top(titles: Sequence[Sequence[str]]) -> int:
    """Where the first row begins, in pixels from the top."""
    return MARGIN + LINE * max(map(len, titles)) + GAP


def picture(prompts: Sequence[str], titles: Sequence[Sequence[str]], groups: Sequence[Tensor]) -> Image.Image:
    """Args:
    prompts: the text of each row.
    titles: the lines above each group, its name first.
    groups: of each way of drawing, [prompts, many, 3, 32, 32], 0 to 1.
    """
    many = groups[0].shape[1]
    top, row_height = rows_top(titles), CELL + GAP
    width = group_left(titles, prompts, many, len(groups)) - MARGIN
    image = Image.new("RGB", (width, top + len(prompts) * row_height + MARGIN - GAP), _PAPER)
    draw = ImageDraw.Draw(image)
    for row, prompt in enumerate(prompts):
        middle = top + row * row_height + CELL / 2
        draw.text((MARGIN, middle), prompt, _TEXT, _font(TITLE_SIZE), anchor="lm")
    for number, (lines, drawings) in enumerate(zip(titles, groups, strict=True)):
        left = group_left(titles, prompts, many, number)
        for line, text in enumerate(lines):
            colour, size = (_TEXT, TITLE_SIZE) if line == 0 else (_FAINT, TEXT_SIZE)
            draw.text((left, MARGIN + line * LINE), text, colour, _font(size))
        for row in range(len(prompts)):
            for column in range(many):
                image.paste(
                    _enlarged(drawings[row, column]), (left + column * (CELL + GAP), top + row * row_height)
                )
    return image


def _enlarged(drawing: Tensor) -> Image.Image:
    pixels = (drawing * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels).resize((CELL, CELL), Image.Resampling.NEAREST)


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _prompts_width(prompts: Sequence[str]) -> int:
    return max(int(_font(TITLE_SIZE).getlength(prompt)) for prompt in prompts) + 1


def _group_widths(titles: Sequence[Sequence[str]], many: int) -> list[int]:
    cells = many * (CELL + GAP) - GAP
    return [
        max(cells, int(_font(TITLE_SIZE).getlength(lines[0])) + 1, *_line_widths(lines[1:]))
        for lines in titles
    ]


def _line_widths(lines: Sequence[str]) -> list[int]:
    return [int(_font(TEXT_SIZE).getlength(line)) + 1 for line in lines]
