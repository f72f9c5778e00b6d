"""insightface's and facexlib's models: what they give, where they come from, and how they fail."""

import io
import shutil
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.adapter_files import Planted
from support.tiny_face import FACES, HAND_MADE, PHOTOS, THIRD_PARTY_WARNINGS, photo

pytest.importorskip("insightface")
pytest.importorskip("facexlib")
pytest.importorskip("skimage")

import onnxruntime
from insightface.utils import storage

from lavieid_adapters.faces import face_models as module
from lavieid_adapters.faces.components import warp_map
from lavieid_adapters.faces.face_models import (
    FFHQ_LANDMARKS,
    BiSeNet,
    FaceAligner,
    InsightFace,
    RetinaFace,
    execution_providers,
)
from lavieid_adapters.faces.lazy_model import LazyModel
from lavieid_adapters.faces.processor import FaceProcessor

pytestmark = THIRD_PARTY_WARNINGS
ASTRONAUT = np.array(FACES["astronaut"][0].landmarks)
PTH = {BiSeNet: "parsing_bisenet.pth", RetinaFace: "detection_Resnet50_Final.pth"}
CPU = "CPUExecutionProvider"


@pytest.fixture(scope="module")
def insight(face_models) -> InsightFace:
    return InsightFace(face_models.pack)


@pytest.fixture(scope="module")
def bisenet(face_models) -> BiSeNet:
    return BiSeNet(face_models.weights)


@pytest.fixture
def retina(face_models) -> RetinaFace:
    """One of its own for each test, of which it may set `max_side`."""
    return RetinaFace(face_models.weights)


@pytest.fixture
def pack(face_models, tmp_path) -> Path:
    """A model pack that may be damaged."""
    return Path(shutil.copytree(face_models.pack, tmp_path / "pack"))


@pytest.fixture
def online(monkeypatch):
    """As if HF_HUB_OFFLINE were not set; what is not patched to the loopback fails."""
    monkeypatch.setattr(module, "is_offline_mode", lambda: False)


