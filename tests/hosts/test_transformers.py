"""The router on every transformer that is described, of the real class at a tiny size."""

import functools
import inspect
import itertools
import math

import diffusers
import pytest
import torch
from diffusers.models import transformers
from support import tiny
from support.hosts import cogvideox_family as cogvideox
from support.hosts import cosmos_family as cosmos
from support.hosts import hunyuan_family as hunyuan
from support.hosts import ltx_family as ltx
from support.hosts import table
from support.hosts import wan_family as wan
from torch import Tensor, nn

from lavieid_adapters import attach
from lavieid_adapters.hosts.host import find_blocks, find_stream, registered_stream, token_width
from lavieid_adapters.hosts.host_table import HOSTS, NOT_HOSTS, find_host
from lavieid_adapters.hosts.pipeline_table import NOT_PIPELINES, PIPELINES

# Builder → the clip's grid, its first token, and the tokens of the whole stream.
MODELS = {
    cogvideox.cogvideox: ((3, 4, 6), 0, 72),
    cogvideox.consisid: ((3, 4, 6), 0, 72),
    cosmos.cosmos: ((3, 4, 6), 0, 72),
    cosmos.cosmos_controlled: ((3, 4, 6), 0, 72),
    cosmos.cosmos_frames: ((3, 4, 6), 0, 72),
    cosmos.helios: ((3, 4, 6), 56, 128),
    cosmos.helios_alone: ((3, 4, 6), 0, 72),
    cosmos.sana_video: ((3, 4, 6), 0, 72),
    cosmos.sana_video_tokens: ((3, 4, 6), 0, 72),
    cosmos.sana_wm: ((3, 4, 6), 0, 72),
    hunyuan.easyanimate: ((3, 4, 6), 0, 72),
    hunyuan.easyanimate_inpaint: ((3, 4, 6), 0, 72),
    hunyuan.framepack: ((3, 4, 6), 62, 134),
    hunyuan.hunyuan_video: ((3, 4, 6), 0, 72),
    hunyuan.hunyuan_video_latent_concat: ((3, 4, 6), 0, 72),
    hunyuan.hunyuan_video_token_replace: ((3, 4, 6), 0, 72),
    hunyuan.hunyuan_video15: ((3, 4, 6), 0, 72),
    hunyuan.kandinsky5: ((3, 4, 6), 0, 72),
    hunyuan.kandinsky5_cond: ((3, 4, 6), 0, 72),
    hunyuan.kandinsky5_nabla: ((2, 8, 16), 0, 256),
    hunyuan.kandinsky6: ((3, 4, 6), 0, 72),
    hunyuan.motif_video: ((3, 4, 6), 0, 72),
    ltx.allegro: ((3, 4, 6), 0, 72),
    ltx.latte: ((3, 4, 6), 0, 72),
    ltx.ltx: ((3, 4, 6), 0, 72),
    ltx.ltx2: ((3, 4, 6), 0, 72),
    ltx.mochi: ((3, 4, 6), 0, 72),
    wan.anyflow: ((3, 4, 6), 0, 72),
    wan.chronoedit: ((3, 4, 6), 0, 72),
    wan.skyreels: ((3, 4, 6), 0, 72),
    wan.skyreels_forcing: ((3, 4, 6), 0, 72),
    wan.wan: ((3, 4, 6), 0, 72),
    wan.wan_animate: ((2, 4, 6), 24, 72),
    wan.wan_expand_timesteps: ((3, 4, 6), 0, 72),
    wan.wan_i2v: ((3, 4, 6), 0, 72),
    wan.wan_vace: ((3, 4, 6), 0, 72),
}
BUILDERS = pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
cached = functools.cache(lambda build: build())


def first(output) -> Tensor:
    return output[0] if isinstance(output, tuple) else getattr(output, "sample", output)


@torch.no_grad()
def run(model: nn.Module, inputs: dict) -> Tensor:
    torch.manual_seed(0)
    return first(model(**inputs))


def router_of(model: nn.Module) -> nn.Module:
    return tiny.router(dim=token_width(model, find_host(model)))


def attached(model: nn.Module, router: nn.Module, block_idx: int = 0):
    handle = attach(router, model, block_idx)
    handle.set_tokens(tiny.tokens())
    return handle


def flat(stream: Tensor) -> Tensor:
    """Latte's (b · f, h · w, d) as (b, n, d) of the batch of 2."""
    return stream.reshape(2, -1, stream.shape[-1])


