"""Starting from a ConsisID checkpoint: outputs equal to its own modules', and no other files fetched."""

import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import ConsisIDTransformer3DModel
from safetensors.torch import load_file, save_file
from support import tiny
from support.adapter_files import WEIGHTS, contents
from support.small_cogvideox import small_components
from support.tiny_consisid import DIM, consisid_transformer

from lavieid_adapters import LocalFacialEncoder, LocalRouter


@pytest.fixture(scope="module")
def model() -> ConsisIDTransformer3DModel:
    return consisid_transformer()


@pytest.fixture(params=["10GB", "30KB"], ids=["one file", "shards"])
def saved(model, request, tmp_path) -> Path:
    """The folder of a pipeline with the transformer in it, in one file or in several."""
    model.save_pretrained(tmp_path / "consisid" / "transformer", max_shard_size=request.param)
    shards = list((tmp_path / "consisid" / "transformer").glob("*.safetensors"))
    assert (len(shards) > 3) == (request.param == "30KB")
    return tmp_path / "consisid"


def encoder_outputs(model: ConsisIDTransformer3DModel, encoder: LocalFacialEncoder):
    """The tokens of one component by ConsisID's module and by ours."""
    id_embeds, maps = tiny.features(encoder)
    theirs = model.local_facial_extractor(id_embeds, [m[:, 0] for m in maps])
    return theirs, encoder(id_embeds, [m[:, :1] for m in maps])[:, 0]


def router_outputs(model: ConsisIDTransformer3DModel, router: LocalRouter, layer: int):
    """phi by ConsisID's module and by ours."""
    generator = torch.Generator().manual_seed(1)
    hidden_states = torch.randn(2, 12, DIM, generator=generator)
    context = torch.randn(2, 8, DIM // 3 * 2, generator=generator)
    return model.perceiver_cross_attention[layer](context, hidden_states), router.cross_attention(
        hidden_states, context
    )


@torch.no_grad()
def test_the_encoder_gives_what_consisids_extractor_gives(model, saved):
    encoder = LocalFacialEncoder.from_consisid(saved)
    theirs, ours = encoder_outputs(model, encoder)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    others, _ = encoder_outputs(consisid_transformer(seed=1), encoder)
    assert not torch.allclose(ours, others, atol=0.1)


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1])
def test_the_routers_cross_attention_gives_what_consisids_layer_gives(model, saved, layer):
    router = LocalRouter.from_consisid(str(saved), layer=layer)
    theirs, ours = router_outputs(model, router, layer)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    others, _ = router_outputs(model, router, 1 - layer)
    assert not torch.allclose(ours, others, atol=0.1)


def test_encoder_and_router_of_a_checkpoint_fit_each_other(saved):
    encoder, router = LocalFacialEncoder.from_consisid(saved), LocalRouter.from_consisid(saved)
    tokens = encoder(*tiny.features(encoder))
    hidden_states = torch.randn(1, 12, DIM)
    steered = router(hidden_states, tokens)
    assert steered.shape == hidden_states.shape
    assert not torch.equal(steered, hidden_states)


def test_a_transformer_without_the_pipeline_around_it_is_read_with_no_subfolder(saved):
    expected = LocalRouter.from_consisid(saved).cross_attention.state_dict()
    read = LocalRouter.from_consisid(saved / "transformer", subfolder=None).cross_attention.state_dict()
    assert all(torch.equal(read[name], expected[name]) for name in expected)


@pytest.mark.parametrize("cls", [LocalFacialEncoder, LocalRouter])
@pytest.mark.parametrize("is_consisid", [True, False], ids=["no face modules", "another model"])
def test_another_checkpoint_is_refused(cls, is_consisid, tmp_path):
    other = consisid_transformer(is_train_face=False) if is_consisid else small_components()["transformer"]
    other.save_pretrained(tmp_path / "other" / "transformer")
    with pytest.raises(ValueError, match=rf"holds a {type(other).__name__}.*give a ConsisID checkpoint"):
        cls.from_consisid(tmp_path / "other")


def test_a_layer_that_is_not_there_is_refused(saved):
    for layer in (1.0, True, "0"):
        with pytest.raises(TypeError, match=f"layer is {layer!r}"):
            LocalRouter.from_consisid(saved, layer=layer)
    with pytest.raises(ValueError, match=r"layer is 2.*2 cross-attentions: choose 0 to 1"):
        LocalRouter.from_consisid(saved, layer=2)


