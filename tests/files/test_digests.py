"""Contents, files, parts of a base model and weights are told apart, whatever dtype they are saved in."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.small_cogvideox import small_components

from lavieid_adapters.files.digests import content_digest, part_digest, sampled_digest, weights_digests

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
DTYPES += [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The VAE and the text encoder of a small pipeline."""
    folder, parts = tmp_path_factory.mktemp("base"), small_components()
    for name in ("vae", "text_encoder"):
        parts[name].save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_dtype_and_other_files_are_the_same_part(base, tmp_path, part, dtype):
    digest = part_digest(base, part)
    assert len(digest) == 16 and int(digest, 16) >= 0
    model = small_components()[part].to(dtype)
    model.save_pretrained(tmp_path / part, max_shard_size="16KB")
    assert len(list((tmp_path / part).glob("*.safetensors"))) > 1
    assert (tmp_path / part / "config.json").read_text() != (base / part / "config.json").read_text() or part == "vae"
    assert part_digest(tmp_path, part) == digest


def copied(base, tmp_path, part: str):
    shutil.copytree(base / part, tmp_path / part)
    (weights,) = (tmp_path / part).glob("*.safetensors")
    return weights, load_file(weights)


def test_other_weights_are_another_part(base, tmp_path):
    weights, tensors = copied(base, tmp_path, "vae")
    name = next(n for n in tensors if tensors[n].ndim > 1)
    for change in (lambda: tensors.update({name: -tensors[name]}), lambda: tensors.pop(name)):
        change()
        save_file(tensors, weights)
        assert part_digest(tmp_path, "vae") != part_digest(base, "vae")


def test_another_setting_is_another_part_but_the_way_it_was_saved_is_not(base, tmp_path):
    copied(base, tmp_path, "vae")
    path, digest = tmp_path / "vae" / "config.json", part_digest(base, "vae")
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "_diffusers_version": "9.9", "dtype": "float64"}))
    assert part_digest(tmp_path, "vae") == digest
    path.write_text(json.dumps({**config, "scaling_factor": 0.5}))
    assert part_digest(tmp_path, "vae") != digest


def test_the_values_beyond_the_first_are_not_read(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    digests = []
    for place in (0, 4095, 4096, None):
        weight = torch.ones(100, 100)
        if place is not None:
            weight.view(-1)[place] = -1
        save_file({"weight": weight, "scalar": torch.tensor(1.0)}, tmp_path / "vae" / "a.safetensors")
        digests.append(part_digest(tmp_path, "vae"))
    assert len(set(digests)) == 3 and digests[2] == digests[3]


def test_what_is_missing_or_damaged_is_an_error(base, tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json and safetensors files in 'vae'"):
        part_digest(tmp_path, "vae")
    weights, _ = copied(base, tmp_path, "vae")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"vae' is damaged .*fetch it again"):
        part_digest(tmp_path, "vae")
    (tmp_path / "vae" / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="vae' is damaged"):
        part_digest(tmp_path, "vae")


def test_a_base_that_cannot_be_had_is_told_at_once():
    with pytest.raises(OSError, match="'no/such-base' is no folder here, is not in the cache"):
        part_digest("no/such-base", "vae")


def test_a_part_comes_from_the_hub_without_the_others(base, hub):
    files = {f"vae/{path.name}": path.read_bytes() for path in (base / "vae").iterdir()}
    hub.repos["me/base"] = {**files, "transformer/diffusion_pytorch_model.safetensors": b"large"}
    assert part_digest("me/base", "vae") == part_digest(base, "vae")
    assert not any("transformer/" in request for request in hub.requests)


def test_a_digest_of_contents_tells_bytes_and_other_parts_apart():
    digests = {content_digest(*parts) for parts in ((), (b"a",), (b"ab",), ("a",), (1,), ("1",), ((2, 3), b"a"))}
    assert len(digests) == 7 and all(len(digest) == 32 for digest in digests)
    assert content_digest(b"ab", 1) == content_digest(memoryview(b"ab"), 1) == content_digest(b"a", b"b", 1)


def test_a_digest_of_files_depends_on_names_sizes_and_samples(tmp_path):
    data = bytearray(os.urandom(200_000))
    (tmp_path / "a").write_bytes(data)
    digest = sampled_digest(tmp_path / "a")
    assert len(digest) == 16
    (tmp_path / "b").write_bytes(data)
    assert sampled_digest(tmp_path / "b") != digest  # another name
    assert sampled_digest(tmp_path / "a", tmp_path / "b") not in (digest, sampled_digest(tmp_path / "b"))
    changes = (
        lambda: data.append(0),
        lambda: data.__setitem__(-1, data[-1] ^ 1),
        lambda: data.__setitem__(0, data[0] ^ 1),
    )
    for time, change in enumerate(changes):
        change()
        (tmp_path / "a").write_bytes(data)
        os.utime(tmp_path / "a", ns=(0, 2 * time))
        previous, digest = digest, sampled_digest(tmp_path / "a")
        os.utime(tmp_path / "a", ns=(0, 2 * time + 1))  # so that it is read again
        assert digest != previous and sampled_digest(tmp_path / "a") == digest


def weights(dtype: torch.dtype = torch.float32) -> dict:
    generator = torch.Generator().manual_seed(0)
    tensors = {"a": torch.randn(100, 100, generator=generator), "b": torch.tensor([1e-30, -1e-30, 0.0, -0.0, 2.0])}
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_signs_are_the_same_in_every_signed_dtype_and_values_are_not(dtype):
    signs, values = weights_digests(weights())
    others = weights_digests(weights(dtype))
    if dtype == torch.float8_e4m3fnuz:  # it has one zero, so that signs of what becomes zero are lost
        assert len(others[0]) == 16
    else:
        assert others[0] == signs
    assert (others[1] == values) == (dtype == torch.float32)
    changed = weights(dtype)
    changed["a"].view(-1)[0] = -changed["a"].view(-1)[0].float()
    assert weights_digests(changed)[0] != others[0] and weights_digests(changed)[1] != others[1]


def test_the_order_of_weights_does_not_count_but_names_and_shapes_do():
    tensors = weights()
    digests = weights_digests(tensors)
    assert weights_digests(dict(reversed(tensors.items()))) == digests
    assert weights_digests({"c": tensors["a"], "b": tensors["b"]})[0] != digests[0]
    assert weights_digests({**tensors, "a": tensors["a"].view(10, 1000)})[0] != digests[0]