def trace(model: nn.Module) -> list:
    """All that an attached router could leave behind."""
    return [
        (name, set(vars(module)), inspect.signature(module.forward), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]


def test_every_host_has_a_model_here():
    assert {type(cached(build)[0]).__name__ for build in MODELS} == set(HOSTS)


def test_a_stream_is_said_of_the_blocks_that_diffusers_does_not_know_and_of_no_others():
    known = {name: set() for name in HOSTS}
    for build in MODELS:
        model, _ = cached(build)
        known[type(model).__name__] |= {registered_stream(block) for block in find_blocks(model, find_host(model))}
    for name, host in HOSTS.items():
        assert (known[name] == {None}) == (host.stream is not None), name
        assert len(known[name]) == 1, name  # a host that says it says it of all its lists


@BUILDERS
def test_fresh_router_changes_nothing_and_detach_leaves_no_trace(build):
    model, inputs = cached(build)
    base, keys, before = run(model, inputs), list(model.state_dict()), trace(model)
    router = router_of(model)
    with attached(model, router):
        changed = run(model, inputs)
        assert not torch.equal(changed, base)
        assert torch.isfinite(changed).all()
        assert list(model.state_dict()) == keys
        nn.init.zeros_(router.cross_attention.to_out.weight)
        assert torch.equal(run(model, inputs), base)
    assert torch.equal(run(model, inputs), base)
    assert list(model.state_dict()) == keys
    assert trace(model) == before


@BUILDERS
def test_steers_the_clips_tokens_after_every_block_and_nothing_else(build):
    model, inputs = cached(build)
    host, (grid, start, total), router = find_host(model), MODELS[build], router_of(model)
    count = math.prod(grid)
    for i, block in enumerate(find_blocks(model, host)):
        left, stream = [], find_stream(block, host)
        watch = block.register_forward_hook(lambda block, args, output, left=left: left.append(output))
        with attached(model, router, i) as handle, handle.record_stream() as streams:
            run(model, inputs)
            with handle.disabled():
                run(model, inputs)
        watch.remove()
        steered, plain = (output if isinstance(output, tuple) else (output,) for output in left)
        said = table.OUTPUTS.get(type(model).__name__, ("video",))
        assert len(plain) == len(said) and said[stream] == "video"
        for index, (with_router, without) in enumerate(zip(steered, plain, strict=True)):
            if index != stream:
                assert with_router is without is None or torch.equal(with_router, without)
        with_router, without = flat(steered[stream]), flat(plain[stream])
        assert with_router.shape[1] == total
        clip = slice(start, start + count)
        torch.testing.assert_close(with_router[:, clip], router(without[:, clip], tiny.tokens(1)))
        assert not torch.equal(with_router[:, clip], without[:, clip])
        assert torch.equal(with_router[:, :start], without[:, :start])
        assert torch.equal(with_router[:, clip.stop :], without[:, clip.stop :])
        assert torch.equal(streams[0], without[:, clip])


@BUILDERS
def test_positional_arguments_are_read_as_keywords_are(build):
    model, inputs = cached(build)
    names = [name for name in inspect.signature(type(model).forward).parameters if name in inputs]
    parameters = list(inspect.signature(type(model).forward).parameters)[1:]
    leading = [name for name, other in zip(names, parameters, strict=False) if name == other]
    assert leading
    rest = {name: value for name, value in inputs.items() if name not in leading}
    with attached(model, router_of(model)) as handle, handle.record_routes() as routes, torch.no_grad():
        torch.manual_seed(0)
        by_position = first(model(*(inputs[name] for name in leading), **rest))
        assert torch.equal(by_position, run(model, inputs))
    assert torch.equal(*routes)


@BUILDERS
def test_route_maps_show_where_a_token_of_the_latents_is(build):
    model, inputs = cached(build)
    grid, start, _ = MODELS[build]
    f, h, w = 1, 2, 3
    if build is hunyuan.kandinsky5_nabla:
        h, w = 2, 11
    moved = inputs["hidden_states"].clone()
    if moved.ndim == 3:
        moved[:, (f * grid[1] + h) * grid[2] + w] += 3
    else:
        rows, columns = slice(2 * h, 2 * h + 2), slice(2 * w, 2 * w + 2)
        size = model.config.patch_size
        if (size if isinstance(size, int) else size[1]) == 1:
            rows, columns = h, w
        behind = f + (build is wan.wan_animate)
        layout = {"bfchw": (slice(None), behind, slice(None), rows, columns), "bfhwc": (slice(None), f, rows, columns)}
        names = {cogvideox.cogvideox: "bfchw", cogvideox.consisid: "bfchw", wan.anyflow: "bfchw"}
        kandinsky = build.__name__.startswith("kandinsky")
        other = (slice(None), slice(None), behind, rows, columns)
        moved[layout.get("bfhwc" if kandinsky else names.get(build), other)] += 3
    entering = []

    def enter(block, args, kwargs):
        stream = next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.ndim == 3)
        entering.append(flat(stream.detach().clone())[:, start:])

    block = find_blocks(model, find_host(model))[0]
    watch = block.register_forward_pre_hook(enter, with_kwargs=True)
    with attached(model, router_of(model)) as handle, handle.record_routes() as routes, torch.no_grad():
        run(model, inputs)
        run(model, {**inputs, "hidden_states": moved})
        order = handle.context.order
        with handle.record_stream() as streams:
            run(model, inputs)
    watch.remove()
    (token,) = (entering[0] != entering[1]).any(-1).any(0).nonzero().flatten().tolist()
    token = token if order is None else int(order[token])
    assert token == (f * grid[1] + h) * grid[2] + w
    assert tuple(routes[0].shape[2:]) == grid
    # A route map is that of the stream, in the grid's order.
    weights = handle.router.route_weights(streams[0], tiny.tokens(1))
    if order is not None:
        weights = torch.empty_like(weights).index_copy_(2, order, weights)
    torch.testing.assert_close(routes[-1].flatten(2), weights)


