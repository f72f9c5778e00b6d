"""One person's identity: its file, what makes none, and which adapters take it."""

import json
import pickle
from dataclasses import FrozenInstanceError

import pytest
import torch
from diffusers import CogVideoXPipeline
from safetensors.torch import save_file
from support import tiny
from support.adapter_files import Planted
from support.small_cogvideox import small_components

from lavieid_adapters import FACIAL_COMPONENTS, Identity, attach_lavieid
from lavieid_adapters.models.checkpoint import Metadata, save_folder

MASK = torch.tensor([True, True, True, True, True, False])


@pytest.fixture(scope="module")
def pipe() -> CogVideoXPipeline:
    return CogVideoXPipeline(**small_components())


@pytest.fixture
def saved(tmp_path):
    """The file of an identity."""
    Identity(tiny.tokens(), MASK, fingerprint="0123456789abcdef").save(tmp_path / "me.safetensors")
    return tmp_path / "me.safetensors"


def identity_of(encoder, mask=None) -> Identity:
    return encoder.encode(*tiny.features(encoder), mask=mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_identity_comes_back_from_its_file(tmp_path, dtype):
    names = ("brows", "eyes", "mouth", "nose", "skin", "hat")
    identity = Identity(tiny.tokens().to(dtype), MASK, names, "0123456789abcdef")
    identity.save(tmp_path / "people" / "me.safetensors")
    loaded = Identity.load(str(tmp_path / "people" / "me.safetensors"))
    assert torch.equal(loaded.tokens, identity.tokens) and loaded.tokens.dtype == dtype
    assert torch.equal(loaded.mask, MASK)
    assert (loaded.names, loaded.fingerprint) == (names, "0123456789abcdef")


def test_all_components_are_visible_and_the_encoder_is_unknown_unless_said():
    identity = Identity(tiny.tokens())
    assert identity.mask.tolist() == [True] * 6
    assert (identity.names, identity.fingerprint) == (FACIAL_COMPONENTS, "")


def test_the_repr_says_what_is_hidden_and_which_encoder_it_was(saved):
    assert repr(Identity.load(saved)) == (
        "Identity(6 × 8 × 32 tokens, torch.float32, hidden: hair, encoder: 0123456789abcdef)"
    )
    assert repr(Identity(tiny.tokens())).endswith("hidden: none, encoder: unknown)")


def test_an_identity_does_not_change():
    with pytest.raises(FrozenInstanceError):
        Identity(tiny.tokens()).fingerprint = "other"


@pytest.mark.parametrize("mask", [torch.ones(6, 2, dtype=torch.bool)[:, 0], torch.ones(1, dtype=torch.bool).expand(6)])
def test_views_of_larger_tensors_can_be_saved(tmp_path, mask):
    tokens = torch.randn(2, 6, tiny.TOKEN_DIM, tiny.LENGTH).requires_grad_()[1].transpose(1, 2)
    assert not tokens.is_contiguous() and not mask.is_contiguous()
    Identity(tokens, mask).save(tmp_path / "me.safetensors")
    loaded = Identity.load(tmp_path / "me.safetensors")
    assert torch.equal(loaded.tokens, tokens) and torch.equal(loaded.mask, mask)
    assert (tmp_path / "me.safetensors").stat().st_size < 2 * tokens.nbytes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokens": tiny.tokens(1)}, r"shape \(1, 6, 8, 32\), but must be floating point of \(num_components"),
        ({"tokens": tiny.tokens().long()}, "torch.int64"),
        ({"tokens": tiny.tokens() * torch.nan}, "NaN or infinite"),
        ({"tokens": tiny.tokens() / 0}, "NaN or infinite"),
        ({"mask": MASK.float()}, "6 components, but a torch.float32 mask"),
        ({"mask": MASK[:5]}, r"mask of shape \(5,\)"),
        ({"mask": ~torch.ones(6, dtype=torch.bool)}, "use a photo that shows the face"),
        ({"names": ("face",)}, "1 names"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Identity(**{"tokens": tiny.tokens(), **fields})


def test_saving_needs_the_suffix(tmp_path):
    with pytest.raises(ValueError, match=r"me\.pt' must end in \.safetensors"):
        Identity(tiny.tokens()).save(tmp_path / "me.pt")
    assert not list(tmp_path.iterdir())


def test_saving_over_a_file_that_was_loaded_replaces_it(saved):
    identity = Identity.load(saved)
    before = identity.tokens.clone()
    Identity(tiny.tokens(seed=1)).save(saved)
    assert torch.equal(Identity.load(saved).tokens, tiny.tokens(seed=1))
    assert torch.equal(identity.tokens, before)


def test_a_save_that_fails_half_way_leaves_the_old_file_and_no_scratch(saved, monkeypatch):
    before = saved.read_bytes()

    def full_disk(tensors, filename, metadata=None):
        filename.write_bytes(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lavieid_adapters.models.identity.save_file", full_disk)
        with pytest.raises(OSError, match="No space left"):
            Identity(tiny.tokens(seed=1)).save(saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]
    Identity(tiny.tokens(seed=1)).save(saved)
    assert saved.read_bytes() != before


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no identity file '.*me\.safetensors'"):
        Identity.load(tmp_path / "me.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 100, -8])
def test_a_truncated_file_is_refused_as_damaged(saved, kept):
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"me\.safetensors' is no identity file, or a damaged one"):
        Identity.load(saved)


def test_a_pickle_with_the_suffix_is_refused_and_never_unpickled(saved, tmp_path):
    marker = tmp_path / "marker"
    pickled = pickle.dumps(Planted(marker))
    pickle.loads(pickled).close()
    assert marker.exists()
    marker.unlink()
    saved.write_bytes(pickled)
    with pytest.raises(ValueError, match="no identity file"):
        Identity.load(saved)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"to_video.weight": torch.zeros(2)}, {"format": "pt"}),
        ({"to_video.weight": torch.zeros(2)}, None),
        ({"tokens": tiny.tokens(), "mask": MASK}, {"format": "pt"}),
        ({"tokens": tiny.tokens()}, {"format": "lavieid-identity"}),
        ({"tokens": tiny.tokens(), "mask": MASK}, {"format": "lavieid-identity"}),
        ({"tokens": tiny.tokens(), "mask": MASK}, {"format": "lavieid-identity", "names": "[", "fingerprint": ""}),
    ],
    ids=["weights", "no metadata", "another format", "no mask", "no names", "names cut off"],
)
def test_a_safetensors_file_of_something_else_is_refused(saved, tensors, metadata):
    save_file(tensors, saved, metadata)
    with pytest.raises(ValueError) as caught:
        Identity.load(saved)
    assert "me.safetensors" in str(caught.value)


