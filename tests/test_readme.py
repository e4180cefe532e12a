"""What README and docs tell users to do works: snippets run, commands and flags are those of the programs."""
import ast
import json
import re
import shlex
import sys
from importlib.metadata import entry_points

import pytest
from conftest import ALL_SHIPPED, README, REPOSITORY, RESULTS

import timm_sbs
from timm_sbs.cli import main as cli

sys.path.insert(0, str(RESULTS.parent))
from table_makers.sources import config_of, word

PAGES = {path.name: path.read_text(encoding='utf-8')
         for path in [REPOSITORY / 'README.md', *sorted((REPOSITORY / 'docs').glob('*.md'))]}
# Snippets with these words need a network, a login, images, or a folder that an earlier command writes.
NOT_RUN = ("create_model('resnet18'", 'hf-hub:', 'push_to_hub', 'images=', 'local-dir:out')
# Options of accelerate and of the help, which the pages name.
FOREIGN = {'--multi_gpu', '--num_processes', '--help'}


def blocks(language, page='README.md'):
    return re.findall(rf'```{language}\n(.*?)```', PAGES[page], flags=re.DOTALL)


def command_lines():
    """Words of all command lines of all pages: those of code blocks, and those inside sentences."""
    for page in PAGES:
        lines = re.sub(r'\\\n\s*', ' ', '\n'.join(blocks('bash', page))).splitlines()
        yield from (shlex.split(part, comments=True) for line in lines for part in line.split('&&'))
        inline = re.findall(r'`(timm-sbs [^`]+)`', re.sub(r'(?ms)^```.*?^```', '', PAGES[page]))
        yield from (shlex.split(' '.join(text.split())) for text in inline)


def trainer_argv(words):
    """The trainer's arguments, if the words start it: 'timm-sbs train', '-m timm_sbs.train' or 'train_sbs.py'."""
    if words[:2] == ['timm-sbs', 'train']:
        return words[2:]
    for program in ('timm_sbs.train', 'train_sbs.py'):
        if program in words:
            return words[words.index(program) + 1:]
    return None


TRAINING = [(words, argv) for words in command_lines() if (argv := trainer_argv(words)) is not None
            and not {'...', '--help'} & set(argv)]
OTHERS = [words for words in command_lines() if words[:1] == ['timm-sbs'] and words[1] != 'train'
          and '...' not in words]


@pytest.fixture(scope='session')
def trainer():
    """The trainer's parser, and what reads recipes and configuration files too."""
    from timm_sbs.training.options.flags import build_parser
    from timm_sbs.training.options.parsing import parse_args
    return build_parser, lambda argv: parse_args(build_parser(), argv)


def test_first_snippet_runs():
    scope = {}
    exec(blocks('python')[0], scope)
    assert scope['model'].num_classes == scope['small'].num_classes == 1000 and scope['other'].num_classes == 7


