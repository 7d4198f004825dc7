"""Patched models under torch.compile, torch.export and TorchScript: fused where they would be in eager
mode."""

# labels: torch diffusers gpu
import copy
import itertools
import warnings
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

import ds_diffusers
from diffusers import UNet2DModel
from helpers.unets import (
    BLOCKS,
    UNETS,
    Arguments,
    block_arguments,
    make_block,
    run_unet,
    sd15_unet,
    unet_arguments,
)
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

pytestmark = [
    pytest.mark.diffusers,
    pytest.mark.filterwarnings("ignore:.*lru_cache", "ignore:.*torch.jit", "ignore::torch.jit.TracerWarning"),
]


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    torch._dynamo.reset()


def run(model: nn.Module, values: Arguments) -> torch.Tensor:
    with torch.no_grad():
        return run_unet(model, values)


def graph_count(counter: CompileCounterWithBackend) -> int:
    """How many graphs were made: one that was given up and traced again is left empty."""
    return sum(len(graph.graph.nodes) > 0 for graph in counter.graphs)


def fused_calls(graphs: list[torch.fx.GraphModule]) -> int:
    """How many blocks run as one operator in the graphs."""
    return calls_of("block_forward", graphs)


def calls_of(name: str, graphs: list[torch.fx.GraphModule]) -> int:
    """How many calls of the operator are in the graphs."""
    operator = getattr(torch.ops.ds_diffusers, name)
    targets = [node.target for graph in graphs for node in graph.graph.nodes]
    return sum(target in (operator, operator.default) for target in targets)


@pytest.mark.parametrize("form", UNETS)
def test_compile_of_a_unet(form: str) -> None:
    unet = ds_diffusers.patch(UNETS[form]())
    values = unet_arguments(unet)
    expected = run(unet, values)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(unet, fullgraph=True, backend=counter)
    torch.testing.assert_close(run(compiled, values), expected)
    assert counter.frame_count == 1
    assert fused_calls(counter.graphs) == len(ds_diffusers.report(unet))
    other = unet_arguments(unet, seed=1)
    torch.testing.assert_close(run(compiled, other), run(unet, other))
    assert counter.frame_count == 1, "other values need no other graph"


def test_compile_with_code_generation() -> None:
    block = ds_diffusers.patch(make_block())
    values = block_arguments(block)
    with torch.no_grad():
        expected = block(**values)
        compiled = torch.compile(block, fullgraph=True)
        torch.testing.assert_close(compiled(**values), expected)


@pytest.mark.parametrize("form", BLOCKS)
def test_compile_of_a_block(form: str) -> None:
    block = ds_diffusers.patch(make_block(**BLOCKS[form]))
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block, fullgraph=True, backend=counter, dynamic=True)
    for tokens in (10, 11, 16):
        values = block_arguments(block, tokens=tokens)
        with torch.no_grad():
            torch.testing.assert_close(compiled(**values), block(**values))
    assert graph_count(counter) == fused_calls(counter.graphs) == 1


def test_compile_with_masks() -> None:
    block = ds_diffusers.patch(make_block())
    values = block_arguments(block) | {"encoder_attention_mask": torch.randn(8, 10, 7)}
    counter = CompileCounterWithBackend("aot_eager")
    with torch.no_grad():
        result = torch.compile(block, fullgraph=True, backend=counter)(**values)
        torch.testing.assert_close(result, block(**values))
    assert fused_calls(counter.graphs) == 1


def test_compiled_training_runs_the_original() -> None:
    block = ds_diffusers.patch(make_block())
    values = block_arguments(block)
    counter = CompileCounterWithBackend("aot_eager")
    torch.compile(block, fullgraph=True, backend=counter)(**values).square().mean().backward()
    gradients = [parameter.grad.clone() for parameter in block.parameters()]
    block.zero_grad()
    block(**values).square().mean().backward()
    torch.testing.assert_close(gradients, [parameter.grad for parameter in block.parameters()])
    assert fused_calls(counter.graphs) == 0


CHANGES = {
    "hook": lambda block: block.attn1.to_q.register_forward_hook(lambda module, inputs, output: output * 2),
    "forward": lambda block: setattr(block.ff, "forward", lambda states: states * 2),
    "processor": lambda block: block.attn2.set_processor(processor_class("AttnProcessor")()),
    "chunking": lambda block: block.set_chunk_feed_forward(5, 1),
    "linear": lambda block: setattr(block.attn1, "to_v", own_linear(block.attn1.to_v)),
    "norm_eps": lambda block: setattr(block.norm3, "eps", 0.1),
}


def processor_class(name: str) -> type:
    import diffusers.models.attention_processor

    return getattr(diffusers.models.attention_processor, name)


def own_linear(linear: nn.Linear) -> nn.Linear:
    class OwnLinear(nn.Linear):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return super().forward(states) + 1

    other = copy.deepcopy(linear)
    other.__class__ = OwnLinear
    return other


