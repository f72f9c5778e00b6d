"""A pipeline's models that adapters go with: its transformers, and what decodes its latents."""

from collections.abc import Collection

from torch import nn


def find_transformers(pipe) -> list[nn.Module]:
    """A pipeline's transformers, of which at each step one runs: Wan 2.2 has two, and either may be left out.

    Raises:
        ValueError: If it has none.
    """
    if not (found := _loaded(pipe, "transformer", "transformer_2")):
        raise ValueError(f"This {type(pipe).__name__} has no transformer: load one before adapters are attached.")
    return found


def find_decoders(pipe) -> list[nn.Module]:
    """What may decode a pipeline's latents: its VAE, LTX-2's diffusion decoder, which has the same statistics, both, or
    nothing."""
    return _loaded(pipe, "vae", "diffusion_decoder")


def need_attached(pipe, blocks: Collection[nn.Module]) -> None:
    """See that each of a pipeline's transformers, wrapped or not, has one of the blocks that routers follow.

    Raises:
        ValueError: If one has not, because it came after them.
    """
    for transformer in find_transformers(pipe):
        if not any(module is block for module in transformer.modules() for block in blocks):
            raise ValueError(
                f"This {type(pipe).__name__} got a {type(transformer).__name__} after adapters were attached, so that "
                "it has no router: detach them, and attach them again."
            )


def need_refined(pipe, decoders: Collection[nn.Module]) -> None:
    """See that what may decode a pipeline's latents is among the decoders for which TAM refines.

    Raises:
        ValueError: If something else decodes, because it came after them.
    """
    for decoder in find_decoders(pipe):
        if not any(decoder is known for known in decoders):
            raise ValueError(
                f"This {type(pipe).__name__} got another {type(decoder).__name__} after adapters were attached, so "
                "that TAM would not refine what it decodes: detach them, and attach them again."
            )


def latent_channels(pipe) -> int:
    """Channels of a pipeline's latents.

    Raises:
        ValueError: If it has nothing that decodes them.
    """
    if not (decoders := find_decoders(pipe)):
        raise ValueError(f"This {type(pipe).__name__} has no VAE, which TAM needs: load one, or attach a router alone.")
    return decoders[0].config.get("latent_channels") or decoders[0].config["z_dim"]


def _loaded(pipe, *names: str) -> list[nn.Module]:
    models = (getattr(pipe, name, None) for name in names)  # None of a modular pipeline that has not loaded it
    return list(dict.fromkeys(model for model in models if model is not None))
