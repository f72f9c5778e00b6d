"""Eq. 1's forward process against the schedulers of diffusers, and its undoing."""

import itertools

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from support import tiny
from support.schedulers import COGVIDEOX, SCHEDULERS

from lavieid_adapters.training.noising import (
    add_noise,
    denoise,
    denoised,
    draw_timesteps,
    prediction_target,
    prediction_type,
)

# As CogVideoX-5B has them.
FLOWS = [name for name in SCHEDULERS if name.startswith("flow")]
DIFFUSIONS = [name for name in SCHEDULERS if not name.startswith("flow")]


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
