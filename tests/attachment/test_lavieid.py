import gc
import os
import subprocess
import sys
import tempfile
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline
from PIL import Image
from support import tiny
from support.pipelines import build, generate
from support.whole_photo import whole_photo_processor

from lavieid_adapters import (
    TAM,
    FaceProcessor,
    Identity,
    IdentityReader,
    LocalRouter,
    attach_lavieid,
)


@pytest.fixture
def pipe():
    return build()[0]


@pytest.fixture
def adapters():
    return {"router": tiny.router(), "encoder": tiny.encoder(), "tam": tiny.tam()}


@pytest.mark.parametrize(
    "name",
    [
        "CogVideoXPipeline",
        "CogVideoXImageToVideoPipeline",
        "CogVideoXVideoToVideoPipeline",
        "CogVideoXFunControlPipeline",
        "ConsisIDPipeline",
    ],
)
def test_every_pipeline_runs_with_router_and_tam_and_is_restored(name, adapters):
    pipe, inputs = build(name)

    def call():
        torch.manual_seed(0)
        settings = {"num_inference_steps": 2, "max_sequence_length": 16, "output_type": "pt", "prompt": "she walks"}
        return pipe(**settings, **inputs, generator=torch.Generator().manual_seed(0)).frames

    base, pristine = call(), set(pipe.__dict__)
    lavieid = attach_lavieid(pipe, adapters)
    lavieid.set_identity(tiny.tokens())
    full = call()
    lavieid.beta = 0
    without_tam = call()
    lavieid.beta, lavieid.scale = 0.2, 0
    without_router = call()
    for frames in (full, without_tam, without_router):
        assert not torch.equal(frames, base)
    assert not torch.equal(full, without_tam)
    assert not torch.equal(full, without_router)
    lavieid.detach()
    assert torch.equal(call(), base)
    assert set(pipe.__dict__) == pristine


@pytest.mark.parametrize("guidance_scale", [1.0, 6.0])
def test_one_identity_a_prompt(pipe, adapters, guidance_scale):
    two, prompts = tiny.tokens(2), ["she walks", "a park"]

    def call(prompt):
        generator = [torch.Generator().manual_seed(0) for _ in prompt]
        return generate(pipe, list(prompt), guidance_scale=guidance_scale, generator=generator)

    with attach_lavieid(pipe, adapters) as lavieid:
        lavieid.set_identity(two[0])
        first = call(prompts)
        lavieid.set_identity([Identity(two[0]), two[1]])
        both = call(prompts)
        torch.testing.assert_close(both[0], first[0])
        assert not torch.allclose(both[1], first[1], atol=1e-4)
        lavieid.set_identity(two[1])
        torch.testing.assert_close(both[1], call(prompts)[1])
        lavieid.set_identity(tiny.tokens(3))
        with pytest.raises(ValueError, match="3 identities"):
            call(prompts)


def test_several_videos_of_each_prompt_come_as_prompt_embeddings(pipe, adapters):
    # These pipelines set num_videos_per_prompt to 1; several videos of a prompt are repeated embeddings.
    embeds, negative = pipe.encode_prompt(["she walks", "a park"], num_videos_per_prompt=2, max_sequence_length=16)
    call = {"prompt_embeds": embeds, "negative_prompt_embeds": negative}
    with attach_lavieid(pipe, adapters) as lavieid:
        lavieid.set_identity(tiny.tokens(2), videos_per_prompt=2)
        frames = generate(pipe, None, **call)
        lavieid.set_identity(tiny.tokens(2)[0])
        torch.testing.assert_close(generate(pipe, None, **call)[:2], frames[:2], rtol=1e-3, atol=1e-4)
        assert not torch.allclose(generate(pipe, None, **call)[2:], frames[2:], atol=1e-4)


def test_window_counts_the_steps_of_the_run(pipe, adapters):
    adapters = {"router": adapters["router"]}
    acted = []
    with attach_lavieid(pipe, adapters) as lavieid:
        lavieid.set_identity(tiny.tokens())
        adapters["router"].apply_folded = lambda hidden_states, folded, strength, *args, **kwargs: (
            acted.append(bool(strength.any())) or LocalRouter.apply_folded(
                adapters["router"], hidden_states, folded, strength, *args, **kwargs
            )
        )  # fmt: skip
        lavieid.start, lavieid.end = 0.25, 0.75
        generate(pipe, num_inference_steps=8)
        assert acted == [False] * 2 + [True] * 4 + [False] * 2
    pipe, inputs = build("CogVideoXVideoToVideoPipeline")
    with attach_lavieid(pipe, adapters) as lavieid:
        acted.clear()
        lavieid.set_identity(tiny.tokens())
        lavieid.end = 0.5
        inputs |= {"strength": 0.5, "num_inference_steps": 8, "max_sequence_length": 16}
        pipe(prompt="she walks", **inputs, output_type="latent")
        assert acted == [True] * 2 + [False] * 2


