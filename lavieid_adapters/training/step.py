"""One training step (section 3.4): a batch through the frozen host and the adapters to the losses."""

# b batch · f frames · c channels · h w height and width of the latents · m components · n video tokens

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..attachment.attach import attach
from ..data.dataset import Batch
from ..faces.components import component_images, component_mask
from ..faces.parts import component_features, join_embeds
from ..hosts.host import find_blocks
from ..hosts.host_table import find_host
from ..models.adapter import Adapter
from .block_checkpointing import BlockCheckpointing
from .config import TrainingConfig
from .losses import (
    add_noise,
    denoise,
    denoised,
    diffusion_loss,
    draw_timesteps,
    lavieid_loss,
    route_accuracy,
    route_loss,
    squared_error,
)

# Each takes what those before it refuse. Older PyTorch begins with FLASH_ATTENTION, with which a step takes a fifth
# longer on Hopper.
_ATTENTION = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class TrainingStep:
    """The losses of a batch.

    Args:
        pipe: A CogVideoX pipeline, whose transformer is on the device of training and frozen.
        adapters: "router" and "encoder", "tam", or all, on the same device.
        vision: Has `encode`, as `VisionModel`; not needed without an encoder.
        config: The settings of the run.
        null_prompt: Embedding of the empty prompt, (n, d); needed for `tam_guidance_scale` alone.

    Attributes:
        checkpointing: Decides which blocks are recomputed.
        handle: The handle of the attached router; None without one.
    """

    def __init__(
        self, pipe, adapters: Mapping[str, Adapter], vision, config: TrainingConfig, null_prompt: Tensor | None = None
    ):
        self.pipe, self.transformer, self.vision, self.config = pipe, pipe.transformer, vision, config
        self.router, self.encoder, self.tam = (adapters.get(name) for name in ("router", "encoder", "tam"))
        self.scheduler = copy.deepcopy(pipe.scheduler)  # which validation sets to its own timesteps
        self.null_prompt, self.dtype = null_prompt, getattr(torch, config.dtype)
        self.device = next(pipe.transformer.parameters()).device
        self._host = find_host(pipe.transformer)
        self._blocks = find_blocks(pipe.transformer, self._host)
        self._rotary: dict[tuple, object] = {}
        self.handle = None
        if self.router is not None:
            self.handle = attach(self.router, pipe.transformer, config.block_idx, adapter_name="training")
        # LoRA may be on any block; else gradients begin behind the router.
        behind = 0 if config.lora_rank else config.block_idx % len(self._blocks) + 1
        self.checkpointing = BlockCheckpointing(self._blocks, behind, config.checkpointing)
        pipe.transformer.enable_gradient_checkpointing(self.checkpointing)
        if config.compile and config.host_storage is None and self.device.type == "cuda":
            for block in self._blocks[config.block_idx % len(self._blocks) + 1 :]:
                block.compile()

    @property
    def attention(self):
        """The context in which a step, its backward pass included, uses the fastest attention available."""
        return sdpa_kernel(_ATTENTION, set_priority=True) if self.device.type == "cuda" else nullcontext()

    def __call__(self, batch: Batch, route_only: bool = False) -> dict[str, Tensor]:
        """Return the loss to minimise as "loss" (eq. 6), and its parts as far as the stage has them.

        The parts are "diffusion" (eq. 1), "route" (eq. 5) and "tam"; "correct" is the number of "labelled" video tokens
        whose component has the largest logit.

        Args:
            batch: On the device of training, its images and mask on the CPU.
            route_only: Compute eq. 5 alone, for which the host runs only up to the router's block.
        """
        latents, noise = batch.latents.float(), batch.noise
        limit = self.config.tam_max_noise
        draws = batch.draws * limit if self.config.stage == "tam" else batch.draws
        timesteps = draw_timesteps(self.scheduler, draws)
        noisy = add_noise(self.scheduler, latents, noise, timesteps).to(self.dtype)
        trains_router = self.config.stage != "tam"
        if route_only:
            # The tokens first: their many small kernels are then launched while a GPU is still at work on the block.
            tokens, mask = self.component_tokens(batch.images, batch.mask, batch.id_embedding)
            with self.handle.disabled(), self._first_blocks(), torch.no_grad():
                _, stream = self.predict(noisy, batch.prompt_embeds, timesteps)
            return self._route(stream, batch, tokens, mask)

        losses = {}
        with torch.set_grad_enabled(trains_router):
            if self.handle is not None:
                tokens, mask = self.component_tokens(batch.images, batch.mask, batch.id_embedding)
                # A handle refuses what is not finite; here the loss is to tell, so that the step is skipped.
                broken = (tokens - tokens).sum()
                tokens = tokens.nan_to_num()
                self.handle.set_tokens(tokens, mask)
            if trains_router:
                prediction, stream = self.predict(noisy, batch.prompt_embeds, timesteps)
                losses = self._route(stream, batch, tokens, mask)
                losses["diffusion"] = diffusion_loss(prediction, latents, noise, timesteps, self.scheduler)
                weights = self.config.lambda_diff, self.config.lambda_route
                losses["loss"] = lavieid_loss(losses["diffusion"], losses["route"], *weights) + broken
        if self.tam is not None and self.config.stage != "router":
            clean = batch.draws < limit if trains_router else torch.ones_like(batch.draws, dtype=torch.bool)
            if clean.any():
                with torch.no_grad():
                    if trains_router:
                        rough = denoised(self.scheduler, prediction.float(), noisy.float(), timesteps)[clean]
                    else:
                        rough = self._denoise(noisy, batch.prompt_embeds, timesteps)
                losses["tam"] = squared_error(self.tam(rough.to(self.dtype)).float(), latents[clean])
                losses["loss"] = losses["tam"] + losses.get("loss", 0)
        return losses

    def _denoise(self, noisy: Tensor, prompt_embeds: Tensor, timesteps: Tensor) -> Tensor:
        """Return the latents that stage "tam" lets TAM correct: denoised as a pipeline does, in the config's steps."""
        scale = self.config.tam_guidance_scale

        def guided(latents: Tensor, now: Tensor) -> Tensor:
            latents = latents.to(self.dtype)
            if scale == 1:
                return self.predict(latents, prompt_embeds, now)[0].float()
            prompts = torch.cat([self.null_prompt.to(prompt_embeds).expand_as(prompt_embeds), prompt_embeds])
            both = self.predict(latents.repeat(2, 1, 1, 1, 1), prompts, now.repeat(2))[0].float()
            without, with_prompt = both.chunk(2)
            return without + scale * (with_prompt - without)

        return denoise(self.scheduler, guided, noisy.float(), timesteps, self.config.tam_denoising_steps)

    def component_tokens(self, images: Tensor, mask: Tensor, id_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Return the component tokens (b, m, l, D) of references, with their mask.

        Args:
            images: Each component alone on white, (b, m, s, s, 3), uint8, on the CPU.
            mask: (b, m), bool, on the CPU.
            id_embedding: (b, i), on the device of training.
        """
        vit_embeds, maps = component_features(self.vision, images.numpy(), mask.numpy())
        id_embeds = join_embeds(id_embedding, vit_embeds)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.encoder(id_embeds, maps).float(), mask.to(self.device)

    def reference_images(self, aligned, component_map, hidden) -> tuple[Tensor, Tensor]:
        """Return `images` and `mask` for `component_tokens` of one aligned face and its components.

        Arguments as in `component_images`.
        """
        mask = torch.from_numpy(component_mask(hidden))[None]
        size, grayscale = self.vision.image_size, self.encoder.config.grayscale
        return torch.from_numpy(component_images(aligned, component_map, hidden, size, grayscale))[None], mask

    def _route(self, stream: Tensor, batch: Batch, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        logits = self.router.route_logits(stream, tokens, mask)
        loss = route_loss(logits, batch.labels, mask)
        with torch.no_grad():
            correct, labelled = route_accuracy(logits, batch.labels, mask)
        return {"route": loss, "loss": self.config.lambda_route * loss, "correct": correct, "labelled": labelled}

    def predict(self, noisy: Tensor, prompt_embeds: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the host's output for noisy latents, and the video stream that enters the router."""
        inputs = {
            "hidden_states": noisy,
            "encoder_hidden_states": prompt_embeds.to(self.dtype),
            "timestep": timesteps,
            "image_rotary_emb": self._positions(noisy),
        }
        # LoRA's weights are kept in float32.
        mixed = self.config.lora_rank > 0 and self.dtype != torch.float32
        autocast = torch.autocast(self.device.type, self.dtype, enabled=mixed)
        with self.handle.record_stream() if self.handle else nullcontext([None]) as streams, autocast:
            prediction = self.transformer(**inputs, return_dict=False)[0]
        return prediction, streams[-1]

    def _positions(self, latents: Tensor):
        """Return CogVideoX's rotary embeddings for latents of this size, as its pipeline makes them."""
        if not self.transformer.config.use_rotary_positional_embeddings:
            return None
        shape = tuple(latents.shape[1:])
        if shape not in self._rotary:
            scale = self.pipe.vae_scale_factor_spatial
            self._rotary[shape] = self.pipe._prepare_rotary_positional_embeddings(
                shape[2] * scale, shape[3] * scale, shape[0], self.device
            )
        return self._rotary[shape]

    @contextmanager
    def _first_blocks(self) -> Iterator[None]:
        """Let the host end with the router's block, inside the context."""
        count = self.config.block_idx % len(self._blocks) + 1
        blocks = getattr(self.transformer, self._host.blocks)
        setattr(self.transformer, self._host.blocks, nn.ModuleList(blocks[:count]))
        try:
            yield
        finally:
            setattr(self.transformer, self._host.blocks, blocks)
