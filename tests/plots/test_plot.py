"""Pictures are drawn from artifacts and training runs, and show what these hold."""
import shutil
import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest
import timm
from conftest import RESNET20, SHIPPED
from PIL import Image
from processes import run

import timm_sbs
from timm_sbs import SbsError
from timm_sbs.artifact.folder import shipped_folder
from timm_sbs.artifact.ledger import shown
from timm_sbs.cli import main as cli
from timm_sbs.plots import plot as plots
from timm_sbs.plots.plot import draw_curves, plot

SUMMARY = 'phase,step,loss,lr,holdout_agreement,seconds\nreconstruction,100,0.2,1e-3,,60\n' \
          'distillation,50,0.5,1e-4,80.5,90\ndistillation,100,0.3,1e-5,81.5,120\n'


@pytest.fixture(scope='module')
def shipped():
    return shipped_folder(SHIPPED)


def picture(path):
    with Image.open(path) as image:
        return image.convert('RGB').copy()


def test_the_command_draws_what_there_is(tmp_path, capsys):
    assert cli.main(['plot', SHIPPED, str(tmp_path / 'a.png')]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'a.png'} (ledger)\n"
    image = picture(tmp_path / 'a.png')
    assert len(image.getcolors(1 << 20)) > 20


def test_the_ledger_names_all_parts_with_their_bytes(shipped, tmp_path, monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, 'svg.fonttype', 'none')
    assert plot(shipped, tmp_path / 'a.svg') == 'ledger'
    texts = ' '.join(ElementTree.parse(tmp_path / 'a.svg').getroot().itertext())
    ledger = timm_sbs.load(SHIPPED).ledger()
    total = sum(path.stat().st_size for path in shipped.iterdir())
    for said in (*(f'{part} {size / 1000:,.1f} kB' for part, size in shown(ledger).items()),
                 f'resnet20_cifar10: {total / 1000:,.1f} kB'):
        assert said in texts


def test_kernels_are_those_of_the_layer_beside_the_original(shipped, tmp_path):
    assert plot(shipped, tmp_path / 'a.png', 'kernels', original=RESNET20) == 'kernels'
    plot(shipped, tmp_path / 'b.png', 'kernels', original=RESNET20, layer='layer1.0.conv1.weight')
    assert picture(tmp_path / 'a.png').tobytes() != picture(tmp_path / 'b.png').tobytes()
    says = "'conv1.weight' is neither a generated nor a rounded weight of .* 'layer1.0.conv1.weight'"
    with pytest.raises(SbsError, match=says):
        plot(shipped, tmp_path / 'c.png', 'kernels', original=RESNET20, layer='conv1.weight')
    with pytest.raises(SbsError, match=r"'moved.safetensors'.*--original FILE"):
        plot(shipped, tmp_path / 'd.png', 'kernels', original='moved.safetensors')


def test_the_original_is_not_what_a_received_folder_says(shipped, tmp_path, monkeypatch):
    """Its settings could name any model and file."""
    folder = shutil.copytree(shipped, tmp_path / 'received')
    (folder / 'settings.yaml').write_text('model: local-dir:/evil\ninitial_checkpoint: /etc/passwd\n')
    asked = []
    original = timm.create_model('resnet20_cifar10')
    monkeypatch.setattr(plots, 'load_original', lambda *args: asked.append(args) or original)
    plot(folder, tmp_path / 'a.png', 'kernels')
    assert [args[:2] for args in asked] == [('resnet20_cifar10.akamaster', '')]


@pytest.mark.parametrize('text', [
    SUMMARY.replace('100', 'x'), SUMMARY.replace('phase', 'face'), SUMMARY.replace('100', '9' * 400), '"a' * 200_000,
    SUMMARY.replace('phase', 'phase,' + 'x,' * 100_000)])
def test_a_summary_of_something_else(tmp_path, text):
    (tmp_path / 'summary.csv').write_text(text)
    with pytest.raises(SbsError, match='not that of a training run'):
        plot(tmp_path, tmp_path / 'a.png')


def test_a_summary_that_is_a_link_is_not_read(tmp_path):
    (tmp_path / 'secret').write_text(SUMMARY)
    (tmp_path / 'received').mkdir()
    (tmp_path / 'received' / 'summary.csv').symlink_to('../secret')
    with pytest.raises(SbsError, match='link out of its folder'):
        plot(tmp_path / 'received', tmp_path / 'a.png')


def test_names_of_phases_are_no_formulas(tmp_path):
    (tmp_path / 'summary.csv').write_text(SUMMARY.replace('distillation', '$\\frac{$\x1b[2J'))
    plot(tmp_path, tmp_path / 'a.png')


def test_curves_of_a_training_run(tmp_path):
    (tmp_path / 'summary.csv').write_text(SUMMARY)
    assert plot(tmp_path, tmp_path / 'a.png') == 'curves' and (tmp_path / 'a.png').is_file()
    loss, agreement = draw_curves(tmp_path).axes
    assert [list(line.get_xdata()) for line in loss.lines] == [[100], [150, 200]]
    assert [list(line.get_ydata()) for line in agreement.lines] == [[80.5, 81.5]]
    assert [list(line.get_xdata()) for line in agreement.lines] == [[1.5, 2]]  # minutes


def test_bad_requests_leave_no_file(shipped, tmp_path):
    for (source, output, *options), says in (
            ((shipped, 'a.png', 'curves'), "'curves' cannot be drawn from .*, but ledger and kernels can"),
            ((shipped, 'a.xyz'), "Cannot write .*xyz"), ((shipped, 'none/a.png'), 'Cannot write'),
            ((tmp_path, 'a.png'), 'neither an artifact nor a training run')):
        with pytest.raises(SbsError, match=says):
            plot(source, tmp_path / output, *options)
    assert not any(tmp_path.iterdir())


def test_without_matplotlib_the_extra_is_named(shipped):
    shown = run('-c', "import sys; assert 'matplotlib' not in sys.modules; sys.modules['matplotlib'] = None\n"
                f"from timm_sbs.cli.main import main; sys.exit(main(['plot', {str(shipped)!r}, 'a.png']))")
    assert shown.returncode == 2 and "pip install 'timm_sbs[plots]'" in shown.stderr
