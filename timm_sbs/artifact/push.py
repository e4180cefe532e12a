"""Predictors to the Hugging Face Hub."""
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from os.path import expanduser
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from timm_sbs.artifact.card import CARD_NAME, artifact_card
from timm_sbs.artifact.download import NETWORK_ERRORS, reason_of, why_no_answer
from timm_sbs.artifact.files import CONFIG_NAME, LICENSE_NAME, WEIGHTS_NAME, ArtifactFiles
from timm_sbs.artifact.folder import load_artifact
from timm_sbs.common.errors import SbsError

__all__ = ['create_repository', 'push_to_hub']


# The client has no class of its own for an upload that breaks off.
_UPLOAD_ERRORS: tuple[type[BaseException], ...] = (*NETWORK_ERRORS, RuntimeError, ValueError)


def create_repository(repo_id: str, private: bool = False, token: str | None = None) -> None:
    """Create a model repository, or make sure that one's own exists. What is wrong with a login shows here.

    Raises:
        SbsError: The name is wrong, nobody is logged in, or the Hub refuses or cannot be reached.
    """
    if not (token or get_token()):
        raise SbsError('Nobody is logged in to the Hub. Run: hf auth login, or set HF_TOKEN.')
    if not constants.HF_HUB_OFFLINE and (why := why_no_answer(constants.ENDPOINT)):  # its client waits for ever
        raise SbsError(f"Repository '{repo_id}' cannot be created: the Hub cannot be reached ({why}).")
    try:
        HfApi(library_name='timm_sbs').create_repo(repo_id, private=private, exist_ok=True, token=token)
    except HFValidationError as e:
        raise SbsError(f"'{repo_id}' is no repository name of the Hub: {e}") from e
    except NETWORK_ERRORS as e:
        raise SbsError(f"Repository '{repo_id}' cannot be created on the Hub: {reason_of(e)} Is the token valid, and "
                       f'may it write there?') from e


def push_to_hub(
        folder: str | Path,
        repo_id: str,
        private: bool = False,
        revision: str | None = None,
        tag: str | None = None,
        token: str | None = None,
        commit_message: str = 'Upload a predictor with timm_sbs',
) -> str:
    """Publish an artifact, with a card made of its measured results, in one commit.

    Files that the repository has already are not uploaded again, so that a push that broke off goes on when it is
    repeated, and one without changes makes no commit.

    Args:
        folder: The artifact. It is read and checked first. A README.md in it goes before the card, and a LICENSE
            goes with it; without one, the repository's own is deleted.
        repo_id: 'user/name' or 'organisation/name'; created where there is none.
        private: Whether it is created as a private repository.
        revision: Branch to commit to, created where there is none; default: main.
        tag: New tag of the commit, so that 'user/name@TAG' always is this one. A tag is never moved.
        token: Of a user who may write there; default: that of the login, or HF_TOKEN.
        commit_message: Of the commit.

    Returns:
        Address of the commit, or of the last one where nothing has changed.

    Raises:
        SbsError: The folder is no artifact, the Hub refuses or cannot be reached, or it has the tag already, for
            another commit. The folder is as it was.

    Example:
        >>> timm_sbs.push_to_hub('out/resnet18', 'user/resnet18-sbs', tag='v1')  # doctest: +SKIP
        'https://huggingface.co/user/resnet18-sbs/commit/...'
        >>> model = timm.create_model('hf-hub:user/resnet18-sbs@v1', pretrained=True)  # doctest: +SKIP
    """
    folder = Path(expanduser(folder))
    files = ArtifactFiles.of(folder)
    load_artifact(files)
    own_card = folder / CARD_NAME
    card = own_card.read_bytes() if own_card.is_file() else artifact_card(folder, repo_id).encode()
    create_repository(repo_id, private, token)
    api = HfApi(library_name='timm_sbs', token=token)
    contents: dict[str, str | bytes] = {CONFIG_NAME: files.config, WEIGHTS_NAME: str(files.weights), CARD_NAME: card}
    if license := files.license_text():
        contents[LICENSE_NAME] = license.encode()
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, content) for name, content in contents.items()]
    try:
        with _progress_on_terminals():
            if revision:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            if LICENSE_NAME not in contents and api.file_exists(repo_id, LICENSE_NAME, revision=revision):
                operations.append(CommitOperationDelete(LICENSE_NAME))
            commit = api.create_commit(repo_id, operations, commit_message=commit_message, revision=revision)
            if tag:
                api.create_tag(repo_id, tag=tag, revision=commit.oid, exist_ok=True)  # which leaves one where it is
                tagged = api.model_info(repo_id, revision=tag).sha
    except _UPLOAD_ERRORS as e:
        raise SbsError(f"The artifact cannot be uploaded to '{repo_id}': {reason_of(e)} Nothing on disk has changed; "
                       f'push it again later.') from e
    if tag and tagged != commit.oid:
        raise SbsError(
            f"The artifact was uploaded to '{repo_id}' as commit {commit.oid}, but tag '{tag}' is still at commit "
            f'{tagged}. Push it again with a new tag, or delete the old one on the Hub first.')
    return commit.commit_url


@contextmanager
def _progress_on_terminals() -> Iterator[None]:
    """Progress bars of huggingface_hub where somebody sees them, and afterwards as they were."""
    quiet = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if quiet:
        disable_progress_bars()
    try:
        yield
    finally:
        if quiet:
            enable_progress_bars()
