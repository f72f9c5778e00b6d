"""The parts of a training run: the frozen host, the adapters, the ViT and the samples, placed and checked."""

from dataclasses import replace
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from peft.utils import set_peft_model_state_dict

from ..attachment.attach import fresh_adapter
from ..data.dataset import SampleFormat, TrainingSamples
from ..data.shards import Shards
from ..faces.parts import VisionEncoder, check_part
from ..faces.photo_readers import read_with, registered
from ..faces.vision import VisionModel
from ..files.hub import fetch, hub_errors
from ..hosts.host import find_block, find_blocks
from ..hosts.host_table import find_host
from ..models.adapter import Adapter
from ..models.checkpoint import ADAPTERS, Metadata, load_folder
from ..models.facial_encoder import LocalFacialEncoder
from .config import TrainingConfig
from .run_folder import LORA_WEIGHTS
from .step import TrainingStep

TRAINED = {"router": ("router", "encoder"), "tam": ("tam",), "both": ("router", "encoder", "tam")}


def load_base(config: TrainingConfig):
    """Load the pipeline without its text encoder, on the CPU.

    Raises:
        ValueError: If it is not a text-to-video pipeline of CogVideoX.
        OSError: If it is not there, or a download fails.
    """
    left_out = {"text_encoder": None, "tokenizer": None}
    with hub_errors(config.base):
        pipe = DiffusionPipeline.from_pretrained(config.base, dtype=getattr(torch, config.dtype), **left_out)
    if type(pipe).__name__ != "CogVideoXPipeline":
        raise ValueError(f"'{config.base}' is a {type(pipe).__name__}, but training knows CogVideoXPipeline.")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def build_adapters(config: TrainingConfig, pipe, checkpoint: Path | None) -> tuple[dict[str, Adapter], Metadata]:
    """Return the adapters of a checkpoint, or those that the config names, and fresh ones for what is missing.

    Raises:
        ValueError: If the config gives sizes for an adapter that is there, the router's block is not there, or the
            adapters do not fit each other.
    """
    source = checkpoint or config.adapters
    adapters, metadata = load_folder(source, torch_dtype=torch.float32) if source else ({}, Metadata())
    if config.adapters and not checkpoint and (fetch(config.adapters, [LORA_WEIGHTS]) / LORA_WEIGHTS).is_file():
        raise ValueError(
            f"'{config.adapters}' has a LoRA of the host, which a run cannot begin with: fuse it into a base of its "
            "own (pipe.load_lora_weights, pipe.fuse_lora, pipe.save_pretrained), or take its folder without the LoRA."
        )
    host = find_host(pipe.transformer)
    find_block(pipe.transformer, host, config.block_idx)  # raises if it is not there, also without a router
    blocks = len(find_blocks(pipe.transformer, host))
    block_idx = config.block_idx % blocks
    if source:
        metadata.checked_against(config.base, block_idx, blocks)
    for name in TRAINED[config.stage]:
        sizes = getattr(config, name)
        if name not in adapters:
            adapters[name] = fresh_adapter(name, pipe, **sizes)
        elif sizes and checkpoint is None:
            raise ValueError(
                f"'{config.adapters}' has a {name}, so its sizes are given: take {name}: out of the config."
            )
    router, encoder = adapters.get("router"), adapters.get("encoder")
    if router is not None and encoder is None:
        raise ValueError(f"'{config.adapters}' has a router, but no encoder, without which it sees no one.")
    for size in ("tokens_per_component", "token_dim") if router is not None else ():
        if router.config[size] != encoder.config[size]:
            raise ValueError(
                f"{size} is {router.config[size]} in the router, but {encoder.config[size]} in the encoder."
            )
    return {name: adapters[name] for name in ADAPTERS if name in adapters}, replace(
        metadata, base_model=config.base, block_idx=block_idx
    )


def sharded(accelerator) -> bool:
    """Whether accelerate's configuration shards the host."""
    return accelerator.distributed_type == "FSDP"


