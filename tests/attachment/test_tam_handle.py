import pytest
import torch
from diffusers import CogVideoXPipeline
from support import tiny
from support.hosts import runs
from support.hosts import wan_family as wan
from support.pipelines import build, generate

from lavieid_adapters import attach_lavieid
from lavieid_adapters.attachment.tam_handle import RefiningDecoder, TAMHandle
from lavieid_adapters.hosts.pipeline import HostPipeline, VideoPipeline


@pytest.fixture
def pipe():
    return build()[0]


@pytest.fixture
def adapters():
    return {"router": tiny.router(), "encoder": tiny.encoder(), "tam": tiny.tam()}


def test_tam_gets_the_latents_of_the_vaes_normalised_space(pipe, adapters):
    latents = generate(pipe, output_type="latent")
    with attach_lavieid(pipe, adapters["tam"]) as lavieid:
        frames = generate(pipe)
        refined = adapters["tam"].refine(latents, chunks=3)
        assert not torch.equal(refined, latents)
        decoded = CogVideoXPipeline.decode_latents(pipe, refined)
        torch.testing.assert_close(frames, pipe.video_processor.postprocess_video(decoded, output_type="pt"))
        assert lavieid.handle is None

        assert not lavieid.mirror_first
        lavieid.mirror_first = True
        assert "first chunk mirrored" in repr(lavieid)
        mirrored = adapters["tam"].refine(latents, chunks=3, mirror_first=True)
        assert not torch.equal(mirrored, refined)
        decoded = CogVideoXPipeline.decode_latents(pipe, mirrored)
        torch.testing.assert_close(generate(pipe), pipe.video_processor.postprocess_video(decoded, output_type="pt"))


def test_padding_frames_are_cut_before_tam():
    pipe, _ = build(patch_size_t=2, patch_bias=False)  # CogVideoX 1.5
    seen = []
    tam = tiny.tam()
    tam.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    with attach_lavieid(pipe, [tiny.router(), tam]) as lavieid:
        lavieid.set_identity(tiny.tokens())
        generate(pipe)
        assert generate(pipe, output_type="latent").shape[1] == 4
    assert seen == [3]


def test_latent_output_is_unrefined_and_refine_does_the_rest_by_hand(pipe, adapters):
    with attach_lavieid(pipe, adapters) as lavieid:
        lavieid.set_identity(tiny.tokens())
        whole, latents = generate(pipe), generate(pipe, output_type="latent")
        refined = lavieid.refine(latents)
        assert not torch.equal(refined, latents)
        # Latents that were refined by hand are not refined again.
        for decoded in (pipe.decode_latents(refined), pipe.decode_latents(latents)):
            frames = pipe.video_processor.postprocess_video(decoded, output_type="pt")
            torch.testing.assert_close(frames, whole)


def test_what_others_wrap_around_decode_latents_stays(pipe, adapters):
    calls = []
    lavieid = attach_lavieid(pipe, adapters["tam"])
    inner = pipe.decode_latents

    def outer(latents):
        calls.append(latents)
        return inner(latents)

    pipe.decode_latents = outer
    base = generate(pipe)
    lavieid.detach()
    assert pipe.decode_latents is outer
    assert not torch.equal(generate(pipe), base)
    assert len(calls) == 2


def test_offloaded_vae_takes_tam_off_the_device_with_it(pipe, adapters):
    with attach_lavieid(pipe, adapters) as lavieid:
        lavieid.set_identity(tiny.tokens())
        pipe.vae.to("meta")  # where sequential offloading leaves a model between uses
        adapters["tam"].to = lambda device: moved.append(str(device)) or adapters["tam"]
        moved = []
        lavieid.refine(tiny.latents(1, 3, 4, 8, 12))
    assert moved == ["cpu", "cpu"]


