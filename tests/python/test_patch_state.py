"""patch changes the class of the blocks and nothing else, and unpatch leaves nothing behind."""

# labels: torch diffusers
import copy
import io
import logging
import pickle
import subprocess
import sys
from collections.abc import Callable
from unittest import mock

import pytest
import torch

pytest.importorskip("diffusers")

import diffusers.hooks
import ds_diffusers
from diffusers.models.attention import BasicTransformerBlock
from helpers.unets import block_arguments, make_block, run_unet, sd15_unet, unet_arguments
from torch import nn

pytestmark = pytest.mark.diffusers


def blocks_of(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, BasicTransformerBlock)]


def structure(model: nn.Module) -> list[tuple]:
    """Everything in the modules of a model but their classes: attributes by identity."""
    return [
        (name, {key: value if key[0] != "_" else copy.copy(value) for key, value in module.__dict__.items()})
        for name, module in model.named_modules()
    ]


def run(unet: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return run_unet(unet, unet_arguments(unet))


def fused_blocks(unet: nn.Module) -> int:
    """How many blocks ran fused in one call."""
    before = sum(block.fused_calls for block in ds_diffusers.report(unet))
    run(unet)
    return sum(block.fused_calls for block in ds_diffusers.report(unet)) - before


def add_accelerate_hook(block: nn.Module) -> None:
    hooks = pytest.importorskip("accelerate.hooks")
    hooks.add_hook_to_module(block, hooks.ModelHook())


def add_and_remove_accelerate_hook(block: nn.Module) -> None:
    add_accelerate_hook(block)
    pytest.importorskip("accelerate.hooks").remove_hook_from_module(block)


def add_diffusers_hooks(block: nn.Module) -> None:
    registry = diffusers.hooks.HookRegistry.check_if_exists_or_initialize(block)
    for name in ("first", "second"):
        registry.register_hook(diffusers.hooks.ModelHook(), name)


@pytest.mark.parametrize(
    "add_hooks", [add_accelerate_hook, add_and_remove_accelerate_hook, add_diffusers_hooks]
)
def test_hooks_that_came_before(add_hooks: Callable[[nn.Module], None]) -> None:
    """Offloading of whole blocks keeps the forward that it replaced, and calls it."""
    block = make_block()
    values = block_arguments(block)
    add_hooks(block)
    with torch.no_grad():
        expected = block(**values)
        torch.testing.assert_close(ds_diffusers.patch(block)(**values), expected)
        assert ds_diffusers.report(block)[0].fused_calls == 1
        with mock.patch.object(type(block), "forward", side_effect=AssertionError):
            assert torch.equal(ds_diffusers.unpatch(block)(**values), expected)


def test_a_forward_that_patch_cannot_reach_is_named() -> None:
    block = make_block()
    original = block.forward
    block.forward = lambda *arguments, **named: original(*arguments, **named)
    with pytest.warns(UserWarning, match="forward of a BasicTransformerBlock was replaced by hand"):
        ds_diffusers.patch(block)


def test_patch_returns_the_model() -> None:
    unet = sd15_unet()
    assert ds_diffusers.patch(unet) is unet
    assert ds_diffusers.unpatch(unet) is unet


def test_blocks_keep_their_class_name() -> None:
    block = ds_diffusers.patch(make_block())
    assert type(block) is not BasicTransformerBlock
    assert isinstance(block, BasicTransformerBlock)
    assert type(block).__name__ == type(block).__qualname__ == "BasicTransformerBlock"


def test_everything_but_the_class_is_unchanged() -> None:
    unet = sd15_unet()
    before, classes = structure(unet), [type(module) for module in unet.modules()]
    ds_diffusers.patch(unet)
    run(unet)
    assert structure(unet) == before
    changed = [kind for kind, module in zip(classes, unet.modules(), strict=True) if kind is not type(module)]
    assert changed == [BasicTransformerBlock] * 7


def test_unpatch_restores_classes_and_results() -> None:
    unet = sd15_unet()
    before, classes, expected = structure(unet), [type(module) for module in unet.modules()], run(unet)
    ds_diffusers.patch(unet)
    run(unet)
    ds_diffusers.unpatch(unet)
    assert structure(unet) == before
    assert [type(module) for module in unet.modules()] == classes
    assert torch.equal(run(unet), expected)


def test_patching_and_unpatching_twice() -> None:
    unet = sd15_unet()
    ds_diffusers.patch(ds_diffusers.patch(unet))
    assert fused_blocks(unet) == 7
    ds_diffusers.unpatch(ds_diffusers.unpatch(unet))
    assert {type(block) for block in blocks_of(unet)} == {BasicTransformerBlock}


def test_state_dict() -> None:
    unet = sd15_unet()
    before = unet.state_dict()
    after = ds_diffusers.patch(unet).state_dict()
    assert list(before) == list(after)
    assert all(before[name].data_ptr() == after[name].data_ptr() for name in before)
    other = ds_diffusers.patch(sd15_unet())
    other.load_state_dict(after)
    assert torch.equal(run(other), run(unet))


def test_deepcopy() -> None:
    unet = ds_diffusers.patch(sd15_unet())
    expected = run(unet)
    copied = copy.deepcopy(unet)
    assert fused_blocks(copied) == 7
    assert torch.equal(run(copied), expected)
    ds_diffusers.unpatch(copied)
    assert ds_diffusers.report(unet).fused == 7


def test_pickle() -> None:
    unet = ds_diffusers.patch(sd15_unet())
    copied = pickle.loads(pickle.dumps(unet))
    assert fused_blocks(copied) == 7
    assert torch.equal(run(copied), run(unet))


def test_pickle_in_another_process(tmp_path) -> None:
    block = ds_diffusers.patch(make_block())
    values = block_arguments(block)
    with torch.no_grad():
        torch.save((block, values, block(**values)), tmp_path / "block.pt")
    program = (
        "import sys, torch\n"
        "block, values, expected = torch.load(sys.argv[1], weights_only=False)\n"
        "with torch.no_grad():\n"
        "    torch.testing.assert_close(block(**values), expected)\n"
        "import ds_diffusers\n"
        "print(ds_diffusers.report(block)[0].fused_calls)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "block.pt")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert output.split() == ["1"]


def test_saving_whole_models() -> None:
    unet = ds_diffusers.patch(sd15_unet())
    buffer = io.BytesIO()
    torch.save(unet, buffer)
    buffer.seek(0)
    assert torch.equal(run(torch.load(buffer, weights_only=False)), run(unet))


def test_save_pretrained(tmp_path) -> None:
    unet = ds_diffusers.patch(sd15_unet())
    unet.save_pretrained(tmp_path)
    loaded = type(unet).from_pretrained(tmp_path)
    assert {type(block) for block in blocks_of(loaded)} == {BasicTransformerBlock}
    assert torch.equal(run(ds_diffusers.patch(loaded)), run(unet))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_to_another_dtype(dtype: torch.dtype) -> None:
    unet = sd15_unet()
    before = ds_diffusers.patch(copy.deepcopy(unet).to(dtype))
    after = ds_diffusers.patch(unet).to(dtype)
    assert fused_blocks(after) == 7
    assert torch.equal(run(after), run(before))


def test_changed_weights_act_at_the_next_call() -> None:
    unet = ds_diffusers.patch(sd15_unet())
    run(unet)
    with torch.no_grad():
        for parameter in unet.mid_block.parameters():
            parameter.mul_(1.5)
    unet.mid_block.attentions[0].transformer_blocks[0].ff.net[2].weight = nn.Parameter(torch.randn(64, 256))
    changed = run(unet)
    torch.testing.assert_close(run(ds_diffusers.unpatch(unet)), changed)


def test_other_subclasses_are_left_alone() -> None:
    class OwnBlock(BasicTransformerBlock):
        def forward(self, hidden_states: torch.Tensor, *arguments, **named) -> torch.Tensor:
            return hidden_states + 1

    block = make_block()
    block.__class__ = OwnBlock
    model = nn.ModuleList([block, make_block()])
    ds_diffusers.patch(model)
    assert type(block) is OwnBlock
    assert [entry.path for entry in ds_diffusers.report(model)] == ["original", "block_forward"]
    assert "OwnBlock" in ds_diffusers.report(model)[0].reason
    ds_diffusers.unpatch(model)
    assert type(block) is OwnBlock


def test_a_subclass_made_of_a_patched_block_works() -> None:
    """As token merging does, which derives a class from each block's own."""
    block = ds_diffusers.patch(make_block())
    values = block_arguments(block)
    with torch.no_grad():
        expected = block(**values)
        block.__class__ = type("Merged", (type(block),), {})
        assert torch.equal(block(**values), expected)


def test_pipelines() -> None:
    class Pipeline:
        def __init__(self) -> None:
            self.components = {
                "unet": sd15_unet(),
                "controlnet": [nn.ModuleList([make_block()]), make_block()],
                "scheduler": object(),
                "safety_checker": None,
                "image_size": (8, 8),
            }

    pipeline = Pipeline()
    assert ds_diffusers.patch(pipeline) is pipeline
    report = ds_diffusers.report(pipeline)
    assert report.fused == len(report) == 9
    assert all(entry.name.startswith("unet.") for entry in report[:7])
    assert [entry.name for entry in report[7:]] == ["controlnet.0.0", "controlnet.1"]
    ds_diffusers.unpatch(pipeline)
    assert ds_diffusers.report(pipeline).fused == 0


def test_a_real_pipeline() -> None:
    from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel

    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(32,),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    with pytest.warns(UserWarning, match="DDPMPipeline has no BasicTransformerBlock"):
        ds_diffusers.patch(DDPMPipeline(unet, DDIMScheduler()))


def test_a_model_with_nothing_to_patch() -> None:
    with pytest.warns(UserWarning, match="Linear has no BasicTransformerBlock$"):
        ds_diffusers.patch(nn.Linear(2, 2))


def test_a_block_of_another_class() -> None:
    block = make_block()
    block.__class__ = type("OwnBlock", (type(block),), {})
    with pytest.warns(UserWarning, match="OwnBlock has no BasicTransformerBlock but of subclasses"):
        ds_diffusers.patch(block)
    assert type(block).__name__ == "OwnBlock"


@pytest.mark.parametrize("function", [ds_diffusers.patch, ds_diffusers.unpatch, ds_diffusers.report])
def test_something_that_is_no_model(function) -> None:
    with pytest.raises(
        TypeError, match="model is of type int, must be a torch.nn.Module or a diffusers pipeline"
    ):
        function(3)


def test_a_forward_kept_by_a_hook_works_after_unpatch() -> None:
    block = ds_diffusers.patch(make_block())
    kept = block.forward
    ds_diffusers.unpatch(block)
    values = block_arguments(block)
    with torch.no_grad():
        assert torch.equal(kept(**values), block(**values))


def test_report_before_and_after_calls() -> None:
    unet = sd15_unet()
    assert {entry.reason for entry in ds_diffusers.report(unet)} == {"not patched"}
    ds_diffusers.patch(unet)
    report = ds_diffusers.report(unet)
    assert [(entry.path, entry.fused_calls) for entry in report] == [("block_forward", 0)] * 7
    assert [entry.name for entry in report] == [
        name for name, module in unet.named_modules() if isinstance(module, BasicTransformerBlock)
    ]
    run(unet)
    run_unet(unet, unet_arguments(unet))
    report = ds_diffusers.report(unet)
    assert [(entry.fused_calls, entry.original_calls) for entry in report] == [(1, 1)] * 7
    assert str(report).splitlines()[0] == "0 of 7 blocks run as block_forward"
    assert "a gradient may be needed" in str(report)
    run(unet)
    assert str(ds_diffusers.report(unet)) == "7 of 7 blocks run as block_forward"


def test_blocks_of_other_classes_are_reported() -> None:
    from diffusers.models.attention import TemporalBasicTransformerBlock

    model = nn.ModuleList([make_block(), TemporalBasicTransformerBlock(32, 32, 4, 8, cross_attention_dim=24)])
    report = ds_diffusers.report(ds_diffusers.patch(model))
    assert [entry.path for entry in report] == ["block_forward", "original"]
    assert report[1].reason == "its class is diffusers.models.attention.TemporalBasicTransformerBlock"


def test_patch_logs_a_summary(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.ModuleList([make_block(), make_block(activation_fn="gelu")])
    ds_diffusers.patch(model)
    assert not caplog.records
    with caplog.at_level(logging.INFO, logger="ds_diffusers"):
        ds_diffusers.patch(model)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("ds_diffusers", "INFO")
    assert record.getMessage() == (
        "patched ModuleList: 2 blocks: 1 as block_forward, 1 in segments, 0 as diffusers' own"
    )


def test_report_as_a_table() -> None:
    rich = pytest.importorskip("rich.console")
    console = rich.Console(file=io.StringIO(), width=160)
    console.print(ds_diffusers.report(ds_diffusers.patch(sd15_unet())))
    text = console.file.getvalue()
    assert "mid_block.attentions.0.transformer_blocks.0" in text
    assert "7 of 7 blocks run as block_forward" in text
