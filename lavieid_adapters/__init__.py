"""LaVieID's local router and temporal autoregressive module as adapters for video diffusion transformers."""

import importlib

__version__ = "0.1.0"

# Public name → the module that defines it; a module, and with it diffusers, is imported when its first name is used. No
# public name is a module's: importing the module would put it in the place of the name.
_HOME = {
    "CELEBAMASK_TO_COMPONENT": "faces.components",
    "BiSeNet": "faces.face_models",
    "DetectedFace": "faces.parts",
    "FACIAL_COMPONENTS": "models.identity",
    "FaceFeatures": "faces.parts",
    "FaceProcessor": "faces.processor",
    "Host": "hosts.host",
    "Identity": "models.identity",
    "IdentityReader": "faces.reader",
    "InsightFace": "faces.face_models",
    "LaVieID": "attachment.lavieid",
    "LocalFacialEncoder": "models.facial_encoder",
    "LocalRouter": "models.local_router",
    "RetinaFace": "faces.face_models",
    "RouterHandle": "attachment.router_handle",
    "Shards": "data.shards",
    "TAM": "models.tam",
    "TrainingConfig": "training.config",
    "VisionModel": "faces.vision",
    "attach": "attachment.attach",
    "attach_lavieid": "attachment.pipeline",
    "bootstrap_interval": "evaluation.metrics",
    "component_overlay": "visualize.overlays",
    "diffusion_loss": "training.losses",
    "face_similarity": "evaluation.metrics",
    "flicker": "evaluation.metrics",
    "frechet_distance": "evaluation.metrics",
    "lavieid_loss": "training.losses",
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
