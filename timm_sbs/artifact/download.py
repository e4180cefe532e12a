"""Predictors from the Hugging Face Hub: all files of one commit, and no wait for a network that is not there."""
import contextlib
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from timm_sbs.artifact.files import CONFIG_NAME, WEIGHTS_NAME
from timm_sbs.common.errors import ArtifactError

__all__ = ['NETWORK_ERRORS', 'reason_of', 'download', 'hub_if_it_answers', 'why_no_answer']

# What the Hub's client raises: its own errors, and those of the HTTP library beneath, which differs between versions.
NETWORK_ERRORS: tuple[type[BaseException], ...] = (*HfHubHTTPError.__bases__, OSError)
LIBRARY = 'timm_sbs'
PATIENCE = 2.5  # seconds until the Hub must have answered, unless HF_HUB_ETAG_TIMEOUT says otherwise
_BUSY = (408, 429, 500, 502, 503, 504)  # answers of a Hub that is as good as not there


def download(
        repo: str,
        cache_dir: str | Path | None = None,
        names: Sequence[str] = (CONFIG_NAME, WEIGHTS_NAME),
        optional: Sequence[str] = (),
) -> Path:
    """Download a predictor, or find it in the local cache. All files are of one commit.

    One request, which is not repeated, finds out whether the Hub answers. If it does not, only the cache is searched.
    A download that breaks off afterwards goes on, as often as huggingface_hub tries.

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
    unreachable: str | None = None
    name = names[0]
    try:
        unreachable = _why_unreachable(repo_id, name, revision)
        commit = revision or None
        for name in names:
            path = _fetch(repo_id, name, commit, cache_dir, unreachable)
            commit = path.parent.name  # the revision may move on meanwhile
        for extra in optional:
            with contextlib.suppress(EntryNotFoundError):
                _fetch(repo_id, extra, commit, cache_dir, unreachable)
        return path.parent
    except HFValidationError as e:
        raise ArtifactError(f"'{repo_id}' is no repository name of the Hub: {e}") from e
    except RepositoryNotFoundError as e:
        raise ArtifactError(
            f"The Hub has no repository '{repo_id}' that you may read. Check the name; log in if it is private.") from e
    except RevisionNotFoundError as e:
        raise ArtifactError(f"'{repo_id}' on the Hub has no revision '{revision}'.") from e
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as e:
        cause = unreachable or (reason_of(e.__cause__).rstrip('.') if e.__cause__ else '')
        raise ArtifactError(
            f"'{repo}' is not in the local cache and the Hub cannot be reached{f' ({cause})' if cause else ''}. "
            f"Connect once, or load the predictor from a folder: pretrained_cfg_overlay=dict(file=FOLDER).") from e
    except EntryNotFoundError as e:
        raise ArtifactError(f"'{repo}' on the Hub is no predictor of timm_sbs: it has no {name}.") from e
    except NETWORK_ERRORS as e:
        raise ArtifactError(f"'{repo}' cannot be downloaded from the Hub: {reason_of(e)}") from e


def _fetch(
        repo_id: str,
        name: str,
        revision: str | None,
        cache_dir: str | Path | None,
        unreachable: str | None,
) -> Path:
    return Path(hf_hub_download(
        repo_id, name, revision=revision, cache_dir=cache_dir, library_name=LIBRARY,
        local_files_only=unreachable is not None))


@contextlib.contextmanager
def hub_if_it_answers(repo: str) -> Iterator[str | None]:
    """Within the block huggingface_hub, whoever calls it, searches its cache alone unless the Hub answers in time.

    Args:
        repo: 'user/name' or 'user/name@revision' that is about to be loaded.

    Yields:
        Why the Hub does not answer, or None if it does, whatever it says.
    """
    repo_id, _, revision = repo.partition('@')
    unreachable, before = None, constants.HF_HUB_OFFLINE
    with contextlib.suppress(HfHubHTTPError, EntryNotFoundError, HFValidationError):
        unreachable = _why_unreachable(repo_id, CONFIG_NAME, revision)
    constants.HF_HUB_OFFLINE = before or unreachable is not None
    try:
        yield unreachable
    finally:
        constants.HF_HUB_OFFLINE = before


def why_no_answer(url: str) -> str | None:
    """Why the host of a file does not answer, or None if it does, whatever it says."""
    try:
        asked = urllib.request.Request(url, method='HEAD')
        if not _within(PATIENCE, lambda: urllib.request.urlopen(asked, timeout=PATIENCE).close()):
            return f'no answer within {PATIENCE:g} seconds'
    except urllib.error.HTTPError:
        return None
    except OSError as e:
        return reason_of(e).rstrip('.')
    return None


def _why_unreachable(repo_id: str, name: str, revision: str) -> str | None:
    """Why the Hub does not answer, or None if it does.

    Raises:
        HfHubHTTPError, EntryNotFoundError: It answers that there is no such repository, revision or file.
    """
    given = os.environ.get('HF_HUB_ETAG_TIMEOUT')
    seconds = constants.HF_HUB_ETAG_TIMEOUT if given else PATIENCE
    url = hf_hub_url(repo_id, name, revision=revision or None)
    try:
        if not _within(seconds, lambda: get_hf_file_metadata(url, timeout=seconds, library_name=LIBRARY)):
            return f'no answer within {seconds:g} seconds; HF_HUB_ETAG_TIMEOUT sets another limit'
    except HfHubHTTPError as e:
        if e.response is None or e.response.status_code not in _BUSY:
            raise
        return reason_of(e).rstrip('.')
    except NETWORK_ERRORS as e:
        if isinstance(e, EntryNotFoundError):
            raise
        return reason_of(e).rstrip('.')
    return None


def _within(seconds: float, ask: Callable[[], object]) -> bool:
    """Whether a function returns in time. Without a thread, each address of a host takes its own time-out."""
    errors: list[BaseException | None] = []

    def run() -> None:
        try:
            ask()
            errors.append(None)
        except BaseException as e:
            errors.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors and errors[0]:
        raise errors[0]
    return bool(errors)


def reason_of(error: BaseException) -> str:
    """First line of a message of the Hub or of its client."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip('. ') + '.'
