"""Publishing a written artifact on the Hugging Face Hub."""
from os.path import expanduser
from pathlib import Path

from timm_sbs.artifact.folder import load_artifact
from timm_sbs.artifact.hub import upload

__all__ = ['push_to_hub']


def push_to_hub(
        folder: str | Path,
        repo_id: str,
        private: bool = False,
        revision: str | None = None,
        tag: str | None = None,
        token: str | None = None,
) -> str:
    """Publish an artifact, with a card made of its measured results, in one commit.

    Files that the repository has already are not uploaded again, so that a push that broke off goes on when it is
    repeated, and one without changes makes no commit.

    Args:
        folder: The artifact. It is read and checked first. A README.md in it is used instead of the card, and a LICENSE
            goes with it; without one, the repository's own is deleted.
        repo_id: 'user/name' or 'organisation/name'; created where there is none.
        private: Whether it is created as a private repository.
        revision: Branch to commit to, created where there is none; default: main.
        tag: New tag of the commit, so that 'user/name@TAG' always is this one. A tag is never moved.
        token: Of a user who may write there; default: that of the login, or HF_TOKEN.

    Returns:
        Address of the commit, or of the last one where nothing has changed.

    Raises:
        SbsError: The folder is not an artifact, the Hub refuses or cannot be reached, or it has the tag already, for
            another commit. The folder is as it was.

    Example:
        >>> timm_sbs.push_to_hub('out/resnet18', 'user/resnet18-sbs', tag='v1')  # doctest: +SKIP
        'https://huggingface.co/user/resnet18-sbs/commit/...'
        >>> model = timm.create_model('hf-hub:user/resnet18-sbs@v1', pretrained=True)  # doctest: +SKIP
    """
    folder = Path(expanduser(folder))
    load_artifact(folder)
    return upload(folder, repo_id, private, revision, tag, token)