def test_records_routes_of_a_run(pipe, adapters):
    with attach_lavieid(pipe, adapters) as lavieid:
        lavieid.set_identity(tiny.tokens())
        with lavieid.record_routes() as routes:
            generate(pipe, num_inference_steps=3)
    assert [tuple(r.shape) for r in routes] == [(2, 6, 3, 4, 6)] * 3
    assert routes[0].std() > 0


def test_disabled_runs_the_base_and_enabled_the_adapters(pipe, adapters):
    base = generate(pipe)
    with attach_lavieid(pipe, adapters) as lavieid:
        lavieid.set_identity(tiny.tokens())
        full = generate(pipe)
        with lavieid.disabled():
            assert torch.equal(generate(pipe), base)
        assert torch.equal(generate(pipe), full)
        assert not torch.equal(full, base)
        lavieid.clear()
        with pytest.warns(UserWarning, match="no identity"):
            generate(pipe)


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError])
@pytest.mark.parametrize("where", ["transformer", "vae"])
def test_works_again_after_an_exception_in_a_run(pipe, adapters, error, where):
    base = generate(pipe)
    lavieid = attach_lavieid(pipe, adapters)
    lavieid.set_identity(tiny.tokens())
    full = generate(pipe)
    module = pipe.transformer.transformer_blocks[1] if where == "transformer" else pipe.vae.decoder

    def fail(*_):
        raise error("now")

    hook = module.register_forward_pre_hook(fail)
    with pytest.raises(error):
        generate(pipe)
    hook.remove()
    assert torch.equal(generate(pipe), full)
    lavieid.detach()
    assert torch.equal(generate(pipe), base)
    assert not torch.equal(full, base)


def test_two_on_one_pipe_act_both_and_detach_in_any_order(pipe, adapters):
    base = generate(pipe)
    first = attach_lavieid(pipe, adapters)
    second = attach_lavieid(pipe, {"router": tiny.router(5), "tam": tiny.tam(5)}, adapter_name="second")
    first.set_identity(tiny.tokens(seed=1))
    second.set_identity(tiny.tokens(seed=2))
    both = generate(pipe)
    first.detach()
    assert not torch.equal(generate(pipe), both)
    assert not torch.equal(generate(pipe), base)
    second.detach()
    assert torch.equal(generate(pipe), base)


def test_nothing_of_an_identity_or_a_run_stays_reachable_after_detach(pipe, adapters):
    lavieid = attach_lavieid(pipe, adapters)
    identity = Identity(tiny.tokens())
    lavieid.set_identity(identity)
    references = [weakref.ref(identity), weakref.ref(identity.tokens), weakref.ref(lavieid.handle._conditioning.tokens)]
    adapters["tam"].register_forward_pre_hook(lambda module, args: references.append(weakref.ref(args[0])))
    generate(pipe)
    assert len(references) == 4
    references.append(weakref.ref(lavieid))
    lavieid.detach()
    del identity, lavieid
    gc.collect()
    assert [r() for r in references] == [None] * 5


def test_repr_says_what_is_attached_where(pipe, adapters):
    lavieid = attach_lavieid(pipe, adapters, block_idx=1)
    for part in ("CogVideoXPipeline", "after block 1", "no identity", "encoder", "before the VAE decodes", "4 chunks"):
        assert part in repr(lavieid)
    lavieid.detach()
    assert repr(lavieid) == "LaVieID(detached)"


@pytest.mark.parametrize(
    ("identity", "error", "message"),
    [
        ("photo.jpg", FileNotFoundError, r"no photo 'photo\.jpg'"),
        ("nowhere.safetensors", FileNotFoundError, "nowhere.safetensors"),
        ([], ValueError, "No identity"),
        (42, TypeError, "int"),
        (torch.randn(6, 8, 16), ValueError, r"\(1, 6, 8, 16\)"),
        ([torch.randn(6, 8, 32), torch.randn(6, 4, 32)], ValueError, "different shapes"),
        (Identity(torch.randn(6, 8, 32), fingerprint="0123456789abcdef"), ValueError, "encoder 0123456789abcdef, but"),
    ],
)
def test_bad_identities_are_refused_and_the_one_before_stays(pipe, adapters, identity, error, message):
    with attach_lavieid(pipe, adapters) as lavieid:
        lavieid.set_identity(tiny.tokens())
        before = lavieid.handle._conditioning.tokens
        with pytest.raises(error, match=message):
            lavieid.set_identity(identity)
        assert lavieid.handle._conditioning.tokens is before


