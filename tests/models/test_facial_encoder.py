"""The encoder against diffusers' extractor run component by component, and the fingerprint of an encoder."""

import json

import pytest
import torch
from diffusers.models.transformers.consisid_transformer_3d import LocalFacialExtractor
from support import tiny
from support.lora import add_lora, check_lora, linear_layers
from support.tiny_consisid import consisid_transformer

from lavieid_adapters import FACIAL_COMPONENTS, LocalFacialEncoder


def literal(encoder: LocalFacialEncoder, id_embeds: torch.Tensor, maps: list[torch.Tensor]) -> torch.Tensor:
    """diffusers' own module on one component of one photo at a time; id_embeds is (b, m, id_dim)."""
    c = encoder.config
    extractor = LocalFacialExtractor(
        c.id_dim, c.vit_dim, c.depth, c.head_dim, c.num_heads, c.num_id_tokens, c.tokens_per_component, c.token_dim,
        c.ff_mult, c.num_scales,
    ).to(maps[0].dtype)  # fmt: skip
    extractor.load_state_dict(encoder.extractor.state_dict())
    return torch.stack(
        [
            torch.cat([extractor(ids[None, k], [v[None, i, k] for v in maps]) for k in range(maps[0].shape[1])])
            for i, ids in enumerate(id_embeds)
        ]
    )


@torch.no_grad()
@pytest.mark.parametrize("config", [{}, {"depth": 6, "num_scales": 3, "num_id_tokens": 2, "ff_mult": 2}], ids=str)
def test_forward_is_diffusers_extractor_on_each_component(config):
    encoder = tiny.encoder(**config).double()
    id_embeds, maps = tiny.features(encoder, batch=2)
    id_embeds, maps = id_embeds.double(), [v.double() for v in maps]
    expected = literal(encoder, id_embeds[:, None].expand(-1, 6, -1), maps)
    tokens = encoder(id_embeds, maps)
    assert tokens.shape == (2, 6, tiny.LENGTH, tiny.TOKEN_DIM)
    assert expected.std(dim=1).mean() > 0.1  # components differ
    torch.testing.assert_close(tokens, expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_the_identity_embedding_may_differ_between_components():
    encoder = tiny.encoder().double()
    maps = [v.double() for v in tiny.features(encoder, batch=2)[1]]
    id_embeds = torch.randn(2, 6, encoder.config.id_dim, dtype=torch.float64)
    tokens = encoder(id_embeds, maps)
    torch.testing.assert_close(tokens, literal(encoder, id_embeds, maps), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(tokens[:, 1:], encoder(id_embeds[:, 0], maps)[:, 1:], atol=1e-3)


@torch.no_grad()
def test_a_component_does_not_depend_on_the_others():
    encoder = tiny.encoder()
    id_embeds, maps = tiny.features(encoder)
    before = encoder(id_embeds, maps)
    after = encoder(id_embeds, [torch.cat([v[:, :5], v[:, 5:] + 1], dim=1) for v in maps])
    assert not torch.allclose(after[:, 5], before[:, 5], atol=1e-3)
    torch.testing.assert_close(after[:, :5], before[:, :5])


def test_gradients_reach_every_parameter():
    encoder = tiny.encoder()
    encoder(*tiny.features(encoder)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids, maps: (ids, maps[:4]), "needs 5 of"),
        (lambda ids, maps: (ids, [v[..., :8] for v in maps]), r"\(1, 6, 5, 8\).*patches, 16\)"),
        (lambda ids, maps: (ids, [*maps[:4], maps[4][:, :, :3]]), r"\(1, 6, 3, 16\)"),
        (lambda ids, maps: (ids, [v[0] for v in maps]), r"\(batch, components, patches, 16\)"),
        (
            lambda ids, maps: (ids[:, :20], maps),
            r"id_embeds has shape \(1, 6, 20\), but must be \(1, 24\) or \(1, 6, 24\)",
        ),
        (lambda ids, maps: (ids[:, None], maps), r"id_embeds has shape \(1, 1, 24\)"),
        (lambda ids, maps: (ids.expand(2, -1), maps), r"id_embeds has shape \(2, 6, 24\)"),
        (lambda ids, maps: (ids, []), "needs 5 of"),
    ],
)
def test_features_of_other_shapes_are_refused_with_both(change, message):
    encoder = tiny.encoder()
    with pytest.raises(ValueError, match=message):
        encoder(*change(*tiny.features(encoder)))


