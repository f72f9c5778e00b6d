"""The parts of both adapters, and that nothing that wraps a layer is passed over."""

import accelerate
import diffusers
import pytest
import torch
import torch.nn.functional as F
from peft import LNTuningConfig, inject_adapter_in_model
from support import tiny
from support.lora import add_lora
from torch import nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from lavieid_adapters.models import layers


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, weight):
        return 2 * weight


class DoublingHook(diffusers.hooks.ModelHook):
    """A hook of diffusers."""

    def post_forward(self, module, output):
        return 2 * output


def double_forward(model: nn.Module, name: str) -> None:
    layer = model.get_submodule(name)
    forward = layer.forward
    layer.forward = lambda x: 2 * forward(x)


def replace(model: nn.Module, name: str) -> None:
    model.get_submodule(name).__class__ = type(
        "Doubling", (layers.Linear,), {"forward": lambda s, x: 2 * F.linear(x, s.weight)}
    )


class Quantised(Tensor := torch.Tensor):
    """A tensor subclass, which reads as other values than it holds."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        plain = [2 * a.as_subclass(torch.Tensor) if isinstance(a, Quantised) else a for a in args]
        return (
            func(*plain, **(kwargs or {}))
            if func is F.linear
            else super().__torch_function__(func, types, args, kwargs)
        )


WRAPPERS = {
    "LoRA": lambda model, name: add_lora(model, name),
    "accelerate": lambda model, name: accelerate.cpu_offload(model.get_submodule(name), torch.device("cpu")),
    "forward hook": lambda model, name: model.get_submodule(name).register_forward_hook(lambda m, args, out: 2 * out),
    "forward pre-hook": lambda model, name: model.get_submodule(name).register_forward_pre_hook(
        lambda m, args: 2 * args[0]
    ),
    "diffusers' hook": lambda model, name: diffusers.hooks.HookRegistry.check_if_exists_or_initialize(
        model.get_submodule(name)
    ).register_hook(DoublingHook(), "doubling"),
    "parametrization": lambda model, name: parametrize.register_parametrization(
        model.get_submodule(name), "weight", Doubled()
    ),
    "replaced forward": double_forward,
    "subclass": replace,
}


class Sum(nn.Module):
    """x + layer(y)."""

    def __init__(self):
        super().__init__()
        self.layer = tiny.randomise(layers.Linear(8, 8, bias=False))

    def forward(self, x, y):
        return layers.add_linear(x, self.layer, y)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_wraps_a_layer_is_not_passed_over(wrapper):
    model, x, y = Sum(), tiny.noise(3, 8), tiny.noise(3, 8, seed=1)
    assert layers.is_plain(model.layer)
    weight = model.layer.weight.detach().clone()
    WRAPPERS[wrapper](model, "layer")
    assert not layers.is_plain(model.layer)
    with torch.no_grad():
        computed = model.layer(y)
        assert wrapper == "accelerate" or (computed - y @ weight.t()).norm() > 0.01  # the wrapper acts
        torch.testing.assert_close(model(x.clone(), y), x + computed)
        unfolded, bias = layers.linear_map(model.layer, 8, y)
        torch.testing.assert_close(y @ unfolded.t(), computed)
        assert torch.equal(bias, torch.zeros(8))


def test_weights_that_are_a_tensor_subclass_are_not_read():
    model, y = Sum(), tiny.noise(3, 8)
    plain = model.layer(y)
    model.layer.weight = nn.Parameter(model.layer.weight.detach().as_subclass(Quantised))
    assert type(model.layer.weight) is not nn.Parameter
    assert not layers.is_plain(model.layer)
    with torch.no_grad():
        torch.testing.assert_close(model.layer(y), 2 * plain)
        torch.testing.assert_close(model(torch.zeros(3, 8), y), 2 * plain)


def test_a_plain_layer_is_read_and_its_sum_is_in_place():
    model, x, y = Sum(), tiny.noise(3, 8), tiny.noise(3, 8, seed=1)
    weight, bias = layers.linear_map(model.layer, 8, y)
    assert weight.data_ptr() == model.layer.weight.data_ptr() and bias is None
    with torch.no_grad():
        wanted = x + model.layer(y)
        assert model(x, y).data_ptr() == x.data_ptr()
    torch.testing.assert_close(x, wanted)


def test_a_bias_is_part_of_the_map():
    for layer in (tiny.randomise(layers.Linear(8, 6)), tiny.randomise(nn.Linear(8, 6))):
        weight, bias = layers.linear_map(layer, 8, tiny.noise(1))
        torch.testing.assert_close(weight, layer.weight)
        torch.testing.assert_close(bias, layer.bias)
        assert bias.norm() > 0.1


@pytest.mark.parametrize("width", [7, 8])
def test_the_gain_and_bias_of_a_wrapped_norm_are_those_that_it_computes_with(width):
    model = nn.ModuleDict({"norm": tiny.randomise(layers.LayerNorm(width))}).double()
    x = tiny.noise(3, width).double()
    assert layers.norm_map(model["norm"], width, x)[0] is not None and layers.is_plain(model["norm"])
    inject_adapter_in_model(LNTuningConfig(target_modules=["norm"]), model)
    tuned = model["norm"].ln_tuning_layers["default"]
    with torch.no_grad():
        tuned.weight.mul_(3), tuned.bias.add_(1)
    assert not layers.is_plain(model["norm"])
    gain, bias = layers.norm_map(model["norm"], width, x)
    torch.testing.assert_close(gain, tuned.weight)
    torch.testing.assert_close(bias, tuned.bias)
    torch.testing.assert_close(F.layer_norm(x, (width,)) * gain + bias, model["norm"](x))


def test_linear_and_layer_norm_follow_their_inputs_dtype():
    x = torch.randn(4, 8)
    for layer in (layers.Linear(8, 6), layers.LayerNorm(8)):
        assert layer(x.bfloat16()).dtype == torch.bfloat16
        assert layer.to(torch.float8_e4m3fn)(x).dtype == torch.float32


def test_zero_init_zeroes_weight_and_bias():
    layer = layers.zero_init(layers.Linear(8, 6))
    assert torch.equal(layer(torch.randn(4, 8)), torch.zeros(4, 6))


def test_cross_attention_attends_to_the_context():
    phi = tiny.randomise(layers.CrossAttention(32, 16, num_heads=2, head_dim=8)).double()
    x, context = torch.randn(2, 5, 32, dtype=torch.float64), torch.randn(2, 7, 16, dtype=torch.float64)
    query = phi.to_query(phi.norm_query(x)).unflatten(-1, (2, 8))
    key, value = (t.unflatten(-1, (2, 8)) for t in phi.to_key_value(phi.norm_context(context)).chunk(2, -1))
    scores = torch.einsum("bnhd,blhd->bhnl", query, key) / 8**0.5
    out = torch.einsum("bhnl,blhd->bnhd", scores.softmax(-1), value).flatten(2)
    torch.testing.assert_close(phi(x, context), phi.to_out(out))
    assert not torch.allclose(phi(x, context), phi(x, context.flip(-1)))


def test_rotation_depends_on_the_difference_of_frames_alone():
    x, y = torch.randn(1, 1, 1, 2, 16, dtype=torch.float64).expand(2, 5, -1, -1, -1)
    cos, sin = layers.frame_rotation(5, 16, x)
    rotated_x, rotated_y = layers.rotate(x, cos, sin), layers.rotate(y, cos, sin)
    product = torch.einsum("fphd,gphd->fg", rotated_x, rotated_y)
    assert (product[0] - product[0, 0]).abs().max() > 0.01
    for k in range(5):
        torch.testing.assert_close(product.diagonal(k), product[0, k].expand(5 - k))


def test_causal_block_equals_masked_attention_and_sees_no_later_frame():
    block = tiny.randomise(layers.CausalBlock(32, num_heads=2)).double()
    x = torch.randn(2, 4, 3, 32, dtype=torch.float64)
    rotation = layers.frame_rotation(4, 16, x)
    qkv = block.to_query_key_value(block.norm_attention(x)).unflatten(-1, (3, 2, 16))
    query, key, value = qkv.unbind(dim=3)
    query, key = layers.rotate(query, *rotation), layers.rotate(key, *rotation)
    query, key, value = (t.flatten(1, 2).transpose(1, 2) for t in (query, key, value))
    frame = torch.arange(4).repeat_interleave(3)
    seen = F.scaled_dot_product_attention(query, key, value, attn_mask=frame[:, None] >= frame)
    y = x + block.to_out(seen.transpose(1, 2).flatten(2)).view_as(x)
    wanted = y + block.feed_forward(block.norm_feed_forward(y))
    torch.testing.assert_close(block(x, rotation), wanted)
    with torch.no_grad():  # sums in place
        torch.testing.assert_close(block(x.clone(), rotation), wanted)

    changed = x.clone()
    changed[:, 2] += 1
    difference = (block(changed, rotation) - block(x, rotation)).abs().amax(dim=(0, 2, 3))
    assert torch.equal(difference[:2], torch.zeros(2, dtype=torch.float64))
    assert (difference[2:] > 0).all()


class NoFloat64OffTheCpu(TorchDispatchMode):
    """As on MPS, which has no float64: the meta device stands in for it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.float64 and out.device.type != "cpu":
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_angles_are_computed_where_there_is_float64(dtype):
    with NoFloat64OffTheCpu():
        with pytest.raises(TypeError, match="MPS"):
            torch.arange(3, dtype=torch.float64, device="meta")
        cos, sin = layers.frame_rotation(13, 64, torch.empty(1, dtype=dtype, device="meta"))
    assert (cos.device.type, sin.dtype, cos.shape) == ("meta", dtype, (13, 1, 1, 32))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_angles_are_those_of_float64_rounded_once(dtype):
    cos, sin = layers.frame_rotation(13, 64, torch.empty(1, dtype=dtype))
    angle = torch.arange(13, dtype=torch.float64)[:, None] / 10000 ** (torch.arange(0, 64, 2, dtype=torch.float64) / 64)
    torch.testing.assert_close(cos[:, 0, 0], angle.cos().to(dtype), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(sin[:, 0, 0], angle.sin().to(dtype), rtol=1e-6, atol=1e-7)
