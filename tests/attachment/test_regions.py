"""Several people in one video: region masks as they are read, on the token grid, and in the router."""

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline
from PIL import Image
from support import tiny
from support.small_cogvideox import small_components
from support.tiny import NO_GRID, run, wan
from torch._dynamo.testing import CompileCounter

from lavieid_adapters import Host, Identity, attach, attach_lavieid
from lavieid_adapters.attachment.forward_context import ForwardContext
from lavieid_adapters.attachment.regions import check_frames, read_region, token_regions
from lavieid_adapters.models import kernels

GRID = (3, 4, 6)  # of the video tokens of `tiny.transformer_inputs`
MASK = np.zeros((4, 6), bool)
MASK[1:3, :2] = True


@pytest.fixture
def model():
    return tiny.transformer(**NO_GRID)


def halves() -> list[torch.Tensor]:
    """Two regions on the token grid; the two columns in the middle are in neither."""
    left, right = torch.zeros(4, 6), torch.zeros(4, 6)
    left[:, :2], right[:, 4:] = 1, 1
    return [left, right]


def streams_of(model) -> list[torch.Tensor]:
    """The video stream after the first block, of every forward from now on."""
    streams = []
    model.transformer_blocks[1].register_forward_pre_hook(
        lambda module, args, kwargs: streams.append(kwargs["hidden_states"].clone()), with_kwargs=True
    )
    return streams


def per_token(region, batch: int = 1) -> torch.Tensor:
    """A mask (h, w) or (f, h, w) on the token grid as (b, n, 1) of bool."""
    return torch.as_tensor(region).expand(GRID).flatten()[None, :, None].expand(batch, -1, -1).bool()


def test_a_region_is_read_from_images_files_arrays_and_tensors(tmp_path):
    Image.fromarray(MASK).save(tmp_path / "mask.png")
    Image.fromarray(MASK).convert("RGB").save(tmp_path / "colours.png")
    for source in (
        MASK, MASK.astype(np.uint8) * 255, MASK.astype(np.float64), MASK.astype(np.int64), torch.tensor(MASK),
        torch.tensor(MASK).bfloat16(), torch.tensor(MASK).float().requires_grad_(), Image.fromarray(MASK),
        Image.fromarray(MASK).convert("L"), Image.fromarray(MASK).convert("RGB"), tmp_path / "mask.png",
        str(tmp_path / "mask.png"), tmp_path / "colours.png", MASK[None],
    ):  # fmt: skip
        region = read_region(source)
        assert region.dtype == torch.float32 and not region.requires_grad
        assert torch.equal(region, torch.tensor(MASK)[None].float())


def test_a_region_may_be_soft_and_differ_between_frames():
    soft = np.linspace(0, 1, 24).reshape(4, 6)
    torch.testing.assert_close(read_region(soft)[0].double(), torch.tensor(soft), atol=1e-6, rtol=0)
    grey = (soft * 255).astype(np.uint8)
    torch.testing.assert_close(read_region(Image.fromarray(grey)), torch.tensor(grey)[None] / 255)
    frames = np.stack([soft, 1 - soft, soft * 0])
    assert read_region(frames).shape == (3, 4, 6)
    torch.testing.assert_close(read_region(frames)[1].double(), torch.tensor(1 - soft), atol=1e-6, rtol=0)


def test_mirrored_and_read_only_arrays_are_read():
    assert torch.equal(read_region(MASK[:, ::-1])[0], torch.tensor(MASK).flip(1).float())
    assert torch.equal(read_region(np.asarray(Image.fromarray(MASK).convert("L")))[0], torch.tensor(MASK).float())


