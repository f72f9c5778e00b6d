"""The files of an adapter: `config.json`, one safetensors file and a model card; loaded strictly, saved aside and renamed."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import ConfigMixin, ModelMixin
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from huggingface_hub import create_repo, upload_folder
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError

from .card import model_card

# The client's transport errors have no name of its own: it passes on those of the HTTP library that it is built on.
_TRANSPORT_ERRORS = tuple(base for base in HfHubHTTPError.__bases__ if base is not OSError)


@contextmanager
def connection_errors(place: str) -> Iterator[None]:
    """Turn an HTTP library's error, which names neither the file nor the remedy, into an OSError that does."""
    try:
        yield
    except _TRANSPORT_ERRORS as error:
        if isinstance(error, OSError):  # the client's own, which says what is wrong
            raise
        raise OSError(
            f"The connection broke while '{place}' was fetched ({error}). Nothing half-written is kept: try again."
        ) from error


@contextmanager
def written_aside(target: str | os.PathLike) -> Iterator[Path]:
    """Give an empty folder beside `target`, and move what was put there into `target` once the block has ended well.

    Entries of the same name are replaced one rename at a time, others are left alone; after an error nothing has changed.
    """
    target = Path(target)
    if target.is_file():
        raise ValueError(f"'{target}' is a file: give a folder to save to.")
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same parent, since a rename is atomic only within a file system.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        new.mkdir()
        old.mkdir()
        yield new
        target.mkdir(exist_ok=True)
        for entry in sorted(new.iterdir()):
            if (target / entry.name).is_dir():  # a folder cannot be renamed onto one that is not empty
                os.replace(target / entry.name, old / entry.name)
            os.replace(entry, target / entry.name)


def upload(folder: Path, repo_id: str, *, token=None, private=None, create_pr=False, commit_message=None):
    """Create the Hub repo if need be and upload the folder as one commit."""
    repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
    return upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        token=token,
        create_pr=create_pr,
        commit_message=commit_message or "Upload lavieid-adapters",
    )


class Adapter(ModelMixin, ConfigMixin):
    """A diffusers model that loads strictly, never unpickles, and saves itself with a model card."""

    presets: dict[str, dict[str, Any]] = {}  # noqa: RUF012

    @classmethod
    def from_preset(cls, name: str, **overrides):
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
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs):
        """Load from a Hub repo or a folder; keywords (`subfolder`, `torch_dtype`, `revision`, ...) are diffusers' own.

        Raises:
            ValueError: If the config or the weights are not those of this class; lists missing and unexpected keys.
            OSError: If a file is not there.
        """
        place = "/".join(filter(None, [str(pretrained_model_name_or_path), kwargs.get("subfolder")]))
        if kwargs.setdefault("use_safetensors", True) is not True:
            raise ValueError("Adapters load from safetensors only: leave use_safetensors out.")
        hub = ("cache_dir", "force_download", "proxies", "token", "local_files_only", "revision", "subfolder")
        with connection_errors(place):
            config = cls.load_config(pretrained_model_name_or_path, **{k: kwargs[k] for k in hub if k in kwargs})
        if config.get("_class_name") != cls.__name__:
            raise ValueError(
                f"'{place}' holds a {config.get('_class_name')}, not a {cls.__name__}: load it with that class, or name "
                "the right subfolder."
            )
        foreign = sorted(k for k in config if not k.startswith("_") and k not in cls._get_init_keys(cls))
        if foreign:
            raise ValueError(
                f"'{place}/config.json' has settings that this version of {cls.__name__} does not know: "
                f"{', '.join(foreign)}. Update lavieid-adapters, or check the file."
            )
        wants_info = kwargs.pop("output_loading_info", False)
        _refuse_renamed_weights(Path(place), kwargs.get("variant"))
        try:
            with connection_errors(place):
                model, info = super().from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        except SafetensorError as error:
            raise ValueError(
                f"The weights of '{place}' are damaged ({error}). Delete the file and fetch or save it again."
            ) from error
        missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
        if missing or unexpected:
            raise ValueError(
                f"The weights of '{place}' are not those of a {cls.__name__} of this config.\n"
                f"  missing keys: {', '.join(missing) or 'none'}\n  unexpected keys: {', '.join(unexpected) or 'none'}"
            )
        return (model, info) if wants_info else model

    def save_pretrained(self, save_directory: str | os.PathLike, *, license: str = "apache-2.0", **kwargs) -> None:
        """Write `config.json`, one safetensors file and a model card, aside first and then renamed.

        Args:
            save_directory: A folder, made if it is not there.
            license: The licence that the card names.
            kwargs: diffusers' own (`variant`, `max_shard_size`, `push_to_hub`, `repo_id`, ...).

        Raises:
            ValueError: If `save_directory` is a file, or if another format than safetensors is asked for.
        """
        if kwargs.pop("push_to_hub", False):
            hub = ("token", "private", "create_pr", "commit_message")
            repo_id = kwargs.pop("repo_id", Path(save_directory).name)
            self.push_to_hub(repo_id, license=license, **{k: kwargs.pop(k) for k in hub if k in kwargs})
        with written_aside(save_directory) as folder:
            self.save_files(folder, **kwargs)
            (folder / "README.md").write_text(model_card({type(self).__name__: self}, license), encoding="utf-8")

    def save_files(self, folder: Path, **kwargs) -> None:
        """Write `config.json` and the weights into `folder`, without a card."""
        if kwargs.setdefault("safe_serialization", True) is not True:
            raise ValueError("Adapters are saved as safetensors only: leave safe_serialization out.")
        super().save_pretrained(folder, **kwargs)

    def push_to_hub(self, repo_id: str, *, license: str = "apache-2.0", variant: str | None = None, **kwargs):
        """Save to a temporary folder and upload it as one commit.

        Args:
            repo_id: "name" or "organisation/name"; created if it is not there.
            license: The licence that the card names.
            variant: As in `save_pretrained`.
            kwargs: `token`, `private`, `create_pr`, `commit_message`.
        """
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "adapter")
            self.save_pretrained(folder, license=license, variant=variant)
            return upload(folder, repo_id, **kwargs)


def _refuse_renamed_weights(folder: Path, variant: str | None) -> None:
    """Say which file is meant, where a folder holds safetensors of other names only."""
    if folder.is_dir() and variant is None and not list(folder.glob("diffusion_pytorch_model*.safetensors*")):
        present = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
        raise ValueError(
            f"'{folder}' has no {SAFETENSORS_WEIGHTS_NAME} (it holds {present}). If the file was renamed, give it that "
            "name again; pickled weights are never loaded."
        )
