"""The base model's VAE and text encoder at work on clips: which tensors they give, and which bases they refuse."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("av")

from support.tiny_clips import save_base, walk

from lavieid_adapters.data.base_encoders import BaseEncoders, text_length

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a small CogVideoX."""
    return save_base(tmp_path_factory.mktemp("encoders") / "base")


@pytest.mark.parametrize("config", [
    {"latents_mean": [0.5, 0, 0, 0], "latents_std": [2.0, 1, 1, 1], "scaling_factor": None},
    {"shift_factor": 0.25, "scaling_factor": 2.0},
])  # fmt: skip
def test_latents_are_normalised_as_the_vaes_config_says(base, config):
    encoders = BaseEncoders(base, 16, torch.float32, torch.device("cpu"))
    frames = np.stack(walk(frames=5))
    plain = encoders.encode_frames(frames, seed=3) / encoders.pipe.vae.config.scaling_factor
    assert torch.equal(encoders.encode_frames(frames, seed=3), plain * encoders.pipe.vae.config.scaling_factor)
    encoders.pipe.vae.register_to_config(**config)
    if "shift_factor" in config:
        expected = (plain - 0.25) * 2
    else:
        expected = plain.clone()
        expected[:, 0] = (plain[:, 0] - 0.5) / 2
    torch.testing.assert_close(encoders.encode_frames(frames, seed=3), expected)
    assert not torch.equal(encoders.encode_frames(frames, seed=4), expected)


def test_a_prompt_is_what_the_pipeline_makes_of_it(base):
    encoders = BaseEncoders(base, 16, torch.float32, CPU)
    one, other = encoders.encode_prompt("She walks."), encoders.encode_prompt("He sleeps.")
    assert one.shape == (16, 32) and not torch.equal(one, other)
    wanted, _ = encoders.pipe.encode_prompt("She walks.", do_classifier_free_guidance=False, max_sequence_length=16)
    torch.testing.assert_close(one, wanted[0])
    assert BaseEncoders(base, 8, torch.float32, CPU).encode_prompt("She walks.").shape == (8, 32)


def test_the_transformer_is_not_loaded_and_its_config_says_how_long_a_prompt_is(base, tmp_path):
    assert BaseEncoders(base, 16, torch.float32, CPU).pipe.transformer is None
    assert text_length(base) == json.loads((base / "transformer" / "config.json").read_text())["max_text_seq_length"]
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text("{}")
    assert text_length(tmp_path) is None


def test_latents_follow_the_seed_and_stand_frame_by_frame(base):
    encoders = BaseEncoders(base, 16, torch.bfloat16, CPU)
    frames = np.stack(walk(frames=5))
    latents = encoders.encode_frames(frames, seed=1)
    assert latents.shape == (2, 4, *(side // 8 for side in frames.shape[1:3])) and latents.dtype == torch.bfloat16
    assert latents.is_contiguous() and torch.equal(latents, encoders.encode_frames(frames, seed=1))
    assert not torch.equal(latents, encoders.encode_frames(frames, seed=2))


def test_tiling_is_the_vaes(base):
    assert not BaseEncoders(base, 16, torch.float32, CPU).pipe.vae.use_tiling
    assert BaseEncoders(base, 16, torch.float32, CPU, tiling=True).pipe.vae.use_tiling


def test_a_prompt_of_several_tensors_is_refused(base, monkeypatch):
    encoders = BaseEncoders(base, 16, torch.float32, CPU)
    monkeypatch.setattr(encoders.pipe, "encode_prompt", lambda **_: (torch.zeros(1, 4, 8), torch.zeros(1, 8)))
    with pytest.raises(ValueError, match="describes a prompt by 2 tensors, but shards hold one"):
        encoders.encode_prompt("x")


def test_a_pipeline_without_prompts_is_refused(tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(8, block_out_channels=(4, 4), norm_num_groups=2, layers_per_block=1,
                       down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="is a DDPMPipeline, which lacks a VAE or encode_prompt"):
        BaseEncoders(tmp_path / "base", 16, torch.float32, CPU)


def test_a_base_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OSError, match="no/such-base"):
        BaseEncoders("no/such-base", 16, torch.float32, CPU)
