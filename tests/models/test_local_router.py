"""The local router against eqs. 2 and 3 as they are printed, and with LoRA, hooks and offloading on its layers."""

import accelerate
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from support import tiny
from support.lora import add_lora, check_lora, linear_layers

from lavieid_adapters import LocalRouter

# b batch · m components · l tokens a component · n video tokens


def literal_logits(router, z, component_tokens):
    """The argument of the softmax in eq. 2, component by component as it is printed; (b, m, n)."""
    z_norm, logits = router.norm_video(z), []
    for m in range(component_tokens.shape[1]):
        l_norm = router.norm_component(component_tokens[:, m])
        correlation = (l_norm @ router.to_component.weight.T.to(z.dtype)) @ (
            z_norm @ router.to_video.weight.T.to(z.dtype)
        ).mT
        logits.append((router.aggregate[m : m + 1].to(z.dtype) @ correlation).squeeze(1))
    return torch.stack(logits, dim=1)


def literal_forward(router, z, component_tokens):
    """Eq. 3, component by component as it is printed, with alpha = 1."""
    weights = literal_logits(router, z, component_tokens).softmax(dim=1)
    attention, out = router.cross_attention, torch.zeros_like(z)
    for m in range(component_tokens.shape[1]):
        query = attention.to_query(attention.norm_query(z))
        key, value = attention.to_key_value(attention.norm_context(component_tokens[:, m])).chunk(2, dim=-1)
        heads = [t.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for t in (query, key, value)]
        scores = (heads[0] @ heads[1].mT * attention.head_dim**-0.5).softmax(dim=-1)
        phi = attention.to_out((scores @ heads[2]).transpose(1, 2).flatten(2))
        out = out + weights[:, m, :, None] * phi
    return z + out


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@pytest.fixture
def z():
    # A mean far from zero shows that centring was folded into the weights rightly.
    return torch.randn(2, 30, tiny.DIM, generator=torch.Generator().manual_seed(1)) * 2 + 3


def test_fresh_router_is_an_exact_no_op(z):
    router = LocalRouter(dim=64, token_dim=32, inner_dim=64, num_heads=2, tokens_per_component=8)
    assert torch.equal(router(z, tiny.tokens(2)), z)
    assert not torch.equal(tiny.router()(z, tiny.tokens(2)), z)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_output_and_gradients_equal_the_literal_formula(z, dtype, bound):
    router = tiny.router().to(dtype)
    inputs = [z.to(dtype).requires_grad_(), tiny.tokens(2).to(dtype).requires_grad_()]
    parameters = dict(router.named_parameters())
    ours, literal = router(*inputs), literal_forward(router, *inputs)
    assert relative(literal, z) > 0.01
    assert relative(ours - inputs[0], literal - inputs[0]) < bound

    direction = torch.randn(z.shape, generator=torch.Generator().manual_seed(2), dtype=dtype)
    got = torch.autograd.grad(ours, [*inputs, *parameters.values()], direction)
    wanted = torch.autograd.grad(literal, [*inputs, *parameters.values()], direction)
    for name, a, b in zip(["hidden_states", "component_tokens", *parameters], got, wanted, strict=True):
        assert b.norm() > 0, name
        assert relative(a, b) < bound, name


def test_bfloat16_is_no_further_from_float64_than_the_literal_formula(z):
    router, z, component_tokens = tiny.router(), z.bfloat16(), tiny.tokens(2).bfloat16()
    exact = literal_forward(router.double(), z.double(), component_tokens.double())
    ours = router.bfloat16()(z, component_tokens)
    assert ours.dtype == torch.bfloat16
    assert 0 < relative(ours, exact) <= relative(literal_forward(router, z, component_tokens), exact)


