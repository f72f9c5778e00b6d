"""One step: which blocks run, whom each sample of a batch sees, and what TAM learns from."""

import pytest
import torch
from support import tiny
from support.tiny_training import SIZES, perturb

from lavieid_adapters import LocalRouter, Trainer
from lavieid_adapters.data.dataset import collate


@pytest.mark.parametrize("adapters", [False, True])
def test_tam_learns_from_what_several_guided_steps_make(here, trained, tmp_path, adapters):
    alone = {} if adapters else {"tam": SIZES["tam"]}
    settings = {"stage": "tam", "tam_max_noise": 0.9, "batch_size": 2, **alone}
    settings |= {"adapters": str(trained)} if adapters else {}
    losses = {}
    for steps, scale in ((1, 1.0), (3, 1.0), (3, 4.0), (1, 4.0)):
        changed = {"tam_denoising_steps": steps, "tam_guidance_scale": scale}
        trainer = Trainer(here.config(tmp_path / f"{steps} {scale}", **settings, **changed))
        sizes = []
        trainer.step.transformer.register_forward_hook(
            lambda _, args, output, sizes=sizes: sizes.append(len(output[0]))
        )
        batch = collate([trainer.samples[i, 0] for i in range(2)])
        losses[steps, scale] = trainer.step(batch)["tam"].item()
        assert sizes == [2 if scale == 1 else 4] * steps
    assert len(set(losses.values())) == 4


def test_route_warmup_runs_no_block_behind_the_router(here, tmp_path):
    trainer = Trainer(here.config(tmp_path / "out", steps=2, route_warmup_steps=1, block_idx=1))
    perturb(trainer)
    counts = [0, 0, 0]
    for i, block in enumerate(trainer.step.transformer.transformer_blocks):
        block.register_forward_hook(lambda module, inputs, output, i=i: counts.__setitem__(i, counts[i] + 1))
    gradients, losses, batch = {}, {}, trainer.samples[0, 0]
    for route_only, wanted in ((True, [1, 1, 0]), (False, [1, 1, 1])):
        counts[:] = 0, 0, 0
        losses[route_only] = trainer.step(batch, route_only)
        assert counts == wanted
        gradients[route_only] = torch.autograd.grad(losses[route_only]["route"], trainer.adapters["router"].aggregate)
    assert losses[True]["route"].item() == losses[False]["route"].item() > 0
    assert losses[True]["loss"].item() == losses[True]["route"].item()
    torch.testing.assert_close(gradients[True], gradients[False])
    counts[:] = 0, 0, 0
    trainer.run()
    assert counts[1] == 2 and counts[2] >= 1
    assert counts[2] < 3  # the second step's, and once more in its backward pass


def test_a_batch_of_two_has_an_identity_each(here, tmp_path):
    trainer = Trainer(here.config(tmp_path / "out", batch_size=2, checkpointing=0))
    perturb(trainer)
    step, singles = trainer.step, [trainer.samples[i, i] for i in (0, 1)]
    predictions = []
    step.transformer.register_forward_hook(lambda module, inputs, output: predictions.append(output[0].detach()))
    losses = [step(batch) for batch in (*singles, collate(singles))]
    assert [len(p) for p in predictions] == [1, 1, 2]
    torch.testing.assert_close(torch.cat(predictions[:2]), predictions[2], rtol=1e-4, atol=1e-5)
    # Without the right identities the predictions would be others.
    swapped = collate(singles)
    swapped.images, swapped.mask = swapped.images.flip(0), swapped.mask.flip(0)
    swapped.id_embedding = swapped.id_embedding.flip(0)
    step(swapped)
    assert not torch.allclose(predictions[3], predictions[2], rtol=1e-4, atol=1e-5)
    diffusion = [loss["diffusion"].item() for loss in losses]
    assert sum(diffusion[:2]) / 2 == pytest.approx(diffusion[2], rel=1e-5)
    labelled = [loss["labelled"].item() for loss in losses]
    assert labelled[0] + labelled[1] == labelled[2] and labelled[0] != labelled[1]
    routes = [loss["route"].item() for loss in losses]
    expected = (routes[0] * labelled[0] + routes[1] * labelled[1]) / labelled[2]
    assert expected == pytest.approx(routes[2], rel=1e-5)
    out = trainer.run()
    assert tiny.router().config.dim == LocalRouter.from_pretrained(out, subfolder="router").config.dim
