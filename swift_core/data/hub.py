"""Data sets of the hub and local folders, through the library ``datasets``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from swift_core.data.locations import KNOWN_SUFFIXES, UnreadableError, local_path

_HUB_TIMEOUT_SECONDS = 10.0


def load_hub(name: str, config: str | None, split: str) -> datasets.Dataset:
    """Load one split of a hub data set; without the network, from the cache.

    Raises:
        UnreadableError: it does not exist, the hub can't be asked, or it can't be read.
    """
    offline = _ask_for(name)
    with _no_progress_bars():
        try:
            if offline is None:
                return datasets.load_dataset(name, config, split=split)
            with _offline():
                return datasets.load_dataset(name, config, split=split)
        except Exception as error:
            not_cached = offline is not None and isinstance(error, FileNotFoundError)
            if not_cached or isinstance(error, ConnectionError):
                raise UnreadableError(_unreachable(name, offline or _first_line(error))) from error
            raise UnreadableError(_failure(name, split, error)) from error


def load_folder(location: str, config: str | None, split: str) -> datasets.Dataset:
    """Load one split of the data files in a local folder, or of what ``save_to_disk`` wrote there.

    Raises:
        UnreadableError: there is no data in it, or it can't be read.
    """
    folder = local_path(location)
    with _no_progress_bars():
        try:
            if any((folder / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
                saved = datasets.load_from_disk(str(folder))
                return saved if isinstance(saved, datasets.Dataset) else _split_of(saved, location, split)
            return datasets.load_dataset(str(folder), config, split=split)
        except UnreadableError:
            raise
        except FileNotFoundError as error:
            raise UnreadableError(
                f"{location}: the folder holds no data files (looked for {', '.join(KNOWN_SUFFIXES)})"
            ) from error
        except Exception as error:
            raise UnreadableError(_failure(location, split, error)) from error


def _split_of(saved: datasets.DatasetDict, location: str, split: str) -> datasets.Dataset:
    if split not in saved:
        raise UnreadableError(f"{location}: no split '{split}'; it has {', '.join(saved)}")
    return saved[split]


def _ask_for(name: str) -> str | None:
    """Ask the hub once, briefly: ``load_dataset`` itself repeats a failed request for half a minute.

    Returns:
        None when the hub knows the data set, else why it could not be asked.
    """
    try:
        huggingface_hub.HfApi().dataset_info(name, timeout=_HUB_TIMEOUT_SECONDS)
    except RepositoryNotFoundError as error:
        raise UnreadableError(
            f"{name}: there is no such local file or folder, and the hub has no data set of that name that "
            "you may read (for a private one, log in with `hf auth login`)"
        ) from error
    except HfHubHTTPError as error:
        return _first_line(error)
    except ValueError as error:
        raise UnreadableError(f"{name}: neither a local path nor a valid hub id") from error
    except Exception as error:
        # Offline mode, name resolution, proxies, time-outs: the HTTP client's exceptions are its own.
        return _first_line(error)
    return None


def _unreachable(name: str, reason: str) -> str:
    return (
        f"{name}: there is no such local file or folder, and the hub could not be asked for a data set of "
        f"that name ({reason.removesuffix('.')}); give the path of a local file or folder instead"
    )


def _failure(name: str, split: str, error: Exception) -> str:
    # The library wraps the exception that says which file and what is wrong with it.
    cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
    reason = _first_line(cause or error)
    return f"{name}: split '{split}' can't be loaded ({reason.removesuffix('.')})"


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


@contextmanager
def _offline() -> Iterator[None]:
    was = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = was


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Silence the bars of both libraries, and leave them afterwards as they were."""
    libraries = [datasets.utils, huggingface_hub.utils]
    silenced = [library for library in libraries if not library.are_progress_bars_disabled()]
    with warnings.catch_warnings():
        # They warn where an environment variable forces the bars on; that is what its owner wants.
        warnings.simplefilter("ignore")
        for library in silenced:
            library.disable_progress_bars()
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for library in silenced:
                library.enable_progress_bars()