def test_a_region_does_not_change_with_the_callers_array():
    for source in (MASK.astype(np.float32), torch.tensor(MASK).float(), MASK.astype(np.uint8) * 255):
        region = read_region(source)
        source[:] = 0
        assert torch.equal(region[0], torch.tensor(MASK).float())


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ([[0, 1]], TypeError, "region is a list, but must be an image, an array or a tensor"),
        (None, TypeError, "NoneType"),
        (np.ones(6), ValueError, r"shape \(6,\), but must be \(height, width\) or \(frames, height, width\)"),
        (np.ones((1, 2, 3, 4)), ValueError, r"shape \(1, 2, 3, 4\)"),
        (np.full((4, 6), 2.0), ValueError, "must lie in 0 to 1, but this one has 2 to 2"),
        (MASK.astype(np.int64) * 255, ValueError, "0 to 255"),
        (MASK - 0.5, ValueError, "-0.5 to 0.5"),
        (MASK * np.nan, ValueError, "0 to 1"),
        (~MASK & MASK, ValueError, "empty, so that its person would be nowhere"),
        (np.zeros((0, 6)), ValueError, "empty"),
        (Image.new("L", (6, 4)), ValueError, "empty"),
    ],
)
def test_what_is_no_region_is_refused(source, error, message):
    with pytest.raises(error, match=message):
        read_region(source)


def test_files_that_hold_no_region_are_refused(tmp_path):
    (tmp_path / "text.png").write_text("left")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        read_region(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"text\.png"):
        read_region(tmp_path / "text.png")


def test_a_tokens_share_is_the_mean_over_its_pixels():
    pixels = torch.rand(1, 64, 96, generator=torch.Generator().manual_seed(0))
    shares = token_regions([pixels, 1 - pixels], GRID, 72)
    assert shares.shape == (2, 72) and shares.std() > 0.01
    by_hand = pixels.unflatten(2, (6, 16)).unflatten(1, (4, 16)).mean((2, 4)).expand(GRID).flatten()
    torch.testing.assert_close(shares[0], by_hand)
    torch.testing.assert_close(shares[1], 1 - by_hand)


