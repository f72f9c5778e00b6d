"""Hosts whose weights are quantised, by packages that need not be installed."""

import pytest
import torch
from diffusers import QuantoConfig, TorchAoConfig
from support.modes.rig import differ


def torchao(model):
    quantization = pytest.importorskip("torchao.quantization")
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())


def quanto(model):
    package = pytest.importorskip("optimum.quanto")
    package.quantize(model, weights=package.qint8)
    package.freeze(model)


@pytest.mark.parametrize(
    "quantise",
    [
        pytest.param(torchao, marks=pytest.mark.mode("torchao, int8 weights")),
        pytest.param(quanto, marks=pytest.mark.mode("quanto, int8 weights")),
    ],
)
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_quantised_weights_give_what_a_router_built_into_the_block_gives(rig, quantise, first):
    base, built, model = rig.make(), rig.built(), rig.make()
    exact = rig.run(base)
    for reference in (base, built):
        quantise(reference)
    without, wanted = rig.run(base), rig.run(built)
    assert not torch.equal(without, exact)
    assert differ(wanted, without)
    if first:
        quantise(model)
    handle = rig.attach(model)
    if not first:
        quantise(model)
    torch.testing.assert_close(rig.run(model), wanted)
    handle.detach()
    assert torch.equal(rig.run(model), without)


@pytest.mark.parametrize(
    ("package", "config"),
    [
        pytest.param(
            "torchao", lambda package: TorchAoConfig(package.quantization.Int8WeightOnlyConfig()),
            marks=pytest.mark.mode("torchao, int8 weights"),
        ),
        pytest.param(
            "optimum.quanto", lambda package: QuantoConfig(weights_dtype="int8"),
            marks=pytest.mark.mode("quanto, int8 weights"),
        ),
    ],
)  # fmt: skip
def test_a_host_loaded_quantised(rig, tmp_path, package, config):
    package = pytest.importorskip(package)
    if package.__name__ == "torchao":
        pytest.importorskip("torchao.quantization")
    rig.make().save_pretrained(tmp_path)
    model = type(rig.make()).from_pretrained(tmp_path, quantization_config=config(package), torch_dtype=torch.bfloat16)
    base = rig.run(model.eval(), torch.bfloat16)
    with rig.attach(model) as handle:
        assert handle._conditioning._kept.key.dtype == torch.bfloat16  # folded ahead for the right activations
        full = rig.run(model, torch.bfloat16)
        assert differ(full, base)
    plain = rig.run(rig.built().to(torch.bfloat16), torch.bfloat16)
    assert (full - plain).norm() < 0.2 * (plain - base).norm()
    assert torch.equal(rig.run(model, torch.bfloat16), base)