def test_a_file_of_the_adapters_own_encoder_sets_what_its_identity_sets(pipe, tmp_path):
    encoder = tiny.encoder()
    identity = identity_of(encoder, MASK)
    identity.save(tmp_path / "me.safetensors")
    inputs, seen = torch.randn(1, 12, tiny.DIM), []
    with attach_lavieid(pipe, [tiny.router(), encoder]) as lavieid:
        for given in (identity, tmp_path / "me.safetensors", str(tmp_path / "me.safetensors")):
            lavieid.clear()
            lavieid.set_identity(given)
            seen.append(lavieid.handle.steer(inputs.clone()))
        lavieid.set_identity(identity_of(encoder))  # the hair is visible in this one
        assert not torch.equal(lavieid.handle.steer(inputs.clone()), seen[0])
    assert not torch.equal(seen[0], inputs)
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])


def test_a_file_of_another_encoder_is_refused_with_both_fingerprints_and_the_identity_stays(pipe, tmp_path):
    ours, theirs = tiny.encoder(), tiny.encoder(seed=1)
    identity_of(theirs).save(tmp_path / "other.safetensors")
    inputs = torch.randn(1, 12, tiny.DIM)
    with attach_lavieid(pipe, [tiny.router(), ours]) as lavieid:
        lavieid.set_identity(identity_of(ours))
        before = lavieid.handle.steer(inputs.clone())
        with pytest.raises(ValueError, match="Encode the photo again") as caught:
            lavieid.set_identity(tmp_path / "other.safetensors")
        assert torch.equal(lavieid.handle.steer(inputs.clone()), before)
    assert ours.fingerprint() in str(caught.value) and theirs.fingerprint() in str(caught.value)


def test_a_file_of_another_width_is_refused_with_both_fingerprints(pipe, tmp_path):
    ours, theirs = tiny.encoder(), tiny.encoder(token_dim=16)
    identity_of(theirs).save(tmp_path / "other.safetensors")
    with (
        attach_lavieid(pipe, [tiny.router(), ours]) as lavieid,
        pytest.raises(ValueError) as caught,
    ):
        lavieid.set_identity(tmp_path / "other.safetensors")
    assert ours.fingerprint() in str(caught.value) and theirs.fingerprint() in str(caught.value)