@pytest.mark.parametrize("size", [(4, 6), (1, 1), (2, 3), (5, 7), (480, 720)])
def test_a_mask_of_any_size_fits_the_grid(size):
    left = torch.zeros(1, *size)
    left[:, :, : max(1, size[1] // 2)] = 1
    share = token_regions([left], GRID, 72)[0].unflatten(0, GRID)
    assert (share[:, :, :2] == 1).all()
    assert share.min() >= 0 and (size == (1, 1)) == bool(share[:, :, -1].all())


def test_a_mask_for_each_frame_goes_to_the_tokens_of_its_frame():
    frames = torch.zeros(3, 4, 6)
    frames[1, 2, 3] = 1
    static = torch.ones(1, 4, 6)
    shares = token_regions([frames, static], GRID, 72)
    assert torch.equal(shares[0].unflatten(0, GRID), frames)
    assert torch.equal(shares[1], torch.ones(72))
    for count in (2, 4):
        with pytest.raises(ValueError, match=rf"region has {count} frames, but the video tokens have 3. Give one mask"):
            token_regions([static, torch.ones(count, 4, 6)], GRID, 72)
    check_frames([frames, static], 3)


def test_without_a_known_grid_masks_are_of_its_size():
    frames = torch.rand(3, 4, 6)
    assert torch.equal(token_regions([frames, 1 - frames], None, 72), torch.stack([frames, 1 - frames]).flatten(1))
    for regions in ([torch.ones(1, 4, 6)], [frames, torch.ones(1, 4, 18)], [torch.ones(3, 8, 12)]):
        with pytest.raises(ValueError, match=r"not known.*\(.*\) do not fit its 72 tokens. Give each as \(frames,"):
            token_regions(regions, None, 72)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_each_person_stays_in_their_region_exactly(model, batch):
    streams, two, router = streams_of(model), tiny.tokens(2), tiny.router()
    base = run(model, batch)
    with attach(router, model) as handle:
        for i in range(2):
            handle.set_tokens(two[i])
            run(model, batch)
        handle.set_tokens(two, regions=halves())
        out = run(model, batch)
    assert not torch.equal(out, base)
    host, *alone, both = streams
    left, right = (per_token(region, batch) for region in halves())
    assert (alone[0] != host).any(-1).all() and (alone[0] != alone[1]).any(-1).all()
    torch.testing.assert_close(both, torch.where(left, alone[0], torch.where(right, alone[1], host)))
    # To the last bit: folding two identities together rounds otherwise than folding them one by one.
    folded = router.fold(two)
    alone = [router.apply_folded(host, folded.select(slice(i, i + 1))) for i in range(2)]
    assert torch.equal(both, torch.where(left, alone[0], torch.where(right, alone[1], host)))


def test_overlapping_soft_regions_add_up(model):
    streams, two, generator = streams_of(model), tiny.tokens(2), torch.Generator().manual_seed(0)
    soft = torch.rand(2, 4, 6, generator=generator)
    run(model, 2)
    router = tiny.router()
    with attach(router, model) as handle:
        handle.set_tokens(two, regions=list(soft))
        run(model, 2)
    host, both = streams
    alone = [router(host, two[i : i + 1]) - host for i in range(2)]
    wanted = sum(soft[i].expand(GRID).flatten()[None, :, None] * alone[i] for i in range(2))
    assert wanted.norm() > 0.01 * host.norm()
    assert (wanted - alone[0]).norm() > 0.1 * wanted.norm()
    torch.testing.assert_close(both - host, wanted, rtol=1e-3, atol=1e-4)


def test_the_router_alone_takes_regions_and_adds_them_up():
    router, z, two = tiny.router().double(), torch.randn(2, 30, tiny.DIM).double() * 2 + 3, tiny.tokens(2).double()
    regions = torch.rand(2, 30).double()
    one, other = (router.fold(two[i : i + 1]) for i in range(2))
    out = router.apply_folded(z, one, region=regions[:1])
    alone = [router.apply_folded(z, folded) - z for folded in (one, other)]
    assert (alone[0] - alone[1]).norm() > 0.1 * alone[0].norm()
    torch.testing.assert_close(out - z, regions[0, :, None] * alone[0])
    out = router.apply_folded(z, other, region=regions[1:], onto=out)
    torch.testing.assert_close(out - z, regions[0, :, None] * alone[0] + regions[1, :, None] * alone[1])
    each = router.apply_folded(z, router.fold(two), region=regions)  # a region and an identity for each sample
    torch.testing.assert_close(each[0], (router.apply_folded(z, one, region=regions[:1]))[0])
    torch.testing.assert_close(each[1], (router.apply_folded(z, other, region=regions[1:]))[1])


def test_a_region_scales_the_route_weights():
    router, z = tiny.router(), torch.randn(2, 30, tiny.DIM)
    folded, region = router.fold(tiny.tokens(1)), torch.linspace(0, 1, 30)[None]
    whole, part = router.folded_weights(z, folded), router.folded_weights(z, folded, region)
    assert whole.min() > 0
    torch.testing.assert_close(part, whole * region)


def test_one_person_in_one_region(model):
    streams = streams_of(model)
    run(model, 2)
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens())
        run(model, 2)
        for tokens in (tiny.tokens(), tiny.tokens(1)):
            handle.set_tokens(tokens, regions=halves()[:1])
            run(model, 2)
    host, everywhere, *parts = streams
    for part in parts:
        assert torch.equal(part, torch.where(per_token(halves()[0], 2), everywhere, host))
        assert not torch.equal(part, everywhere) and not torch.equal(part, host)


def test_a_person_may_move_between_frames(model):
    streams, frames = streams_of(model), torch.zeros(3, 4, 6)
    frames[0, :, :2], frames[1, :, 2:4], frames[2, 1, 5] = 1, 1, 1
    run(model)
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens())
        run(model)
        handle.set_tokens(tiny.tokens(2), regions=[frames, halves()[1]])
        run(model)
        handle.set_tokens(tiny.tokens(1), regions=[frames])
        run(model)
    host, everywhere, two, one = streams
    inside = per_token(frames)
    assert torch.equal(one, torch.where(inside, everywhere, host))
    assert not torch.equal(two, one)
    outside = ~(inside | per_token(halves()[1]))[..., 0]
    assert outside.any() and torch.equal(two[outside], host[outside])


