"""Pictures are drawn from artifacts and training runs, and show what these hold."""
import shutil
import xml.etree.ElementTree as ElementTree

import pytest
import timm
import torch
import yaml
from conftest import RESNET20, SHIPPED
from PIL import Image
from processes import run

from timm_sbs import SbsError
from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.folder import read_config, written_ledger
from timm_sbs.cli import main as cli
from timm_sbs.plots import plot as plot_module
from timm_sbs.plots import style
from timm_sbs.plots.plot import KINDS, plot

SUMMARY = 'phase,step,loss,lr,holdout_agreement,seconds\nreconstruction,100,0.2,1e-3,70.5,60\n' \
          'distillation,50,0.5,1e-4,80.5,90\ndistillation,100,0.3,1e-5,81.5,120\n'


@pytest.fixture(scope='module')
def shipped():
    return shipped_folder(SHIPPED)


def picture(path):
    with Image.open(path) as image:
        return image.convert('RGB').copy()


@pytest.mark.parametrize('theme, background', [('light', (255, 255, 255)), ('dark', (13, 17, 23))])
def test_the_ledger_is_drawn_in_both_themes(shipped, tmp_path, theme, background):
    assert plot(shipped, tmp_path / 'a.png', theme=theme) == 'ledger'
    image = picture(tmp_path / 'a.png')
    assert image.getpixel((0, 0)) == background and len(image.getcolors(1 << 20)) > 20


def test_the_ledger_names_all_parts_with_their_bytes(shipped, tmp_path, monkeypatch):
    monkeypatch.setitem(style.matplotlib.rcParams, 'svg.fonttype', 'none')
    plot(shipped, tmp_path / 'a.svg')
    texts = ' '.join(ElementTree.parse(tmp_path / 'a.svg').getroot().itertext())
    sizes = {**written_ledger(read_config(shipped)[0]).parts, 'config.json': (shipped / 'config.json').stat().st_size}
    total = sum(path.stat().st_size for path in shipped.iterdir())
    for said in (*(f'{part} {size / 1000:,.1f} kB' for part, size in sizes.items()),
                 f'resnet20_cifar10: {total / 1000:,.1f} kB'):
        assert said in texts
    assert len(sizes) == 6 and 'rounded' not in texts  # nothing is


def test_kernels_are_those_of_the_layer(shipped, tmp_path):
    assert plot(shipped, tmp_path / 'a.png', 'kernels', original=RESNET20, layer='layer1.0.conv1.weight') == 'kernels'
    plot(shipped, tmp_path / 'b.png', 'kernels', original=RESNET20)
    assert picture(tmp_path / 'a.png').tobytes() != picture(tmp_path / 'b.png').tobytes()
    says = "'conv1.weight' is neither a generated nor a rounded weight of .* 'layer1.0.conv1.weight'"
    with pytest.raises(SbsError, match=says):
        plot(shipped, tmp_path / 'c.png', 'kernels', original=RESNET20, layer='conv1.weight')
    with pytest.raises(SbsError, match='--original'):
        plot(shipped, tmp_path / 'c.png', 'kernels', original=tmp_path / 'missing.safetensors')
    assert not (tmp_path / 'c.png').exists()


def test_kernels_of_a_run_are_beside_the_weights_that_it_began_with(shipped, tmp_path):
    """Wherever these were: the network is not asked."""
    run = shutil.copytree(shipped, tmp_path / 'run')
    values = {'model': 'resnet20_cifar10', 'initial_checkpoint': str(RESNET20), 'model_kwargs': {}}
    (run / 'args.yaml').write_text(yaml.safe_dump(values))
    plot(run, tmp_path / 'a.png', 'kernels')
    plot(shipped, tmp_path / 'b.png', 'kernels', original=RESNET20)
    assert picture(tmp_path / 'a.png').tobytes() == picture(tmp_path / 'b.png').tobytes()
    (run / 'args.yaml').write_text(yaml.safe_dump({**values, 'initial_checkpoint': 'moved.safetensors'}))
    with pytest.raises(SbsError, match=r"'moved.safetensors' is no file.*--original FILE"):
        plot(run, tmp_path / 'c.png', 'kernels')


def test_kernels_of_another_original_are_not_drawn(shipped, tmp_path):
    torch.save(timm.create_model('resnet20_cifar10').state_dict(), tmp_path / 'other.pth')
    with pytest.raises(SbsError, match='was not made from these weights'):
        plot(shipped, tmp_path / 'a.png', 'kernels', original=tmp_path / 'other.pth')


def test_curves_of_a_training_run(shipped, tmp_path, monkeypatch):
    run = shutil.copytree(shipped, tmp_path / 'run')
    (run / 'summary.csv').write_text(SUMMARY)
    drawn = []
    monkeypatch.setattr(plot_module, 'save', lambda figure, output: drawn.append(figure))
    assert plot(run, tmp_path / 'a.png', 'curves') == 'curves'
    loss, agreement = drawn[0].axes
    assert [list(line.get_xdata()) for line in loss.lines] == [[100], [150, 200]]
    assert [list(line.get_ydata()) for line in agreement.lines] == [[70.5], [80.5, 81.5]]
    assert [list(line.get_xdata()) for line in agreement.lines] == [[1], [1.5, 2]]  # minutes


def test_bad_requests_leave_no_file(shipped, tmp_path):
    with pytest.raises(SbsError, match=r"nothing for a picture of 'curves', but for: ledger, kernels\."):
        plot(shipped, tmp_path / 'a.png', 'curves')
    with pytest.raises(SbsError, match="pictures of type 'xyz'"):
        plot(shipped, tmp_path / 'a.xyz')
    with pytest.raises(SbsError, match='Cannot write'):
        plot(shipped, tmp_path / 'none' / 'a.png')
    with pytest.raises(SbsError, match="no theme 'grey', but: light, dark"):
        plot(shipped, tmp_path / 'a.png', theme='grey')
    with pytest.raises(SbsError, match='neither an artifact nor a training run'):
        plot(tmp_path, tmp_path / 'a.png')
    assert not any(tmp_path.iterdir())


def test_the_command(shipped, tmp_path, capsys):
    assert cli.main(['plot', SHIPPED, str(tmp_path / 'a.png'), '--theme', 'dark']) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'a.png'} (ledger)\n"
    assert cli.main(['plot', 'no_such_model', str(tmp_path / 'b.png')]) == 2
    for kind in KINDS:
        assert cli.build_parser().parse_args(['plot', 'a', 'b', '--kind', kind]).kind == kind


def test_without_matplotlib_the_extra_is_named(shipped):
    hidden = "import sys; assert 'matplotlib' not in sys.modules; sys.modules['matplotlib'] = None\n"
    shown = run('-c', hidden + (
        f"from timm_sbs.cli import main as cli; sys.exit(cli.main(['plot', {str(shipped)!r}, 'a.png']))"))
    assert shown.returncode == 2 and "pip install 'timm_sbs[plots]'" in shown.stderr
    shown = run('-c', hidden + (
        "from timm_sbs.common.errors import MissingExtraError\n"
        "try:\n    import timm_sbs.plots.style\nexcept MissingExtraError: print('named')"))
    assert shown.stdout == 'named\n'
