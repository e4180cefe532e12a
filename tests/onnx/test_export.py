"""Every kind of artifact as an ONNX model: outputs are those of PyTorch, weights are computed on loading, metadata."""
import dataclasses
import errno
import importlib
import importlib.util
import json
import sys

import numpy as np
import onnx
import pytest
import timm
import torch
from conftest import SHIPPED, described, fit_quickly, started
from google.protobuf.message import EncodeError
from onnx_graphs import session
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

import timm_sbs
from timm_sbs.artifact import exports
from timm_sbs.artifact.folder import load_artifact
from timm_sbs.common.errors import ArtifactError, MissingExtraError, TargetError
from timm_sbs.onnx.check import TOLERANCE, check_model

ROUNDED = 'sbs_resnet20_cifar10_30kb'
HOSTILE = '</script>\x1b[31m\u202e\nnext'


class Kinds(nn.Module):
    """Convolutions of all kinds in one small network, and BatchNorms that can be folded or not."""

    def __init__(self, num_classes=10, in_chans=3, width=16):
        super().__init__()
        self.num_classes = num_classes
        self.stem = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 31, padding=15, groups=width)
        self.large = nn.Conv2d(width, width, 7, padding=3, groups=4)
        self.large_norm = nn.BatchNorm2d(width, eps=1e-3)  # after a bias
        self.pointwise = nn.Conv2d(width, 12, 1, bias=False)
        self.first_norm, self.second_norm = nn.BatchNorm2d(12), nn.BatchNorm2d(12)  # of one convolution
        self.shared = nn.Conv2d(12, 12, 3, padding=1)
        self.token = nn.Parameter(torch.randn(1, 12, 1, 1))
        self.register_buffer('turned', torch.arange(11, -1, -1))
        self.register_buffer('exact', torch.rand(12, dtype=torch.float64))
        self.register_buffer('short', torch.rand(12).half())
        self.hidden = nn.Linear(12, 30)
        self.fc = nn.Linear(30, num_classes) if num_classes else nn.Identity()

    def forward(self, x):
        x = self.depthwise(self.stem_norm(self.stem(x)).relu())
        x = self.pointwise(self.large_norm(self.large(x)).relu())
        x = self.first_norm(x).relu() + self.second_norm(x)
        x = self.shared(self.shared(x)[:, self.turned]) * self.token
        x = (x.mean((2, 3)) * self.exact * self.short).float()
        return self.fc(self.hidden(x).relu())


default_cfgs = generate_default_cfgs({'kinds': dict(
    input_size=(3, 16, 16), num_classes=10, first_conv='stem', classifier='fc', interpolation='bicubic',
    crop_pct=.9, mean=(.4, .5, .6), std=(.2, .3, .25), license='mit')})


@register_model
def kinds(pretrained=False, **kwargs):
    return build_model_with_cfg(Kinds, 'kinds', pretrained, **kwargs)


def network(name='kinds', **args):
    torch.manual_seed(0)
    model = timm.create_model(name, **args).requires_grad_(False).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, least in ((module.weight, .5), (module.bias, -1), (module.running_mean, -1),
                                  (module.running_var, .1)):
                tensor.uniform_(least, least + 1.5)
    return model


def rounded(model, **target):
    return started(model, None, bytes=30_000, **target)


def predictor(model, **target):
    return started(model, **{'pct': 10., 'min_weights': 100, **target})


def outputs(data, images):
    return session(data).run(['logits'], {'pixel_values': images.numpy()})[0]


def check(artifact, batches=(1, 2, 5)):
    """Outputs for batches of any size; the model's bytes."""
    data, model = artifact.onnx_model(), artifact.create_model().eval()  # nothing is left: or onnx_model refuses it
    for count in batches:
        images = torch.randn(count, *artifact.base.pretrained_cfg['input_size'])
        with torch.no_grad():
            expected = model(images).numpy()
        found = outputs(data, images)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
    return data


def opset(data):
    model = onnx.load_from_string(data)
    assert [entry.domain for entry in model.opset_import] == ['']
    return model.opset_import[0].version


@pytest.mark.parametrize('make, lowest', [
    (lambda m: predictor(m, storage_dtype='float32', activation='relu'), 18),
    (lambda m: predictor(m, storage_dtype='float16'), 20),
    (lambda m: predictor(m, storage_dtype='bfloat16', activation='sine', max_positions=50), 18),
    (lambda m: predictor(m, bits=6., activation='sine'), 18),
    (lambda m: predictor(m, bits=5., order_over='filter', keep=('stem*', 'fc*')), 20),
    (lambda m: predictor(m, order_over='axes', encoding='positional', generate=('fc.weight', 'stem.weight')), 20),
    (rounded, 18),
    (lambda m: rounded(m, kept_bits=4, keep=('depthwise*', 'hidden*')), 18),
], ids=['float32', 'float16', 'bfloat16', 'quantized', 'quantized_filter', 'positional', 'rounded', 'rounded_some'])
def test_every_kind_of_artifact_gives_the_outputs_of_pytorch(make, lowest):
    """With the lowest opset that has the operators, which old runtimes need."""
    artifact = make(network())
    assert opset(check(artifact)) == lowest