def test_masks_of_the_videos_pixels(model):
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens(2), regions=halves())
        wanted = run(model)
        large = [np.kron(region.numpy(), np.ones((16, 16))) for region in halves()]
        handle.set_tokens(tiny.tokens(2), regions=large)
        assert torch.equal(run(model), wanted)
        handle.set_tokens(tiny.tokens(2), regions=[large[0], np.roll(large[1], 8, axis=1)])
        assert not torch.equal(run(model), wanted)


def test_frames_that_do_not_fit_are_refused_before_the_first_block(model):
    reached = []
    model.transformer_blocks[0].register_forward_pre_hook(lambda module, args: reached.append(True))
    with attach(tiny.router(), model, block_idx=2) as handle:
        handle.set_tokens(tiny.tokens(2), regions=[halves()[0].expand(5, -1, -1), halves()[1]])
        with pytest.raises(ValueError, match="region has 5 frames, but the video tokens have 3"):
            run(model)
        assert not reached
        handle.set_tokens(tiny.tokens(2), regions=[halves()[0].expand(3, -1, -1), halves()[1]])
        run(model)
        assert reached


def test_bad_regions_are_refused_and_what_was_set_stays(model):
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens(2), regions=halves())
        before = run(model)
        for regions, error, message in (
            (halves()[:1], ValueError, "1 regions for 2 identities. Give one for each"),
            ([*halves(), MASK], ValueError, "3 regions for 2 identities"),
            ([], ValueError, "0 regions for 2 identities"),
            ([halves()[0], "nowhere.png"], FileNotFoundError, "nowhere"),
            ([halves()[0], halves()[1] * 0], ValueError, "empty"),
            ([halves()[0], 7], TypeError, "int"),
        ):
            with pytest.raises(error, match=message):
                handle.set_tokens(tiny.tokens(2), regions=regions)
        assert torch.equal(run(model), before)


def test_regions_are_set_and_taken_back(model):
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens())
        whole = run(model, 2)
        handle.set_tokens(tiny.tokens(), regions=halves()[:1])
        assert not torch.equal(run(model, 2), whole)
        handle.set_tokens(tiny.tokens())
        assert torch.equal(run(model, 2), whole)
        handle.set_tokens(tiny.tokens(2))
        a_prompt_each = run(model, 2)
        handle.set_tokens(tiny.tokens(2), regions=halves())
        assert not torch.equal(run(model, 2), a_prompt_each)
        run(model, 3)  # which two prompts would not fit
        handle.set_tokens(tiny.tokens(2))
        assert torch.equal(run(model, 2), a_prompt_each)


def test_strength_and_masked_components_hold_within_regions(model):
    base, streams = run(model), streams_of(model)
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens(2), regions=halves())
        full = run(model)
        handle.scale = 0
        assert torch.equal(run(model), base)
        handle.scale = 1
        mask = torch.ones(2, 6, dtype=torch.bool)
        mask[1, 2] = False
        handle.set_tokens(tiny.tokens(2), mask, regions=halves())
        assert not torch.equal(run(model), full)
    first, *_, masked = streams
    left, right = (per_token(region) for region in halves())
    assert torch.equal(torch.where(left, masked, 0), torch.where(left, first, 0))  # of the other person's mask
    assert not torch.equal(torch.where(right, masked, 0), torch.where(right, first, 0))


@pytest.mark.parametrize("batch", [1, 2])
def test_recorded_routes_are_zero_outside_the_regions(model, batch):
    regions = [halves()[0] * 0.5, halves()[1]]
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens())
        with handle.record_routes() as everywhere:
            run(model, batch)
        handle.set_tokens(tiny.tokens(2), regions=regions)
        with handle.record_routes() as routes:
            run(model, batch)
    assert routes[0].shape == (batch, 6, *GRID)
    assert everywhere[0].min() > 0
    assert (routes[0][..., 2:4] == 0).all() and routes[0][..., :2].min() > 0
    torch.testing.assert_close(routes[0].sum(1), (regions[0] + regions[1]).expand(batch, *GRID))
    torch.testing.assert_close(routes[0][..., :2], everywhere[0][..., :2] * 0.5)


