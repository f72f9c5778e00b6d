import diffusers
import pytest
import torch
from support import tiny
from support.hosts import wan_family as wan
from support.hosts.runs import hosted
from support.pipelines import build
from torch import nn

from lavieid_adapters.hosts.pipeline import HostPipeline, VideoPipeline, guided_passes


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"passes": 3}, "passes is 3, but must be 1, 2 or a function"),
        ({"layout": "bfhwc"}, "layout is 'bfhwc', but must be 'bcfhw' or 'bfchw'"),
        ({"output": "bcf"}, "output is 'bcf', but must be an order of the axes"),
        ({"transformers": "dit"}, "transformers is 'dit', but must be a tuple"),
        ({"decoders": "vae"}, "decoders is 'vae', but must be a tuple"),
        ({"decoders": (1,)}, r"decoders is \(1,\), but must be a tuple"),
        ({"transformers": ()}, r"transformers is \(\), but must name one"),
        ({"latent_channels": 0}, "latent_channels is 0, but must be at least 1"),
    ],
)
def test_a_description_that_cannot_be_is_refused(attributes, message):
    with pytest.raises(ValueError, match=message):
        VideoPipeline(**attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {"seam": 3}, {"seam": None}, {"host": 3}, {"unrefined": True}, {"denormalised": 1}, {"divisor": 2.0},
        {"run": None}, {"current": 0}, {"units": "ms"}, {"latent_channels": 4.0}, {"latent_channels": True},
    ],
    ids=str,
)  # fmt: skip
def test_an_attribute_of_another_type_is_refused(attributes):
    ((name, value),) = attributes.items()
    with pytest.raises(TypeError, match=f"{name} is {value!r}, but must be "):
        VideoPipeline(**attributes)


class Mine:
    """A user's pipeline that shares nothing with diffusers' but the idea."""

    def __init__(self):
        self.dit, self.codec = tiny.wan(), nn.Linear(2, 2)


def test_a_pipeline_that_notes_nothing_has_what_its_description_says():
    pipe = Mine()
    pipeline = HostPipeline(pipe, VideoPipeline(transformers=("dit",), decoders=("codec",), latent_channels=7))
    assert pipeline.transformers == [pipe.dit]
    assert pipeline.decoders == [pipe.codec]
    assert pipeline.latent_channels == 7
    assert pipeline.device == torch.device("cpu")
    assert pipeline.source is None and pipeline.base_model is None
    assert pipeline.running and pipeline.passes({}) == 1
    assert pipeline.progress(torch.tensor([500.0])) is None
    scale, shift = pipeline.moments(torch.empty(1, 7, 3, 2, 2))
    assert (scale.item(), shift.item()) == (1, 0)


def test_what_a_pipeline_lacks_is_said():
    pipe = Mine()
    with pytest.raises(ValueError, match="This Mine has no transformer"):
        _ = HostPipeline(pipe, VideoPipeline()).transformers
    with pytest.raises(ValueError, match="This Mine has no VAE, which TAM needs"):
        _ = HostPipeline(pipe, VideoPipeline()).latent_channels
    with pytest.raises(ValueError, match="The config of Linear has neither latent_channels nor z_dim"):
        _ = HostPipeline(pipe, VideoPipeline(decoders=("codec",))).latent_channels


def test_models_and_sizes_of_diffusers_pipelines():
    pipe, _ = wan.wan22_pipeline()
    pipeline = hosted(pipe)
    assert pipeline.transformers == [pipe.transformer, pipe.transformer_2]
    assert pipeline.decoders == [pipe.vae]
    assert pipeline.latent_channels == pipe.vae.config.z_dim == 4
    pipe.transformer = None
    assert pipeline.transformers == [pipe.transformer_2]
    cogvideox = hosted(build()[0])
    assert cogvideox.latent_channels == cogvideox.pipe.vae.config.latent_channels


def test_the_source_is_where_the_pipeline_was_loaded_from(tmp_path):
    pipe, _ = build()
    assert hosted(pipe).source is None
    pipe.save_pretrained(tmp_path / "base")
    loaded = hosted(diffusers.CogVideoXPipeline.from_pretrained(tmp_path / "base", local_files_only=True))
    assert loaded.source == loaded.base_model == str(tmp_path / "base")


@pytest.mark.parametrize(
    ("noted", "passes"),
    [
        ({}, None),
        ({"do_classifier_free_guidance": True}, 2),
        ({"do_classifier_free_guidance": False}, 1),
        ({"_guidance_scale": 6.0}, 2),
        ({"_guidance_scale": 1.0}, None),  # CogVideoX's dynamic guidance sets it to 1
    ],
)
def test_guidance_is_read_from_what_a_pipe_notes(noted, passes):
    pipe = type("Pipe", (), noted)()
    assert guided_passes(pipe) == passes


def test_a_forward_outside_a_run_tells_neither_passes_nor_progress():
    pipe, _ = wan.wan_pipeline()
    pipeline, timestep = hosted(pipe), torch.tensor([500.0])
    pipe.scheduler.set_timesteps(4)
    pipe._num_timesteps = 4
    for now, progress in zip(pipe.scheduler.timesteps, (0.0, 0.25, 0.5, 0.75), strict=True):
        pipe._current_timestep = now
        assert pipeline.running and pipeline.passes({}) == 1
        assert pipeline.progress(timestep).tolist() == [progress]
    pipe._current_timestep = None
    assert not pipeline.running
    assert pipeline.passes({}) is None
    assert pipeline.progress(timestep) is None


def test_a_video_to_video_run_is_the_end_of_the_schedulers():
    pipe, _ = wan.wan_pipeline()
    pipe.scheduler.set_timesteps(8)
    pipe._num_timesteps, pipe._current_timestep = 4, pipe.scheduler.timesteps[6]
    assert hosted(pipe).progress(torch.tensor([0.0])).tolist() == [0.5]


def test_a_model_that_came_later_is_refused():
    pipe, _ = wan.wan_pipeline()
    pipeline, blocks, decoders = hosted(pipe), [pipe.transformer.blocks[0]], [pipe.vae]
    pipeline.need_attached(blocks)
    pipeline.need_refined(decoders)
    pipe.transformer, pipe.vae = tiny.wan(), wan.wan_pipeline()[0].vae
    with pytest.raises(ValueError, match="got a WanTransformer3DModel after adapters were attached"):
        pipeline.need_attached(blocks)
    with pytest.raises(ValueError, match="got another AutoencoderKLWan after adapters were attached"):
        pipeline.need_refined(decoders)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_untrained_tam_leaves_what_the_vae_decodes_bit_for_bit(dtype):
    pipe, _ = wan.wan_pipeline()
    latents = torch.randn(1, 4, 3, 4, 6).to(dtype)
    pipeline = hosted(pipe)
    assert torch.equal(pipeline.refine_denormalised(latents, lambda normal: normal.clone()), latents)
    scale, shift = pipeline.moments(latents)
    wanted = (latents.float() - shift) / scale * 2 * scale + shift
    doubled = pipeline.refine_denormalised(latents, lambda normal: 2 * normal).float()
    torch.testing.assert_close(doubled, wanted, rtol=0.02, atol=0.05 if dtype == torch.bfloat16 else 1e-4)
