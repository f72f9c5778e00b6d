import diffusers
import pytest
import torch
from support import tiny
from support.hosts.flux import flux
from torch import nn

from lavieid_adapters.hosts import host_table
from lavieid_adapters.hosts.host import Host, find_block
from lavieid_adapters.hosts.host_table import HOSTS, find_host


def test_every_described_host_is_a_class_of_diffusers():
    for name in HOSTS:
        assert issubclass(getattr(diffusers, name), nn.Module)


def test_subclasses_and_compiled_transformers_are_found_as_their_class():
    class Mine(diffusers.CogVideoXTransformer3DModel):
        pass

    model = tiny.transformer()
    mine = Mine.from_config(model.config)
    assert find_host(mine) is find_host(torch.compile(model)) is HOSTS["CogVideoXTransformer3DModel"]


def test_unknown_transformer_is_refused_and_the_message_shows_how_to_describe_it():
    class Unknown(nn.Module):
        def __init__(self):
            super().__init__()
            self.my_blocks = nn.ModuleList([nn.Linear(4, 4)])

    with pytest.raises(ValueError, match=r"Unknown are not known.*Host\(blocks='my_blocks', stream=0\)"):
        find_host(Unknown())
    assert isinstance(find_block(Unknown(), Host("my_blocks"), 0), nn.Linear)
    with pytest.raises(ValueError, match="no block list 'blocks'"):
        find_block(Unknown(), Host("blocks"), 0)


def test_the_message_for_an_unknown_transformer_takes_the_stream_from_diffusers():
    class Unknown(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = flux().transformer_blocks

    with pytest.raises(ValueError, match=r"Host\(blocks='layers', stream=1\)"):
        find_host(Unknown())


def coordinates(*parts: tuple[int, float]) -> torch.Tensor:
    """Coordinates (1, 3, n) of a stream of parts, each of so many frames of 2 × 3 tokens from a second on."""
    tokens = [
        (start + frame, y, x) for frames, start in parts for frame in range(frames) for y in range(2) for x in range(3)
    ]
    return torch.tensor(tokens, dtype=torch.float32).T[None]


@pytest.mark.parametrize(
    ("parts", "first"),
    [([(4, 0)], 0), ([(4, 0), (1, 2)], 0), ([(1, 5), (4, 0)], 6), ([(1, 5), (4, 0), (2, 1)], 6)],
)
def test_the_video_of_ltx_is_found_by_its_tokens_coordinates(parts, first):
    where = coordinates(*parts)
    arguments = {"hidden_states": torch.empty(1, where.shape[2], 8), "video_coords": where}
    assert host_table.ltx_grid(nn.Module(), arguments) == (4, 2, 3)
    alone = len(parts) == 1
    assert host_table.ltx_start(nn.Module(), arguments) == (None if alone else first)


def test_coordinates_are_read_off_the_device_once(monkeypatch):
    where, reads = coordinates((4, 0), (1, 2)), []
    arguments = {"hidden_states": torch.empty(1, where.shape[2], 8), "video_coords": where}
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: reads.append(1) or tolist(tensor))
    for _ in range(3):
        assert host_table.ltx_grid(nn.Module(), arguments) == (4, 2, 3)
    assert len(reads) == 1


def test_the_order_of_kandinsky_goes_by_squares_under_sparse_attention_alone():
    grid, arguments = (1, 8, 16), {"sparse_params": {"to_fractal": True}}
    order = host_table.squares_of_8(nn.Module(), arguments, grid)
    assert order[:10].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 16, 17]
    assert order[64] == 8
    assert sorted(order.tolist()) == list(range(128))
    assert host_table.squares_of_8(nn.Module(), {}, grid) is None


def test_timesteps_that_rise_are_those_behind():
    assert host_table.rising(torch.tensor([250.0])).tolist() == [0.25]
    assert host_table.last_frame(torch.tensor([[0, 0, 3.0]])).tolist() == [3.0]
