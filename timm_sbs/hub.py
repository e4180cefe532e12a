"""Predictors on the Hugging Face Hub."""
import sys
from pathlib import Path
from typing import Optional, Union

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, \
    LocalTokenNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import disable_progress_bars

from timm_sbs.artifact import CONFIG_NAME, WEIGHTS_NAME
from timm_sbs.errors import ArtifactError, SbsError

__all__ = ['download', 'create_repository', 'upload']


def download(repo: str, cache_dir: Optional[Union[str, Path]] = None) -> Path:
    """Download a predictor, or find it in the local cache.

    Args:
        repo: 'user/name' or 'user/name@revision'.
        cache_dir: Cache folder; default: that of huggingface_hub.

    Returns:
        The folder that holds its files.

    Raises:
        ArtifactError: The repository, revision or a file does not exist, or cannot be reached.
    """
    repo_id, _, revision = repo.partition('@')
    try:
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            path = hf_hub_download(
                repo_id, name, revision=revision or None, cache_dir=cache_dir, library_name='timm_sbs')
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
            f"'{repo}' is not in the local cache and the Hub cannot be reached. Connect once, or load the predictor "
            f"from a folder: pretrained_cfg_overlay=dict(file=FOLDER).") from e
    except EntryNotFoundError as e:
        raise ArtifactError(f"'{repo}' on the Hub is no predictor of timm_sbs: it has no {name}.") from e
    except (HfHubHTTPError, OSError) as e:
        raise ArtifactError(f"'{repo}' cannot be downloaded from the Hub: {e}") from e


def create_repository(repo_id: str, private: bool = False) -> None:
    """Create a model repository, or make sure that one's own exists. What is wrong with a login shows here.

    Raises:
        SbsError: The name is wrong, nobody is logged in, or the Hub refuses or cannot be reached.
    """
    try:
        HfApi(library_name='timm_sbs').create_repo(repo_id, private=private, exist_ok=True)
    except HFValidationError as e:
        raise SbsError(f"'{repo_id}' is no repository name of the Hub: {e}") from e
    except LocalTokenNotFoundError as e:
        raise SbsError('Nobody is logged in to the Hub. Run: hf auth login, or set HF_TOKEN.') from e
    except (HfHubHTTPError, OSError) as e:
        raise SbsError(f"Repository '{repo_id}' cannot be created on the Hub: {_reason(e)} Is the token valid, and may "
                       f'it write there?') from e


def upload(folder: Union[str, Path], repo_id: str) -> str:
    """Upload the files of an artifact to an existing repository, in one commit.

    Returns:
        Address of the commit.

    Raises:
        SbsError: The Hub refuses or cannot be reached; the folder is as it was.
    """
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        commit = HfApi(library_name='timm_sbs').upload_folder(
            repo_id=repo_id, folder_path=folder, allow_patterns=[CONFIG_NAME, WEIGHTS_NAME],
            commit_message='Upload a predictor with timm_sbs')
    except (HfHubHTTPError, OSError) as e:
        raise SbsError(f"'{folder}' cannot be uploaded to '{repo_id}': {_reason(e)} The artifact is complete on disk; "
                       f'upload it again later.') from e
    return commit.commit_url


def _reason(error: Exception) -> str:
    """First line of a message of the Hub."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip('. ') + '.'