# PyTorch looks for hooks that came later only when told to.
@torch._dynamo.config.patch(skip_nnmodule_hook_guards=False)
@pytest.mark.parametrize("change", CHANGES)
def test_changes_after_compiling(change: str) -> None:
    """An obstacle that comes later makes a new graph, without the operator."""
    block = ds_diffusers.patch(make_block())
    values = block_arguments(block)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block, fullgraph=True, backend=counter)
    with torch.no_grad():
        first = compiled(**values)
        assert fused_calls(counter.graphs) == 1
        CHANGES[change](block)
        changed = compiled(**values)
        torch.testing.assert_close(changed, block(**values))
        torch.testing.assert_close(compiled(**values), changed)
    assert graph_count(counter) == 2
    assert fused_calls(counter.graphs) == 1
    assert torch.allclose(changed, first, atol=1e-4) == (change in ("processor", "chunking"))


def test_changed_weights_after_compiling() -> None:
    block = ds_diffusers.patch(make_block())
    values = block_arguments(block)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block, fullgraph=True, backend=counter)
    with torch.no_grad():
        compiled(**values)
        block.attn1.to_q.weight.mul_(3)
        torch.testing.assert_close(compiled(**values), block(**values))
        block.ff.net[2] = nn.Linear(*reversed(block.ff.net[2].weight.shape))
        torch.testing.assert_close(compiled(**values), block(**values))


def test_compile_with_lora() -> None:
    peft = pytest.importorskip("peft")
    block = ds_diffusers.patch(make_block())
    values = block_arguments(block)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block, fullgraph=True, backend=counter)
    with torch.no_grad():
        compiled(**values)
        config = peft.LoraConfig(r=4, target_modules=["to_q"], init_lora_weights=False)
        peft.inject_adapter_in_model(config, block)
        torch.testing.assert_close(compiled(**values), block(**values))
    assert fused_calls(counter.graphs) == 2


def test_compile_repeated_blocks() -> None:
    unet = ds_diffusers.patch(sd15_unet())
    values = unet_arguments(unet)
    expected = run(unet, values)
    counter = CompileCounterWithBackend("aot_eager")
    unet.compile_repeated_blocks(fullgraph=True, backend=counter)
    torch.testing.assert_close(run(unet, values), expected)
    assert 0 < fused_calls(counter.graphs) == counter.frame_count


def test_compile_repeated_blocks_in_segments() -> None:
    unet = ds_diffusers.patch(sd15_unet())
    values = unet_arguments(unet)
    unet.set_attn_processor(processor_class("AttnProcessor")())
    expected = run(unet, values)
    counter = CompileCounterWithBackend("aot_eager")
    unet.compile_repeated_blocks(fullgraph=True, backend=counter)
    torch.testing.assert_close(run(unet, values), expected)
    assert 0 < calls_of("gated_linear", counter.graphs) == graph_count(counter)


def test_patching_a_compiled_model() -> None:
    block = make_block()
    values = block_arguments(block)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block, fullgraph=True, backend=counter)
    with torch.no_grad():
        expected = compiled(**values)
        ds_diffusers.patch(compiled)
        torch.testing.assert_close(compiled(**values), expected)
    assert fused_calls(counter.graphs) == 1


@pytest.mark.parametrize("strict", [False, True])
def test_export_of_a_unet(strict: bool, tmp_path: Path) -> None:
    unet = ds_diffusers.patch(sd15_unet())
    values = unet_arguments(unet) | {"return_dict": False}
    with torch.no_grad():
        program = torch.export.export(unet, (), values, strict=strict)
        assert fused_calls([program.graph_module]) == len(ds_diffusers.report(unet))
        torch.export.save(program, tmp_path / "unet.pt2")
        loaded = torch.export.load(tmp_path / "unet.pt2").module()
        other = unet_arguments(unet, seed=1) | {"return_dict": False}
        torch.testing.assert_close(loaded(**other)[0], unet(**other)[0])


def test_export_with_dynamic_shapes() -> None:
    block = ds_diffusers.patch(make_block())
    values = block_arguments(block)
    batch, tokens, words = torch.export.Dim("batch"), torch.export.Dim("tokens"), torch.export.Dim("words")
    shapes = {
        "hidden_states": {0: batch, 1: tokens},
        "encoder_hidden_states": {0: batch, 1: words},
        "encoder_attention_mask": {0: batch, 2: words},
    }
    values["encoder_attention_mask"] = torch.randn(2, 1, 7)
    with torch.no_grad():
        program = torch.export.export(block, (), values, dynamic_shapes=shapes)
        assert fused_calls([program.graph_module]) == 1
        other = {
            "hidden_states": torch.randn(3, 21, 32),
            "encoder_hidden_states": torch.randn(3, 5, 24),
            "encoder_attention_mask": torch.randn(3, 1, 5),
        }
        torch.testing.assert_close(program.module()(**other), block(**other))


