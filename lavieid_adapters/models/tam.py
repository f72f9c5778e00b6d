"""The temporal autoregressive module, TAM (eq. 4): it corrects denoised latents chunk by chunk, before the VAE decodes
them."""

# b batch · f frames · c channels · h, w height and width of the latents · p tokens a frame · d dim · s patch_size

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adapter import Adapter, register_to_config
from .checks import finite, floating, sizes, switch, whole
from .layers import CausalBlock, CrossAttention, Linear, frame_rotation, zero_init

LAYOUTS = ("bfchw", "bcfhw")


class TAM(Adapter):
    """The temporal autoregressive module: it corrects each chunk of the latents by the refined chunk before it.

    With the latents split into chunks c_1 to c_K:

        b_k = phi(psi(c*_(k-1)), c_k)        (eq. 4)
        c*_k = c_k + beta b_k

    psi is N `CausalBlock`s over the tokens of the chunk before, phi is `CrossAttention` from the tokens of c_k to psi's
    output. `to_tokens` makes one token of each s × s square of latent pixels, `to_latents` makes latents of phi's
    tokens. The first chunk has no predecessor and passes unchanged, unless `mirror_first`. Each later chunk is preceded
    by the last refined frame of the one before, and that frame is dropped from the output.

    Args:
        latent_channels: Channels of the latents.
        patch_size: Side s of the square of latent pixels that makes one token.
        dim: Width of the tokens.
        num_layers: Number N of layers of psi.
        num_heads: Heads of psi and phi; each has dim / num_heads channels.
        chunks: Number K of chunks.
        beta: Strength of the correction.
        layout: Order of the latents' axes, "bfchw" (CogVideoX) or "bcfhw" (most others).
        mirror_first: Refine the first chunk as well, in training, too, as if its own frames in reverse had come before
            it. Not in the paper: there is no step then between what is refined and what is not (see
            benchmarks/README.md), but neither a single chunk nor the given picture of image-to-video is left as it was.

    Raises:
        TypeError, ValueError: If a size is no whole number of at least 1, if `num_heads` does not divide `dim` into
            even parts, or if another setting is not of its kind.
    """

    presets = {  # noqa: RUF012
        "cogvideox-5b": {"dim": 3072, "num_heads": 24},
        "cogvideox-2b": {"dim": 1920, "num_heads": 15},
        "cogvideox-1024": {"dim": 1024, "num_heads": 8},
    }

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        patch_size: int = 2,
        dim: int = 3072,
        num_layers: int = 6,
        num_heads: int = 24,
        chunks: int = 4,
        beta: float = 0.2,
        layout: str = "bfchw",
        mirror_first: bool = False,
    ):
        super().__init__()
        sizes(latent_channels=latent_channels, patch_size=patch_size, dim=dim)
        sizes(num_layers=num_layers, num_heads=num_heads, chunks=chunks)
        finite("beta", beta)
        switch("mirror_first", mirror_first)
        if dim % (2 * num_heads):
            raise ValueError(
                f"dim {dim} over num_heads {num_heads} must give an even number of channels a head: choose another "
                "count."
            )
        _check_layout(layout)
        token = latent_channels * patch_size**2
        self.to_tokens = Linear(token, dim)
        self.psi = nn.ModuleList([CausalBlock(dim, num_heads) for _ in range(num_layers)])
        self.phi = CrossAttention(dim, dim, num_heads, dim // num_heads)
        self.to_latents = zero_init(Linear(dim, token))

    @torch.no_grad()
    def refine(
        self,
        latents: Tensor,
        chunks: int | None = None,
        beta: float | None = None,
        layout: str | None = None,
        previous: Tensor | None = None,
        mirror_first: bool | None = None,
    ) -> Tensor:
        """Correct denoised latents by eq. 4: `forward` without gradients, which raises for latents that are not finite.

        Args:
            latents: (b, f, c, h, w) or (b, c, f, h, w) as `layout` says, floating point, in the VAE's normalised space.
            chunks: Number K of chunks, 1 to f; they differ by at most one frame, longer ones first. The config's if
                None.
            beta: Strength; 0 gives the latents back. The config's if None.
            layout: "bfchw" or "bcfhw". The config's if None.
            previous: The last refined chunk of the video before: then the first chunk has a predecessor, and is refined
                as well. What psi sees of it are its output frames; `stream`, which also keeps the frame that is dropped
                from the output, continues a video exactly.
            mirror_first: Whether a first chunk without `previous` is refined behind its mirror image. The config's if
                None.

        Returns:
            Refined latents, of the shape and dtype of `latents`.

        Raises:
            ValueError, TypeError: If the latents, `previous` or `chunks` do not fit; nothing has been computed then.
        """
        self._check(latents, layout, require_finite=True)
        if previous is not None:
            self._check(previous, layout, require_finite=True)
        return self(latents, chunks, beta, layout, previous, mirror_first)

    def forward(
        self,
        latents: Tensor,
        chunks: int | None = None,
        beta: float | None = None,
        layout: str | None = None,
        previous: Tensor | None = None,
        mirror_first: bool | None = None,
    ) -> Tensor:
        """Correct latents by eq. 4, with gradients. Arguments, return and errors as in `refine`."""
        frame_axis = self._check(latents, layout)
        if previous is not None:
            self._check(previous, layout)
        beta, mirror_first = self._settings(beta, mirror_first)
        chunks = self.config.chunks if chunks is None else whole("chunks", chunks)
        num_frames = latents.shape[frame_axis]
        if not 1 <= chunks <= num_frames:
            raise ValueError(f"chunks is {chunks}, but {num_frames} latent frames can be split into 1 to {num_frames}.")
        parts = torch.tensor_split(latents, chunks, dim=frame_axis)
        return torch.cat(list(self._refined(parts, beta, frame_axis, previous, mirror_first)), dim=frame_axis)

    @torch.no_grad()
    def stream(
        self,
        chunks: Iterable[Tensor],
        beta: float | None = None,
        layout: str | None = None,
        previous: Tensor | None = None,
        mirror_first: bool | None = None,
    ) -> Iterator[Tensor]:
        """Refine latent chunks as they come. Only the chunk before is kept, so the latents may have any length.

        Args:
            chunks: Latents of one chunk after another, each with one frame or more; other arguments as in `refine`.

        Yields:
            Each chunk refined: together what `refine` gives for the whole, split in the same places. The next chunk
            depends on it, so do not write into it before that has come.

        Raises:
            ValueError, TypeError: When a chunk does not fit.
        """
        beta, mirror_first = self._settings(beta, mirror_first)
        if previous is not None:
            self._check(previous, layout, require_finite=True)
        frame_axis = (self.config.layout if layout is None else layout).find("f")
        checked = (c for c in chunks if self._check(c, layout, require_finite=True))
        yield from self._refined(checked, beta, frame_axis, previous, mirror_first)

    def _refined(
        self,
        chunks: Iterable[Tensor],
        beta: float,
        frame_axis: int,
        previous: Tensor | None,
        mirror_first: bool,
    ) -> Iterator[Tensor]:
        """Yield c*_k of eq. 4 for chunks and a predecessor that have been checked."""
        context = None  # c*_(k-1), (b, f, c, h, w): its last frame is what precedes the next chunk
        if previous is not None:
            context = previous.movedim(frame_axis, 1)
        for chunk in chunks:
            current = chunk.movedim(frame_axis, 1)
            if context is None and mirror_first:
                context = current.flip(1)
            if context is not None and beta != 0:
                _check_same_video(current, context)
                current = torch.cat([context[:, -1:], current], dim=1)
                bias = self._bias(context, current)
                # In float32, or a bias below half a unit of bf16's last place would be lost.
                wide = torch.promote_types(current.dtype, torch.float32)
                current = (current.to(wide) + beta * bias.to(current.device, wide)).to(current.dtype)
                chunk = current[:, 1:].movedim(1, frame_axis)
            context = current
            yield chunk

    def _bias(self, context: Tensor, current: Tensor) -> Tensor:
        """Return b_k of eq. 4 from c*_(k-1) and c_k, both (b, f, c, h, w)."""
        hidden = self.to_tokens(self._patchify(context))
        rotation = frame_rotation(hidden.shape[1], self.config.dim // self.config.num_heads, hidden)
        for block in self.psi:
            hidden = block(hidden, rotation)
        query = self.to_tokens(self._patchify(current))
        bias = self.phi(query.flatten(1, 2), hidden.flatten(1, 2))
        return self._unpatchify(self.to_latents(bias).unflatten(1, query.shape[1:3]), *current.shape[-2:])

    def _patchify(self, latents: Tensor) -> Tensor:
        """(b, f, c, h, w) → (b, f, p, c·s²); edges that the patch does not divide are repeated outwards."""
        s = self.config.patch_size
        height, width = latents.shape[-2:]
        if height % s or width % s:
            padded = F.pad(latents.flatten(0, 1), (0, -width % s, 0, -height % s), mode="replicate")
            latents = padded.unflatten(0, latents.shape[:2])
        latents = latents.unflatten(-1, (-1, s)).unflatten(-3, (-1, s))  # b f c h s w s
        return latents.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)

    def _unpatchify(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """(b, f, p, c·s²) → (b, f, c, height, width)."""
        s = self.config.patch_size
        latents = tokens.unflatten(-1, (-1, s, s)).unflatten(2, (-1, -(-width // s)))  # b f h w c s s
        latents = latents.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)
        return latents[..., :height, :width]

    def _settings(self, beta: float | None, mirror_first: bool | None) -> tuple[float, bool]:
        """Return beta and mirror_first, the config's where they are None."""
        beta = self.config.beta if beta is None else finite("beta", beta)
        return beta, self.config.mirror_first if mirror_first is None else switch("mirror_first", mirror_first)

    def _check(self, latents: Tensor, layout: str | None, require_finite: bool = False) -> int:
        """Raise if latents do not fit this module; return the axis of their frames (1 or 2, so true)."""
        layout = self.config.layout if layout is None else layout
        _check_layout(layout)
        if latents.ndim != 5:
            raise ValueError(f"latents has shape {tuple(latents.shape)}, but must have the five axes of {layout!r}.")
        floating("latents", latents)
        channels = latents.shape[layout.index("c")]
        if channels != self.config.latent_channels:
            other = LAYOUTS[1 - LAYOUTS.index(layout)]
            hint = ""
            if latents.shape[other.index("c")] == self.config.latent_channels:
                hint = f" They would fit in the other order: pass layout={other!r}."
            raise ValueError(
                f"latents of shape {tuple(latents.shape)} have {channels} channels in layout {layout!r}, but this TAM "
                f"was built for {self.config.latent_channels}.{hint}"
            )
        if 0 in latents.shape:
            raise ValueError(f"latents has shape {tuple(latents.shape)}: there is nothing to refine.")
        if require_finite and not latents.isfinite().all():
            count = int((~latents.isfinite()).sum())
            raise ValueError(
                f"latents hold {count} NaN or infinite values of {latents.numel()}: the denoising run went wrong "
                "before TAM. bfloat16 instead of float16 often helps."
            )
        return layout.index("f")


def _check_layout(layout: str) -> None:
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}, but must be one of {', '.join(map(repr, LAYOUTS))}.")


def _check_same_video(current: Tensor, context: Tensor) -> None:
    """Check that chunks of one video, and `previous`, are alike but for the number of frames."""
    shapes = [tuple(t.shape[:1] + t.shape[2:]) for t in (current, context)]
    if shapes[0] != shapes[1] or current.dtype != context.dtype or current.device != context.device:
        raise ValueError(
            f"A chunk of (batch, channels, height, width) {shapes[0]}, {current.dtype} on {current.device}, cannot "
            f"follow one of {shapes[1]}, {context.dtype} on {context.device}: chunks of one video must be alike."
        )
