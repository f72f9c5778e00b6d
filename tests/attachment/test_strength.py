import pytest
import torch
from support import tiny

from lavieid_adapters import attach
from lavieid_adapters.attachment.strength import Strength, component_names

NAMES = ("eyes", "hair")
TOKENS = torch.zeros(2, 5, 8)


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("scale", True, TypeError, "scale is True"),
        ("scale", "1", TypeError, "scale is '1'"),
        ("scale", None, TypeError, "scale is None"),
        ("scale", float("inf"), ValueError, "scale is inf, but must be a finite number"),
        ("start", "0.5", TypeError, "start is '0.5'"),
        ("start", -0.1, ValueError, r"start is -0\.1, but must be a fraction"),
        ("end", False, TypeError, "end is False"),
        ("end", 1.5, ValueError, r"end is 1\.5, but must be a fraction"),
        ("component_scales", 0.5, TypeError, "component_scales is 0.5, but must be a dict"),
        ("component_scales", {"beard": 1.0}, ValueError, "No component is called beard. Choose from eyebrows"),
        ("component_scales", {3: 1.0}, ValueError, "No component is called 3"),
        ("component_scales", {"hair": "much"}, TypeError, r"component_scales\['hair'\] is 'much'"),
        ("component_scales", {"hair": float("nan")}, ValueError, r"component_scales\['hair'\] is nan"),
    ],
)
def test_settings_are_checked_where_they_are_set(name, value, error, message):
    with attach(tiny.router(), tiny.transformer()) as handle:
        handle.start, handle.end, handle.scale = 0.25, 0.75, 0.5
        before, alpha = getattr(handle, name), handle.strength._alpha
        with pytest.raises(error, match=message):
            setattr(handle, name, value)
        assert getattr(handle, name) == before
        assert handle.strength._alpha is alpha  # nothing has changed by half


def test_alpha_is_the_scale_times_each_components():
    strength = Strength(NAMES)
    assert strength.now(TOKENS, None).tolist() == [[1, 1]]
    strength.set(scale=0.5, component_scales={"hair": 2})
    assert strength.now(TOKENS, None).tolist() == [[0.5, 1]]
    strength.set(component_scales={})
    assert strength.now(TOKENS, None).tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize(
    ("start", "end", "progress", "inside"),
    [
        (0.25, 0.75, [0.2, 0.25], [0, 1]),
        (0.25, 0.75, [0.74, 0.75], [1, 0]),
        (0.5, 1.0, [1.0, 0.4], [1, 0]),  # the last step is inside a window that ends with the run
        (0.25, 0.75, [0.5], [1]),
    ],
)
def test_alpha_is_0_outside_the_window(start, end, progress, inside):
    strength = Strength(NAMES)
    strength.set(start=start, end=end)
    assert strength.windowed
    assert strength.now(TOKENS, torch.tensor(progress))[:, 0].tolist() == inside


def test_a_cache_may_run_one_pass_of_guidance_alone():
    strength = Strength(NAMES)
    strength.set(end=0.5)
    assert strength.now(TOKENS[:1], torch.tensor([0.2, 0.9])).tolist() == [[1, 1]]


def test_components_have_the_names_of_the_face_or_numbers():
    assert component_names(6)[0] == "eyebrows"
    assert component_names(2) == ["component_0", "component_1"]
    assert component_names(2, NAMES) == list(NAMES)
    with pytest.raises(ValueError, match="2 names for the router's 6 components"):
        component_names(6, NAMES)


def test_a_window_that_cannot_be_kept_to_is_refused():
    strength, model = Strength(NAMES), tiny.transformer()
    strength.set(start=0.5, end=0.75)
    strength.check_window(model)
    model.enable_gradient_checkpointing()
    with pytest.raises(ValueError, match="is for inference"):
        strength.check_window(model)
    with torch.no_grad():
        strength.check_window(model)
        strength.set(end=0.5)
        with pytest.raises(ValueError, match=r"begins at start 0\.5, but ends at end 0\.5"):
            strength.check_window(model)


def test_a_window_needs_the_progress():
    strength = Strength(NAMES)
    strength.set(end=0.5)
    with pytest.raises(ValueError, match=r"A window \(start, end\) needs a transformer whose forward takes"):
        strength.now(TOKENS, None)
    strength.set(end=1.0)
    assert not strength.windowed
    assert strength.now(TOKENS, None).tolist() == [[1, 1]]


def test_the_settings_of_a_detached_handle_can_be_read_and_not_set():
    handle = attach(tiny.router(), tiny.transformer())
    handle.scale = 0.5
    handle.detach()
    assert handle.scale == 0.5
    for name in ("scale", "component_scales", "start", "end"):
        with pytest.raises(ValueError, match="This RouterHandle has been detached"):
            setattr(handle, name, getattr(handle, name))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"] * 6, "no two components may share a name"),
        ([*"abcde", "a"], "no two components may share a name"),
        ("abcdef", "names is 'abcdef', but must be a list of texts"),
        ([*"abcde", 6], "but must be a list of texts"),
        ([None] * 6, "but must be a list of texts"),
        (dict.fromkeys("abcdef"), "but must be a list of texts"),
        (6, "names is 6, but must be a list of texts"),
    ],
    ids=str,
)
def test_names_that_do_not_tell_components_apart_are_refused(names, message):
    model = tiny.transformer()
    with pytest.raises(ValueError, match=message):
        attach(tiny.router(), model, names=names)
    attach(tiny.router(), model, names=tuple("abcdef")).detach()
