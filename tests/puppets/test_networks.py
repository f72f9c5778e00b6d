"""What the drawn world's networks are built of."""

import pytest
import torch

from lavieid_adapters.puppets.networks import ResBlock, UNet, check_images, pooled, to_network


def test_a_residual_block_adds_to_what_came_in():
    torch.manual_seed(0)
    block, x = ResBlock(8), torch.randn(2, 8, 6, 6)
    assert (block(x) - x).abs().max() > 1e-3
    torch.testing.assert_close(block(x) - x, block.body(x))
    torch.nn.init.zeros_(block.body[-1].weight)
    torch.nn.init.zeros_(block.body[-1].bias)
    assert torch.equal(block(x), x)


def test_a_unet_gives_a_map_of_each_scale():
    torch.manual_seed(0)
    net = UNet((8, 16, 24))
    encoded, decoded = net(torch.randn(1, 3, 16, 16))
    sizes = [(8, 16), (16, 8), (24, 4)]
    for maps in (encoded, decoded):
        assert [(x.shape[1], x.shape[2]) for x in maps] == sizes
    assert decoded[-1] is encoded[-1]


def test_every_pixel_reaches_the_deepest_scale():
    torch.manual_seed(0)
    net, image = UNet((8, 8, 8)), torch.randn(1, 3, 16, 16, requires_grad=True)
    net(image)[0][-1].square().sum().backward()
    assert (image.grad.abs().sum(1) > 0).all()


def test_pooled_is_the_mean_inside_each_region():
    features = torch.arange(16.0).view(1, 1, 4, 4)
    regions = torch.zeros(1, 3, 8, 8)
    regions[0, 0, :4, :4] = 1  # four pixels of the features
    regions[0, 1] = 1
    found = pooled(features, regions)
    assert found.shape == (1, 3, 1)
    torch.testing.assert_close(found.flatten(), torch.tensor([2.5, 7.5, 0.0]), atol=1e-3, rtol=1e-3)


def test_pictures_of_bytes_become_what_a_network_takes():
    pictures = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    for size in (8, 4):
        given = to_network(pictures, size)
        assert given.shape == (2, 3, size, size) and given.dtype == torch.float32
        torch.testing.assert_close(given[:, 0, 0, 0], torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (torch.zeros(1, 3, 8, 8), r"torch\.float32 of shape \(1, 3, 8, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"shape \(3, 8, 8\)"),
        (torch.zeros(1, 3, 8, 6, dtype=torch.uint8), r"\(8, 6\) pixels, but must be square"),
    ],
)
def test_what_are_no_pictures_is_refused(pictures, message):
    with pytest.raises(ValueError, match=message):
        to_network(pictures, 8)


def test_a_network_names_itself_when_it_refuses():
    check_images(torch.zeros(2, 3, 8, 8), 8, "this judge")
    with pytest.raises(ValueError, match=r"shape \(2, 3, 9, 9\), but this judge takes .* 8, 8"):
        check_images(torch.zeros(2, 3, 9, 9), 8, "this judge")
