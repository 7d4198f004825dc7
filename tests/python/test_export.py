"""What ds_diffusers.export accepts, checks and refuses. Whole UNets as TorchScript: test_patch_graphs;
compiled ones, and programs without Python: test_export_hosts."""

# labels: torch diffusers
import re
import zipfile
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

import ds_diffusers
from ds_diffusers import export
from ds_diffusers.export.shims import c_shims
from helpers.unets import CONTEXT, Arguments, make_unet, run_unet, unet_arguments
from torch import Tensor, nn

pytestmark = [
    pytest.mark.diffusers,
    pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore::torch.jit.TracerWarning"),
]


def flat_arguments(
    unet: nn.Module, batch: int = 2, height: int = 8, width: int = 8, words: int = 7
) -> Arguments:
    """Of a UNet's forward, in the order of an exported one's."""
    values = unet_arguments(unet, seed=height, batch=batch)
    values["sample"] = torch.randn(batch, 4, height, width)
    values["encoder_hidden_states"] = torch.randn(batch, words, CONTEXT)
    return values | values.pop("added_cond_kwargs", {})


def test_program_of_any_size(tmp_path: Path) -> None:
    unet = ds_diffusers.patch(
        make_unet(
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + 16,
        )
    )
    unet.mid_block.train()
    training = [module.training for module in unet.modules()]
    example = flat_arguments(unet)
    others = [flat_arguments(unet, batch=3, height=16), flat_arguments(unet, batch=1, width=10, words=3)]
    program = export.program(unet, example, tmp_path / "unet.pt2", other_inputs=others)
    assert [module.training for module in unet.modules()] == training
    operator = torch.ops.ds_diffusers.block_forward.default
    assert sum(node.target is operator for node in program.graph.nodes) == len(ds_diffusers.report(unet))
    loaded = torch.export.load(tmp_path / "unet.pt2").module()
    values = flat_arguments(unet, batch=5, height=4, width=14, words=2)
    with torch.no_grad():
        result = loaded(**values)
        added = {name: values.pop(name) for name in ("text_embeds", "time_ids")}
        torch.testing.assert_close(result, run_unet(unet, values | {"added_cond_kwargs": added}))


def test_torchscript_where_not_every_size_can_be_traced(tmp_path: Path) -> None:
    """A trace with other sizes than the upsamplers' multiples serves all; feed-forwards in chunks forbid it."""
    unet = make_unet(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        mid_block_type=None,
    )
    ds_diffusers.patch(unet)
    odd = [flat_arguments(unet, height=9, width=11, batch=1, words=3)]
    export.torchscript(unet, tmp_path / "unet.pt", flat_arguments(unet), odd)
    unet.down_blocks[0].attentions[0].transformer_blocks[0].set_chunk_feed_forward(16, 1)
    export.torchscript(unet, tmp_path / "unet.pt", flat_arguments(unet))
    with pytest.raises(RuntimeError, match=r"does not work with other_inputs\[0\] \(sample \[2, 4, 9, 16\]"):
        others = [flat_arguments(unet, height=9, width=16)]
        export.torchscript(unet, tmp_path / "unet.pt", flat_arguments(unet), others)


