"""A repository with an ONNX model: what is in it, and that programs which nobody here wrote classify with it."""
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import SHIPPED, described
from hub_client import PUSH, Client
from hub_server import running_hub
from mutations import edit
from page_browser import browser
from page_browser import chromium as chromium_program
from PIL import Image
from timm.data import create_transform, resolve_data_config

import timm_sbs
from timm_sbs.artifact.labels import class_names
from timm_sbs.artifact.transformers_js import around_model, photograph_input
from timm_sbs.cli.demo import FOLDER, load_demo_images
from timm_sbs.common.errors import TargetError

NAMES = {'config.json', 'model.safetensors', 'README.md'}
MORE = {'onnx/model.onnx', 'preprocessor_config.json'}
TINY, LARGE = 'sbs_resnet20_cifar10_30kb', 'sbs_resnet18_2mb'
CAT = FOLDER / 'chelsea.jpg'
HOSTILE = '<script>alert(1)</script>\x1b[31m\u202e"\n' + 'x' * 999


@pytest.fixture(scope='module')
def hub(tmp_path_factory):
    """A Hub to which one client has pushed with --onnx."""
    with running_hub() as server:
        server.client = Client(server, tmp_path_factory.mktemp('home'))
        argv = ['push', TINY, 'user/tiny', '--onnx']
        assert '/commit/' in server.client.run(f'sys.exit(timm_sbs.cli.main.main({argv!r}))')
        yield server


def settings_of(artifact, **fields):
    """Root keys and preprocessor_config.json of an artifact whose description has other fields."""
    keys, files = around_model(b'', described(artifact, **fields).base, {})
    return keys, json.loads(files['preprocessor_config.json'])


def expected(name, photograph):
    """timm's classes and their probabilities."""
    model = timm.create_model(name, pretrained=True).eval()
    transform = create_transform(**resolve_data_config(pretrained_cfg=model.pretrained_cfg))
    with torch.inference_mode():
        chances = model(transform(Image.open(photograph).convert('RGB'))[None])[0].softmax(dim=0)
    labels = class_names(timm_sbs.load(name).base.name, model.pretrained_cfg)
    return [(labels[index], chances[index].item()) for index in chances.topk(5).indices]


def assert_same(found, wanted, tolerance):
    assert [label for label, _ in found] == [label for label, _ in wanted]
    assert max(abs(a - b) for (_, a), (_, b) in zip(found, wanted)) < tolerance


def snippets(hub, language):
    card = hub.files('user/tiny')['README.md'].decode()
    return re.findall(f'```{language}\n(.*?)```', card.replace('https://huggingface.co/user', f'{hub.endpoint}/user'),
                      re.DOTALL)


def test_a_push_adds_what_others_need_and_a_later_one_takes_it_away(hub):
    pushed = hub.files('user/tiny')
    assert set(pushed) == NAMES | MORE
    root = json.loads(pushed['config.json'])
    assert root['id2label']['3'] == 'cat' and len(root['id2label']) == 10
    assert '- onnx\n- transformers.js\n' in pushed['README.md'].decode()
    hub.refs['user/other'] = {'main': {**pushed, 'onnx/mine.onnx': b'1'}}
    hub.client.push(TINY, 'user/other')
    plain = hub.files('user/other')
    assert set(plain) == NAMES | {'onnx/mine.onnx'} and b'onnx' not in plain['README.md']
    assert 'id2label' not in json.loads(plain['config.json'])
    hub.refs['user/own'] = {'main': {**plain, 'preprocessor_config.json': b'{}'}}  # of another program
    hub.client.push(TINY, 'user/own')
    assert 'preprocessor_config.json' in hub.files('user/own')


def test_timm_and_this_package_read_the_same_repository(hub):
    code = (f"for name in ('hf-hub:user/tiny', {TINY!r}):\n    "
            "model = timm.create_model(name, pretrained=True)\n    "
            "print(sum(p.double().abs().sum() for p in model.parameters()).item(), model.pretrained_cfg['crop_pct'])\n"
            "    print(timm_sbs.load(name).config)")
    lines = hub.client.run(code, all_lines=True)
    assert len(lines) == 4 and lines[:2] == lines[2:]
    assert not any('onnx' in request for request in hub.requests if '/resolve/' in request)  # nor is it downloaded


def test_the_python_snippet_of_the_card_classifies(hub, tmp_path, monkeypatch):
    shutil.copy(CAT, tmp_path / 'photo.jpg')
    monkeypatch.chdir(tmp_path)
    lines = hub.client.run(snippets(hub, 'python')[1], all_lines=True)
    assert_same([(label, float(score)) for score, label in (line.split(' ', 1) for line in lines)],
                expected(TINY, CAT), 1e-3)


