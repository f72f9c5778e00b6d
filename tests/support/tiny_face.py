"""Photos with known faces, and small model files in the formats of the models that describe a face."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

HAND_MADE = Path(__file__).parent / "assets" / "astronaut_components.png"  # the components of the astronaut
# What insightface and facexlib call is deprecated in scikit-image and torchvision.
THIRD_PARTY_WARNINGS = [
    pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*(pretrained|weight enum)"),
]
PHOTOS = ("astronaut", "t1", "Tom_Hanks_54745")
SIDE, STRIDE, AROUND = 640, 32, 5  # the detector's input, its cells, and how many cells wide a template is
TOLERANCE = 0.006  # mean squared distance to a template at which a face's score reaches insightface's threshold of 0.5


class Face(NamedTuple):
    """A face in a photo: left, top, right, bottom; then x, y of both eyes, the nose's tip and the mouth's corners.

    Of a pair, the one on the image's left comes first.
    """

    box: tuple[float, float, float, float]
    landmarks: tuple[tuple[float, float], ...]


FACES = {
    "astronaut": [
        Face((181, 68, 270, 178), ((203, 101.5), (247, 103.5), (224, 128), (203.5, 140.5), (244.5, 141))),
    ],
    "t1": [
        Face((64, 260, 170, 397), ((87, 330), (130, 308.5), (118, 343), (114, 371), (149, 351))),
        Face((269, 146, 374, 267), ((291, 212), (320.5, 193.5), (302, 228), (313, 246.5), (339.5, 233))),
        Face((465, 266, 562, 416), ((494, 320.5), (539, 332), (507, 361), (488, 372), (532.5, 377.5))),
        Face((748, 336, 846, 478), ((760.5, 397.5), (803, 404), (779, 430), (769, 438), (807, 442))),
        Face((903, 58, 1008, 207), ((917, 117.5), (943.5, 116), (922, 150), (931.5, 167.5), (960, 169))),
        Face((1134, 268, 1226, 402), ((1148.5, 327), (1195.5, 324), (1168.5, 351.5), (1154, 367.5), (1197.5, 364))),
    ],
    "Tom_Hanks_54745": [
        Face((14, 0, 84, 112), ((36.5, 50.5), (72.5, 49.5), (50, 75), (36, 91.5), (68.5, 90))),
    ],
}


def photo(name: str) -> np.ndarray:
    """One of PHOTOS as (h, w, 3) uint8 RGB."""
    if name == "astronaut":
        from skimage import data

        return data.astronaut()
    from insightface.data import get_image

    return np.ascontiguousarray(get_image(name)[..., ::-1])


def write_model_pack(folder: Path) -> Path:
    """An insightface model pack: a detector that knows FACES by their surroundings, and a random recognizer."""
    import onnx

    Path(folder).mkdir(parents=True, exist_ok=True)
    onnx.save(_detector(), str(Path(folder) / "det_tiny.onnx"))
    onnx.save(_recognizer(), str(Path(folder) / "rec_tiny.onnx"))
    return Path(folder)


def _letterboxed(image: np.ndarray) -> tuple[np.ndarray, float]:
    """An RGB image as insightface gives it to a detector, (3, SIDE, SIDE), and the factor it was scaled by."""
    import cv2

    height, width = image.shape[:2]
    new = (int(SIDE * width / height), SIDE) if height > width else (SIDE, int(SIDE * height / width))
    canvas = np.zeros((SIDE, SIDE, 3), np.float32)
    canvas[: new[1], : new[0]] = cv2.resize(image, new)
    return ((canvas - 127.5) / 128).transpose(2, 0, 1), new[1] / height


def _templates() -> tuple[np.ndarray, np.ndarray]:
    """Per face, the cells around it (k, 3, AROUND, AROUND), and its box and landmarks as SCRFD gives them (k, 14)."""
    cells, geometry = [], []
    for name, faces in FACES.items():
        pixels, scale = _letterboxed(photo(name))
        grid = pixels.reshape(3, SIDE // STRIDE, STRIDE, SIDE // STRIDE, STRIDE).mean((2, 4))
        grid = np.pad(grid, ((0, 0), (AROUND // 2, AROUND // 2), (AROUND // 2, AROUND // 2)))
        for face in faces:
            box, landmarks = (np.array(part).reshape(-1, 2) * scale / STRIDE for part in face)
            x, y = anchor = np.round(box.mean(0)).astype(int)
            cells.append(grid[:, y : y + AROUND, x : x + AROUND])
            geometry.append(np.concatenate([anchor - box[0], box[1] - anchor, (landmarks - anchor).ravel()]))
    return np.stack(cells).astype(np.float32), np.stack(geometry).astype(np.float32)


def _model(nodes: list, values: dict[str, np.ndarray], shape: tuple, outputs: dict[str, tuple]):
    """A checked ONNX model with one input, named "input"."""
    from onnx import TensorProto, checker, helper, numpy_helper

    def info(name, dims):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)

    graph = helper.make_graph(
        [helper.make_node(kind, ins, [out], name=f"{kind}_{out}", **more) for kind, ins, out, more in nodes],
        "tiny",
        [info("input", shape)],
        [info(name, dims) for name, dims in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model)
    return model


def _detector():
    """Nine outputs as SCRFD's: scores, boxes, landmarks at strides 8, 16, 32; only the last stride ever scores."""
    cells, geometry = _templates()
    size, side = cells[0].size, SIDE // STRIDE
    pads = {"pads": [AROUND // 2] * 4}
    values = {
        "templates": -2 * cells / size,
        "ones": np.full((1, *cells.shape[1:]), 1 / size, np.float32),
        "norms": (cells**2).mean((1, 2, 3)).reshape(1, -1, 1, 1),
        "slope": np.array(-0.4 / TOLERANCE, np.float32),
        "top": np.array(0.9, np.float32),
        "none": np.zeros((side * side, 1), np.float32),
        "box_table": geometry[:, :4],
        "landmark_table": geometry[:, 4:],
        "column": np.array([side * side, 1]),
    }
    nodes = [
        ("AveragePool", ["input"], "grid", {"kernel_shape": [STRIDE] * 2, "strides": [STRIDE] * 2}),
        ("Mul", ["grid", "grid"], "squared", {}),
        ("Conv", ["squared", "ones"], "energy", pads),
        ("Conv", ["grid", "templates"], "cross", pads),
        ("Add", ["energy", "cross"], "partial", {}),
        ("Add", ["partial", "norms"], "distance", {}),
        ("ReduceMin", ["distance"], "least", {"axes": [1], "keepdims": 1}),
        ("Mul", ["least", "slope"], "falling", {}),
        ("Add", ["falling", "top"], "score", {}),
        ("Relu", ["score"], "positive", {}),
        ("Reshape", ["positive", "column"], "scores", {}),
        ("Concat", ["scores", "none"], "two_scores", {"axis": 1}),  # two anchors a cell, the second never scores
        ("Reshape", ["two_scores", "shape_score_32"], "score_32", {}),
        ("ArgMin", ["distance"], "nearest", {"axis": 1, "keepdims": 0}),
    ]
    for kind in ("box", "landmark"):
        nodes += [
            ("Gather", [f"{kind}_table", "nearest"], kind, {"axis": 0}),
            ("Concat", [kind, kind], f"two_{kind}", {"axis": 3}),
            ("Reshape", [f"two_{kind}", f"shape_{kind}_32"], f"{kind}_32", {}),
        ]
    outputs = {}
    for kind, width in {"score": 1, "box": 4, "landmark": 10}.items():
        for stride in (8, 16, 32):
            outputs[f"{kind}_{stride}"] = shape = (2 * (SIDE // stride) ** 2, width)
            values[f"shape_{kind}_{stride}"] = np.array(shape)
            if stride < STRIDE:
                nodes.append(("ConstantOfShape", [f"shape_{kind}_{stride}"], f"{kind}_{stride}", {}))
    return _model(nodes, values, (1, 3, SIDE, SIDE), outputs)


def _recognizer():
    """From a face of 112 × 112 to 512 random mixtures of its 14 × 14 cells, each less the face's mean."""
    weight = np.random.default_rng(0).standard_normal((3 * 14 * 14, 512), np.float32) / 14
    nodes = [
        ("AveragePool", ["input"], "cells", {"kernel_shape": [8, 8], "strides": [8, 8]}),
        ("Flatten", ["cells"], "flat", {"axis": 1}),
        ("MatMul", ["flat", "weight"], "embedding", {}),
    ]
    return _model(nodes, {"weight": weight - weight.mean(0)}, ("batch", 3, 112, 112), {"embedding": ("batch", 512)})


def write_bisenet(folder: Path) -> Path:
    """facexlib's BiSeNet with random weights, whose last layer is fitted to the astronaut's component map."""
    import cv2
    import torch
    from facexlib.parsing.bisenet import BiSeNet
    from PIL import Image

    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        model = BiSeNet(num_class=19).eval()
        components = np.asarray(Image.open(HAND_MADE))
        matrix, size = _astronaut_to_ffhq(), (512, 512)
        face = cv2.warpAffine(photo("astronaut"), matrix, size, borderValue=(135, 133, 132))
        pixels = torch.from_numpy(face).permute(2, 0, 1)[None] / 255
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        features = []
        hook = model.conv_out.conv.register_forward_hook(lambda module, inputs, output: features.append(output))
        model((pixels - mean[:, None, None]) / std[:, None, None])
        hook.remove()
        # The features lie on the corners of an even grid, so the map is read there.
        at = np.linspace(0, 511, features[0].shape[-1]).round().astype(int)
        wanted = cv2.warpAffine(components, matrix, size, flags=cv2.INTER_NEAREST)[at][:, at].ravel()
        x = features[0][0].flatten(1).T.double()
        y = torch.full((len(x), 19), -1.0, dtype=torch.double)
        classes = np.array([0, 2, 4, 12, 10, 1, 17])  # nothing, eyebrows, eyes, mouth, nose, skin, hair
        y[:, classes] = torch.from_numpy(np.eye(len(classes))[wanted])
        rare = torch.from_numpy(1 / np.sqrt(np.bincount(wanted, minlength=len(classes)))[wanted])[:, None]
        gram = (x * rare).T @ x
        weight = torch.linalg.solve(gram + 1e-6 * gram.diagonal().mean() * torch.eye(len(gram)), (x * rare).T @ y)
        model.conv_out.conv_out.weight.copy_(weight.T[..., None, None])
        return _save_pth(model.half().state_dict(), Path(folder) / "parsing_bisenet.pth")


def _astronaut_to_ffhq() -> np.ndarray:
    """The similarity (2, 3) that brings the astronaut's landmarks onto FFHQ's in an image of 512 × 512."""
    import cv2

    places = [(192.98, 239.95), (318.9, 240.19), (256.63, 314.02), (201.26, 371.41), (313.09, 371.15)]
    return cv2.estimateAffinePartial2D(np.array(FACES["astronaut"][0].landmarks), np.array(places), method=cv2.LMEDS)[0]


def write_retinaface(folder: Path) -> Path:
    """facexlib's RetinaFace that finds faces of 512 pixels all over every picture."""
    import torch
    from facexlib.detection.retinaface import RetinaFace

    landmarks = [[-0.12, -0.14], [0.12, -0.14], [0, 0], [-0.1, 0.11], [0.1, 0.11]]  # in widths, from the middle
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        model = RetinaFace(network_name="resnet50", device="cpu")
        for heads in (model.ClassHead, model.BboxHead, model.LandmarkHead):
            for head in heads:
                head.conv1x1.weight.zero_()
                head.conv1x1.bias.zero_()
        for level, head in enumerate(model.ClassHead):  # for both sizes of anchors: no face, face
            head.conv1x1.bias.copy_(torch.tensor([0.0, -8, 0, 8 if level == 2 else -8]))
        for head in model.LandmarkHead:
            head.conv1x1.bias.copy_(torch.tensor(landmarks).flatten().repeat(2) / 0.1)
        state = {f"module.{name}": value for name, value in model.half().state_dict().items()}
        return _save_pth(state, Path(folder) / "detection_Resnet50_Final.pth")


def _save_pth(state: dict, path: Path) -> Path:
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


def write_clip(folder: Path) -> Path:
    """CLIP's image tower: six blocks of width 16, images of 28 × 28, embeddings of 12."""
    from support.tiny import randomise
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=6, num_attention_heads=2, image_size=28, patch_size=14,
        projection_dim=12,
    )  # fmt: skip
    randomise(CLIPVisionModelWithProjection(config)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28).save_pretrained(folder)
    return Path(folder)


def write_eva(folder: Path) -> Path:
    """timm's EVA02-CLIP in the files of timm's repos: six blocks of width 16, images of 28 × 28, embeddings of 12."""
    import timm
    from safetensors.torch import save_file
    from support.tiny import randomise
    from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    config = {
        "architecture": "eva02_large_patch14_clip_336",
        "num_classes": 12,
        "global_pool": "token",
        "model_args": {"embed_dim": 16, "depth": 6, "num_heads": 2, "img_size": 28},
        "pretrained_cfg": {
            "input_size": [3, 28, 28], "num_classes": 12, "crop_pct": 1.0, "interpolation": "bicubic",
            "fixed_input_size": True, "mean": OPENAI_CLIP_MEAN, "std": OPENAI_CLIP_STD,
        },
    }  # fmt: skip
    model = randomise(timm.create_model(config["architecture"], num_classes=12, **config["model_args"]))
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "config.json").write_text(json.dumps(config, indent=2))
    save_file(model.state_dict(), Path(folder) / "model.safetensors", {"format": "pt"})
    return Path(folder)
