import diffusers
import pytest
import torch
from support.hosts import ltx_family as ltx
from support.hosts import modular_family as modular
from support.hosts import wan_family as wan

from lavieid_adapters.hosts.host_table import HOSTS
from lavieid_adapters.hosts.pipeline import HostPipeline
from lavieid_adapters.hosts.pipeline_table import NOT_PIPELINES, PIPELINES, find_pipeline


def test_every_described_pipeline_is_a_class_of_diffusers_with_a_described_host():
    for name, description in PIPELINES.items():
        assert isinstance(getattr(diffusers, name), type)
        assert description.host in HOSTS


def test_a_subclass_is_found_as_its_class():
    class Mine(diffusers.WanPipeline):
        pass

    assert find_pipeline(object.__new__(Mine)) is PIPELINES["WanPipeline"]


def test_an_unknown_pipeline_is_refused_and_the_message_shows_how_to_describe_it():
    with pytest.raises(ValueError, match=r"object is not supported.*pipeline=VideoPipeline\(...\)"):
        find_pipeline(object())


@pytest.mark.parametrize("name", NOT_PIPELINES)
def test_what_is_left_out_is_refused_with_its_reason(name):
    with pytest.raises(ValueError, match=f"{name} is not supported: {NOT_PIPELINES[name]}"):
        find_pipeline(object.__new__(getattr(diffusers, name)))


@pytest.mark.parametrize(
    ("build", "steps"), [(wan.wan_pipeline, 3), (modular.wan_modular_pipeline, 3), (ltx.ltx_long_pipeline, 2)]
)
def test_the_timesteps_of_a_run(build, steps):
    """LTX's long pipeline notes the end of the run as well, at which no step begins."""
    pipe, _ = build()
    description = find_pipeline(pipe)
    pipe.scheduler.set_timesteps(3)
    if build is not modular.wan_modular_pipeline:
        assert description.run(pipe) is None
        pipe._num_timesteps = 3
    assert torch.equal(description.run(pipe), pipe.scheduler.timesteps[:steps])


def test_a_forward_of_ltx2_that_is_not_guided_by_the_prompt_is_one_pass():
    pipe, _ = ltx.ltx2_pipeline()
    pipe._guidance_scale = 4.0
    pipeline = HostPipeline(pipe, find_pipeline(pipe))
    pipe._current_timestep = torch.tensor(500.0)
    assert pipe.do_classifier_free_guidance
    assert pipeline.passes({}) == 2
    assert pipeline.passes({"spatio_temporal_guidance_blocks": [1]}) == 1
    assert pipeline.passes({"isolate_modalities": True}) == 1
