"""How long a photo takes to become component tokens, stage by stage, at the full sizes of all models.

    python benchmarks/identity.py                   # the GPU, if there is one
    python benchmarks/identity.py --device cpu --repeats 3

Random weights, no download. The detector is a convolutional network of SCRFD-10G's arithmetic (10 G multiply-adds on
640 × 480 pixels) that always finds one face in the photo, and the parser's map is exchanged for one that shows all six
components, so that each stage has its full work. Medians and 10th to 90th percentiles.
"""

import argparse
import copy
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import numpy as np
import onnxruntime
import torch
from facexlib.parsing.bisenet import BiSeNet as BiSeNetModule
from facexlib.recognition.arcface_arch import Backbone
from insightface.data import get_image
from PIL import Image, ImageDraw
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from lavieid_adapters import FACIAL_COMPONENTS, FaceProcessor, IdentityReader, LocalFacialEncoder
from lavieid_adapters.faces.components import component_images
from lavieid_adapters.faces.facexlib_models import BiSeNet
from lavieid_adapters.faces.photo import Photo

FACE = (465, 266, 562, 416, 494, 320, 539, 332, 507, 361, 488, 372, 532, 377)  # box and landmarks in insightface's t1


class Detector(nn.Module):
    """Nine outputs as SCRFD's, after 13 G multiply-adds on 640 × 640 pixels; the scores know one face of the photo."""

    def __init__(self):
        super().__init__()
        widths, self.body, channels = (56, 88, 88, 224), nn.ModuleList(), 3
        for width, depth, stride in zip(widths, (6, 9, 10, 8), (4, 2, 2, 2), strict=True):
            layers = [nn.Conv2d(channels, width, stride + 1, stride, (stride + 1) // 2), nn.ReLU()]
            for _ in range(depth):
                layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
            self.body.append(nn.Sequential(*layers))
            channels = width
        head = [layer for _ in range(3) for layer in (nn.LazyConv2d(80, 3, padding=1), nn.ReLU())]
        self.heads = nn.ModuleList(nn.Sequential(*copy.deepcopy(head)) for _ in range(3))
        self.outs = nn.ModuleList(nn.Conv2d(80, 2 * 15, 3, padding=1) for _ in range(3))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        x, found = self.body[0](pixels), []
        for i, stride in enumerate((8, 16, 32)):
            x = self.body[i + 1](x)
            out = self.outs[i](self.heads[i](x)) * 0
            found.append(out.permute(0, 2, 3, 1).reshape(-1, 15) + self._known(stride).to(x))
        return tuple(torch.cat([f[:, part]], 1) for part in (slice(0, 1), slice(1, 5), slice(5, 15)) for f in found)

    @staticmethod
    def _known(stride: int) -> Tensor:
        side = 640 // stride
        known = torch.zeros(side, side, 2, 15)
        if stride == 32:
            points = torch.tensor(FACE).reshape(-1, 2) / 2 / stride  # the photo is 1280 pixels wide
            x, y = (points[:2].mean(0)).round().int().tolist()
            at = torch.tensor([x, y])
            known[y, x, 0] = torch.cat([torch.ones(1), at - points[0], points[1] - at, (points[2:] - at).flatten()])
        return known.reshape(-1, 15)


class FullFaceBiSeNet(BiSeNet):
    """BiSeNet at its full work, whose random map is exchanged for one of a face from the front."""

    def parse(self, aligned: np.ndarray) -> np.ndarray:
        super().parse(aligned)
        component_map = Image.new("L", (512, 512))
        draw = ImageDraw.Draw(component_map)
        for component, box in (
            ("hair", (60, 0, 452, 400)), ("skin", (110, 110, 402, 500)), ("nose", (220, 230, 292, 330)),
            ("mouth", (195, 350, 317, 400)), ("eyes", (165, 225, 222, 255)), ("eyes", (290, 225, 347, 255)),
            ("eyebrows", (155, 195, 230, 212)), ("eyebrows", (282, 195, 357, 212)),
        ):  # fmt: skip
            draw.ellipse(box, fill=1 + FACIAL_COMPONENTS.index(component))
        return np.asarray(component_map)


def write_models(folder: Path) -> None:
    """All model files at their full sizes."""
    torch.manual_seed(0)
    pack = folder / "pack"
    pack.mkdir()
    detector = Detector().eval()
    with torch.no_grad():
        detector(torch.zeros(1, 3, 640, 640))
        torch.onnx.export(detector, torch.zeros(1, 3, 640, 640), pack / "detector.onnx", dynamo=False)
        recognizer = Backbone(num_layers=100, drop_ratio=0, mode="ir").eval()
        torch.onnx.export(recognizer, torch.zeros(1, 3, 112, 112), pack / "recognizer.onnx", dynamo=False)
    torch.save(BiSeNetModule(num_class=19).state_dict(), folder / "parsing_bisenet.pth")
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    config = CLIPVisionConfig(**large, image_size=336, patch_size=14, projection_dim=768, hidden_act="quick_gelu")
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "clip")
    processor = {"image_processor_type": "CLIPImageProcessor", "crop_size": 336, "size": {"shortest_edge": 336}}
    (folder / "clip" / "preprocessor_config.json").write_text(json.dumps(processor))
    Image.fromarray(get_image("t1")[..., ::-1]).save(folder / "photo.jpg", quality=92)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    device = torch.device(args.device)

    def timed(function: Callable[[], object]) -> str:
        function(), function()
        times = []
        for _ in range(args.repeats):
            begin = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append((time.perf_counter() - begin) * 1e3)
        deciles = quantiles(times, n=10)
        return f"{median(times):.1f} | {deciles[0]:.1f} to {deciles[-1]:.1f}"

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_models(folder)
        face = FaceProcessor.from_pretrained(
            folder / "pack", folder / "clip", weights_dir=folder, parser=FullFaceBiSeNet(folder)
        )
        face.detectors = face.detectors[:1]
        encoder = LocalFacialEncoder().eval().to(torch.bfloat16 if device.type == "cuda" else torch.float32)
        reader = IdentityReader(encoder, face).to(device)
        path = folder / "photo.jpg"
        features = face(path)
        assert not features.hidden and len(features.boxes) == 1

        def fresh() -> None:
            reader._kept.clear()
            reader(path)

        pixels = Photo(path).pixels
        (found,) = face.detect(pixels)
        on_disk = IdentityReader(encoder, face, folder / "cache").to(device)
        on_disk(path)

        def from_disk() -> None:
            on_disk._kept.clear()
            on_disk(path)

        rows = {
            "**photo to tokens**": fresh,
            "decode the photo": lambda: Photo(path).pixels,
            "detect (SCRFD-10G's size)": lambda: face.detect(pixels),
            "align": lambda: face.aligner.align(pixels, found.landmarks),
            "parse (BiSeNet)": lambda: face.parser.parse(features.aligned),
            "identity embedding (R100)": lambda: face.recognizer.embed(pixels, found.landmarks),
            "six images of components": lambda: component_images(features.aligned, features.component_map, {}, 336),
            "ViT-L/14-336 on the six": lambda: face.vision.encode(features.component_images),
            "encoder on the six": lambda: reader._encode(features),
            "from the cache in memory": lambda: reader(path),
            "from the cache on disk": from_disk,
        }
        cpu = f"{os.cpu_count()} CPU cores ({platform.processor() or platform.machine()})"
        where = torch.cuda.get_device_name() if device.type == "cuda" else cpu
        providers = face.recognizer._analysis.models["recognition"].session.get_providers()
        print(f"{where}, {cpu}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__} on {providers}\n")
        print("| | ms | 10 % to 90 % |\n| --- | --- | --- |")
        for name, function in rows.items():
            print(f"| {name} | {timed(function)} |", flush=True)


if __name__ == "__main__":
    main()
