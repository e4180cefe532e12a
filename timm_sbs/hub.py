"""Predictors from the Hugging Face Hub."""
import contextlib
from pathlib import Path
from typing import Optional, Sequence, Union

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, \
    OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

from timm_sbs.artifact import CONFIG_NAME, WEIGHTS_NAME
from timm_sbs.errors import ArtifactError

__all__ = ['NETWORK_ERRORS', 'reason_of', 'download']

# What the Hub's client raises: its own errors, and those of the HTTP library beneath, which differs between versions.
NETWORK_ERRORS = (*HfHubHTTPError.__bases__, OSError)


def download(
        repo: str,
        cache_dir: Optional[Union[str, Path]] = None,
        names: Sequence[str] = (CONFIG_NAME, WEIGHTS_NAME),
        optional: Sequence[str] = (),
) -> Path:
    """Download a predictor, or find it in the local cache.

    Args:
        repo: 'user/name' or 'user/name@revision'.
        cache_dir: Cache folder; default: that of huggingface_hub.
        names: Files to download; default: all that a predictor consists of.
        optional: Files to download if the repository has them.

    Returns:
        The folder that holds its files.

    Raises:
        ArtifactError: The repository, revision or a file does not exist, or cannot be reached.
    """
    repo_id, _, revision = repo.partition('@')

    def fetch(name: str) -> str:
        return hf_hub_download(repo_id, name, revision=revision or None, cache_dir=cache_dir, library_name='timm_sbs')

    try:
        for name in names:
            path = fetch(name)
        for name in optional:
            with contextlib.suppress(EntryNotFoundError):
                fetch(name)
        return Path(path).parent
    except HFValidationError as e:
        raise ArtifactError(f"'{repo_id}' is no repository name of the Hub: {e}") from e
    except RepositoryNotFoundError as e:
        raise ArtifactError(
            f"The Hub has no repository '{repo_id}' that you may read. Check the name; log in if it is private.") from e
    except RevisionNotFoundError as e:
        raise ArtifactError(f"'{repo_id}' on the Hub has no revision '{revision}'.") from e
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as e:
        raise ArtifactError(
            f"'{repo}' is not in the local cache and the Hub cannot be reached{_why(e.__cause__)}. Connect once, or "
            f"load the predictor from a folder: pretrained_cfg_overlay=dict(file=FOLDER).") from e
    except EntryNotFoundError as e:
        raise ArtifactError(f"'{repo}' on the Hub is no predictor of timm_sbs: it has no {name}.") from e
    except NETWORK_ERRORS as e:
        raise ArtifactError(f"'{repo}' cannot be downloaded from the Hub: {reason_of(e)}") from e


def reason_of(error: BaseException) -> str:
    """First line of a message of the Hub or of its client."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip('. ') + '.'


def _why(cause: Optional[BaseException]) -> str:
    return f" ({reason_of(cause).rstrip('.')})" if cause and str(cause) else ''