def test_a_depth_that_the_scales_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="depth 6 must be a multiple of num_scales 5"):
        LocalFacialEncoder(depth=6)


def test_encode_gives_an_identity_with_the_encoders_fingerprint():
    encoder = tiny.encoder()
    features, mask = tiny.features(encoder), torch.tensor([True] * 5 + [False])
    identity = encoder.encode(*features, mask=mask)
    assert torch.equal(identity.tokens, encoder(*features)[0])
    assert not identity.tokens.requires_grad
    assert identity.mask.tolist() == mask.tolist()
    assert (identity.names, identity.fingerprint) == (FACIAL_COMPONENTS, encoder.fingerprint())


def test_encode_refuses_more_than_one_photo():
    encoder = tiny.encoder()
    with pytest.raises(ValueError, match="features of one photo, but got 2"):
        encoder.encode(*tiny.features(encoder, batch=2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_fingerprint_is_the_same_in_another_dtype(tmp_path, dtype):
    encoder = tiny.encoder()
    encoder.save_pretrained(tmp_path / "encoder")
    loaded = LocalFacialEncoder.from_pretrained(tmp_path / "encoder", torch_dtype=dtype)
    assert not torch.equal(loaded.extractor.proj_out.float(), encoder.extractor.proj_out)
    assert loaded.fingerprint() == encoder.fingerprint()
    loaded.save_pretrained(tmp_path / "again")
    assert LocalFacialEncoder.from_pretrained(tmp_path / "again").fingerprint() == encoder.fingerprint()


def test_the_fingerprint_differs_between_encoders():
    encoders = [tiny.encoder(), tiny.encoder(seed=1), tiny.encoder(token_dim=16), tiny.encoder(depth=10)]
    prints = [encoder.fingerprint() for encoder in encoders]
    assert len(set(prints)) == 4
    assert all(len(p) == 16 and int(p, 16) >= 0 for p in prints)
    assert tiny.encoder().fingerprint() == prints[0]


def test_training_changes_the_fingerprint_and_use_does_not():
    encoder = tiny.encoder()
    before, features = encoder.fingerprint(), tiny.features(encoder)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    encoder(*features).square().mean().backward()
    assert encoder.fingerprint() == before
    for _ in range(10):
        optimizer.step()
    assert encoder.fingerprint() != before


@torch.no_grad()
def test_from_consisid_takes_sizes_and_weights_of_its_extractor(tmp_path):
    transformer = consisid_transformer()
    transformer.save_pretrained(tmp_path / "transformer")
    encoder = LocalFacialEncoder.from_consisid(tmp_path)
    settings = {
        "vit_dim": 16,
        "depth": 10,
        "num_id_tokens": 2,
        "tokens_per_component": 8,
        "token_dim": 32,
        "ff_mult": 2,
        "vision_model": "timm/eva02_large_patch14_clip_336.merged2b",
        "grayscale": True,
    }
    assert settings.items() <= dict(encoder.config).items()
    id_embeds, maps = tiny.features(encoder)
    theirs = [transformer.local_facial_extractor(id_embeds, [v[:, m] for v in maps]) for m in range(6)]
    torch.testing.assert_close(encoder(id_embeds, maps), torch.stack(theirs, dim=1), rtol=1e-4, atol=1e-5)
    encoder.save_pretrained(tmp_path / "encoder")
    loaded = LocalFacialEncoder.from_pretrained(tmp_path / "encoder")
    assert loaded.fingerprint() == encoder.fingerprint()
    assert settings.items() <= dict(loaded.config).items()


def test_an_encoder_says_which_vision_model_it_takes_features_of(tmp_path):
    fresh, other = tiny.encoder(), tiny.encoder(vision_model="someone/their-vit", grayscale=True)
    assert (fresh.config.vision_model, fresh.config.grayscale) == ("openai/clip-vit-large-patch14-336", False)
    assert fresh.fingerprint() == other.fingerprint()  # the weights'
    other.save_pretrained(tmp_path)
    loaded = LocalFacialEncoder.from_pretrained(tmp_path)
    assert (loaded.config.vision_model, loaded.config.grayscale) == ("someone/their-vit", True)


def test_an_encoder_from_before_vision_models_were_named_loads(tmp_path):
    tiny.encoder().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("vision_model") and not config.pop("grayscale")
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = LocalFacialEncoder.from_pretrained(tmp_path)
    assert loaded.fingerprint() == tiny.encoder().fingerprint()
    assert (loaded.config.vision_model, loaded.config.grayscale) == ("openai/clip-vit-large-patch14-336", False)


LAYERS = linear_layers(tiny.encoder())


@pytest.mark.parametrize("layer", LAYERS)
def test_lora_on_every_layer_acts_is_trained_and_merges(layer):
    encoder = tiny.encoder().double()
    id_embeds, maps = tiny.features(encoder)
    check_lora(encoder, layer, lambda encoder: encoder(id_embeds.double(), [v.double() for v in maps]))


def test_switching_and_scaling_lora_is_another_digest_of_the_weights():
    encoder = tiny.encoder()
    plain = encoder.weights_digest()
    tuner = add_lora(encoder, LAYERS[0])
    digests = [plain, encoder.weights_digest()]
    tuner.set_scale("default", 0.5)
    digests.append(encoder.weights_digest())
    tuner.enable_adapters(False)
    digests.append(encoder.weights_digest())
    assert len(set(digests)) == 4
    tuner.enable_adapters(True)
    assert encoder.weights_digest() == digests[2]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_an_encoder_stored_in_8_bits_has_the_same_fingerprint_and_encodes(dtype, tmp_path):
    encoder = tiny.encoder()
    fingerprint, digest, features = encoder.fingerprint(), encoder.weights_digest(), tiny.features(encoder)
    exact = encoder.encode(*features)
    encoder.enable_layerwise_casting(storage_dtype=dtype, compute_dtype=torch.float32)
    assert {p.dtype for p in encoder.parameters()} >= {dtype}
    assert encoder.fingerprint() == fingerprint
    assert encoder.weights_digest() != digest
    identity = encoder.encode(*features)
    assert identity.fingerprint == fingerprint and identity.tokens.isfinite().all()
    assert not torch.equal(identity.tokens, exact.tokens)
    encoder.save_pretrained(tmp_path)
    assert LocalFacialEncoder.from_pretrained(tmp_path).fingerprint() == fingerprint


@pytest.mark.parametrize(
    "name",
    [
        "id_dim", "vit_dim", "depth", "head_dim", "num_heads", "num_id_tokens", "tokens_per_component", "token_dim",
        "ff_mult", "num_scales",
    ],
)  # fmt: skip
def test_sizes_that_cannot_be_built_are_refused(name):
    for value, error in ((0, ValueError), (-5, ValueError), (5.0, TypeError), (True, TypeError), ("5", TypeError)):
        with pytest.raises(error, match=f"{name} is {value!r}"):
            tiny.encoder(**{name: value})


def test_other_settings_that_are_not_of_their_kind_are_refused():
    with pytest.raises(TypeError, match="grayscale is 1"):
        tiny.encoder(grayscale=1)
    with pytest.raises(TypeError, match="vision_model is None"):
        tiny.encoder(vision_model=None)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_an_encoder_stored_in_8_bits_encodes_as_its_rounded_weights_do(dtype):
    stored = tiny.encoder().to(dtype)
    rounded = tiny.encoder().to(dtype).float()
    features = tiny.features(rounded)
    with torch.no_grad():
        assert torch.equal(stored(*features), rounded(*features))
        assert not torch.equal(stored(*features), tiny.encoder()(*features))