@pytest.mark.parametrize(
    ("cls", "theirs", "ours"),
    [
        (LocalFacialEncoder, "local_facial_extractor.proj_out", "extractor.proj_out"),
        (LocalRouter, "perceiver_cross_attention.0.to_out.weight", "cross_attention.to_out"),
    ],
)
def test_a_checkpoint_that_lacks_one_of_the_weights_is_refused(model, tmp_path, cls, theirs, ours):
    model.save_pretrained(tmp_path / "transformer")
    weights = load_file(tmp_path / "transformer" / WEIGHTS)
    cls.from_consisid(tmp_path)
    del weights[theirs]
    save_file(weights, tmp_path / "transformer" / WEIGHTS)
    with pytest.raises(ValueError, match=rf"missing keys: .*{re.escape(ours)}"):
        cls.from_consisid(tmp_path)


def test_an_unexpected_weight_is_listed(model, tmp_path):
    model.save_pretrained(tmp_path / "transformer")
    weights = load_file(tmp_path / "transformer" / WEIGHTS)
    weights["local_facial_extractor.mapping_5.0.bias"] = torch.zeros(16)
    save_file(weights, tmp_path / "transformer" / WEIGHTS)
    with pytest.raises(ValueError, match=r"unexpected keys: extractor\.mapping_5\.0\.bias"):
        LocalFacialEncoder.from_consisid(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 1000, -8])
def test_truncated_weights_are_refused_with_their_file(model, tmp_path, kept):
    model.save_pretrained(tmp_path / "transformer")
    path = tmp_path / "transformer" / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises((ValueError, OSError), match=re.escape(str(tmp_path))):
        LocalFacialEncoder.from_consisid(tmp_path)


def test_a_pickled_checkpoint_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path / "transformer", safe_serialization=False)
    assert (tmp_path / "transformer" / "diffusion_pytorch_model.bin").is_file()
    with pytest.raises(OSError, match=WEIGHTS):
        LocalFacialEncoder.from_consisid(tmp_path)


def test_a_folder_without_a_transformer_is_refused_with_the_file_that_is_needed(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"transformer/config\.json"):
        LocalRouter.from_consisid(tmp_path)


@torch.no_grad()
def test_of_a_repo_only_the_files_that_are_needed_are_fetched(model, saved, hub):
    hub.repos["me/consisid"] = {**contents(saved), "text_encoder/model.safetensors": bytes(1000)}
    router = LocalRouter.from_consisid("me/consisid", layer=1)
    torch.testing.assert_close(*router_outputs(model, router, 1), rtol=1e-5, atol=1e-5)
    fetched = {request.split("/", 5)[-1] for request in hub.requests if re.match(r"GET /me/consisid/resolve/", request)}
    index = saved / "transformer" / f"{WEIGHTS}.index.json"
    if index.exists():
        shards = json.loads(index.read_text())["weight_map"]
        needed = {shard for name, shard in shards.items() if name.startswith("perceiver_cross_attention.1.")}
        assert 0 < len(needed) < len(set(shards.values()))
        assert fetched == {
            "transformer/config.json",
            f"transformer/{index.name}",
            *(f"transformer/{s}" for s in needed),
        }
    else:
        assert fetched == {"transformer/config.json", f"transformer/{WEIGHTS}"}


@torch.no_grad()
def test_a_connection_that_breaks_once_is_resumed(model, saved, hub):
    hub.repos["me/consisid"], hub.break_after = contents(saved), 8192
    encoder = LocalFacialEncoder.from_consisid("me/consisid")
    assert hub.break_after is None  # it did break
    torch.testing.assert_close(*encoder_outputs(model, encoder), rtol=1e-5, atol=1e-5)


def test_a_connection_that_keeps_breaking_is_an_os_error_and_leaves_no_half_weights(saved, hub, tmp_path):
    hub.repos["me/consisid"], hub.break_downloads, hub.break_after = contents(saved), True, 8192
    with pytest.raises(OSError, match="connection broke during a transfer of 'me/consisid"):
        LocalFacialEncoder.from_consisid("me/consisid")
    cached = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and ".no_exist" not in path.parts]
    assert not [path for path in cached if path.suffix in (".safetensors", ".incomplete")]
    hub.break_downloads, hub.break_after = False, None
    LocalFacialEncoder.from_consisid("me/consisid")


def test_a_repo_that_is_not_there_fails_with_its_name(hub):
    with pytest.raises(OSError, match="me/nothing"):
        LocalFacialEncoder.from_consisid("me/nothing")
