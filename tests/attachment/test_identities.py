import pytest
import torch
from support import tiny

from lavieid_adapters import FACIAL_COMPONENTS, Identity
from lavieid_adapters.attachment.identities import check_settings, read_identities

SETTINGS = {"face_index": None, "on_no_face": "raise", "component_map": None}


def read(given, settings=SETTINGS, fingerprint="", names=FACIAL_COMPONENTS):
    """Tokens, mask, and the photos that were read with their settings."""
    photos = []

    def encode(photo, **values):
        photos.append((photo, values))
        return Identity(tiny.tokens(seed=len(photos)))

    return *read_identities(given, settings, encode, names, fingerprint), photos


def test_each_kind_of_identity_is_read(tmp_path):
    identity = Identity(tiny.tokens(seed=5), torch.tensor([True] * 5 + [False]))
    identity.save(tmp_path / "alice.safetensors")
    given = ["a.jpg", identity, tmp_path / "alice.safetensors", tiny.tokens(seed=6)]
    tokens, mask, photos = read(given)
    assert photos == [("a.jpg", SETTINGS)]
    assert torch.equal(tokens, torch.stack([tiny.tokens(seed=seed) for seed in (1, 5, 5, 6)]))
    assert mask[:, 5].tolist() == [True, False, False, True]
    for one in given:
        assert read(one)[0].shape == (1, 6, tiny.LENGTH, tiny.TOKEN_DIM)


def test_photos_of_one_person_are_fused_each_with_its_setting():
    tokens, _, photos = read([["a.jpg", "b.jpg"], "c.jpg"], {**SETTINGS, "face_index": [[3, 4], 5]})
    assert [(photo, values["face_index"]) for photo, values in photos] == [("a.jpg", 3), ("b.jpg", 4), ("c.jpg", 5)]
    torch.testing.assert_close(tokens[0], (tiny.tokens(seed=1) + tiny.tokens(seed=2)) / 2)
    assert torch.equal(tokens[1], tiny.tokens(seed=3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "No identity was given. To forget"),
        ([tiny.tokens(), tiny.tokens()[:, :4]], "tokens of different shapes"),
        (Identity(tiny.tokens(), fingerprint="0123456789abcdef"), "made by encoder 0123456789abcdef, but .* fedc"),
        (
            Identity(tiny.tokens(), names=FACIAL_COMPONENTS[::-1]),
            "components hair, .* but the router's are eye",
        ),
        (["a.jpg"] * 2, "3 settings for 2 photos"),
    ],
)
def test_what_cannot_be_an_identity_of_these_adapters_is_refused(given, message):
    settings = {**SETTINGS, "face_index": [0, 1, 2]} if isinstance(given, list) and len(given) == 2 else SETTINGS
    if "shapes" in message:
        settings = SETTINGS
    with pytest.raises(ValueError, match=message):
        read(given, settings, fingerprint="fedcba9876543210")


def test_an_identity_of_an_unknown_encoder_is_taken():
    for theirs, ours in (("", "fedc"), ("fedc", ""), ("fedc", "fedc")):
        assert read(Identity(tiny.tokens(), fingerprint=theirs), fingerprint=ours)[0].shape[0] == 1


def test_settings_for_photos_need_a_photo(tmp_path):
    settings = {"face_index": 1, "component_map": None}
    for given in ("a.jpg", ["alice.safetensors", ["b.jpg"]], object()):
        check_settings(given, settings)
    for given in ("alice.safetensors", [tiny.tokens()], Identity(tiny.tokens())):
        check_settings(given, dict.fromkeys(settings))
        with pytest.raises(TypeError, match="face_index only go with photos, but none is given"):
            check_settings(given, settings)
