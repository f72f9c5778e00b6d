"""The files of one adapter: `config.json`, one safetensors file, a model card. Loaded strictly, saved atomically."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open

from ..files.atomic import written_aside
from ..files.hub import HUB_KEYWORDS, fetch, upload
from ..files.model_card import model_card
from .offloading import execution_device

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec

    from typing_extensions import Self

    _P = ParamSpec("_P")

    # diffusers' own has no types, with which a type checker would take an adapter that is built for Any.
    def register_to_config(init: Callable[_P, None]) -> Callable[_P, None]: ...
else:
    from diffusers.configuration_utils import register_to_config as register_to_config


_LOAD_KEYWORDS = (
    "device_map", "disable_mmap", "dtype", "low_cpu_mem_usage", "output_loading_info", "torch_dtype", "variant",
)  # fmt: skip


class Adapter(ModelMixin, ConfigMixin):
    """A diffusers model that loads strictly, never unpickles, and saves itself in one file with a model card."""

    presets: dict[str, dict[str, Any]] = {}  # noqa: RUF012

    def place(self, device: torch.device | str) -> None:
        """Move to a device, unless hooks of accelerate put each weight where it is used."""
        if execution_device(self) is None:
            self.to(device)

    @property
    def execution_device(self) -> torch.device:
        """Device on which the adapter computes: that of its weights, or that to which hooks of accelerate put them."""
        return execution_device(self) or self.device

    @classmethod
    def from_preset(cls, name: str, **overrides) -> "Self":
        """Build an untrained adapter of the sizes known by `name`.

        Args:
            name: One of `presets`.
            overrides: Constructor arguments that replace the preset's.

        Raises:
            ValueError: If there is no such preset.
        """
        if name not in cls.presets:
            raise ValueError(f"{cls.__name__} has no preset {name!r}: choose one of {', '.join(cls.presets)}.")
        return cls(**{**cls.presets[name], **overrides})

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, subfolder: str | None = None, **kwargs
    ) -> "Self":
        """Load from a Hub repo or a folder, in evaluation mode.

        Args:
            pretrained_model_name_or_path: A Hub repo or a folder.
            subfolder: Where the adapter lies in it; a checkpoint of all adapters has "router", "encoder" and "tam".
            kwargs: diffusers' own: `torch_dtype` (or `dtype`), `variant`, `device_map`, `low_cpu_mem_usage`,
                `disable_mmap`; for a Hub repo `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`.

        Raises:
            ValueError: If the config or the weights are not those of this class, or damaged; lists missing, unexpected
                and misshapen weights. No file but safetensors is ever opened for weights.
            OSError: If it cannot be fetched.
            TypeError: If a keyword is not known.
        """
        unknown = sorted(set(kwargs) - {*HUB_KEYWORDS, *_LOAD_KEYWORDS})
        if unknown:
            known = ", ".join(sorted((*HUB_KEYWORDS, *_LOAD_KEYWORDS)))
            raise TypeError(f"from_pretrained does not know {', '.join(unknown)}: it takes subfolder, {known}.")
        variant = kwargs.get("variant")
        weights = SAFETENSORS_WEIGHTS_NAME if variant is None else f"diffusion_pytorch_model.{variant}.safetensors"
        files = [str(Path(subfolder or "", name)) for name in (CONFIG_NAME, weights)]
        hub = {k: kwargs.pop(k) for k in HUB_KEYWORDS if k in kwargs}
        folder = fetch(pretrained_model_name_or_path, files, **hub) / (subfolder or "")
        cls.inspect(folder, weights)
        return super().from_pretrained(folder, use_safetensors=True, **kwargs)

    @classmethod
    def inspect(cls, folder: Path, weights: str = SAFETENSORS_WEIGHTS_NAME):
        """Return the adapter of a folder without its weights, on the meta device.

        Raises:
            ValueError: If the folder does not hold exactly the files, settings and weights of an adapter of this class.
        """
        present = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "nothing"
        for name in (CONFIG_NAME, weights):
            if not (folder / name).is_file():
                raise ValueError(
                    f"'{folder}' has no {name}, but {present}. Name the subfolder or the variant if it has one, or "
                    "give a renamed file its name again; pickled weights are never loaded."
                )
        if list(folder.glob("*.index.json")):
            raise ValueError(
                f"'{folder}' holds an index of several weight files, but an adapter has one, {weights}: delete the "
                "index."
            )
        config = cls.load_config(folder)
        if config.get("_class_name") != cls.__name__:
            raise ValueError(
                f"'{folder}' holds a {config.get('_class_name')}, not a {cls.__name__}: load it with that class, or "
                "name the right subfolder."
            )
        foreign = sorted(k for k in config if not k.startswith("_") and k not in cls._get_init_keys(cls))
        if foreign:
            raise ValueError(
                f"'{folder / CONFIG_NAME}' has settings that this version of {cls.__name__} does not know: "
                f"{', '.join(foreign)}. Update lavieid-adapters, or check the file."
            )
        try:
            with safe_open(folder / weights, framework="pt") as file:
                found = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            with open(folder / weights, "rb") as file:
                pointer = file.read(23) == b"version https://git-lfs"
            remedy = "It is a git-lfs pointer: run git lfs pull" if pointer else "Fetch or save it again"
            raise ValueError(f"'{folder / weights}' is damaged or no safetensors file ({error}). {remedy}.") from error
        try:
            with torch.device("meta"):
                adapter = cls.from_config(config)
        except (TypeError, ValueError) as error:
            raise ValueError(f"'{folder / CONFIG_NAME}' does not build a {cls.__name__}: {error}") from error
        expected = {name: list(tensor.shape) for name, tensor in adapter.state_dict().items()}
        if found != expected:
            shapes = [f"{k} {found[k]} for {expected[k]}" for k in found if k in expected and found[k] != expected[k]]
            raise ValueError(
                f"'{folder / weights}' does not hold the weights of a {cls.__name__} of this config.\n"
                f"  missing keys: {', '.join(sorted(set(expected) - set(found))) or 'none'}\n"
                f"  unexpected keys: {', '.join(sorted(set(found) - set(expected))) or 'none'}\n"
                f"  other shapes: {', '.join(shapes) or 'none'}"
            )
        return adapter

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        *,
        license: str = "apache-2.0",
        base_model: str | None = None,
        variant: str | None = None,
        is_main_process: bool = True,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **kwargs,
    ) -> None:
        """Write `config.json`, one safetensors file and a model card, aside first and then renamed.

        Args:
            save_directory: A folder, made if it is not there.
            license: The licence that the card names.
            base_model: The model that it was trained on, for the card.
            variant: Written into the weights' file name.
            is_main_process: Whether this process of several is the one that writes; the others do nothing.
            push_to_hub: Push to the Hub as well.
            repo_id: The repo to push to; the folder's name if None.
            kwargs: As in `push_to_hub`.

        Raises:
            ValueError: If `save_directory` is a file.
        """
        if kwargs and not push_to_hub:
            raise TypeError(f"save_pretrained does not know {', '.join(kwargs)} without push_to_hub=True.")
        if not is_main_process:
            return
        with written_aside(save_directory) as folder:
            self.save_files(folder, variant)
            card = model_card({type(self).__name__: (self.num_parameters(), self.config)}, license, base_model)
            (folder / "README.md").write_text(card, encoding="utf-8")
        if push_to_hub:
            self.push_to_hub(
                repo_id or Path(save_directory).name, license=license, base_model=base_model, variant=variant, **kwargs
            )

    def save_files(self, folder: Path, variant: str | None = None) -> None:
        """Write `config.json` and the weights into `folder`, without a card.

        Raises:
            ValueError: If there are weights that are not the adapter's own, such as those of a LoRA, with which it
                could not be loaded again.
        """
        with torch.device("meta"):
            own = type(self).from_config(self.config).state_dict().keys()
        if foreign := sorted(set(self.state_dict()) - set(own)):
            raise ValueError(
                f"This {type(self).__name__} holds weights that are not its own ({', '.join(foreign[:3])}, ...), such "
                "as those of a LoRA, and could not be loaded again. Merge or unload them first, or save them by PEFT."
            )
        super().save_pretrained(folder, variant=variant, max_shard_size="1TB")

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str = "apache-2.0",
        base_model: str | None = None,
        variant: str | None = None,
        **kwargs,
    ):
        """Save to a temporary folder and upload it as one commit.

        Args:
            repo_id: "name" or "organisation/name"; created if it is not there.
            license: The licence that the card names.
            base_model: The model that it was trained on, for the card.
            variant: Written into the weights' file name.
            kwargs: `token`, `private`, `create_pr`, `commit_message`.
        """
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "adapter")
            self.save_pretrained(folder, license=license, base_model=base_model, variant=variant)
            return upload(folder, repo_id, **kwargs)
