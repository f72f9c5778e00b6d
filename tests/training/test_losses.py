"""Eqs. 1, 5 and 6, written literally in float64, and eq. 1's forward process against the schedulers of diffusers."""

import itertools

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from support import tiny
from support.schedulers import COGVIDEOX, SCHEDULERS

from lavieid_adapters.data.labels import IGNORED
from lavieid_adapters.training.losses import (
    add_noise,
    denoise,
    denoised,
    diffusion_loss,
    draw_timesteps,
    lavieid_loss,
    prediction_target,
    prediction_type,
    route_accuracy,
    route_loss,
    route_targets,
)

# b batch · n video tokens · m components · r routes
SHAPE = (2, 3, 4, 4, 6)
LABELS = torch.tensor([[0, 5, IGNORED, 3, 1, 2, 6, 4], [IGNORED, 2, 2, 6, IGNORED, 0, 1, IGNORED]])
FLOWS = [name for name in SCHEDULERS if name.startswith("flow")]
DIFFUSIONS = [name for name in SCHEDULERS if not name.startswith("flow")]


# the forward process


def drawn(name: str, dtype: torch.dtype = torch.float64):
    """A scheduler with latents, noise and timesteps of three samples, near both ends and in the middle."""
    latents, noise = (tiny.latents(3, 2, 4, 4, 6, seed=seed).to(dtype) for seed in (0, 1))
    return SCHEDULERS[name], latents, noise, draw_timesteps(SCHEDULERS[name], torch.tensor([0.001, 0.4, 0.9]))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_prediction_type_is_the_schedulers(name):
    assert prediction_type(SCHEDULERS[name]) == name.partition(",")[0]


def test_unknown_prediction_type_is_refused():
    scheduler = EulerDiscreteScheduler(prediction_type="v_prediction")
    assert prediction_type(scheduler) == "v_prediction"
    scheduler.register_to_config(prediction_type="score")
    latents = tiny.latents()
    for use in (
        lambda: prediction_type(scheduler),
        lambda: draw_timesteps(scheduler, torch.rand(1)),
        lambda: add_noise(scheduler, latents, latents, torch.zeros(1, dtype=torch.int64)),
    ):
        with pytest.raises(ValueError, match=r"EulerDiscreteScheduler has prediction_type 'score'.*epsilon, v_pred"):
            use()