@contextmanager
def served(files: dict[str, bytes], cut: bool = False):
    """The URL of a server of these files on the loopback; with `cut`, the connection breaks in the middle of one."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            body = files.get(self.path.rsplit("/", 1)[1])
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if body and self.command == "GET":
                self.wfile.write(body[: len(body) // 2] if cut else body)

        do_GET = do_HEAD

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def take_packs_from(url: str, monkeypatch) -> None:
    """Let insightface download from `url`; of the two names of one constant, old versions have one."""
    monkeypatch.setattr(storage, "BASE_REPO_URL", url)
    monkeypatch.setattr(storage, "MODEL_ZOO_RELEASE_DOWNLOAD_URL", f"{url}/", raising=False)


def zipped(folder: Path, inner: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in folder.iterdir():
            archive.write(path, Path(inner, path.name))
    return buffer.getvalue()


def left_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def overlaps(one: np.ndarray, other: np.ndarray) -> list[float]:
    """Intersection over union of each class."""
    return [((one == k) & (other == k)).sum() / ((one == k) | (other == k)).sum() for k in range(7)]


# insightface


@pytest.mark.parametrize("name", PHOTOS)
def test_insightface_finds_the_faces_of_a_photo_in_rgb(insight, name):
    found = sorted(insight.detect(photo(name)), key=lambda face: face.box[0])
    assert len(found) == len(FACES[name])
    for face, known in zip(found, FACES[name], strict=True):
        np.testing.assert_allclose(face.box, known.box, atol=0.01)
        np.testing.assert_allclose(face.landmarks, known.landmarks, atol=0.01)
        assert face.landmarks.shape == (5, 2)
        assert isinstance(face.score, float) and face.score == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize("name", ["astronaut", "t1"])  # the third is almost grey
def test_insightface_does_not_take_blue_for_red(insight, name):
    assert insight.detect(photo(name)) and insight.detect(photo(name)[..., ::-1]) == []


def test_an_embedding_is_insightfaces_own(insight, face_models):
    from insightface.app import FaceAnalysis

    app = FaceAnalysis(str(face_models.pack), providers=[CPU])
    app.prepare(0)
    image = photo("t1")
    for face in app.get(np.ascontiguousarray(image[..., ::-1])):
        embedding = insight.embed(image, face.kps)
        assert (embedding.shape, embedding.dtype) == ((512,), np.float32)
        np.testing.assert_allclose(embedding, face.embedding, rtol=1e-4, atol=1e-4)
        swapped = insight.embed(image[..., ::-1], face.kps)
        assert np.abs(swapped - embedding).max() > 0.01


def test_an_embedding_depends_on_the_face_and_without_landmarks_on_the_whole_image(insight):
    image = photo("astronaut")
    of_face, of_all = insight.embed(image, ASTRONAUT), insight.embed(image, None)
    of_left_half = insight.embed(image[:, :256], None)
    for one, other in ((of_face, of_all), (of_all, of_left_half)):
        assert np.abs(one - other).max() > 0.1
    changed = image.copy()
    changed[300:] = 0  # beside the face
    np.testing.assert_array_equal(insight.embed(changed, ASTRONAUT), of_face)
    assert np.abs(insight.embed(changed, None) - of_all).max() > 0.1
    assert (of_all.shape, of_all.dtype) == ((512,), np.float32)


@pytest.mark.parametrize("by", ["name", "folder"])
def test_a_pack_may_lie_in_a_folder_of_its_own_name(face_models, tmp_path, by):
    named = tmp_path / "models" / "antelopev2"
    shutil.copytree(face_models.pack, named / "antelopev2")
    model = InsightFace("antelopev2", tmp_path) if by == "name" else InsightFace(named)
    assert len(model.detect(photo("astronaut"))) == 1
    assert model.fingerprint == InsightFace(face_models.pack).fingerprint


def test_a_folder_without_models_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(FileNotFoundError, match=r"no \.onnx files: give the folder of a model pack") as caught:
        InsightFace(tmp_path).detect(photo("astronaut"))
    assert str(tmp_path) in str(caught.value)


def test_a_pack_without_a_recognizer_detects_and_says_what_it_lacks(pack):
    (pack / "rec_tiny.onnx").unlink()
    model = InsightFace(pack)
    assert len(model.detect(photo("astronaut"))) == 1
    with pytest.raises(ValueError, match="has no model for recognition") as caught:
        model.embed(photo("astronaut"), ASTRONAUT)
    assert str(pack) in str(caught.value)


def test_a_pack_without_a_detector_says_what_it_lacks(pack):
    (pack / "det_tiny.onnx").unlink()
    with pytest.raises(ValueError, match="detection") as caught:
        InsightFace(pack).detect(photo("astronaut"))
    assert str(pack) in str(caught.value)


@pytest.mark.parametrize("damage", ["empty", "half", "text"])
def test_a_damaged_onnx_file_is_named(pack, damage):
    file = pack / "rec_tiny.onnx"
    file.write_bytes({"empty": b"", "half": file.read_bytes()[:10_000], "text": b"<html>Not Found</html>"}[damage])
    with pytest.raises(ValueError, match="damaged") as caught:
        InsightFace(pack).detect(photo("astronaut"))
    assert str(pack) in str(caught.value)


def test_a_pack_that_is_not_there_offline_says_what_to_put_where(tmp_path):
    with pytest.raises(OSError, match=r"HF_HUB_OFFLINE.*put https://\S+/antelopev2\.zip unpacked there") as caught:
        InsightFace("antelopev2", tmp_path).detect(photo("astronaut"))
    assert str(tmp_path / "models" / "antelopev2") in str(caught.value)
    assert not left_in(tmp_path) and not (tmp_path / "models").exists()


def test_a_pack_that_cannot_be_reached_fails_at_once_and_leaves_nothing(tmp_path, online, monkeypatch):
    take_packs_from("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(OSError, match=r"refused.*put http://127\.0\.0\.1:9/antelopev2\.zip unpacked there"):
        InsightFace("antelopev2", tmp_path).detect(photo("astronaut"))
    assert not (tmp_path / "models").exists()


def test_a_pack_that_the_server_does_not_have_is_an_error_that_says_so(tmp_path, online, monkeypatch):
    with served({}) as url:
        take_packs_from(url, monkeypatch)
        with pytest.raises(OSError, match=r"404.*put \S+/antelopev3\.zip"):
            InsightFace("antelopev3", tmp_path).detect(photo("astronaut"))
    assert not left_in(tmp_path)


@pytest.mark.parametrize("inner", ["", "antelopev2"], ids=["flat", "nested"])
def test_a_pack_is_downloaded_once(face_models, tmp_path, online, monkeypatch, inner):
    with served({"antelopev2.zip": zipped(face_models.pack, inner)}) as url:
        take_packs_from(url, monkeypatch)
        model = InsightFace("antelopev2", tmp_path)
        assert len(model.detect(photo("astronaut"))) == 1
    again = InsightFace("antelopev2", tmp_path)  # the server is gone
    np.testing.assert_array_equal(again.embed(photo("t1"), None), model.embed(photo("t1"), None))
    assert str(Path("models", "antelopev2", inner, "det_tiny.onnx")) in left_in(tmp_path)


@pytest.mark.parametrize("archive", ["cut", "no zip", "without models"])
def test_a_broken_download_of_a_pack_leaves_nothing(face_models, tmp_path, online, monkeypatch, archive):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("moved")
    content = {"cut": zipped(face_models.pack), "no zip": b"<html></html>" * 999}
    content = content.get(archive) or zipped(tmp_path / "empty")
    cache = tmp_path / "cache"
    with served({"antelopev2.zip": content}, cut=archive == "cut") as url:
        take_packs_from(url, monkeypatch)
        with pytest.raises((OSError, ValueError), match=r"antelopev2"):
            InsightFace("antelopev2", cache).detect(photo("astronaut"))
    assert left_in(cache) == []
    with served({"antelopev2.zip": zipped(face_models.pack)}) as url:
        take_packs_from(url, monkeypatch)
        assert len(InsightFace("antelopev2", cache).detect(photo("astronaut"))) == 1


def test_a_broken_download_keeps_a_folder_that_was_there(tmp_path, online, monkeypatch):
    mine = tmp_path / "models" / "antelopev2" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with served({"antelopev2.zip": b"no zip"}) as url:
        take_packs_from(url, monkeypatch)
        with pytest.raises(Exception):  # noqa: B017  another test says which
            InsightFace("antelopev2", tmp_path).detect(photo("astronaut"))
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    ("device", "hip", "available", "expected"),
    [
        ("cpu", None, ["CUDAExecutionProvider", CPU], [CPU]),
        ("cuda", None, ["CUDAExecutionProvider", CPU], [("CUDAExecutionProvider", {"device_id": 0}), CPU]),
        ("cuda:1", None, ["CUDAExecutionProvider", CPU], [("CUDAExecutionProvider", {"device_id": 1}), CPU]),
        ("cuda", None, ["TensorrtExecutionProvider", CPU], [CPU]),
        ("cuda", "6.4", ["CUDAExecutionProvider", "ROCMExecutionProvider", CPU], ["ROCMExecutionProvider", CPU]),
        ("cuda:2", "7.0", ["MIGraphXExecutionProvider", CPU], ["MIGraphXExecutionProvider", CPU]),
        ("cuda", "6.4", ["CUDAExecutionProvider", CPU], [CPU]),
        ("mps", None, ["CoreMLExecutionProvider", CPU], ["CoreMLExecutionProvider", CPU]),
        ("mps", None, ["CUDAExecutionProvider", CPU], [CPU]),
        ("xpu", None, ["OpenVINOExecutionProvider", CPU], [CPU]),
    ],
)
def test_onnxruntime_works_on_torchs_device_as_far_as_it_can(monkeypatch, caplog, device, hip, available, expected):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    monkeypatch.setattr(torch.version, "hip", hip)
    caplog.set_level("INFO", "lavieid_adapters")
    found = execution_providers(torch.device(device))
    names = [entry[0] if isinstance(entry, tuple) else entry for entry in found]
    assert names == [entry[0] if isinstance(entry, tuple) else entry for entry in expected]
    assert set(names) <= set(available) and names[-1] == CPU
    for entry in found[:-1]:
        if isinstance(entry, tuple):
            assert entry[1] == {"device_id": torch.device(device).index or 0}
    assert ("faces are detected on the CPU" in caplog.text) == (
        names == [CPU] and device.split(":")[0] in ("cuda", "mps")
    )


def test_the_session_stays_while_the_device_does_and_goes_with_it(pack):
    model, image = InsightFace(pack), photo("astronaut")
    model.detect(image)
    shutil.rmtree(pack)
    model.place(torch.device("cpu"))
    model.place(torch.device("cuda"), offload=True)  # onnxruntime cannot move a model: it stays on the CPU
    assert model.device.type == "cpu"
    assert len(model.detect(image)) == 1
    model.place(torch.device("cuda"))
    assert model.device.type == "cuda"
    with pytest.raises(OSError, match="not there"):
        model.detect(image)


def test_on_a_device_that_onnxruntime_lacks_the_faces_are_found_all_the_same(face_models):
    model = InsightFace(face_models.pack)
    model.place(torch.device("mps"))
    assert len(model.detect(photo("astronaut"))) == 1


# facexlib


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
    with pytest.raises(OSError, match=rf"HF_HUB_OFFLINE.*put https://\S+/{PTH[cls]} there") as caught:
        cls(tmp_path / "weights").load()
    assert str(tmp_path / "weights" / PTH[cls]) in str(caught.value)
    assert not (tmp_path / "weights").exists()


def test_weights_that_cannot_be_reached_fail_at_once_and_leave_nothing(tmp_path, online, monkeypatch):
    monkeypatch.setattr(BiSeNet, "url", f"http://127.0.0.1:9/{PTH[BiSeNet]}")
    with pytest.raises(OSError, match=rf"refused.*put http://127\.0\.0\.1:9/{PTH[BiSeNet]} there"):
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
        ValueError, match=rf"is damaged.*delete it, and get it again from https://\S+{PTH[cls]}"
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


def test_a_map_is_warped_by_whole_classes_there_and_back():
    hand_made = np.asarray(Image.open(HAND_MADE))
    _, matrix = FaceAligner().align(photo("astronaut"), ASTRONAUT)
    there = warp_map(hand_made, matrix, (512, 512))
    assert not np.array_equal(there, hand_made)
    for x, y in ((203, 102), (224, 128), (224, 150)):  # an eye, the nose, the mouth
        a, b = np.round(matrix @ (x, y, 1)).astype(int)
        assert there[b, a] == hand_made[y, x] != 0
    assert set(np.unique(there)) <= set(range(7))
    back = warp_map(there, matrix, (512, 512), inverse=True)
    inside = warp_map(np.ones((512, 512), np.uint8), matrix, (512, 512), inverse=True) == 1
    assert 0.1 < inside.mean() < 0.5
    assert (back == hand_made)[inside].mean() > 0.99
    assert not back[~inside].any()


def test_a_map_is_warped_into_the_size_that_is_asked_for():
    class_ids = np.full((40, 30), 3, np.uint8)
    moved = warp_map(class_ids, np.array([[1.0, 0, 10], [0, 1, 5]]), (60, 50))
    assert moved.shape == (50, 60)
    assert (moved[5:45, 10:40] == 3).all() and np.count_nonzero(moved) == class_ids.size
    again = warp_map(moved, np.array([[1.0, 0, 10], [0, 1, 5]]), (30, 40), inverse=True)
    np.testing.assert_array_equal(again, class_ids)


# when they are read, and what tells them apart


def test_nothing_is_read_until_it_is_used(tmp_path):
    missing = tmp_path / "missing"
    processor = FaceProcessor.from_pretrained("antelopev2", missing / "clip", weights_dir=missing, cache_dir=missing)
    processor.to("cpu", offload=True)
    assert len(processor.parts) == 5  # detection and recognition are one
    assert not missing.exists()
    with pytest.raises(OSError, match="missing"):
        processor(photo("astronaut"))


def test_each_model_is_read_once(face_models, tmp_path):
    shutil.copytree(face_models.pack, tmp_path / "pack")
    shutil.copytree(face_models.weights, tmp_path / "weights")
    small = photo("astronaut")[:320, :320]
    calls = {
        tmp_path / "pack": InsightFace(tmp_path / "pack").detect,
        tmp_path / "weights": BiSeNet(tmp_path / "weights").parse,
        tmp_path / "weights" / PTH[RetinaFace]: RetinaFace(tmp_path / "weights").detect,
    }
    first = [call(small) for call in calls.values()]
    shutil.rmtree(tmp_path / "pack")
    shutil.rmtree(tmp_path / "weights")
    again = [call(small) for call in calls.values()]
    assert [len(result) for result in again] == [len(result) for result in first]
    np.testing.assert_array_equal(again[1], first[1])


@pytest.mark.parametrize("offload", [True, False])
def test_offloaded_models_rest_on_the_cpu_between_uses(offload):
    class Told(torch.nn.Module):
        at: str

        def to(self, device, dtype=None):
            self.at = torch.device(device).type
            return self

    class Model(LazyModel):
        def load(self):
            return Told()

        def find_fingerprint(self):
            return "told"

    lazy = Model()
    with lazy.in_use() as model:
        assert model.at == "cpu" and not model.training
    lazy.place(torch.device("cuda"), offload)
    with lazy.in_use() as same:
        assert same is model and model.at == "cuda"
    assert model.at == ("cpu" if offload else "cuda")
    with pytest.raises(RuntimeError, match="no memory"), lazy.in_use():
        raise RuntimeError("no memory")
    assert model.at == ("cpu" if offload else "cuda")


def test_a_model_that_did_not_fit_on_the_device_is_brought_there_the_next_time():
    class Large(torch.nn.Module):
        at, fits = "cpu", False

        def to(self, device, dtype=None):
            if torch.device(device).type == "cuda" and not self.fits:
                raise torch.OutOfMemoryError("out of memory")
            self.at = torch.device(device).type
            return self

    class Model(LazyModel):
        def load(self):
            return large

        def find_fingerprint(self):
            return "large"

    large, lazy = Large(), Model()
    lazy.place(torch.device("cuda"))
    with pytest.raises(torch.OutOfMemoryError), lazy.in_use():
        pass
    large.fits = True
    with lazy.in_use() as model:
        assert model.at == "cuda"


def test_fingerprints_are_stable_and_tell_files_apart(face_models, pack, tmp_path):
    weights = Path(shutil.copytree(face_models.weights, tmp_path / "weights"))
    same = [InsightFace(pack).fingerprint, BiSeNet(weights).fingerprint, RetinaFace(weights).fingerprint]
    assert same == [
        model.fingerprint
        for model in (InsightFace(face_models.pack), BiSeNet(face_models.weights), RetinaFace(face_models.weights))
    ]
    assert len(set(same)) == 3
    for file in (pack / "rec_tiny.onnx", weights / PTH[BiSeNet], weights / PTH[RetinaFace]):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    other = [InsightFace(pack).fingerprint, BiSeNet(weights).fingerprint, RetinaFace(weights).fingerprint]
    assert all(one != changed for one, changed in zip(same, other, strict=True))


def test_models_that_are_not_there_yet_have_fingerprints_too(tmp_path):
    models = (
        InsightFace("antelopev2", tmp_path),
        InsightFace("buffalo_l", tmp_path),
        BiSeNet(tmp_path),
        RetinaFace(tmp_path),
    )
    assert len({model.fingerprint for model in models}) == 4
    assert not any(tmp_path.iterdir())
