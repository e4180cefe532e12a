"""Predictors to the Hugging Face Hub."""
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Optional, Union

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from timm_sbs.artifact import CONFIG_NAME, LICENSE_NAME, WEIGHTS_NAME, load_artifact
from timm_sbs.cards import CARD_NAME, artifact_card
from timm_sbs.errors import SbsError
from timm_sbs.hub import NETWORK_ERRORS, reason_of

__all__ = ['create_repository', 'push_to_hub']


def create_repository(repo_id: str, private: bool = False, token: Optional[str] = None) -> None:
    """Create a model repository, or make sure that one's own exists. What is wrong with a login shows here.

    Raises:
        SbsError: The name is wrong, nobody is logged in, or the Hub refuses or cannot be reached.
    """
    if not (token or get_token()):
        raise SbsError('Nobody is logged in to the Hub. Run: hf auth login, or set HF_TOKEN.')
    try:
        HfApi(library_name='timm_sbs').create_repo(repo_id, private=private, exist_ok=True, token=token)
    except HFValidationError as e:
        raise SbsError(f"'{repo_id}' is no repository name of the Hub: {e}") from e
    except NETWORK_ERRORS as e:
        raise SbsError(f"Repository '{repo_id}' cannot be created on the Hub: {reason_of(e)} Is the token valid, and "
                       f'may it write there?') from e


def push_to_hub(
        folder: Union[str, Path],
        repo_id: str,
        private: bool = False,
        revision: Optional[str] = None,
        tag: Optional[str] = None,
        token: Optional[str] = None,
        commit_message: str = 'Upload a predictor with timm_sbs',
) -> str:
    """Publish an artifact, with a card made of its measured results, in one commit.

    Files that the repository has already are not uploaded again, so that a push that broke off goes on when it is
    repeated, and one without changes makes no commit.

    Args:
        folder: The artifact. It is read and checked first. A README.md in it goes before the card, and a LICENSE
            goes with it.
        repo_id: 'user/name' or 'organisation/name'; created where there is none.
        private: Whether it is created as a private repository.
        revision: Branch to commit to, created where there is none; default: main.
        tag: Tag of the commit, so that 'user/name@TAG' always is this one.
        token: Of a user who may write there; default: that of the login, or HF_TOKEN.
        commit_message: Of the commit.

    Returns:
        Address of the commit, or of the last one where nothing has changed.

    Raises:
        SbsError: The folder is no artifact, or the Hub refuses or cannot be reached. The folder is as it was.
    """
    folder = Path(folder)
    load_artifact(folder)
    own_card = folder / CARD_NAME
    card = own_card.read_bytes() if own_card.is_file() else artifact_card(folder, repo_id).encode()
    create_repository(repo_id, private, token)
    api = HfApi(library_name='timm_sbs', token=token)
    operations = [CommitOperationAdd(name, str(folder / name)) for name in (CONFIG_NAME, WEIGHTS_NAME)]
    operations.append(CommitOperationAdd(CARD_NAME, card))
    if (folder / LICENSE_NAME).is_file():
        operations.append(CommitOperationAdd(LICENSE_NAME, str(folder / LICENSE_NAME)))
    try:
        with _progress_on_terminals():
            if revision:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            commit = api.create_commit(repo_id, operations, commit_message=commit_message, revision=revision)
            if tag:
                api.create_tag(repo_id, tag=tag, revision=commit.oid, exist_ok=True)
    except (*NETWORK_ERRORS, RuntimeError, ValueError) as e:  # the client has no class for an upload that breaks off
        raise SbsError(f"'{folder}' cannot be uploaded to '{repo_id}': {reason_of(e)} The artifact is complete on "
                       f'disk; push it again later.') from e
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