def test_refined_latents_can_be_saved_and_two_tams_each_act_once(pipe, adapters, tmp_path):
    with attach_lavieid(pipe, adapters["tam"]) as first, attach_lavieid(pipe, tiny.tam(7), adapter_name="b") as second:
        latents = tiny.latents(1, 3, 4, 8, 12)
        by_hand = second.refine(first.refine(latents))
        torch.save(by_hand, tmp_path / "latents.pt")
        assert not torch.equal(by_hand, latents)
        torch.testing.assert_close(pipe.decode_latents(by_hand), pipe.decode_latents(latents))
    with pytest.raises(ValueError, match="This LaVieID has been detached"):
        first.refine(latents)


def test_bad_settings_of_tam_are_refused_when_they_are_set(pipe, adapters):
    with attach_lavieid(pipe, adapters) as lavieid:
        with pytest.raises(ValueError, match="chunks is 0"):
            lavieid.chunks = 0
        with pytest.raises(ValueError, match="beta is nan"):
            lavieid.beta = float("nan")
        assert (lavieid.chunks, lavieid.beta) == (4, 0.2)


def test_what_was_on_a_decoder_before_is_put_back():
    pipe, call = wan.wan_pipeline()
    pipe.set_progress_bar_config(disable=True)
    calls, decode = [], pipe.vae.decode
    pipe.vae.decode = mine = lambda latents, **kwargs: calls.append(latents) or decode(latents, **kwargs)
    with attach_lavieid(pipe, runs.fitting(pipe)["tam"]):
        runs.generate(pipe, call)
    assert len(calls) == 1
    assert pipe.vae.decode is mine


def test_a_handle_attaches_itself_and_leaves_no_trace():
    pipe = build()[0]
    base, pristine = generate(pipe), set(pipe.__dict__)
    with TAMHandle(tiny.tam(), HostPipeline(pipe, runs.hosted(pipe).description)) as handle:
        assert not torch.equal(generate(pipe), base)
        assert repr(handle).startswith("TAMHandle(") and "4 chunks, beta 0.2, enabled" in repr(handle)
        with handle.disabled():
            assert torch.equal(generate(pipe), base)
            assert "disabled" in repr(handle)
    assert torch.equal(generate(pipe), base)
    assert set(pipe.__dict__) == pristine
    assert not pipe.transformer._forward_pre_hooks
    assert repr(handle) == "TAMHandle(detached)"


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("chunks", 0, ValueError, "chunks is 0, but must be at least 1"),
        ("chunks", 2.5, TypeError, r"chunks is 2\.5 \(float\), but must be a whole number"),
        ("chunks", True, TypeError, "chunks is True"),
        ("chunks", "4", TypeError, "chunks is '4'"),
        ("beta", float("nan"), ValueError, "beta is nan"),
        ("beta", True, TypeError, "beta is True"),
        ("beta", "0.2", TypeError, "beta is '0.2'"),
        ("mirror_first", 1, TypeError, r"mirror_first is 1 \(int\), but must be True or False"),
        ("enabled", 0, TypeError, r"enabled is 0 \(int\), but must be True or False"),
    ],
)
def test_settings_are_checked_where_they_are_set(pipe, name, value, error, message):
    with attach_lavieid(pipe, tiny.tam()) as lavieid:
        for handle in (lavieid.tam_handle, lavieid):
            before = getattr(handle, name)
            with pytest.raises(error, match=message):
                setattr(handle, name, value)
            assert getattr(handle, name) is before


def test_settings_that_fit_act(pipe):
    with attach_lavieid(pipe, tiny.tam()) as lavieid:
        whole = generate(pipe)
        for name, value in (("chunks", 1), ("beta", 1), ("mirror_first", True)):
            before = getattr(lavieid, name)
            setattr(lavieid, name, value)
            assert getattr(lavieid, name) == getattr(lavieid.tam_handle, name) == value
            assert not torch.equal(generate(pipe), whole), name
            setattr(lavieid, name, before)
        assert torch.equal(generate(pipe), whole)


