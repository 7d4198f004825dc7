"""The drawing of the demo: its model's files, what it draws in each way, and the picture."""

# labels: torch diffusers gpu
import contextlib
import importlib.util
import io
import json
import math
import re
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("sklearn")

from diffusers import UNet2DConditionModel
from ds_diffusers.demo import main
from ds_diffusers.demo.drawing import comparison
from ds_diffusers.demo.drawing.comparison import Ways
from ds_diffusers.demo.drawing.digits import COLOURS, Classifier, digits, ink, paint
from ds_diffusers.demo.drawing.model import (
    FOLDER,
    digit_of,
    from_squares,
    load_model,
    start_noise,
    to_squares,
)
from ds_diffusers.demo.drawing.picture import CELL, ENLARGED, GAP, MARGIN, group_left, picture, rows_top
from PIL import Image
from safetensors.torch import load_file

pytestmark = pytest.mark.diffusers

TRAINING_SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "tools" / "train_digits.py"
LARGEST_FILE_BYTES = 8_000_000
PROMPTS = comparison.PROMPTS
DIGITS = [digit_of(prompt) for prompt in PROMPTS]


@dataclass
class Drawn:
    """`titles`: the lines above the three ways in the picture; `printed`: what the demo said."""

    ways: Ways
    titles: list[list[str]]
    image: Image.Image
    printed: str


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def drawn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """One run of the demo's drawing with its own prompts, one drawing for each, in half as many steps."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    folder, printed, kept = tmp_path_factory.mktemp("drawing"), io.StringIO(), []
    with pytest.MonkeyPatch.context() as monkeypatch, contextlib.redirect_stdout(printed):
        draw = comparison.draw_in_all_ways
        monkeypatch.setattr(comparison, "DRAWINGS_OF_PROMPT", 1)
        monkeypatch.setattr(comparison, "STEPS", 10)
        monkeypatch.setattr(
            comparison, "draw_in_all_ways", lambda *given: kept.append(draw(*given)) or kept[0]
        )
        assert main(["--drawing", "only", "--device", request.param, "--output", str(folder)]) == 0
    ways, classifier = kept[0], Classifier()
    titles = [
        comparison.title(ways, way, way.recognised(classifier, DIGITS), len(PROMPTS)) for way in ways.shown
    ]
    return Drawn(ways, titles, Image.open(folder / "drawing.png"), printed.getvalue())


def test_files_hold_one_unet_and_one_text_encoder() -> None:
    files = [FOLDER / "digits.safetensors", FOLDER / "digits.json"]
    assert all(file.stat().st_size <= LARGEST_FILE_BYTES for file in files)
    config, tensors = json.loads(files[1].read_text()), load_file(files[0])
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    unet = UNet2DConditionModel.from_config(config["unet"])
    prefix = "unet."
    unet.load_state_dict(
        {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    )
    assert {name for name in tensors if not name.startswith(prefix)} == {
        "text_encoder.word.weight",
        "text_encoder.position.weight",
    }


def training_notes() -> dict[str, Any]:
    return json.loads((FOLDER / "digits.json").read_text())["training"]


def test_files_say_how_they_were_made() -> None:
    training = training_notes()
    assert training["command"].startswith("python scripts/tools/train_digits.py --steps ")
    assert training["seconds"] > 0
    assert training["loss"][-1] < training["loss"][0] / 4
    assert training["recognised"] > 0.8


def test_all_blocks_run_fused(drawn: Drawn) -> None:
    assert len(drawn.ways.blocks) >= 5
    assert drawn.ways.blocks.fused == len(drawn.ways.blocks)


def test_ways_are_alike(drawn: Drawn) -> None:
    """In float32, patching changes no pixel by as much as what an image file can hold; in float16 it changes
    about as much as float16 itself does."""
    ways = drawn.ways
    patched, int8, other = (ways.from_plain(way) for way in (ways.patched, ways.int8, ways.other))
    assert ways.finite
    assert patched.largest > 0
    if ways.other.name == "bfloat16":
        assert patched.largest < 0.5
        assert patched.mean < other.mean / 100
    else:
        assert patched.mean < 2 * other.mean
    assert patched.mean < int8.mean < 2


def test_digits_are_recognised(drawn: Drawn) -> None:
    classifier = Classifier()
    plain, patched, int8 = (way.recognised(classifier, DIGITS) for way in drawn.ways.shown)
    # Few drawings: by chance, fewer of them than of the many after training.
    assert plain / len(DIGITS) > training_notes()["recognised"] - 0.25
    assert abs(patched - plain) <= 1
    assert abs(int8 - plain) <= 1


def test_colours_are_those_of_the_prompts(drawn: Drawn) -> None:
    for prompt, drawing in zip(PROMPTS, drawn.ways.patched.drawings, strict=True):
        wanted = next((colour for colour in COLOURS if colour in prompt), "black")
        darkest = drawing.mean(0).flatten().topk(20, largest=False).indices
        ink_colour = drawing.flatten(1)[:, darkest].mean(1)
        distances = {name: (ink_colour - torch.tensor(rgb)).norm().item() for name, rgb in COLOURS.items()}
        assert min(distances, key=distances.__getitem__) == wanted, (prompt, ink_colour)


def test_statement(drawn: Drawn) -> None:
    printed = drawn.printed
    assert re.search(
        r"^drawings +10 of 32 x 32 pixels by a model of our own, steps: 10, ", printed, re.MULTILINE
    )
    assert re.search(r"^blocks +(\d+) of \1 blocks run as block_forward$", printed, re.MULTILINE)
    for number, way in ((r"\S+", "patched, from plain"), (r"\S+", "patched with int8 weights, from plain")):
        assert re.search(rf"^ +{number} largest, {number} mean: {way}$", printed, re.MULTILINE)
    assert re.search(
        r"^recognised +\d+ diffusers, \d+ patched, \d+ patched int8, of 10, ", printed, re.MULTILINE
    )


def test_picture_is_a_grid_of_the_drawings(drawn: Drawn) -> None:
    image, top = drawn.image, rows_top(drawn.titles)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(*image.size[::-1], 3)
    assert image.height == top + len(PROMPTS) * (CELL + GAP) - GAP + MARGIN
    for number, way in enumerate(drawn.ways.shown):
        left = group_left(drawn.titles, PROMPTS, 1, number)
        for row, drawing in enumerate(way.drawings):
            cell = pixels[top + row * (CELL + GAP) :, left:][:CELL:ENLARGED, :CELL:ENLARGED]
            assert torch.equal(cell.permute(2, 0, 1), (drawing * 255).round().byte())


def test_picture_has_a_place_for_each_drawing() -> None:
    groups = [torch.full((2, 3, 3, 32, 32), value) for value in (0.0, 0.5)]
    titles = [["black", "a line that is longer than three drawings are wide, and some"], ["grey"]]
    prompts = ["first", "second"]
    image = picture(prompts, titles, groups)
    for number, value in ((0, 0), (1, 128)):
        left = group_left(titles, prompts, 3, number)
        for column in range(3):
            box = (left + column * (CELL + GAP), rows_top(titles) + CELL + GAP)
            assert image.getpixel(box) == (value,) * 3
            assert image.getpixel((box[0] + CELL - 1, box[1] + CELL - 1)) == (value,) * 3
            assert image.getpixel((box[0] + CELL, box[1])) == (255, 255, 255)


def test_unknown_and_too_many_words_are_refused() -> None:
    encoder = load_model().text_encoder
    assert encoder.tokens([""]).tolist() == [[0] * encoder.position.num_embeddings]
    assert torch.equal(encoder.tokens(["A red, 7!"]), encoder.tokens(["a red 7"]))
    with pytest.raises(ValueError, match="the prompt 'a house' has the word house, must be of: 0, 1, "):
        encoder.tokens(["a house"])
    with pytest.raises(ValueError, match="has 9 words, must have at most 8"):
        encoder.tokens(["a " * 9])


@pytest.mark.parametrize(
    ("prompt", "digit"), [("seven", 7), ("a red 0", 0), ("two Nine", 9), ("", None), ("17", None)]
)
def test_digit_of_a_prompt(prompt: str, digit: int | None) -> None:
    assert digit_of(prompt) == digit


def test_squares_lose_nothing() -> None:
    drawings = torch.rand(2, 3, 32, 32)
    assert to_squares(drawings).shape == start_noise(2, seed=0).shape
    torch.testing.assert_close(from_squares(to_squares(drawings)), drawings)


def test_classifier_knows_digits_in_every_colour() -> None:
    classifier, (_, held_out) = Classifier(), digits()
    assert classifier.held_out == len(held_out.labels) == 450
    assert classifier.accuracy > 0.97
    covered = ink(held_out.counts)
    for colour in COLOURS.values():
        painted = paint(covered, torch.tensor(colour).expand(len(covered), 3))
        seen = classifier.classify(painted)
        assert (seen == held_out.labels).double().mean() > 0.97


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("train_digits", TRAINING_SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "train_digits", module)
    spec.loader.exec_module(module)
    return module


def test_training_prompts_ask_for_what_is_drawn(training: ModuleType) -> None:
    for digit in range(10):
        for colour in COLOURS:
            for prompt in training.prompts_for(digit, colour):
                assert digit_of(prompt) == digit
                assert {name for name in COLOURS if name in prompt} <= {colour}
                assert colour == "black" or colour in prompt
    assert load_model().text_encoder.words == training.vocabulary()


def test_training_runs(training: ModuleType, tmp_path: Path) -> None:
    settings = Namespace(
        steps=3, batch=4, channels=[8, 16], heads=[2, 4], layers=1, seed=0, learning_rate=1e-3
    )
    trained = training.train(settings, torch.device("cpu"))
    assert len(trained.losses) == 3
    assert all(map(math.isfinite, trained.losses))
    trained.model.save(tmp_path)
    loaded = load_model(tmp_path).state_dict()
    for name, tensor in trained.model.state_dict().items():
        assert torch.equal(loaded[name], tensor)
