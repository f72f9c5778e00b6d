"""insightface's models: what they give, where they come from, and how they fail."""

import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from support.downloads import left_in, served
from support.tiny_face import FACES, PHOTOS, THIRD_PARTY_WARNINGS, photo

pytest.importorskip("insightface")
pytest.importorskip("skimage")

import onnxruntime
from insightface.utils import storage

from lavieid_adapters.faces.insightface_models import InsightFace, execution_providers

pytestmark = THIRD_PARTY_WARNINGS
ASTRONAUT = np.array(FACES["astronaut"][0].landmarks)
CPU = "CPUExecutionProvider"


@pytest.fixture(scope="module")
def insight(face_models) -> InsightFace:
    return InsightFace(face_models.pack)


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
    with pytest.raises(FileNotFoundError, match=r"no \.onnx files\. Give the folder of a model pack") as caught:
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
    with pytest.raises(OSError, match=r"HF_HUB_OFFLINE.*Put https://\S+/antelopev2\.zip unpacked there") as caught:
        InsightFace("antelopev2", tmp_path).detect(photo("astronaut"))
    assert str(tmp_path / "models" / "antelopev2") in str(caught.value)
    assert not left_in(tmp_path) and not (tmp_path / "models").exists()


def test_a_pack_that_cannot_be_reached_fails_at_once_and_leaves_nothing(tmp_path, online, monkeypatch):
    take_packs_from("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(OSError, match=r"refused.*Put http://127\.0\.0\.1:9/antelopev2\.zip unpacked there"):
        InsightFace("antelopev2", tmp_path).detect(photo("astronaut"))
    assert not (tmp_path / "models").exists()


def test_a_pack_that_the_server_does_not_have_is_an_error_that_says_so(tmp_path, online, monkeypatch):
    with served({}) as url:
        take_packs_from(url, monkeypatch)
        with pytest.raises(OSError, match=r"404.*Put \S+/antelopev3\.zip"):
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
    with pytest.raises(OSError, match="does not exist"):
        model.detect(image)


def test_on_a_device_that_onnxruntime_lacks_the_faces_are_found_all_the_same(face_models):
    model = InsightFace(face_models.pack)
    model.place(torch.device("mps"))
    assert len(model.detect(photo("astronaut"))) == 1
