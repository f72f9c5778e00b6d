"""Vision transformers: embeddings and feature maps of the components' images, and where the weights come from."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.adapter_files import Planted
from support.tiny_face import photo
from torch import nn

pytest.importorskip("timm")
pytest.importorskip("skimage")

from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    BertConfig,
    CLIPConfig,
    CLIPModel,
    CLIPVisionModelWithProjection,
    TimmWrapperForImageClassification,
)

from lavieid_adapters import FaceProcessor
from lavieid_adapters.faces.vision import VisionModel

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Six pictures of 28 × 28."""
    pixels = photo("astronaut")
    return np.stack([pixels[y : y + 28, x : x + 28] for y in (80, 120, 300) for x in (200, 240)])


@pytest.fixture(params=["clip", "eva"])
def folder(request, face_models) -> Path:
    return getattr(face_models, request.param)


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    """A folder that may be damaged."""
    return Path(shutil.copytree(folder, tmp_path / folder.name))


@pytest.fixture
def clip(face_models, tmp_path) -> Path:
    """CLIP's folder, which may be damaged."""
    return Path(shutil.copytree(face_models.clip, tmp_path / "clip"))


def pickle_weights(folder: Path) -> None:
    """Leave pytorch_model.bin instead of the safetensors file, as openai/clip-vit-large-patch14-336 has it."""
    torch.save(load_file(folder / SAFE), folder / PICKLED)
    (folder / SAFE).unlink()


def same(one, other) -> bool:
    pairs = zip((one[0], *one[1]), (other[0], *other[1]), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_images_become_unit_embeddings_and_feature_maps(folder, images):
    embeds, maps = VisionModel(folder).encode(images)
    assert embeds.shape == (6, 12)
    torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(6))
    assert [tuple(h.shape) for h in maps] == [(6, 5, 16)] * 5  # four patches, and the class token before them
    assert {v.dtype for v in (embeds, *maps)} == {torch.float32}
    assert not any(v.requires_grad for v in (embeds, *maps))
    for i in range(1, 6):
        assert not torch.allclose(embeds[0], embeds[i], atol=0.01)
        assert not torch.allclose(maps[0][0], maps[0][i], atol=0.01)
    one, of_one = VisionModel(folder).encode(images[2:3])
    torch.testing.assert_close(one, embeds[2:3])
    torch.testing.assert_close(of_one[4], maps[4][2:3])


