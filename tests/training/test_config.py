"""The settings of a training run: what they are, and what is refused before anything is loaded."""

import json
import math
import re
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import yaml

from lavieid_adapters.training.config import FREE, TrainingConfig
from lavieid_adapters.training.options import expected

REQUIRED = {"base": "zai-org/CogVideoX-5b", "shards": "shards", "output": "out"}


def write(tmp_path, text: str = "", **values):
    """A config file of the required fields, some others, and lines of text."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**REQUIRED, **values}) + text, encoding="utf-8")
    return path


def test_every_option_has_a_help_of_its_own():
    helps = [f.metadata["help"] for f in fields(TrainingConfig)]
    assert len(helps) > 40
    assert all(re.fullmatch(r"\S.*\.", text) for text in helps)
    assert len(set(helps)) == len(helps)


def test_the_readme_lists_the_options_as_their_metadata_has_them():
    hints, readme = (
        get_type_hints(TrainingConfig),
        Path(__file__).parents[2] / "lavieid_adapters" / "training" / "README.md",
    )
    rows = ["| option | default | value | |", "| --- | --- | --- | --- |"]
    for field in fields(TrainingConfig):
        default = "" if field.name in REQUIRED else f"`{json.dumps(TrainingConfig.defaults()[field.name])}`"
        free = " ○" if field.metadata["free"] else ""
        allowed = expected(field, hints[field.name])
        rows.append(f"| `{field.name}`{free} | {default} | {allowed} | {field.metadata['help']} |")
    table = "\n".join(rows)
    assert table in readme.read_text(encoding="utf-8"), f"the table in {readme} should be:\n{table}"


def test_what_a_run_may_be_continued_with_is_what_changes_no_weight():
    assert {
        "output", "steps", "gradient_accumulation", "checkpointing", "memory_gib", "compile", "num_workers",
        "checkpoint_every", "keep_last", "max_bad_steps", "validate_every", "validation", "validation_steps",
        "guidance_scale", "log_every", "tracker",
    } == FREE  # fmt: skip


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
    message = rf"{name!r} is none of the config's options\. Did you mean '({near})"
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
        ({"steps": "many"}, r"steps is 'many', but must be a whole number, at least 1\."),
        ({"steps": 1.5}, r"steps is 1\.5, but must be a whole number, at least 1\."),
        ({"steps": True}, r"steps is True, but must be a whole number, at least 1\."),
        ({"steps": None}, r"steps is None, but must be a whole number, at least 1\."),
        ({"base": 5}, r"base is 5, but must be text\."),
        ({"base": None}, r"base is None, but must be text\."),
        ({"learning_rate": "fast"}, r"learning_rate is 'fast', but must be a number, greater than 0\."),
        ({"learning_rate": [3e-6]}, r"learning_rate is \[3e-06\], but must be a number, greater than 0\."),
        ({"learning_rate": False}, r"learning_rate is False, but must be a number, greater than 0\."),
        ({"compile": "yes please"}, r"compile is 'yes please', but must be true or false\."),
        ({"compile": 1}, r"compile is 1, but must be true or false\."),
        ({"stage": "encoder"}, r"stage is 'encoder', but must be 'router', 'tam' or 'both'\."),
        ({"dtype": "float16"}, r"dtype is 'float16', but must be 'bfloat16' or 'float32'\."),
        ({"host_storage": "int8"}, r"host_storage is 'int8', but must be 'fp8', or null\."),
        (
            {"checkpointing": "some"},
            r"checkpointing is 'some', but must be 'auto' or 'all', or a whole number, at least 0\.",
        ),
        ({"tracker": "mlflow"}, r"tracker is 'mlflow', but must be 'tensorboard' or 'wandb', or null\."),
        (
            {"adam_betas": [0.9]},
            r"adam_betas is \[0\.9\], but must be a list of 2, each a number, at least 0 and less than 1\.",
        ),
        (
            {"adam_betas": 0.9},
            r"adam_betas is 0\.9, but must be a list of 2, each a number, at least 0 and less than 1\.",
        ),
        (
            {"adam_betas": [0.9, "x"]},
            r"adam_betas is \[0\.9, 'x'\], but must be a list of 2, each a number, at least 0 and less than 1\.",
        ),
        ({"lora_targets": "to_q"}, r"lora_targets is 'to_q', but must be a list of texts\."),
        ({"router": ["inner_dim"]}, r"router is \['inner_dim'\], but must be a mapping\."),
        (
            {"validation": [{"reference": "a.jpg", "prompt": 3}]},
            r"validation is \[\{'prompt': 3, 'reference': 'a\.jpg'\}\], but must be a list of mappings\.",
        ),
        ({"memory_gib": "all"}, r"memory_gib is 'all', but must be a number, greater than 0, or null\."),
    ],
    ids=lambda value: str(value)[:40],
)
def test_values_of_another_type_are_refused(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig.load(write(tmp_path, **values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, r"steps is 0, but must be a whole number, at least 1\."),
        ({"batch_size": -1}, r"batch_size is -1, but must be a whole number, at least 1\."),
        ({"gradient_accumulation": 0}, r"gradient_accumulation is 0, but must be a whole number, at least 1\."),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"keep_last": 0}, "keep_last is 0"),
        ({"max_bad_steps": 0}, "max_bad_steps is 0"),
        ({"log_every": 0}, "log_every is 0"),
        ({"validation_steps": 0}, "validation_steps is 0"),
        ({"route_warmup_steps": -1}, r"route_warmup_steps is -1, but must be a whole number, at least 0\."),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"lora_rank": -4}, "lora_rank is -4"),
        ({"validate_every": -1}, "validate_every is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"learning_rate": 0}, r"learning_rate is 0, but must be a number, greater than 0\."),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"max_grad_norm": -1}, r"max_grad_norm is -1, but"),
        ({"null_prompt": 1.1}, r"null_prompt is 1\.1, but must be a number, at least 0 and at most 1\."),
        ({"label_threshold": -0.1}, r"label_threshold is -0\.1"),
        ({"tam_max_noise": 2}, r"tam_max_noise is 2, but"),
        ({"memory_gib": 0}, r"memory_gib is 0, but must be a number, greater than 0, or null\."),
        ({"checkpointing": -1}, r"checkpointing is -1, but must be 'auto' or 'all', or a whole number, at least 0\."),
        ({"validation": [{"reference": "a.jpg"}]}, r"validation is \[.*reference: photo, prompt: text"),
        ({"validation": [{"reference": "a.jpg", "prompt": "", "seed": "1"}]}, "validation is"),
        ({"stage": "tam", "route_warmup_steps": 5}, "stage 'tam' trains TAM alone"),
        ({"stage": "tam", "lora_rank": 4}, "stage 'tam' trains TAM alone"),
        (
            {"stage": "tam", "tam_denoising_steps": 0},
            r"tam_denoising_steps is 0, but must be a whole number, at least 1\.",
        ),
        (
            {"stage": "tam", "tam_guidance_scale": 0.5},
            r"tam_guidance_scale is 0\.5, but must be a number, at least 1\.",
        ),
        (
            {"stage": "both", "tam_denoising_steps": 2},
            "stage 'both' denoises once.*tam_denoising_steps is 2.*train TAM by stage 'tam'",
        ),
        ({"tam_guidance_scale": 2}, "stage 'router' denoises once and without guidance"),
        # What the optimizer and diffusers would refuse, but only after the base model has been loaded.
        ({"adam_betas": [0.9, 1.0]}, r"adam_betas is \[0\.9, 1\.0\], but"),
        ({"weight_decay": -0.1}, r"weight_decay is -0\.1"),
        ({"lambda_route": -1}, r"lambda_route is -1, but"),
        (
            {"lr_scheduler": "piecewise_constant"},
            "lr_scheduler is 'piecewise_constant', but must be one of linear, ",
        ),  # needs rules of its own
        ({"lr_scheduler": "cosin"}, "lr_scheduler is 'cosin', but must be one of .*cosine"),
        # What makes every loss, or every picture, one that is not finite.
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"lambda_route": float("nan")}, "lambda_route is nan"),
        ({"lambda_diff": float("inf")}, "lambda_diff is inf"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"lora_rank": 4, "lora_alpha": 0}, r"lora_alpha is 0, but"),
        ({"lora_rank": 4, "lora_targets": []}, r"lora_rank is 4, but lora_targets is empty"),
        ({"seed": 2**32}, r"seed is 4294967296, but must be a whole number, at least 0 and at most 4,294,967,295\."),
        ({"output": ""}, r"output is '', but must be text\."),
        ({"adapters": ""}, r"adapters is '', but must be text, or null\."),
        ({"memory_gib": "inf"}, "memory_gib is 'inf', but"),
        ({"weight_decay": 10**400}, "weight_decay is 10+, but must be a number, at least 0"),
        ({"stage": "tam", "tam_max_noise": 0}, r"tam_max_noise is 0\.0, but must be greater than 0.*stage 'tam'"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_values_out_of_range_are_refused(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig.load(write(tmp_path, **values))


@pytest.mark.parametrize("name", [f.name for f in fields(TrainingConfig)])
def test_no_option_takes_what_dies_later_also_when_built_in_python(name):
    assert TrainingConfig(**REQUIRED).steps == 10_000
    for value in (math.nan, -math.inf, object(), [object()], {"unheard of": 1}):
        with pytest.raises(ValueError, match=name):
            TrainingConfig(**{**REQUIRED, name: value})


@pytest.mark.parametrize(
    "name", [n for n, hint in get_type_hints(TrainingConfig).items() if hint is int or n == "checkpointing"]
)
def test_counts_are_whole_numbers_also_when_built_in_python(name):
    for value in (2.5, 1.0, True, "2", None):
        with pytest.raises(ValueError, match=rf"{name} is {value!r}, but must be .*a whole number"):
            TrainingConfig(**{**REQUIRED, name: value})


def test_numbers_and_paths_of_python_become_plain(tmp_path):
    config = TrainingConfig(
        tmp_path, "shards", tmp_path / "out", steps=np.int64(3), learning_rate=np.float32(0.5), adam_betas=[0, 0.9]
    )
    assert (config.base, config.output) == (str(tmp_path), str(tmp_path / "out"))
    assert (type(config.steps), type(config.learning_rate), config.adam_betas) == (int, float, (0.0, 0.9))
    assert yaml.safe_load(yaml.safe_dump(config.as_dict())) == config.as_dict()


@pytest.mark.parametrize("name", ["steps", "batch_size", "keep_last"])
def test_the_least_of_a_range_is_accepted(tmp_path, name):
    assert getattr(TrainingConfig.load(write(tmp_path, **{name: 1})), name) == 1
    ends = {"null_prompt": 0, "label_threshold": 1, "tam_max_noise": 1, "checkpointing": 0, "validate_every": 0}
    config = TrainingConfig.load(write(tmp_path, **ends))
    assert {name: getattr(config, name) for name in ends} == ends


def test_a_missing_file_is_named_beside_an_example(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config file '.*none\.yaml'.*examples/training/cogvideox\.yaml"):
        TrainingConfig.load(tmp_path / "none.yaml")
    with pytest.raises(FileNotFoundError, match="no config file"):
        TrainingConfig.load(tmp_path)


@pytest.mark.parametrize("left_out", [["base"], ["shards", "output"], ["base", "shards", "output"]])
def test_missing_fields_are_named_together(tmp_path, left_out):
    values = {name: value for name, value in REQUIRED.items() if name not in left_out} or {"steps": 5}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=rf"The config lacks {', '.join(left_out)}\. "):
        TrainingConfig.load(tmp_path / "run.yaml")
    given = [f"{name}={REQUIRED[name]}" for name in left_out]
    assert TrainingConfig.load(tmp_path / "run.yaml", given).base == REQUIRED["base"]


@pytest.mark.parametrize("overrides", [[], ["steps=5"]], ids=["alone", "with an override"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"- base\n- shards\n", "is a list, but must map names of options to values"),
        (b"steps", "is a str, but must map names of options"),
        (b"", "is a NoneType, but must map names of options"),
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
        ("steps", "'steps' is no override. Write name=value"),
        ("--steps 5", "'--steps 5' is no override"),
        ("steps=many", r"steps is 'many', but must be a whole number, at least 1\."),
        ("steps=", r"steps is None, but must be a whole number, at least 1\."),
        ("=5", "'' is none of the config's options"),
        ("router={inner", "'router={inner' is not YAML"),
    ],
)
def test_bad_overrides_are_refused(tmp_path, override, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig.load(write(tmp_path), [override])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"router": {"num_heads": 0}}, "router: num_heads is 0, but must be at least 1"),
        ({"router": {"num_heads": 3}}, "router: inner_dim 2048 cannot be split over num_heads 3"),
        ({"router": {"background": 1}}, "router: background is 1"),
        ({"router": {"dim": 0}}, "router: dim is 0, but must be at least 1"),
        ({"encoder": {"depth": 3, "num_scales": 2}}, "encoder: depth"),
        ({"encoder": {"id_dim": "wide"}}, "encoder: id_dim is 'wide'"),
        ({"tam": {"chunks": 0}}, "tam: chunks is 0, but must be at least 1"),
        ({"tam": {"num_heads": 0}}, "tam: num_heads is 0, but must be at least 1"),
        ({"tam": {"num_heads": 2.0}}, "tam: num_heads is 2.0"),
        ({"tam": {"dim": 65}}, "tam: dim 65 over num_heads 1 must give an even number"),
        ({"tam": {"dim": 64, "num_heads": 5}}, "tam: dim 64 over num_heads 5 must give an even number"),
        ({"tam": {"beta": math.inf}}, "tam: beta is inf"),
        ({"tam": {"layout": "bcf"}}, "tam: layout"),
    ],
    ids=str,
)
def test_sizes_of_which_no_adapter_can_be_built_are_refused_before_anything_is_loaded(values, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**REQUIRED, **values)


@pytest.mark.parametrize("values", [{"tam": {"num_heads": 5}}, {"tam": {"dim": 1920}}, {"tam": {"beta": 0}}], ids=str)
def test_sizes_that_the_base_models_width_decides_are_left_to_it(values):
    TrainingConfig(**REQUIRED, **values)