@BUILDERS
def test_gradient_checkpointing_gives_the_same(build):
    if build is hunyuan.kandinsky5_nabla:
        pytest.skip("flex attention has no backward on a CPU")
    model, inputs = build()
    model.requires_grad_(False).train()
    router, results = router_of(model), []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        with attached(model, router):
            torch.manual_seed(0)
            output = first(model(**inputs))
            results.append((output, *torch.autograd.grad(output.square().mean(), list(router.parameters()))))
    for plain, checkpointed in zip(*results, strict=True):
        torch.testing.assert_close(plain, checkpointed)
    assert results[0][1].norm() > 0


def by_hand() -> Tensor:
    """The row-major number of each token in squares of 8 × 8 of the grid (2, 8, 16)."""
    squares = itertools.product(range(2), range(2), range(8), range(8))
    return torch.tensor([(f * 8 + row) * 16 + square * 8 + column for f, square, row, column in squares])


def test_regions_go_by_the_order_of_the_tokens():
    model, inputs = cached(hunyuan.kandinsky5_nabla)
    left = torch.zeros(8, 16)
    left[:, :5] = 1
    streams = []
    block = find_blocks(model, find_host(model))[0]
    watch = block.register_forward_hook(lambda block, args, output: streams.append(output))
    with attach(router_of(model), model) as handle:
        handle.set_tokens(tiny.tokens(1), regions=[left])
        run(model, inputs)
        with handle.disabled():
            run(model, inputs)
    watch.remove()
    changed = (streams[0] != streams[1]).any(-1)[0]
    in_grid = torch.empty_like(changed).index_copy_(0, by_hand(), changed).view(2, 8, 16)
    assert torch.equal(in_grid, left.bool().expand(2, -1, -1))


def test_a_forward_that_does_not_tell_where_the_clip_is_is_refused():
    model, inputs = cached(ltx.ltx2)
    coordinates = model.rope.prepare_video_coords(2, 3, 4, 6, inputs["hidden_states"].device)
    inputs = {k: v for k, v in inputs.items() if k not in ("num_frames", "height", "width")}
    inputs |= {"video_coords": coordinates}
    base = run(model, inputs)
    with attach(router_of(model), model) as handle:
        with pytest.warns(UserWarning, match="no identity"):
            assert torch.equal(run(model, inputs), base)
        handle.set_tokens(tiny.tokens())
        with pytest.raises(ValueError, match="does not tell where in its stream the video is"):
            run(model, inputs)
        with handle.disabled():
            assert torch.equal(run(model, inputs), base)


def test_a_forward_past_the_object_that_the_router_is_attached_to_is_refused():
    model, inputs = cosmos.helios()
    handle = attach(router_of(model), torch.compile(model))
    handle.set_tokens(tiny.tokens())
    with pytest.raises(ValueError, match="Call it by the object that the router is attached to"):
        model(**inputs)


@pytest.mark.parametrize(("build", "inside"), [(wan.wan, 300.0), (ltx.mochi, 700.0)])
def test_a_window_without_a_pipeline_goes_by_the_timesteps_direction(build, inside):
    model, inputs = cached(build)
    outside = 1000 - inside
    with attached(model, router_of(model)) as handle:
        handle.start = 0.5
        for timestep, acts in ((inside, True), (outside, False)):
            now = {**inputs, "timestep": torch.full((2,), timestep)}
            steered = run(model, now)
            with handle.disabled():
                assert torch.equal(run(model, now), steered) != acts