def test_warnings_point_at_no_more_than_there_is(pipe, adapters):
    with attach_lavieid(pipe, adapters) as lavieid, warnings.catch_warnings():
        warnings.simplefilter("error")
        lavieid.set_identity(tiny.tokens())
        generate(pipe)


def test_several_identities_for_one_prompt_under_guidance_are_refused(pipe, adapters):
    with attach_lavieid(pipe, adapters) as lavieid:
        lavieid.set_identity(tiny.tokens(2))
        with pytest.raises(
            ValueError, match=r"2 identities .* need a batch of 4 in 2 guidance passes, but the pipeline runs 2"
        ):
            generate(pipe)
        assert generate(pipe, ["she walks", "a park"]).shape[0] == 2


def test_identity_of_other_components_is_refused(pipe, adapters):
    names = ("hair", "eyes", "mouth", "nose", "skin", "eyebrows")
    with attach_lavieid(pipe, adapters) as lavieid, pytest.raises(ValueError, match=r"hair, eyes.*eyebrows, eyes"):
        lavieid.set_identity(Identity(tiny.tokens(), names=names))
    with attach_lavieid(pipe, adapters, names=names) as lavieid:
        lavieid.set_identity(Identity(tiny.tokens(), names=names))
        assert set(lavieid.component_scales) == set(names)


def test_window_works_outside_a_run_of_the_pipe(pipe, adapters):
    with attach_lavieid(pipe, adapters) as lavieid:
        lavieid.set_identity(tiny.tokens())
        lavieid.end = 0.5
        other = CogVideoXPipeline.from_pipe(pipe)
        other.set_progress_bar_config(disable=True)
        windowed = generate(other, output_type="latent")
        lavieid.end = 1.0
        assert not torch.equal(generate(other, output_type="latent"), windowed)


def test_casting_the_pipe_while_attached(pipe, adapters):
    base = generate(pipe)
    with attach_lavieid(pipe, adapters) as lavieid:
        lavieid.set_identity(tiny.tokens())
        full = generate(pipe)
        pipe.to(torch.float64)
        assert generate(pipe).dtype == torch.float64
        pipe.to(torch.float32)
        torch.testing.assert_close(generate(pipe), full)
    assert torch.equal(generate(pipe), base)


class Stub:
    """A reader that records how it was asked."""

    def __init__(self):
        self.asked, self.placed = [], None

    def to(self, device, offload=False):
        self.placed = (torch.device(device).type, offload)

    def __call__(self, photos, **settings):
        self.asked.append((photos, settings))
        return Identity(tiny.tokens(seed=len(self.asked)))


def test_a_photo_becomes_an_identity_and_changes_the_video(pipe, adapters, tmp_path):
    with tempfile.TemporaryDirectory() as models:
        adapters["encoder"] = tiny.encoder(id_dim=520)
        face = whole_photo_processor(adapters["encoder"], models)
        photo = tmp_path / "photo.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 80, 3), np.uint8)).save(photo)
        before = generate(pipe)
        with attach_lavieid(pipe, adapters) as lavieid:
            lavieid.reader = IdentityReader(lavieid.encoder, face)
            with pytest.raises(ValueError, match="No face was found"):
                lavieid.set_identity(photo)
            lavieid.set_identity(photo, on_no_face="whole_image")
            first = generate(pipe)
            assert not np.array_equal(first, before)
            identity = lavieid.encode(photo, on_no_face="whole_image")
            identity.save(tmp_path / "identity.safetensors")
            lavieid.clear()
            lavieid.set_identity(tmp_path / "identity.safetensors")  # the file says the same as the photo
            np.testing.assert_array_equal(generate(pipe), first)


def test_photos_are_read_by_the_adapters_encoder_with_its_own_vision_model(pipe, adapters):
    adapters["encoder"] = tiny.encoder(vision_model="someone/vit", grayscale=True)
    with attach_lavieid(pipe, adapters) as lavieid:
        assert lavieid.reader is lavieid.reader
        assert lavieid.reader.encoder is lavieid.encoder
        assert (lavieid.reader.face.vision.name, lavieid.reader.face.grayscale) == ("someone/vit", True)


