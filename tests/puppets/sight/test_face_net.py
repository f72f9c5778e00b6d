"""The network that photos are read by, and the sizes of the vision model."""

import pytest
import torch

from lavieid_adapters.puppets.sight.face_net import FaceNet, vision_config
from lavieid_adapters.puppets.world.draw import draw_photos
from lavieid_adapters.puppets.world.person import people


def test_it_is_small():
    assert sum(parameter.numel() for parameter in FaceNet().parameters()) <= 550_000


def test_face_net_maps_and_embeds_photos_and_survives_its_file(tmp_path):
    torch.manual_seed(0)
    net, photos = FaceNet().eval(), draw_photos(people([3, 4]), [1, 2])
    with torch.no_grad():
        maps, embeddings = net(photos.images.float() / 127.5 - 1)
        assert maps.shape == (2, 7, 128, 128) and embeddings.shape == (2, 512)
        assert (embeddings[0] - embeddings[1]).abs().max() > 1e-4
        net.save_pretrained(tmp_path)
        again = FaceNet.from_pretrained(tmp_path)(photos.images.float() / 127.5 - 1)
    assert torch.equal(again[0], maps) and torch.equal(again[1], embeddings)
    with pytest.raises(ValueError, match=r"but this FaceNet takes .* 128, 128"):
        net(torch.zeros(1, 3, 96, 96))


def test_the_vision_model_sees_components_of_48_pixels():
    config = vision_config()
    assert (config.image_size, config.hidden_size, config.num_hidden_layers, config.projection_dim) == (48, 96, 4, 64)