def place_host(config: TrainingConfig, pipe, accelerator, checkpoint: Path | None) -> None:
    """Freeze the host, add its LoRA if there is one, and move it to its device, or shard it by accelerate's FSDP2.

    Args:
        config: The settings of the run.
        pipe: From `load_base`.
        accelerator: Names the device, or the processes over which the host is sharded.
        checkpoint: Folder with the LoRA's weights, if the run is continued.

    Raises:
        ValueError: If accelerate is configured for another FSDP.
    """
    transformer = pipe.transformer
    transformer.requires_grad_(False).eval()
    if config.lora_rank:
        alpha = config.lora_alpha or config.lora_rank
        targets = config.lora_targets
        transformer.add_adapter(LoraConfig(r=config.lora_rank, target_modules=targets, lora_alpha=alpha))
        for parameter in transformer.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        if checkpoint is not None:
            weights = pipe.lora_state_dict(checkpoint, weight_name=LORA_WEIGHTS)
            weights = {k.removeprefix("transformer."): v for k, v in weights.items()}
            set_peft_model_state_dict(transformer, weights)
    if config.host_storage == "fp8":
        transformer.enable_layerwise_casting(torch.float8_e4m3fn, getattr(torch, config.dtype))
    if sharded(accelerator):
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model

        if accelerator.state.fsdp_plugin.fsdp_version != 2:
            raise ValueError(
                "FSDP 1 is not supported: set fsdp_version to 2, as examples/training/accelerate_fsdp2.yaml does."
            )
        fsdp2_prepare_model(accelerator, transformer)
        # It learns of its blocks in the first forward, which in a route warm-up ends early.
        transformer._get_fsdp_state()._lazy_init()
    else:
        transformer.to(accelerator.device)


def vision_model(config: TrainingConfig, encoder: LocalFacialEncoder, device: torch.device) -> VisionEncoder:
    """Return the ViT whose features an encoder takes, by its config: a Hub repo, a folder, or that of a photo reader.

    Raises:
        TypeError: If what the photo reader brings is no vision model.
        ValueError: If there is no such model, or if the photo reader brings none.
    """
    c = encoder.config
    reader = registered(c.vision_model) if config.vision_model is None else None
    vision: VisionEncoder | None
    if reader is None:
        vision = VisionModel(config.vision_model or c.vision_model, c.num_scales)
    else:
        vision = read_with(reader, c.num_scales).get("vision")
    if vision is None:
        raise ValueError(
            f"The photo reader '{c.vision_model}' brings no vision model. Give `vision_model` in the config."
        )
    check_part(f"vision of the photo reader '{c.vision_model}'", vision, VisionEncoder)
    if hasattr(vision, "place"):  # a model that needs no device has none
        vision.place(device)
    return vision


def training_samples(config: TrainingConfig, shards: Shards, pipe, step: TrainingStep) -> TrainingSamples:
    """Return the samples of shards as the host and the encoder of a step take them.

    Raises:
        ValueError: If the host takes other latents.
    """
    transformer, encoder = pipe.transformer, step.encoder
    spatial, temporal = pipe.vae_scale_factor_spatial, pipe.vae_scale_factor_temporal
    host, channels = find_host(transformer), transformer.config.in_channels
    grids = {}
    for size in set(shards.sizes):
        frames, height, width = size
        latents = (1, (frames - 1) // temporal + 1, channels, height // spatial, width // spatial)
        grids[size] = host.grid(transformer, {host.latents: torch.empty(latents, device="meta")})
    sample_format = SampleFormat(
        grids=grids,
        temporal_compression=temporal,
        patch_frames=getattr(transformer.config, "patch_size_t", None) or 1,
        threshold=config.label_threshold,
        image_size=step.vision.image_size if encoder is not None else 64,
        grayscale=encoder is not None and encoder.config.grayscale,
        null_prompt=config.null_prompt,
        seed=config.seed,
    )
    samples = TrainingSamples(shards, sample_format)
    batch = samples[0, 0]
    found = batch.latents.shape[2]
    if found != channels:
        raise ValueError(
            f"'{config.shards}' holds latents of {found} channels, but the transformer of '{config.base}' takes "
            f"{channels}: a base that also takes images cannot be trained here."
        )
    if encoder is not None:
        with torch.no_grad():  # says what does not fit before the first step
            step.component_tokens(batch.images, batch.mask, batch.id_embedding.to(step.device))
    if step.tam is not None:
        c = step.tam.config
        if c.latent_channels != channels:
            raise ValueError(
                f"TAM was built for {c.latent_channels} latent channels, but '{config.shards}' holds latents of "
                f"{channels}: use the adapters of this base model."
            )
        frames = min(size[0] for size in grids)
        latent = (frames - 1) // temporal + 1
        if latent < c.chunks:
            raise ValueError(
                f"TAM splits a clip into {c.chunks} chunks, but clips of {frames} frames have {latent} latent frames: "
                "set chunks in tam: to fewer, or prepare longer clips."
            )
    return samples
