"""Attaching a local router to a transformer: one hook a block, one handle a router."""

from collections.abc import Sequence

from torch import nn

from ..hosts.host import Host, find_block, find_stream, token_width, weights_device
from ..hosts.host_table import find_host
from ..models.identity import FACIAL_COMPONENTS
from ..models.local_router import LocalRouter
from .block_hook import ROUTER_HOOK, StreamHook, insert_innermost
from .router_handle import RouterHandle


def attach(
    router: LocalRouter,
    transformer: nn.Module,
    block_idx: int = 0,
    *,
    host: Host | None = None,
    names: Sequence[str] | None = None,
) -> RouterHandle:
    """Let a local router steer the video tokens that leave one block of a transformer (eq. 3).

    Args:
        router: The router; moved to the transformer's device. Its dtype may be any: results have that of the
            activations.
        transformer: A video transformer of diffusers, or any other that `host` describes.
        block_idx: The block; negative from the last.
        host: Description of the transformer, if this library and diffusers do not know it.
        names: Names of the components for `component_scales`; `FACIAL_COMPONENTS` for six.

    Returns:
        The handle, on which the identity, the strength and `detach` are.

    Raises:
        ValueError: If the blocks or their video stream are not known, the block is not there, the widths differ, or
            the router is on it already.
    """
    host = host or find_host(transformer)
    block = find_block(transformer, host, block_idx)
    stream = find_stream(block, host)
    width = token_width(transformer, host)
    if width not in (None, router.config.dim):
        raise ValueError(
            f"The router is {router.config.dim} wide, but the video tokens of {type(transformer).__name__} are "
            f"{width}: use a router made for it, such as LocalRouter(dim={width})."
        )
    if names is None:
        count = router.config.num_components
        names = FACIAL_COMPONENTS if count == len(FACIAL_COMPONENTS) else [f"component_{i}" for i in range(count)]
    if len(names) != router.config.num_components:
        raise ValueError(
            f"{len(names)} names for the router's {router.config.num_components} components: give one each."
        )

    registry = getattr(block, "_diffusers_hook", None)
    hook = registry and registry.get_hook(ROUTER_HOOK)
    if hook is not None and any(handle.router is router for handle in hook.handles):
        raise ValueError(
            f"This router is attached to block {block_idx} already: detach it first, or attach another one."
        )
    if hook is not None and hook.stream != stream:
        raise ValueError(f"stream is {stream}, but a router on block {block_idx} says {hook.stream}: say the same.")
    device = weights_device(block)
    if device is not None:
        router.to(device)
    handle = RouterHandle(router, transformer, block_idx, host, names)
    if hook is None:
        hook = StreamHook(stream)
        insert_innermost(block, hook, ROUTER_HOOK)
    hook.handles.append(handle)
    return handle