@pytest.mark.parametrize("name", DIFFUSIONS)
def test_noise_is_added_as_the_scheduler_does(name):
    scheduler, latents, noise, timesteps = drawn(name)
    noisy = add_noise(scheduler, latents, noise, timesteps)
    assert not torch.allclose(noisy, latents, atol=0.01)
    torch.testing.assert_close(noisy, scheduler.add_noise(latents, noise, timesteps), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", DIFFUSIONS)
def test_noise_and_velocity_have_the_bits_of_the_schedulers_that_define_them_by_alpha_bar(name, dtype):
    scheduler, latents, noise, timesteps = drawn(name, dtype)
    assert torch.equal(add_noise(scheduler, latents, noise, timesteps), scheduler.add_noise(latents, noise, timesteps))
    if name.startswith("v_prediction"):
        target = prediction_target(scheduler, latents, noise, timesteps)
        assert torch.equal(target, scheduler.get_velocity(latents, noise, timesteps))


@pytest.mark.parametrize("cls", [EulerDiscreteScheduler, UniPCMultistepScheduler, DPMSolverMultistepScheduler])
def test_noise_is_that_of_eq_1_where_the_schedulers_own_is_that_of_an_inference_run(cls):
    scheduler, like = cls(), DDPMScheduler(beta_schedule="linear")
    assert torch.equal(scheduler.alphas_cumprod, like.alphas_cumprod)
    _, latents, noise, timesteps = drawn("epsilon")
    noisy = add_noise(scheduler, latents, noise, timesteps)
    assert torch.equal(noisy, like.add_noise(latents, noise, timesteps))
    assert not torch.allclose(scheduler.add_noise(latents, noise, timesteps), noisy, atol=1)


def test_flow_schedulers_know_no_timestep_between_those_of_an_inference_run():
    scheduler, latents, noise, _ = drawn("flow_prediction")
    timesteps = draw_timesteps(scheduler, torch.tensor([0.12345, 0.4321, 0.98765]))
    assert add_noise(scheduler, latents, noise, timesteps).isfinite().all()
    with pytest.raises(IndexError):
        scheduler.scale_noise(latents, timesteps, noise)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_noise_is_added_as_a_flow_scheduler_does(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    timesteps = scheduler.timesteps[[999, 500, 0]]  # it knows no others than its own
    latents, noise = tiny.latents(3, 2, 4, 4, 6).double(), tiny.latents(3, 2, 4, 4, 6, seed=1).double()
    noisy = add_noise(scheduler, latents, noise, timesteps)
    assert not torch.allclose(noisy[0], noisy[1])
    torch.testing.assert_close(noisy, scheduler.scale_noise(latents, timesteps, noise), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_target_is_what_the_prediction_type_says(name):
    scheduler, latents, noise, timesteps = drawn(name)
    target = prediction_target(scheduler, latents, noise, timesteps)
    if name.startswith("v_prediction"):
        wanted = scheduler.get_velocity(latents, noise, timesteps)
        assert not torch.allclose(wanted, noise, atol=0.1)
        torch.testing.assert_close(target, wanted, rtol=1e-12, atol=1e-12)
    else:
        wanted = {"epsilon": noise, "sample": latents, "flow_prediction": noise - latents}[name.partition(",")[0]]
        assert torch.equal(target, wanted)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_denoised_undoes_noise_and_target(name, dtype, bound):
    scheduler, latents, noise, timesteps = drawn(name, dtype)
    noisy = add_noise(scheduler, latents, noise, timesteps)
    target = prediction_target(scheduler, latents, noise, timesteps)
    assert (noisy - latents).abs().max() > 1
    clean = denoised(scheduler, target, noisy, timesteps)
    assert clean.dtype == dtype
    torch.testing.assert_close(clean, latents, rtol=bound, atol=bound)
    if not name.startswith("sample"):
        assert not torch.allclose(denoised(scheduler, target + 0.1, noisy, timesteps), latents, atol=0.01)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_host_that_knows_the_latents_is_led_to_them_in_any_number_of_steps(name, steps):
    scheduler, latents, noise, timesteps = drawn(name)
    asked = []

    def predict(noisy, now):
        asked.append(now)
        return prediction_target(scheduler, latents, noise, now)

    noisy = add_noise(scheduler, latents, noise, timesteps)
    torch.testing.assert_close(denoise(scheduler, predict, noisy, timesteps, steps), latents, rtol=1e-6, atol=1e-6)
    assert len(asked) == steps and torch.equal(asked[0], timesteps)
    assert all((later < earlier)[1:].all() for earlier, later in itertools.pairwise(asked))


def test_steps_between_are_those_of_diffusers_ddim():
    scheduler = CogVideoXDDIMScheduler(**COGVIDEOX)
    scheduler.set_timesteps(10)
    latents, given = tiny.latents(1, 2, 4, 4, 6, seed=0), []

    def predict(noisy, now):
        given.append(noisy)
        return 0.3 * noisy.flip(1) + now / 1000

    denoise(scheduler, predict, latents, torch.tensor([800]), 8)
    for k in range(7):
        output = 0.3 * latents.flip(1) + (800 - 100 * k) / 1000
        latents = scheduler.step(output, 800 - 100 * k, latents, return_dict=False)[0]
        torch.testing.assert_close(given[k + 1], latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["v_prediction, CogVideoX-5B", "v_prediction, CogVideoX-2B"])
def test_velocity_tells_the_latents_where_nothing_is_left_of_them(name):
    scheduler, latents, noise, _ = drawn(name)
    last = torch.full((3,), 999)
    assert scheduler.alphas_cumprod[-1] == 0
    noisy, target = (f(scheduler, latents, noise, last) for f in (add_noise, prediction_target))
    assert torch.equal(noisy, noise)
    torch.testing.assert_close(denoised(scheduler, target, noisy, last), latents)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_bfloat16_stays_bfloat16_and_near_float64(name):
    scheduler, latents, noise, timesteps = drawn(name, torch.bfloat16)
    wide = [scheduler, latents.double(), noise.double(), timesteps]
    for make in (add_noise, prediction_target):
        made, exact = make(scheduler, latents, noise, timesteps), make(*wide)
        assert made.dtype == torch.bfloat16
        # What is left of a sum of two of size 4 after each has been rounded to 8 bits.
        torch.testing.assert_close(made.double(), exact, rtol=0.02, atol=0.05)
    noisy = add_noise(scheduler, latents, noise, timesteps)
    assert denoised(scheduler, noise, noisy, timesteps).dtype == torch.bfloat16


@pytest.mark.parametrize("name", DIFFUSIONS)
def test_levels_are_rounded_to_bfloat16_only_at_the_end(name):
    scheduler, latents, noise, _ = drawn(name, torch.bfloat16)
    # In bfloat16 1 - alpha_bar itself would lose most of its bits here, as it does in the schedulers.
    timesteps = torch.full((3,), 3)
    exact = add_noise(scheduler, latents.double(), noise.double(), timesteps)
    ours = (add_noise(scheduler, latents, noise, timesteps) - exact).norm()
    assert 0 < ours < (scheduler.add_noise(latents, noise, timesteps) - exact).norm()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_each_sample_has_the_noise_of_its_own_timestep(name):
    scheduler, latents, noise, timesteps = drawn(name)
    together = add_noise(scheduler, latents, noise, timesteps)
    for i in range(3):
        alone = add_noise(scheduler, latents[i : i + 1], noise[i : i + 1], timesteps[i : i + 1])
        assert torch.equal(together[i], alone[0])
    assert not torch.equal(together, add_noise(scheduler, latents, noise, timesteps.flip(0)))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_timesteps_are_drawn_from_the_whole_range(name):
    last = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    draws = torch.cat([torch.tensor([0.0, 0.25, last]), torch.rand(10_000, generator=torch.Generator().manual_seed(0))])
    timesteps = draw_timesteps(SCHEDULERS[name], draws)
    if name in FLOWS:
        assert timesteps.dtype == torch.float32
        assert timesteps[:2].tolist() == [0, 250]
        assert 999.99 < timesteps[2] < 1000
        assert (timesteps != timesteps.round()).sum() > 9000
    else:
        assert timesteps.dtype == torch.int64
        assert timesteps[:3].tolist() == [0, 250, 999]
        counts = timesteps[3:].bincount(minlength=1000)
        assert len(counts) == 1000
        assert counts.max() < 30  # each is drawn ten times in the mean


def test_timesteps_are_as_many_as_the_scheduler_trains_with():
    assert draw_timesteps(DDPMScheduler(num_train_timesteps=40), torch.tensor([0.5, 0.999])).tolist() == [20, 39]


# the losses


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
