import diffusers
import numpy as np
import pytest
import torch
from support import tiny
from support.hosts.flux import flux, flux_inputs
from support.tiny import wan
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from lavieid_adapters import attach
from lavieid_adapters.hosts.host import (
    Host,
    activation_dtype,
    find_block,
    find_stream,
    token_width,
    weights_device,
)
from lavieid_adapters.hosts.host_table import find_host


class Own(nn.Module):
    """A user's transformer: 4 tokens of history ahead of the clip's, and timesteps that go from 1 to 0."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.ModuleList([nn.Linear(tiny.DIM, tiny.DIM)]) for _ in range(2))

    def forward(self, x, t, history):
        x = torch.cat([history, x.flatten(1, 3)], 1)
        return self.second[0](self.first[0](x))


@pytest.mark.parametrize("block_idx", [0, 1, -1])
def test_a_users_own_transformer_works_by_its_description(block_idx):
    torch.manual_seed(0)
    model, router = Own(), tiny.router()
    host = Host(
        ("first", "second"), 0, grid=lambda transformer, arguments: arguments["x"].shape[1:4], video_tokens="last",
        latents="x", timestep="t", progress=lambda t: 1 - t,
    )  # fmt: skip
    inputs = torch.randn(2, 2, 3, 4, tiny.DIM), torch.full((2,), 0.7), torch.randn(2, 4, tiny.DIM)
    with torch.no_grad(), attach(router, model, block_idx, host=host) as handle:
        handle.set_tokens(tiny.tokens())
        with handle.record_routes() as routes, handle.record_stream() as streams:
            steered = model(*inputs)
        with handle.disabled():
            base = model(inputs[0], t=inputs[1], history=inputs[2])
        handle.start = 0.5
        assert torch.equal(model(*inputs), base)
        handle.start = 0.2
        assert torch.equal(model(*inputs), steered)
    assert torch.equal(steered[:, :4], base[:, :4])
    assert not torch.equal(steered[:, 4:], base[:, 4:])
    assert routes[0].shape == (2, 6, 2, 3, 4)
    assert streams[0].shape == (2, 24, tiny.DIM)


class MyBlock(diffusers.models.transformers.transformer_flux.FluxTransformerBlock):
    """A user's block, made from one that diffusers knows."""


@pytest.mark.parametrize("mine", [False, True])
@pytest.mark.parametrize("block_idx", [0, 1])
def test_a_described_host_of_known_blocks_has_the_stream_that_diffusers_says(block_idx, mine):
    model, inputs, router, given = flux(), flux_inputs(), tiny.router(), []
    if mine:
        model.transformer_blocks[0].__class__ = MyBlock
    host = Host(("transformer_blocks", "single_transformer_blocks"))
    block = find_block(model, host, block_idx)
    block.register_forward_hook(lambda block, args, output: given.append(output))
    with torch.no_grad(), attach(router, model, block_idx, host=host) as handle:
        handle.set_tokens(tiny.tokens())
        model(**inputs)
        with handle.disabled():
            model(**inputs)
    (steered_text, steered), (text, picture) = given
    assert torch.equal(steered_text, text)
    assert not torch.equal(steered, picture)
    torch.testing.assert_close(steered, router(picture, tiny.tokens(1)))


def test_a_host_that_says_the_stream_itself_is_believed():
    block = flux().transformer_blocks[0]
    assert find_stream(block, Host("transformer_blocks")) == 1
    assert find_stream(block, Host("transformer_blocks", stream=0)) == 0
    for wrapped in (torch.compile(block), checkpoint_wrapper(block)):
        assert find_stream(wrapped, Host("transformer_blocks")) == 1


def test_blocks_that_diffusers_does_not_know_need_the_stream_said():
    model = Own()
    with pytest.raises(ValueError, match=r"output of Linear .* is not known.*Host\(\.\.\., stream=\).*0 if"):
        attach(tiny.router(), model, host=Host("first"))
    assert not hasattr(model.first[0], "_diffusers_hook") and not model._forward_pre_hooks
    attach(tiny.router(), model, host=Host("first", stream=0)).detach()


def test_routers_of_one_block_that_say_other_streams_are_refused():
    model = flux()
    with (
        attach(tiny.router(), model, host=Host("transformer_blocks")),
        pytest.raises(ValueError, match="stream is 0, but a router on block 0 says 1"),
    ):
        attach(tiny.router(), model, host=Host("transformer_blocks", stream=0), adapter_name="other")


def test_a_description_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="video_tokens is 'middle'"):
        Host("blocks", grid=lambda *_: None, video_tokens="middle")
    with pytest.raises(ValueError, match="need a grid"):
        Host("blocks", video_tokens="last")
    with pytest.raises(ValueError, match="stream is -1"):
        Host("blocks", stream=-1)
    with pytest.raises(ValueError, match="no block list 'second'"):
        find_block(tiny.transformer(), Host(("transformer_blocks", "second")), 0)


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


def test_activation_dtype_is_not_that_of_a_few_weights_in_float32():
    model = wan().to(torch.bfloat16)
    model.scale_shift_table.data = model.scale_shift_table.data.float()  # the first of its parameters
    assert next(model.parameters()).dtype == torch.float32
    assert activation_dtype(model) == torch.bfloat16
    assert activation_dtype(nn.Identity()) == torch.float32


def test_weights_device_is_that_of_a_block_with_weights():
    block = tiny.transformer().transformer_blocks[0]
    assert weights_device(block) == torch.device("cpu")
    assert weights_device(block.to("meta")) is None
    assert weights_device(nn.Identity()) is None


@pytest.mark.parametrize("block_idx", [1.0, "1", True, None])
def test_a_block_that_is_no_whole_number_is_refused(block_idx):
    with pytest.raises(TypeError, match=r"block_idx is .*, but must be a whole number"):
        attach(tiny.router(), tiny.transformer(), block_idx)


def test_a_block_may_be_a_number_of_numpy():
    model = tiny.transformer()
    assert find_block(model, find_host(model), np.int64(-1)) is model.transformer_blocks[2]
    with attach(tiny.router(), model, np.int32(1)) as handle:
        assert handle.block_idx == 1 and type(handle.block_idx) is int
    with pytest.raises(TypeError, match="must be a whole number"):
        find_block(model, find_host(model), np.bool_(True))


@pytest.mark.parametrize(
    "attributes",
    [
        {"stream": 1.5}, {"stream": True}, {"stream": "0"}, {"blocks": ()}, {"blocks": 3}, {"blocks": ("a", 1)},
        {"blocks": ["a"]}, {"grid": (1, 2, 3)}, {"order": 1}, {"level": None}, {"progress": 0.5}, {"latents": None},
        {"timestep": 1}, {"width": 64}, {"frames_in_batch": 1}, {"fresh_output": "no"},
    ],
    ids=str,
)  # fmt: skip
def test_an_attribute_of_another_type_is_refused(attributes):
    (name,) = attributes
    with pytest.raises(TypeError, match=rf"\b{name} (is )?.*but (they )?must be "):
        Host(**{"blocks": "blocks", **attributes})
