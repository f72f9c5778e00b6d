"""Eqs. 1, 5 and 6, written literally in float64."""

import pytest
import torch
from support import tiny
from support.schedulers import SCHEDULERS

from lavieid_adapters.data.labels import IGNORED
from lavieid_adapters.training.losses import diffusion_loss, lavieid_loss, route_accuracy, route_loss, route_targets
from lavieid_adapters.training.noising import add_noise, draw_timesteps

# b batch · n video tokens · m components · r routes
SHAPE = (2, 3, 4, 4, 6)
LABELS = torch.tensor([[0, 5, IGNORED, 3, 1, 2, 6, 4], [IGNORED, 2, 2, 6, IGNORED, 0, 1, IGNORED]])


def sample(name: str):
    """A prediction of the host, latents, noise, timesteps and the scheduler."""
    latents, noise, prediction = (tiny.latents(*SHAPE, seed=seed).double() for seed in range(3))
    timesteps = draw_timesteps(SCHEDULERS[name], torch.tensor([0.2, 0.7]))
    return prediction, latents, noise, timesteps, SCHEDULERS[name]


def literal_target(name: str, latents, noise, timesteps, scheduler):
    """What the host is asked for, sample by sample."""
    targets = []
    for z, epsilon, t in zip(latents, noise, timesteps, strict=True):
        if name.startswith("epsilon"):
            targets.append(epsilon)
        elif name.startswith("sample"):
            targets.append(z)
        elif name.startswith("flow_prediction"):
            targets.append(epsilon - z)
        else:
            alpha_bar = scheduler.alphas_cumprod[t].double()
            targets.append(alpha_bar**0.5 * epsilon - (1 - alpha_bar) ** 0.5 * z)
    return torch.stack(targets)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_diffusion_loss_equals_eq_1(name):
    prediction, latents, noise, timesteps, scheduler = sample(name)
    prediction.requires_grad_()
    target = literal_target(name, latents, noise, timesteps, scheduler)
    loss = diffusion_loss(prediction, latents, noise, timesteps, scheduler)
    wanted = sum((target.flatten() - prediction.flatten()) ** 2) / target.numel()
    assert wanted > 0.5
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(loss, prediction)
    torch.testing.assert_close(gradient, 2 * (prediction - target) / target.numel(), rtol=1e-10, atol=1e-14)
    assert diffusion_loss(target, latents, noise, timesteps, scheduler) < 1e-20


@pytest.mark.parametrize("name", ["epsilon", "v_prediction, CogVideoX-5B", "sample", "flow_prediction"])
def test_diffusion_loss_has_the_gradients_of_finite_differences(name):
    prediction, latents, noise, timesteps, scheduler = sample(name)
    small = [t[:, :1, :2, :2, :2].clone() for t in (prediction, latents, noise)]
    small[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda p: diffusion_loss(p, *small[1:], timesteps, scheduler), small[:1])


@pytest.mark.parametrize("name", ["v_prediction, CogVideoX-5B", "v_prediction, CogVideoX-2B"])
def test_for_velocities_it_is_the_loss_that_diffusers_trains_cogvideox_with(name):
    output, latents, noise, timesteps, scheduler = sample(name)
    noisy = add_noise(scheduler, latents, noise, timesteps)
    output.requires_grad_()
    # As in diffusers' examples/cogvideo: the velocity of a velocity is the denoised sample.
    denoised = scheduler.get_velocity(output, noisy, timesteps)
    weights = 1 / (1 - scheduler.alphas_cumprod.double()[timesteps])[:, None, None, None, None]
    assert weights[0] > 1.01 * weights[1]
    theirs = (weights * (denoised - latents) ** 2).reshape(2, -1).mean(dim=1).mean()
    ours = diffusion_loss(output, latents, noise, timesteps, scheduler)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    gradients = [torch.autograd.grad(loss, output)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_diffusion_loss_of_bfloat16_is_computed_in_float32(name):
    prediction, latents, noise, timesteps, scheduler = sample(name)
    narrow = [t.bfloat16() for t in (prediction, latents, noise)]
    loss = diffusion_loss(*narrow, timesteps, scheduler)
    assert loss.dtype == torch.float32
    exact = diffusion_loss(*(t.double() for t in narrow), timesteps, scheduler)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=0)


def test_losses_that_are_kept_for_a_curve_keep_no_latents():
    loss = diffusion_loss(*sample("v_prediction"))
    assert loss > 0 and loss.untyped_storage().nbytes() == loss.itemsize