@pytest.mark.parametrize('args', [
    dict(num_classes=0), dict(num_classes=3, width=8),
    dict(in_chans=1, pretrained_cfg_overlay=dict(input_size=(1, 16, 16)))])
def test_of_networks_with_other_arguments(args):
    check(rounded(network(**args)), batches=(3,))


def test_a_transformer():
    """Old runtimes need names of nodes that cut queries, keys and values."""
    for artifact in (rounded(network('test_vit')), fit_quickly(network('test_vit'), steps=1)):
        nodes = onnx.load_from_string(check(artifact, batches=(1, 3))).graph.node
        names = [node.name for node in nodes if node.op_type in ('Gather', 'Slice') and node.name]
        assert len(names) == len(set(names)) > 3


@pytest.mark.parametrize('name', [SHIPPED, ROUNDED])
def test_what_ships_says_what_pytorch_says_of_photographs(name, images):
    artifact = timm_sbs.load(name)
    model, some = artifact.create_model().eval(), images[0][:20]
    with torch.no_grad():
        expected = model(some).numpy()
    found = outputs(artifact.onnx_model(), some)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.fixture(scope='module')
def shipped():
    """An artifact, and its model. Not to be changed."""
    artifact = timm_sbs.load(ROUNDED)
    return artifact, onnx.load_from_string(artifact.onnx_model())


def metadata(model):
    return {entry.key: entry.value for entry in model.metadata_props}


def test_input_and_output_are_those_that_programs_look_for(shipped):
    model = shipped[1]
    given, = session(model).get_inputs()
    found, = session(model).get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ('pixel_values', 'tensor(float)', [3, 32, 32])
    assert (found.name, found.type, found.shape[1:]) == ('logits', 'tensor(float)', [10])
    assert isinstance(given.shape[0], str) and given.shape[0] == found.shape[0]
    onnx.checker.check_model(model, full_check=True)
    assert model.producer_name == 'timm_sbs'


def test_metadata_say_what_a_program_must_know(shipped):
    found = metadata(shipped[1])
    assert (found['architecture'], found['license']) == ('resnet20_cifar10', 'bsd-2-clause')
    assert json.loads(found['classes'])[3] == 'cat' and len(json.loads(found['classes'])) == 10
    assert json.loads(found['input_size']) == [3, 32, 32] and json.loads(found['crop_pct']) == 1
    assert len(json.loads(found['mean'])) == len(json.loads(found['std'])) == 3
    assert (found['interpolation'], found['crop_mode'], found['color']) == ('bilinear', 'center', 'RGB')


def test_hostile_names_are_quoted_and_the_licence_goes_along():
    artifact = described(
        dataclasses.replace(timm_sbs.load(ROUNDED), license_text='Be kind.\n'), label_names=[HOSTILE] * 10,
        license=HOSTILE, crop_mode=HOSTILE, interpolation=HOSTILE)
    found = metadata(onnx.load_from_string(artifact.onnx_model(plain=True)))
    for text in (found['license'], found['crop_mode'], found['interpolation'], *json.loads(found['classes'])):
        assert text.isprintable() and '\\x1b' in text and '\\u202e' in text
    assert found['license_text'] == 'Be kind.\n'


def test_the_model_has_about_the_bytes_of_the_artifact_and_nothing_of_the_exporter(shipped):
    artifact, model = shipped
    assert model.ByteSize() < 3 * sum(len(data) for data in artifact.files()[1].values())
    assert not (model.graph.value_info or model.graph.doc_string or model.graph.metadata_props or model.functions)
    assert not any(len(node.name) > 3 or node.doc_string or node.metadata_props for node in model.graph.node)
    names = [name for node in model.graph.node for name in node.output]
    assert max(map(len, names)) <= 6 and len(names) == len(set(names))  # 'logits'


def test_the_same_artifact_is_the_same_file(shipped, tmp_path):
    artifact, model = shipped
    artifact.save(tmp_path)
    assert load_artifact(tmp_path).onnx_model() == model.SerializeToString()