def test_photographs_are_resized_and_cropped_as_by_timm(small_artifact):
    """A fifth more than the input, by its shorter side or by both sides."""
    fields = dict(input_size=(3, 40, 40), crop_pct=.8, interpolation='bicubic', mean=(.5,), std=(.25,))
    _, settings = settings_of(small_artifact, **fields)
    assert settings['size'] == {'shortest_edge': 50} and settings['crop_size'] == {'height': 40, 'width': 40}
    assert settings['image_mean'] == [.5] * 3 and settings['image_std'] == [.25] * 3
    _, settings = settings_of(small_artifact, **{**fields, 'input_size': (3, 40, 80), 'crop_mode': 'squash'})
    assert settings['size'] == {'height': 50, 'width': 100} and settings['crop_size'] == {'height': 40, 'width': 80}


@pytest.mark.parametrize('fields', [dict(crop_pct=.8), dict(input_size=(3, 40, 80), crop_mode='squash', crop_pct=.9)])
def test_the_python_snippet_prepares_images_as_timm_does(small_artifact, tmp_path, monkeypatch, fields):
    artifact = described(small_artifact, **{'interpolation': 'bicubic', **fields})
    card = artifact.card('user/any', b'a model')
    shutil.copy(CAT, tmp_path / 'photo.jpg')
    monkeypatch.chdir(tmp_path)
    found = {'Image': Image, 'np': np}
    exec(re.search(r'image = Image.open.*?\npixels = .*?\n', card, re.DOTALL)[0], found)
    transform = create_transform(**resolve_data_config(pretrained_cfg=artifact.base.pretrained_cfg))
    wanted = transform(Image.open(CAT).convert('RGB'))
    assert np.abs(found['pixels'].transpose(2, 0, 1) - wanted.numpy()).max() < 1e-5


def test_names_of_classes_are_short_printable_texts(small_artifact):
    keys, _ = settings_of(small_artifact, label_names=[HOSTILE] * 10)
    for name in keys['id2label'].values():
        assert name.isprintable() and len(name) <= 200 and name.startswith('<script>alert(1)</script>\\x1b[31m\\u202e"')


@pytest.mark.parametrize('fields, says', [
    (dict(num_classes=0), 'it has no classes'), (dict(input_size=(3, 32, 64)), 'images of 32 x 64 pixels')])
def test_what_transformers_js_does_not_know_is_refused(small_artifact, fields, says):
    with pytest.raises(TargetError, match=f'^transformers.js cannot .*{says}.* Push it without --onnx.$'):
        photograph_input({**small_artifact.base.pretrained_cfg, **fields}, {})


def test_nothing_is_created_for_what_cannot_be_pushed(hub, small_folder):
    push = PUSH.format(folder=str(small_folder), repo='user/none', options=dict(onnx=True))
    answer = hub.client.run(f"sys.modules['onnxscript'] = None\nsys.modules.pop('timm_sbs.onnx', None)\n{push}")
    assert answer.startswith('SbsError') and "pip install 'timm_sbs[onnx]'" in answer
    edit(small_folder, lambda root: root['pretrained_cfg'].update(crop_mode='border'), sealed=False)
    assert "crop_mode is 'border'" in hub.client.run(push)
    assert 'user/none' not in hub.refs


def packages():
    return Path(os.environ.get('TRANSFORMERS_JS') or 'nowhere') / 'node_modules'


