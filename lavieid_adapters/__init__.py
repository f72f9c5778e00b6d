"""LaVieID's local router and temporal autoregressive module as adapters for video diffusion transformers."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .attachment.attach import attach as attach
    from .attachment.attach import attach_lavieid as attach_lavieid
    from .attachment.attach import detach_lavieid as detach_lavieid
    from .attachment.attach import get_lavieid as get_lavieid
    from .attachment.lavieid import LaVieID as LaVieID
    from .attachment.router_handle import RouterHandle as RouterHandle
    from .data.clips import read_clips as read_clips
    from .data.labels import token_labels as token_labels
    from .data.prepare import prepare_clips as prepare_clips
    from .data.shards import Shards as Shards
    from .evaluation.metrics import bootstrap_interval as bootstrap_interval
    from .evaluation.metrics import face_similarity as face_similarity
    from .evaluation.metrics import flicker as flicker
    from .evaluation.metrics import frechet_distance as frechet_distance
    from .evaluation.metrics import route_iou as route_iou
    from .evaluation.metrics import second_difference_flicker as second_difference_flicker
    from .evaluation.metrics import temporal_consistency as temporal_consistency
    from .faces.components import CELEBAMASK_TO_COMPONENT as CELEBAMASK_TO_COMPONENT
    from .faces.facexlib_models import BiSeNet as BiSeNet
    from .faces.facexlib_models import RetinaFace as RetinaFace
    from .faces.insightface_models import InsightFace as InsightFace
    from .faces.parts import Aligner as Aligner
    from .faces.parts import DetectedFace as DetectedFace
    from .faces.parts import Detector as Detector
    from .faces.parts import FaceFeatures as FaceFeatures
    from .faces.parts import Parser as Parser
    from .faces.parts import Recognizer as Recognizer
    from .faces.parts import VisionEncoder as VisionEncoder
    from .faces.processor import FaceProcessor as FaceProcessor
    from .faces.reader import IdentityReader as IdentityReader
    from .faces.vision import VisionModel as VisionModel
    from .hosts.host import Host as Host
    from .hosts.pipeline import VideoPipeline as VideoPipeline
    from .models.facial_encoder import LocalFacialEncoder as LocalFacialEncoder
    from .models.identity import FACIAL_COMPONENTS as FACIAL_COMPONENTS
    from .models.identity import Identity as Identity
    from .models.local_router import LocalRouter as LocalRouter
    from .models.tam import TAM as TAM
    from .training.config import TrainingConfig as TrainingConfig
    from .training.losses import diffusion_loss as diffusion_loss
    from .training.losses import lavieid_loss as lavieid_loss
    from .training.losses import route_loss as route_loss
    from .training.trainer import Trainer as Trainer
    from .visualize.overlays import component_overlay as component_overlay

__version__ = "0.1.0"

# Public name → the module that defines it. A module, and diffusers with it, is imported when its first name is used; a
# type checker reads the imports above instead. No public name is the name of a room, which would take its place.
_HOME = {
    "CELEBAMASK_TO_COMPONENT": "faces.components",
    "Aligner": "faces.parts",
    "BiSeNet": "faces.facexlib_models",
    "DetectedFace": "faces.parts",
    "Detector": "faces.parts",
    "FACIAL_COMPONENTS": "models.identity",
    "FaceFeatures": "faces.parts",
    "FaceProcessor": "faces.processor",
    "Host": "hosts.host",
    "Identity": "models.identity",
    "IdentityReader": "faces.reader",
    "InsightFace": "faces.insightface_models",
    "LaVieID": "attachment.lavieid",
    "LocalFacialEncoder": "models.facial_encoder",
    "LocalRouter": "models.local_router",
    "Parser": "faces.parts",
    "Recognizer": "faces.parts",
    "RetinaFace": "faces.facexlib_models",
    "RouterHandle": "attachment.router_handle",
    "Shards": "data.shards",
    "TAM": "models.tam",
    "Trainer": "training.trainer",
    "TrainingConfig": "training.config",
    "VideoPipeline": "hosts.pipeline",
    "VisionEncoder": "faces.parts",
    "VisionModel": "faces.vision",
    "attach": "attachment.attach",
    "attach_lavieid": "attachment.attach",
    "bootstrap_interval": "evaluation.metrics",
    "component_overlay": "visualize.overlays",
    "detach_lavieid": "attachment.attach",
    "diffusion_loss": "training.losses",
    "face_similarity": "evaluation.metrics",
    "flicker": "evaluation.metrics",
    "frechet_distance": "evaluation.metrics",
    "get_lavieid": "attachment.attach",
    "lavieid_loss": "training.losses",
    "prepare_clips": "data.prepare",
    "read_clips": "data.clips",
    "route_iou": "evaluation.metrics",
    "route_loss": "training.losses",
    "second_difference_flicker": "evaluation.metrics",
    "temporal_consistency": "evaluation.metrics",
    "token_labels": "data.labels",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
