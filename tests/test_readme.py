"""What the README tells users to do works, and its figures are those of the results files."""
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY, SHIPPED

from timm_sbs import cli
from timm_sbs.artifact import read_config
from timm_sbs.models import embedded_folder

README = (REPOSITORY / 'README.md').read_text(encoding='utf-8')
RESULTS = REPOSITORY / 'tests' / 'benchmarks' / 'results'


def blocks(language):
    return re.findall(rf'```{language}\n(.*?)```', README, flags=re.DOTALL)


def commands(program):
    lines = re.sub(r'\\\n\s*', ' ', '\n'.join(blocks('bash'))).splitlines()
    parts = [shlex.split(part) for line in lines for part in line.split('&&')]
    return [part for part in parts if any(word.endswith(program) for word in part[:3])]


def test_first_snippet_runs():
    scope = {}
    exec(blocks('python')[0], scope)
    assert scope['model'].num_classes == 10 and scope['other'].num_classes == 7


def test_demo_command_runs_as_installed():
    assert 'pip install . && timm-sbs demo' in README
    program = Path(sys.executable).with_name('timm-sbs')
    shown = subprocess.run([program, 'demo'], capture_output=True, text=True, check=True, cwd='/')
    assert SHIPPED in shown.stdout


def test_ci_runs_the_readmes_test_command():
    command = "pip install '.[test]' && pytest"
    assert command in blocks('bash')[1] and command in (REPOSITORY / '.ci' / 'run').read_text()


def test_training_commands_are_understood(train_sbs):
    found = commands('train_sbs.py')
    assert len(found) >= 3
    for words in found:
        argv = words[words.index('train_sbs.py') + 1:]
        train_sbs.build_parser().parse_args(argv)


def test_other_commands_are_understood():
    for words in commands('timm-sbs'):
        cli.build_parser().parse_args(words[1:])


def test_links_into_the_repository_exist():
    for target in re.findall(r'\]\((?!http)([^)#]+)\)', README):
        assert (REPOSITORY / target).exists(), target


def test_figures_of_the_shipped_predictor():
    results = read_config(embedded_folder(SHIPPED))[0].results
    folder = embedded_folder(SHIPPED)
    size = sum(path.stat().st_size for path in folder.iterdir())
    for text in (
            f"{results['top1']:.2f} %", f"{results['original_top1']:.2f} %", f"{results['last_top1']:.2f} %",
            f"of {results['validations']} validated", f"{results['predictor_parameters']:,}", f'{size:,}'):
        assert text in README, text


def test_training_command_of_the_shipped_predictor_is_the_one_that_made_it(train_sbs):
    results = read_config(embedded_folder(SHIPPED))[0].results
    words = next(words for words in commands('train_sbs.py') if 'resnet20_cifar10' in words)
    args = train_sbs.build_parser().parse_args(words[words.index('train_sbs.py') + 1:])
    assert args.reconstruction_steps == results['reconstruction_steps'] and args.seed == results['seed']
    assert args.distillation_steps >= results['distillation_steps'] and args.pct == 20


def test_figures_of_reconstruction_alone():
    results = json.loads((RESULTS / 'reconstruction_resnet20.json').read_text())
    ours, nern = results['uos_rff'], results['nern']
    assert len(ours) == 3 and all(run['top1'] >= 84 for run in ours)
    assert all(run['ordering_seconds'] + run['training_seconds'] <= 120 for run in ours)
    row = next(line for line in README.splitlines() if line.startswith('| UOS + UOS-RFF'))
    for run in ours:
        assert f"{run['top1']:.2f}" in row
    row = next(line for line in README.splitlines() if line.startswith("| NeRN's"))
    assert f"{nern['top1']:.2f}" in row and f"{nern['reconstruction_error']:.3f}" in row


def test_figures_of_the_created_model():
    results = json.loads((RESULTS / 'created_model_resnet20.json').read_text())
    assert results['forward_ratio'] < 1.05
    for text in (f"{results['forward_ratio']:.2f} times", f"{results['create_ms']['generated']:.0f} ms",
                 f"{results['create_ms']['original_from_file']:.0f} ms"):
        assert text in README, text
