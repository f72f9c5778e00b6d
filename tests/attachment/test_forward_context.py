import pytest
import torch
from support import tiny
from torch import nn

from lavieid_adapters import Host
from lavieid_adapters.attachment.forward_context import ForwardContext, need_whole_stream
from lavieid_adapters.hosts.host import patches

GRID = (3, 4, 6)  # 72 tokens


def host(**attributes) -> Host:
    return Host("blocks", grid=lambda transformer, arguments: GRID, **attributes)


def context(**attributes) -> ForwardContext:
    return ForwardContext.of(host(**attributes), nn.Module(), {})


@pytest.mark.parametrize(
    ("place", "total", "start"),
    [("whole", 72, 0), ("first", 80, 0), ("last", 80, 8), (lambda *_: 5, 80, 5), (lambda *_: -75, 80, 5),
     (lambda *_: None, 72, 0), ("first", 72, 0), ("last", 72, 0)],
)  # fmt: skip
def test_take_gives_the_video_tokens_and_put_changes_them_alone(place, total, start):
    stream, given = torch.randn(2, total, 8), context(video_tokens=place)
    tokens = given.take(stream)
    assert torch.equal(tokens, stream[:, start : start + 72])
    assert tokens.data_ptr() == stream[:, start:].data_ptr()  # a view: to take costs nothing
    assert torch.equal(given.put(stream, tokens), stream)
    put = given.put(stream, tokens + 1)
    changed = (put != stream).any(-1)
    assert changed[:, start : start + 72].all() and changed.sum() == 2 * 72
    assert torch.equal(given.take(put), tokens + 1)


def test_frames_in_the_batch_are_put_in_a_row_and_back():
    stream, given = torch.randn(6, 24, 8), context(frames_in_batch=True)
    tokens = given.take(stream)
    assert tokens.shape == (2, 72, 8)
    assert torch.equal(tokens[1, 24:48], stream[4])
    assert torch.equal(given.put(stream, tokens), stream)
    assert torch.equal(given.put(stream, 2 * tokens), 2 * stream)


def test_gradients_go_through_take_and_put():
    stream = torch.randn(1, 80, 8, requires_grad=True)
    given = context(video_tokens="last")
    given.put(stream, 3 * given.take(stream)).sum().backward()
    assert (stream.grad[:, :8] == 1).all() and (stream.grad[:, 8:] == 3).all()


def test_a_stream_that_is_shorter_than_the_video_is_refused():
    with pytest.raises(ValueError, match="has 60 tokens, fewer than the 72 of the video"):
        context(video_tokens="first").take(torch.randn(1, 60, 8))


@pytest.mark.parametrize(
    ("attributes", "known"), [({}, True), ({"video_tokens": "last"}, False), ({"frames_in_batch": True}, False)]
)
def test_without_a_grid_the_place_is_known_only_of_a_stream_of_video_tokens_alone(attributes, known):
    described = Host("blocks", grid=lambda transformer, arguments: None, **attributes)
    for given in (ForwardContext.of(described, nn.Module(), {}), ForwardContext.unknown(described)):
        assert given.known == known
        assert given.grid is None and given.progress is None
    assert context(**attributes).known


def test_the_grid_is_read_from_the_forwards_arguments():
    model = tiny.wan()
    described = Host("blocks", grid=patches("bcfhw"), video_tokens="last", order=lambda *_: torch.arange(48).flip(0))
    given = ForwardContext.of(described, model, {"hidden_states": torch.empty(2, 4, 3, 8, 8)})
    assert (given.grid, given.start, given.whole) == ((3, 4, 4), -48, False)
    assert given.order[0] == 47
    assert context().whole


def test_a_place_that_is_not_known_is_refused_by_the_transformers_name():
    context(video_tokens="last").need_known(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="This forward of Linear does not tell where in its stream the video is"):
        ForwardContext.unknown(host(video_tokens="last")).need_known(nn.Linear(2, 2))


def test_what_needs_all_tokens_is_refused_in_context_parallel():
    model = nn.Linear(2, 2)
    need_whole_stream(model, "Route maps")
    model._parallel_config = type("Config", (), {"context_parallel_config": object()})
    with pytest.raises(ValueError, match="Route maps need all video tokens on one device"):
        need_whole_stream(model, "Route maps")


@pytest.mark.parametrize(
    ("timestep", "progress"),
    [(250, [0.75]), (torch.tensor(250), [0.75]), (torch.tensor([250.0, 100.0]), [0.75, 0.9]), (None, None),
     (torch.tensor([[0.0, 250.0]]), [0.75])],
)  # fmt: skip
def test_the_progress_is_told_by_the_timestep_where_it_is_asked_for(timestep, progress):
    arguments = {"timestep": timestep}
    assert ForwardContext.of(host(), nn.Module(), arguments).progress is None
    given = ForwardContext.of(host(), nn.Module(), arguments, timed=True).progress
    assert given is None if progress is None else given.tolist() == pytest.approx(progress)


class Clock:
    """The part of a `HostPipeline` that tells the progress."""

    def __init__(self, progress):
        self.told = progress

    def progress(self, timestep):
        return self.told


def test_a_pipelines_timesteps_tell_the_progress_before_the_hosts_description_does():
    arguments = {"timestep": torch.tensor([250.0])}
    told = ForwardContext.of(host(), nn.Module(), arguments, Clock(torch.tensor([0.1])), timed=True)
    assert told.progress.tolist() == pytest.approx([0.1])
    assert ForwardContext.of(host(), nn.Module(), arguments, Clock(None), timed=True).progress.tolist() == [0.75]
    silent = host(progress=None)
    assert ForwardContext.of(silent, nn.Module(), arguments, timed=True).progress is None
