"""The Triton kernels: on a GPU as they are, elsewhere in Triton's interpreter."""

import dataclasses

import pytest
import torch
from support import tiny

from lavieid_adapters.models import kernels, layers

if kernels.triton is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter computes in float32 only; a GPU's matrix units would round float32 to tf32.
DTYPE, BOUND = (torch.bfloat16, 0.02) if DEVICE == "cuda" else (torch.float32, 1e-5)


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize(("identities", "strengths"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_route_and_attend_equals_the_plain_form(background, identities, strengths):
    router = tiny.router(tokens_per_component=16, background=background).to(DEVICE)
    generator = torch.Generator().manual_seed(0)
    z = (torch.randn(2, 70, tiny.DIM, generator=generator) + 3).to(DEVICE, DTYPE)
    component_tokens = torch.randn(identities, 6, 16, tiny.TOKEN_DIM, generator=generator).to(DEVICE)
    mask = torch.ones(identities, 6, dtype=torch.bool, device=DEVICE)
    mask[-1, 3] = False
    strength = torch.rand(strengths, 6, generator=generator).to(DEVICE)
    with torch.no_grad():
        exact = router.double()(z.double(), component_tokens.double(), mask, strength.double())
        folded = router.float().fold(component_tokens, mask, DTYPE)
        out = kernels.route_and_attend(z.clone(), folded, strength * folded.visible, 1e-5, in_place=False)
        assert relative(exact, z) > 0.01
        assert relative(out - z, exact - z.double()) < BOUND
        in_place = z.clone()
        again = kernels.route_and_attend(in_place, folded, strength * folded.visible, 1e-5, in_place=True)
        assert again.data_ptr() == in_place.data_ptr()
        torch.testing.assert_close(again, out)


def test_kernels_leave_gradients_and_odd_sizes_to_the_plain_form(monkeypatch):
    # A GPU's answer, on the CPU as well.
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: True))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    router, z = tiny.router(tokens_per_component=16), torch.randn(1, 4, tiny.DIM, dtype=torch.bfloat16)
    component_tokens, strength = torch.randn(1, 6, 16, tiny.TOKEN_DIM), torch.ones(1, 6)

    def usable(z=z, strength=strength):
        return kernels.usable(z, router.fold(component_tokens, dtype=torch.bfloat16), strength)

    assert not usable()
    with torch.no_grad():
        assert usable()
        assert not usable(z.float())
        assert not usable(z[..., :48])
    router.requires_grad_(False)
    assert usable()
    assert not usable(strength=strength.clone().requires_grad_())
    for part in (router.aggregate, router.cross_attention.to_out.weight, router.cross_attention.to_query.weight):
        part.requires_grad_(True)  # a part that is trained alone
        assert not usable()
        part.requires_grad_(False)


@pytest.mark.parametrize(
    ("capability", "dtypes"),
    [
        ((9, 0), {torch.bfloat16, torch.float16}),
        ((8, 0), {torch.bfloat16, torch.float16}),
        ((7, 5), {torch.float16}),
        ((7, 0), {torch.float16}),
        ((6, 1), set()),
    ],
)
def test_a_gpu_takes_the_kernels_of_the_dtypes_that_it_computes_in(monkeypatch, capability, dtypes):
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: True))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    router, component_tokens = tiny.router(tokens_per_component=16), torch.randn(1, 6, 16, tiny.TOKEN_DIM)
    kinds = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
    with torch.no_grad():
        steered = {
            dtype
            for dtype in kinds
            if kernels.usable(
                torch.randn(1, 4, tiny.DIM).to(dtype), router.fold(component_tokens, dtype=dtype), torch.ones(1, 6)
            )
        }
        rotated = {dtype for dtype in kinds if kernels.rotatable(torch.empty(1, 2, 3, 3, 2, 16, dtype=dtype))}
    assert steered == dtypes
    assert rotated == (dtypes | {torch.float32} if capability >= (7, 0) else set())


@pytest.mark.parametrize("capability", [(9, 0), (6, 1)])
def test_a_compiled_graph_takes_the_capability_as_a_constant(monkeypatch, capability):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    def add_if_capable(x):
        return x + 1 if kernels.computes_in(x.dtype, 0) else x

    torch.compiler.reset()
    compiled = torch.compile(add_if_capable, backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.zeros(2)), torch.full((2,), float(capability >= (7, 0))))


def test_a_bias_of_the_output_is_added_as_in_the_plain_form():
    router = tiny.router(tokens_per_component=16).to(DEVICE)
    z = torch.randn(2, 70, tiny.DIM, generator=torch.Generator().manual_seed(0)).to(DEVICE, DTYPE)
    strength, onto = torch.rand(2, 6, device=DEVICE), torch.zeros_like(z)
    region = torch.rand(1, 70, device=DEVICE)
    with torch.no_grad():
        folded = router.fold(torch.randn(1, 6, 16, tiny.TOKEN_DIM, device=DEVICE), dtype=DTYPE)
        without = kernels.route_and_attend(z, folded, strength, 1e-5, False, region, onto.clone())
        folded = dataclasses.replace(folded, out_bias=torch.randn(tiny.DIM, device=DEVICE, dtype=DTYPE))
        out = kernels.route_and_attend(z, folded, strength, 1e-5, False, region, onto.clone())
        exact = dataclasses.replace(folded, **{k: v.double() for k, v in vars(folded).items()})
        exact = exact.steer(z.double(), strength.double(), False, region.double(), onto.double())
    assert relative(out, without) > 0.1
    assert relative(out, exact) < BOUND


def test_rotate_query_key_equals_the_plain_form():
    qkv = torch.randn(2, 3, 5, 3, 6, 16, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    rotation = layers.frame_rotation(3, 16, qkv)
    query, key, value = qkv.unbind(dim=3)
    plain = torch.stack([layers.rotate(query, *rotation), layers.rotate(key, *rotation), value], dim=3)
    assert relative(plain, qkv) > 0.1
    with torch.no_grad():
        torch.testing.assert_close(kernels.rotate_query_key(qkv.clone(), *rotation), plain)


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_compiles_without_a_graph_break():
    router = tiny.router(tokens_per_component=16).to(DEVICE)
    z = torch.randn(2, 70, tiny.DIM, device=DEVICE, dtype=DTYPE)
    with torch.no_grad():
        folded = router.fold(torch.randn(1, 6, 16, tiny.TOKEN_DIM, device=DEVICE), dtype=DTYPE)
        compiled = torch.compile(router.apply_folded, fullgraph=True)
        out = router.apply_folded(z, folded)
        assert not torch.equal(out, z)
        torch.testing.assert_close(compiled(z, folded), out)
