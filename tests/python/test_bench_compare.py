"""`bench compare`: what it finds between two files, and what it refuses."""

# labels: torch diffusers
import copy
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("rich")

from ds_diffusers.__main__ import bench_package, main

bench_package()

from ds_diffusers.bench.compare import Change, Key, Time

pytestmark = pytest.mark.diffusers

ENVIRONMENT = {
    "device": {"name": "a GPU"},
    "machine": {"processor": "a CPU", "cores": 2},
    "versions": {"torch": "2.10", "cuda": "13.0"},
}


def samples(median: float, spread: float = 0.0) -> dict[str, float]:
    return {"median": median, "lower_quartile": median - spread / 2, "upper_quartile": median + spread / 2}


def operator_result() -> dict[str, Any]:
    variants = {
        name: {"time_us": samples(time), "wall_us": None} for name, time in (("ours", 10), ("eager", 20))
    }
    return {
        "benchmark": "ops",
        "case": "layer_norm",
        "shape": [2, 64, 320],
        "dtype": "float16",
        "floor": {"time_us": samples(9)},
        "variants": variants,
    }


def unet_result() -> dict[str, Any]:
    variants = {"ours+compile": {"time_ms": samples(7), "wall_ms": samples(16)}}
    return {"benchmark": "unet", "model": "sd15", "size": 512, "dtype": "float16", "variants": variants}


def overhead_result() -> dict[str, Any]:
    walls = {"operator": samples(3), "PyTorch": samples(5)}
    return {
        "benchmark": "overhead",
        "case": "layer_norm",
        "device": "cpu",
        "dtype": "float32",
        "wall_us": walls,
        "enqueue_us": {},
    }


def contents(*results: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of two files with the same times."""
    content = {
        "format": 2,
        "benchmark": results[0]["benchmark"],
        "environment": ENVIRONMENT,
        "settings": {},
        "results": list(results),
    }
    return content, copy.deepcopy(content)


def compare(folder: Path, *both: Any) -> int:
    """The exit code for two files with these contents."""
    files = [folder / "before.json", folder / "after.json"]
    for file, content in zip(files, both, strict=True):
        file.write_text(json.dumps(content))
    return main(["bench", "compare", *map(str, files)])


def test_the_same_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(tmp_path, *contents(operator_result(), unet_result(), overhead_result())) == 0
    captured = capsys.readouterr()
    assert "7 times compared: 0 slower, 0 faster, 7 within the spread" in " ".join(captured.out.split())
    assert "warning:" not in captured.err


def test_ours_became_slower(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = contents(operator_result())
    after["results"][0]["variants"]["ours"]["time_us"] = samples(11)
    assert compare(tmp_path, before, after) == 1
    shown = capsys.readouterr().out
    assert "slower: layer_norm 2x64x320 float16" in shown
    assert "×1.10" in shown
    assert compare(tmp_path, after, before) == 0
    assert "faster: layer_norm 2x64x320 float16" in capsys.readouterr().out


def test_others_became_slower(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = contents(operator_result())
    after["results"][0]["variants"]["eager"]["time_us"] = samples(40)
    after["results"][0]["floor"]["time_us"] = samples(18)
    assert compare(tmp_path, before, after) == 0
    assert "2 slower" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (unet_result, lambda result: result["variants"]["ours+compile"].update(wall_ms=samples(20))),
        (overhead_result, lambda result: result["wall_us"].update(operator=samples(4))),
    ],
)
def test_every_kind_of_time_counts(make: Any, change: Any, tmp_path: Path) -> None:
    before, after = contents(make())
    change(after["results"][0])
    assert compare(tmp_path, before, after) == 1


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        (Time(100, 0), Time(103, 0), True),
        (Time(100, 0), Time(101.9, 0), False),  # less than the tolerance
        (Time(100, 4), Time(103, 0), False),
        (Time(100, 0), Time(103, 4), False),
        (Time(100, 4), Time(105, 4), True),
        (Time(100, 4), Time(95, 4), True),
    ],
)
def test_beyond_the_spread(before: Time, after: Time, changed: bool) -> None:
    assert Change(Key("block", "ours", "time"), before, after).beyond_spread == changed


def test_what_one_file_alone_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = contents(operator_result(), unet_result())
    del after["results"][1]
    assert compare(tmp_path, before, after) == 0
    shown = "".join(capsys.readouterr().out.split())
    assert "2onlyin" + str(tmp_path / "before.json") in shown


def test_other_machines_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = contents(operator_result())
    after["environment"]["device"]["name"] = "another GPU"
    after["environment"]["versions"] = {"torch": "2.11", "cuda": "13.0", "triton": "3"}
    assert compare(tmp_path, before, after) == 0
    assert capsys.readouterr().err.splitlines() == [
        "warning: the device was a GPU and is another GPU",
        "warning: torch was 2.10 and is 2.11",
        "warning: triton was None and is 3",
    ]


def change_format(content: dict[str, Any]) -> None:
    content["format"] = 1


def remove_results(content: dict[str, Any]) -> None:
    content["results"] = []


def change_case(content: dict[str, Any]) -> None:
    content["results"][0]["case"] = "another"


def remove_shape(content: dict[str, Any]) -> None:
    del content["results"][0]["shape"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_format, "after.json has format 1, must be 2"),
        (remove_results, "after.json holds no results"),
        (change_case, "have no time in common"),
        (remove_shape, "after.json has results that no benchmark wrote: KeyError('shape')"),
        (dict.clear, "after.json must be a file that a benchmark wrote with --json"),
    ],
)
def test_wrong_files(change: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = contents(operator_result())
    change(after)
    assert compare(tmp_path, before, after) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err
    assert captured.out == ""


def test_missing_and_broken_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing, broken = tmp_path / "missing.json", tmp_path / "broken.json"
    broken.write_text("{")
    for command in (["compare", str(missing), str(broken)], ["plot", str(missing)]):
        assert main(["bench", *command]) == 2
        assert "missing.json cannot be read: No such file" in capsys.readouterr().err
    assert main(["bench", "plot", str(broken)]) == 2
    assert "broken.json is no JSON file" in capsys.readouterr().err
    assert main(["bench", "compare", str(broken)]) == 2