@torch.no_grad()
def test_clip_gives_what_transformers_gives(face_models, images):
    model = CLIPVisionModelWithProjection.from_pretrained(face_models.clip)
    pixels = AutoImageProcessor.from_pretrained(face_models.clip)(list(images), return_tensors="pt")["pixel_values"]
    expected = model(pixels, output_hidden_states=True)
    embeds, maps = VisionModel(face_models.clip).encode(images)
    torch.testing.assert_close(embeds, nn.functional.normalize(expected.image_embeds, dim=-1))
    for depth, found in enumerate(maps, start=1):  # 0 are the embedded patches, 6 is the last block
        torch.testing.assert_close(found, expected.hidden_states[depth], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(found, expected.hidden_states[depth - 1], rtol=0.1)


@torch.no_grad()
def test_eva_gives_what_timms_blocks_give_with_the_class_token_first(face_models, images):
    model = TimmWrapperForImageClassification.from_pretrained(face_models.eva).eval()
    outputs = []
    for block in model.timm_model.blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    processor = AutoImageProcessor.from_pretrained(face_models.eva)
    expected = model(torch.stack([processor(image)["pixel_values"][0] for image in images_of(images)])).logits
    embeds, maps = VisionModel(face_models.eva).encode(images)
    torch.testing.assert_close(embeds, nn.functional.normalize(expected, dim=-1), rtol=1e-4, atol=1e-5)
    assert len(outputs) == 6 and outputs[0].shape == (6, 5, 16)
    for found, block, previous in zip(maps, outputs, [None, *outputs], strict=False):
        torch.testing.assert_close(found, block, rtol=1e-4, atol=1e-5)
        assert previous is None or not torch.allclose(found, previous, rtol=0.1)


def images_of(images: np.ndarray) -> list:
    from PIL import Image

    return [Image.fromarray(image) for image in images]


@pytest.mark.parametrize(("num_scales", "depths"), [(1, [3]), (2, [2, 4]), (3, [1, 3, 4]), (5, [1, 2, 3, 4, 5])])
def test_feature_maps_are_spread_over_the_depth(face_models, images, num_scales, depths):
    _, every = VisionModel(face_models.clip).encode(images)
    _, maps = VisionModel(face_models.clip, num_scales).encode(images)
    assert [[torch.equal(found, other) for other in every].index(True) + 1 for found in maps] == depths


def test_of_24_blocks_the_maps_are_those_of_consisid(face_models):
    assert VisionModel(face_models.clip)._depths(24) == [4, 8, 12, 16, 20]


@pytest.mark.parametrize("num_scales", [6, 7])
def test_more_maps_than_blocks_are_an_error(folder, images, num_scales):
    with pytest.raises(ValueError, match=f"has 6 blocks, too few for {num_scales} feature maps") as caught:
        VisionModel(folder, num_scales).encode(images)
    assert str(folder) in str(caught.value)


def test_the_image_size_is_known_without_the_weights(copied):
    (copied / SAFE).unlink()
    assert VisionModel(copied).image_size == 28


def test_it_computes_in_the_dtype_that_is_asked_for_and_gives_float32(folder, images):
    full, maps = VisionModel(folder).encode(images)
    half, of_half = VisionModel(folder, dtype=torch.bfloat16).encode(images)
    assert {v.dtype for v in (half, *of_half)} == {torch.float32}
    assert not torch.equal(half, full)
    torch.testing.assert_close(half, full, rtol=0, atol=0.1)
    torch.testing.assert_close(half.norm(dim=-1), torch.ones(6))
    assert torch.equal(of_half[0], of_half[0].bfloat16().float()) and not torch.equal(
        maps[0], maps[0].bfloat16().float()
    )


@torch.no_grad()
def test_a_clip_with_its_text_tower_is_taken_too(tmp_path, images):
    """openai/clip-vit-large-patch14-336, the default, is one."""
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**small, "vocab_size": 10, "eos_token_id": 9, "projection_dim": 12},
        vision_config={**small, "image_size": 28, "patch_size": 14, "projection_dim": 12},
        projection_dim=12,
    )
    torch.manual_seed(0)
    both = CLIPModel(config).eval()
    both.save_pretrained(tmp_path)
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28)
    processor.save_pretrained(tmp_path)
    pickle_weights(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "clip"
    model = VisionModel(tmp_path)
    assert model.image_size == 28
    embeds, maps = model.encode(images)
    seen = both.vision_model(processor(list(images), return_tensors="pt")["pixel_values"], output_hidden_states=True)
    expected = nn.functional.normalize(both.visual_projection(seen.pooler_output), dim=-1)
    torch.testing.assert_close(embeds, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps[2], seen.hidden_states[3], rtol=1e-4, atol=1e-5)


def test_pickled_weights_are_read_where_there_are_no_others(copied, images):
    expected = VisionModel(copied).encode(images)
    pickle_weights(copied)
    assert same(VisionModel(copied).encode(images), expected)


def test_safetensors_go_before_pickled_weights(copied, images):
    expected = VisionModel(copied).encode(images)
    (copied / PICKLED).write_bytes(b"never opened")
    assert same(VisionModel(copied).encode(images), expected)


def test_code_in_pickled_weights_does_not_run(copied, images, tmp_path):
    marker = tmp_path / "it ran"
    torch.save({**load_file(copied / SAFE), "code": Planted(marker)}, copied / PICKLED)
    (copied / SAFE).unlink()
    torch.load(copied / PICKLED, weights_only=False)
    assert marker.exists()  # it is one that would run
    marker.unlink()
    with pytest.raises(ValueError, match="is damaged, or of another model") as caught:
        VisionModel(copied).encode(images)
    assert str(copied / PICKLED) in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("kept", [0, 4, 1000, -8])
def test_truncated_weights_are_named(copied, images, kept):
    whole = (copied / SAFE).read_bytes()
    (copied / SAFE).write_bytes(whole[:kept])
    with pytest.raises(ValueError, match=r"(?s)is damaged, or of another model.*fetch it again") as caught:
        VisionModel(copied).encode(images)
    assert str(copied / SAFE) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02.", b"<html>Not Found</html>"])
def test_damaged_pickled_weights_are_named(copied, images, content):
    (copied / SAFE).unlink()
    (copied / PICKLED).write_bytes(content)
    with pytest.raises(ValueError, match=r"(?s)is damaged, or of another model.*fetch it again") as caught:
        VisionModel(copied).encode(images)
    assert str(copied / PICKLED) in str(caught.value)


def test_missing_weights_are_named(copied, images):
    weights = load_file(copied / SAFE)
    gone = sorted(name for name in weights if name.endswith("bias"))[0]
    del weights[gone]
    save_file(weights, copied / SAFE, {"format": "pt"})
    with pytest.raises(ValueError, match="does not hold the weights of this") as caught:
        VisionModel(copied).encode(images)
    assert str(copied / SAFE) in str(caught.value) and gone.removeprefix("model.") in str(caught.value)


def test_weights_of_another_shape_are_named(copied, images):
    weights = load_file(copied / SAFE)
    wrong = sorted(name for name in weights if weights[name].ndim == 2)[0]
    weights[wrong] = weights[wrong][:, :-1].contiguous()
    save_file(weights, copied / SAFE, {"format": "pt"})
    with pytest.raises(ValueError) as caught:
        VisionModel(copied).encode(images)
    assert str(copied / SAFE) in str(caught.value) and wrong in str(caught.value)


def test_a_folder_without_weights_says_which_it_takes(copied, images):
    (copied / SAFE).unlink()
    with pytest.raises(OSError, match=rf"has neither {SAFE} nor {PICKLED}: put the weights of") as caught:
        VisionModel(copied).encode(images)
    assert str(copied) in str(caught.value)


def test_a_folder_without_a_config_is_named(copied, images):
    (copied / "config.json").unlink()
    with pytest.raises(OSError, match=r"has no config\.json") as caught:
        VisionModel(copied).encode(images)
    assert str(copied) in str(caught.value)


def test_a_clip_without_a_preprocessor_is_named(clip, images):
    for path in clip.glob("*processor_config.json"):
        path.unlink()
    with pytest.raises(OSError, match=r"preprocessor_config\.json") as caught:
        VisionModel(clip).encode(images)
    assert str(clip) in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "clip'])
def test_a_damaged_config_is_named(clip, images, content):
    (clip / "config.json").write_text(content)
    with pytest.raises((OSError, ValueError), match=r"config\.json"):
        VisionModel(clip).encode(images)


def test_a_model_of_another_kind_is_refused_with_a_way_out(tmp_path, images):
    BertConfig(hidden_size=16, num_attention_heads=2).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"is a bert, but vision models are CLIP's and timm's: write an object"
    ) as caught:
        VisionModel(tmp_path).encode(images)
    assert str(tmp_path) in str(caught.value)