def test_a_checkpoint_without_its_encoder_knows_its_fingerprint(pipe, tmp_path):
    ours, theirs = tiny.encoder(), tiny.encoder(seed=1)
    save_folder({"router": tiny.router()}, tmp_path / "lavieid", Metadata(encoder=ours.fingerprint()))
    with attach_lavieid(pipe, tmp_path / "lavieid") as lavieid:
        lavieid.set_identity(identity_of(ours))
        with pytest.raises(ValueError, match=rf"{theirs.fingerprint()}.*{ours.fingerprint()}"):
            lavieid.set_identity(identity_of(theirs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_checkpoints_encoder_is_known_in_the_dtype_of_the_pipeline(tmp_path, dtype):
    components = small_components()
    components["transformer"].to(dtype)
    save_folder({"router": tiny.router(), "encoder": tiny.encoder()}, tmp_path / "lavieid", Metadata())
    identity_of(tiny.encoder()).save(tmp_path / "me.safetensors")
    with attach_lavieid(CogVideoXPipeline(**components), tmp_path / "lavieid") as lavieid:
        assert lavieid.encoder.dtype == dtype
        lavieid.set_identity(tmp_path / "me.safetensors")


def test_an_identity_of_an_unknown_encoder_is_judged_by_its_sizes(pipe):
    with attach_lavieid(pipe, [tiny.router(), tiny.encoder()]) as lavieid:
        lavieid.set_identity(Identity(tiny.tokens()))
        with pytest.raises(ValueError, match=r"\(1, 6, 8, 16\), but this router needs \(batch, 6, 8, 32\)"):
            lavieid.set_identity(Identity(tiny.tokens()[..., :16]))


def test_several_identities_of_different_sizes_are_refused(pipe):
    short = Identity(tiny.tokens()[:, :4])
    with attach_lavieid(pipe, tiny.router()) as lavieid, pytest.raises(ValueError, match=r"\(6, 4, 32\), \(6, 8, 32\)"):
        lavieid.set_identity([short, Identity(tiny.tokens())])


def test_what_is_no_identity_is_refused_with_what_would_be(pipe, tmp_path):
    with attach_lavieid(pipe, tiny.router()) as lavieid:
        with pytest.raises(ValueError, match=r"have no encoder, which photos need\. Give an Identity or its file"):
            lavieid.set_identity("photo.jpg")
        with pytest.raises(FileNotFoundError, match=r"me\.safetensors"):
            lavieid.set_identity(tmp_path / "me.safetensors")
        with pytest.raises(ValueError, match="call clear"):
            lavieid.set_identity([])
    with attach_lavieid(pipe, [tiny.router(), tiny.encoder()]) as lavieid:
        with pytest.raises(FileNotFoundError, match=r"no photo 'photo\.jpg'"):
            lavieid.set_identity("photo.jpg")
        with pytest.raises(TypeError, match=r"path, a URL, a PIL image, .* not .*int"):
            lavieid.set_identity(7)


def test_the_reasons_why_components_are_hidden_are_kept_and_shown(tmp_path):
    hidden = {"hair": "not in the photo"}
    identity = Identity(tiny.tokens(), MASK, hidden=hidden)
    hidden["eyes"] = "later"  # the caller's own
    assert identity.hidden == {"hair": "not in the photo"}
    assert "hidden: hair (not in the photo), encoder" in repr(identity)
    identity.save(tmp_path / "me.safetensors")
    assert Identity.load(tmp_path / "me.safetensors").hidden == identity.hidden
    assert repr(Identity.load(tmp_path / "me.safetensors")) == repr(identity)
    Identity(tiny.tokens(), MASK).save(tmp_path / "me.safetensors")
    assert Identity.load(tmp_path / "me.safetensors").hidden == {}


def test_a_reason_may_be_in_any_language(tmp_path):
    Identity(tiny.tokens(), MASK, hidden={"hair": "verdeckt · 隠れている"}).save(tmp_path / "me.safetensors")
    assert Identity.load(tmp_path / "me.safetensors").hidden["hair"] == "verdeckt · 隠れている"


def test_files_from_before_there_were_reasons_are_read(saved):
    metadata = {"format": "lavieid-identity", "names": json.dumps(FACIAL_COMPONENTS), "fingerprint": "0123456789abcdef"}
    save_file({"tokens": tiny.tokens(), "mask": MASK}, saved, metadata)
    identity = Identity.load(saved)
    assert torch.equal(identity.tokens, tiny.tokens()) and identity.hidden == {}
    assert "hidden: hair, encoder: 0123456789abcdef" in repr(identity)


@pytest.mark.parametrize("hidden", ["[", "7", '["hair"]'])
def test_reasons_that_are_damaged_are_refused(saved, hidden):
    metadata = {"format": "lavieid-identity", "names": json.dumps(FACIAL_COMPONENTS), "fingerprint": ""}
    save_file({"tokens": tiny.tokens(), "mask": MASK}, saved, {**metadata, "hidden": "{}"})
    assert Identity.load(saved).hidden == {}
    save_file({"tokens": tiny.tokens(), "mask": MASK}, saved, {**metadata, "hidden": hidden})
    with pytest.raises(ValueError, match=r"me\.safetensors' is no identity file, or a damaged one"):
        Identity.load(saved)


def person(seed: int, hidden: str = "", **fields) -> Identity:
    """An identity of one encoder, that does not show one component."""
    mask = torch.tensor([name != hidden for name in FACIAL_COMPONENTS])
    reasons = {hidden: f"reason {seed}"} if hidden else {}
    return Identity(tiny.tokens(seed=seed), mask, **{"fingerprint": "0123456789abcdef", "hidden": reasons, **fields})


def test_mix_takes_components_of_several_people():
    a, b, c = person(1), person(2), person(3)
    mixed = Identity.mix(a, b, eyes=b, hair=c)
    assert not torch.equal(mixed.tokens, a.tokens)
    for i, name in enumerate(FACIAL_COMPONENTS):
        source = {"eyes": b, "hair": c}.get(name, a)
        assert torch.equal(mixed.tokens[i], source.tokens[i]), name
    assert (mixed.names, mixed.fingerprint, mixed.hidden) == (FACIAL_COMPONENTS, "0123456789abcdef", {})
    assert mixed.mask.all()
    assert torch.equal(Identity.mix(a).tokens, a.tokens)


def test_mix_takes_what_the_first_does_not_show_from_the_next_that_does():
    a, b, c = person(1, "nose"), person(2, "nose"), person(3)
    mixed = Identity.mix(a, b, c)
    assert torch.equal(mixed.tokens[3], c.tokens[3]) and mixed.mask.all() and mixed.hidden == {}
    assert torch.equal(mixed.tokens[:3], a.tokens[:3]) and torch.equal(mixed.tokens[4:], a.tokens[4:])
    hidden = Identity.mix(a, b)
    assert hidden.mask.tolist() == a.mask.tolist() and hidden.hidden == {"nose": "reason 1"}
    assert Identity.mix(a, nose=c).mask.all()


def test_mix_refuses_what_cannot_be_mixed():
    a, b, unreasoned = person(1), person(2, "hair"), Identity(tiny.tokens(), MASK, fingerprint="0123456789abcdef")
    for make, error, message in (
        (lambda: Identity.mix(a, beard=b), ValueError, "No component is called beard: .*eyebrows, eyes, mouth, nose"),
        (lambda: Identity.mix(eyes=a), ValueError, "mix needs a person: give identities"),
        (lambda: Identity.mix(), ValueError, "No identity was given"),
        (lambda: Identity.mix(a, hair=b), ValueError, r"give the hair does not show it \(reason 2\): take another"),
        (lambda: Identity.mix(a, hair=unreasoned), ValueError, r"does not show it \(hidden\)"),
        (lambda: Identity.mix(a, "b.safetensors"), TypeError, "Identity is needed here, not .*str.*Identity.load"),
        (lambda: Identity.mix(a, eyes=tiny.tokens()), TypeError, "not .*Tensor"),
        (lambda: Identity.mix(a, person(2, fingerprint="f" * 16)), ValueError, "0123456789abcdef.*f{16}.*not of one"),
        (lambda: Identity.mix(a, Identity(tiny.tokens()[:, :4])), ValueError, "6 × 4 × 32.*encode all with the same"),
    ):
        with pytest.raises(error, match=message):
            make()


def test_fuse_is_the_mean_over_the_photos_that_show_a_component():
    a, b, c = person(1), person(2, "nose"), person(3, "eyes")
    fused = Identity.fuse([a, b, c])
    shown = {"nose": (a, c), "eyes": (a, b)}
    for i, name in enumerate(FACIAL_COMPONENTS):
        wanted = torch.stack([p.tokens[i] for p in shown.get(name, (a, b, c))]).mean(0)
        assert not torch.allclose(wanted, a.tokens[i])
        torch.testing.assert_close(fused.tokens[i], wanted)
    assert fused.mask.all() and fused.hidden == {}
    assert (fused.names, fused.fingerprint) == (FACIAL_COMPONENTS, "0123456789abcdef")


def test_fuse_keeps_hidden_what_no_photo_shows():
    a, b = person(1, "nose"), person(2, "nose")
    fused = Identity.fuse([a, b])
    assert fused.mask.tolist() == a.mask.tolist() and fused.hidden == {"nose": "reason 1"}
    assert fused.tokens.isfinite().all() and not torch.equal(fused.tokens, a.tokens)
    assert Identity.fuse([a, person(3, "hair")]).hidden == {}
    torch.testing.assert_close(Identity.fuse([a]).tokens, a.tokens)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_fuse_and_mix_keep_the_dtype(dtype):
    people = [Identity(tiny.tokens(seed=seed).to(dtype)) for seed in range(3)]
    fused, mixed = Identity.fuse(people), Identity.mix(*people, eyes=people[1])
    assert fused.tokens.dtype == mixed.tokens.dtype == dtype
    torch.testing.assert_close(fused.tokens, torch.stack([p.tokens.float() for p in people]).mean(0).to(dtype))


def test_fuse_of_large_half_precision_tokens_does_not_overflow():
    people = [Identity(torch.full((6, 8, 32), 60000.0, dtype=torch.float16)) for _ in range(4)]
    assert torch.equal(Identity.fuse(people).tokens, people[0].tokens)


def test_fuse_refuses_what_cannot_be_fused():
    for identities, error, message in (
        ([], ValueError, "No identity was given: give at least one"),
        ([person(1), "b.safetensors"], TypeError, "Identity is needed here, not .*str"),
        ([tiny.tokens()], TypeError, "Identity is needed here, not .*Tensor"),
        (person(1), TypeError, "list"),
        ([person(1), person(2, fingerprint="f" * 16)], ValueError, "not of one encoder"),
        ([person(1), person(2, names=("face", *FACIAL_COMPONENTS[1:]))], ValueError, "one set of components"),
    ):
        with pytest.raises(error, match=message):
            Identity.fuse(identities)


def test_several_files_of_one_person_are_fused_and_lists_of_people_stay_lists(pipe, tmp_path):
    encoder = tiny.encoder()
    a, b = identity_of(encoder, MASK), encoder.encode(*tiny.features(encoder, seed=1))
    a.save(tmp_path / "a.safetensors")
    hidden_states, seen = torch.randn(2, 12, tiny.DIM), []
    with attach_lavieid(pipe, [tiny.router(), encoder]) as lavieid:
        for given in ([[tmp_path / "a.safetensors", b]], Identity.fuse([a, b]), [a, b], a):
            lavieid.set_identity(given)
            seen.append(lavieid.handle.steer(hidden_states.clone()))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[3])
    torch.testing.assert_close(seen[2][0], seen[3][0])  # of two people, one a prompt


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"tokens": torch.ones(6, 0, 32)}, ValueError, r"\(6, 0, 32\): there is nothing in them"),
        ({"tokens": torch.ones(6, 8, 0)}, ValueError, "nothing in them"),
        ({"tokens": torch.ones(6, 8, 32).to(torch.float8_e4m3fn)}, TypeError, "float8_e4m3fn"),
        ({"tokens": torch.ones(6, 8, 32).to(torch.float8_e5m2)}, TypeError, "float8_e5m2"),
        ({"names": "abcdef"}, ValueError, "names are 'abcdef'"),
        ({"names": ("eyes",) * 6}, ValueError, "6 different names"),
        ({"names": (1, 2, 3, 4, 5, 6)}, ValueError, "6 different names"),
        ({"fingerprint": None}, TypeError, "fingerprint is None"),
    ],
)
def test_settings_that_are_not_of_their_kind_are_refused(settings, error, message):
    Identity(**{"tokens": torch.ones(6, 8, 32)})
    with pytest.raises(error, match=message):
        Identity(**{"tokens": torch.ones(6, 8, 32), **settings})
