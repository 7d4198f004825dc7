"""The benchmarks' plots: what they show of the files, drawn by a run and from its file."""

# labels: torch diffusers
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from ds_diffusers.__main__ import bench_package, main
from helpers.architectures import make_architectures_small
from PIL import Image

bench_package()

from ds_diffusers.bench import block_plots, operator_plots, plots, speed_up_plots

pytestmark = pytest.mark.diffusers

FORMAT = b"\x89PNG\r\n"
OPTIONS = {
    "ops": ["--ops", "layer_norm,gated_linear", "--shapes", "2x3x8,2x5x16", "--dtype", "float32,bfloat16"],
    "block": ["--shapes", "2x17x32x4x24,1x8x16x2x8", "--dtype", "float32"],
    "unet": ["--models", "sd15", "--size", "64", "--dtype", "float32"],
    "cpu": ["--ops", "bias_add", "--shapes", "2x3x8", "--blocks", "1x8x16x2x8"],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of a small run of each benchmark that has a plot: its JSON, and beside it as drawn.png its plot."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        make_architectures_small(patch)
        for name, options in OPTIONS.items():
            found[name] = folder / name / "run.json"
            found[name].parent.mkdir()
            written = ["--json", str(found[name]), "--plot", str(found[name].with_name("drawn.png"))]
            device = [] if name == "cpu" else ["--device", "cpu", "--peers", "eager"]
            assert main(["bench", name, "--rounds", "2", *device, *options, *written]) == 0
    return found


def draw(maker: Any, file: Path) -> Any:
    """The figure of a file."""
    return maker(plots.pyplot(), json.loads(file.read_text()))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_draws_its_plot(name: str, files: dict[str, Path]) -> None:
    drawn = files[name].with_name("drawn.png").read_bytes()
    assert drawn.startswith(FORMAT)
    assert main(["bench", "plot", str(files[name])]) == 0
    with (
        Image.open(files[name].with_suffix(".png")) as again,
        Image.open(files[name].with_name("drawn.png")) as first,
    ):
        assert again.size == first.size
        assert min(again.size) > 200
        assert again.convert("L").getextrema() == (0, 255)


def test_several_files_and_a_name_of_the_users(files: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "named.png"
    assert main(["bench", "plot", str(files["ops"]), "--output", str(output)]) == 0
    assert output.read_bytes().startswith(FORMAT)
    for name in ("block", "unet"):
        files[name].with_suffix(".png").unlink(missing_ok=True)
    assert main(["bench", "plot", str(files["block"]), str(files["unet"])]) == 0
    for name in ("block", "unet"):
        assert files[name].with_suffix(".png").exists()


def test_bandwidths(files: dict[str, Path]) -> None:
    content = json.loads(files["ops"].read_text())
    figure = draw(operator_plots.operator_plot, files["ops"])
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert len(panels) == 4
    norms = panels["layer_norm, float32"]
    assert norms.get_xlabel() == "moved, bytes" and norms.get_ylabel() == "bandwidth, GB/s"
    assert panels["gated_linear, bfloat16"].get_xlabel() == "operations"
    lines = {container.get_label(): container.lines[0] for container in norms.containers}
    first = content["results"][0]
    assert (first["case"], first["dtype"], first["shape"]) == ("layer_norm", "float32", [2, 3, 8])
    for name in ("ours", "eager"):
        assert lines[name].get_xdata()[0] == first["bytes"]
        rate = first["variants"][name]["bytes_per_second"] / 1e9
        assert lines[name].get_ydata()[0] == pytest.approx(rate)
    assert len(lines) == 3  # and the copy of as many bytes
    limit = norms.lines[0].get_ydata()[0]
    assert limit == pytest.approx(content["environment"]["copy_bytes_per_second"] / 1e9)


def test_block_is_stacked_by_node(files: dict[str, Path]) -> None:
    results = json.loads(files["block"].read_text())["results"]
    (axes,) = draw(block_plots.block_plot, files["block"]).axes
    bars = {
        container.get_label(): container for container in axes.containers if hasattr(container, "patches")
    }
    floors = [bars[name] for name in bars if name.startswith("floor, ")]
    assert len(floors) == 9
    for index, result in enumerate(results):
        parts = [part["time_us"]["median"] for part in result["floor"]["parts"].values()]
        assert [floor[index].get_height() for floor in floors] == pytest.approx(parts)
        assert floors[-1][index].get_y() + floors[-1][index].get_height() == pytest.approx(sum(parts))
    ours = [result["variants"]["ours"]["time_us"]["median"] for result in results]
    assert [bar.get_height() for bar in bars["ours (× of the floor)"]] == pytest.approx(ours)
    _, labels = axes.get_legend_handles_labels()
    assert {"eager", "roofline"} <= set(labels)
    assert axes.get_ylabel() == "time, µs"


def test_long_times_are_in_milliseconds(files: dict[str, Path]) -> None:
    results = json.loads(files["block"].read_text())["results"]
    results[0]["variants"]["ours"]["time_us"]["median"] = 20_000
    _, axes = plots.pyplot().subplots()
    block_plots.draw_blocks(axes, results)
    assert axes.get_ylabel() == "time, ms"
    bars = {container.get_label(): container for container in axes.containers}
    assert bars["ours (× of the floor)"][0].get_height() == pytest.approx(20)


def test_speed_ups() -> None:
    def noted(milliseconds: float | None) -> dict[str, Any]:
        return {"wall_ms": milliseconds and {"median": milliseconds}}

    result = {"benchmark": "unet", "model": "sd15", "size": 512, "dtype": "float16"}
    times = {"ours": noted(10), "eager": noted(15), "compile": noted(None)}
    assert speed_up_plots.speed_ups([result | {"variants": times}], "wall_ms") == {
        "sd15 512² float16": {"ours": 1.5}
    }
    del times["eager"]
    assert speed_up_plots.speed_ups([result | {"variants": times}], "wall_ms") == {}


def test_the_title_names_device_and_commit(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.loads(files["block"].read_text())
    content["environment"]["commit"] = "0123456789abcdef-dirty"
    figures = []
    monkeypatch.setattr(plots.pyplot(), "close", figures.append)
    plots.draw(content, files["block"].with_name("titled.png"))
    title = figures[0].get_suptitle()
    assert title.startswith("bench block: " + content["environment"]["device"]["name"])
    assert title.endswith(f"torch {torch.__version__}, commit 0123456789ab-dirty")


def test_what_cannot_be_drawn(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(files["unet"].read_text())
    file = tmp_path / "changed.json"
    for result in content["results"]:
        del result["variants"]["eager"]
    file.write_text(json.dumps(content))
    assert main(["bench", "plot", str(file)]) == 2
    assert "speed-ups over eager, which was not measured" in capsys.readouterr().err
    file.write_text(json.dumps(content | {"benchmark": "overhead"}))
    assert main(["bench", "plot", str(file)]) == 2
    assert "a result of bench overhead has no plot, must be of ops, block" in capsys.readouterr().err
    assert main(["bench", "plot", str(file), "--output", str(tmp_path / "plot.pdf")]) == 2
    assert "must end in .png" in capsys.readouterr().err
    assert main(["bench", "plot", str(file), str(file), "--output", str(tmp_path / "plot.png")]) == 2
    assert "--output names one picture" in capsys.readouterr().err


def test_missing_matplotlib_is_said(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    files: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    plot = ["--plot", str(tmp_path / "plot.png")]
    for arguments in (["ops", "--device", "cpu", *plot], ["plot", str(files["ops"])]):
        assert main(["bench", *arguments]) == 2
        captured = capsys.readouterr()
        assert "plots need the package matplotlib: pip install 'ds_diffusers[bench]'" in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
