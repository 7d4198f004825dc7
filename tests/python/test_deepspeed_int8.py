"""int8 weights in ds_diffusers.deepspeed: its block and GroupQuantizer."""

# labels: torch diffusers gpu

import copy
import io
import pickle

import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")

import ds_diffusers
from ds_diffusers.deepspeed import DeepSpeedDiffusersTransformerBlock, GroupQuantizer
from ds_diffusers.quantization import dequantize_rows, quantize_rows
from helpers.accuracy import Errors
from helpers.deepspeed import (
    IN_ONE,
    INT8,
    NO_INT8,
    WAYS,
    as_block,
    operators_of,
    with_deepspeed_attentions,
    with_hooks,
)
from helpers.operators import every_dtype
from helpers.unets import block_arguments, make_block

pytestmark = pytest.mark.diffusers


@every_dtype
@pytest.mark.parametrize("way", WAYS)
def test_int8_block(way: str, dtype: torch.dtype, device: torch.device) -> None:
    """Errors are those against the quantised block in float64."""
    make = WAYS[way][0]
    original = make_block().to(device, dtype)
    quantized = ds_diffusers.quantize(copy.deepcopy(original))
    reference = copy.deepcopy(quantized).double()
    source = make(original)
    block = DeepSpeedDiffusersTransformerBlock(
        with_deepspeed_attentions(original) if "deepspeed" in way else copy.deepcopy(original), INT8
    )
    if "parts" in way:
        with_hooks(block)
    for name, layer in (("ff1_w", quantized.ff.net[0].proj), ("ff2_w", quantized.ff.net[2])):
        weight = getattr(block, name)
        assert weight.dtype == torch.int8 and torch.equal(weight, layer.weight)
        assert weight.scale.dtype == torch.float32 and torch.equal(weight.scale[:, 0], layer.scale)
    errors = Errors()
    with torch.no_grad():
        for seed, tokens in enumerate((10, 1, 65)):
            arguments = block_arguments(original, seed, tokens)
            exact = {name: value.double() for name, value in arguments.items()}
            errors.add(block(**arguments), quantized(**arguments), reference(**exact))
        errors.check(dtype, "result")
        found, whole = block(**arguments).float(), source(**arguments).float()
    assert 1e-5 < float((found - whole).norm() / whole.norm()) < 0.01
    assert (operators_of(lambda: block(**arguments)) == IN_ONE) == ("parts" not in way)
    assert block.quantizer.q_int8 and block.config is INT8


