"""The examples for other models than CogVideoX, on tiny pipelines that lie in folders."""

import copy
import sys
from pathlib import Path

import av
import other_models
import pytest
import refine
import torch
from diffusers import HunyuanVideoPipeline, LTXPipeline, WanPipeline
from support import tiny
from support.hosts import hunyuan_family, ltx_family, wan_family
from support.small_cogvideox import word_tokenizer
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from lavieid_adapters import TAM, Identity
from lavieid_adapters.attachment.attach import fresh_adapter
from lavieid_adapters.models.checkpoint import Metadata, save_folder


def t5(width: int, umt5: bool = False):
    config = {"vocab_size": 32, "d_model": width, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return UMT5EncoderModel(UMT5Config(**config)) if umt5 else T5EncoderModel(T5Config(**config))


def wan() -> WanPipeline:
    pipe, _ = wan_family.wan_pipeline()
    pipe.register_modules(tokenizer=word_tokenizer(), text_encoder=t5(wan_family.TEXT_DIM, umt5=True))
    return pipe


def ltx() -> LTXPipeline:
    pipe, call = ltx_family.ltx_pipeline()
    pipe.register_modules(tokenizer=word_tokenizer(), text_encoder=t5(call["prompt_embeds"].shape[-1]))
    return pipe


def hunyuan() -> HunyuanVideoPipeline:
    pipe, call = hunyuan_family.hunyuan_video_pipeline()
    sizes = {"vocab_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    width, pooled = call["prompt_embeds"].shape[-1], call["pooled_prompt_embeds"].shape[-1]
    llama = LlamaConfig(hidden_size=width, max_position_embeddings=512, **sizes)
    clip = CLIPTextConfig(
        hidden_size=pooled, projection_dim=pooled, max_position_embeddings=256, eos_token_id=1, **sizes
    )
    texts = {"text_encoder": LlamaModel(llama), "text_encoder_2": CLIPTextModel(clip)}
    pipe.register_modules(tokenizer=word_tokenizer(), tokenizer_2=word_tokenizer(), **texts)
    return pipe


def tam_of(pipe) -> TAM:
    return tiny.randomise(fresh_adapter("tam", pipe, dim=32, num_layers=1, num_heads=1, chunks=2))


def run(module, monkeypatch, capsys, *arguments) -> str:
    monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, arguments)])
    module.main()
    return capsys.readouterr().out


def frames_of(path: Path) -> torch.Tensor:
    with av.open(str(path)) as video:
        return torch.stack([torch.from_numpy(f.to_ndarray(format="rgb24")) for f in video.decode(video=0)]).float()


@pytest.mark.parametrize(("name", "build"), [("wan", wan), ("ltx-video", ltx), ("hunyuan-video", hunyuan)])
def test_a_person_on_another_model(name, build, tmp_path, monkeypatch, capsys):
    pipe = build()
    pipe.save_pretrained(tmp_path / "base")
    sizes = {"token_dim": 32, "inner_dim": 64, "num_heads": 2, "tokens_per_component": 8}
    router, encoder = tiny.randomise(fresh_adapter("router", pipe, **sizes), std=1.0), tiny.encoder()
    save_folder({"router": router, "encoder": encoder, "tam": tam_of(pipe)}, tmp_path / "adapters", Metadata())
    untrained = {"router": fresh_adapter("router", pipe, **sizes), "encoder": encoder}
    save_folder(untrained, tmp_path / "untrained", Metadata())
    Identity(tiny.tokens(), fingerprint=encoder.fingerprint()).save(tmp_path / "me.safetensors")
    recommended = copy.deepcopy(other_models.MODELS[name][-1])
    few = ["--steps", 2, "--frames", 9, "--height", 64, "--width", 96, "--model", tmp_path / "base"]
    few += ["--identity", tmp_path / "me.safetensors"]
    given = run(other_models, monkeypatch, capsys, name, *few, "--adapters", tmp_path / "adapters", "--output",
                tmp_path / "with.mp4")  # fmt: skip
    assert f"LaVieID on {type(pipe).__name__}" in given and "9 frames" in given
    assert "1 identity" in given and "tam:" in given
    run(other_models, monkeypatch, capsys, name, *few, "--adapters", tmp_path / "untrained", "--output",
        tmp_path / "without.mp4")  # fmt: skip
    assert other_models.MODELS[name][-1] == recommended
    assert (frames_of(tmp_path / "with.mp4") - frames_of(tmp_path / "without.mp4")).abs().mean() > 1


def test_an_identity_file_without_the_adapters_of_its_encoder_is_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(other_models, monkeypatch, capsys, "wan", "--identity", "me.safetensors")
    assert "--identity needs --adapters" in capsys.readouterr().err


def test_tam_alone(tmp_path, monkeypatch, capsys):
    pipe = wan()
    pipe.save_pretrained(tmp_path / "base")
    save_folder({"tam": tam_of(pipe)}, tmp_path / "adapters", Metadata())
    few = ["--model", tmp_path / "base", "--steps", 1, "--frames", 9, "--height", 64, "--width", 96]
    few += ["--output", tmp_path / "both.mp4"]
    given = run(refine, monkeypatch, capsys, *few, "--adapters", tmp_path / "adapters")
    assert "tam:" in given and "router:" not in given and "both.mp4" in given
    left, right = frames_of(tmp_path / "both.mp4").chunk(2, dim=2)
    assert (left - right).abs().mean() > 1
