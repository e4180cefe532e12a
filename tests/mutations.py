"""Artifacts as a stranger might send them: each is a good one with a few things changed, by a seed.

Changes are of config.json (values, types, sizes, nesting, keys, text), of the header of model.safetensors, and of the
bytes of its tensors; most are under a digest that is right again.
"""
import copy
import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from timm_sbs.artifact.files import CONFIG_NAME, WEIGHTS_NAME, digest, structure

Path_ = tuple[Any, ...]

CONTROL = '\x1b]0;PWNED\x07\x1b[31m\r\n\u202e\u2028'
TEXTS = ['', 'x', CONTROL, 'a' * 3000, '../../etc/passwd', '~/secret', '<img src=x onerror=alert(1)>', '| a | b |',
         '[link](http://example.com)', 'layer', 'max', 'avg', 'fc', 'conv1', 'linear', 'resnet18', 'float16', 'sine',
         '\ud800']
NUMBERS = [0, 1, -1, 2, 3, 7, 65, 1000, 4096, 1 << 16, 1 << 20, 1 << 31, 1 << 63, 10 ** 30, 0.5, -0.5, 1e-30, 1e30,
           1e308]
OTHERS = [None, True, False, [], {}, [1], ['x'], [[[[1]]]], {'x': {'y': [None]}}, [1 << 20] * 3, ['conv1', 'fc'],
          [3, 32000, 32000], [1, 1, 1], [0, 0, 0]]
# What timm, or a reader, would look at if it were there.
FIELDS = [('pretrained_cfg', name) for name in (
    'first_conv', 'classifier', 'fixed_input_size', 'pool_size', 'test_pool_size', 'test_input_size', 'min_input_size',
    'input_size', 'crop_pct', 'test_crop_pct', 'crop_mode', 'interpolation', 'mean', 'std', 'num_classes',
    'label_offset', 'label_names', 'label_descriptions', 'license', 'description', 'notes', 'origin_url', 'paper_ids',
    'paper_name', 'url', 'file', 'state_dict', 'hf_hub_id', 'hf_hub_filename', 'source', 'architecture', 'tag',
    'custom_load', 'global_pool')]
FIELDS += [('model_args', name) for name in (
    'global_pool', 'img_size', 'drop_rate', 'act_layer', 'norm_layer', 'layers', 'depths', 'pretrained', 'num_classes',
    'in_chans', 'checkpoint_path', 'features_only', 'out_indices', 'pretrained_strict', 'device', 'cfg', 'base')]
FIELDS += [('sbs', *names) for names in (
    ('base',), ('base_args',), ('base_args', 'global_pool'), ('generated',), ('rounded',), ('ordering', 'order_over'),
    ('ordering', 'coordinates'), ('ordering', 'max_positions'), ('encoding', 'kind'), ('encoding', 'num_frequencies'),
    ('encoding', 'bandwidth'), ('encoding', 'levels'), ('predictor', 'width'), ('predictor', 'linear_layers'),
    ('predictor', 'activation'), ('predictor', 'extra'), ('pointwise_size',), ('storage_dtype',), ('quantization',),
    ('quantization', 'layer_bits'), ('quantization', 'kept_bits'), ('ledger',), ('results',), ('results', 'hardware'),
    ('results', 'versions'), ('results', 'top1'), ('results', 'started_from'), ('format_version',))]
FIELDS += [('num_classes',), ('architecture',), ('label_names',), ('model_args',), ('pretrained_cfg',), ('sbs',)]
BASES = ['resnet18', 'vit_tiny_patch16_224', 'swin_tiny_patch4_window7_224', 'mixer_s16_224', 'efficientnet_lite0',
         'regnetx_002', 'convnext_atto', 'coat_lite_tiny', 'sbs', 'vgg11', 'test_vit', 'naflexvit_base_patch16_gap']


