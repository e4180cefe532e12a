"""The page: what is written, what is refused, and, in a browser, that it says what PyTorch says."""
import base64
import dataclasses
import errno
import itertools
import json
import re
import shutil
import sys

import numpy as np
import pytest
import timm
import torch
from conftest import REPOSITORY, described
from page_browser import browser, classified, missing, opened, runtime, served, wait_for
from PIL import Image
from timm.data import create_transform, resolve_data_config

import timm_sbs
from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.labels import class_names
from timm_sbs.cli.demo import FOLDER
from timm_sbs.common.errors import MissingExtraError, SbsError, TargetError
from timm_sbs.web.page import CDN, RUNTIME, write_page

NAME = 'sbs_resnet20_cifar10_30kb'
SITE = REPOSITORY / 'timm_sbs' / 'web' / 'site'
PHOTOGRAPHS = [FOLDER / name for name in ('chelsea.jpg', 'coffee.jpg', 'rocket.jpg')]
FILTERS = ('bilinear', 'bicubic', 'lanczos', 'box', 'hamming')
HOSTILE = '<img src=x onerror="hurt=1"></script>\x1b[31m\u202e'


@pytest.fixture(scope='module')
def artifact():
    return timm_sbs.load(NAME)


@pytest.fixture(scope='module')
def site(artifact, tmp_path_factory):
    """A page that loads the runtime from its public address. Not to be changed."""
    folder = tmp_path_factory.mktemp('site')
    write_page(artifact, folder, name=NAME)
    return folder


@pytest.fixture()
def quick(monkeypatch):
    """Pages are written without a model: nobody opens them."""
    monkeypatch.setattr(Artifact, 'onnx_model', lambda *_, **__: bytes(1000))


@pytest.fixture()
def copied_runtime(tmp_path):
    folder = tmp_path / 'dist'
    folder.mkdir()
    for file in [*RUNTIME, 'more.mjs']:
        (folder / file).write_bytes(file.encode() * 10)
    return folder


def settings_of(folder):
    return json.loads((folder / 'settings.json').read_text())


def test_it_is_static_files_and_what_is_its_own_is_in_the_settings(artifact, site):
    brotli = pytest.importorskip('brotli')
    assert {path.name for path in site.iterdir()} == {
        'index.html', 'page.js', 'style.css', 'model.onnx', 'model.onnx.br', 'settings.json'}
    for path in SITE.iterdir():
        assert (site / path.name).read_bytes() == path.read_bytes()
    model, packed = (site / 'model.onnx').read_bytes(), (site / 'model.onnx.br').read_bytes()
    assert brotli.decompress(packed) == model
    settings = settings_of(site)
    assert settings['title'] == NAME and len(settings['labels']) == 10
    assert settings['labels'] == class_names(artifact.base.name, artifact.base.pretrained_cfg)
    assert settings['licence'] == 'bsd-2-clause' and settings['licenceFile'] is None
    assert settings['image'] == {'size': [32, 32], 'resized': [32, 32], 'squash': False, 'interpolation': 'bilinear'}
    assert (settings['model']['bytes'], settings['model']['compressed']) == (len(model), len(packed))
    assert [file['url'] for file in settings['runtime']] == [CDN + file for file in RUNTIME]


def test_the_page_may_connect_to_the_pinned_runtime_and_nowhere_else():
    page = (SITE / 'index.html').read_text()
    assert re.findall(r'https?://[^\s;"\']+', page.replace('http://www.w3.org/2000/svg', '')) == [CDN]
    assert "default-src 'none'" in page and 'unsafe-inline' not in page and "'unsafe-eval'" not in page
    script = (SITE / 'page.js').read_text()
    assert not re.search('innerHTML|outerHTML|insertAdjacent|document.write|eval[(]', script)


def test_a_copied_runtime_is_that_of_the_folder(quick, artifact, copied_runtime, tmp_path):
    sizes = write_page(artifact, tmp_path / 'site', copied_runtime)
    assert {path.name for path in (tmp_path / 'site' / 'runtime').iterdir()} == {
        name for file in RUNTIME for name in (file, f'{file}.br')}
    for file, entry in zip(RUNTIME, settings_of(tmp_path / 'site')['runtime']):
        copied = (tmp_path / 'site' / entry['url']).read_bytes()
        assert copied == (copied_runtime / file).read_bytes() and entry['bytes'] == len(copied)
    assert sizes == {str(path.relative_to(tmp_path / 'site')): path.stat().st_size
                     for path in (tmp_path / 'site').rglob('*') if path.is_file()}


