"""facexlib's models and its alignment: what they give, where they come from, and how they fail."""

import inspect
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.adapter_files import Planted
from support.downloads import left_in, served
from support.tiny_face import FACES, HAND_MADE, PHOTOS, THIRD_PARTY_WARNINGS, photo

pytest.importorskip("facexlib")
pytest.importorskip("skimage")

from lavieid_adapters.faces.components import warp_map
from lavieid_adapters.faces.facexlib_models import FFHQ_LANDMARKS, BiSeNet, FaceAligner, RetinaFace

pytestmark = THIRD_PARTY_WARNINGS
ASTRONAUT = np.array(FACES["astronaut"][0].landmarks)
PTH = {BiSeNet: "parsing_bisenet.pth", RetinaFace: "detection_Resnet50_Final.pth"}


@pytest.fixture(scope="module")
def bisenet(face_models) -> BiSeNet:
    return BiSeNet(face_models.weights)


@pytest.fixture
def retina(face_models) -> RetinaFace:
    """One of its own for each test, of which it may set `max_side`."""
    return RetinaFace(face_models.weights)


def overlaps(one: np.ndarray, other: np.ndarray) -> list[float]:
    """Intersection over union of each class."""
    return [((one == k) & (other == k)).sum() / ((one == k) | (other == k)).sum() for k in range(7)]