def test_plain_models_have_their_weights_as_constants(shipped):
    artifact, model = shipped
    data = artifact.onnx_model(plain=True)
    weights = sum(tensor.nbytes for tensor in artifact.state_dict().values() if tensor.is_floating_point())
    assert weights * .98 < len(data) < weights * 1.1 + 20_000 and opset(data) == 18
    images = torch.randn(2, 3, 32, 32)
    np.testing.assert_allclose(outputs(data, images), outputs(model.SerializeToString(), images), atol=1e-4)


@pytest.mark.parametrize('plain', [False, True])
def test_preprocessing_takes_images_as_they_are(plain):
    artifact = rounded(network())
    data = artifact.onnx_model(preprocessing=True, plain=plain)
    given, = session(data).get_inputs()
    assert (given.name, given.type, given.shape[1:]) == ('pixel_values', 'tensor(uint8)', [16, 16, 3])
    pixels = torch.randint(0, 256, (5, 16, 16, 3), dtype=torch.uint8)
    normalized = (pixels / 255 - torch.tensor([.4, .5, .6])) / torch.tensor([.2, .3, .25])
    with torch.no_grad():
        expected = artifact.create_model().eval()(normalized.permute(0, 3, 1, 2)).numpy()
    assert np.abs(outputs(data, pixels) - expected).max() <= TOLERANCE * np.abs(expected).max()
    found = metadata(onnx.load_from_string(data))
    assert 'mean' not in found and 'std' not in found and json.loads(found['input_size']) == [3, 16, 16]


@pytest.mark.parametrize('fields, says', [
    (dict(mean=(.1, .2)), r'mean is \(0.1, 0.2\)'), (dict(std=(0.,)), r'std is \(0.0, ')])
def test_preprocessing_needs_a_mean_and_a_deviation_for_each_channel(fields, says, shipped):
    with pytest.raises(TargetError, match=f'3 channels cannot be normalized: .*{says}'):
        described(shipped[0], **fields).onnx_model(preprocessing=True)


def test_what_is_written_was_checked(shipped, tmp_path):
    artifact, model = shipped
    checked = artifact.export_onnx(tmp_path / 'new' / 'a.onnx')
    assert checked.difference <= TOLERANCE and checked.version
    assert (tmp_path / 'new' / 'a.onnx').read_bytes() == model.SerializeToString()
    other = artifact.create_model().eval()
    other.linear.bias.data.add_(1)
    with pytest.raises(ArtifactError, match="differ from the network's"):
        check_model(model.SerializeToString(), other, (0, 0, 0), (1, 1, 1))


def test_bad_requests_leave_no_file(shipped, tmp_path, monkeypatch):
    artifact = shipped[0]
    monkeypatch.setattr(exports, 'onnx_model', lambda *_: (b'a model', None))
    for name in ('a.pth', 'a.onnx.safetensors', 'onnx'):
        with pytest.raises(ArtifactError, match='must end in .onnx, by which programs know what the file is'):
            artifact.export_onnx(tmp_path / name)
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(ArtifactError, match='Cannot write'):
        artifact.export_onnx(tmp_path / 'file' / 'a.onnx')

    def full(_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    (tmp_path / 'a.onnx').write_text('before')
    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(ArtifactError, match="Cannot write '.*a.onnx': .*No space left on device"):
        artifact.export_onnx(tmp_path / 'a.onnx')
    assert {path.name for path in tmp_path.iterdir()} == {'file', 'a.onnx'}
    assert (tmp_path / 'a.onnx').read_text() == 'before'


def test_what_no_onnx_file_can_hold_is_refused(shipped, monkeypatch):
    """protobuf's own error says neither why nor of what."""
    class Huge:
        metadata_props = onnx.ModelProto().metadata_props

        def SerializeToString(self):
            raise EncodeError('Failed to serialize proto')

    monkeypatch.setattr('timm_sbs.onnx.export.plain_model', lambda *_: Huge())
    with pytest.raises(ArtifactError, match="'resnet20_cifar10' takes more than 2 GB as an ONNX file, which none may"):
        shipped[0].onnx_model(plain=True)


@pytest.mark.parametrize('missing', ['onnx', 'onnxscript'])
@pytest.mark.parametrize('found', [None, importlib.machinery.ModuleSpec('a folder', None)])
def test_without_the_extra_it_is_named(missing, found, shipped, tmp_path, monkeypatch):
    """Also where a folder of the program that runs has the name of what is missing."""
    real = importlib.util.find_spec
    monkeypatch.setattr('importlib.util.find_spec', lambda name, *args: found if name == missing else real(name, *args))
    for name in [name for name in sys.modules if name.startswith('timm_sbs.onnx')]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match=rf"ONNX models need {missing}: pip install 'timm_sbs\[onnx\]'"):
        shipped[0].export_onnx(tmp_path / 'a.onnx')
    assert not list(tmp_path.iterdir())