def paths_in(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Paths of all values inside a JSON value, and of itself."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths_in(inner, (*path, key))


def put(root: Any, path: Path_, value: Any) -> None:
    """Set a value in a JSON object; objects on the way are made where there are none."""
    for key in path[:-1]:
        inner = root.get(key) if isinstance(root, dict) else root[key]
        if not isinstance(inner, (dict, list)) or (isinstance(inner, list) and not isinstance(path[-1], int)):
            root[key] = inner = {}
        root = inner
    if isinstance(root, dict) or path[-1] < len(root):
        root[path[-1]] = value


def value_at(root: Any, path: Path_) -> Any:
    for key in path:
        root = root[key]
    return root


def any_value(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(rng.choice([TEXTS, NUMBERS, OTHERS])))


def like(value: Any, rng: random.Random) -> Any:
    """A value of the same type, near or far."""
    if isinstance(value, bool) or value is None:
        return rng.choice([True, False, None])
    if isinstance(value, (int, float)):
        return rng.choice([value + 1, value - 1, value * 2, value * 1000, -value, value * 1e18, float(value), *NUMBERS])
    if isinstance(value, str):
        return rng.choice([value[:-1], value * 3, value + CONTROL, value.upper(), value[:30] * 100_000, *TEXTS])
    if isinstance(value, list):
        return rng.choice([value[:-1], value * 2, value[::-1], value * 1000, [value], [*value, any_value(rng)]])
    return {**value, rng.choice(TEXTS): any_value(rng)}


def change_config(root: dict[str, Any], rng: random.Random) -> None:
    """One to three changes of a parsed config.json."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        paths = [path for path in paths_in(root) if path]
        kind, path = rng.randrange(8), rng.choice(paths)
        if kind < 2:
            put(root, path, like(value_at(root, path), rng))
        elif kind == 2:
            put(root, path, any_value(rng))
        elif kind < 5:
            put(root, rng.choice(FIELDS), any_value(rng))
        elif kind == 5:
            holder = value_at(root, path[:-1])
            del holder[path[-1]]
        elif kind == 6:
            put(root, (*path[:-1], rng.choice(TEXTS)) if isinstance(path[-1], str) else path, any_value(rng))
        else:
            name = rng.choice(['img_size', 'depths', 'layers', 'embed_dim', 'depth', 'window_size', 'global_pool'])
            args = rng.choice([{}, {rng.choice(FIELDS[-12:])[-1]: any_value(rng)}, {name: any_value(rng)}])
            put(root, ('sbs', 'base'), rng.choice(BASES))
            put(root, ('model_args',), copy.deepcopy(args))


def change_text(text: bytes, rng: random.Random) -> bytes:
    """config.json as bytes: flipped, cut, doubled keys, deep nesting, numbers without end."""
    at = rng.randrange(len(text))
    return rng.choice([
        lambda: text[:at] + bytes([rng.randrange(256)]) + text[at + 1:],
        lambda: text[:at],
        lambda: text[:at] + text[at // 2:],
        lambda: text.replace(b'{', b'{"sbs":' + b'[' * rng.choice([10, 100_000]), 1),
        lambda: text.replace(b'10', b'1' * rng.choice([10, 400, 5000])),
        lambda: text.replace(b'0', b'NaN', 1),
        lambda: b'\xff\xfe' + text,
        lambda: text + text,
        lambda: b'',
    ])()


def change_header(data: bytes, rng: random.Random) -> bytes:
    """model.safetensors with another header."""
    size = 8 + int.from_bytes(data[:8], 'little')
    header = json.loads(data[8:size])
    kind = rng.randrange(5)
    if kind == 0:
        return rng.choice([0, 1, size * 2, 1 << 31, (1 << 64) - 1]).to_bytes(8, 'little') + data[8:]
    if kind == 1:
        at = rng.randrange(8, size)
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1:]
    path = rng.choice([path for path in paths_in(header) if path])
    if kind == 2:
        put(header, path, like(value_at(header, path), rng))
    elif kind == 3:
        put(header, path, any_value(rng))
    else:
        holder = value_at(header, path[:-1])
        holder.pop(path[-1])
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, 'little') + text + data[size:]


def change_stream(data: bytes, rng: random.Random) -> bytes:
    """model.safetensors with other bytes, fewer or more, in one of its tensors; the header fits."""
    size = 8 + int.from_bytes(data[:8], 'little')
    header = json.loads(data[8:size])
    parts = {name: bytearray(data[size + a: size + b]) for name, entry in header.items() if name != '__metadata__'
             for a, b in [entry['data_offsets']]}
    name = rng.choice(list(parts))
    part = parts[name]
    at = rng.randrange(len(part))
    kind = rng.randrange(6)
    if kind < 2:
        for _ in range(rng.choice([1, 1, 4, 64])):
            position = int(rng.expovariate(1 / 40)) if kind else rng.randrange(len(part))
            part[min(len(part) - 1, position)] = rng.randrange(256)
    elif kind == 2:
        part[at:] = bytes([rng.choice([0, 255])]) * (len(part) - at)
    elif kind == 3 and header[name]['dtype'] == 'U8':
        del part[at:]
    elif kind == 4 and header[name]['dtype'] == 'U8':
        part += part * rng.choice([1, 3, 200])
    else:
        part[at:at + 4] = b'\x00\x00\xc0\x7f'[:len(part[at:at + 4])]  # NaN
    offset = 0
    for name, part in parts.items():
        header[name]['data_offsets'] = [offset, offset := offset + len(part)]
        if header[name]['dtype'] == 'U8':
            header[name]['shape'] = [len(part)]
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    return len(text).to_bytes(8, 'little') + text + b''.join(parts.values())


def mutated(config: bytes, weights: bytes, seed: int) -> tuple[str, bytes, bytes]:
    """What was changed, and the contents of both files."""
    rng = random.Random(seed)
    kind = rng.choice(['config', 'config', 'config', 'config', 'text', 'header', 'stream', 'stream'])
    root = json.loads(config)
    if kind == 'header':
        weights = change_header(weights, rng)
    elif kind == 'stream':
        weights = change_stream(weights, rng)
    elif kind == 'config':
        change_config(root, rng)
    if rng.random() < .9:
        seal(root, weights)
    text = json.dumps(root).encode('utf-8')
    return kind, change_text(text, rng) if kind == 'text' else text, weights


def seal(root: Any, weights: bytes) -> None:
    """Make the digest in a parsed config.json right for what it says and for these tensors, as one does who makes files
    of his own. What has no structure stays as it is."""
    with suppress(AttributeError, KeyError, TypeError, ValueError, RecursionError):
        root['sbs']['digest'] = digest(structure(root), weights)


def edit(folder: Path, change: Callable[[Any], Any], sealed: bool = True) -> None:
    """Change a folder's config.json, under a digest that is right again, unless the change is of that."""
    path = folder / CONFIG_NAME
    root = json.loads(path.read_text())
    recorded = root['sbs']['digest']
    change(root)
    if sealed and root['sbs'].get('digest') == recorded:
        seal(root, (folder / WEIGHTS_NAME).read_bytes())
    path.write_text(json.dumps(root))


def write(folder: Path, config: bytes, weights: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_NAME).write_bytes(config)
    (folder / WEIGHTS_NAME).write_bytes(weights)
    return folder
