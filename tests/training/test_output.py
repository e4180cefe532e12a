import shutil

import pytest

from timm_sbs.common.errors import SbsError
from timm_sbs.training.run import output
from timm_sbs.training.run.output import prepare_output


def test_folder_is_made_and_left_empty(tmp_path):
    path = prepare_output(str(tmp_path / 'a' / 'b'), 1000, 1)
    assert path.is_dir() and not list(path.iterdir())


def test_what_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(SbsError, match="Cannot write to --output '.*file/out'"):
        prepare_output(str(tmp_path / 'file' / 'out'), 1000, 1)


def test_a_disk_without_room(tmp_path, monkeypatch):
    monkeypatch.setattr(output.shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10, 9, 10_000))
    assert prepare_output(str(tmp_path), 1000, 1)
    with pytest.raises(SbsError, match='has 10,000 bytes left, but the run needs about 82,000'):
        prepare_output(str(tmp_path), 1000, 10)
