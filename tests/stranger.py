"""What a user does with a folder that a stranger has sent, and what must not come of it."""
import os
import random
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from limited import GIGABYTE, Outcome, limited
from mutations import mutated, write

import timm_sbs
from timm_sbs.cli.main import main

SECRET = 'my secret'
LINKS = {  # names in the folder, and what beside it they point to
    '.sbs_saved': 'thesis', '.checkpoints': 'thesis', 'checkpoints': 'thesis', '.config.json': 'secret',
    'README.md': 'secret', 'LICENSE': 'secret', 'NOTICE': 'secret', '.cache': 'thesis', 'progress.json': 'secret'}
MOST_PRINTED = 20_000  # characters
REFUSAL_SECONDS = 10  # of CPU time
PACKAGE = str(Path(timm_sbs.__file__).parent)
TIMM_READS = 'timm itself'  # raises while it reads config.json, before this package is asked


def surroundings(root: Path, links: tuple[str, ...] = ()) -> Path:
    """A folder for an artifact, beside files of the user, with links to some of these. Returns the folder."""
    shutil.rmtree(root, ignore_errors=True)
    (root / 'thesis').mkdir(parents=True)
    (root / 'thesis' / 'chapter.txt').write_text('years of work')
    (root / 'secret').write_text(SECRET)
    (root / 'received').mkdir()
    for name in links:
        os.symlink(f'../{LINKS[name]}', root / 'received' / name)
    return root / 'received'


def contents(root: Path) -> dict[str, bytes]:
    """All files of the user outside of the folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob('*'))
            if path.is_file() and not path.is_relative_to(root / 'received') and not path.is_relative_to(root / 'out')}


def use(folder: Path, thoroughly: bool = True) -> dict[str, Any]:
    """Load, create, describe, export and save an artifact. Returns what became of each: 'fine', the message of an
    SbsError, 'FAILED' and another exception, or 'timm itself' and what timm raises before it asks this package; and
    ``size``, the bytes of the model, if it was created. Not thoroughly, it is loaded, created and described alone."""
    out = folder.parent / 'out'
    found: dict[str, Any] = {}
    kept: dict[str, Any] = {}

    def attempt(name: str, call: Callable[[], Any]) -> None:
        try:
            kept[name] = call()
            found[name] = 'fine'
        except timm_sbs.SbsError as e:
            found[name] = f'refused: {e}'
        except SystemExit as e:
            found[name] = f'FAILED exit {e.code}'
        except BaseException as e:
            asked = any(frame.filename.startswith(PACKAGE) for frame in traceback.extract_tb(e.__traceback__))
            found[name] = f"{'FAILED' if asked else TIMM_READS} {type(e).__name__}: {str(e)[:300]!a}"

    attempt('load', lambda: timm_sbs.load(folder))
    attempt('create', lambda: timm.create_model(f'local-dir:{folder}', pretrained=True))
    attempt('info', lambda: main(['info', str(folder)]))
    if 'load' in kept:
        attempt('card', lambda: kept['load'].card('user/name'))
    if thoroughly:
        attempt('random', lambda: timm.create_model(f'local-dir:{folder}', pretrained=False))
        attempt('export', lambda: main(['export', str(folder), str(out / 'exported.safetensors')]))
    if 'load' in kept and thoroughly:
        attempt('model', lambda: kept['load'].create_model())
        attempt('other classes', lambda: timm.create_model(
            f'local-dir:{folder}', pretrained=True, num_classes=3, in_chans=1))
        attempt('save', lambda: kept['load'].save(out / 'copy'))
        attempt('save again', lambda: kept['load'].save(folder))
    if 'create' in kept:
        found['size'] = sum(t.numel() * t.element_size() for t in kept['create'].state_dict().values())
    if 'create' in kept and 'model' in kept:
        found['same'] = same(kept['create'], kept['model'])
    if 'card' in kept:
        print(kept['card'])
    return found


def same(model: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two models are built alike and have equal weights."""
    state, expected = model.state_dict(), other.state_dict()
    return str(model) == str(other) and state.keys() == expected.keys() and all(
        torch.equal(state[name], expected[name]) for name in state)


def harm(root: Path, thoroughly: bool = True) -> tuple[list[str], dict[str, Any], Outcome]:
    """What went wrong when ``root/received`` was used; what became of each use; and what it took."""
    before = contents(root)
    outcome = limited(lambda: use(root / 'received', thoroughly))
    found, wrong = outcome.result or {}, []
    if outcome.result is None:
        wrong.append(f'killed by signal {outcome.killed}' if outcome.killed else 'the process ended early')
    wrong += [f'{name}: {value}' for name, value in found.items() if str(value).startswith('FAILED')]
    if found.get('same') is False:
        wrong.append('the model by name and that by load differ')
    for name in ('create', 'info'):
        if found.get('load') == 'fine' and not found.get(name, 'fine').startswith(('fine', TIMM_READS)):
            wrong.append(f'loaded, but {name} was {found[name]}')
    if outcome.memory > GIGABYTE + 3 * found.get('size', 0):
        wrong.append(f'{outcome.memory / GIGABYTE:.2f} GB')
    refusals = sum(str(value).startswith('refused') for value in found.values())
    if outcome.seconds > REFUSAL_SECONDS * max(1, refusals) and found.get('load') != 'fine':
        wrong.append(f'{outcome.seconds:.1f} s for {refusals} refusals')
    told = outcome.printed + '\n'.join(map(str, found.values()))
    if strange := {c for c in told if not c.isprintable() and c not in '\n\t'}:
        wrong.append(f'control characters {sorted(strange)!r}')
    if len(told) > MOST_PRINTED:
        wrong.append(f'{len(told):,} characters printed')
    if contents(root) != before:
        wrong.append('files of the user have changed')
    exposed = [path for path in (root / 'out', root / 'received') for path in path.rglob('*')
               if path.is_file() and not path.is_symlink() and SECRET.encode() in path.read_bytes()]
    if SECRET in told or exposed:
        wrong.append('a secret was copied')
    return wrong, found, outcome


def one_case(root: Path, files: tuple[bytes, bytes], seed: int, thoroughly: bool = True) -> dict[str, Any]:
    """An artifact of two files, mutated by a seed and now and then beside links, is used: what was changed, what went
    wrong, what became of each use, and what it took."""
    rng = random.Random(-seed - 1)
    links = tuple(rng.sample(sorted(LINKS), 2)) if rng.random() < .2 else ()
    change, config, weights = mutated(*files, seed)
    write(surroundings(root, links), config, weights)
    wrong, found, outcome = harm(root, thoroughly)
    return {'seed': seed, 'change': change, 'links': links, 'wrong': wrong, 'found': found, 'memory': outcome.memory,
            'seconds': outcome.seconds, 'printed': outcome.printed[-2000:] if wrong else ''}
