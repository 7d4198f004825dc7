"""Blocks that cannot run as one operator run in segments: the same sequence as diffusers', with an error
against float64 that is at most twice that of diffusers in the same dtype."""

# labels: torch diffusers gpu
import copy
import warnings
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

pytest.importorskip("diffusers")

import diffusers.models.attention_processor as processors
import ds_diffusers
from diffusers.models.attention import BasicTransformerBlock
from helpers.accuracy import Errors
from helpers.operators import every_dtype
from helpers.unets import CHANNELS, CONTEXT, HEADS, Arguments, block_arguments, in_double, make_block
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

pytestmark = [pytest.mark.diffusers, pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:.*lru_cache")]

NORMS = ("norm1", "norm2", "norm3")
FEED_FORWARD = ("gate", "gated_linear", "last_linear")
GATED_LINEAR = FEED_FORWARD[:2]
ALL = NORMS + FEED_FORWARD


class OwnLinear(nn.Linear):
    """What LoRA and quantisation put in place of linear layers is called, and may do more than this."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * 0.5


def own(*paths: str) -> Callable[[BasicTransformerBlock], None]:
    def change(block: BasicTransformerBlock) -> None:
        for path in paths:
            block.get_submodule(path).__class__ = OwnLinear

    return change


def unchanged(block: BasicTransformerBlock) -> None:
    pass


def no_arguments(block: BasicTransformerBlock) -> Arguments:
    return {}


def modulation(block: BasicTransformerBlock) -> Arguments:
    states = block_arguments(block)["hidden_states"]
    return {"timestep": torch.randn(2, 6 * CHANNELS, device=states.device, dtype=states.dtype)}


def class_conditions(block: BasicTransformerBlock) -> Arguments:
    device = block.ff.net[2].weight.device
    return {
        "timestep": torch.tensor([3, 5], device=device),
        "class_labels": torch.tensor([1, 2], device=device),
    }


def grounding(block: BasicTransformerBlock) -> Arguments:
    with torch.no_grad():
        block.fuser.alpha_attn.fill_(0.5)
        block.fuser.alpha_dense.fill_(0.3)
    weight = block.ff.net[2].weight
    objects = torch.randn(2, 3, CONTEXT, device=weight.device, dtype=weight.dtype)
    return {"cross_attention_kwargs": {"gligen": {"objs": objects}}}


class Form(NamedTuple):
    segments: tuple[str, ...]
    config: Arguments = {}
    change: Callable[[BasicTransformerBlock], None] = unchanged
    arguments: Callable[[BasicTransformerBlock], Arguments] = no_arguments


FORMS = {
    "linears_of_attention": Form(ALL, {}, own("attn1.to_q", "attn1.to_out.0", "attn2.to_v")),
    "linears_of_feed_forward": Form((*NORMS, "gate"), {}, own("ff.net.0.proj", "ff.net.2")),
    "swiglu": Form(ALL, {"activation_fn": "swiglu"}, own("attn1.to_q")),
    "swiglu_of_own_linear": Form(
        (*NORMS, "gate", "last_linear"), {"activation_fn": "swiglu"}, own("ff.net.0.proj")
    ),
    "norm_of_own_class": Form(
        ("norm1", "norm3", *FEED_FORWARD), {}, lambda block: setattr(block, "norm2", nn.RMSNorm(CHANNELS))
    ),
    "self_attention_only": Form(
        ("norm1", "norm3", *FEED_FORWARD), {"cross_attention_dim": None}, own("attn1.to_q")
    ),
    "only_cross_attention": Form(ALL, {"only_cross_attention": True}, own("attn1.to_q")),
    "no_weights_of_norms": Form(ALL, {"norm_elementwise_affine": False}, own("attn1.to_q")),
    "no_biases": Form(
        (*NORMS, *GATED_LINEAR), {"ff_bias": False, "attention_out_bias": False}, own("attn1.to_q")
    ),
    "processor": Form(ALL, {}, lambda block: block.attn2.set_processor(processors.AttnProcessor())),
    "positional_embeddings": Form(
        ALL, {"positional_embeddings": "sinusoidal", "num_positional_embeddings": 16}
    ),
    "chunking": Form((*NORMS, *GATED_LINEAR), {}, lambda block: block.set_chunk_feed_forward(5, 1)),
    "gelu": Form((*NORMS, "last_linear"), {"activation_fn": "gelu"}),
    "linear_silu": Form((*NORMS, "last_linear"), {"activation_fn": "linear-silu"}),
    "grounding": Form(ALL, {"attention_type": "gated"}, unchanged, grounding),
    "grounding_with_ada_norm": Form(
        ("norm3", *FEED_FORWARD),
        {"attention_type": "gated", "norm_type": "ada_norm", "num_embeds_ada_norm": 10},
        unchanged,
        lambda block: grounding(block) | {"timestep": torch.tensor(3, device=block.ff.net[2].weight.device)},
    ),
    "grounding_with_ada_norm_single": Form(
        ("norm1", "norm2", *GATED_LINEAR),
        {"attention_type": "gated", "norm_type": "ada_norm_single"},
        unchanged,
        lambda block: grounding(block) | modulation(block),
    ),
    "ada_norm": Form(
        ("norm3", *FEED_FORWARD),
        {"norm_type": "ada_norm", "num_embeds_ada_norm": 10},
        unchanged,
        lambda block: {"timestep": torch.tensor(3, device=block.ff.net[2].weight.device)},
    ),
    "ada_norm_zero": Form(
        ("norm3",),
        {
            "norm_type": "ada_norm_zero",
            "num_embeds_ada_norm": 10,
            "cross_attention_dim": None,
            "activation_fn": "gelu-approximate",
        },
        unchanged,
        class_conditions,
    ),
    "ada_norm_zero_with_context": Form(
        ("norm2", "norm3", *GATED_LINEAR),
        {"norm_type": "ada_norm_zero", "num_embeds_ada_norm": 10},
        unchanged,
        class_conditions,
    ),
    "ada_norm_single": Form(
        ("norm1", "norm2"),
        {
            "norm_type": "ada_norm_single",
            "norm_elementwise_affine": False,
            "activation_fn": "gelu-approximate",
        },
        unchanged,
        modulation,
    ),
    "ada_norm_single_without_context": Form(
        ("norm1", "norm2", *GATED_LINEAR),
        {"norm_type": "ada_norm_single", "cross_attention_dim": None},
        unchanged,
        modulation,
    ),
}


def make(name: str) -> tuple[BasicTransformerBlock, Form]:
    form = FORMS[name]
    block = make_block(**form.config)
    form.change(block)
    return block, form


def arguments_of(block: BasicTransformerBlock, form: Form, seed: int = 0) -> Arguments:
    torch.manual_seed(seed)
    return block_arguments(block, seed) | form.arguments(block)


class Operators(TorchDispatchMode):
    """Counts the calls of this library's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "ds_diffusers":
            self.calls[function._opname] += 1
        return function(*args, **(kwargs or {}))


@every_dtype
@pytest.mark.parametrize("name", FORMS)
def test_results(name: str, dtype: torch.dtype, device: torch.device) -> None:
    original, form = make(name)
    original.to(device, dtype)
    patched, reference = copy.deepcopy(original), copy.deepcopy(original).double()
    ds_diffusers.patch(patched)
    errors = Errors()
    draws = 4
    with torch.no_grad():
        for seed in range(draws):
            values = arguments_of(original, form, seed)
            arguments_of(patched, form), arguments_of(reference, form)  # sets what is set beside them
            errors.add(patched(**values), original(**values), reference(**in_double(values)))
    errors.check(dtype, "result")
    report = ds_diffusers.report(patched)[0]
    assert (report.path, report.segments, report.segmented_calls) == ("segments", form.segments, draws)


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        (
            "linears_of_attention",
            {
                "layer_norm": 1,
                "layer_norm_residual_store_pre_ln_res": 2,
                "gated_linear": 1,
                "nhwc_bias_add": 1,
            },
        ),
        (
            "linears_of_feed_forward",
            {"layer_norm": 1, "layer_norm_residual_store_pre_ln_res": 2, "gated_activation": 1},
        ),
        ("ada_norm_single", {"layer_norm": 1, "layer_norm_residual_store_pre_ln_res": 1}),
        (
            "grounding",
            {
                "layer_norm": 2,
                "layer_norm_residual_store_pre_ln_res": 1,
                "gated_linear": 1,
                "nhwc_bias_add": 1,
            },
        ),
    ],
)
def test_operators_that_are_called(name: str, calls: dict[str, int]) -> None:
    block, form = make(name)
    ds_diffusers.patch(block)
    values = arguments_of(block, form)
    with torch.no_grad(), Operators() as operators:
        block(**values)
    assert operators.calls == calls


