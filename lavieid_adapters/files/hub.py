"""The way to and from the Hub: what a repo or a folder holds, fetched by name, and a folder uploaded as one commit."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import create_repo, hf_hub_download, snapshot_download, upload_folder
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

HUB_KEYWORDS = ("cache_dir", "force_download", "local_files_only", "revision", "token")  # of `fetch` and `fetch_file`

# The client's transport errors have no name of its own: it passes on those of the HTTP library that it is built on.
_TRANSPORT_ERRORS = tuple(base for base in HfHubHTTPError.__bases__ if base is not OSError)


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Turn the Hub client's errors that name neither the repo nor the remedy into errors that name both."""
    try:
        yield
    except HFValidationError as error:
        raise ValueError(f"'{repo_id}' is neither a folder nor the id of a Hub repo. Check the path.") from error
    except LocalEntryNotFoundError as error:
        raise OSError(
            f"'{repo_id}' is no folder here, is not in the cache, and could not be fetched from the Hub ({error}). "
            "Check the name, the connection and HF_HUB_OFFLINE."
        ) from error
    except _TRANSPORT_ERRORS as error:
        if isinstance(error, OSError):  # the client's own, which says what is wrong
            raise
        raise OSError(
            f"The connection broke during a transfer of '{repo_id}' ({error}). Nothing half-written is left, so try "
            "again."
        ) from error


def fetch(repo_or_folder: str | os.PathLike, files: Sequence[str], **kwargs) -> Path:
    """Return a folder as it is, or the cached copy of a Hub repo with those of `files` that the repo has.

    Args:
        repo_or_folder: A Hub repo or a folder.
        files: Names or patterns. No other file of a repo is fetched.
        kwargs: For a Hub repo, `HUB_KEYWORDS`.

    Raises:
        ValueError: If it is neither a folder nor the id of a repo.
        OSError: If the repo cannot be fetched.
    """
    if os.path.isdir(repo_or_folder):
        return Path(repo_or_folder)
    with hub_errors(str(repo_or_folder)):
        return Path(snapshot_download(str(repo_or_folder), allow_patterns=list(files), **kwargs))


def fetch_file(repo_or_folder: str | os.PathLike, name: str, subfolder: str | None = None, **kwargs) -> Path:
    """Return the path of one file of a folder, or of a Hub repo's copy in the cache.

    Args:
        repo_or_folder: A Hub repo or a folder.
        name: The file's name.
        subfolder: The folder that holds it in the repo; the top if None.
        kwargs: For a Hub repo, `HUB_KEYWORDS`.

    Raises:
        FileNotFoundError: If the folder has no such file.
        EntryNotFoundError: If the repo has no such file; huggingface_hub's.
        ValueError: If it is neither a folder nor the id of a repo.
        OSError: If the file cannot be fetched.
    """
    if os.path.isdir(repo_or_folder):
        path = Path(repo_or_folder, subfolder or "", name)
        if not path.is_file():
            raise FileNotFoundError(f"There is no '{path}'.")
        return path
    with hub_errors(str(repo_or_folder)):
        return Path(hf_hub_download(str(repo_or_folder), name, subfolder=subfolder, **kwargs))


def upload(
    folder: Path,
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    create_pr: bool = False,
    commit_message: str = "Upload lavieid-adapters",
):
    """Create the Hub repo if it is not there, and upload the folder as one commit.

    Args:
        folder: The folder; all that is in it is uploaded.
        repo_id: "name" or "organisation/name".
        token, private, create_pr, commit_message: As in huggingface_hub's `create_repo` and `upload_folder`.

    Raises:
        ValueError: If `repo_id` is not the id of a repo.
        OSError: If the upload fails; the repo is then unchanged.
    """
    with hub_errors(repo_id):
        repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        return upload_folder(
            repo_id=repo_id, folder_path=folder, token=token, create_pr=create_pr, commit_message=commit_message
        )
