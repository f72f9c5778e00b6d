"""The adapters on every pipeline that is described, of the real class with tiny models."""

import functools

import pytest
import torch
from support import tiny
from support.hosts import cogvideox_family as cogvideox
from support.hosts import cosmos_family as cosmos
from support.hosts import hunyuan_family as hunyuan
from support.hosts import ltx_family as ltx
from support.hosts import modular_family as modular
from support.hosts import wan_family as wan
from support.hosts.denormalisation import given_to_decoders, scale_and_shift
from support.hosts.runs import fitting, generate, hosted, same
from torch import Tensor, nn

from lavieid_adapters import attach_lavieid
from lavieid_adapters.hosts.pipeline_table import PIPELINES, find_pipeline

RUN = (0.0, 0.5)  # the progress in a run of two steps
# Builder → the progress of the steps, in order.
PIPES = {
    cogvideox.cogvideox_pipeline: RUN,
    cogvideox.cogvideox_control_pipeline: RUN,
    cogvideox.cogvideox_image_pipeline: RUN,
    cogvideox.cogvideox_video_pipeline: (0.0,),  # of strength 0.8
    cogvideox.consisid_pipeline: RUN,
    cosmos.cosmos_text_to_world_pipeline: RUN,
    cosmos.cosmos_video_to_world_pipeline: RUN,
    cosmos.cosmos2_video_to_world_pipeline: RUN,
    cosmos.cosmos2_5_predict_pipeline: RUN,
    cosmos.cosmos2_5_transfer_pipeline: RUN + RUN,
    cosmos.helios_pipeline: RUN + RUN,
    cosmos.helios_pyramid_pipeline: None,
    cosmos.sana_video_pipeline: RUN,
    cosmos.sana_video_ltx2_pipeline: RUN,
    cosmos.sana_image_to_video_pipeline: RUN,
    cosmos.sana_wm_pipeline: RUN,
    hunyuan.easyanimate_pipeline: RUN,
    hunyuan.easyanimate_inpaint_pipeline: RUN,
    hunyuan.framepack_pipeline: RUN + RUN,
    hunyuan.hunyuan_skyreels_pipeline: RUN,
    hunyuan.hunyuan_video_pipeline: RUN,
    hunyuan.hunyuan_video_latent_concat_pipeline: RUN,
    hunyuan.hunyuan_video_token_replace_pipeline: RUN,
    hunyuan.hunyuan_video15_pipeline: RUN,
    hunyuan.hunyuan_video15_image_pipeline: RUN,
    hunyuan.kandinsky5_pipeline: RUN,
    hunyuan.kandinsky5_image_pipeline: RUN,
    hunyuan.kandinsky6_pipeline: RUN,
    hunyuan.kandinsky6_image_pipeline: RUN,
    hunyuan.motif_video_pipeline: RUN,
    hunyuan.motif_video_image_pipeline: RUN,
    ltx.allegro_pipeline: RUN,
    ltx.latte_pipeline: RUN,
    ltx.ltx_pipeline: RUN,
    ltx.ltx_condition_pipeline: RUN,
    ltx.ltx_image_to_video_pipeline: RUN,
    ltx.ltx_long_pipeline: RUN + RUN,
    ltx.ltx2_pipeline: RUN,
    ltx.ltx2_condition_pipeline: RUN,
    ltx.ltx2_hdr_pipeline: RUN,
    ltx.ltx2_image_to_video_pipeline: RUN,
    ltx.ltx2_in_context_pipeline: RUN,
    ltx.mochi_pipeline: RUN,
    modular.helios_modular_pipeline: RUN + RUN,
    modular.helios_pyramid_modular_pipeline: None,
    modular.helios_distilled_modular_pipeline: None,
    modular.hunyuan_video15_modular_pipeline: RUN,
    modular.ltx_modular_pipeline: RUN,
    modular.ltx_image_to_video_modular_pipeline: RUN,
    modular.ltx2_modular_pipeline: RUN,
    modular.ltx2_in_context_modular_pipeline: RUN,
    modular.ltx25_modular_pipeline: RUN,
    modular.wan_modular_pipeline: RUN,
    modular.wan_i2v_modular_pipeline: RUN,
    modular.wan22_modular_pipeline: RUN,
    modular.wan22_i2v_modular_pipeline: RUN,
    modular.wan22_vace_modular_pipeline: RUN,
    wan.anyflow_pipeline: RUN,
    wan.chronoedit_pipeline: RUN,
    wan.chronoedit_reasoning_pipeline: RUN,
    wan.chronoedit_all_reasoning_pipeline: RUN,
    wan.lucy_pipeline: RUN,
    wan.skyreels_pipeline: RUN,
    wan.skyreels_i2v_pipeline: RUN,
    wan.skyreels_df_pipeline: RUN,
    wan.skyreels_df_async_pipeline: None,  # frames are at different steps
    wan.skyreels_df_i2v_pipeline: RUN,
    wan.skyreels_df_long_pipeline: RUN * 3,
    wan.skyreels_df_v2v_pipeline: None,
    wan.wan_pipeline: RUN,
    wan.wan22_pipeline: RUN,
    wan.wan_5b_pipeline: RUN,
    wan.wan_animate_pipeline: RUN + RUN,
    wan.wan_i2v_pipeline: RUN,
    wan.wan22_i2v_pipeline: RUN,
    wan.wan_5b_i2v_pipeline: RUN,
    wan.wan_v2v_pipeline: RUN,
    wan.wan_vace_pipeline: RUN,
}


