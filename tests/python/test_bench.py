"""The benchmarks: what they print and write, what they refuse, and that what they compare is comparable."""

# labels: torch diffusers gpu
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("rich")

from ds_diffusers.__main__ import bench_package, main
from helpers.architectures import make_architectures_small
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

bench_package()

from ds_diffusers.bench import (
    block_sets,
    block_variants,
    hand_composed,
    operators,
    products,
    rates,
    rotation,
    tables,
)
from ds_diffusers.bench.block_shapes import BLOCK_SHAPES, block_shape
from ds_diffusers.bench.operator_cases import OPERATOR_CASES
from ds_diffusers.bench.samples import Samples, total

pytestmark = pytest.mark.diffusers

SMALL = "2x17x32x4x24"
CPU = torch.device("cpu")


def run(name: str, *options: str, file: Path, device: torch.device = CPU, exit_code: int = 0) -> Any:
    """Runs a benchmark on a small case and returns the JSON that it wrote."""
    given = ["bench", name, "--device", str(device), "--rounds", "2", "--json", str(file), *options]
    assert main(given) == exit_code
    return json.loads(file.read_text())


@pytest.fixture
def small_unet(monkeypatch: pytest.MonkeyPatch) -> None:
    make_architectures_small(monkeypatch)


def test_block(device: torch.device, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--shapes", SMALL, "--dtype", "float32,bfloat16", "--peers", "eager"]
    written = run("block", *options, file=tmp_path / "block.json", device=device)
    shown = capsys.readouterr().out
    assert written["benchmark"] == "block"
    assert written["environment"]["device"]["type"] == device.type
    assert written["environment"]["versions"]["torch"] == torch.__version__
    assert [result["dtype"] for result in written["results"]] == ["float32", "bfloat16"]
    for result in written["results"]:
        floor = result["floor"]
        parts = [part["time_us"]["median"] for part in floor["parts"].values()]
        assert floor["time_us"]["median"] > 0
        assert len(parts) == 9
        assert min(parts) > 0
        assert result["ours_over_floor"] > 0
        assert floor["roofline_us"] > 0
        for name in ("ours", "eager", *(["chain"] if device.type == "cuda" else [])):
            assert result["variants"][name]["time_us"]["median"] > 0, name
            assert result["variants"][name]["over_ours"] > 0
        eager, ours = (result["variants"][name] for name in ("eager", "ours"))
        assert ours["error"]["relative"] <= 2 * eager["error"]["relative"]
        for noted in (eager, ours):
            assert (noted["wall_us"] is not None) == (device.type == "cuda")
            assert (noted["enqueue_us"] is not None) == (device.type == "cuda")
            assert (noted["extra_bytes"] is not None) == (device.type == "cuda")
    assert SMALL in shown
    assert "block, bfloat16" in shown


def test_block_compiled(device: torch.device, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--shapes", SMALL, "--dtype", "float32", "--peers", "compile,hand-composed"]
    (result,) = run("block", *options, file=tmp_path / "block.json", device=device)["results"]
    for name in ("compile", "hand-composed"):
        noted = result["variants"][name]
        assert noted["failure"] is None
        assert noted["time_us"]["median"] > 0
        assert noted["first_call_seconds"] > 0
        assert noted["error"]["relative"] < 1e-5
    assert "hand-composed" in capsys.readouterr().out


def test_block_of_our_other_variants(device: torch.device, tmp_path: Path) -> None:
    options = ["--shapes", SMALL, "--dtype", "float32", "--peers", "eager,int8,kept-prompt"]
    (result,) = run("block", *options, file=tmp_path / "block.json", device=device)["results"]
    variants = result["variants"]
    for name in ("int8", "kept-prompt"):
        assert variants[name]["failure"] is None
        assert variants[name]["time_us"]["median"] > 0
        assert variants[name]["over_ours"] > 0
    assert variants["kept-prompt"]["error"]["relative"] <= 2 * variants["eager"]["error"]["relative"]
    assert variants["int8"]["error"]["relative"] < 0.01


def test_unet(
    device: torch.device, tmp_path: Path, capsys: pytest.CaptureFixture[str], small_unet: None
) -> None:
    options = ["--models", "sd15", "--size", "64", "--dtype", "float32", "--peers", "eager"]
    (result,) = run("unet", *options, file=tmp_path / "unet.json", device=device)["results"]
    assert result["blocks"] == 4
    for name in ("ours", "eager"):
        step = result["variants"][name]
        assert step["wall_ms"]["median"] > 0
        assert (step["time_ms"] is not None) == (device.type == "cuda")
    assert result["variants"]["eager"]["difference_from_eager"]["relative"] == 0
    assert 0 < result["variants"]["ours"]["difference_from_eager"]["relative"] < 1e-2
    assert "sd15 64² float32: ours" in capsys.readouterr().out


def test_ops(device: torch.device, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--ops", ",".join(OPERATOR_CASES), "--shapes", "2x17x33", "--dtype", "bfloat16"]
    options += ["--peers", "eager"]
    written = run("ops", *options, file=tmp_path / "ops.json", device=device)
    assert written["environment"]["copy_bytes_per_second"] > 0
    assert written["environment"]["gemm_operations_per_second"]["bfloat16"] > 0
    assert [result["case"] for result in written["results"]] == list(OPERATOR_CASES)
    for result in written["results"]:
        ours, eager = (result["variants"][name] for name in ("ours", "eager"))
        assert ours["error"]["relative"] <= 2 * eager["error"]["relative"]
        assert ours["time_us"]["median"] > 0
        assert result["share_of_floor"] > 0
        assert result["floor"]["roofline_us"] > 0
        assert (ours["wall_us"] is not None) == (device.type == "cuda")
        assert (ours["extra_bytes"] is not None) == (device.type == "cuda")
    elements = 2 * 17 * 33
    moved = {result["case"]: result["bytes"] for result in written["results"]}
    assert moved["layer_norm"] == 2 * (2 * elements + 2 * 33)
    assert moved["layer_norm_residual"] == 2 * (4 * elements + 3 * 33)
    assert moved["gated_activation"] == 2 * (12 * elements + 8 * 33)
    assert moved["gated_linear"] == 2 * (elements + 8 * 33 * 33 + 8 * 33 + 4 * elements)
    by_case = {result["case"]: result for result in written["results"]}
    assert by_case["gated_linear"]["operations"] == 2 * elements * 8 * 33
    assert by_case["gated_linear"]["floor"]["of"] == "product"
    eager, in_two = (by_case["gated_linear"]["variants"][name] for name in ("eager", "ours, in two"))
    assert in_two["time_us"]["median"] > 0
    assert in_two["error"]["relative"] <= 2 * eager["error"]["relative"]
    assert by_case["layer_norm"]["floor"]["of"] == "copy"
    shown = capsys.readouterr().out
    assert "layer_norm 2x17x33" in shown
    assert "first call" in shown


def test_every_operator_has_a_case() -> None:
    registered = [
        name.removeprefix("ds_diffusers::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("ds_diffusers::")
    ]
    measured = {case.operator for case in OPERATOR_CASES.values()}
    assert measured | {"block_forward"} == set(registered)
    assert "gated_linear" in operators.DEFAULT_CASES


def test_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--ops", "bias_add,gated_linear", "--shapes", "2x3x8", "--blocks", SMALL]
    file = tmp_path / "cpu.json"
    assert main(["bench", "cpu", "--rounds", "2", "--json", str(file), *options]) == 0
    results = json.loads(file.read_text())["results"]
    assert [(result["benchmark"], result["dtype"]) for result in results] == [
        *(("ops", dtype) for dtype in ("float32", "float32", "bfloat16", "bfloat16")),
        *(("block", dtype) for dtype in ("float32", "bfloat16")),
    ]
    for result in results:
        assert result["variants"]["eager"]["over_ours"] > 0
    shown = capsys.readouterr().out
    assert "operators, bfloat16: time on the clock" in shown
    assert "block, float32: time on the clock" in shown


def test_rates_give_the_roofline() -> None:
    measured = rates.Rates(100.0, {torch.float32: 1000.0})
    assert measured.seconds(300, 2000, torch.float32) == 3
    assert measured.seconds(100, 2000, torch.float32) == 2


def test_rates_are_shown_in_thousands() -> None:
    assert tables.per_second(3.123e12, "B") == "3.12 TB/s"
    assert tables.per_second(999.4, "B") == "999 B/s"
    assert tables.per_second(999.6e9, "op") == "1 Top/s"


def test_ops_compiled(tmp_path: Path) -> None:
    options = ["--ops", "bias_add", "--shapes", "2x3x8", "--dtype", "float32", "--peers", "compile"]
    (result,) = run("ops", *options, file=tmp_path / "ops.json")["results"]
    assert result["variants"]["compile"]["time_us"]["median"] > 0
    assert result["variants"]["compile"]["first_call_seconds"] > 0


def test_overhead(device: torch.device, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--dtype", "float32", "--ops", "layer_norm,bias_add,block_forward"]
    results = run("overhead", *options, file=tmp_path / "overhead.json", device=device)["results"]
    assert [result["case"] for result in results] == ["layer_norm", "bias_add", "block_forward"]
    for result in results:
        assert set(result["wall_us"]) == {"operator", "overload", "function", "PyTorch"}
        assert set(result["enqueue_us"]) == (set(result["wall_us"]) if device.type == "cuda" else set())
        assert result["over_pytorch"]["operator"] > 0
    assert "block_forward" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "BENCHMARK"),
        (["walk"], "walk"),
        (["block", "--shapes", "sdxl"], "a shape is sdxl, must be one of sdxl-4096"),
        (["block", "--shapes", "2x17x30x4x24"], "channels must be a multiple of its heads"),
        (["block", "--dtype", "float8"], "--dtype has float8, must be of float16"),
        (["block", "--peers", "eager,fast"], "--peers has fast, must be of eager"),
        (["block", "--device", "meta"], "--device is meta, must be cpu, cuda or cuda:N"),
        (["block", "--device", "cuda:64"], "--device is cuda:64, but PyTorch finds"),
        (["block", "--rounds", "0"], "--rounds is 0, must be at least 1"),
        (["block", "--json", "missing/block.json"], "its folder does not exist"),
        (["block", "--plot", "missing/block.png"], "its folder does not exist"),
        (["unet", "--plot", "unet.pdf"], "--plot is unet.pdf, must end in .png"),
        (["unet", "--size", "60"], "--size is 60, must be a multiple of 8"),
        (["unet", "--models", "sd9"], "--models has sd9, must be of sd15"),
        (["ops", "--ops", ""], "--ops has an empty name"),
        (["ops", "--shapes", "2x3"], "a shape is 2x3, must be BATCHxTOKENSxCHANNELS"),
    ],
)
def test_wrong_options(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    if arguments and "--device" not in arguments:
        arguments = [*arguments, "--device", "cpu"]
    assert main(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.out == ""


def test_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("block", "unet", "ops"):
        assert main(["bench", name]) == 2
        assert "PyTorch finds no GPU here; --device cpu" in capsys.readouterr().err


def test_missing_rich_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    assert main(["bench", "overhead", "--device", "cpu"]) == 2
    assert "need the package rich: pip install 'ds_diffusers[bench]'" in capsys.readouterr().err


def test_failing_peer_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("cannot be composed")

    monkeypatch.setattr(block_variants, "hand_composed", fail)
    options = ["--shapes", SMALL, "--dtype", "float32", "--peers", "hand-composed"]
    (result,) = run("block", *options, file=tmp_path / "block.json", exit_code=1)["results"]
    assert result["variants"]["hand-composed"]["failure"] == "RuntimeError: cannot be composed"
    assert result["variants"]["ours"]["time_us"]["median"] > 0
    captured = capsys.readouterr()
    assert "failed" in captured.out
    assert "cannot be composed" in captured.err


@pytest.mark.parametrize("text", [SMALL, "1x1x8x1x8", "3x64x48x2x20"])
def test_floor_counts_the_operations_of_the_block(text: str) -> None:
    shape = block_shape(text)
    each = block_sets.make_set(shape, torch.float32, CPU)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        each.original(each.hidden_states, encoder_hidden_states=each.context)
    parts = products.block_parts(shape).values()
    assert sum(part.operations for part in parts) == counter.get_total_flops()


def test_floor_of_the_largest_block() -> None:
    parts = products.block_parts(BLOCK_SHAPES["sdxl-4096"])
    assert parts["attn1_qkv"] == products.Product(8192, 1920, 640)
    assert parts["attn2_kv"] == products.Product(154, 1280, 2048)
    assert parts["ff_in"] == products.Product(8192, 5120, 640)
    assert parts["ff_out"].elements == 8192 * 2560 + 640 * 2560 + 8192 * 640
    assert parts["attn1"].elements == 4 * 8192 * 640
    assert parts["attn2"].elements == 2 * 8192 * 640 + 2 * 154 * 640


@torch.no_grad()
def test_hand_composed_computes_the_block() -> None:
    shape = block_shape(SMALL)
    each = block_sets.make_set(shape, torch.float64, CPU)
    names = ("norm", "biased_norm_and_sum", "norm_and_sum", "gated")
    pieces = hand_composed.Pieces(*(getattr(hand_composed, name) for name in names))
    backends = {"attn1": "default", "attn2": "default"}
    call = hand_composed.hand_composed(shape, each.original, pieces, backends)
    expected = each.original(each.hidden_states, encoder_hidden_states=each.context)
    torch.testing.assert_close(call(each.hidden_states, each.context), expected)
    torch.testing.assert_close(block_sets.reference(each), expected)


def test_sets_have_tensors_of_their_own() -> None:
    sets = block_sets.make_sets(block_shape(SMALL), torch.float32, CPU)
    assert len(sets) == block_sets.MOST_SETS
    first, second = sets[:2]
    for block in (first.original, first.patched):
        others = [second.original.state_dict(), second.patched.state_dict()]
        for name, tensor in block.state_dict().items():
            for other in others:
                assert tensor.data_ptr() != other[name].data_ptr()
                assert not torch.equal(tensor, other[name])
    for name, tensor in first.patched.state_dict().items():
        assert torch.equal(tensor, first.original.state_dict()[name])
    assert not torch.equal(first.hidden_states, second.hidden_states)
    weights = [layer.weight for layer in (first.patched.attn1.to_q, first.patched.attn1.to_k)]
    assert weights[0].data_ptr() + weights[0].nbytes == weights[1].data_ptr()


def test_sets_exceed_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "cache_bytes", lambda device: 50 << 20)
    assert rotation.set_count(10 << 20, CPU) == 20
    assert rotation.set_count(1 << 40, CPU) == 2
    assert rotation.set_count(1, CPU) == 128


def test_copies_move_the_bytes() -> None:
    source, result = rates.copies(8000, 1, CPU)[0].args[0], rates.copies(8000, 1, CPU)[0]()
    assert source.nbytes + result.nbytes == 8000


def test_samples() -> None:
    samples = Samples((4.0, 1.0, 2.0, 3.0, 5.0))
    assert samples.median == 3
    assert samples.quartiles == (2, 4)
    assert samples.spread == pytest.approx(2 / 3)
    assert samples.over(Samples((2.0, 1.0, 1.0, 1.0, 1.0))) == 2  # 2, 1, 2, 3, 5
    assert total([samples, samples]).values == (8, 2, 4, 6, 10)
    assert Samples((7.0,)).quartiles == (7, 7)
    assert samples.as_json(1e3) == {
        "median": 3000,
        "lower_quartile": 2000,
        "upper_quartile": 4000,
        "count": 5,
    }


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "a command is missing" in capsys.readouterr().err
    assert main(["walk"]) == 2
    assert "walk is no command, must be one of bench, demo, export, info, report" in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "bench" in capsys.readouterr().out
    assert main(["demo", "--steps", "0", "--device", "cpu"]) == 2
    assert "--steps is 0" in capsys.readouterr().err
    assert main(["info"]) == 0
    assert torch.__version__ in capsys.readouterr().out
    assert main(["info", "all"]) == 2