def test_photos_and_identities_are_taken_in_any_mixture(pipe, adapters):
    with attach_lavieid(pipe, adapters) as lavieid:
        stub = lavieid.reader = Stub()
        array, image = np.zeros((80, 80, 3), np.uint8), Image.new("RGB", (80, 80))
        lavieid.set_identity([Identity(tiny.tokens()), "a.jpg", array, [image, "b.jpg"]], face_index="largest")
        assert [type(photo) for photo, _ in stub.asked] == [str, np.ndarray, Image.Image, str]
        assert all(settings["face_index"] == "largest" for _, settings in stub.asked)
        fused = lavieid.handle._conditioning.tokens[3]
        expected = (tiny.tokens(seed=3) + tiny.tokens(seed=4)) / 2
        torch.testing.assert_close(fused, expected)
        with pytest.raises(TypeError, match="face_index only go with photos"):
            lavieid.set_identity(tiny.tokens(), face_index=0)


@pytest.mark.parametrize(("executes", "expected"), [("cpu", ("cpu", False)), ("cuda", ("cuda", True))])
def test_the_face_models_follow_the_pipeline(pipe, adapters, monkeypatch, executes, expected):
    monkeypatch.setattr(type(pipe), "_execution_device", property(lambda self: torch.device(executes)))
    monkeypatch.setattr(TAM, "to", lambda self, *args: self)
    with attach_lavieid(pipe, adapters) as lavieid:
        stub = lavieid.reader = Stub()
        lavieid.set_identity("photo.jpg")
        assert stub.placed == expected


def test_photos_need_an_encoder(pipe, adapters):
    del adapters["encoder"]
    with attach_lavieid(pipe, adapters) as lavieid, pytest.raises(ValueError, match="no encoder"):
        lavieid.set_identity("photo.jpg")


def test_two_people_share_a_video_by_regions(pipe, adapters):
    alice, bob = Identity(tiny.tokens(seed=1)), Identity(tiny.tokens(seed=2))
    left = np.zeros((64, 96), bool)
    left[:, :48] = True
    with attach_lavieid(pipe, {"router": adapters["router"]}) as lavieid:
        lavieid.set_identity([alice, bob], regions=[left, ~left])
        with lavieid.record_routes() as routes:
            both = generate(pipe)
        assert routes[0].shape[:2] == (2, 6)
        torch.testing.assert_close(routes[0].sum(1), torch.ones_like(routes[0][:, 0]))
        lavieid.set_identity([alice, bob], regions=[~left, left])
        assert not np.array_equal(generate(pipe), both)
        with pytest.raises(ValueError, match="3 regions for 2 identities"):
            lavieid.set_identity([alice, bob], regions=[left, left, left])
        with pytest.raises(ValueError, match="has 5 frames, but the video tokens have 3"):
            lavieid.set_identity([alice, bob], regions=[np.ones((5, 8, 8)), left])
            generate(pipe)


def test_what_was_read_of_a_person_is_gone_with_the_adapters(pipe, adapters):
    lavieid = attach_lavieid(pipe, adapters)
    reader = IdentityReader(lavieid.encoder, FaceProcessor.for_encoder(lavieid.encoder))
    lavieid.reader = reader
    reference = weakref.ref(reader)
    del reader
    gc.collect()
    assert reference() is not None
    lavieid.detach()
    gc.collect()
    assert reference() is None


def test_settings_go_with_the_photos_one_each(pipe, adapters):
    with attach_lavieid(pipe, adapters) as lavieid:
        stub = lavieid.reader = Stub()
        lavieid.set_identity(["group.jpg", "group.jpg"], face_index=[0, 2])
        assert [settings["face_index"] for _, settings in stub.asked] == [0, 2]
        lavieid.set_identity([["a.jpg", "b.jpg"], "c.jpg"], face_index=[[3, 4], 5])
        assert [settings["face_index"] for _, settings in stub.asked[2:]] == [3, 4, 5]
        with pytest.raises(ValueError, match="3 settings for 2 photos"):
            lavieid.set_identity(["a.jpg", "b.jpg"], face_index=[1, 2, 3])
        with pytest.raises(TypeError, match="face_index, component_map only go with photos"):
            lavieid.set_identity([Identity(tiny.tokens())], face_index=1, component_map="map.png")
        with pytest.raises(TypeError, match="unexpected keyword"):
            lavieid.set_identity("a.jpg", face_indx=1)