def test_retinaface_finds_faces_with_landmarks_in_their_order(retina):
    found = retina.detect(photo("astronaut")[:320, :320])
    assert found
    for face in found:
        assert face.box.shape == (4,) and face.landmarks.shape == (5, 2)
        np.testing.assert_allclose(face.box[2:] - face.box[:2], 512, rtol=0.01)
        left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
        assert left_eye[0] < nose[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
        assert left_eye[1] < nose[1] < left_mouth[1]
        np.testing.assert_allclose(nose, face.box.reshape(2, 2).mean(0), atol=1)
        assert isinstance(face.score, float) and 0.97 < face.score <= 1


def test_retinaface_scales_large_photos_down_and_the_faces_back(retina):
    small = photo("astronaut")[:256, :320]
    large = np.repeat(np.repeat(small, 2, axis=0), 2, axis=1)
    whole = {tuple(face.box.round()) for face in retina.detect(large)}
    retina.max_side = 320
    known = {tuple(face.box.round()): face for face in retina.detect(small)}
    found = retina.detect(large)
    assert len(found) == len(known) and len(whole) > len(found)  # fewer places to look at
    for face in found:
        half = known[tuple((face.box / 2).round())]
        np.testing.assert_allclose(face.box, 2 * half.box, atol=0.1)
        np.testing.assert_allclose(face.landmarks, 2 * half.landmarks, atol=0.1)


@pytest.mark.parametrize("side", [320, 160])
def test_retinaface_is_given_bgr_of_at_most_max_side(retina, side):
    image, seen = photo("astronaut")[:256, :320], []
    retina.max_side = side
    with retina.in_use() as model:
        hook = model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0].clone()))
    retina.detect(image)
    hook.remove()
    (pixels,) = seen
    assert tuple(pixels.shape) == (3, side * 256 // 320, side)
    mean_of_bgr = torch.from_numpy(image[..., ::-1].reshape(-1, 3).mean(0)) - torch.tensor([104, 117, 123])
    torch.testing.assert_close(pixels.mean((1, 2)).double(), mean_of_bgr, atol=0.5, rtol=0)


def test_bisenet_parses_the_aligned_astronaut_as_the_hand_made_map_does(bisenet):
    aligned, matrix = FaceAligner().align(photo("astronaut"), ASTRONAUT)
    parsed = bisenet.parse(aligned)
    assert (parsed.shape, parsed.dtype) == ((512, 512), np.uint8)
    assert set(np.unique(parsed)) == set(range(7))
    hand_made = warp_map(np.asarray(Image.open(HAND_MADE)), matrix, (512, 512))
    found, shifted = overlaps(parsed, hand_made), overlaps(np.roll(parsed, 128, axis=1), hand_made)
    assert all(one > max(0.2, 1.5 * other) for one, other in zip(found[1:], shifted[1:], strict=True)), found
    assert found[0] > 0.9 and found[5] > 0.7 and found[6] > 0.85  # nothing, skin, hair
    swapped = bisenet.parse(np.ascontiguousarray(aligned[..., ::-1]))  # RGB, not BGR
    assert overlaps(swapped, hand_made)[5] < found[5] / 2


@pytest.mark.parametrize("cls", PTH)
def test_weights_that_are_not_there_offline_say_what_to_put_where(tmp_path, cls):
    with pytest.raises(OSError, match=rf"HF_HUB_OFFLINE.*Put https://\S+/{PTH[cls]} there") as caught:
        cls(tmp_path / "weights").load()
    assert str(tmp_path / "weights" / PTH[cls]) in str(caught.value)
    assert not (tmp_path / "weights").exists()


def test_weights_that_cannot_be_reached_fail_at_once_and_leave_nothing(tmp_path, online, monkeypatch):
    monkeypatch.setattr(BiSeNet, "url", f"http://127.0.0.1:9/{PTH[BiSeNet]}")
    with pytest.raises(OSError, match=rf"refused.*Put http://127\.0\.0\.1:9/{PTH[BiSeNet]} there"):
        BiSeNet(tmp_path / "weights").load()
    assert not (tmp_path / "weights").exists()


def test_weights_are_downloaded_once(face_models, tmp_path, online, monkeypatch):
    content = (face_models.weights / PTH[BiSeNet]).read_bytes()
    with served({PTH[BiSeNet]: content}) as url:
        monkeypatch.setattr(BiSeNet, "url", f"{url}/{PTH[BiSeNet]}")
        loaded = BiSeNet(tmp_path / "weights").load()
    assert left_in(tmp_path) == [f"weights/{PTH[BiSeNet]}"]
    again = BiSeNet(tmp_path / "weights").load()  # the server is gone
    assert all(torch.equal(one, other) for one, other in zip(loaded.parameters(), again.parameters(), strict=True))
    assert again.conv_out.conv_out.weight.abs().max() > 0


def test_a_broken_download_of_weights_leaves_nothing(face_models, tmp_path, online, monkeypatch):
    content = (face_models.weights / PTH[BiSeNet]).read_bytes()
    with served({PTH[BiSeNet]: content}, cut=True) as url:
        monkeypatch.setattr(BiSeNet, "url", f"{url}/{PTH[BiSeNet]}")
        with pytest.raises((OSError, ValueError), match=PTH[BiSeNet]):
            BiSeNet(tmp_path).load()
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("cls", PTH)
@pytest.mark.parametrize("kept", [0, 1, 1000, 0.5, -10])
def test_truncated_weights_are_named(face_models, tmp_path, cls, kept):
    whole = (face_models.weights / PTH[cls]).read_bytes()
    (tmp_path / PTH[cls]).write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(
        ValueError, match=rf"is damaged.*Delete it, and get it again from https://\S+{PTH[cls]}"
    ) as caught:
        cls(tmp_path).load()
    assert str(tmp_path / PTH[cls]) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"<!DOCTYPE html><html>Not Found</html>", b"\x80\x02.", b"e" * 20, b"\x80\x02X\x01\x00\x00\x00\x80."],
    ids=["html", "an empty pickle", "appends to nothing", "no unicode"],
)
def test_what_is_no_file_of_torch_is_named(tmp_path, content):
    (tmp_path / PTH[BiSeNet]).write_bytes(content)
    with pytest.raises(ValueError, match="is damaged, or not the weights of BiSeNet") as caught:
        BiSeNet(tmp_path).load()
    assert str(tmp_path / PTH[BiSeNet]) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [{"conv.weight": torch.ones(3)}, {"conv.weight": "text"}, {1: torch.ones(3)}, [torch.ones(3)], torch.ones(3), None],
    ids=["other keys", "text", "numbers for names", "a list", "a tensor", "nothing"],
)
def test_foreign_weights_are_named(tmp_path, content):
    torch.save(content, tmp_path / PTH[BiSeNet])
    with pytest.raises(ValueError, match="not the weights of BiSeNet") as caught:
        BiSeNet(tmp_path).load()
    assert str(tmp_path / PTH[BiSeNet]) in str(caught.value)


def test_each_of_the_two_refuses_the_others_weights(face_models, tmp_path):
    shutil.copy(face_models.weights / PTH[RetinaFace], tmp_path / PTH[BiSeNet])
    with pytest.raises(ValueError, match=r"(?s)not the weights of BiSeNet.*Missing key"):
        BiSeNet(tmp_path).load()