def test_trace_and_freeze(tmp_path: Path) -> None:
    block = ds_diffusers.patch(make_block())
    values = block_arguments(block)
    positional = (values["hidden_states"], torch.zeros(2, 1, 10), values["encoder_hidden_states"])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        # A mask's batch is looked at in Python, as diffusers itself does.
        warnings.filterwarnings("ignore", message="Converting a tensor to a Python boolean")
        traced = torch.jit.freeze(torch.jit.trace(block, positional))
    traced.save(str(tmp_path / "block.pt"))
    loaded = torch.jit.load(tmp_path / "block.pt")
    assert str(loaded.inlined_graph).count("ds_diffusers::block_forward") == 1
    assert "aten::layer_norm" not in str(loaded.inlined_graph)
    with torch.no_grad():
        other = (torch.randn(2, 23, 32), torch.randn(2, 1, 23), torch.randn(2, 5, 24))
        torch.testing.assert_close(loaded(*other), block(*other))


def test_trace_without_a_mask_warns_of_nothing() -> None:
    block = ds_diffusers.patch(make_block())
    values = block_arguments(block)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(block, example_kwarg_inputs=values)
    assert "ds_diffusers::block_forward" in str(traced.inlined_graph)


@pytest.mark.parametrize("form", UNETS)
def test_torchscript_export(form: str, tmp_path: Path) -> None:
    unet = ds_diffusers.patch(UNETS[form]())
    unet.mid_block.train()
    training = [module.training for module in unet.modules()]

    def flat(seed: int) -> Arguments:
        values = unet_arguments(unet, seed)
        return values | values.pop("added_cond_kwargs", {})

    ds_diffusers.export.torchscript(unet, tmp_path / "unet.pt", flat(0))
    assert [module.training for module in unet.modules()] == training
    loaded = torch.jit.load(tmp_path / "unet.pt")
    assert str(loaded.inlined_graph).count("ds_diffusers::block_forward") == len(ds_diffusers.report(unet))
    with torch.no_grad():
        result = loaded(*flat(1).values())
    torch.testing.assert_close(result, run(unet, unet_arguments(unet, seed=1)))


@pytest.mark.parametrize("form", ["plain", "attention_bias", "self_attention_only"])
def test_torchscript_export_keeps_weights_together(form: str, device: torch.device, tmp_path: Path) -> None:
    """As the operator then computes queries, keys and values as one product."""
    block = Returns(ds_diffusers.patch(make_block(**BLOCKS[form]).to(device)))
    values = block_arguments(block.block)
    traced = ds_diffusers.export.torchscript(block, tmp_path / "block.pt", values)
    size = (tmp_path / "block.pt").stat().st_size
    assert size < 1.5 * sum(parameter.nbytes for parameter in block.parameters()) + 50_000
    loaded = torch.jit.load(tmp_path / "block.pt")
    for module in (traced, loaded):
        (call,) = module.graph.findAllNodes("ds_diffusers::block_forward")
        schema = torch.ops.ds_diffusers.block_forward.default._schema
        inputs = {argument.name: value.node() for argument, value in zip(schema.arguments, call.inputs())}
        for attention, kind in itertools.product(("attn1", "attn2"), ("weight", "bias")):
            nodes = [inputs[f"{attention}_{projection}_{kind}"] for projection in "qkv"]
            if nodes[0].hasAttribute("value"):
                query, key, value = (node.t("value") for node in nodes)
                assert query.data_ptr() + query.nbytes == key.data_ptr()
                assert key.data_ptr() + key.nbytes == value.data_ptr()
    torch.testing.assert_close(loaded(*values.values()), run(block, values))


class Returns(nn.Module):
    """A block as a model of diffusers."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden_states, encoder_hidden_states=None, return_dict: bool = True) -> tuple:
        return (self.block(hidden_states, encoder_hidden_states=encoder_hidden_states),)


def test_torchscript_export_of_numbers(tmp_path: Path) -> None:
    unet = sd15_unet()
    values = unet_arguments(unet)
    ds_diffusers.export.torchscript(unet, tmp_path / "unet.pt", values | {"timestep": 3})
    loaded = torch.jit.load(tmp_path / "unet.pt")
    with torch.no_grad():
        result = loaded(values["sample"], torch.tensor(40), values["encoder_hidden_states"])
    torch.testing.assert_close(result, run(unet, values | {"timestep": torch.tensor(40)}))


def test_torchscript_export_of_unknown_arguments(tmp_path: Path) -> None:
    unet = sd15_unet()
    values = unet_arguments(unet)
    with pytest.raises(ValueError, match="must have added conditions at the end"):
        ds_diffusers.export.torchscript(
            unet, tmp_path / "unet.pt", {"text_embeds": values["sample"]} | values
        )
    unconditional = UNet2DModel(
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=["DownBlock2D"],
        up_block_types=["UpBlock2D"],
    )
    inputs = {"sample": torch.randn(1, 3, 8, 8), "timestep": 3, "text_embeds": torch.randn(1, 4)}
    with pytest.raises(ValueError, match="UNet2DModel.forward takes no text_embeds"):
        ds_diffusers.export.torchscript(unconditional, tmp_path / "unet.pt", inputs)