@pytest.mark.parametrize(
    "name",
    [
        "linears_of_attention",
        "linears_of_feed_forward",
        "processor",
        "positional_embeddings",
        "chunking",
        "grounding",
        "ada_norm_zero_with_context",
        "ada_norm_single",
    ],
)
def test_compile(name: str) -> None:
    torch._dynamo.reset()
    block, form = make(name)
    ds_diffusers.patch(block)
    values = arguments_of(block, form)
    counter = CompileCounterWithBackend("eager")
    with torch.no_grad():
        result = torch.compile(block, fullgraph=True, backend=counter)(**values)
        torch.testing.assert_close(result, block(**values))
    assert counter.frame_count == 1
    targets = {str(node.target) for graph in counter.graphs for node in graph.graph.nodes}
    assert any(target.startswith("ds_diffusers.") for target in targets)


@pytest.mark.parametrize("name", ["linears_of_attention", "linears_of_feed_forward", "ada_norm_single"])
def test_trace(name: str) -> None:
    block, form = make(name)
    ds_diffusers.patch(block)
    values = arguments_of(block, form)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.freeze(torch.jit.trace(block, example_kwarg_inputs=values))
        assert "ds_diffusers::layer_norm_residual_store_pre_ln_res" in str(traced.inlined_graph)
        other = values | {"hidden_states": torch.randn(2, 23, CHANNELS)}
        torch.testing.assert_close(traced(**other), block(**other))