@pytest.fixture(scope='module')
def node(hub, tmp_path_factory):
    """Runs a module in Node, for which the loopback Hub is the Hub: what it prints, as JSON."""
    if not shutil.which('node'):
        pytest.skip('no node: apt-get install nodejs npm')
    if not (packages() / '@huggingface' / 'transformers').is_dir():
        pytest.skip('no transformers.js: npm install @huggingface/transformers, and TRANSFORMERS_JS=the folder')
    folder = tmp_path_factory.mktemp('node')
    (folder / 'node_modules').symlink_to(packages())
    header = (f"import {{ env as hub }} from '@huggingface/transformers';\nhub.remoteHost = '{hub.endpoint}/';\n"
              f"hub.cacheDir = '{folder}/cache'; hub.allowLocalModels = false;\n")

    def run(code):
        (folder / 'run.mjs').write_text(header + code)
        done = subprocess.run(['node', 'run.mjs'], cwd=folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and not done.stderr, done.stderr
        return json.loads(done.stdout)

    run.folder = folder
    return run


@pytest.fixture(scope='module')
def chromium(node):
    pytest.importorskip('playwright', reason="no playwright: pip install '.[browser]'")
    if not chromium_program():
        pytest.skip('no chromium: apt-get install chromium, or CHROMIUM=FILE')
    with browser() as started:
        yield started


PIPELINE = '''import {{ pipeline }} from '@huggingface/transformers';
const classify = await pipeline('image-classification', '{repo}');
console.log(JSON.stringify(await classify({files!r})));'''


def classified(node, repo, files):
    return [[(row['label'], row['score']) for row in rows]
            for rows in node(PIPELINE.format(repo=repo, files=list(map(str, files))))]


@pytest.mark.browser
def test_transformers_js_says_what_timm_says(hub, node):
    """Of photographs whose shorter side has 256 pixels, as this network's: they are not resized."""
    hub.client.push(LARGE, 'user/large', onnx=True)
    photographs = [FOLDER / name for name in ('chelsea.jpg', 'coffee.jpg', 'rocket.jpg')]
    for photograph, found in zip(photographs, classified(node, 'user/large', photographs)):
        assert_same(found, expected(LARGE, photograph), 1e-4)


@pytest.mark.browser
def test_and_of_images_of_the_size_of_the_input_and_of_larger_ones(node, tmp_path):
    demo = load_demo_images()
    files = [tmp_path / f'{index}.png' for index in range(8)]
    for file, image in zip(files, demo.images):
        Image.fromarray(image).save(file)
    *found, shrunk = classified(node, 'user/tiny', [*files, CAT])
    for file, rows in zip(files, found):
        assert_same(rows, expected(TINY, file), 1e-3)
    assert shrunk[0][0] == 'cat'  # from 256 pixels to 32


@pytest.mark.browser
def test_the_javascript_snippets_of_the_card_classify(hub, node):
    shutil.copy(CAT, node.folder / 'photo.jpg')
    by_pipeline, by_runtime = snippets(hub, 'js')
    rows = node(re.sub(r'console.log\((.*)\);', r'console.log(JSON.stringify(\1));', by_pipeline))
    assert rows[0]['label'] == 'cat' and len(rows) == 5
    image = Image.fromarray(load_demo_images().images[0])
    image.save(node.folder / 'image.png')
    logits = node(f'const rgba = {list(image.convert("RGBA").tobytes())};\n{by_runtime}\n'
                  'console.log(JSON.stringify(Array.from(logits.data)));')
    chances = torch.tensor(logits).softmax(dim=0)
    labels = class_names('resnet20_cifar10', timm.get_pretrained_cfg('resnet20_cifar10').to_dict())
    found = [(labels[index], chances[index].item()) for index in chances.topk(5).indices]
    assert_same(found, expected(TINY, node.folder / 'image.png'), 1e-3)


PAGE = """<!DOCTYPE html>
<script type="importmap">{"imports": {"@huggingface/transformers": "/transformers.js"}}</script>
<script type="module">%s</script>"""


@pytest.mark.browser
@pytest.mark.parametrize('name', [TINY, SHIPPED])
def test_the_snippet_of_the_card_classifies_in_a_web_page(name, hub, chromium):
    """With the public addresses of the Hub and of the runtime, at which the browser finds what is here."""
    hub.client.push(name, f'user/{name}', onnx=True)
    snippet = re.search('```js\n(.*?)```', hub.files(f'user/{name}')['README.md'].decode(), re.DOTALL)[1]
    site = {'/': PAGE % snippet, '/photo.jpg': CAT.read_bytes(),
            '/transformers.js': (packages() / '@huggingface/transformers/dist/transformers.min.js').read_bytes()}

    def answer(route):
        url, types = route.request.url, {'html': 'text/html', 'js': 'text/javascript', 'mjs': 'text/javascript'}
        if match := re.fullmatch(r'https://page\.test(/.*)', url):
            body = site.get(match[1])
        elif match := re.fullmatch(r'https://huggingface\.co/(user/\w+)/resolve/main/(.*)', url):
            body = hub.files(match[1]).get(match[2])
        elif match := re.fullmatch(r'https://cdn\.jsdelivr\.net/npm/(@?[^@]+)@[^/]*/dist/([^/]*)', url):
            body = (packages() / match[1] / 'dist' / match[2]).read_bytes()
        else:
            body = None
        kind = types.get(url.rpartition('.')[2] if url != 'https://page.test/' else 'html', 'application/octet-stream')
        route.fulfill(status=404 if body is None else 200, body=body or b'', content_type=kind,
                      headers={'Access-Control-Allow-Origin': '*'})

    context = chromium.new_context()
    try:
        context.route('**/*', answer)
        page, failures = context.new_page(), []
        page.on('pageerror', lambda error: failures.append(str(error)))
        with page.expect_console_message(lambda message: message.type == 'log', timeout=60_000) as logged:
            page.goto('https://page.test/')
        rows = logged.value.args[0].json_value()
        assert len(rows) == 5 and rows[0]['label'] == 'cat' and not failures, failures
    finally:
        context.close()
