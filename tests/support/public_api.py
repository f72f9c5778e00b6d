"""A script that uses the public names as users do, for the type checker: each has its own type, none is Any."""

from typing import assert_type

import torch

from lavieid_adapters import (
    TAM,
    BiSeNet,
    Detector,
    FaceProcessor,
    Host,
    Identity,
    IdentityReader,
    InsightFace,
    LaVieID,
    LocalFacialEncoder,
    LocalRouter,
    Parser,
    Recognizer,
    RetinaFace,
    RouterHandle,
    Shards,
    Trainer,
    TrainingConfig,
    VideoPipeline,
    VisionEncoder,
    VisionModel,
    attach,
    attach_lavieid,
    prepare_clips,
    read_clips,
)


def generate(pipe: object, transformer: torch.nn.Module, router: LocalRouter) -> None:
    lavieid = attach_lavieid(pipe, "me/lavieid-cogvideox-5b", block_idx=0)
    assert_type(lavieid, LaVieID)
    lavieid.set_identity(lavieid.encode("photo.jpg"))
    assert_type(lavieid.encode("photo.jpg"), Identity)
    assert_type(lavieid.scale, float)
    lavieid.detach()
    with attach(router, transformer, block_idx=0) as handle:
        assert_type(handle, RouterHandle)
    tam = TAM.from_pretrained("me/lavieid-cogvideox-5b", subfolder="tam")
    assert_type(tam, TAM)
    assert_type(TAM(dim=64, num_heads=2), TAM)
    tam.refine(torch.zeros(1, 13, 16, 60, 90), chunks=4)


def extend(pipe: object) -> None:
    host, pipeline = Host("blocks", stream=0, width="dim"), VideoPipeline(passes=2, seam="decode_latents")
    assert_type(host, Host)
    assert_type(attach_lavieid(pipe, "me/lavieid", host=host, pipeline=pipeline), LaVieID)


def read_photos(encoder: LocalFacialEncoder) -> IdentityReader:
    detector: Detector = RetinaFace()
    recognizer: Recognizer = InsightFace()
    parser: Parser = BiSeNet()
    vision: VisionEncoder = VisionModel("openai/clip-vit-large-patch14-336")
    face = FaceProcessor([detector], recognizer, parser=parser, vision=vision)
    assert_type(face, FaceProcessor)
    return IdentityReader(encoder, face)


def train(folder: str, face: FaceProcessor) -> None:
    prepare_clips(read_clips(f"{folder}/clips.jsonl"), f"{folder}/shards", base=f"{folder}/base", face=face)
    assert_type(Shards(f"{folder}/shards"), Shards)
    config = TrainingConfig(base=f"{folder}/base", shards=f"{folder}/shards", output=f"{folder}/run")
    assert_type(config, TrainingConfig)
    assert_type(Trainer(config), Trainer)