def test_gradients_flow_within_the_regions(model):
    router, tokens = tiny.router(), tiny.tokens(2).requires_grad_()
    model.requires_grad_(False)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        with attach(router, model) as handle:
            handle.set_tokens(tokens, regions=halves())
            loss = model(**tiny.transformer_inputs(2)).sample.square().mean()
            gradients.append(torch.autograd.grad(loss, [tokens, *router.parameters()]))
    assert (gradients[0][0].flatten(1).norm(dim=1) > 0).all()
    for plain, checkpointed in zip(*gradients, strict=True):
        assert plain.norm() > 0
        torch.testing.assert_close(plain, checkpointed)


def test_gradients_of_regions_are_right():
    router, two, region = tiny.router().double(), tiny.tokens(2).double().requires_grad_(), torch.rand(2, 5).double()
    z = torch.randn(1, 5, tiny.DIM, dtype=torch.float64, requires_grad=True)

    def both(z, two):
        folded = router.fold(two)
        out = router.apply_folded(z, folded.select(slice(0, 1)), region=region[:1])
        return router.apply_folded(z, folded.select(slice(1, 2)), region=region[1:], onto=out)

    direction = torch.randn(z.shape, dtype=torch.float64)
    got = torch.autograd.grad(both(z, two), [z, two], direction)
    moves = [torch.randn_like(z), torch.randn_like(two)]
    with torch.no_grad():
        step = 1e-5
        ahead, behind = (both(z + s * moves[0], two + s * moves[1]) for s in (step, -step))
    numeric = ((ahead - behind) * direction).sum() / (2 * step)
    torch.testing.assert_close(sum((g * m).sum() for g, m in zip(got, moves, strict=True)), numeric, rtol=1e-6, atol=0)


def test_a_compiled_host_takes_regions_and_new_ones_without_recompiling(model):
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    with attach(tiny.router(), model) as handle:
        handle.set_tokens(tiny.tokens(2), regions=halves())
        first = run(compiled)
        torch.testing.assert_close(first, run(model))
        graphs = counter.frame_count
        handle.set_tokens(tiny.tokens(2), regions=halves()[::-1])
        second = run(compiled)
        assert not torch.allclose(second, first)
        torch.testing.assert_close(second, run(model))
        assert counter.frame_count == graphs


def test_a_host_whose_grid_is_not_known_takes_masks_of_its_grid():
    model = wan()
    inputs = {
        "hidden_states": torch.randn(1, 4, 3, 8, 8),
        "encoder_hidden_states": torch.randn(1, 5, 32),
        "timestep": torch.tensor([500]),
    }
    left = torch.zeros(3, 4, 4)
    left[:, :, :2] = 1
    streams = []
    with torch.no_grad(), attach(tiny.router(), model, host=Host("blocks")) as handle:
        model.blocks[1].register_forward_pre_hook(lambda module, args: streams.append(args[0].clone()))
        with handle.disabled():
            model(**inputs)
        handle.set_tokens(tiny.tokens())
        model(**inputs)
        handle.set_tokens(tiny.tokens(2), regions=[left, 1 - left])
        model(**inputs)
        handle.set_tokens(tiny.tokens(2), regions=[left[0], 1 - left[0]])
        with pytest.raises(ValueError, match=r"not known.*48 tokens. Give each as \(frames, height, width\)"):
            model(**inputs)
    host, first, both = streams[:3]
    inside = left.flatten()[None, :, None].bool()
    torch.testing.assert_close(torch.where(inside, both, 0), torch.where(inside, first, 0))
    assert not torch.allclose(both, first) and not torch.equal(first, host)


def test_the_pipelines_adapters_take_regions():
    pipe = CogVideoXPipeline(**small_components())
    people = [Identity(tiny.tokens(seed=i)) for i in range(2)]
    with attach_lavieid(pipe, tiny.router()) as lavieid:
        handle = lavieid.handle
        lavieid.set_identity(people, regions=halves())
        hidden_states, handle.context = torch.randn(2, 72, tiny.DIM), ForwardContext(GRID)
        out = handle.steer(hidden_states.clone())
        handle.set_tokens(torch.stack([person.tokens for person in people]), regions=halves())
        assert torch.equal(handle.steer(hidden_states.clone()), out)
        assert not torch.equal(out, hidden_states)
        with pytest.raises(ValueError, match="1 regions for 2 identities"):
            lavieid.set_identity(people, regions=halves()[:1])