def test_export_with_dynamic_shapes() -> None:
    block, form = make("linears_of_attention")
    ds_diffusers.patch(block)
    batch, tokens, words = (torch.export.Dim(name) for name in ("batch", "tokens", "words"))
    shapes = {"hidden_states": {0: batch, 1: tokens}, "encoder_hidden_states": {0: batch, 1: words}}
    with torch.no_grad():
        program = torch.export.export(block, (), arguments_of(block, form), dynamic_shapes=shapes)
        other = {
            "hidden_states": torch.randn(3, 21, CHANNELS),
            "encoder_hidden_states": torch.randn(3, 5, CONTEXT),
        }
        torch.testing.assert_close(program.module()(**other), block(**other))
    targets = {str(node.target) for node in program.graph.nodes}
    assert "ds_diffusers.gated_linear.default" in targets


@pytest.mark.parametrize("norm_type", ["ada_norm_continuous", "layer_norm_i2vgen"])
def test_norms_that_are_left_alone(norm_type: str) -> None:
    block = ds_diffusers.patch(
        make_block(norm_type=norm_type, ada_norm_continous_conditioning_embedding_dim=8, ada_norm_bias=True)
    )
    report = ds_diffusers.report(block)[0]
    assert report.path == "original"
    assert f"norm_type is {norm_type}" in report.reason


def test_nothing_left_to_fuse() -> None:
    block = make_block(activation_fn="gelu")
    for path in ("norm1", "norm2", "norm3", "ff"):
        block.get_submodule(path).register_forward_hook(lambda *arguments: None)
    report = ds_diffusers.report(ds_diffusers.patch(block))[0]
    assert (report.path, report.reason) == ("original", "no part of it is made of plain layers")


def test_results_of_another_shape() -> None:
    """What a processor returns is summed as PyTorch does it."""
    block = make_block()
    block.attn2.processor = lambda attn, hidden_states, **others: hidden_states[:1, :1]
    values = block_arguments(block)
    with torch.no_grad():
        expected = block(**values)
        torch.testing.assert_close(ds_diffusers.patch(block)(**values), expected, rtol=1e-5, atol=1e-5)
    assert ds_diffusers.report(block)[0].segmented_calls == 1


def test_results_of_another_dtype() -> None:
    block = make_block().bfloat16()
    block.attn2.processor = lambda attn, hidden_states, **others: hidden_states.float()
    block.norm3.float()
    block.ff.float()
    values = block_arguments(make_block().bfloat16())
    with torch.no_grad():
        expected = block(**values)
        result = ds_diffusers.patch(block)(**values)
    assert expected.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=0.02, atol=0.02)
    assert ds_diffusers.report(block)[0].segmented_calls == 1


def test_dropout_draws_as_before() -> None:
    block = make_block(dropout=0.5, final_dropout=True, attention_bias=True).train()
    values = block_arguments(block)

    def run() -> torch.Tensor:
        torch.manual_seed(3)
        with torch.no_grad():
            return block(**values)

    expected = run()
    ds_diffusers.patch(block)
    torch.testing.assert_close(run(), expected, rtol=1e-5, atol=1e-5)
    assert ds_diffusers.report(block)[0].segments == (*NORMS, "gate", "gated_linear")


def test_wrong_chunk_size_stays_an_error() -> None:
    block = ds_diffusers.patch(make_block())
    block.set_chunk_feed_forward(3, 1)
    with torch.no_grad(), pytest.raises(ValueError, match="chunk"):
        block(**block_arguments(block))


def test_masks_and_context_reach_the_processors() -> None:
    seen = []

    class Noting(processors.AttnProcessor2_0):
        def __call__(self, attn, hidden_states, *arguments, note=None, **others):
            seen.append((note, others["encoder_hidden_states"], others["attention_mask"]))
            return super().__call__(attn, hidden_states, *arguments, **others)

    block = ds_diffusers.patch(make_block())
    for attention in (block.attn1, block.attn2):
        attention.set_processor(Noting())
    values = block_arguments(block)
    masks = torch.zeros(2, 1, 10), torch.zeros(2 * HEADS, 1, 7)
    with torch.no_grad():
        block(
            **values,
            attention_mask=masks[0],
            encoder_attention_mask=masks[1],
            cross_attention_kwargs={"note": 7},
        )
    assert [entry[0] for entry in seen] == [7, 7]
    assert seen[0][1] is None and seen[0][2] is masks[0]
    assert seen[1][1] is values["encoder_hidden_states"] and seen[1][2] is masks[1]
    assert ds_diffusers.report(block)[0].segmented_calls == 1