@pytest.mark.parametrize("cls", PTH)
def test_code_in_a_pickle_does_not_run(tmp_path, cls):
    marker, file = tmp_path / "it ran", tmp_path / PTH[cls]
    torch.save({"weight": torch.ones(1), "code": Planted(marker)}, file)
    torch.load(file, weights_only=False)
    assert marker.exists()  # it is one that would run
    marker.unlink()
    with pytest.raises(ValueError, match="damaged") as caught:
        cls(tmp_path).load()
    assert str(file) in str(caught.value)
    assert not marker.exists()


def test_the_default_folder_is_facexlibs_own():
    import facexlib

    for cls, name in PTH.items():
        assert cls().path == Path(facexlib.__file__).parent / "weights" / name
        assert cls("~/weights").path == Path.home() / "weights" / name


# alignment


def facexlibs_own(image: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The alignment by facexlib's helper, without its constructor, which downloads a detector and a parser."""
    from facexlib.utils.face_restoration_helper import FaceRestoreHelper

    helper = FaceRestoreHelper.__new__(FaceRestoreHelper)
    helper.clean_all()
    helper.pad_blur, helper.face_size, helper.face_template = False, (512, 512), FFHQ_LANDMARKS
    helper.input_img, helper.all_landmarks_5 = image, [np.asarray(landmarks, np.float64)]
    helper.align_warp_face()
    return helper.cropped_faces[0], helper.affine_matrices[0]


@pytest.mark.parametrize("name", PHOTOS)
def test_the_alignment_is_facexlibs_to_the_bit(name):
    image, rng = photo(name), np.random.default_rng(0)
    for face in FACES[name]:
        known = np.array(face.landmarks)
        beyond = known - known[2] + (5, image.shape[0] - 5)  # half of the face is beyond the photo
        for landmarks in (known, known.astype(np.float32), known + rng.normal(0, 6, (5, 2)), beyond):
            aligned, matrix = FaceAligner().align(image, landmarks)
            wanted, wanted_matrix = facexlibs_own(image, landmarks)
            assert np.array_equal(matrix, wanted_matrix) and np.array_equal(aligned, wanted)
            assert aligned.dtype == wanted.dtype and aligned.std() > 5
    moved, _ = FaceAligner().align(image, np.array(FACES[name][0].landmarks) + 3)
    assert not np.array_equal(moved, FaceAligner().align(image, FACES[name][0].landmarks)[0])


def test_the_template_is_facexlibs():
    from facexlib.utils.face_restoration_helper import FaceRestoreHelper

    source = inspect.getsource(FaceRestoreHelper.__init__)  # which has it and would download models
    assert all(str(value) in source for value in FFHQ_LANDMARKS.ravel())


def test_the_aligner_brings_the_landmarks_onto_those_of_ffhq():
    image = photo("astronaut")
    aligned, matrix = FaceAligner().align(image, ASTRONAUT)
    assert (aligned.shape, aligned.dtype, matrix.shape) == ((512, 512, 3), np.uint8, (2, 3))
    moved = np.c_[ASTRONAUT, np.ones(5)] @ matrix.T
    assert np.abs(ASTRONAUT - FFHQ_LANDMARKS).max() > 100
    assert np.abs(moved[:3] - FFHQ_LANDMARKS[:3]).max() < 2  # eyes and nose; the astronaut smiles
    assert np.abs(moved - FFHQ_LANDMARKS).max() < 30
    (a, b), (c, d) = matrix[:, :2]
    np.testing.assert_allclose([a, b], [d, -c])  # it turns and scales, and shears nothing
    x, y = np.round(ASTRONAUT[2]).astype(int)  # the colour of the nose
    there = np.round(matrix @ (x, y, 1)).astype(int)
    np.testing.assert_allclose(aligned[there[1], there[0]].astype(int), image[y, x].astype(int), atol=12)


def test_beside_the_photo_the_aligned_face_is_grey():
    aligned, matrix = FaceAligner().align(photo("astronaut")[80:], ASTRONAUT - (0, 80))
    beside = warp_map(np.ones((432, 512), np.uint8), matrix, (512, 512)) == 0
    assert beside[:100].mean() > 0.05 and beside.mean() < 0.5
    assert np.unique(aligned[:50][beside[:50]], axis=0).tolist() == [[135, 133, 132]]


@pytest.mark.parametrize("value", [0, 100, np.nan, np.inf])
def test_landmarks_in_one_point_are_an_error(value):
    with pytest.raises(ValueError, match="cannot be aligned by its landmarks"):
        FaceAligner().align(photo("astronaut"), np.full((5, 2), value))
