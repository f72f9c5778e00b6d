"""Models that are loaded on first use: once, where they are to work, and with fingerprints."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.downloads import served
from support.tiny_face import THIRD_PARTY_WARNINGS, photo

pytest.importorskip("insightface")
pytest.importorskip("facexlib")
pytest.importorskip("skimage")

from lavieid_adapters.faces.facexlib_models import BiSeNet, RetinaFace
from lavieid_adapters.faces.insightface_models import InsightFace
from lavieid_adapters.faces.lazy_model import LazyModel, check_download

pytestmark = THIRD_PARTY_WARNINGS
PTH = {BiSeNet: "parsing_bisenet.pth", RetinaFace: "detection_Resnet50_Final.pth"}


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


def test_a_model_says_whether_it_is_loaded(face_models):
    model = BiSeNet(face_models.weights)
    assert repr(model) == "BiSeNet(cpu, not loaded yet)"
    model.parse(np.zeros((512, 512, 3), np.uint8))
    assert repr(model) == "BiSeNet(cpu, loaded)"
    insight = InsightFace(face_models.pack)
    assert repr(insight) == "InsightFace(cpu, not loaded yet)"
    insight.detect(photo("astronaut"))
    assert repr(insight) == "InsightFace(cpu, loaded)"


@pytest.mark.parametrize(("file", "unpacked"), [("model.pth", ""), ("pack.zip", " unpacked")])
def test_a_download_that_would_fail_says_what_belongs_where(tmp_path, monkeypatch, file, unpacked):
    target = tmp_path / "model"
    with served({file: b"weights"}) as url:
        there, missing = f"{url}/{file}", f"{url}/other-{file}"
        with pytest.raises(OSError, match=rf"downloaded \(HF_HUB_OFFLINE is set\)\. Put {there}{unpacked} there"):
            check_download(there, target)
        monkeypatch.setattr("lavieid_adapters.faces.lazy_model.is_offline_mode", lambda: False)
        assert check_download(there, target) is None
        with pytest.raises(OSError, match=rf"'{target}' is not there and .*404.*Put {missing}{unpacked} there"):
            check_download(missing, target)
    with pytest.raises(OSError, match=r"could not be downloaded \(.*refused"):
        check_download(there, target)
    assert not list(tmp_path.iterdir())
