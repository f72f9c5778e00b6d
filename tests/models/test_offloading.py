"""Adapters whose weights accelerate holds."""

import accelerate
import pytest
import torch
from support import tiny
from support.lora import add_lora

from lavieid_adapters.models.offloading import execution_device, fetched, only_placed

CPU = torch.device("cpu")


def test_an_adapter_that_accelerate_holds_stays_where_it_is():
    tam = tiny.tam()
    assert execution_device(tam) is None
    tam.place("meta")
    assert tam.device.type == "meta"  # one that it does not hold moves
    tam = accelerate.cpu_offload(tiny.tam(), CPU)
    with pytest.raises(NotImplementedError):
        tam.to(CPU)
    tam.place(CPU)
    assert tam.device.type == "meta" and tam.execution_device == CPU == execution_device(tam)


def test_a_map_of_one_device_leaves_no_hooks_and_a_whole_models_hook_holds_no_weights(tmp_path):
    tiny.router().save_pretrained(tmp_path)
    loaded = type(tiny.router()).from_pretrained(tmp_path, device_map="cpu")
    hooked, _ = accelerate.cpu_offload_with_hook(tiny.router(), CPU)
    for router in (loaded, hooked):
        router.place("meta")
        assert router.device.type == "meta"


@pytest.mark.parametrize("classes", [None, ["LocalRouter"], ["CrossAttention"]])
@pytest.mark.parametrize("background", [True, False])
def test_the_weights_of_a_module_that_is_not_called_are_fetched(classes, background):
    router, tokens, z = tiny.router(background=background), tiny.tokens(2), tiny.noise(2, 12, tiny.DIM)
    wanted, logits = router(z, tokens), router.route_logits(z, tokens)
    assert (wanted - z).norm() > 0.01 * z.norm()
    accelerate.cpu_offload(router, CPU, preload_module_classes=classes)
    with torch.no_grad():
        folded = router.fold(tokens)
        assert not any(tensor.is_meta for tensor in vars(folded).values() if tensor is not None)
        torch.testing.assert_close(router.apply_folded(z, folded), wanted)
        torch.testing.assert_close(router(z, tokens), wanted)
        torch.testing.assert_close(router.route_logits(z, tokens), logits)
    assert all(parameter.is_meta for parameter in router.parameters())


def test_weights_that_nothing_fetches_are_refused():
    router = tiny.router().to("meta")
    with pytest.raises(ValueError, match="has weights on the meta device"), fetched(router):
        pass
    with pytest.raises(ValueError, match="LocalRouter has weights on the meta device"):
        router.fold(tiny.tokens(1))


def test_only_hooks_that_place_weights_leave_a_forward_as_it_is():
    router = tiny.router()
    assert only_placed(router)
    accelerate.cpu_offload(router, CPU)
    assert only_placed(router) and only_placed(router.to_video)
    tuned = add_lora(tiny.router(), "to_video")
    assert only_placed(tuned)  # by its class, which is another question
    router = tiny.router()
    forward = router.forward
    router.forward = lambda *args: 2 * forward(*args)
    assert not only_placed(router)
    accelerate.cpu_offload(router, CPU)
    assert not only_placed(router)
    hooked, _ = accelerate.cpu_offload_with_hook(tiny.router(), CPU)
    assert not only_placed(hooked)
