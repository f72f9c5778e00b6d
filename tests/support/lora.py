"""LoRA by peft on one layer of a model, to see that it acts, is trained and can be merged."""

import copy

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


def linear_layers(model: nn.Module) -> list[str]:
    """Names of all linear layers of a model."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def add_lora(model: nn.Module, layer: str, **config) -> BaseTunerLayer:
    """Put LoRA with random weights, alone to be trained, on the layer of this name."""
    torch.manual_seed(0)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=[layer], init_lora_weights=False, **config), model)
    return model.get_submodule(layer)


def check_lora(model: nn.Module, layer: str, run) -> None:
    """LoRA on a layer acts as much as the same change of its weight, gets gradients, and can be switched and scaled.

    Args:
        model: In float64, so that bounds can be close.
        layer: Name of the layer.
        run: What the model computes: a function from the model to a tensor.
    """
    reference = copy.deepcopy(model)
    with torch.no_grad():
        plain = run(model)
    tuner = add_lora(model, layer)
    out = run(model)
    assert (out - plain).norm() > 1e-4 * plain.norm()
    out.square().sum().backward()
    trained = [parameter for name, parameter in tuner.named_parameters() if "lora_" in name]
    assert len(trained) == 2 and all(parameter.grad.norm() > 0 for parameter in trained)

    with torch.no_grad():
        torch.testing.assert_close(run(model), out.detach(), rtol=1e-8, atol=1e-10)
        reference.get_submodule(layer).weight += tuner.get_delta_weight("default")
        torch.testing.assert_close(out.detach(), run(reference), rtol=1e-8, atol=1e-10)
        tuner.set_scale("default", 0.0)
        torch.testing.assert_close(run(model), plain, rtol=1e-8, atol=1e-10)
        tuner.set_scale("default", 1.0)
        tuner.enable_adapters(False)
        torch.testing.assert_close(run(model), plain, rtol=1e-8, atol=1e-10)
        tuner.enable_adapters(True)
        tuner.merge()
        torch.testing.assert_close(run(model), out.detach(), rtol=1e-8, atol=1e-10)
