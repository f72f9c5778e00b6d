import inspect

import diffusers
import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline
from support import tiny
from support.own_pipeline import HOST, Dit, Studio
from support.pipelines import IMAGE, SIZE, build, generate
from support.small_cogvideox import small_components
from support.tiny import NO_GRID
from support.whole_photo import whole_photo_processor
from torch import nn

from lavieid_adapters import (
    TAM,
    Host,
    IdentityReader,
    LaVieID,
    VideoPipeline,
    attach,
    attach_lavieid,
)
from lavieid_adapters.attachment.attach import fresh_adapter


@pytest.fixture
def pipe():
    return build()[0]


@pytest.fixture
def adapters():
    return {"router": tiny.router(), "encoder": tiny.encoder(), "tam": tiny.tam()}


@pytest.fixture
def model():
    return tiny.transformer(**NO_GRID)


def trace(model):
    """All that an attached router could leave behind on a transformer."""
    return [
        (name, set(module.__dict__), inspect.signature(module.forward), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]


def test_fresh_adapters_fit_the_pipe_change_nothing_and_warn_once(pipe):
    base = generate(pipe)
    with attach_lavieid(pipe) as lavieid:
        assert lavieid.router.config.dim == lavieid.tam.config.dim == tiny.DIM
        assert lavieid.encoder.config.token_dim == lavieid.router.config.token_dim
        lavieid.set_identity(torch.randn(6, 32, 2048))
        with pytest.warns(UserWarning, match="untrained") as caught:
            assert torch.equal(generate(pipe), base)
            assert torch.equal(generate(pipe), base)
        assert len(caught) == 1


def test_adapters_may_come_in_any_form(pipe):
    router, tam = tiny.router(), tiny.tam()
    for given in (router, [router], {"router": router}, (tam, router)):
        with attach_lavieid(pipe, given) as lavieid:
            assert isinstance(lavieid, LaVieID)
            assert lavieid.router is router
    with attach_lavieid(pipe, tam) as lavieid, pytest.raises(ValueError, match="No router is attached"):
        lavieid.set_identity(tiny.tokens())
    for given, message in (
        ([torch.nn.Linear(2, 2)], "'Linear' is a Linear"),
        ({"tam": router}, "'tam' is a LocalRouter"),
    ):
        with pytest.raises(TypeError, match=message):
            attach_lavieid(pipe, given)
    with pytest.raises(ValueError, match="No adapter"):
        attach_lavieid(pipe, [])


def test_adapters_that_do_not_fit_are_refused_and_the_pipe_is_untouched(pipe, adapters):
    base, pristine = generate(pipe), set(pipe.__dict__)
    with pytest.raises(ValueError, match=r"router is 32 wide.*are 64"):
        attach_lavieid(pipe, {**adapters, "router": tiny.router(dim=32)})
    with pytest.raises(ValueError, match=r"16 latent channels.*has 4"):
        attach_lavieid(pipe, {**adapters, "tam": TAM(dim=64, num_layers=1, num_heads=2)})
    with pytest.raises(ValueError, match="block_idx is 7"):
        attach_lavieid(pipe, adapters, block_idx=7)
    with pytest.raises(ValueError, match="StableDiffusionPipeline is not supported"):
        attach_lavieid(object.__new__(diffusers.StableDiffusionPipeline), adapters)
    assert set(pipe.__dict__) == pristine
    assert torch.equal(generate(pipe), base)


def test_hub_settings_reach_the_models_that_read_photos(pipe, adapters, tmp_path):
    attach_lavieid(pipe, adapters).save_pretrained(tmp_path / "adapters")
    with attach_lavieid(build()[0], tmp_path / "adapters", cache_dir=tmp_path, local_files_only=True) as lavieid:
        assert lavieid.reader.face.vision._kwargs["local_files_only"] is True
        assert lavieid.reader.face.recognizer.cache_dir == tmp_path


def test_a_pipeline_without_a_vae_takes_a_router_alone(tmp_path):
    components = small_components()
    whole = CogVideoXPipeline(**components)
    pipe = CogVideoXPipeline(**{**components, "vae": None})
    for each in (whole, pipe):
        each.set_progress_bar_config(disable=True)
    with attach_lavieid(whole, tiny.router()) as lavieid:
        lavieid.set_identity(tiny.tokens())
        steered = generate(whole, **SIZE, output_type="latent")
    base = generate(pipe, **SIZE, output_type="latent")
    with attach_lavieid(pipe, [tiny.router(), tiny.encoder(id_dim=520)]) as lavieid:
        lavieid.reader = IdentityReader(lavieid.encoder, whole_photo_processor(lavieid.encoder, tmp_path))
        lavieid.encode(IMAGE, on_no_face="whole_image")
        lavieid.set_identity(tiny.tokens())
        assert np.array_equal(generate(pipe, **SIZE, output_type="latent"), steered)
    assert not np.array_equal(base, steered)
    for adapters in (tiny.tam(), None):
        with pytest.raises(ValueError, match=r"no VAE, which TAM needs\. Load one, or attach a router alone"):
            attach_lavieid(pipe, adapters)
    assert np.array_equal(generate(pipe, **SIZE, output_type="latent"), base)


def test_bad_attachments_are_refused_and_leave_no_trace(model):
    before, router = trace(model), tiny.router()
    with pytest.raises(ValueError, match=r"router is 32 wide.*are 64\. .*LocalRouter\(dim=64\)"):
        attach(tiny.router(dim=32), model)
    with pytest.raises(ValueError, match=r"block_idx is 9.*3 blocks"):
        attach(router, model, 9)
    with pytest.raises(ValueError, match="Linear are not known"):
        attach(router, nn.Linear(2, 2))
    with pytest.raises(ValueError, match="2 names for the router's 6 components"):
        attach(router, model, names=["face", "hair"])
    assert trace(model) == before
    with attach(router, model), pytest.raises(ValueError, match="attached to block 0 already"):
        attach(router, model, adapter_name="other")
    assert trace(model) == before


def test_attach_moves_the_router_to_the_transformers_device(model):
    router, moved = tiny.router(), []
    router.to = lambda device: moved.append(device)
    with attach(router, model):
        assert moved == [torch.device("cpu")]


def test_described_host_of_the_users_own():
    class Block(nn.Module):
        def forward(self, text, video):
            return text, video * 2

    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = nn.ModuleList([Block()])

        def forward(self, text, video):
            return self.stages[0](text, video)

    model, text, video = Mine(), torch.randn(1, 3, 8), torch.randn(1, 5, tiny.DIM)
    with attach(tiny.router(), model, host=Host("stages", stream=1)) as handle:
        handle.set_tokens(tiny.tokens())
        new_text, new_video = model(text, video)
    assert torch.equal(new_text, text)
    torch.testing.assert_close(new_video, tiny.router()(video * 2, tiny.tokens(1)))


@pytest.mark.parametrize("given", [{"scale": 0.8}, {"blok_idx": 1}, {"local_files_only": True, "torch_dtype": "auto"}])
def test_keywords_that_are_not_known_are_refused(pipe, adapters, given, tmp_path):
    attach_lavieid(pipe, adapters).save_pretrained(tmp_path / "adapters")
    for source in (adapters, tmp_path / "adapters"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{next(iter(given))}'|'torch_dtype'"):
            attach_lavieid(build()[0], source, **given)


def test_keywords_of_the_hub_go_with_its_adapters_alone(pipe, adapters):
    with pytest.raises(TypeError, match="revision, local_files_only only go with a Hub repo or a folder"):
        attach_lavieid(pipe, adapters, revision="main", local_files_only=True)


@pytest.mark.parametrize("guidance", ["in one batch", "apart"])
@pytest.mark.parametrize("seam", ["vae.decode", "finish"])
def test_a_pipeline_and_a_transformer_of_the_users_own(guidance, seam):
    """Router, an identity for each prompt, guidance, window, TAM and detaching, without a row in a table."""
    pipe = Studio(together=guidance == "in one batch")
    pipeline = VideoPipeline(
        passes=2 if pipe.together else 1, seam=seam, transformers=("dit",), decoders=("codec",), latent_channels=4,
        divisor=lambda pipe: 2.0, run=lambda pipe: pipe.timesteps,
    )  # fmt: skip
    prompts, two = ["she walks", "a park"], tiny.tokens(2)
    base, before = pipe(prompts), (trace(pipe.dit), set(vars(pipe)), set(vars(pipe.codec)))
    with pytest.raises(ValueError, match=r"Studio is not supported.*VideoPipeline"):
        attach_lavieid(pipe, tiny.router())
    with pytest.raises(ValueError, match="The blocks of Dit are not known"):
        attach_lavieid(pipe, tiny.router(), pipeline=pipeline)

    adapters = {"router": tiny.router(), "tam": tiny.tam(layout="bcfhw")}
    with attach_lavieid(pipe, adapters, host=HOST, pipeline=pipeline) as lavieid:
        lavieid.beta = 0
        alone = []
        for tokens in two:
            lavieid.set_identity(tokens)
            alone.append(pipe(prompts))
        lavieid.set_identity(two)
        both = pipe(prompts)
        torch.testing.assert_close(both[0], alone[0][0])
        torch.testing.assert_close(both[1], alone[1][1])
        for i in range(2):
            assert not torch.allclose(both[i], base[i])
            assert not torch.allclose(alone[0][i], alone[1][i])
        lavieid.set_identity(tiny.tokens(4))
        with pytest.raises(ValueError, match=f"4 identities .* need a batch of {8 if pipe.together else 4} in"):
            pipe(prompts)

        lavieid.set_identity(two)
        lavieid.start, lavieid.end = 0.25, 0.75
        with lavieid.record_routes() as routes:
            windowed = pipe(prompts)
        assert not torch.allclose(windowed, both) and not torch.allclose(windowed, base)
        assert {tuple(route.shape[1:]) for route in routes} == {(6, 3, 2, 4)}
        acted = [bool(alpha.any()) for alpha in alphas(lavieid, pipe, prompts)]
        calls = 1 if pipe.together else 2
        assert acted == [False] * calls + [True] * 2 * calls + [False] * calls
        lavieid.start, lavieid.end, lavieid.beta = 0, 1, 0.2

        refined = pipe(prompts)
        assert not torch.allclose(refined, both)
        lavieid.enabled = False
        plain, latents = pipe(prompts), pipe(prompts, decode=False)
        assert torch.equal(plain, base)
        lavieid.enabled = True
        wanted = pipe.codec(adapters["tam"].refine(pipe(prompts, decode=False), chunks=3) * 0.5)
        torch.testing.assert_close(refined, wanted)
        torch.testing.assert_close(lavieid.refine(latents), adapters["tam"].refine(latents, chunks=3))
    assert torch.equal(pipe(prompts), base)
    assert (trace(pipe.dit), set(vars(pipe)), set(vars(pipe.codec))) == before


def alphas(lavieid, pipe, prompts) -> list[torch.Tensor]:
    """alpha in each forward of a run."""
    seen, now = [], lavieid.strength.now
    lavieid.strength.now = lambda *args: seen.append(now(*args)) or seen[-1]
    pipe(prompts)
    del lavieid.strength.now
    return seen


def test_fresh_adapters_fit_a_pipeline_of_the_users_own():
    pipe = Studio(together=True)
    pipeline = VideoPipeline(transformers=("dit",), decoders=("codec",), latent_channels=4)
    with attach_lavieid(pipe, host=HOST, pipeline=pipeline) as lavieid:
        assert lavieid.router.config.dim == lavieid.tam.config.dim == tiny.DIM
        assert (lavieid.tam.config.latent_channels, lavieid.tam.config.layout) == (4, "bcfhw")
    wide = Host("layers", 0)
    with pytest.raises(ValueError, match="config of Dit does not say how wide its video tokens are"):
        fresh_adapter("router", pipe, host=wide, pipeline=pipeline)
    assert fresh_adapter("router", pipe, host=wide, pipeline=pipeline, dim=32, inner_dim=64).config.dim == 32


def test_a_transformer_of_the_users_own_without_a_pipeline():
    model = Dit()
    inputs = torch.randn(2, 4, 3, 4, 8), torch.tensor([500, 500]), torch.randn(2, 5, tiny.DIM)
    with torch.no_grad(), attach(tiny.router(), model, host=HOST) as handle:
        with handle.disabled():
            base = model(*inputs)
        handle.set_tokens(tiny.tokens())
        assert not torch.equal(model(*inputs), base)