def test_int8_layers_and_weights_are_taken_as_they_are() -> None:
    original = make_block()
    arguments = block_arguments(original)
    quantized = ds_diffusers.quantize(copy.deepcopy(original), groups_per_row=4)
    block = DeepSpeedDiffusersTransformerBlock(quantized, NO_INT8)
    assert block.ff1_w.scale.shape == (block.ff1_w.shape[0], 4)
    with torch.no_grad():
        torch.testing.assert_close(block(**arguments), quantized(**arguments), rtol=1e-4, atol=1e-4)

    float_weight = original.ff.net[0].proj.weight.data
    rows = len(float_weight)
    for quantizer in (GroupQuantizer(), GroupQuantizer(group_size=4), GroupQuantizer(num_groups=4 * rows)):
        block = as_block(original)
        block.ff1_w = quantizer.quantize(float_weight)
        groups = max(1, len(block.ff1_w.scale) // rows)
        stands_for = block.ff1_w.view(len(block.ff1_w.scale), -1) * block.ff1_w.scale
        expected = copy.deepcopy(original)
        expected.ff.net[0].proj.weight.data = stands_for.view(rows, -1)
        assert block.feed_forward_scale("ff1_w").shape == ((rows, groups) if groups > 1 else (rows,))
        for changed in (block, with_hooks(copy.deepcopy(block))):
            with torch.no_grad():
                torch.testing.assert_close(changed(**arguments), expected(**arguments), rtol=1e-4, atol=1e-4)
    block.ff1_w = nn.Parameter(float_weight, requires_grad=False)
    assert block.feed_forward_scale("ff1_w") is None
    with torch.no_grad():
        torch.testing.assert_close(block(**arguments), original(**arguments), rtol=1e-5, atol=1e-5)
    block.ff1_w = nn.Parameter(float_weight.char(), requires_grad=False)
    with pytest.raises(
        RuntimeError, match="ff1_w is int8 without a scale, must be assigned as GroupQuantizer"
    ):
        block(**arguments)
    with pytest.raises(
        ValueError, match="ff1_w.scale has 3 groups, must have a multiple or a divisor of the"
    ):
        block.ff1_w = GroupQuantizer(num_groups=3).quantize(torch.randn(256, 3 * 11))


def test_int8_block_keeps_its_scales() -> None:
    original = make_block()
    arguments = block_arguments(original)
    block = DeepSpeedDiffusersTransformerBlock(original, INT8)
    with torch.no_grad():
        expected = block(**arguments)
    scales = {name: getattr(block, name).scale.clone() for name in ("ff1_w", "ff2_w")}
    file = io.BytesIO()
    torch.save(block, file)
    file.seek(0)
    other = DeepSpeedDiffusersTransformerBlock(make_block(), INT8)
    assigned = DeepSpeedDiffusersTransformerBlock(make_block(), INT8)
    state = block.state_dict()
    assert state["ff1_w"].dtype == torch.int8 and state["ff1_w_scale"].dtype == torch.float32
    assert "ff1_w_scale" not in as_block(make_block()).state_dict()
    other.load_state_dict(state)
    assigned.load_state_dict(state, assign=True)
    copies = (
        copy.deepcopy(block),
        pickle.loads(pickle.dumps(block)),
        torch.load(file, weights_only=False),
        other,
        assigned,
        copy.deepcopy(block).half().to("cpu").float(),
    )
    for copied in copies:
        for name, scale in scales.items():
            assert torch.equal(getattr(copied, name).scale, scale)
        with torch.no_grad():
            tolerance = 1e-2 if copied is copies[-1] else 1e-6
            torch.testing.assert_close(copied(**arguments), expected, rtol=tolerance, atol=tolerance)
    assert copy.deepcopy(block).to("meta").ff2_w.scale.is_meta
    with pytest.raises(RuntimeError, match="ff1_w has dtype torch.float32, must be torch.int8: the model is"):
        block.load_state_dict(as_block(make_block()).state_dict(), strict=False)
    assert torch.equal(block.ff1_w, state["ff1_w"]) and torch.equal(block.ff1_w.scale, scales["ff1_w"])


def test_group_quantizer() -> None:
    weight = torch.randn(12, 10)
    weight[3] = 0
    quantized = GroupQuantizer(q_int8=True).quantize(weight, qkv=True, count=2, parallel_dim=1)
    values, scale = quantize_rows(weight)
    assert type(quantized) is nn.Parameter and not quantized.requires_grad
    assert torch.equal(quantized, values) and torch.equal(quantized.scale, scale.unsqueeze(1))
    assert quantized.scale[3] == 1
    torch.testing.assert_close(quantized * quantized.scale, dequantize_rows(values, scale))
    for options, groups in (
        ({"group_size": 3}, 4),
        ({"num_groups": 8}, 8),
        ({"num_groups": 60}, 60),
        ({"group_size": 5, "num_groups": 1}, 1),
        ({"num_bits": 4}, 12),
        ({"num_bits": 2, "group_size": 12}, 1),
    ):
        levels = 2 ** options.get("num_bits", 8)
        found = GroupQuantizer(**options).quantize(weight.to(torch.bfloat16).t().contiguous().t())
        exact = weight.to(torch.bfloat16).double().reshape(groups, -1)
        exact_scale = exact.abs().amax(1, keepdim=True) * 2 / levels
        exact_scale[exact_scale == 0] = 1
        assert found.shape == weight.shape and found.dtype == torch.int8 and found.scale.shape == (groups, 1)
        torch.testing.assert_close(found.scale.double(), exact_scale)
        clamped = (exact / exact_scale).round().clamp(-levels // 2, levels // 2 - 1)
        assert (found.double().view(groups, -1) - clamped).abs().max() <= 1
        assert (found.double().view(groups, -1) != clamped).sum() <= 1  # ties in float32
    vector = GroupQuantizer(num_groups=2).quantize(weight.flatten())
    assert vector.shape == (120,) and len(vector.scale) == 2


def test_group_quantizer_that_keeps_weights() -> None:
    weight = torch.randn(4, 6)
    for kept in (GroupQuantizer(q_int8=False).quantize(weight), GroupQuantizer().quantize(weight, qkv=False)):
        assert type(kept) is nn.Parameter and not kept.requires_grad
        assert kept.data_ptr() == weight.data_ptr() and kept.scale.tolist() == [1.0]


def test_group_quantizer_refuses() -> None:
    for options, message in (
        ({"num_bits": 1}, "num_bits is 1, must be from 2 to 8"),
        ({"num_bits": 16}, "num_bits is 16, must be from 2 to 8"),
        ({"group_size": 0}, "group_size is 0, must be at least 1"),
        ({"num_groups": -1}, "num_groups is -1, must be at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            GroupQuantizer(**options)
    for quantizer, weight, error, message in (
        (
            GroupQuantizer(group_size=3),
            torch.ones(4, 6),
            ValueError,
            "inputs has 4 rows, must be a multiple of",
        ),
        (
            GroupQuantizer(num_groups=5),
            torch.ones(4, 6),
            ValueError,
            "inputs has 24 elements, must be a multiple",
        ),
        (GroupQuantizer(), torch.ones(()), ValueError, "inputs has no dimensions, must have at least one"),
        (GroupQuantizer(), torch.ones(2, 2).int(), TypeError, "weight is torch.int32"),
        (
            GroupQuantizer(),
            torch.full((2, 3, 4), float("inf")),
            ValueError,
            r"weight\[0, 0, 0\] is inf, must be",
        ),
    ):
        with pytest.raises(error, match=message):
            quantizer.quantize(weight)