def test_predictions_and_noise_of_another_shape_are_refused():
    prediction, latents, noise, timesteps, scheduler = sample("epsilon")
    both = r"\(2, 3, 8, 4, 6\).*\(2, 3, 4, 4, 6\)"
    with pytest.raises(ValueError, match=both):
        diffusion_loss(prediction.repeat(1, 1, 2, 1, 1), latents, noise, timesteps, scheduler)
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 4, 6\).*\(2, 3, 4, 4, 6\)"):
        diffusion_loss(prediction, latents, noise[:1], timesteps, scheduler)  # which would broadcast


def logits_of(routes: int, dtype: torch.dtype = torch.float64, mask: torch.Tensor | None = None) -> torch.Tensor:
    """(2, r, 8) logits; those of masked components are what the router gives for them."""
    logits = torch.randn(2, routes, 8, generator=torch.Generator().manual_seed(0)).to(dtype) * 3
    if mask is not None:
        hidden = torch.cat([~mask, torch.zeros(2, routes - mask.shape[1], dtype=torch.bool)], dim=1)
        logits = logits.masked_fill(hidden[..., None], torch.finfo(dtype).min)
    return logits.requires_grad_()


def literal_route_loss(logits, labels, mask=None):
    """Eq. 5 with y one-hot, as a mean over the tokens that have a label."""
    routes = logits.shape[1]
    visible = torch.ones(2, routes, dtype=torch.bool)
    if mask is not None:
        visible[:, : mask.shape[1]] = mask
    y = torch.zeros(2, routes, labels.shape[1], dtype=torch.float64)
    for b, row in enumerate(labels.tolist()):
        for n, label in enumerate(row):
            if 0 <= label < routes and visible[b, label]:
                y[b, label, n] = 1
    w = (logits.double() - logits.double().amax(dim=1, keepdim=True)).exp()
    w = w / w.sum(dim=1, keepdim=True)
    return -torch.where(y == 1, w, 1).log().sum() / y.sum(), int(y.sum())


MASK = torch.tensor([[True, True, True, False, True, True], [True, True, False, True, True, False]])


@pytest.mark.parametrize("mask", [None, MASK], ids=["all components", "some hidden"])
@pytest.mark.parametrize(("routes", "labelled"), [(6, {None: 10, "masked": 7}), (7, {None: 12, "masked": 9})])
def test_route_loss_equals_eq_5(routes, labelled, mask):
    logits = logits_of(routes, mask=mask)
    wanted, count = literal_route_loss(logits, LABELS, mask)
    assert count == labelled[None if mask is None else "masked"]
    loss = route_loss(logits, LABELS, mask)
    assert 0.5 < wanted < 10
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)
    got, exact = (torch.autograd.grad(value, logits)[0] for value in (loss, wanted))
    assert exact.norm() > 0.1
    torch.testing.assert_close(got, exact, rtol=1e-10, atol=1e-14)


def test_route_loss_has_the_gradients_of_finite_differences():
    assert torch.autograd.gradcheck(lambda logits: route_loss(logits, LABELS, MASK), [logits_of(7)])