@pytest.mark.skipif(kernels.triton is None, reason="Triton is not installed")
@pytest.mark.parametrize("batch", [1, 2])
def test_the_kernels_with_regions_equal_the_plain_form(batch):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype, bound = (torch.bfloat16, 0.02) if device == "cuda" else (torch.float32, 1e-5)
    router, generator = tiny.router(tokens_per_component=16).to(device), torch.Generator().manual_seed(0)
    z = (torch.randn(batch, 70, tiny.DIM, generator=generator) + 3).to(device, dtype)
    two = torch.randn(2, 6, 16, tiny.TOKEN_DIM, generator=generator).to(device)
    regions = torch.rand(2, 70, generator=generator).to(device)
    regions[:, :20] = 0
    with torch.no_grad():
        exact = [z.double()]
        for i in range(2):
            folded = router.double().fold(two[i : i + 1].double())
            exact.append(
                router.apply_folded(exact[0], folded, region=regions[i : i + 1].double(), onto=exact[-1].clone())
            )
        router.float()
        folded = [router.fold(two[i : i + 1], dtype=dtype) for i in range(2)]

        def kernel(i, **options):
            return kernels.route_and_attend(
                z, folded[i], folded[i].visible, 1e-5, in_place=False, region=regions[i : i + 1], **options
            )

        before = z.clone()
        out = kernel(0)
        assert torch.equal(z, before) and torch.equal(out[:, :20], z[:, :20])
        steps = [out.double() - z.double()]
        both = kernel(1, onto=out)
        assert both.data_ptr() == out.data_ptr() and torch.equal(z, before)
        steps.append(both.double() - z.double())
        assert torch.equal(both[:, :20], z[:, :20])
    for got, wanted in zip(steps, exact[1:], strict=True):
        wanted = wanted - exact[0]
        assert wanted.norm() > 0.01 * exact[0].norm()
        assert (got - wanted).norm() < bound * wanted.norm()


def test_a_mask_of_bytes_may_be_of_zeros_and_ones():
    ones = np.ones((4, 6), np.uint8)
    assert read_region(ones).max() == 1
    assert read_region(ones * 255).max() == 1


def test_a_bomb_and_a_broken_file_are_refused_by_name(tmp_path, monkeypatch):
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save(tmp_path / "mask.png")
    assert read_region(tmp_path / "mask.png").shape == (1, 40, 60)
    data = (tmp_path / "mask.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[:60])
    with pytest.raises(ValueError, match=r"region '.*cut\.png' is (too large, or )?damaged"):
        read_region(tmp_path / "cut.png")
    monkeypatch.setattr("lavieid_adapters.files.images.MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"region '.*mask\.png' has 60 × 40 pixels, more than"):
        read_region(tmp_path / "mask.png")


def test_regions_take_the_door_of_photos(tmp_path):
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save(tmp_path / "mask.eps")
    with pytest.raises(ValueError, match=r"region '.*mask\.eps' is not an image in one of the formats"):
        read_region(tmp_path / "mask.eps")
    with pytest.raises(ValueError, match="A region is a file in the format EPS"):
        read_region(Image.open(tmp_path / "mask.eps"))
    with pytest.raises(IsADirectoryError, match=r"The region '.*' is a folder"):
        read_region(tmp_path)
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save(tmp_path / "mask.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "mask.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"A region cannot be decoded \(.*save it again"):
        read_region(Image.open(tmp_path / "cut.png"))


def test_regions_that_are_no_list_are_refused():
    from lavieid_adapters import attach

    with attach(tiny.router(), tiny.transformer()) as handle, pytest.raises(TypeError, match="must be a list of masks"):
        handle.set_tokens(tiny.tokens(2), regions="mask.png")
