"""The drawn world's pipeline: what it is loaded from, and which adapters come with it."""

import warnings

import pytest
import torch
from diffusers import CogVideoXPipeline
from support import tiny, tiny_puppets

from lavieid_adapters import attach_lavieid
from lavieid_adapters.puppets import caption
from lavieid_adapters.puppets import pipeline as base
from lavieid_adapters.puppets.pipeline import load_pipeline, weights_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("puppets") / "weights"
    tiny_puppets.save_base(folder)
    return folder


@pytest.fixture
def pipe(folder, monkeypatch):
    monkeypatch.setattr(base, "WEIGHTS", folder)
    pipe = load_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_prompt_is_enough_and_gives_the_clips_of_the_drawn_world(pipe):
    assert type(pipe) is CogVideoXPipeline
    assert {p.dtype for p in pipe.transformer.parameters()} == {torch.float32}
    video = pipe(caption(0, 1, 2), num_inference_steps=1, output_type="np").frames[0]
    assert video.shape == (33, 96, 96, 3) and video.std() > 0


def test_a_prompt_takes_as_many_tokens_as_the_transformer_has_learnt(pipe):
    embeds, _ = pipe.encode_prompt(caption(0, 1, 2), do_classifier_free_guidance=False)
    assert embeds.shape[1] == pipe.transformer.config.max_text_seq_length == tiny_puppets.LENGTH


def test_the_pipeline_is_saved_with_its_tokenizer_and_loads_as_any_other(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "copy")
    copy = CogVideoXPipeline.from_pretrained(tmp_path / "copy")
    prompt = caption(1, 0, 0)
    assert torch.equal(copy.encode_prompt(prompt)[0], pipe.encode_prompt(prompt)[0])


def test_weights_that_are_missing_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "WEIGHTS", tmp_path / "weights")
    with pytest.raises(FileNotFoundError, match=r"weights/model_index\.json'.*complete wheel"):
        load_pipeline()
    with pytest.raises(FileNotFoundError, match="Give the folder of a pipeline"):
        weights_folder(tmp_path)


def test_a_base_brings_its_own_adapters(pipe):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lavieid = attach_lavieid(pipe)
    assert lavieid.router.config.dim == tiny.DIM and lavieid.tam is not None
    weight = lavieid.router.cross_attention.to_out.weight
    assert weight.dtype == torch.float32 and weight.abs().sum() > 0  # a fresh one is 0 there
    assert lavieid.metadata.base_model == "base"
    lavieid.detach()
    given = attach_lavieid(pipe, tiny.tam())
    assert given.router is None  # what is given is taken instead
    given.detach()


def test_a_block_that_is_asked_for_is_taken_of_its_own_adapters_too(pipe):
    with pytest.warns(UserWarning, match="trained for block 0, but is attached to block 1"):
        lavieid = attach_lavieid(pipe, block_idx=1)
    assert lavieid.metadata.block_idx == 1
    lavieid.detach()