@pytest.mark.parametrize('page', [page for page in PAGES if blocks('python', page)])
def test_snippets_run(page, tmp_path, monkeypatch):
    """In order, as in one program, in a checkout; fits take a few steps."""
    (tmp_path / 'tests').mkdir()
    (tmp_path / 'tests' / 'data').symlink_to(REPOSITORY / 'tests' / 'data')
    monkeypatch.chdir(tmp_path)
    fit, quick = timm_sbs.fit, {'reconstruction_steps': 5, 'mixed_precision': 'no'}
    rounding = {'mixed_precision': 'no'}  # without a predictor there is nothing to reconstruct
    monkeypatch.setattr(timm_sbs, 'fit', lambda *args, **flags: fit(
        *args, **{**flags, **(rounding if 'bytes' in flags else quick)}))
    scope, ran = {}, 0
    for block in blocks('python', page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == 'timm_sbs':
                assert hasattr(timm_sbs, node.attr), node.attr
        if not any(word in block for word in NOT_RUN):
            exec(block, scope)
            ran += 1
    assert ran


def test_demo_command_is_what_is_installed():
    assert 'pip install . && timm-sbs demo' in README
    [program] = entry_points(group='console_scripts', name='timm-sbs')
    assert program.load() is cli.main and 'demo' in cli.RUN


def test_ci_runs_the_readmes_test_command():
    command = "pip install '.[test]' && pytest"
    assert command in blocks('bash')[1] and command in (REPOSITORY / '.ci' / 'run').read_text()


def test_the_first_training_command_needs_no_download(trainer):
    words, argv = TRAINING[0]
    args = trainer[1](argv)
    assert words[0] == 'timm-sbs' and (REPOSITORY / args.initial_checkpoint).is_file()
    assert not args.data_dir and not args.dataset and not args.data_free


@pytest.mark.parametrize('words, argv', TRAINING, ids=lambda words: ' '.join(words)[:80])
def test_training_commands_are_understood(words, argv, trainer):
    trainer[1](argv)


@pytest.mark.parametrize('words', OTHERS, ids=lambda words: ' '.join(words)[:80])
def test_other_commands_are_understood(words):
    if len(words) == 2 and words[1] in options_of(cli.build_parser())[1]:
        return  # a sentence that names the command alone
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


def test_flags_in_sentences_exist(trainer):
    """They are the trainer's, the program's, a benchmark's, or one of a few of accelerate."""
    options = options_of(cli.build_parser())[0] | options_of(trainer[0]())[0] | FOREIGN
    for script in RESULTS.parent.glob('*.py'):
        options.update(re.findall(r"add_argument\('(--[\w-]+)'", script.read_text()))
    for page, text in PAGES.items():
        assert set(re.findall(r'(?<![\w-])--[a-z][\w-]*', text)) <= options, page


def test_every_command_is_shown():
    names = options_of(cli.build_parser())[1]
    assert 'train' in names
    for name in names:
        assert any(re.search(rf'timm-sbs {name}\b', text) for text in PAGES.values()), name


def test_recipes_are_named_and_exist(trainer):
    [recipe] = [action for action in trainer[0]()._actions if '--recipe' in action.option_strings]
    section = PAGES['training.md'].partition('## Recipes\n')[2].partition('\n## ')[0]
    assert set(re.findall(r'`(\w+)`', section)) - {'sbs_resnet18_15pct'} == set(recipe.choices)


def test_commands_of_the_programs_help_are_understood(trainer):
    for parser, least in ((cli.build_parser(), 1), (trainer[0](), 2)):
        found = re.findall(r'^ *((?:timm-sbs|accelerate launch|python|train_sbs\.py) .+)$', parser.format_help(),
                           flags=re.MULTILINE)
        lines = [shlex.split(line) for line in found if 'usage' not in line and '...' not in line]
        assert len(lines) >= least
        for words in lines:
            argv = trainer_argv(words)
            trainer[1](argv) if argv is not None else cli.build_parser().parse_args(words[1:])


@pytest.mark.parametrize('name', ALL_SHIPPED)
def test_training_commands_of_the_shipped_predictors_are_those_that_made_them(name, trainer):
    """A predictor that was made by two commands, distilled and then quantized, has the results of both."""
    sbs = config_of(name)['sbs']
    made = [trainer[1](argv) for _, argv in TRAINING if sbs['base'] in argv and '--mixed-precision' in argv]
    order_over = word(sbs['ordering'].get('order_over') or sbs['ordering']['granularity'])
    for run in (run for run in (sbs['results'].get('started_from'), sbs['results']) if run):
        [args] = [
            args for args in made
            if (args.bytes, args.bits, args.reconstruction_steps, args.mixed_precision, args.seed) == (
                run.get('max_bytes'), run.get('bits'), run['reconstruction_steps'], run['mixed_precision'], run['seed'])
            and args.order_over == (None if args.start_from else order_over)]
        taken, interval = run['quantization_steps'], args.eval_interval
        assert taken == args.distillation_steps or (  # the best, before the end
            taken < args.distillation_steps and taken % interval == 0 and 'last_top1' in run)


def test_the_command_that_made_resnet18_is_shown(trainer):
    results = json.loads((RESULTS / 'imagenet_resnet18.json').read_text())
    assert results['command'].split()[1] in PAGES['imagenet.md']
    [args] = [trainer[1](argv) for _, argv in TRAINING if {'--license', '--recipe'} <= set(argv)]
    shipped = config_of('sbs_resnet18_15pct')['sbs']['results']
    assert args.recipe == 'imagenet' and args.license == 'cc-by-nc-4.0' and args.bits == shipped['bits']
    assert (args.reconstruction_steps, args.distillation_steps, args.seed) == (
        shipped['reconstruction_steps'], shipped['quantization_steps'], shipped['seed'])
