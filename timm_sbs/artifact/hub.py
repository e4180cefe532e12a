"""Download and upload of artifacts by the Hugging Face Hub's own functions, without a wait for a Hub that is down."""
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from timm_sbs.artifact.files import CONFIG_NAME, LICENSE_NAME, ONNX_NAME, PROCESSOR_NAME, WEIGHTS_NAME
from timm_sbs.common.errors import ArtifactError, SbsError

__all__ = ['create_repository', 'download', 'offline_if_unreachable', 'require_login', 'unreachable', 'upload']

# What the Hub's client raises: its own errors, those of the HTTP library beneath, which differs between versions,
# ValueError for names that are none, and RuntimeError for an upload that breaks off.
HUB_ERRORS: tuple[type[BaseException], ...] = (*HfHubHTTPError.__bases__, OSError, ValueError, RuntimeError)
LIBRARY = 'timm_sbs'
PATIENCE = 2.5  # seconds until a host must have answered


def unreachable(url: str) -> str | None:
    """Why a host does not answer, or None if it does, whatever it says. huggingface_hub would ask for minutes."""
    found: list[str | None] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method='HEAD')
            urllib.request.urlopen(request, timeout=2 * PATIENCE).close()  # longer than anybody waits for the thread
            found.append(None)
        except urllib.error.HTTPError as e:
            found.append(None if e.code < 500 else _reason(e))
        except OSError as e:
            found.append(_reason(e))

    thread = threading.Thread(target=ask, daemon=True)  # since finding the host's address has no limit of its own
    thread.start()
    thread.join(PATIENCE)
    return found[0] if found else f'no answer within {PATIENCE:g} seconds'


@contextmanager
def offline_if_unreachable(download: bool = True) -> Iterator[str | None]:
    """Within the block huggingface_hub, whoever calls it, searches its cache alone, unless something may be downloaded
    and the Hub answers in time. Yields why it does not, or None.
    """
    before = constants.HF_HUB_OFFLINE
    why = ('HF_HUB_OFFLINE is set' if before else unreachable(constants.ENDPOINT)) if download else 'it is not asked'
    constants.HF_HUB_OFFLINE = why is not None
    try:
        yield why
    finally:
        constants.HF_HUB_OFFLINE = before


def download(repo: str, cache_dir: str | Path | None = None) -> Path:
    """Download an artifact, 'user/name' or 'user/name@revision', or find it in the local cache: its folder there.

    Raises:
        ArtifactError: The repository, revision or a file does not exist, or cannot be reached.
    """
    repo_id, _, revision = repo.partition('@')
    with offline_if_unreachable() as why:
        try:
            folder = Path(snapshot_download(
                repo_id, revision=revision or None, cache_dir=cache_dir, library_name=LIBRARY,
                allow_patterns=[CONFIG_NAME, WEIGHTS_NAME, LICENSE_NAME]))
        except RepositoryNotFoundError as e:
            raise ArtifactError(f"The Hub has no repository '{repo_id}' that you may read. Check the name, and log in "
                                f'if it is private.') from e
        except RevisionNotFoundError as e:
            raise ArtifactError(f"'{repo_id}' on the Hub has no revision '{revision}'.") from e
        except EntryNotFoundError as e:  # in the cache
            raise _not_cached(repo, why or _reason(e.__cause__ or e)) from e
        except HUB_ERRORS as e:
            raise ArtifactError(f"'{repo}' cannot be downloaded from the Hub: {_reason(e)}.") from e
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise _not_cached(repo, why) if why else ArtifactError(
                f"'{repo}' on the Hub is not an artifact: {name} not found.")
    return folder


def _not_cached(repo: str, why: str) -> ArtifactError:
    return ArtifactError(f"'{repo}' is not in the local cache and the Hub cannot be reached ({why}). Connect once, or "
                         f'load the artifact from a folder: pretrained_cfg_overlay=dict(file=FOLDER).')


def require_login(token: str | None = None) -> None:
    """Raises SbsError if nobody is logged in to the Hub."""
    if not (token or get_token()):
        raise SbsError('Nobody is logged in to the Hub. Run: hf auth login, or set HF_TOKEN.')


def create_repository(repo_id: str, private: bool = False, token: str | None = None) -> None:
    """Create a model repository, or make sure that one's own exists. What is wrong with a login shows here.

    Raises:
        SbsError: The name is wrong, nobody is logged in, or the Hub refuses or cannot be reached.
    """
    require_login(token)
    if why := unreachable(constants.ENDPOINT):
        raise SbsError(f"Repository '{repo_id}' cannot be created: the Hub cannot be reached ({why}).")
    try:
        HfApi(library_name=LIBRARY).create_repo(repo_id, private=private, exist_ok=True, token=token)
    except HUB_ERRORS as e:
        raise SbsError(f"Repository '{repo_id}' cannot be created on the Hub: {_reason(e)}. Is the token valid, and "
                       f'may it write there?') from e


def upload(
        contents: Mapping[str, bytes],
        repo_id: str,
        private: bool,
        revision: str | None,
        tag: str | None,
        token: str | None,
) -> str:
    """Upload an artifact's files, by their names; see :meth:`~timm_sbs.artifact.artifact.Artifact.push_to_hub`."""
    create_repository(repo_id, private, token)
    api = HfApi(library_name=LIBRARY, token=token)
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, content) for name, content in contents.items()]
    try:
        if revision:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        if gone := {LICENSE_NAME, ONNX_NAME, PROCESSOR_NAME} - {*contents}:
            present = {*api.list_repo_files(repo_id, revision=revision)}
            gone &= present if ONNX_NAME in present else {LICENSE_NAME} & present  # else the other is somebody's own
            operations += [CommitOperationDelete(name) for name in sorted(gone)]
        commit = api.create_commit(
            repo_id, operations, commit_message='Upload an artifact of timm_sbs', revision=revision)
        if tag:
            api.create_tag(repo_id, tag=tag, revision=commit.oid, exist_ok=True)  # which leaves one where it is
            tagged = api.model_info(repo_id, revision=tag).sha
    except HUB_ERRORS as e:
        raise SbsError(f"The artifact cannot be uploaded to '{repo_id}': {_reason(e)}. Push it again later.") from e
    if tag and tagged != commit.oid:
        raise SbsError(
            f"The artifact was uploaded to '{repo_id}' as commit {commit.oid}, but tag '{tag}' is still at commit "
            f'{tagged}. Push it again with a new tag, or delete the old one on the Hub first.')
    return commit.commit_url


def _reason(error: BaseException) -> str:
    """First line of a message of the Hub or of its client."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip('. ')