def name_of(build) -> str:
    return getattr(build, "__name__", None) or build.args[0]  # a partial has no name


# These differ from others of their family by what goes into the transformer alone.
SLOW = {
    cogvideox.cogvideox_image_pipeline,
    cogvideox.cogvideox_control_pipeline,
    cosmos.cosmos_video_to_world_pipeline,
    hunyuan.hunyuan_skyreels_pipeline,
    ltx.ltx2_hdr_pipeline,
    ltx.ltx2_image_to_video_pipeline,
    wan.chronoedit_reasoning_pipeline,
    wan.lucy_pipeline,
    wan.skyreels_df_async_pipeline,
    wan.skyreels_df_v2v_pipeline,
    wan.skyreels_i2v_pipeline,
    wan.wan22_i2v_pipeline,
    wan.wan_5b_pipeline,
}
BUILDERS = pytest.mark.parametrize(
    "build", [pytest.param(build, marks=[pytest.mark.slow] * (build in SLOW)) for build in PIPES], ids=name_of
)


@functools.cache
def cached(build):
    pipe, call = build()
    pipe.set_progress_bar_config(disable=True)
    return pipe, call


def zero(adapters: dict) -> dict:
    nn.init.zeros_(adapters["router"].cross_attention.to_out.weight)
    nn.init.zeros_(adapters["tam"].to_latents.weight)
    nn.init.zeros_(adapters["tam"].to_latents.bias)
    return adapters


class Watch:
    """Notes the forwards of a pipeline's transformers, and the clips that TAM gets."""

    def __init__(self, pipe, lavieid):
        self.forwards, self.clips = [], []
        refine = lavieid.tam.refine
        lavieid.tam.refine = lambda latents, *args, **options: (
            self.clips.append(latents) or refine(latents, *args, **options)
        )
        for handle in lavieid.handles:
            check, now = handle._conditioning.check_forward, handle.strength.now
            handle._conditioning.check_forward = functools.partial(self.note, check)
            handle.strength.now = functools.partial(self.act, now)

    def note(self, check, batch: int, passes: int | None, grid) -> None:
        self.forwards.append({"batch": batch, "passes": passes})
        check(batch, passes, grid)

    def act(self, now, like: Tensor, progress: Tensor | None) -> Tensor:
        if progress is not None:
            self.forwards[-1]["progress"] = round(progress.max().item(), 3)
        return now(like, progress)

    def steps(self) -> tuple:
        """The progress, once a step."""
        noted = [forward["progress"] for forward in self.forwards]
        return tuple(now for i, now in enumerate(noted) if i == 0 or now != noted[i - 1])


