"""int8 weights: the quantiser against its formula in float64, the layer, and models with it."""

# labels: torch diffusers gpu
import copy
import io
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ds_diffusers
from cases import Maker, block_forward, layouts
from ds_diffusers.quantization import Int8Linear, dequantize_rows, quantize_rows
from helpers.accuracy import Errors
from helpers.operators import every_dtype

SIZES = ((1, 1), (3, 5), (7, 16), (16, 7), (40, 64), (65, 129), (128, 1280))


def grouped(weight: Tensor, groups_per_row: int = 1, rows_per_group: int = 1) -> Tensor:
    """[groups, elements of a group]"""
    return weight.reshape(weight.shape[0] * groups_per_row // rows_per_group, -1)


def check_quantized(weight: Tensor, groups_per_row: int = 1, rows_per_group: int = 1) -> None:
    """Compares quantize_rows with its formula in float64."""
    quantized, scale = quantize_rows(weight, groups_per_row, rows_per_group)
    rows = weight.shape[0]
    assert quantized.dtype == torch.int8 and quantized.shape == weight.shape and quantized.is_contiguous()
    assert scale.dtype == torch.float32 and scale.is_contiguous()
    assert scale.shape == ((rows,) if groups_per_row == 1 else (rows, groups_per_row))
    assert quantized.device == scale.device == weight.device

    exact = grouped(weight.double(), groups_per_row, rows_per_group)
    exact_scale = exact.abs().amax(dim=1) * 2 / 256
    assert torch.equal(scale.flatten()[::rows_per_group].double(), exact_scale)
    quotient = exact / exact_scale.unsqueeze(1)
    found = grouped(quantized, groups_per_row, rows_per_group).double()
    # Where the quotient is half-way between two integers, its rounding to float32 may decide.
    undecided = (quotient - quotient.floor() - 0.5).abs() < 1e-4
    assert torch.equal(found[~undecided], quotient.round().clamp(-128, 127)[~undecided])
    assert ((found - quotient).abs() <= torch.where(quotient > 127, 1.0, 0.5 + 1e-4)).all()


@every_dtype
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_rows_follow_the_formula(sizes: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    for scale in (1e-3, 0.02, 30.0):
        check_quantized((torch.randn(sizes) * scale).to(device, dtype))


@every_dtype
def test_groups_follow_the_formula(dtype: torch.dtype, device: torch.device) -> None:
    weight = torch.randn(12, 40).to(device, dtype)
    for groups_per_row in (2, 5, 8, 40):
        check_quantized(weight, groups_per_row)
    for rows_per_group in (2, 3, 12):
        check_quantized(weight, 1, rows_per_group)


@pytest.mark.parametrize(
    "layout", [*layouts.ROWS.values(), *layouts.VECTORS.values()], ids=lambda layout: layout.__name__
)
def test_weights_can_have_any_strides(layout: layouts.Layout) -> None:
    weight = layout(torch.randn(6, 20))
    check_quantized(weight)
    check_quantized(weight, 4)


def test_ends_of_the_range() -> None:
    weight = torch.tensor([[-1.0, 1.0, 0.99, -0.5, 0.5 / 128, 1.5 / 128, 0.0]])
    quantized, scale = quantize_rows(weight)
    assert scale.tolist() == [1 / 128]
    assert quantized.tolist() == [[-128, 127, 127, -64, 0, 2, 0]]


@every_dtype
def test_zero_rows_stay_zero(dtype: torch.dtype, device: torch.device) -> None:
    weight = torch.randn(5, 24).to(device, dtype)
    weight[1] = 0.0
    weight[3] = -0.0
    quantized, scale = quantize_rows(weight)
    assert scale[[1, 3]].tolist() == [1.0, 1.0]
    assert not quantized[[1, 3]].any()
    assert not dequantize_rows(quantized, scale)[[1, 3]].any()
    others = [0, 2, 4]
    expected, expected_scale = quantize_rows(weight[others])
    assert torch.equal(quantized[others], expected) and torch.equal(scale[others], expected_scale)


def test_numbers_too_small_for_a_scale_become_zeros() -> None:
    tiny = torch.finfo(torch.float32).tiny * torch.finfo(torch.float32).eps
    quantized, scale = quantize_rows(torch.tensor([[tiny, -tiny], [1.0, tiny]]))
    assert scale.tolist() == [1.0, 1 / 128]
    assert quantized.tolist() == [[0, 0], [127, 0]]


def test_the_largest_numbers_do_not_overflow() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        largest = torch.finfo(dtype).max
        quantized, scale = quantize_rows(torch.tensor([[largest, -largest]], dtype=dtype))
        assert quantized.tolist() == [[127, -128]]
        assert dequantize_rows(quantized, scale, dtype)[0, 1] == -largest


@every_dtype
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_refused(value: float, dtype: torch.dtype, device: torch.device) -> None:
    weight = torch.randn(4, 6).to(device, dtype)
    weight[2, 5] = value
    for groups in ((1, 1), (3, 1), (1, 2)):
        with pytest.raises(ValueError) as raised:
            quantize_rows(weight, *groups)
        assert str(raised.value) == f"weight[2, 5] is {value}, must be finite"


def test_empty_weights() -> None:
    for sizes in ((0, 4), (3, 0)):
        quantized, scale = quantize_rows(torch.empty(sizes))
        assert quantized.shape == sizes and scale.tolist() == [1.0] * sizes[0]
        assert dequantize_rows(quantized, scale).shape == sizes


def test_wrong_weights_and_groups_are_refused() -> None:
    weight = torch.randn(4, 6)
    for wrong, message in (
        (weight.double(), "weight is torch.float64, torch.strided, must be float32, float16 or bfloat16, "),
        (weight.char(), "weight is torch.int8, torch.strided, must be"),
        (weight.to_sparse(), "weight is torch.float32, torch.sparse_coo, must be"),
        (weight[0], r"weight has shape \[6\], must be \[N, K\]"),
        (weight.unsqueeze(0), r"weight has shape \[1, 4, 6\], must be \[N, K\]"),
        (weight.to("meta"), "weight is on meta, must have values"),
        (nn.UninitializedParameter(), "weight is UninitializedParameter, must be a plain tensor"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            quantize_rows(wrong)
    for groups_per_row in (0, -1, 4, 12):
        with pytest.raises(ValueError, match=f"groups_per_row is {groups_per_row}, must be a divisor of"):
            quantize_rows(weight, groups_per_row)
    for rows_per_group in (0, -1, 3, 8):
        with pytest.raises(ValueError, match=f"rows_per_group is {rows_per_group}, must be a divisor of"):
            quantize_rows(weight, 1, rows_per_group)
    with pytest.raises(ValueError, match="groups_per_row is 2 and rows_per_group 2, one of them must be 1"):
        quantize_rows(weight, 2, 2)


@every_dtype
@pytest.mark.parametrize("groups", [1, 4])
def test_dequantized_weights_are_what_the_operator_uses(
    groups: int, dtype: torch.dtype, device: torch.device
) -> None:
    quantized, scale = quantize_rows(torch.randn(10, 24).to(device), groups)
    exact = (grouped(quantized.double(), groups) * scale.double().reshape(-1, 1)).view(10, 24)
    found = dequantize_rows(quantized, scale, dtype)
    assert found.dtype == dtype and found.is_contiguous()
    expected = exact.float().to(dtype)
    torch.testing.assert_close(found, expected, rtol=torch.finfo(dtype).eps, atol=0.0)


@every_dtype
@pytest.mark.parametrize("groups", [0, 2])
def test_operator_takes_any_scale(groups: int, dtype: torch.dtype, device: torch.device) -> None:
    """Of one output feature of the second layer, which is a channel of the result."""
    block = block_forward.Block(ff_in_groups=groups, ff_out_groups=groups)
    arguments = block_forward.arguments(Maker.seeded(dtype, device), block)
    run = torch.ops.ds_diffusers.block_forward

    def with_scale(value: float, feature: int = 5) -> Tensor:
        scale = arguments["ff_out_scale"].clone()
        scale[feature] = value
        return run(**arguments | {"ff_out_scale": scale})

    others = [channel for channel in range(block.channels) if channel != 5]
    expected = run(**arguments)
    for value in (math.inf, -math.inf, math.nan):
        result = with_scale(value)
        assert not result[..., 5].isfinite().any()
        assert torch.equal(result[..., others], expected[..., others])
    without_row = arguments["ff_out_weight"].clone()
    without_row[5] = 0
    zeros = run(**arguments | {"ff_out_weight": without_row})
    for result in (with_scale(0.0), zeros):
        assert torch.equal(result[..., others], expected[..., others])
        torch.testing.assert_close(result[..., 5], zeros[..., 5], rtol=0.0, atol=0.0)


def make_layer(groups_per_row: int = 1, dtype: torch.dtype = torch.float32) -> Int8Linear:
    return Int8Linear.from_linear(nn.Linear(24, 10).to(dtype), groups_per_row)


@every_dtype
def test_layer_computes_with_the_dequantized_weight(dtype: torch.dtype, device: torch.device) -> None:
    for groups in (1, 3):
        layer = make_layer(groups).to(device, dtype)
        inputs = torch.randn(2, 3, 24).to(device, dtype)
        expected = F.linear(inputs, dequantize_rows(layer.weight, layer.scale, dtype), layer.bias)
        assert torch.equal(layer(inputs), expected)
        assert torch.equal(layer.to_linear(dtype)(inputs), expected)


def test_layer_passes_gradients_to_its_input() -> None:
    layer = make_layer()
    inputs = torch.randn(3, 24, requires_grad=True)
    layer(inputs).sum().backward()
    expected = dequantize_rows(layer.weight, layer.scale).sum(dim=0).expand(3, 24)
    torch.testing.assert_close(inputs.grad, expected)
    assert layer.bias.grad is not None and layer.weight.grad is None


def test_casting_a_layer_leaves_weight_and_scale() -> None:
    layer = make_layer(3)
    scale = layer.scale.clone()
    for change in (
        lambda: layer.half(),
        lambda: layer.to(torch.bfloat16),
        lambda: layer.double(),
        lambda: layer.to("cpu", torch.float16),
    ):
        change()
        assert layer.weight.dtype == torch.int8 and layer.scale.dtype == torch.float32
        assert torch.equal(layer.scale, scale)
        assert isinstance(layer.scale, nn.Parameter) and not layer.scale.requires_grad
    assert layer.bias.dtype == torch.float16
    assert layer.to("meta").scale.is_meta


def test_state_of_a_layer() -> None:
    layer, other = make_layer(3), make_layer(3)
    state = layer.state_dict()
    assert list(state) == ["weight", "scale", "bias"]
    other.load_state_dict(state)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    inputs = torch.randn(3, 24)
    for copied in (
        other,
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(file, weights_only=False),
    ):
        assert torch.equal(copied(inputs), layer(inputs))
    assert repr(layer) == "Int8Linear(in_features=24, out_features=10, bias=True, groups_per_row=3)"


def test_other_weights_than_int8_are_not_loaded_into_a_layer() -> None:
    layer = make_layer()
    before = layer.weight.clone()
    for strict in (True, False):
        with pytest.raises(RuntimeError, match="weight has dtype torch.float32, must be torch.int8"):
            nn.Sequential(layer).load_state_dict({"0.weight": torch.randn(10, 24)}, strict=strict)
    assert torch.equal(layer.weight, before)


diffusers = pytest.mark.diffusers


def quantized_block(dtype: torch.dtype = torch.float32, groups_per_row: int = 1, **config) -> nn.Module:
    from helpers.unets import make_block

    return ds_diffusers.quantize(make_block(**config).to(dtype), groups_per_row)


def tensor_bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@diffusers
def test_memory_of_the_weights_halves() -> None:
    from helpers.unets import make_block

    block = make_block().half()
    before = [block.ff.net[0].proj.weight, block.ff.net[2].weight]
    rows = sum(weight.shape[0] for weight in before)
    whole = tensor_bytes(*block.parameters())
    ds_diffusers.quantize(block)
    after = [block.ff.net[0].proj, block.ff.net[2]]
    assert [type(layer) for layer in after] == [Int8Linear, Int8Linear]
    assert tensor_bytes(*(layer.weight for layer in after)) * 2 == tensor_bytes(*before)
    assert whole - tensor_bytes(*block.parameters()) == tensor_bytes(*before) // 2 - 4 * rows
    storages = {parameter.untyped_storage().data_ptr() for parameter in block.parameters()}
    assert not storages & {weight.untyped_storage().data_ptr() for weight in before}


@diffusers
@every_dtype
@pytest.mark.parametrize(("tokens", "groups"), [(1, 1), (10, 1), (65, 1), (10, 4)])
def test_patched_blocks_run_fused(
    tokens: int, groups: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Errors are those against the quantised block in float64."""
    from helpers.unets import block_arguments

    block = quantized_block(dtype, groups).to(device)
    original, reference = copy.deepcopy(block), copy.deepcopy(block).double()
    ds_diffusers.patch(block)
    errors = Errors()
    with torch.no_grad():
        for seed in range(4):
            arguments = block_arguments(block, seed, tokens)
            exact = {name: value.double() for name, value in arguments.items()}
            errors.add(block(**arguments), original(**arguments), reference(**exact))
    errors.check(dtype, "result")
    report = ds_diffusers.report(block)
    assert (report[0].path, report[0].reason, report[0].fused_calls) == ("block_forward", "", 4)


@diffusers
def test_error_is_that_of_the_quantization() -> None:
    """The quantised block differs from the one that it was made of by no more than its weights explain."""
    from helpers.unets import block_arguments, make_block

    block = make_block()
    arguments = block_arguments(block)
    with torch.no_grad():
        expected = block(**arguments)
        found = ds_diffusers.patch(ds_diffusers.quantize(block))(**arguments)
    error = float((found - expected).norm() / expected.norm())
    assert 1e-5 < error < 0.01, error


@diffusers
@pytest.mark.parametrize("only", ["ff.net.0", "ff.net"])
def test_one_quantized_layer_is_enough(only: str) -> None:
    from helpers.unets import block_arguments, make_block

    block = make_block()
    parent = block.get_submodule(only)
    name = "proj" if only == "ff.net.0" else "2"
    parent._modules[name] = Int8Linear.from_linear(parent._modules[name])
    arguments = block_arguments(block)
    with torch.no_grad():
        expected = block(**arguments)
        torch.testing.assert_close(ds_diffusers.patch(block)(**arguments), expected)
    assert ds_diffusers.report(block).fused == 1
    ds_diffusers.quantize(block)
    assert type(block.ff.net[0].proj) is type(block.ff.net[2]) is Int8Linear


@diffusers
def test_quick_look_knows_quantized_blocks() -> None:
    from ds_diffusers.quick_look import quick_arguments
    from helpers.unets import block_arguments

    block = ds_diffusers.patch(quantized_block())
    arguments = block_arguments(block)
    with torch.no_grad():
        found, _ = quick_arguments(block, arguments["hidden_states"], arguments["encoder_hidden_states"])
    assert found["ff_in_scale"] is block.ff.net[0].proj.scale
    assert found["ff_out_weight"] is block.ff.net[2].weight


@diffusers
def test_quantized_models_work_in_every_graph() -> None:
    from helpers.unets import block_arguments

    block = ds_diffusers.patch(quantized_block())
    arguments = block_arguments(block)
    values = tuple(arguments.values())
    names = list(arguments)

    class Positional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = block

        def forward(self, *given: Tensor) -> Tensor:
            return self.block(**dict(zip(names, given)))

    with torch.no_grad():
        expected = block(**arguments)
        compiled = torch.compile(Positional(), fullgraph=True, backend="aot_eager")(*values)
        traced = torch.jit.freeze(torch.jit.trace(Positional().eval(), values))
        exported = torch.export.export(Positional(), values).module()
        for result in (compiled, traced(*values), exported(*values)):
            assert torch.equal(result, expected)
    assert "block_forward" in str(traced.inlined_graph)


@diffusers
def test_quantized_unet_saves_and_loads() -> None:
    from helpers.unets import run_unet, sd15_unet, unet_arguments

    unet, other = (ds_diffusers.quantize(sd15_unet()) for _ in range(2))
    arguments = unet_arguments(unet)
    with torch.no_grad():
        expected = run_unet(unet, arguments)
        other.load_state_dict(unet.state_dict())
        assert torch.equal(run_unet(other, arguments), expected)
        fused = run_unet(ds_diffusers.patch(other), arguments)
    torch.testing.assert_close(fused, expected, rtol=1e-4, atol=1e-4)
    assert ds_diffusers.report(other).fused == len(ds_diffusers.report(other)) > 1
    with pytest.raises(RuntimeError, match="must be torch.int8: the model is quantised"):
        other.load_state_dict(sd15_unet().state_dict())


@diffusers
def test_dequantize_gives_linear_layers_back() -> None:
    from helpers.unets import block_arguments

    block = quantized_block(torch.float16)
    arguments = block_arguments(block)
    biases = [block.ff.net[0].proj.bias, block.ff.net[2].bias]
    with torch.no_grad():
        expected = block(**arguments)
        assert ds_diffusers.dequantize(block, torch.float16) is block
        assert torch.equal(block(**arguments), expected)
    layers = [block.ff.net[0].proj, block.ff.net[2]]
    assert [type(layer) for layer in layers] == [nn.Linear, nn.Linear]
    assert [layer.bias for layer in layers] == biases
    assert not any(layer.training for layer in layers)


@diffusers
def test_quantize_changes_nothing_where_it_fails() -> None:
    from helpers.unets import make_block

    class Adapter(nn.Linear):
        pass

    def with_adapter(block: nn.Module) -> None:
        block.ff.net[2] = Adapter(*reversed(block.ff.net[2].weight.shape))

    def with_infinity(block: nn.Module) -> None:
        with torch.no_grad():
            block.ff.net[2].weight[3, 4] = math.inf

    def on_meta(block: nn.Module) -> None:
        block.ff.net[2].to("meta")

    for spoil, message in (
        (with_adapter, r"^ff\.net\.2 is .*Adapter, must be torch\.nn\.Linear$"),
        (with_infinity, r"^ff\.net\.2: weight\[3, 4\] is inf, must be finite$"),
        (on_meta, r"^ff\.net\.2: weight is on meta, must have values"),
    ):
        block = make_block()
        spoil(block)
        first = block.ff.net[0].proj
        with pytest.raises((TypeError, ValueError), match=message):
            ds_diffusers.quantize(block)
        assert block.ff.net[0].proj is first
    with pytest.raises(ValueError, match=r"^ff\.net\.0\.proj: groups_per_row is 5, must be a divisor of"):
        ds_diffusers.quantize(make_block(), groups_per_row=5)


@diffusers
def test_quantize_wants_a_model_with_blocks() -> None:
    with pytest.warns(UserWarning, match="Linear has no BasicTransformerBlock"):
        ds_diffusers.quantize(nn.Linear(2, 3))
    for function in (ds_diffusers.quantize, lambda model: ds_diffusers.dequantize(model, torch.float32)):
        with pytest.raises(TypeError, match="model is of type list, must be"):
            function([])


@diffusers
def test_obstacles_of_quantized_layers() -> None:
    from helpers.unets import block_arguments

    def with_hook(block: nn.Module) -> None:
        block.ff.net[2].register_forward_hook(lambda *arguments: None)

    def with_another_scale(block: nn.Module) -> None:
        block.ff.net[2].scale.data = block.ff.net[2].scale.half()

    def with_another_weight(block: nn.Module) -> None:
        block.ff.net[2].weight.data = block.ff.net[2].weight.short()

    def without_contiguous_scale(block: nn.Module) -> None:
        scale = block.ff.net[2].scale
        scale.data = torch.stack([scale, scale], dim=1)[:, 0]

    for spoil, reason in (
        (with_hook, "ff.net.2 has hooks"),
        (with_another_scale, "ff.net.2.scale has dtype torch.float16, not torch.float32"),
        (with_another_weight, "ff.net.2.weight has dtype torch.int16, not torch.int8"),
        (without_contiguous_scale, "ff.net.2.scale is not contiguous"),
    ):
        block = quantized_block()
        spoil(block)
        arguments = block_arguments(block)
        with torch.no_grad():
            expected = block(**arguments)
            result = ds_diffusers.patch(block)(**arguments)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
        report = ds_diffusers.report(block)[0]
        assert (report.path, report.reason) == ("segments", reason)
