"""Weights of q, k and v that lie together are saved, loaded, shared and changed by libraries as any others."""

# labels: torch diffusers
import copy
import io

import pytest
import torch

pytest.importorskip("diffusers")

import ds_diffusers
from helpers.unets import make_block, run_unet, sd15_unet, unet_arguments
from helpers.weights import check_close, check_unmoved, expected, patched_block, placed, run, scattered

pytestmark = pytest.mark.diffusers

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def test_fused_lora() -> None:
    peft = pytest.importorskip("peft")
    unet = ds_diffusers.patch(scattered(sd15_unet()))
    values = unet_arguments(unet)
    with torch.no_grad():
        plain = run_unet(unet, values)
        unet.add_adapter(peft.LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
        unet.fuse_lora()
        unet.unload_lora()
        changed = run_unet(unet, values)
        check_close(changed, run_unet(ds_diffusers.unpatch(copy.deepcopy(unet)), values))
    assert not torch.allclose(changed, plain)
    assert placed(unet)


@every_dtype
def test_state_dict(dtype: torch.dtype) -> None:
    block = patched_block().to(dtype)
    run(block)
    other = ds_diffusers.patch(make_block().to(dtype))
    run(other)
    addresses = [parameter.data_ptr() for parameter in other.parameters()]
    other.load_state_dict(block.state_dict())
    assert [parameter.data_ptr() for parameter in other.parameters()] == addresses
    assert torch.equal(run(other), run(block))
    other.load_state_dict(copy.deepcopy(make_block().to(dtype).state_dict()), assign=True)
    check_close(run(other), expected(other))
    assert placed(other)


@every_dtype
def test_saved_files(dtype: torch.dtype, tmp_path) -> None:
    """What writes checkpoints looks at storages, as tensors that share one are taken for duplicates."""
    safetensors = pytest.importorskip("safetensors.torch")
    unet = scattered(sd15_unet().to(dtype))
    before = copy.deepcopy(unet.state_dict())
    ds_diffusers.patch(unet)
    assert placed(unet)

    def check(found: dict[str, torch.Tensor]) -> None:
        assert found.keys() == before.keys()
        assert all(torch.equal(found[name], before[name]) for name in before)

    safetensors.save_file(unet.state_dict(), tmp_path / "dict.safetensors")
    check(safetensors.load_file(tmp_path / "dict.safetensors"))
    safetensors.save_model(unet, str(tmp_path / "model.safetensors"))
    check(safetensors.load_file(tmp_path / "model.safetensors"))
    unet.save_pretrained(tmp_path / "pretrained")
    check(type(unet).from_pretrained(tmp_path / "pretrained", torch_dtype=dtype).state_dict())
    unet.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    check(type(unet).from_pretrained(tmp_path / "shards", torch_dtype=dtype).state_dict())
    torch.save(unet.state_dict(), tmp_path / "dict.pt")
    check(torch.load(tmp_path / "dict.pt"))


def test_checkpoints_of_accelerate() -> None:
    other = pytest.importorskip("accelerate.utils.other")
    unet = ds_diffusers.patch(sd15_unet())
    kept = other.clean_state_dict_for_safetensors(unet.state_dict())
    assert kept.keys() == unet.state_dict().keys()


def test_size_of_saved_tensors() -> None:
    def size(value: object) -> int:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return len(buffer.getvalue())

    block = scattered(make_block())
    whole, part = size(block.state_dict()), size(block.attn1.to_k.weight)
    ds_diffusers.patch(block)
    assert placed(block)
    assert size(block.state_dict()) == whole
    assert size(block.attn1.to_k.weight) == part


def test_share_memory() -> None:
    block = patched_block()
    block.share_memory()
    assert all(parameter.is_shared() for parameter in block.parameters())
    check_unmoved(block)
    check_close(run(block), expected(block))


def test_from_the_memory_of_files(tmp_path) -> None:
    """from_pretrained maps the file into memory on the CPU: placing would read all of it."""
    sd15_unet().save_pretrained(tmp_path)
    unet = ds_diffusers.patch(type(sd15_unet()).from_pretrained(tmp_path))
    values = unet_arguments(unet)
    with torch.no_grad():
        run_unet(unet, values)
        result = run_unet(copy.deepcopy(unet), values)
        check_close(run_unet(unet, values), result)


def test_group_offloading_of_blocks() -> None:
    unet = ds_diffusers.patch(sd15_unet())
    values = unet_arguments(unet)
    with torch.no_grad():
        result = run_unet(unet, values)
        unet.enable_group_offload(
            torch.device("cpu"), torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1
        )
        for _ in range(3):
            check_close(run_unet(unet, values), result)


def test_unpatch_below_lora() -> None:
    peft = pytest.importorskip("peft")
    unet = ds_diffusers.patch(sd15_unet())
    unet.add_adapter(peft.LoraConfig(r=4, target_modules=["to_q", "to_v"]))
    ds_diffusers.unpatch(unet)
    assert all(parameter.untyped_storage().resizable() for parameter in unet.parameters())
