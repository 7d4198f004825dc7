"""Writes TorchScript that uses the plugin, for a program without Python: export_modules.py FOLDER.

For each module, NAME.pt is the module and NAME_values.pt holds the tensors that went in and came out here.
Where a module cannot be made for want of a package, NAME.pt.missing says so.
"""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import ds_diffusers

warnings.filterwarnings("ignore", message="`torch.jit")


class AllOperators(torch.nn.Module):
    """Every operator once, on parameters that are the module's own."""

    def __init__(self) -> None:
        super().__init__()
        for name, sizes in {"gamma": [24], "beta": [24], "bias": [24], "gate_bias": [48]}.items():
            self.register_buffer(name, torch.randn(sizes))
        for name in ("q", "k", "v", "out", "ff_out"):
            self.register_buffer(f"{name}_weight", torch.randn(24, 24) / 5)
        self.register_buffer("ff_in_weight", torch.randn(48, 24) / 5)

    def forward(self, hidden_states: Tensor, residual: Tensor) -> list[Tensor]:
        normalised = torch.ops.ds_diffusers.layer_norm(hidden_states, self.gamma, self.beta)
        both = torch.ops.ds_diffusers.layer_norm_residual_store_pre_ln_res(
            hidden_states, self.bias, residual, self.gamma, None, 1e-3
        )
        gated = torch.ops.ds_diffusers.gated_activation(
            torch.cat([hidden_states, residual], -1), self.gate_bias, 3
        )
        added = torch.ops.ds_diffusers.nhwc_bias_add(hidden_states, self.bias, residual)
        block = torch.ops.ds_diffusers.block_forward(
            hidden_states,
            attn1_q_weight=self.q_weight,
            attn1_k_weight=self.k_weight,
            attn1_v_weight=self.v_weight,
            attn1_out_weight=self.out_weight,
            ff_in_weight=self.ff_in_weight,
            ff_out_weight=self.ff_out_weight,
            heads=3,
        )
        return [normalised, both[0], both[1], gated, added, block]


class Values(torch.nn.Module):
    """Tensors in a file that C++ reads."""

    inputs: list[Tensor]
    expected: list[Tensor]

    def __init__(self, inputs: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
        super().__init__()
        self.inputs = list(inputs)
        self.expected = list(expected)

    def forward(self) -> list[Tensor]:
        return self.expected


def write(folder: Path, name: str, inputs: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    torch.jit.script(Values(inputs, expected)).save(folder / f"{name}_values.pt")


def export_operators(folder: Path) -> None:
    module = AllOperators()
    inputs = [torch.randn(2, 5, 24), torch.randn(2, 5, 24)]
    torch.jit.script(module).save(folder / "operators.pt")
    write(folder, "operators", inputs, module(*inputs))


class WithContext(torch.nn.Module):
    """A block as a function of positional arguments."""

    def __init__(self, block: torch.nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden_states: Tensor, context: Tensor) -> Tensor:
        return self.block(hidden_states, encoder_hidden_states=context)


def export_block(folder: Path) -> None:
    from diffusers.models.attention import BasicTransformerBlock

    block = BasicTransformerBlock(24, 3, 8, cross_attention_dim=20).eval()
    inputs = [torch.randn(2, 5, 24), torch.randn(2, 7, 20)]
    expected = block(inputs[0], encoder_hidden_states=inputs[1])
    ds_diffusers.patch(block)

    traced = torch.jit.trace(WithContext(block), tuple(inputs))
    assert "ds_diffusers::block_forward" in str(traced.inlined_graph)
    traced.save(folder / "block.pt")
    write(folder, "block", inputs, [expected])


def export_unet(folder: Path) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=20,
        attention_head_dim=4,
        norm_num_groups=8,
    ).eval()
    inputs = {
        "sample": torch.randn(2, 4, 8, 8),
        "timestep": torch.tensor(5),
        "encoder_hidden_states": torch.randn(2, 7, 20),
    }
    expected = unet(**inputs, return_dict=False)[0]
    ds_diffusers.patch(unet)
    traced = ds_diffusers.export.torchscript(unet, folder / "unet.pt", inputs)
    assert "ds_diffusers::block_forward" in str(traced.inlined_graph)
    write(folder, "unet", list(inputs.values()), [expected])


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    ds_diffusers.load()
    with torch.no_grad():
        export_operators(folder)
        for name, export in (("block", export_block), ("unet", export_unet)):
            missing = folder / f"{name}.pt.missing"
            try:
                export(folder)
                missing.unlink(missing_ok=True)
            except ModuleNotFoundError as error:
                missing.write_text(f"{error.name} is not installed")


if __name__ == "__main__":
    main()
