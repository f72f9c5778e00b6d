"""The settings of a training run: what they are, and what is refused before anything is loaded."""

import re
from dataclasses import fields
from typing import get_type_hints

import pytest
import yaml

from lavieid_adapters.training.config import TrainingConfig

REQUIRED = {"base": "zai-org/CogVideoX-5b", "shards": "shards", "output": "out"}


def write(tmp_path, text: str = "", **values):
    """A config file of the required fields, some others, and lines of text."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**REQUIRED, **values}) + text, encoding="utf-8")
    return path


def test_every_field_is_documented_once():
    described = TrainingConfig.__doc__.partition("Attributes:\n")[2]
    lists = re.findall(r"^ {8}(\w+(?:, \w+)*): \S", described, flags=re.MULTILINE)
    documented = [name for names in lists for name in names.split(", ")]
    assert len(documented) > 40
    assert sorted(documented) == sorted(f.name for f in fields(TrainingConfig))
    assert len(set(documented)) == len(documented)


def test_defaults_are_the_papers():
    config = TrainingConfig(**REQUIRED)
    paper = {
        "steps": 10_000,
        "batch_size": 1,
        "gradient_accumulation": 1,
        "learning_rate": 3e-6,
        "null_prompt": 0.1,
        "lambda_diff": 1,
        "lambda_route": 1,
        "guidance_scale": 6,
        "validation_steps": 50,
        "block_idx": 0,
        "dtype": "bfloat16",
        "stage": "router",
    }
    assert {name: getattr(config, name) for name in paper} == paper


def test_a_file_gives_values_of_the_fields_types(tmp_path):
    path = write(
        tmp_path,
        # YAML reads 3e-6, which has no point, as text.
        "learning_rate: 3e-6\n"
        "weight_decay: 0\n"
        "steps: 10_000\n"
        "adam_betas: [0.9, 95e-2]\n"
        "router: {inner_dim: 64, background: true}\n"
        "checkpointing: 12\n"
        "lora_targets: [to_q]\n"
        "validation:\n"
        "- reference: photo.jpg\n"
        "  prompt: She walks.\n"
        "memory_gib: 24\n"
        "tracker: null\n",
    )
    config = TrainingConfig.load(path)
    assert isinstance(yaml.safe_load(path.read_text())["learning_rate"], str)
    assert config.learning_rate == 3e-6
    assert (config.weight_decay, type(config.weight_decay)) == (0, float)
    assert (config.memory_gib, type(config.memory_gib)) == (24, float)
    assert config.steps == 10_000
    assert config.adam_betas == (0.9, 0.95)
    assert config.router == {"inner_dim": 64, "background": True}
    assert config.checkpointing == 12
    assert config.lora_targets == ["to_q"]
    assert config.validation == [{"reference": "photo.jpg", "prompt": "She walks."}]
    assert config.tracker is None
    assert {name: getattr(config, name) for name in REQUIRED} == REQUIRED


def test_overrides_take_the_place_of_the_file(tmp_path):
    path = write(tmp_path, steps=5, learning_rate=1e-3)
    overrides = [
        "learning_rate=3e-6",
        "checkpointing=all",
        "memory_gib=23.5",
        "router={background: true}",
        "output=a=b",
        "host_storage=fp8",
        "compile=false",
    ]
    before, after = TrainingConfig.load(path), TrainingConfig.load(path, overrides)
    assert (before.learning_rate, after.learning_rate) == (1e-3, 3e-6)
    assert (before.steps, after.steps) == (5, 5)
    assert (after.checkpointing, after.memory_gib, after.router) == ("all", 23.5, {"background": True})
    assert (after.output, after.host_storage, after.compile) == ("a=b", "fp8", False)
    assert TrainingConfig.load(path, ["host_storage=null"]).host_storage is None


def test_as_dict_makes_the_same_config_again_through_yaml(tmp_path):
    config = TrainingConfig(
        **REQUIRED,
        router={"background": True},
        adam_betas=(0.8, 0.9),
        checkpointing=3,
        validation=[{"reference": "photo.jpg", "prompt": "She walks."}],
    )
    text = yaml.safe_dump(config.as_dict())
    assert set(yaml.safe_load(text)) == set(get_type_hints(TrainingConfig))
    (tmp_path / "run.yaml").write_text(text)
    assert TrainingConfig.load(tmp_path / "run.yaml") == config


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("learning_rates", "learning_rate"),
        ("lr", "lr_scheduler|lora_rank|lr_warmup_steps"),
        ("step", "steps"),
        ("null_promt", "null_prompt"),
        ("Batch_size", "batch_size"),
        (7, ""),
    ],
)
def test_an_unknown_field_is_refused_and_the_nearest_is_named(tmp_path, name, near):
    message = rf"{name!r} is none of the config's fields\. Did you mean '({near})"
    for load in (
        lambda: TrainingConfig.load(write(tmp_path, **{str(name): 1}) if near else write(tmp_path, f"{name}: 1\n")),
        lambda: TrainingConfig.from_dict({**REQUIRED, name: 1}),
    ):
        with pytest.raises(ValueError, match=message):
            load()
    if near:
        with pytest.raises(ValueError, match=message):
            TrainingConfig.load(write(tmp_path), [f"{name}=1"])


@pytest.mark.parametrize(
    ("adapter", "name", "message"),
    [
        ("router", "innerdim", r"'innerdim' is none of router: LocalRouter's arguments.*'inner_dim'"),
        ("encoder", "tokens_per_components", r"none of encoder: LocalFacialEncoder's.*'tokens_per_component'"),
        ("tam", "chunk", r"'chunk' is none of tam: TAM's arguments.*'chunks'"),
        ("router", "self", r"'self' is none of router"),
    ],
)
def test_an_argument_that_an_adapter_does_not_take_is_refused(tmp_path, adapter, name, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig.load(write(tmp_path, **{adapter: {name: 3}}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": "many"}, "steps is 'many', but must be int"),
        ({"steps": 1.5}, r"steps is 1\.5, but must be int"),
        ({"steps": True}, "steps is True, but must be int"),
        ({"steps": None}, "steps is None, but must be int"),
        ({"base": 5}, "base is 5, but must be str"),
        ({"base": None}, "base is None, but must be str"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast', but must be float"),
        ({"learning_rate": [3e-6]}, "learning_rate is .*, but must be float"),
        ({"learning_rate": False}, "learning_rate is False, but must be float"),
        ({"compile": "yes please"}, "compile is 'yes please', but must be bool"),
        ({"compile": 1}, "compile is 1, but must be bool"),
        ({"stage": "encoder"}, r"stage is 'encoder', but must be Literal\['router', 'tam', 'both'\]"),
        ({"dtype": "float16"}, r"dtype is 'float16', but must be Literal\['bfloat16', 'float32'\]"),
        ({"host_storage": "int8"}, r"host_storage is 'int8', but must be .*'fp8'"),
        ({"checkpointing": "some"}, "checkpointing is 'some', but must be .*'auto', 'all'.*int"),
        ({"tracker": "mlflow"}, "tracker is 'mlflow', but must be .*'tensorboard', 'wandb'"),
        ({"adam_betas": [0.9]}, r"adam_betas is \[0\.9\], but must be tuple\[float, float\]"),
        ({"adam_betas": 0.9}, r"adam_betas is 0\.9, but must be tuple"),
        ({"adam_betas": [0.9, "x"]}, "adam_betas is 'x', but must be float"),
        ({"lora_targets": "to_q"}, r"lora_targets is 'to_q', but must be list\[str\]"),
        ({"router": ["inner_dim"]}, r"router is \['inner_dim'\], but must be dict"),
        ({"validation": [{"reference": "a.jpg", "prompt": 3}]}, "validation is 3, but must be str"),
        ({"memory_gib": "all"}, "memory_gib is 'all', but must be .*float"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_values_of_another_type_are_refused(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig.load(write(tmp_path, **values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps is 0, but must be at least 1"),
        ({"batch_size": -1}, "batch_size is -1, but must be at least 1"),
        ({"gradient_accumulation": 0}, "gradient_accumulation is 0, but must be at least 1"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"keep_last": 0}, "keep_last is 0"),
        ({"max_bad_steps": 0}, "max_bad_steps is 0"),
        ({"log_every": 0}, "log_every is 0"),
        ({"validation_steps": 0}, "validation_steps is 0"),
        ({"route_warmup_steps": -1}, "route_warmup_steps is -1, but must be 0 or more"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"lora_rank": -4}, "lora_rank is -4"),
        ({"validate_every": -1}, "validate_every is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"learning_rate": 0}, r"learning_rate is 0\.0, but must be greater than 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"max_grad_norm": -1}, r"max_grad_norm is -1\.0"),
        ({"null_prompt": 1.1}, r"null_prompt is 1\.1, but must be within 0 to 1"),
        ({"label_threshold": -0.1}, r"label_threshold is -0\.1"),
        ({"tam_max_noise": 2}, r"tam_max_noise is 2\.0"),
        ({"memory_gib": 0}, r"memory_gib is 0\.0, but must be greater than 0, or null"),
        ({"checkpointing": -1}, "checkpointing is -1, but must be 'auto', 'all' or a number of blocks"),
        ({"validation": [{"reference": "a.jpg"}]}, r"validation is \[.*reference: photo, prompt: text"),
        ({"validation": [{"reference": "a.jpg", "prompt": "", "seed": "1"}]}, "validation is"),
        ({"stage": "tam", "route_warmup_steps": 5}, "stage 'tam' trains TAM alone"),
        ({"stage": "tam", "lora_rank": 4}, "stage 'tam' trains TAM alone"),
        ({"stage": "tam", "tam_denoising_steps": 0}, "tam_denoising_steps is 0, but must be at least 1"),
        ({"stage": "tam", "tam_guidance_scale": 0.5}, r"tam_guidance_scale is 0\.5, but must be at least 1"),
        ({"stage": "both", "tam_denoising_steps": 2}, "stage 'both' denoises once.*train TAM by stage 'tam'"),
        ({"tam_guidance_scale": 2}, "stage 'router' denoises once and without guidance"),
        # What the optimizer and diffusers would refuse, but only after the base model has been loaded.
        ({"adam_betas": [0.9, 1.0]}, r"adam_betas is \(0\.9, 1\.0\)"),
        ({"weight_decay": -0.1}, r"weight_decay is -0\.1"),
        ({"lambda_route": -1}, r"lambda_route is -1\.0"),
        ({"lr_scheduler": "piecewise_constant"}, "lr_scheduler.*'piecewise_constant'"),  # needs rules of its own
        ({"lr_scheduler": "cosin"}, "lr_scheduler.*'cosin'.*'?cosine"),
        # What makes every loss, or every picture, one that is not finite.
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"lambda_route": float("nan")}, "lambda_route is nan"),
        ({"lambda_diff": float("inf")}, "lambda_diff is inf"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"lora_rank": 4, "lora_alpha": 0}, r"lora_alpha is 0\.0"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_values_out_of_range_are_refused(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig.load(write(tmp_path, **values))


@pytest.mark.parametrize("name", ["steps", "batch_size", "keep_last"])
def test_the_least_of_a_range_is_accepted(tmp_path, name):
    assert getattr(TrainingConfig.load(write(tmp_path, **{name: 1})), name) == 1
    ends = {"null_prompt": 0, "label_threshold": 1, "tam_max_noise": 1, "checkpointing": 0, "validate_every": 0}
    config = TrainingConfig.load(write(tmp_path, **ends))
    assert {name: getattr(config, name) for name in ends} == ends


def test_a_missing_file_is_named_beside_an_example(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config file '.*none\.yaml'.*examples/train_cogvideox\.yaml"):
        TrainingConfig.load(tmp_path / "none.yaml")
    with pytest.raises(FileNotFoundError, match="no config file"):
        TrainingConfig.load(tmp_path)


@pytest.mark.parametrize("left_out", [["base"], ["shards", "output"], ["base", "shards", "output"]])
def test_missing_fields_are_named_together(tmp_path, left_out):
    values = {name: value for name, value in REQUIRED.items() if name not in left_out} or {"steps": 5}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=f"The config lacks {', '.join(left_out)}: "):
        TrainingConfig.load(tmp_path / "run.yaml")
    given = [f"{name}={REQUIRED[name]}" for name in left_out]
    assert TrainingConfig.load(tmp_path / "run.yaml", given).base == REQUIRED["base"]


@pytest.mark.parametrize("overrides", [[], ["steps=5"]], ids=["alone", "with an override"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"- base\n- shards\n", "is a list, but must map field names to values"),
        (b"steps", "is a str, but must map field names"),
        (b"", "is a NoneType, but must map field names"),
        (b"base: [1, 2\nsteps: {", "is not YAML"),
        (b"base: @x", "is not YAML"),
        (b"base: \xff\xfe\xfa", "is not YAML"),
        (b"\x00\x01PK\x03", "is not YAML"),
    ],
    ids=["list", "text", "empty", "torn", "reserved sign", "not UTF-8", "not text"],
)
def test_a_file_that_maps_nothing_is_refused(tmp_path, data, message, overrides):
    (tmp_path / "run.yaml").write_bytes(data)
    with pytest.raises(ValueError, match=rf"'.*run\.yaml' {message}"):
        TrainingConfig.load(tmp_path / "run.yaml", overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "'steps' is no override: write name=value"),
        ("--steps 5", "'--steps 5' is no override"),
        ("steps=many", "steps is 'many', but must be int"),
        ("steps=", "steps is None, but must be int"),
        ("=5", "'' is none of the config's fields"),
        ("router={inner", "'router={inner' is not YAML"),
    ],
)
def test_bad_overrides_are_refused(tmp_path, override, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig.load(write(tmp_path), [override])