@pytest.fixture
def photos_read(monkeypatch):
    """Photos for which the models that read faces were made."""
    made = []

    def make(encoder, **hub):
        made.append(hub)
        raise KeyError("gigabytes")

    monkeypatch.setattr(FaceProcessor, "for_encoder", make)
    return made


def test_all_methods_of_a_detached_one_say_so_at_once(pipe, adapters, photos_read, tmp_path):
    lavieid = attach_lavieid(pipe, adapters)
    with pytest.raises(KeyError):
        lavieid.set_identity("photo.jpg")
    assert len(photos_read) == 1
    lavieid.detach()
    latents = tiny.latents(1, 3, 4, 8, 12)
    uses = {
        "set_identity": lambda: lavieid.set_identity("photo.jpg"),
        "set_identity of tokens": lambda: lavieid.set_identity(tiny.tokens()),
        "encode": lambda: lavieid.encode("photo.jpg"),
        "reader": lambda: lavieid.reader,
        "clear": lavieid.clear,
        "record_routes": lambda: lavieid.record_routes().__enter__(),
        "refine": lambda: lavieid.refine(latents),
        "disabled": lambda: lavieid.disabled().__enter__(),
    }
    names = ("enabled", "scale", "component_scales", "start", "end", "chunks", "beta", "mirror_first", "reader")
    uses |= {name: lambda name=name: setattr(lavieid, name, None) for name in names}
    for use in uses.values():
        with pytest.raises(ValueError, match=r"This LaVieID has been detached\. Attach its adapters"):
            use()
    assert len(photos_read) == 1
    lavieid.save_pretrained(tmp_path / "adapters")  # the adapters are there still
    assert (tmp_path / "adapters" / "router").is_dir()


def test_a_pipeline_that_got_another_model_is_refused_before_a_photo_is_read(pipe, adapters, photos_read):
    with attach_lavieid(pipe, adapters) as lavieid:
        with pytest.raises(KeyError):
            lavieid.set_identity("photo.jpg")
        pipe.transformer = tiny.transformer()
        with pytest.raises(ValueError, match="got a CogVideoXTransformer3DModel after adapters were attached"):
            lavieid.set_identity("photo.jpg")
    assert len(photos_read) == 1


def test_settings_of_an_adapter_that_is_not_there_say_so(pipe, adapters):
    with attach_lavieid(pipe, adapters["router"]) as lavieid:
        assert lavieid.scale == 1 and lavieid.tam_handle is None
        latents = tiny.latents(1, 3, 4, 8, 12)
        assert lavieid.refine(latents) is latents
        for use in (lambda: lavieid.chunks, lambda: setattr(lavieid, "beta", 0.1)):
            with pytest.raises(ValueError, match="No TAM is attached, because these adapters have no 'tam'"):
                use()
    with attach_lavieid(pipe, adapters["tam"]) as lavieid:
        assert lavieid.chunks == 4 and lavieid.handles == []
        for use in (lambda: lavieid.scale, lambda: setattr(lavieid, "start", 0.1), lavieid.clear):
            with pytest.raises(ValueError, match="No router is attached, because these adapters have no 'router'"):
                use()


def test_identities_and_their_files_need_no_face_stack(tmp_path):
    code = f"""
import sys
from support import tiny
from support.pipelines import build
from lavieid_adapters import Identity, attach_lavieid
from lavieid_adapters.models.identity import Identity
Identity(tiny.tokens()).save(r"{tmp_path / "alice.safetensors"}")
with attach_lavieid(build()[0], tiny.router()) as lavieid:
    lavieid.set_identity(r"{tmp_path / "alice.safetensors"}")
print([name for name in sys.modules if name.startswith("lavieid_adapters.faces.")])
"""
    paths = os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])
    env = {**os.environ, "PYTHONPATH": paths}
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env).stdout == "[]\n"


def test_a_setting_of_photos_is_refused_where_there_is_no_photo(pipe, adapters):
    with attach_lavieid(pipe, adapters) as lavieid:
        for given in (tiny.tokens(), Identity(tiny.tokens()), [Identity(tiny.tokens())]):
            for value in ("nonsense", "raise", "whole_image"):
                with pytest.raises(TypeError, match="on_no_face only go with photos"):
                    lavieid.set_identity(given, on_no_face=value)
        assert lavieid.handle._conditioning is None