def test_a_model_that_transformers_does_not_know_is_refused(tmp_path, images):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "telescope"}))
    with pytest.raises(ValueError, match="telescope"):
        VisionModel(tmp_path).encode(images)


def test_a_repo_that_is_not_in_the_cache_fails_offline_and_is_named(images):
    with pytest.raises(OSError, match=r"'someone/clip' is no folder here.*HF_HUB_OFFLINE"):
        VisionModel("someone/clip").encode(images)
    with pytest.raises(ValueError, match=r"'\./no/such/folder' is neither a folder nor the id"):
        VisionModel("./no/such/folder").encode(images)


@pytest.mark.parametrize("name", ["clip", "eva"])
@pytest.mark.parametrize("weights", [SAFE, PICKLED])
def test_of_a_repo_only_what_is_needed_is_fetched_and_only_once(hub, face_models, tmp_path, images, name, weights):
    folder = Path(shutil.copytree(getattr(face_models, name), tmp_path / name))
    expected = VisionModel(folder).encode(images)
    if weights == PICKLED:
        pickle_weights(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.repos["me/vit"] = {**files, "tf_model.h5": bytes(99), "README.md": b"Hello"}
    if weights == SAFE:
        hub.repos["me/vit"][PICKLED] = bytes(99)
    model = VisionModel("me/vit")
    assert model.image_size == 28
    fetched = {
        request.rpartition("/")[2] for request in hub.requests if request.startswith("GET") and "resolve" in request
    }
    assert "config.json" in fetched and weights not in fetched  # the weights wait until they are used
    assert same(model.encode(images), expected)
    fetched = {
        request.rpartition("/")[2] for request in hub.requests if request.startswith("GET") and "resolve" in request
    }
    assert fetched == {"config.json", weights} | ({"preprocessor_config.json"} & set(files))
    hub.requests.clear()
    model.encode(images)
    assert hub.requests == []
    assert same(VisionModel("me/vit", local_files_only=True).encode(images), expected)
    assert hub.requests == []


def test_the_fingerprint_of_a_repo_is_its_commit(hub, face_models, images):
    files = {path.name: path.read_bytes() for path in face_models.clip.iterdir()}
    hub.repos["me/vit"] = files
    VisionModel("me/vit").encode(images)
    hub.requests.clear()
    first = VisionModel("me/vit").fingerprint
    assert hub.requests == []
    assert first.startswith("me/vit@") and len(first.split()[0]) == len("me/vit@") + 40
    hub.repos["me/vit"]["README.md"] = b"changed"
    VisionModel("me/vit").encode(images)
    assert VisionModel("me/vit").fingerprint != first


def test_a_folders_fingerprint_is_that_of_its_weights(copied):
    first = VisionModel(copied).fingerprint
    assert first == VisionModel(str(copied)).fingerprint
    weights = {name: tensor + 0.01 for name, tensor in load_file(copied / SAFE).items()}
    save_file(weights, copied / SAFE, {"format": "pt"})
    assert VisionModel(copied).fingerprint != first


def test_fingerprints_tell_models_apart(face_models):
    assert VisionModel(face_models.clip).fingerprint != VisionModel(face_models.eva).fingerprint


@pytest.mark.parametrize("setting", [{"num_scales": 3}, {"dtype": torch.bfloat16}], ids=["num_scales", "dtype"])
def test_settings_that_change_the_features_change_the_fingerprint(face_models, images, setting):
    model, other = VisionModel(face_models.clip), VisionModel(face_models.clip, **setting)
    assert not same(other.encode(images), model.encode(images))
    assert other.fingerprint != model.fingerprint


def test_configs_that_change_the_features_change_the_fingerprint(face_models, clip, images):
    file = next(path for path in clip.glob("*processor_config.json"))
    config = json.loads(file.read_text())
    config["image_mean"] = [0, 0, 0]
    file.write_text(json.dumps(config))
    model, other = VisionModel(face_models.clip), VisionModel(clip)
    assert not same(other.encode(images), model.encode(images))
    assert other.fingerprint != model.fingerprint


def test_nothing_is_read_before_it_is_used_and_nothing_twice(copied, images):
    model = VisionModel(copied)
    moved = copied.rename(copied.with_name("moved"))
    with pytest.raises((OSError, ValueError)):
        model.encode(images)
    moved.rename(copied)
    expected = model.encode(images)
    shutil.rmtree(copied)
    assert same(model.encode(images), expected)


def test_images_are_prepared_as_the_processor_of_the_model_does(folder, images):
    """Of the right size there is nothing to scale: the values must be the same."""
    model, seen = VisionModel(folder), []
    with model.in_use() as module:
        model._read_configs()
        module.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    model.encode(images)
    processor = AutoImageProcessor.from_pretrained(folder)
    expected = torch.cat(
        [torch.as_tensor(processor(image, return_tensors="pt")["pixel_values"]) for image in images_of(images)]
    )
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-5)
    assert expected.min() < -1 and expected.max() > 1


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_scales": 0}, ValueError, "num_scales is 0, but must be at least 1"),
        ({"num_scales": 2.5}, TypeError, "num_scales is 2.5 .*whole number"),
        ({"num_scales": True}, TypeError, "num_scales is True .*whole number"),
        ({"dtype": "bfloat16"}, TypeError, "dtype is 'bfloat16', but must be a floating-point torch.dtype"),
        ({"dtype": torch.int8}, TypeError, "dtype is torch.int8, but must be a floating-point torch.dtype"),
    ],
    ids=str,
)
def test_settings_are_checked_before_anything_is_loaded(tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        VisionModel(tmp_path / "vit", **settings)
    with pytest.raises(error, match=message):
        FaceProcessor.from_pretrained(vision_model=tmp_path / "vit", **settings)
