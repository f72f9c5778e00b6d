"""LaVieID's local router and temporal autoregressive module as adapters for video diffusion transformers."""

import importlib

__version__ = "0.1.0"

# Public name → the module that defines it; a module, and with it diffusers, is imported when its first name is used. No
# public name is a module's: importing the module would put it in the place of the name.
_HOME = {
    "CELEBAMASK_TO_COMPONENT": "components",
    "BiSeNet": "face_models",
    "DetectedFace": "features",
    "FACIAL_COMPONENTS": "identity",
    "FaceFeatures": "features",
    "FaceProcessor": "face",
    "Host": "hosts",
    "Identity": "identity",
    "IdentityReader": "reader",
    "InsightFace": "face_models",
    "LaVieID": "lavieid",
    "LocalFacialEncoder": "encoder",
    "LocalRouter": "router",
    "RetinaFace": "face_models",
    "RouterHandle": "handle",
    "Shards": "shards",
    "TAM": "tam",
    "TrainingConfig": "training_config",
    "VisionModel": "vision",
    "attach": "attaching",
    "attach_lavieid": "pipeline",
    "bootstrap_interval": "metrics",
    "component_overlay": "visualize",
    "diffusion_loss": "losses",
    "face_similarity": "metrics",
    "flicker": "metrics",
    "frechet_distance": "metrics",
    "lavieid_loss": "losses",
    "route_iou": "metrics",
    "route_loss": "losses",
    "second_difference_flicker": "metrics",
    "temporal_consistency": "metrics",
    "token_labels": "labels",
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
