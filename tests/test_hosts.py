import diffusers
import pytest
import tiny
import torch
from torch import nn

from lavieid_adapters.hosts import HOSTS, Host, activation_dtype, find_block, find_host, token_width, weights_device


def wan() -> nn.Module:
    return diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=32, in_channels=4, out_channels=4, text_dim=32,
        freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=32,
    ).eval()  # fmt: skip


def test_every_described_host_is_a_class_of_diffusers():
    for name in HOSTS:
        assert issubclass(getattr(diffusers, name), nn.Module)


def test_subclasses_and_compiled_transformers_are_found_as_their_class():
    class Mine(diffusers.CogVideoXTransformer3DModel):
        pass

    model = tiny.transformer()
    mine = Mine.from_config(model.config)
    assert find_host(mine) is find_host(torch.compile(model)) is HOSTS["CogVideoXTransformer3DModel"]


def test_unknown_transformer_is_refused_and_the_message_shows_how_to_describe_it():
    class Unknown(nn.Module):
        def __init__(self):
            super().__init__()
            self.my_blocks = nn.ModuleList([nn.Linear(4, 4)])

    with pytest.raises(ValueError, match=r"Unknown are not known.*Host\(blocks='my_blocks', stream=0\)"):
        find_host(Unknown())
    assert isinstance(find_block(Unknown(), Host("my_blocks"), 0), nn.Linear)
    with pytest.raises(ValueError, match="no block list 'blocks'"):
        find_block(Unknown(), Host("blocks"), 0)


@pytest.mark.parametrize("block_idx", [3, -4])
def test_block_out_of_range_is_refused(block_idx):
    model = tiny.transformer()
    with pytest.raises(ValueError, match=f"block_idx is {block_idx}.*3 blocks.*0 to 2"):
        find_block(model, find_host(model), block_idx)
    assert find_block(model, find_host(model), -1) is model.transformer_blocks[2]


@pytest.mark.parametrize(("patch_size_t", "frames"), [(None, 5), (2, 3)])
def test_cogvideox_grid(patch_size_t, frames):
    model = tiny.transformer(patch_size_t=patch_size_t, patch_bias=patch_size_t is None)
    assert find_host(model).grid(model, {"hidden_states": torch.empty(1, 5, 4, 16, 24)}) == (frames, 8, 12)


def test_token_width_is_read_from_the_config():
    model = tiny.transformer()
    assert token_width(model, find_host(model)) == tiny.DIM
    assert token_width(model, Host("transformer_blocks", width="num_layers")) == 3
    assert token_width(nn.Linear(2, 2), Host("blocks")) is None


def test_activation_dtype_is_that_of_the_weights_that_are_not_quantised():
    model = tiny.transformer().to(torch.bfloat16)
    assert activation_dtype(model) == torch.bfloat16
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    assert torch.float8_e4m3fn in {p.dtype for p in model.parameters()}
    assert activation_dtype(model) == torch.bfloat16


def test_weights_device_is_that_of_a_block_with_weights():
    block = tiny.transformer().transformer_blocks[0]
    assert weights_device(block) == torch.device("cpu")
    assert weights_device(block.to("meta")) is None
    assert weights_device(nn.Identity()) is None
