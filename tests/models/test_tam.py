"""TAM against eq. 4 as it is printed, in chunks and streams, and with LoRA, hooks and offloading on its layers."""

import subprocess
import sys

import accelerate
import pytest
import torch
from support import tiny
from support.lora import check_lora, linear_layers

from lavieid_adapters import TAM

# b batch · f frames · c channels · h, w height and width · s patch size


def literal_refine(tam, latents, chunks, beta):
    """Eq. 4 as it is printed, chunk after chunk: (b, f, c, h, w) → the same."""
    s = tam.config.patch_size

    def patchify(x):
        b, f, c, h, w = x.shape
        x = x.reshape(b, f, c, h // s, s, w // s, s)
        return torch.einsum("bfchiwj->bfhwcij", x).reshape(b, f, h // s * (w // s), c * s * s)

    def unpatchify(x, h, w):
        b, f = x.shape[:2]
        x = x.reshape(b, f, h // s, w // s, -1, s, s)
        return torch.einsum("bfhwcij->bfchiwj", x).reshape(b, f, -1, h, w)

    def rope(x, frame):
        """RoFormer's rotation of channel pairs (i, i + d / 2) by frame · 10000^(-2 i / d)."""
        d = x.shape[-1]
        angle = frame[:, None, None] * 10000.0 ** (-torch.arange(0, d, 2, dtype=x.dtype) / d)
        a, b = x[..., : d // 2], x[..., d // 2 :]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)

    def psi(x):
        hidden = tam.to_tokens(patchify(x))
        frame = torch.arange(x.shape[1], dtype=x.dtype).repeat_interleave(hidden.shape[2])
        hidden = hidden.flatten(1, 2)
        for block in tam.psi:
            qkv = block.to_query_key_value(block.norm_attention(hidden))
            query, key, value = qkv.unflatten(-1, (3, block.num_heads, -1)).unbind(dim=2)
            scores = torch.einsum("bnhd,blhd->bhnl", rope(query, frame), rope(key, frame)) / query.shape[-1] ** 0.5
            scores = scores.masked_fill(frame[:, None] < frame, -torch.inf).softmax(dim=-1)
            hidden = hidden + block.to_out(torch.einsum("bhnl,blhd->bnhd", scores, value).flatten(2))
            hidden = hidden + block.feed_forward(block.norm_feed_forward(hidden))
        return hidden

    parts = list(torch.tensor_split(latents, chunks, dim=1))
    refined, out = parts[0], [parts[0]]
    for part in parts[1:]:
        c_k = torch.cat([refined[:, -1:], part], dim=1)
        query = tam.to_tokens(patchify(c_k)).flatten(1, 2)
        b_k = tam.to_latents(tam.phi(query, psi(refined))).unflatten(1, (c_k.shape[1], -1))
        refined = c_k + beta * unpatchify(b_k, *latents.shape[-2:])
        out.append(refined[:, 1:])
    return torch.cat(out, dim=1)


def test_fresh_tam_is_an_exact_no_op():
    latents = tiny.latents()
    assert torch.equal(TAM(latent_channels=4, dim=64, num_layers=2, num_heads=2).refine(latents), latents)
    assert not torch.equal(tiny.tam().refine(latents), latents)


@pytest.mark.parametrize("chunks", [1, 2, 4, 13])
def test_equals_the_literal_formula(chunks):
    tam, latents = tiny.tam().double(), tiny.latents(2, 13, 4, 8, 12).double()
    out = tam.refine(latents, chunks=chunks, beta=0.3)
    assert torch.equal(out, latents) == (chunks == 1)
    torch.testing.assert_close(out, literal_refine(tam, latents, chunks, 0.3), rtol=1e-10, atol=1e-10)


def test_forward_gives_the_gradients_of_the_literal_formula():
    tam, latents = tiny.tam().double(), tiny.latents(1, 7, 4, 4, 4).double().requires_grad_()
    inputs = [latents, *tam.parameters()]
    got = torch.autograd.grad(tam(latents, 3, 0.3).square().sum(), inputs)
    wanted = torch.autograd.grad(literal_refine(tam, latents, 3, 0.3).square().sum(), inputs)
    for a, b in zip(got, wanted, strict=True):
        assert b.norm() > 0
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_thirteen_frames_are_four_three_three_three_and_the_first_chunk_passes_unchanged():
    latents = tiny.latents()
    change = (tiny.tam().refine(latents, chunks=4) - latents).abs().amax(dim=(0, 2, 3, 4))
    assert torch.equal(change[:4], torch.zeros(4))
    assert (change[4:] > 0).all()


@pytest.mark.parametrize("chunks", [1, 4])
def test_with_mirror_first_the_first_chunk_follows_its_frames_in_reverse(chunks):
    tam, latents = tiny.tam(), tiny.latents(2, 13, 4, 8, 12)
    first = latents.tensor_split(chunks, dim=1)[0]
    out = tam.refine(latents, chunks, mirror_first=True)
    change = (out - tam.refine(latents, chunks)).abs().amax(dim=(0, 2, 3, 4))
    assert (change > 0).all()
    assert torch.equal(out, tam.refine(latents, chunks, previous=first.flip(1)))
    assert torch.equal(torch.cat(list(tam.stream(latents.tensor_split(chunks, 1), mirror_first=True)), dim=1), out)
    assert torch.equal(tam.refine(latents.movedim(1, 2), chunks, layout="bcfhw", mirror_first=True).movedim(2, 1), out)
    assert torch.equal(tam.refine(latents, chunks, beta=0, mirror_first=True), latents)
    given = tiny.latents(2, 3, 4, 8, 12) + 1
    behind = tam.refine(latents, chunks, previous=given)
    assert torch.equal(tam.refine(latents, chunks, previous=given, mirror_first=True), behind)


def test_mirror_first_is_kept_with_the_weights_and_can_be_overruled(tmp_path):
    latents = tiny.latents()
    tam = tiny.tam(mirror_first=True)
    tam.save_pretrained(tmp_path)
    again = TAM.from_pretrained(tmp_path)
    assert torch.equal(again.refine(latents), tam.refine(latents, mirror_first=True))
    assert torch.equal(again.refine(latents, mirror_first=False)[:, :4], latents[:, :4])


def test_no_frame_changes_when_a_frame_of_a_later_chunk_does():
    tam, latents = tiny.tam(), tiny.latents()
    before, starts = tam.refine(latents, chunks=4), [0, 4, 7, 10, 13]
    for k in range(1, 4):
        later = latents.clone()
        later[:, starts[k]] += 1
        after = tam.refine(later, chunks=4)
        assert torch.equal(after[:, : starts[k]], before[:, : starts[k]])
        if k < 3:  # a later chunk does depend on it
            assert not torch.equal(after[:, starts[k + 1] :], before[:, starts[k + 1] :])


def test_beta_zero_returns_the_input_bit_for_bit():
    latents = tiny.latents()
    latents[0, 5, 0, 0, 0] = -0.0
    out = tiny.tam().refine(latents, beta=0)
    assert torch.equal(out.view(torch.int32), latents.view(torch.int32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gives_the_dtype_it_takes(dtype):
    out = tiny.tam().refine(tiny.latents().to(dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), tiny.tam().refine(tiny.latents()), rtol=0.05, atol=0.1)


def test_residual_is_added_in_float32():
    tam, beta = tiny.tam(), 0.37
    latents = (tiny.latents() * 50).bfloat16()
    context, current = latents[:, :7], latents[:, 6:]
    with torch.no_grad():
        bias = tam._bias(context, current)
    out = tam.refine(latents, chunks=2, beta=beta)[:, 7:]
    once = (current.float() + beta * bias.float()).bfloat16()[:, 1:]
    twice = (current + beta * bias)[:, 1:]  # the product is rounded as well
    assert not torch.equal(twice, once)
    assert torch.equal(out, once)


def test_both_layouts_give_the_same():
    tam, latents = tiny.tam(), tiny.latents(2, 13, 4, 8, 12)
    out = tam.refine(latents.movedim(1, 2), layout="bcfhw")
    assert out.shape == (2, 4, 13, 8, 12)
    assert torch.equal(out.movedim(1, 2), tam.refine(latents))
    assert torch.equal(tiny.tam(layout="bcfhw").refine(latents.movedim(1, 2)), out)


def test_sides_that_the_patch_does_not_divide_are_padded_and_cropped():
    tam, latents = tiny.tam(), tiny.latents(1, 5, 4, 7, 11)
    out = tam.refine(latents, chunks=2)
    assert out.shape == latents.shape
    padded = torch.nn.functional.pad(latents.flatten(0, 1), (0, 1, 0, 1), mode="replicate").unflatten(0, (1, 5))
    torch.testing.assert_close(out, tam.refine(padded, chunks=2)[..., :7, :11])
    assert not torch.equal(out, latents)


def test_samples_of_a_batch_do_not_mix():
    tam, latents = tiny.tam(), tiny.latents(2, 13, 4, 8, 12)
    both = tam.refine(latents)
    torch.testing.assert_close(both[1:], tam.refine(latents[1:]))
    assert not torch.equal(both, latents)


@pytest.mark.parametrize("chunks", [2, 4, 13])
def test_stream_equals_refine_to_the_bit(chunks):
    tam, latents = tiny.tam(), tiny.latents()
    stream = tam.stream(iter(torch.tensor_split(latents, chunks, dim=1)))
    assert torch.equal(torch.cat(list(stream), dim=1), tam.refine(latents, chunks=chunks))


def test_stream_yields_each_chunk_before_it_asks_for_the_next():
    asked = []

    def source():
        for i, chunk in enumerate(torch.tensor_split(tiny.latents(), 4, dim=1)):
            asked.append(i)
            yield chunk

    for i, _ in enumerate(tiny.tam().stream(source())):
        assert asked == list(range(i + 1))
    assert asked == [0, 1, 2, 3]


def test_previous_carries_the_end_of_one_clip_into_the_next():
    tam, latents = tiny.tam(), tiny.latents(1, 8, 4, 8, 12)
    first = tam.refine(latents[:, :4], chunks=1)
    second = tam.refine(latents[:, 4:], chunks=1, previous=first)
    assert not torch.equal(second, latents[:, 4:])
    whole = tam.refine(latents, chunks=2)
    assert torch.equal(torch.cat([first, second], dim=1), whole)
    assert torch.equal(next(tam.stream([latents[:, 4:]], previous=first)), second)


@pytest.mark.slow
def test_memory_of_a_stream_does_not_grow_with_the_clip():
    script = """
import resource, sys, torch, tiny
tam = tiny.tam(dim=16, num_layers=1, num_heads=1, patch_size=8)
chunk = lambda: torch.randn(1, 1, 4, 64, 64)
def peak(frames):
    for _ in tam.stream(chunk() for _ in range(frames)): pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
peak(4)
short = peak(13)
print(peak(1300) - short, 1300 * chunk().nbytes // 1024)
"""
    path = ":".join(sys.path)
    run = subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": path}, capture_output=True, text=True)
    grown, clip = map(int, run.stdout.split())  # KiB
    assert clip > 80_000
    assert grown < clip / 10


def test_presets_have_their_sizes():
    with torch.device("meta"):
        sizes = {name: round(TAM.from_preset(name).num_parameters() / 1e6) for name in TAM.presets}
    assert sizes == {"cogvideox-5b": 718, "cogvideox-2b": 280, "cogvideox-1024": 80}


@pytest.mark.parametrize("method", ["refine", "stream"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_are_refused(method, value):
    latents = tiny.latents()
    latents[0, 3, 1, 2, 2] = value
    with pytest.raises(ValueError, match="1 NaN or infinite values of 4992"):
        tiny.tam().refine(latents) if method == "refine" else list(tiny.tam().stream([latents]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"latents": torch.ones(1, 5, 4, 8, 8, dtype=torch.int32)}, TypeError, "int32"),
        ({"latents": torch.ones(5, 4, 8, 8)}, ValueError, r"\(5, 4, 8, 8\).*five axes"),
        ({"latents": torch.ones(1, 5, 16, 8, 8)}, ValueError, "16 channels.*built for 4"),
        ({"latents": torch.ones(1, 4, 5, 8, 8)}, ValueError, "layout='bcfhw'"),
        ({"latents": torch.ones(1, 5, 4, 0, 8)}, ValueError, "nothing to refine"),
        ({"chunks": 0}, ValueError, "chunks is 0.*1 to 5"),
        ({"chunks": 6}, ValueError, "chunks is 6, but 5 latent frames"),
        ({"layout": "bhwcf"}, ValueError, "'bhwcf'.*'bfchw', 'bcfhw'"),
        ({"previous": torch.ones(1, 2, 4, 8, 6)}, ValueError, r"\(1, 4, 8, 8\).*\(1, 4, 8, 6\)"),
        ({"previous": torch.full((1, 2, 4, 8, 8), torch.nan)}, ValueError, "NaN"),
        ({"beta": float("nan")}, ValueError, "beta is nan"),
        ({"beta": "x"}, TypeError, "beta is 'x'"),
        ({"beta": True}, TypeError, "beta is True"),
        ({"chunks": 2.5}, TypeError, "chunks is 2.5"),
        ({"chunks": 2.0}, TypeError, "chunks is 2.0"),
        ({"chunks": True}, TypeError, "chunks is True"),
        ({"chunks": "2"}, TypeError, "chunks is '2'"),
        ({"mirror_first": 1}, TypeError, "mirror_first is 1"),
        ({"mirror_first": "no"}, TypeError, "mirror_first is 'no'"),
        ({"layout": 5}, ValueError, "layout is 5"),
        ({"latents": torch.ones(1, 5, 4, 8, 8).to(torch.float8_e4m3fn)}, TypeError, "float8"),
    ],
)
def test_bad_input_is_refused_with_both_values(change, error, message):
    with pytest.raises(error, match=message):
        tiny.tam().refine(**{"latents": torch.ones(1, 5, 4, 8, 8), "chunks": 2, **change})


def test_sizes_that_cannot_be_built_are_refused():
    with pytest.raises(ValueError, match="dim 64 over num_heads 3"):
        tiny.tam(num_heads=3)
    with pytest.raises(ValueError, match="'bfhwc'"):
        tiny.tam(layout="bfhwc")
    for name in ("latent_channels", "patch_size", "dim", "num_layers", "num_heads", "chunks"):
        for value in (0, -2):
            with pytest.raises(ValueError, match=f"{name} is {value}"):
                tiny.tam(**{name: value})
        for value in (2.0, True, "2", None):
            with pytest.raises(TypeError, match=f"{name} is {value!r}"):
                tiny.tam(**{name: value})
    with pytest.raises(ValueError, match="beta is inf"):
        tiny.tam(beta=float("inf"))
    with pytest.raises(TypeError, match="beta is 'x'"):
        tiny.tam(beta="x")
    with pytest.raises(TypeError, match="mirror_first is 1"):
        tiny.tam(mirror_first=1)


def test_lora_on_psi_acts_with_and_without_gradients():
    from peft import LoraConfig, inject_adapter_in_model

    tam, latents = tiny.tam(), tiny.latents()
    plain = tam.refine(latents)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["psi.0.to_out"], init_lora_weights=False), tam)
    out = tam.refine(latents)
    assert not torch.allclose(out, plain)
    torch.testing.assert_close(out, tam(latents).detach())


def test_stream_refuses_a_previous_chunk_that_is_not_finite():
    with pytest.raises(ValueError, match="NaN"):
        next(tiny.tam().stream([tiny.latents()], previous=tiny.latents() * torch.nan))


LAYERS = linear_layers(tiny.tam(num_layers=1))


@pytest.mark.parametrize("layer", LAYERS)
def test_lora_on_every_layer_acts_is_trained_and_merges(layer):
    assert len(LAYERS) == 9
    tam, latents = tiny.tam(num_layers=1).double(), tiny.latents(1, 5, 4, 4, 4).double()
    check_lora(tam, layer, lambda tam: tam(latents, 2, 5.0))


@pytest.mark.parametrize("way", ["cpu_offload", "disk_offload", "dispatch_model"])
def test_offloaded_by_accelerate_it_gives_what_it_gives_without(way, tmp_path):
    tam, latents, cpu = tiny.tam(), tiny.latents(), torch.device("cpu")
    wanted = tam.refine(latents)
    assert (wanted - latents).abs().max() > 0.01
    if way == "cpu_offload":
        accelerate.cpu_offload(tam, cpu)
    elif way == "disk_offload":
        accelerate.disk_offload(tam, tmp_path, cpu)
    else:
        device_map = {"to_tokens": "cpu", "psi": "disk", "phi": "cpu", "to_latents": "cpu"}
        accelerate.dispatch_model(tam, device_map, main_device=cpu, offload_dir=tmp_path, force_hooks=True)
    assert tam.psi[0].to_out.weight.is_meta
    torch.testing.assert_close(tam.refine(latents), wanted)
    with torch.no_grad():
        torch.testing.assert_close(tam(latents), wanted)


def test_a_hook_on_a_layer_of_psi_acts_with_and_without_gradients():
    tam, latents = tiny.tam(), tiny.latents()
    plain = tam.refine(latents)
    tam.psi[1].feed_forward[2].register_forward_hook(lambda module, args, out: 3 * out)
    assert (tam.refine(latents) - plain).abs().max() > 1e-3
    torch.testing.assert_close(tam.refine(latents), tam(latents).detach())


def test_compiles_without_a_graph_break():
    tam, latents = tiny.tam(), tiny.latents(1, 5, 4, 4, 4)
    with torch.no_grad():
        compiled = torch.compile(tam, backend="eager", fullgraph=True)(latents, 2)
        assert not torch.equal(compiled, latents)
        torch.testing.assert_close(compiled, tam.refine(latents, 2))