def test_a_window_of_cosmos_needs_a_pipeline():
    model, inputs = cached(cosmos.cosmos)
    with attached(model, router_of(model)) as handle:
        handle.start = 0.5
        with pytest.raises(ValueError, match="a pipeline where these do not tell the progress"):
            run(model, inputs)


@pytest.mark.parametrize("name", NOT_HOSTS)
def test_what_is_left_out_is_refused_with_its_reason(name):
    model = getattr(diffusers, name).__new__(getattr(diffusers, name))
    nn.Module.__init__(model)
    with pytest.raises(ValueError, match=f"{name} is not supported: {NOT_HOSTS[name]}"):
        find_host(model)


# Transformers that make no video. A class that a new diffusers brings must be put here, into HOSTS or into NOT_HOSTS.
OTHERS = {
    "AceStepTransformer1DModel", "AuraFlowTransformer2DModel", "BriaFibo2Transformer2DModel",
    "BriaFiboTransformer2DModel", "BriaTransformer2DModel", "ChromaTransformer2DModel",
    "CogView3PlusTransformer2DModel", "CogView4Transformer2DModel", "DiTTransformer2DModel",
    "DreamLiteTransformer2DModel", "DualTransformer2DModel", "ErnieImageTransformer2DModel",
    "Flux2Transformer2DModel", "Flux3Transformer2DModel", "FluxTransformer2DModel", "GlmImageTransformer2DModel",
    "HiDreamImageTransformer2DModel", "HunyuanDiT2DModel", "HunyuanImageTransformer2DModel",
    "Ideogram4Transformer2DModel", "Krea2Transformer2DModel", "LongCatAudioDiTTransformer",
    "LongCatImageTransformer2DModel", "Lumina2Transformer2DModel", "LuminaNextDiT2DModel",
    "MiniMaxMusic3RVQDepthDecoder", "MiniMaxMusic3Transformer1DModel", "NucleusMoEImageTransformer2DModel",
    "OmniGenTransformer2DModel", "OvisImageTransformer2DModel", "PRXTransformer2DModel", "PixArtTransformer2DModel",
    "PriorTransformer", "QwenImage21Transformer2DModel", "QwenImageTransformer2DModel", "RFD4ProteinaTransformer",
    "SD3Transformer2DModel", "SanaTransformer2DModel", "StableAudio3DiTModel", "StableAudioDiTModel",
    "T5FilmDecoder", "Transformer2DModel", "TransformerTemporalModel", "ZImageTransformer2DModel",
}  # fmt: skip


def exported() -> set[str]:
    return {name for name, value in vars(transformers).items() if inspect.isclass(value)}


def test_every_transformer_of_diffusers_is_sorted():
    video = set(HOSTS) | set(NOT_HOSTS)
    assert not video & OTHERS
    assert exported() == video | OTHERS


def models_of(pipeline: type) -> str:
    """What a pipeline says of the classes of its transformers; a modular one says it of all its components."""
    if not issubclass(pipeline, diffusers.ModularPipeline):
        return str(inspect.signature(pipeline.__init__).parameters.get("transformer"))
    blocks = getattr(diffusers, pipeline.default_blocks_name or "", diffusers.ModularPipelineBlocks)()
    return str([component.type_hint for component in blocks.expected_components])


def test_every_pipeline_with_a_host_is_sorted():
    found = set()
    for name in dir(diffusers):
        value = getattr(diffusers, name) if name.endswith("Pipeline") else None
        if inspect.isclass(value) and any(host in models_of(value) for host in (*HOSTS, *NOT_HOSTS)):
            found.add(name)
    image = {"JoyImageEditPipeline", "JoyImageEditPlusPipeline"}
    assert found == (set(PIPELINES) | set(NOT_PIPELINES) | image)


def test_the_table_has_a_row_for_every_host():
    rows = table.rows()
    for build in MODELS:
        model, inputs = cached(build)
        latents = next(row["latents"] for row in rows if row["transformer"] == type(model).__name__)
        assert (latents == "packed") == (inputs["hidden_states"].ndim == 3)
    assert [row["transformer"] for row in rows] == list(HOSTS)
    assert {name for row in rows for name in row["pipelines"].split(", ")} == set(PIPELINES)
    # The README says these two of all of them, since a transformer's row is that of its first pipeline.
    modular = [kind for name, kind in PIPELINES.items() if "Modular" in name]
    assert {(kind.passes, kind.seam) for kind in modular} == {(1, "vae.decode")}