@BUILDERS
def test_every_pipeline(build):
    pipe, call = cached(build)
    kind = find_pipeline(pipe)
    with given_to_decoders(pipe) as plain:
        base = generate(pipe, call)
    before = [set(vars(owner)) for owner in (pipe, *hosted(pipe).decoders)]
    check_what_is_decoded(pipe, call, plain)
    with attach_lavieid(pipe, zero(fitting(pipe))) as lavieid:
        lavieid.set_identity(tiny.tokens())
        assert same(generate(pipe, call), base)  # untrained

    with attach_lavieid(pipe, fitting(pipe)) as lavieid:
        lavieid.set_identity(tiny.tokens())
        lavieid.end = 0.99  # all steps are before it
        watch = Watch(pipe, lavieid)
        changed = generate(pipe, call)
        assert not same(changed, base)
        # Guidance: one prompt and one video, so the batch is the passes.
        assert {forward["batch"] for forward in watch.forwards if forward["passes"]} <= {1, 2}
        assert all(forward["passes"] in (None, forward["batch"]) for forward in watch.forwards)
        if PIPES[build] is not None:
            assert watch.steps() == PIPES[build]
        check_clips(pipe, kind, call, lavieid, watch.clips)

        lavieid.end, lavieid.beta = 1.0, 0.0
        router_alone = generate(pipe, call)
        assert not same(router_alone, base)
        assert not same(router_alone, changed)
    assert same(generate(pipe, call), base)
    assert [set(vars(owner)) for owner in (pipe, *hosted(pipe).decoders)] == before


def check_what_is_decoded(pipe, call, plain: list[Tensor]) -> None:
    """Of normalised latents l, a TAM that makes them 2 l + 1 has the VAE get what the pipeline makes of 2 l + 1."""
    with given_to_decoders(pipe) as refined, attach_lavieid(pipe, {"tam": fitting(pipe)["tam"]}) as lavieid:
        lavieid.tam.refine = lambda latents, *_, **__: 2 * latents + 1
        generate(pipe, call)
    assert len(refined) == len(plain) >= 1
    for one, other in list(zip(plain, refined, strict=True))[: 1 if type(pipe).__name__ in CONTINUED else None]:
        scale, shift = scale_and_shift(pipe, one.shape[2])
        torch.testing.assert_close(other, one + (one - shift) + scale, rtol=1e-4, atol=1e-4)


CONTINUED = ("WanAnimatePipeline", "Cosmos2_5_TransferPipeline")  # their next part begins with decoded frames


def check_clips(pipe, kind, call, lavieid, clips: list[Tensor]) -> None:
    """TAM got the normalised latents of the pipeline, as far as it gives them without decoding."""
    name, seen = type(pipe).__name__, len(clips)
    assert seen >= 1
    if name == "SanaWMPipeline":
        return
    lavieid.beta = 0.2
    given = generate(pipe, call, output_type="latent")
    if kind.seam != "vae.decode":
        assert len(clips) == seen  # latents are given as they are
    if not isinstance(given, Tensor) or kind.unrefined:
        with pytest.raises((TypeError, ValueError), match=r"must be a tensor|let it decode them"):
            lavieid.refine(given)
        return
    if given.ndim == 3:
        with pytest.raises(ValueError, match="are packed: unpack them"):
            lavieid.refine(given)
        frames, height, width = clips[-1].shape[2:]
        given = pipe._unpack_latents(given, frames, height, width)
    refined = lavieid.refine(given)
    assert refined.shape == given.shape
    assert not torch.equal(refined, given)
    if kind.denormalised:
        scale, shift = scale_and_shift(pipe, given.shape[2])
        given = (given - shift) / scale
    if kind.output == "bfhwc":
        given = given.permute(0, 4, 1, 2, 3)
    whole = [clip for clip in clips[:seen] if clip.shape == given.shape]
    if whole:
        torch.testing.assert_close(whole[-1].float(), given.float(), rtol=1e-4, atol=1e-4)
    else:
        assert name in IN_PARTS


IN_PARTS = (
    "ChronoEditPipeline",
    "Cosmos2_5_TransferPipeline",
    "HeliosPipeline",
    "HeliosPyramidPipeline",
    "HeliosModularPipeline",
    "HeliosPyramidDistilledModularPipeline",
    "HeliosPyramidModularPipeline",
    "HunyuanVideoImageToVideoPipeline",
)


def test_every_described_pipeline_is_here():
    assert {type(cached(build)[0]).__name__ for build in PIPES} == set(PIPELINES)