class Model(nn.Module):
    """Called as a model of diffusers. Works with any size itself, but a graph of it keeps one, by `keeps`."""

    def __init__(self, keeps: str = "") -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.keeps = keeps

    def forward(self, sample: Tensor, timestep: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        if self.keeps == "shape":
            sample = sample.reshape(-1, 4, int(sample.shape[2]), 6)
        if self.keeps == "value":
            sample = sample * float(sample.shape[2])
        return (sample * self.scale + timestep,)


def model_inputs(height: int = 8, batch: int = 2) -> Arguments:
    return {"sample": torch.randn(batch, 4, height, 6), "timestep": 3}


@pytest.mark.parametrize(
    ("keeps", "reason"),
    [
        ("shape", "shape '.*' is invalid for input of size 432"),
        ("value", "its result differs by .* of the norm"),
    ],
)
def test_torchscript_that_keeps_a_size(keeps: str, reason: str, tmp_path: Path) -> None:
    others = [model_inputs(batch=3), model_inputs(height=9)]
    pattern = rf"does not work with other_inputs\[1\] \(sample \[2, 4, 9, 6\], timestep \[\]\): {reason}"
    with pytest.raises(RuntimeError, match=pattern):
        export.torchscript(Model(keeps), tmp_path / "model.pt", model_inputs(), others)
    assert not (tmp_path / "model.pt").exists()


def test_program_that_keeps_a_size() -> None:
    with pytest.raises(RuntimeError, match="dimension 2 of sample cannot be dynamic: .* fixes it at 8"):
        export.program(Model("value"), model_inputs())


def test_dynamic_dimensions() -> None:
    def sizes(dynamic: export.programs.Dynamic) -> list[bool]:
        program = export.program(Model(), model_inputs(), dynamic=dynamic)
        (sample,) = (node.meta["val"] for node in program.graph.nodes if node.name == "sample")
        return [not str(size).isdigit() for size in sample.shape]

    assert sizes(True) == [True, False, True, True]
    assert sizes(False) == [False, False, False, False]
    assert sizes({"sample": [-1]}) == [False, False, False, True]


@pytest.mark.parametrize(
    ("dynamic", "inputs", "message"),
    [
        (True, model_inputs(batch=1), "sample has size 1 in dimension 0, must have at least 2 to be dynamic"),
        ({"text": [0]}, model_inputs(), "dynamic names text, must name inputs: sample, timestep"),
        ({"sample": [4]}, model_inputs(), "dynamic['sample'] has 4, but sample has 4 dimensions"),
        (True, {"sample": torch.randn(2, 4, 8, 8), "text_embeds": 1}, "Model.forward takes no text_embeds"),
    ],
)
def test_wrong_arguments_of_program(dynamic: object, inputs: Arguments, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        export.program(Model(), inputs, dynamic=dynamic)


def test_other_inputs_have_the_example_s_names(tmp_path: Path) -> None:
    wrong = [{"timestep": 3, "sample": torch.randn(2, 4, 8, 8)}]
    with pytest.raises(
        ValueError, match=r"other_inputs\[0\] has timestep, sample, must have sample, timestep"
    ):
        export.torchscript(Model(), tmp_path / "model.pt", model_inputs(), wrong)


@pytest.mark.parametrize("function", [export.torchscript, export.aotinductor])
def test_path_in_no_folder(function: object, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "model.pt2"
    with pytest.raises(ValueError, match=re.escape(f"path is {path}, but its folder does not exist")):
        function(Model(), path, model_inputs())


def test_aotinductor_writes_pt2(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must end in .pt2"):
        export.aotinductor(Model(), tmp_path / "model.so", model_inputs())


def test_package_that_computes_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def package_nothing(program: torch.export.ExportedProgram, package_path: str) -> str:
        Path(package_path).touch()
        return package_path

    model, path = Model(), tmp_path / "model.pt2"
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", package_nothing)
    monkeypatch.setattr(
        torch._inductor, "aoti_load_package", lambda path, **_: lambda **inputs: 2 * model(**inputs)[0]
    )
    with pytest.raises(export.ExportError, match=r"does not work with example_inputs .* differs by 1 of"):
        export.aotinductor(model, path, model_inputs())
    assert not path.exists()


def test_unpacking_other_files(tmp_path: Path) -> None:
    file = tmp_path / "file.pt2"
    file.write_text("no archive")
    with pytest.raises(ValueError, match="is no package of AOTInductor"):
        export.unpack(file, tmp_path / "folder")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("file/data.txt", "text")
    with pytest.raises(ValueError, match="holds 0 libraries, must hold one"):
        export.unpack(file, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_every_operator_has_its_c_functions() -> None:
    shims = c_shims()
    names = {operator._schema.name.removeprefix("ds_diffusers::") for operator in shims}
    assert {"block_forward", "layer_norm", "gated_linear"} <= names
    for operator, (_, *definitions) in shims.items():
        name = operator._schema.name.removeprefix("ds_diffusers::")
        for device, text in zip(("cpu", "cuda"), definitions, strict=True):
            assert f"AOTITorchError aoti_torch_{device}_{name}(" in text
