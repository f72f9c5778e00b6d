"""LoRA by peft on a host with a router: loaded before and after, swapped, scaled, fused."""

import diffusers
import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from support.modes.rig import differ
from support.modes.videos import PIPELINES, generate

TARGETS = {"CogVideoX": ["to_q", "to_out.0"], "Wan": ["to_q", "to_out.0"]}


def lora(rig, folder, seed: int):
    """A folder with random LoRA weights of the host, as `save_lora_weights` writes it."""
    model = rig.make()
    torch.manual_seed(seed)
    model.add_adapter(LoraConfig(r=2, target_modules=TARGETS[rig.name], init_lora_weights=False))
    cls = diffusers.CogVideoXPipeline if rig.name == "CogVideoX" else diffusers.WanPipeline
    cls.save_lora_weights(folder, transformer_lora_layers=get_peft_model_state_dict(model))
    return folder


class Lora:
    """The ways in which LoRA is used, in an order that is a story: each is a change of a pipeline."""

    def __init__(self, rig, tmp_path):
        self.one, self.two = (lora(rig, tmp_path / str(seed), seed) for seed in (1, 2))

    def steps(self):
        return {
            "loaded": lambda pipe: pipe.load_lora_weights(self.one, adapter_name="a"),
            "scaled": lambda pipe: pipe.set_adapters("a", 0.5),
            "swapped": lambda pipe: pipe.load_lora_weights(self.two, adapter_name="a", hotswap=True),
            "disabled": lambda pipe: pipe.disable_lora(),
            "enabled": lambda pipe: pipe.enable_lora(),
            "second": lambda pipe: pipe.load_lora_weights(self.one, adapter_name="b"),
            "both": lambda pipe: pipe.set_adapters(["a", "b"], [0.7, 0.4]),
            "fused": lambda pipe: pipe.fuse_lora(),
            "unfused": lambda pipe: pipe.unfuse_lora(),
            "unloaded": lambda pipe: pipe.unload_lora_weights(),
        }


def pipelines(rig):
    """A pipeline without a router, and one with the router built into the block."""
    plain, built = PIPELINES[rig.name](), PIPELINES[rig.name]()
    rig.blocks(built.transformer)[0].__class__ = type(rig.blocks(rig.built())[0])
    return plain, built


@pytest.mark.parametrize(
    "loaded_first",
    [
        pytest.param(True, marks=pytest.mark.mode("LoRA loaded before; scaled, hot-swapped, fused, unloaded")),
        pytest.param(False, marks=pytest.mark.mode("LoRA loaded after; scaled, hot-swapped, fused, unloaded")),
    ],
)
def test_gives_what_a_router_built_into_the_block_gives(rig, tmp_path, loaded_first):
    (plain, built), pipe, handle = pipelines(rig), PIPELINES[rig.name](), None
    base, seen = generate(plain), None
    if not loaded_first:
        handle = rig.attach(pipe.transformer)
    for name, step in Lora(rig, tmp_path).steps().items():
        for each in (plain, built, pipe):
            step(each)
        handle = handle or rig.attach(pipe.transformer)
        got, wanted = generate(pipe), generate(built)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
        assert differ(got, generate(plain)), name
        assert seen is None or name in ("second", "fused", "unfused") or differ(got, seen, 1e-3), name
        seen = got
    handle.detach()
    torch.testing.assert_close(generate(pipe), base, rtol=1e-4, atol=1e-4)


def test_lora_on_the_router_itself_is_noticed_when_it_is_switched_or_scaled(rig):
    """PEFT keeps both in no weight, so the folded identity must not be kept."""
    from support.lora import add_lora

    model = rig.make()
    with rig.attach(model) as handle:
        plain = rig.run(model)
        tuner = add_lora(handle.router, "cross_attention.to_out")
        with torch.no_grad():
            on = rig.run(model)
            assert differ(on, plain, 1e-3)
            tuner.enable_adapters(False)
            torch.testing.assert_close(rig.run(model), plain)
            tuner.enable_adapters(True)
            torch.testing.assert_close(rig.run(model), on)
            tuner.set_scale("default", 0.0)
            torch.testing.assert_close(rig.run(model), plain)
