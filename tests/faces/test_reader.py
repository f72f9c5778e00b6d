"""From photos to an identity, and each photo once."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support import tiny
from support.tiny_face import FACES, HAND_MADE, THIRD_PARTY_WARNINGS, photo

pytest.importorskip("insightface")
pytest.importorskip("facexlib")
pytest.importorskip("skimage")

from lavieid_adapters import FACIAL_COMPONENTS, DetectedFace, FaceProcessor, Identity, IdentityReader
from lavieid_adapters.faces import reader
from lavieid_adapters.models.consisid import EVA02_CLIP

pytestmark = THIRD_PARTY_WARNINGS


class Known:
    """A detector that knows the astronaut, a parser of stripes and a recognizer in one, which counts its calls."""

    def __init__(self, fingerprint: str | None = "known", faces: int = 1):
        self.calls, self.count = 0, faces
        if fingerprint is not None:
            self.fingerprint = fingerprint

    def detect(self, image):
        self.calls += 1
        face = FACES["astronaut"][0]
        return [
            DetectedFace(np.array(face.box) + shift, 0.9, np.array(face.landmarks) + shift)
            for shift in range(0, 10 * self.count, 10)
        ]

    def embed(self, image, landmarks):
        return np.sin(np.arange(512) * (1 + image.mean() / 100 + (0 if landmarks is None else landmarks[0, 0])))

    def parse(self, aligned):
        return np.broadcast_to(np.repeat(np.arange(8, dtype=np.uint8) % 7, 64), (512, 512)).copy()


class Unused:
    """A part that must not be asked."""

    fingerprint = "known"

    def detect(self, image):
        raise AssertionError("the photo was read again")

    embed = parse = detect


@pytest.fixture(scope="module")
def encoder():
    return tiny.encoder(id_dim=524)


@pytest.fixture(scope="module")
def models(face_models) -> FaceProcessor:
    return FaceProcessor.from_pretrained(face_models.pack, face_models.clip, weights_dir=face_models.weights)


@pytest.fixture
def known(models):
    """A processor around a part that counts, and the part."""

    def make(part=None, **settings):
        part = part or Known()
        return FaceProcessor((part,), part, None, part, models.vision, **settings), part

    return make


def same(one: Identity, other: Identity) -> bool:
    fields = ("names", "fingerprint", "hidden")
    return (
        torch.equal(one.tokens, other.tokens)
        and torch.equal(one.mask, other.mask)
        and all(getattr(one, name) == getattr(other, name) for name in fields)
    )


def test_an_identity_is_the_encoding_of_what_is_seen(models, encoder):
    identity = IdentityReader(encoder, models)(photo("astronaut"), component_map=HAND_MADE)
    features = models(photo("astronaut"), component_map=HAND_MADE)
    expected = encoder.encode(features.id_embeds, [h[None] for h in features.vit_hidden_states], features.mask)
    assert identity.tokens.shape == (6, tiny.LENGTH, tiny.TOKEN_DIM) and identity.tokens.abs().min() > 0
    torch.testing.assert_close(identity.tokens, expected.tokens)
    assert identity.mask.all() and identity.hidden == {}
    assert (identity.names, identity.fingerprint) == (FACIAL_COMPONENTS, encoder.fingerprint())
    assert identity.tokens.device.type == "cpu" and not identity.tokens.requires_grad


def test_the_parser_is_asked_where_no_map_is_given(models, encoder):
    read = IdentityReader(encoder, models)
    by_parser, by_map = read(photo("astronaut")), read(photo("astronaut"), component_map=HAND_MADE)
    assert by_parser.mask.all() and not same(by_parser, by_map)


def test_hidden_components_are_masked_with_zero_tokens_and_reasons(models, encoder):
    read = IdentityReader(encoder, models)
    classes = np.asarray(Image.open(HAND_MADE)).copy()
    classes[(classes == 6) | (classes == 1)] = 0
    identity, whole = read(photo("astronaut"), component_map=classes), read(photo("astronaut"), component_map=HAND_MADE)
    assert identity.mask.tolist() == [False, True, True, True, True, False]
    assert identity.hidden == {"eyebrows": "not in the photo", "hair": "not in the photo"}
    assert not identity.tokens[~identity.mask].any()
    torch.testing.assert_close(identity.tokens[identity.mask], whole.tokens[identity.mask])
    assert "hair (not in the photo)" in repr(identity)


def test_a_photo_is_read_once(known, encoder, tmp_path):
    face, part = known()
    read = IdentityReader(encoder, face)
    first = read(photo("astronaut"))
    assert part.calls == 1
    assert read(photo("astronaut").copy()) is first
    assert part.calls == 1
    Image.fromarray(photo("astronaut")).save(tmp_path / "one.png")
    shutil.copy(tmp_path / "one.png", tmp_path / "other.png")
    from_file = read(tmp_path / "one.png")
    assert part.calls == 2 and torch.equal(from_file.tokens, first.tokens)
    assert read(tmp_path / "other.png") is from_file  # the same bytes
    assert read(str(tmp_path / "one.png")) is from_file
    with open(tmp_path / "one.png", "rb") as file:
        assert read(file) is from_file
    assert part.calls == 2


def test_what_was_read_needs_neither_photo_nor_models_again(face_models, encoder, tmp_path):
    for folder in (face_models.pack, face_models.clip):
        shutil.copytree(folder, tmp_path / folder.name)
    face = FaceProcessor.from_pretrained(tmp_path / "pack", tmp_path / "clip", weights_dir=tmp_path)
    read = IdentityReader(encoder, face)
    first = read(photo("astronaut"), component_map=HAND_MADE)
    for name in ("pack", "clip"):
        shutil.rmtree(tmp_path / name)
    assert read(photo("astronaut"), component_map=HAND_MADE) is first


@pytest.mark.parametrize(
    "other",
    [
        {"component_map": HAND_MADE},
        {"face_index": "largest"},
        {"face_index": 1},
        {"on_no_face": "whole_image"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_with_another_option_a_photo_is_read_anew(known, encoder, other):
    face, part = known(Known(faces=2))
    read = IdentityReader(encoder, face)
    first = read(photo("astronaut"), face_index=0)
    again = read(photo("astronaut"), **{"face_index": 0, **other})
    assert part.calls == 2 and again is not first
    if other in ({"face_index": 1}, {"component_map": HAND_MADE}):
        assert not torch.equal(again.tokens, first.tokens)
    assert read(photo("astronaut"), face_index=0) is first and part.calls == 2


def test_another_photo_is_read(known, encoder):
    face, part = known()
    read = IdentityReader(encoder, face)
    changed = photo("astronaut").copy()
    changed[100, 220] ^= 255
    first, other = read(photo("astronaut")), read(changed)
    assert part.calls == 2 and not torch.equal(first.tokens, other.tokens)


def test_component_maps_are_told_apart_by_their_content(known, encoder, tmp_path):
    face, part = known()
    read = IdentityReader(encoder, face)
    classes = np.asarray(Image.open(HAND_MADE))
    first = read(photo("astronaut"), component_map=classes)
    assert read(photo("astronaut"), component_map=classes.copy()) is first
    shutil.copy(HAND_MADE, tmp_path / "map.png")
    from_file = read(photo("astronaut"), component_map=tmp_path / "map.png")
    assert same(from_file, first)
    assert read(photo("astronaut"), component_map=str(HAND_MADE)) is from_file
    count = part.calls
    Image.fromarray(np.where(classes == 6, 0, classes)).save(tmp_path / "map.png")  # under the same name
    other = read(photo("astronaut"), component_map=tmp_path / "map.png")
    assert part.calls == count + 1 and list(other.hidden) == ["hair"]
    with Image.open(HAND_MADE) as image:
        assert same(read(photo("astronaut"), component_map=image), first)
        assert read(photo("astronaut"), component_map=image.copy()) is not other


def test_another_encoder_gives_another_identity(known, encoder):
    face, part = known()
    other = tiny.encoder(seed=1, id_dim=524)
    read = IdentityReader(encoder, face)
    first = read(photo("astronaut"))
    read.encoder = other
    second = read(photo("astronaut"))
    assert (first.fingerprint, second.fingerprint) == (encoder.fingerprint(), other.fingerprint())
    assert not torch.equal(first.tokens, second.tokens) and part.calls == 2


def test_an_encoder_that_was_trained_on_gives_another_identity(known):
    face, _ = known()
    encoder = tiny.encoder(id_dim=524)
    read = IdentityReader(encoder, face)
    first = read(photo("astronaut"))
    with torch.no_grad():
        next(encoder.parameters()).neg_()
    assert read(photo("astronaut")).fingerprint != first.fingerprint


def test_another_processor_gives_another_identity(known, encoder):
    read = IdentityReader(encoder, known()[0])
    first = read(photo("astronaut"))
    read.face, part = known(grayscale=True)
    grey = read(photo("astronaut"))
    assert part.calls == 1 and not torch.equal(grey.tokens, first.tokens)


def test_another_processor_without_a_fingerprint_does_not_take_the_firsts_place(known, encoder):
    read = IdentityReader(encoder, known(Known(fingerprint=None))[0])
    first = read(photo("astronaut"))
    for _ in range(20):  # a processor that is gone may leave its address to the next one
        read.face = None
        read.face, part = known(Known(fingerprint=None), grayscale=True)
        assert read(photo("astronaut")) is not first
        assert part.calls == 1


# on disk


def test_a_cache_folder_spares_the_next_reader_the_work(known, encoder, tmp_path):
    face, part = known()
    first = IdentityReader(encoder, face, tmp_path / "cache")(photo("astronaut"))
    (file,) = (tmp_path / "cache").iterdir()
    assert part.calls == 1 and same(Identity.load(file), first)
    later, _ = known(Unused())
    read = IdentityReader(encoder, later, tmp_path / "cache")
    assert same(read(photo("astronaut")), first)
    file.unlink()
    assert same(read(photo("astronaut")), first)  # it is in memory by now
    with pytest.raises(AssertionError, match="read again"):
        IdentityReader(encoder, later, tmp_path / "cache")(photo("astronaut"))


def test_the_cache_keeps_reasons_and_masks(models, encoder, tmp_path):
    classes = np.asarray(Image.open(HAND_MADE)).copy()
    classes[classes == 6] = 0
    first, second = (
        IdentityReader(encoder, models, tmp_path)(photo("astronaut"), component_map=classes) for _ in range(2)
    )
    assert second is not first and same(second, first) and first.hidden == {"hair": "not in the photo"}


def test_other_models_do_not_take_what_these_have_kept(face_models, encoder, tmp_path):
    shutil.copytree(face_models.clip, tmp_path / "clip")
    weights = tmp_path / "clip" / "model.safetensors"
    save_file({k: v * 1.1 for k, v in load_file(weights).items()}, weights, {"format": "pt"})
    identities = []
    for clip in (face_models.clip, tmp_path / "clip"):
        face = FaceProcessor.from_pretrained(face_models.pack, clip, weights_dir=face_models.weights)
        read = IdentityReader(encoder, face, tmp_path / "cache")
        identities.append(read(photo("astronaut"), component_map=HAND_MADE))
    assert not torch.equal(identities[0].tokens, identities[1].tokens)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_with_a_part_that_cannot_be_told_apart_nothing_can_be_kept_on_disk(known, encoder, tmp_path):
    face, part = known(Known(fingerprint=None))
    with pytest.raises(ValueError, match="give Known an attribute `fingerprint`"):
        IdentityReader(encoder, face, tmp_path / "cache")
    read = IdentityReader(encoder, face)
    assert read(photo("astronaut")) is read(photo("astronaut")) and part.calls == 1


def test_a_cache_that_is_a_file_is_refused(known, encoder, tmp_path):
    (tmp_path / "identities").write_text("")
    with pytest.raises(NotADirectoryError, match=r"cache_dir is '.*identities', which is a file"):
        IdentityReader(encoder, known()[0], tmp_path / "identities")


def test_a_damaged_file_in_the_cache_does_not_stop_a_reader(known, encoder, tmp_path):
    face, _ = known()
    first = IdentityReader(encoder, face, tmp_path)(photo("astronaut"))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert same(IdentityReader(encoder, face, tmp_path)(photo("astronaut")), first)
    assert same(Identity.load(file), first)


# several photos


def test_several_photos_become_one_identity(known, encoder):
    face, part = known()
    read = IdentityReader(encoder, face)
    photos = [photo("astronaut"), np.ascontiguousarray(photo("astronaut")[::-1])]
    both = read(photos)
    one, other = (read(p) for p in photos)
    assert part.calls == 2
    assert not torch.equal(one.tokens, other.tokens)
    torch.testing.assert_close(both.tokens, (one.tokens + other.tokens) / 2)
    assert read(tuple(photos[:1])) is one


def test_settings_may_be_one_for_all_photos_or_one_each(known, encoder):
    face, _ = known(Known(faces=2))
    read = IdentityReader(encoder, face)
    photos = [photo("astronaut"), np.ascontiguousarray(photo("astronaut")[::-1])]
    with pytest.raises(ValueError, match="shows 2 faces"):
        read(photos)
    for settings in ([0, 0], [1, 0], 1):
        first, second = settings if isinstance(settings, list) else (settings, settings)
        expected = Identity.fuse([read(photos[0], face_index=first), read(photos[1], face_index=second)])
        assert torch.equal(read(photos, face_index=settings).tokens, expected.tokens)
    assert not torch.equal(read(photos, face_index=[0, 0]).tokens, read(photos, face_index=[1, 0]).tokens)


def test_each_photo_may_have_its_component_map(models, encoder):
    classes = np.asarray(Image.open(HAND_MADE))
    without = [np.where(classes == value, 0, classes).astype(np.uint8) for value in (6, 1)]
    read = IdentityReader(encoder, models)
    both = read([photo("astronaut")] * 2, component_map=without)
    assert both.mask.all() and both.hidden == {}
    one, other = (read(photo("astronaut"), component_map=m) for m in without)
    assert torch.equal(both.tokens[5], other.tokens[5]) and torch.equal(both.tokens[0], one.tokens[0])


def test_as_many_settings_as_photos_are_needed(known, encoder):
    with pytest.raises(ValueError, match=r"1 settings for 2 photos\. Give one for all, or one for each"):
        IdentityReader(encoder, known()[0])([photo("astronaut")] * 2, face_index=[0])


def test_a_list_without_photos_is_an_error(known, encoder):
    with pytest.raises(ValueError, match="No identity was given"):
        IdentityReader(encoder, known()[0])([])


def test_the_photo_that_cannot_be_read_is_named(known, encoder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"second\.png"):
        IdentityReader(encoder, known()[0])([photo("astronaut"), tmp_path / "second.png"])


# settings


def test_of_many_identities_those_used_last_are_kept(known, encoder, monkeypatch):
    monkeypatch.setattr(reader, "_KEPT", 2)
    face, part = known()
    read = IdentityReader(encoder, face)
    a, b, c = (np.ascontiguousarray(np.roll(photo("astronaut"), i, axis=1)) for i in range(3))
    first, _ = read(a), read(b)
    assert read(a) is first  # now b was used longest ago
    read(c)
    assert part.calls == 3
    assert read(a) is first and part.calls == 3
    read(b)
    assert part.calls == 4


def test_the_default_processor_is_that_of_the_encoder(face_models):
    encoder = tiny.encoder(vision_model=str(face_models.clip), grayscale=True, num_scales=2, depth=4)
    face = IdentityReader(encoder).face
    assert (face.vision.name, face.vision.num_scales, face.grayscale) == (str(face_models.clip), 2, True)
    plain = IdentityReader(tiny.encoder()).face
    assert (plain.vision.name, plain.vision.num_scales) == ("openai/clip-vit-large-patch14-336", 5)
    assert not plain.grayscale
    assert [type(part).__name__ for part in plain.detectors] == ["InsightFace", "RetinaFace"]


def test_all_models_work_where_the_reader_says(models, face_models):
    face = FaceProcessor.from_pretrained(face_models.pack, face_models.clip, weights_dir=face_models.weights)
    encoder = tiny.encoder(id_dim=524)
    read = IdentityReader(encoder, face)
    assert read.to("cpu", offload=True) is read
    assert face.vision.offload and face.parser.offload
    offloaded = read(photo("astronaut"), component_map=HAND_MADE)
    assert encoder.device.type == "cpu"
    expected = IdentityReader(encoder, models)(photo("astronaut"), component_map=HAND_MADE)
    assert torch.equal(offloaded.tokens, expected.tokens)
    read.to("meta")
    assert {part.device.type for part in face.parts if hasattr(part, "device")} == {"meta"}


def test_an_encoder_in_bfloat16_gives_nearly_the_same_identity(known, encoder):
    face, _ = known()
    full = IdentityReader(encoder, face)(photo("astronaut"))
    half = IdentityReader(tiny.encoder(id_dim=524).to(torch.bfloat16), face)(photo("astronaut"))
    assert half.tokens.dtype == torch.bfloat16 and half.fingerprint == full.fingerprint
    assert torch.nn.functional.cosine_similarity(half.tokens.float().flatten(), full.tokens.flatten(), dim=0) > 0.99


def test_an_encoder_of_another_vision_model_is_refused(known):
    with pytest.raises(ValueError, match=r"vit_hidden_states has shapes .* \(batch, components, patches, 32\)"):
        IdentityReader(tiny.encoder(id_dim=524, vit_dim=32), known()[0])(photo("astronaut"))
    with pytest.raises(ValueError, match=r"id_embeds has shape \(1, 6, 524\)"):
        IdentityReader(tiny.encoder(id_dim=24), known()[0])(photo("astronaut"))


@pytest.mark.parametrize("left_out", ["recognizer", "vision"])
def test_a_processor_without_a_part_that_identities_need_is_refused(models, encoder, left_out):
    parts = {"recognizer": models.recognizer, "vision": models.vision, left_out: None}
    face = FaceProcessor(models.detectors, parser=models.parser, **parts)
    with pytest.raises(ValueError, match=left_out):
        IdentityReader(encoder, face)(photo("astronaut"), component_map=HAND_MADE)


def test_what_is_read_on_the_day_of_the_download_is_found_again(hub, face_models, encoder, tmp_path):
    hub.repos["me/vit"] = {path.name: path.read_bytes() for path in face_models.clip.iterdir()}

    def reader():
        face = FaceProcessor.from_pretrained(face_models.pack, "me/vit", weights_dir=face_models.weights)
        return IdentityReader(encoder, face, cache_dir=tmp_path / "identities")

    first = reader()(photo("astronaut"), component_map=HAND_MADE)
    again = reader()
    assert torch.equal(again(photo("astronaut"), component_map=HAND_MADE).tokens, first.tokens)
    assert again.face.vision._module is None


# what must fit


def test_a_processor_that_sees_other_than_the_encoder_is_refused(face_models):
    def reader(**processor):
        return IdentityReader(
            tiny.encoder(id_dim=524), FaceProcessor.from_pretrained(face_models.pack, face_models.clip, **processor)
        )

    assert reader()
    with pytest.raises(ValueError, match=r"grayscale=True, but the encoder False: use FaceProcessor\.for_encoder"):
        reader(grayscale=True)
    with pytest.raises(ValueError, match="gives 3 feature maps, but the encoder takes 5"):
        reader(num_scales=3)
    with pytest.raises(ValueError, match=r"has 'timm/eva02.*but the encoder takes 'openai/clip"):
        IdentityReader(tiny.encoder(id_dim=524), FaceProcessor.from_pretrained(vision_model=EVA02_CLIP))


def test_an_encoder_that_goes_on_training_is_not_answered_from_the_cache(known, encoder, tmp_path):
    face, part = known()
    read = IdentityReader(encoder, face, tmp_path)
    first = read(photo("astronaut"))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.5)  # the signs, and so the fingerprint, stay
    second = read(photo("astronaut"))
    assert second.fingerprint == first.fingerprint
    assert not torch.equal(second.tokens, first.tokens)
    assert same(IdentityReader(encoder, face, tmp_path)(photo("astronaut")), second)
    assert part.calls == 2


@pytest.mark.parametrize("index", [True, 1.0, "1"], ids=repr)
def test_the_cache_does_not_let_through_what_is_no_index(known, encoder, tmp_path, index):
    face, part = known(Known(faces=2))
    read = IdentityReader(encoder, face, tmp_path)
    assert read(photo("astronaut"), face_index=1) is read(photo("astronaut"), face_index=1)
    for photos in (photo("astronaut"), [photo("astronaut")] * 2):
        with pytest.raises((ValueError, TypeError), match=f"face_index is {index!r}, but must be a whole number"):
            read(photos, face_index=index)
    assert part.calls == 1


def test_settings_of_all_photos_are_checked_before_the_first_is_read(known, encoder):
    face, part = known()
    with pytest.raises(ValueError, match="on_no_face is 'skip', but must be"):
        IdentityReader(encoder, face)([photo("astronaut")] * 2, on_no_face=["raise", "skip"])
    assert part.calls == 0


def test_a_component_map_that_is_not_there_is_named(known, encoder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no component_map '.*map\.png'"):
        IdentityReader(encoder, known()[0])(photo("astronaut"), component_map=tmp_path / "map.png")


def test_a_list_of_settings_needs_a_list_of_photos(known, encoder):
    face, _ = known()
    with pytest.raises(TypeError, match="is a list for a single photo"):
        IdentityReader(encoder, face)(photo("astronaut"), face_index=[0])