def test_a_detached_handle_says_so_at_once(pipe):
    lavieid = attach_lavieid(pipe, tiny.tam())
    handle, latents = lavieid.tam_handle, tiny.latents(1, 3, 4, 8, 12)
    assert not torch.equal(handle.refine(latents), latents)
    lavieid.detach()
    uses = [
        lambda: handle.refine(latents),
        lambda: handle.need_decoders(),
        lambda: handle.disabled().__enter__(),
        *(
            lambda name=name: setattr(handle, name, getattr(handle, name))
            for name in ("chunks", "beta", "mirror_first")
        ),
        lambda: setattr(handle, "enabled", True),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="This TAMHandle has been detached"):
            use()


def test_a_run_whose_video_tam_would_not_refine_is_refused_ahead_of_it():
    """TAM alone, with no router that is asked in each forward."""
    pipe, call = wan.wan_pipeline()
    pipe.set_progress_bar_config(disable=True)
    other = wan.wan_pipeline()[0].vae
    base = runs.generate(pipe, call)
    with attach_lavieid(pipe, runs.fitting(pipe)["tam"]) as lavieid:
        refined = runs.generate(pipe, call)
        assert not runs.same(refined, base)
        pipe.vae, vae = other, pipe.vae
        with pytest.raises(ValueError, match="got another AutoencoderKLWan after adapters were attached"):
            runs.generate(pipe, call)
        with lavieid.disabled():
            assert runs.same(runs.generate(pipe, call), base)  # the other VAE has the same weights
        pipe.vae = vae
        assert runs.same(runs.generate(pipe, call), refined)


@pytest.mark.parametrize("where", [{"seam": "decode_latent"}, {"decoders": ("transformer",)}])
def test_a_seam_that_is_not_there_is_refused_and_the_pipe_is_untouched(pipe, where):
    pristine = set(pipe.__dict__)
    wrong = VideoPipeline(**where, layout="bfchw", latent_channels=4)
    with pytest.raises(ValueError, match=r"has no method 'decode(_latent)?' in which TAM could refine"):
        attach_lavieid(pipe, tiny.tam(), pipeline=wrong)
    assert set(pipe.__dict__) == pristine
    assert not pipe.transformer._forward_pre_hooks


class Codec:
    def decode(self, latents, scale=1):
        """Decodes."""
        return latents * scale


def test_a_decoder_refines_its_first_argument_however_it_is_given():
    codec = Codec()
    double, more = (lambda x: 2 * x), (lambda x: x + 1)
    decoder = RefiningDecoder.put_on(codec, "decode", double)
    assert codec.decode(3) == codec.decode(latents=3) == 6
    assert codec.decode(3, 2) == codec.decode(scale=2, latents=3) == 12
    assert codec.decode.__doc__ == "Decodes."
    assert RefiningDecoder.put_on(codec, "decode", more) is decoder
    assert codec.decode(3) == 7
    decoder.take_off(codec, "decode", double)
    assert codec.decode(3) == 4
    decoder.take_off(codec, "decode", more)
    assert codec.decode(3) == 3
    assert "decode" not in vars(codec)


def test_a_decoder_passes_latents_on_as_it_got_them():
    class Codec:
        def by_name(self, *, z):
            return z

        def any_way(self, *args, **kwargs):
            return args[0] if args else kwargs["z"]

        def nothing(self):
            return None

    codec, z = Codec(), torch.ones(1)
    by_name = RefiningDecoder.put_on(codec, "by_name", lambda z: 2 * z)
    any_way = RefiningDecoder.put_on(codec, "any_way", lambda z: 2 * z)
    assert by_name(z=z) == 2 and any_way(z) == 2
    with pytest.raises(ValueError, match="takes no first argument that could be the latents"):
        RefiningDecoder.put_on(codec, "nothing", lambda z: z)
    assert "nothing" not in vars(codec)