def test_the_licence_goes_along(quick, artifact, tmp_path):
    write_page(dataclasses.replace(artifact, license_text='Be kind.'), tmp_path)
    assert (tmp_path / 'LICENSE').read_text() == 'Be kind.' and settings_of(tmp_path)['licenceFile'] == 'LICENSE'


def test_hostile_words_are_text_of_the_settings_alone(quick, artifact, tmp_path):
    write_page(described(artifact, label_names=[HOSTILE] * 10, license=HOSTILE), tmp_path, name=HOSTILE)
    settings = settings_of(tmp_path)
    for text in (settings['title'], settings['licence'], *settings['labels']):
        assert text.isprintable() and '\\x1b' in text and '\\u202e' in text
    for path in SITE.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_what_a_page_cannot_show_is_refused(quick, artifact, tmp_path):
    with pytest.raises(TargetError, match="^A page cannot classify .*: crop_mode is 'border'"):
        write_page(described(artifact, crop_mode='border'), tmp_path / 'site')
    assert not (tmp_path / 'site').exists()


def test_bad_requests_leave_no_file(quick, artifact, copied_runtime, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('mine')
    for folder in ('file', 'file/site'):
        with pytest.raises(SbsError, match='Cannot write the page into'):
            write_page(artifact, tmp_path / folder)
    assert (tmp_path / 'file').read_text() == 'mine'
    file = next(iter(RUNTIME))
    (copied_runtime / file).unlink()
    for folder in (copied_runtime, tmp_path / 'nowhere'):
        with pytest.raises(SbsError, match=f"has no readable {file}. It must be the folder 'dist'"):
            write_page(artifact, tmp_path / 'site', folder)

    def full(_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(SbsError, match='No space left on device'):
        write_page(artifact, tmp_path / 'site')
    assert not any(path.is_file() for path in (tmp_path / 'site').rglob('*'))


def test_without_brotli_the_extra_is_named(quick, artifact, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'brotli', None)
    with pytest.raises(MissingExtraError, match=r"pip install 'timm_sbs\[onnx\]'"):
        write_page(artifact, tmp_path / 'site')
    assert not (tmp_path / 'site').exists()


@pytest.fixture(scope='module')
def chromium():
    if reason := missing():
        pytest.skip(reason)
    with browser() as started:
        yield started


@pytest.fixture(scope='module')
def network():
    return timm.create_model(NAME, pretrained=True).eval()


@torch.inference_mode()
def expected(network, photograph):
    """PyTorch's classes with their probabilities, the most probable one first."""
    transform = create_transform(**resolve_data_config(pretrained_cfg=network.pretrained_cfg))
    chances = network(transform(Image.open(photograph).convert('RGB'))[None])[0].softmax(dim=0)
    return chances.sort(descending=True)


@pytest.mark.browser
def test_photographs_have_the_classes_that_pytorch_gives_them(chromium, site, network, artifact):
    labels = class_names(artifact.base.name, artifact.base.pretrained_cfg)
    with served(site) as address, opened(chromium, address) as page:
        for photograph in PHOTOGRAPHS:
            page.evaluate("document.getElementById('classes').replaceChildren()")
            page.set_input_files('#file', photograph)
            shown, (chances, classes) = classified(page), expected(network, photograph)
            assert len(shown) == 5 and shown[0][0] == labels[classes[0]]
            for name, chance in shown:
                assert abs(chance - chances[classes == labels.index(name)].item()) < .02
        figures = page.locator('#figures dt').all_text_contents()
        assert figures == ['Received', 'Created in', 'Resized in', 'Classified in'] and page.complaints == []


@pytest.mark.browser
def test_a_photograph_is_dropped_or_pasted_and_one_that_comes_early_waits(chromium, site):
    with served(site) as address, opened(chromium, address) as page:
        for kind, carrier in (('drop', 'dataTransfer'), ('paste', 'clipboardData')):
            page.evaluate("document.getElementById('classes').replaceChildren()")
            page.evaluate("""async ([bytes, kind, carrier]) => {
                const files = new DataTransfer();
                files.items.add(new File([new Uint8Array(bytes)], 'cat.jpg', {type: 'image/jpeg'}));
                const types = {drop: DragEvent, paste: ClipboardEvent};
                document.body.dispatchEvent(new types[kind](kind, {bubbles: true, [carrier]: files}));
            }""", [list(PHOTOGRAPHS[0].read_bytes()), kind, carrier])
            assert classified(page)[0][0] == 'cat'
        assert page.text_content('#status').startswith('cat, ')  # what is read aloud


@pytest.mark.browser
def test_a_keyboard_is_enough_and_a_narrow_dark_window(chromium, site):
    options = dict(viewport={'width': 320, 'height': 560}, color_scheme='dark', reduced_motion='reduce')
    with served(site) as address, opened(chromium, address, **options) as page:
        wait_for(page, 'Ready')
        page.keyboard.press('Tab')
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == 'solid'
        with page.expect_file_chooser() as chooser:
            page.keyboard.press('Enter')
        chooser.value.set_files(PHOTOGRAPHS[0])
        assert classified(page)[0][0] == 'cat'
        assert page.evaluate('document.documentElement.scrollWidth') <= 320
        channels = re.findall(r'\d+', page.evaluate('getComputedStyle(document.body).backgroundColor'))
        assert max(map(int, channels)) < 64


@pytest.mark.browser
def test_hostile_words_are_shown_as_they_are(chromium, artifact, tmp_path):
    write_page(described(artifact, label_names=[HOSTILE] * 10, license=HOSTILE), tmp_path, runtime(), name=HOSTILE)
    with served(tmp_path) as address, opened(chromium, address) as page:
        page.set_input_files('#file', PHOTOGRAPHS[0])
        assert all('onerror="hurt=1"></script>' in name for name, _ in classified(page))
        assert all('<img' in page.text_content(part) for part in ('#title', '#licence'))
        assert page.evaluate("[typeof hurt, document.images.length]") == ['undefined', 1] and page.complaints == []
        received = page.locator('#figures dd').first.text_content()
        assert received.endswith(' MB') and float(received.split()[0]) < 5  # of 15: the server sends .br files


@pytest.mark.browser
def test_photographs_are_resized_as_timm_does_it(chromium, site, tmp_path):
    """Within one step of 255, for Pillow rounds weights to integers."""
    rng = np.random.default_rng(0)
    shapes = [((300, 451), (32, 32), .875, 'center'), ((40, 31), (64, 64), .9, 'center'),
              ((127, 90), (48, 32), .95, 'center'), ((90, 201), (32, 48), .8, 'squash')]
    with served(site) as address, opened(chromium, address) as page:
        for interpolation, ((height, width), size, crop_pct, mode) in itertools.product(FILTERS, shapes):
            image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            image.save(tmp_path / 'noise.png')
            given = dict(interpolation=interpolation, crop_pct=crop_pct, crop_mode=mode)
            how = dict(size=size, resized=[int(side / crop_pct) for side in size], squash=mode == 'squash',
                       interpolation=interpolation)
            found = page.evaluate(
                """async ([code, how]) => Array.from(toInput(
                    await createImageBitmap(new Blob([Uint8Array.from(atob(code), c => c.charCodeAt(0))])), how))""",
                [base64.b64encode((tmp_path / 'noise.png').read_bytes()).decode(), how])
            ours = torch.tensor(found).reshape(*size, 3).permute(2, 0, 1)
            assert (ours - create_transform((3, *size), normalize=False, **given)(image).int()).abs().max() <= 1


@pytest.mark.browser
def test_what_goes_wrong_is_one_sentence(chromium, site, tmp_path):
    def status(folder, text):
        with served(folder) as address, opened(chromium, address) as page:
            page.wait_for_selector('#status.error')
            assert text in page.text_content('#status')

    broken = shutil.copytree(site, tmp_path / 'broken')
    (broken / 'model.onnx.br').unlink()
    (broken / 'model.onnx').write_bytes(b'of another page')
    status(broken, 'model.onnx is not the file that settings.json describes')
    (broken / 'model.onnx').unlink()
    status(broken, 'model.onnx cannot be loaded: the server answers 404.')
    with opened(chromium, (site / 'index.html').as_uri()) as page:
        wait_for(page, 'python -m http.server') if page.locator('#status.error').count() == 0 else None
        assert 'python -m http.server' in page.text_content('#status')
    (tmp_path / 'photograph.heic').write_bytes(b'no picture')
    with served(site) as address, opened(chromium, address) as page:
        page.set_input_files('#file', tmp_path / 'photograph.heic')
        page.wait_for_selector('#status.error')
        assert 'cannot read photograph.heic as a picture' in page.text_content('#status')
        page.set_input_files('#file', PHOTOGRAPHS[0])
        page.wait_for_selector('#classes li', timeout=120_000)  # until then, the error may still be shown
        assert classified(page)[0][0] == 'cat'
