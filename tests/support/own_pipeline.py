"""A pipeline and a transformer of a user's own, which share no class and no attribute with diffusers'."""

# b batch · c channels · f frames · h w height and width · n tokens · d width

import torch
from support import tiny
from torch import Tensor, nn

from lavieid_adapters import Host


class Layer(nn.Module):
    """Gives the text's stream and the video's, whose last tokens are the video and whose first are the text."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(tiny.DIM, tiny.DIM)

    def forward(self, text: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        video = video + self.mix(video).tanh() + text.mean(1, keepdim=True)
        return text + 1, video


class Dit(nn.Module):
    """A transformer of patches of 2 × 2, with two memory tokens ahead of the video's."""

    def __init__(self):
        super().__init__()
        self.config = {"model_width": tiny.DIM}
        self.patch = nn.Conv3d(4, tiny.DIM, (1, 2, 2), (1, 2, 2))
        self.memory = nn.Parameter(torch.zeros(1, 2, tiny.DIM))
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.unpatch = nn.ConvTranspose3d(tiny.DIM, 4, (1, 2, 2), (1, 2, 2))
        tiny.randomise(self, std=0.2)

    def forward(self, noisy: Tensor, t: Tensor, text: Tensor) -> Tensor:
        patches = self.patch(noisy) + t[:, None, None, None, None] / 1000
        video = torch.cat([self.memory.expand(len(noisy), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
        for layer in self.layers:
            text, video = layer(text, video)
        return self.unpatch(video[:, 2:].transpose(1, 2).unflatten(2, patches.shape[2:]))


def grid(transformer: nn.Module, arguments) -> tuple[int, int, int]:
    frames, height, width = arguments["noisy"].shape[2:]
    return frames, height // 2, width // 2


HOST = Host(
    "layers", 1, grid=grid, video_tokens="last", latents="noisy", timestep="t", width="model_width", fresh_output=True
)


class Codec(nn.Module):
    """Decodes latents that are twice as small as normalised ones."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv3d(4, 3, 1)
        tiny.randomise(self)

    def forward(self, latents: Tensor) -> Tensor:
        return self.mix(latents)

    def decode(self, latents: Tensor) -> Tensor:
        return self(latents)


class Studio:
    """Denoises in four steps under guidance, of which both passes go in one batch, or each by itself."""

    def __init__(self, together: bool):
        self.dit, self.codec, self.together = Dit().eval(), Codec().eval(), together
        self.do_classifier_free_guidance = True
        self.timesteps = torch.tensor([999.0, 750.0, 500.0, 250.0])

    @torch.no_grad()
    def __call__(self, prompts: list[str], decode: bool = True) -> Tensor:
        latents = tiny.noise(1, 4, 3, 4, 8).repeat(len(prompts), 1, 1, 1, 1)
        text = torch.stack([tiny.noise(5, tiny.DIM, seed=len(prompt)) for prompt in prompts])
        for t in self.timesteps:
            t, nothing = t.expand(len(prompts)), torch.zeros_like(text)
            if self.together:
                both = self.dit(latents.repeat(2, 1, 1, 1, 1), t.repeat(2), torch.cat([nothing, text]))
                negative, positive = both.chunk(2)
            else:
                negative, positive = (self.dit(latents, t=t, text=each) for each in (nothing, text))
            latents = latents - 0.1 * (negative + 2 * (positive - negative))
        return self.finish(latents) if decode else latents

    def finish(self, latents: Tensor) -> Tensor:
        return self.codec.decode(latents * 0.5)
