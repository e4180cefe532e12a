"""What the README tells users to do works, and its figures of the shipped predictors are theirs."""
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ALL_SHIPPED, README, REPOSITORY, SHIPPED

from timm_sbs import cli
from timm_sbs.artifact import read_config
from timm_sbs.config import QuantizationConfig
from timm_sbs.models import embedded_folder


def blocks(language):
    return re.findall(rf'```{language}\n(.*?)```', README, flags=re.DOTALL)


def commands(program):
    lines = re.sub(r'\\\n\s*', ' ', '\n'.join(blocks('bash'))).splitlines()
    parts = [shlex.split(part) for line in lines for part in line.split('&&')]
    return [part for part in parts if any(word.endswith(program) for word in part[:3])]


def test_first_snippet_runs():
    scope = {}
    exec(blocks('python')[0], scope)
    assert scope['model'].num_classes == 1000 and scope['small'].num_classes == 10 and scope['other'].num_classes == 7


def test_demo_command_runs_as_installed():
    assert 'pip install . && timm-sbs demo' in README
    program = Path(sys.executable).with_name('timm-sbs')
    shown = subprocess.run([program, 'demo'], capture_output=True, text=True, check=True, cwd='/')
    assert SHIPPED in shown.stdout


def test_ci_runs_the_readmes_test_command():
    command = "pip install '.[test]' && pytest"
    assert command in blocks('bash')[1] and command in (REPOSITORY / '.ci' / 'run').read_text()


def settings_of(train_sbs, args):
    """What to start from is packed, in all commands of the README that start from something."""
    return train_sbs.settings_of(args, QuantizationConfig((5.,) * 4) if args.start_from else None)


def test_training_commands_are_understood(train_sbs):
    found = commands('train_sbs.py')
    assert len(found) >= 3
    for words in found:
        argv = words[words.index('train_sbs.py') + 1:]
        settings_of(train_sbs, train_sbs.parse_args(train_sbs.build_parser(), argv))


def test_other_commands_are_understood():
    for words in commands('timm-sbs'):
        cli.build_parser().parse_args(words[1:])


def options_of(parser):
    """All options of a parser and its commands, and the names of these."""
    options, names = set(), []
    for action in parser._actions:
        options.update(action.option_strings)
        if isinstance(action.choices, dict):
            for name, command in action.choices.items():
                names.append(name)
                options |= options_of(command)[0]
    return options, names


def test_help_knows_what_the_readme_names(train_sbs):
    """Options of the trainer and the program, of the benchmarks, and two of accelerate's."""
    options, names = options_of(cli.build_parser())
    options |= options_of(train_sbs.build_parser())[0] | {'--multi_gpu', '--num_processes'}
    for script in (REPOSITORY / 'tests' / 'benchmarks').glob('*.py'):
        options.update(re.findall(r"add_argument\('(--[\w-]+)'", script.read_text()))
    assert set(re.findall(r'(?<![\w-])--[a-z][\w-]*', README)) <= options
    for name in names:
        assert re.search(rf'timm-sbs {name}\b', README), name


def test_examples_of_the_programs_help_are_those_of_the_readme():
    examples = re.findall(r'^    (.+)$', cli.DESCRIPTION, flags=re.MULTILINE)
    assert len(examples) == 5 and all(example in README.splitlines() for example in examples)


def test_commands_of_the_trainers_help_are_understood(train_sbs):
    found = re.findall(r'train_sbs\.py (--.*)', train_sbs.build_parser().format_help())
    assert len(found) >= 3
    for line in found:
        settings_of(train_sbs, train_sbs.parse_args(train_sbs.build_parser(), shlex.split(line)))


def test_links_into_the_repository_exist():
    links, pictures = re.findall(r'\]\((?!http)([^)#]+)\)', README), re.findall(r'src(?:set)?="([^"]+)"', README)
    assert len(links) > 10 and len(pictures) >= 4
    for target in links + pictures:
        assert (REPOSITORY / target).exists(), target


@pytest.mark.parametrize('name', ALL_SHIPPED)
def test_figures_of_the_shipped_predictors(name):
    folder = embedded_folder(name)
    results = read_config(folder)[0].results
    size = sum(path.stat().st_size for path in folder.iterdir())
    row = next(line for line in README.splitlines() if line.startswith(f'| `{name}` | {results["top1"]:.2f} %'))
    share = 100 * results['predictor_parameters'] / results['original_parameters']
    assert f"| {results['predictor_parameters']:,} ({share:.1f} %) | {size:,} (" in row
    for text in (f"{results['original_top1']:.2f} %", f"{results['last_top1']:.2f} %"):
        assert text in README, text


@pytest.mark.parametrize('name', ALL_SHIPPED)
def test_training_commands_of_the_shipped_predictors_are_those_that_made_them(name, train_sbs):
    """A predictor that was made by two commands, distilled and then packed, has the results of both."""
    config = read_config(embedded_folder(name))[0]
    runs = [run for run in (config.results.get('started_from'), config.results) if run]
    made = []
    for words in commands('train_sbs.py'):
        if config.base in words:
            made.append(train_sbs.parse_args(train_sbs.build_parser(), words[words.index('train_sbs.py') + 1:]))
    for run in runs:
        matching = [
            args for args in made
            if (args.bytes, args.bits, args.reconstruction_steps, args.mixed_precision, args.seed) == (
                run.get('max_bytes'), run.get('bits'), run['reconstruction_steps'], run['mixed_precision'], run['seed'])
            and args.granularity == (run['granularity'] if not args.start_from else None)]
        assert len(matching) == 1, run
        settings = settings_of(train_sbs, matching[0])
        for phase in ('distillation', 'quantization'):
            taken, all_steps = run.get(f'{phase}_steps', 0), getattr(settings, phase).steps
            best_before_the_end = taken and taken % matching[0].eval_interval == 0 and 'last_top1' in run
            assert taken == all_steps or (best_before_the_end and taken < all_steps)


def test_where_the_bytes_are():
    folder = embedded_folder(SHIPPED)
    sizes = read_config(folder)[0].sizes
    parts = [sizes[part] for part in ('predictor', 'ordering', 'kept', 'frequencies', 'header')]
    row = ' | '.join(f'{size:,}' for size in [*parts, (folder / 'config.json').stat().st_size])
    assert f'timm-sbs info {SHIPPED}' in README and f'| {row} |' in README