def test_route_logits_and_weights_equal_eq_2(z):
    router, component_tokens = tiny.router().double(), tiny.tokens(2).double()
    literal = literal_logits(router, z.double(), component_tokens)
    assert relative(router.route_logits(z.double(), component_tokens), literal) < 1e-10
    weights = router.route_weights(z.double(), component_tokens)
    assert weights.std(dim=1).max() > 0.05
    torch.testing.assert_close(weights, literal.softmax(dim=1), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("identities", [1, 2])
def test_route_logits_and_their_gradients_equal_the_literal_ones(z, identities, dtype, bound):
    router = tiny.router(background=True).to(dtype)
    inputs = [z.to(dtype).requires_grad_(), tiny.tokens(identities).to(dtype).requires_grad_()]
    logits = router.route_logits(*inputs)
    assert logits.dtype == dtype
    literal = literal_logits(router, inputs[0], inputs[1].expand(2, -1, -1, -1))
    assert literal.std() > 0.1
    assert relative(logits[:, :6], literal) < bound
    assert torch.equal(logits[:, 6], router.background_logit.detach().expand(2, 30))

    trained = {n: p for n, p in router.named_parameters() if not n.startswith(("cross_attention", "background"))}
    direction = torch.randn(literal.shape, generator=torch.Generator().manual_seed(2), dtype=dtype)
    got = torch.autograd.grad(logits[:, :6], [*inputs, *trained.values()], direction, retain_graph=True)
    wanted = torch.autograd.grad(literal, [*inputs, *trained.values()], direction)
    for name, a, b in zip(["hidden_states", "component_tokens", *trained], got, wanted, strict=True):
        assert b.norm() > 0, name
        assert relative(a, b) < bound, name
    (of_background,) = torch.autograd.grad(logits.sum(), router.background_logit)
    assert of_background.item() == pytest.approx(2 * 30)


def test_route_logits_of_bfloat16_video_tokens_are_float32(z):
    router, component_tokens = tiny.router(), tiny.tokens(2)
    logits = router.route_logits(z.bfloat16(), component_tokens)
    assert logits.dtype == torch.float32
    assert 0 < relative(logits, router.route_logits(z, component_tokens)) < 0.02
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert relative(router.route_logits(z, component_tokens), router.route_logits(z, component_tokens)) < 0.02


def test_masked_component_has_the_least_logit_there_is_and_the_others_keep_theirs(z):
    router, mask = tiny.router(background=True).double(), torch.ones(2, 6, dtype=torch.bool)
    mask[0, 2] = False
    z, component_tokens = z.double(), tiny.tokens(2).double()
    visible, masked = (router.route_logits(z, component_tokens, m) for m in (None, mask))
    assert (masked[0, 2] == torch.finfo(torch.float64).min).all()
    shown = torch.cat([mask, torch.ones(2, 1, dtype=torch.bool)], dim=1)
    assert torch.equal(masked[shown], visible[shown])
    assert masked.isfinite().all()


@pytest.mark.parametrize("use", ["route_logits", "route_weights", "forward"])
@pytest.mark.parametrize(
    ("hidden_states", "tokens", "mask", "error", "message"),
    [
        ((2, 30, 32), (2, 6, 8, 32), None, ValueError, r"hidden_states has shape \(2, 30, 32\).*64"),
        ((30, 64), (1, 6, 8, 32), None, ValueError, r"hidden_states has shape \(30, 64\).*\(batch, tokens, 64\)"),
        ((2, 30, 64), (3, 6, 8, 32), None, ValueError, "3 identities for a batch of 2"),
        ((1, 30, 64), (2, 6, 8, 32), None, ValueError, "2 identities for a batch of 1"),
        ((2, 30, 64), (2, 6, 8, 16), None, ValueError, r"component_tokens has shape \(2, 6, 8, 16\).*6, 8, 32"),
        ((2, 30, 64), (6, 8, 32), None, ValueError, r"component_tokens has shape \(6, 8, 32\).*batch, 6, 8, 32"),
        ((2, 30, 64), (2, 6, 8, 32), (6,), ValueError, r"component_mask has shape \(6,\).*\(2, 6\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_by_all_of_eqs_2_and_3(use, hidden_states, tokens, mask, error, message):
    mask = None if mask is None else torch.ones(mask, dtype=torch.bool)
    with pytest.raises(error, match=message):
        getattr(tiny.router(), use)(torch.randn(hidden_states), torch.randn(tokens), mask)


def test_float32_weights_take_bfloat16_tokens_and_give_their_dtype(z):
    out = tiny.router()(z.bfloat16(), tiny.tokens(1).bfloat16())
    assert out.dtype == torch.bfloat16
    assert relative(out, tiny.router()(z, tiny.tokens(1))) < 0.02


def test_masked_component_takes_no_weight_and_its_tokens_do_not_matter(z):
    router, mask = tiny.router(), torch.ones(2, 6, dtype=torch.bool)
    mask[0, 2] = False
    visible, masked = router.route_weights(z, tiny.tokens(2)), router.route_weights(z, tiny.tokens(2), mask)
    assert visible[0, 2].min() > 0
    assert masked[0, 2].max() == 0
    torch.testing.assert_close(masked.sum(dim=1), torch.ones(2, 30))
    torch.testing.assert_close(masked[1], visible[1])

    others = tiny.tokens(2)
    others[0, 2] = 100.0
    assert not torch.equal(router(z, others), router(z, tiny.tokens(2)))
    torch.testing.assert_close(router(z, others, mask), router(z, tiny.tokens(2), mask))


def test_identity_with_no_visible_component_leaves_its_sample_alone(z):
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1] = False
    out = tiny.router()(z, tiny.tokens(2), mask)
    assert torch.equal(out[1], z[1])
    assert not torch.equal(out[0], z[0])


def test_background_takes_weight_by_its_learned_logit(z):
    router, component_tokens = tiny.router(background=True), tiny.tokens(2)
    assert router.route_logits(z, component_tokens).shape == (2, 7, 30)
    with torch.no_grad():
        router.background_logit.fill_(-1e4)
    everything = router(z, component_tokens)
    torch.testing.assert_close(router.route_weights(z, component_tokens).sum(dim=1), torch.ones(2, 30))
    assert relative(everything, literal_forward(router, z, component_tokens)) < 1e-6
    with torch.no_grad():
        router.background_logit.fill_(1e4)
    assert not torch.equal(everything, z)
    assert torch.equal(router(z, component_tokens), z)
    router.background_logit.data.zero_()
    router.route_weights(z, component_tokens).sum().backward()
    assert router.background_logit.grad.abs() > 0


def test_strength_scales_each_component(z):
    router, component_tokens = tiny.router(), tiny.tokens(2)
    full = router(z, component_tokens) - z
    parts = [router(z, component_tokens, strength=torch.eye(6)[None, m]) - z for m in range(6)]
    assert all(part.norm() > 0.01 * full.norm() for part in parts)
    torch.testing.assert_close(sum(parts), full, rtol=1e-4, atol=1e-5)
    assert torch.equal(router(z, component_tokens, strength=torch.zeros(1, 6)), z)


def test_one_identity_serves_a_batch_and_select_gives_each_sample_its_own(z):
    router, component_tokens = tiny.router(), tiny.tokens(2)
    one = router(z, component_tokens[:1])
    torch.testing.assert_close(one, router(z, component_tokens[[0, 0]]))
    assert not torch.allclose(one[1], router(z, component_tokens)[1])
    folded = router.fold(component_tokens, dtype=z.dtype)
    swapped = router.apply_folded(z, folded.select(torch.tensor([1, 0])))
    torch.testing.assert_close(swapped, router(z, component_tokens.flip(0)))


def test_presets_have_the_papers_size():
    with torch.device("meta"):
        assert round(LocalRouter.from_preset("cogvideox-5b").num_parameters() / 1e6) == 31
        assert LocalRouter.from_preset("cogvideox-2b", background=True).config.dim == 1920
    with pytest.raises(ValueError, match=r"no preset 'sora'.*cogvideox-5b"):
        LocalRouter.from_preset("sora")


@pytest.mark.parametrize(
    ("tokens", "mask", "error", "message"),
    [
        (torch.randn(1, 6, 8, 16), None, ValueError, r"\(1, 6, 8, 16\).*6, 8, 32"),
        (torch.randn(6, 8, 32), None, ValueError, r"\(6, 8, 32\)"),
        (torch.ones(1, 6, 8, 32, dtype=torch.int64), None, TypeError, "int64"),
        (torch.randn(1, 6, 8, 32), torch.ones(1, 6), TypeError, "torch.bool"),
        (torch.randn(1, 6, 8, 32), torch.ones(6, dtype=torch.bool), ValueError, r"\(6,\).*\(1, 6\)"),
        (torch.randn(3, 6, 8, 32), None, ValueError, "3 identities for a batch of 2"),
    ],
)
def test_bad_tokens_are_refused_with_both_values(z, tokens, mask, error, message):
    with pytest.raises(error, match=message):
        tiny.router()(z, tokens, mask)


def test_hidden_states_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 5, 32\).*64"):
        tiny.router()(torch.randn(1, 5, 32), tiny.tokens(1))


def test_inner_dim_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"inner_dim 64.*num_heads 3"):
        tiny.router(num_heads=3)


def test_layerwise_casting_of_the_router_itself(z):
    router = tiny.router()
    exact = router(z, tiny.tokens(1))
    router.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert router.to_video.weight.dtype == torch.float8_e4m3fn
    assert 0 < relative(router(z, tiny.tokens(1)) - z, exact - z) < 0.1
    assert F.mse_loss(router(z, tiny.tokens(1)), exact) > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains_with_gradients_near_those_of_float32(z, dtype):
    router, component_tokens = tiny.router(), tiny.tokens(2)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, 1] = False
    exact = torch.autograd.grad(router(z, component_tokens, mask).square().mean(), list(router.parameters()))
    with torch.autocast("cpu", dtype=dtype):
        loss = router(z, component_tokens, mask).square().mean()
    for got, wanted in zip(torch.autograd.grad(loss, list(router.parameters())), exact, strict=True):
        assert relative(got, wanted) < 0.05


