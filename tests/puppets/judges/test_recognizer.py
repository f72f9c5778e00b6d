"""The judge of identity, untrained: embeddings of length 1 that differ."""

import torch

from lavieid_adapters.puppets.judges.recognizer import Recognizer


def test_embeddings_have_length_1_and_tell_pictures_apart():
    torch.manual_seed(0)
    recognizer = Recognizer().eval()
    with torch.no_grad():
        embeddings = recognizer(torch.rand(3, 3, 96, 96) * 2 - 1)
    assert embeddings.shape == (3, 128) and embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))
    assert (embeddings[0] - embeddings[1]).abs().max() > 1e-4


def test_what_it_looks_at_may_be_anywhere():
    torch.manual_seed(0)
    recognizer = Recognizer(size=32, widths=(8, 16), dim=16).eval()
    blank = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        for corner in (slice(0, 16), slice(16, 32)):
            marked = blank.clone()
            marked[..., corner, corner] = 1
            assert (recognizer(marked) - recognizer(blank)).abs().max() > 1e-4


def test_it_is_the_same_from_its_file(tmp_path):
    recognizer, picture = Recognizer(size=32, widths=(8, 16), dim=16).eval(), torch.rand(1, 3, 32, 32)
    recognizer.save_pretrained(tmp_path)
    again = Recognizer.from_pretrained(tmp_path)
    assert again.config.size == 32
    torch.testing.assert_close(again(picture), recognizer(picture))