def test_a_token_without_a_label_weighs_nothing():
    logits, labels = logits_of(6), LABELS.clone()
    loss = route_loss(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    ignored = (labels == IGNORED) | (labels == 6)
    assert gradient.abs().sum(dim=1)[ignored].max() == 0
    assert gradient.abs().sum(dim=1)[~ignored].min() > 0
    other = torch.where(ignored[:, None], 100.0, logits)
    assert torch.equal(route_loss(other, labels), loss)


def test_tokens_of_no_component_are_the_backgrounds_only_where_there_is_one():
    with_background, without = (route_targets(logits_of(routes), LABELS) for routes in (7, 6))
    assert torch.equal(with_background, LABELS)
    assert torch.equal(without, LABELS.masked_fill(LABELS == 6, IGNORED))
    assert (with_background == 6).sum() == 2


def test_tokens_of_hidden_components_are_nobodys_but_the_backgrounds_stay():
    targets = route_targets(logits_of(7), LABELS, MASK)
    assert targets.tolist() == [
        [0, 5, IGNORED, IGNORED, 1, 2, 6, 4],
        [IGNORED, IGNORED, IGNORED, 6, IGNORED, 0, 1, IGNORED],
    ]
    assert LABELS[0, 3] == 3  # what was given is not written to


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("routes", [6, 7])
def test_masked_components_leave_loss_and_gradients_finite(routes, dtype):
    logits = logits_of(routes, dtype, MASK)
    assert logits.min() == torch.finfo(dtype).min
    loss = route_loss(logits, LABELS, MASK)
    wanted, _ = literal_route_loss(logits, LABELS, MASK)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()
    assert gradient.norm() > 0.1
    assert gradient[:, :6][~MASK].abs().max() == 0


def test_masked_components_of_the_router_itself_leave_loss_and_gradients_finite():
    router, z = tiny.router(background=True), torch.randn(2, 8, tiny.DIM, generator=torch.Generator().manual_seed(1))
    logits = router.route_logits(z, tiny.tokens(2), MASK)
    assert logits.min() < -1e38
    loss = route_loss(logits, LABELS, MASK)
    torch.testing.assert_close(loss.double(), literal_route_loss(logits, LABELS, MASK)[0], rtol=1e-5, atol=0)
    loss.backward()
    trained = [router.aggregate, router.to_component.weight, router.to_video.weight, router.background_logit]
    for parameter in trained:
        assert parameter.grad.isfinite().all()
        assert parameter.grad.norm() > 0


@pytest.mark.parametrize(
    ("labels", "mask"),
    [
        (torch.full((2, 8), IGNORED), None),
        (torch.full((2, 8), 6), None),
        (torch.full((2, 8), 3), torch.tensor([[True] * 3 + [False] + [True] * 2] * 2)),
        (LABELS, torch.zeros(2, 6, dtype=torch.bool)),
    ],
    ids=["unknown", "no component, no background", "hidden component", "nothing is shown"],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_no_labelled_token_is_no_loss_and_no_gradient(labels, mask, dtype):
    assert route_loss(logits_of(6), LABELS) > 0
    logits = logits_of(6, dtype, mask)
    loss = route_loss(logits, labels, mask)
    assert loss == 0
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.shape == logits.shape
    assert gradient.abs().max() == 0  # NaN is not
    correct, labelled = route_accuracy(logits, labels, mask)
    assert (correct, labelled) == (0, 0)


def test_route_loss_of_bfloat16_is_computed_in_float32():
    logits = logits_of(7, torch.bfloat16)
    loss = route_loss(logits, LABELS)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), literal_route_loss(logits, LABELS)[0], rtol=1e-5, atol=0)


@pytest.mark.parametrize("mask", [None, MASK], ids=["all components", "some hidden"])
@pytest.mark.parametrize("routes", [6, 7])
def test_route_accuracy_counts_what_eq_5_counts(routes, mask):
    logits = logits_of(routes, mask=mask)
    _, count = literal_route_loss(logits, LABELS, mask)
    correct, labelled = route_accuracy(logits, LABELS, mask)
    targets = route_targets(logits, LABELS, mask)
    pairs = zip(logits.argmax(dim=1).flatten().tolist(), targets.flatten().tolist(), strict=True)
    assert (correct, labelled) == (sum(found == target for found, target in pairs), count)
    # The labels that are counted, made the largest logits, are all found; made the smallest, none.
    y = torch.nn.functional.one_hot(targets.clamp(min=0), routes).mT
    assert route_accuracy(logits.detach() + 1e3 * y, LABELS, mask) == (count, count)
    assert route_accuracy(logits.detach() - 1e3 * y, LABELS, mask) == (0, count)


def test_lavieid_loss_equals_eq_6():
    diffusion, route = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.7, 1.9))
    assert lavieid_loss(diffusion, route).item() == pytest.approx(0.7 + 1.9)
    total = lavieid_loss(diffusion, route, lambda_diff=0.25, lambda_route=3.0)
    assert total.item() == pytest.approx(0.25 * 0.7 + 3 * 1.9)
    assert [g.item() for g in torch.autograd.grad(total, [diffusion, route])] == [0.25, 3]


@pytest.mark.parametrize("measure", [route_loss, route_accuracy])
@pytest.mark.parametrize(
    ("logits", "labels", "mask", "message"),
    [
        ((2, 6, 8), (2, 9), None, r"\(2, 9\).*\(2, 6, 8\)"),
        ((2, 6, 8), (1, 8), None, r"\(1, 8\).*\(2, 6, 8\)"),
        ((6, 8), (6, 8), None, r"\(6, 8\).*\(6, 8\)"),
        ((2, 6, 8), (2, 8), (1, 6), r"\(1, 6\).*\(2, 6, 8\)"),
        ((2, 6, 8), (2, 8), (2, 4), r"\(2, 4\).*\(2, 6, 8\)"),
        ((2, 6, 8), (2, 8), (2, 7), r"\(2, 7\).*\(2, 6, 8\)"),
        ((2, 7, 8), (2, 8), (2, 5), r"\(2, 5\).*\(2, 7, 8\)"),
    ],
)
def test_bad_shapes_are_refused_with_both_values(measure, logits, labels, mask, message):
    mask = None if mask is None else torch.ones(mask, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        measure(torch.randn(logits), torch.zeros(labels, dtype=torch.int64), mask)