def test_mask_that_is_no_tensor_is_refused(z):
    with pytest.raises(TypeError, match="component_mask is list"):
        tiny.router()(z, tiny.tokens(1), [True] * 6)


LAYERS = linear_layers(tiny.router())


def test_all_linear_layers_are_tried():
    assert len(LAYERS) == 5 and "cross_attention.to_out" in LAYERS


@pytest.mark.parametrize("layer", LAYERS)
def test_lora_on_every_layer_acts_is_trained_and_merges(z, layer):
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, 1] = False
    router = tiny.router(background=True).double()
    check_lora(router, layer, lambda router: router(z.double(), tiny.tokens(2).double(), mask))


@pytest.mark.parametrize("layer", ["to_component", "to_video"])
def test_lora_acts_on_routes_too(z, layer):
    check_lora(tiny.router().double(), layer, lambda r: r.route_weights(z.double(), tiny.tokens(2).double()))
    check_lora(tiny.router().double(), layer, lambda r: r.route_logits(z.double(), tiny.tokens(2).double()))


def test_peft_models_train_all_layers_at_once(z):
    config = LoraConfig(r=2, target_modules=[name.split(".")[-1] for name in LAYERS], init_lora_weights=False)
    base = tiny.router()
    plain = base(z, tiny.tokens(2))
    model = get_peft_model(base, config)
    out = model(z, tiny.tokens(2))
    assert relative(out, plain) > 0.01
    out.square().sum().backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * len(LAYERS)
    assert all(parameter.grad.norm() > 0 for parameter in trained.values())
    torch.testing.assert_close(model.merge_and_unload()(z, tiny.tokens(2)), out.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", LAYERS)
def test_biases_of_wrapped_layers_are_those_of_the_literal_formula(z, layer):
    router, z, component_tokens = tiny.router().double(), z.double(), tiny.tokens(2).double()
    plain = router(z, component_tokens)
    router.get_submodule(layer).register_forward_hook(lambda module, args, out: out + 0.3)
    out = router(z, component_tokens)
    assert relative(out, plain) > 1e-4

    def logits(m):
        component = router.to_component(router.norm_component(component_tokens[:, m]))
        return router.aggregate[m] @ (component @ router.to_video(router.norm_video(z)).mT)

    weights = torch.stack([logits(m) for m in range(6)], dim=1).softmax(dim=1)
    wanted = z + sum(weights[:, m, :, None] * router.cross_attention(z, component_tokens[:, m]) for m in range(6))
    assert relative(out - z, wanted - z) < 1e-10


def test_offloaded_weights_are_fetched_by_the_layers_that_hold_them(z):
    router = tiny.router()
    wanted = router(z, tiny.tokens(2))
    accelerate.cpu_offload(router, torch.device("cpu"))
    assert router.to_video.weight.is_meta and router.norm_video.weight.is_meta
    with torch.no_grad():
        assert relative(wanted, z) > 0.01
        torch.testing.assert_close(router(z, tiny.tokens(2)), wanted)


def test_a_fold_may_be_kept_until_something_wraps_a_layer():
    assert tiny.router(background=True).folds_alike()
    for layer in LAYERS:
        router = tiny.router()
        add_lora(router, layer)
        assert not router.folds_alike(), layer
    router = tiny.router()
    handle = router.norm_video.register_forward_hook(lambda module, args, out: out)
    assert not router.folds_alike()
    handle.remove()
    assert router.folds_alike()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({name: value}, error, f"{name} is {value!r}")
        for name in ("dim", "token_dim", "inner_dim", "num_heads", "num_components", "tokens_per_component")
        for value, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError), ("2", TypeError))
    ]
    + [({"background": 1}, TypeError, "background is 1"), ({"background": "no"}, TypeError, "background is 'no'")],
    ids=str,
)
def test_settings_that_are_not_of_their_kind_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        tiny.router(**settings)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int64])
def test_dtypes_in_which_nothing_is_computed_are_refused(z, dtype):
    with pytest.raises(TypeError, match=f"component_tokens is {dtype}"):
        tiny.router()(z, tiny.tokens(2).to(dtype))
    with pytest.raises(TypeError, match=f"hidden_states is {dtype}"):
        tiny.router()(z.to(dtype), tiny.tokens(2))
