"""The flags of the ``timm-sbs`` command. Those of ``timm-sbs train`` are in :mod:`timm_sbs.training.options.flags`."""
import argparse
from os.path import expanduser
from typing import TYPE_CHECKING

from timm_sbs.common.config import byte_count

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = ['build_parser']

PICTURES = ('ledger', 'kernels', 'curves')

DESCRIPTION = """CNNs whose weights are generated, on load, by a small predictor, or rounded to few bits. In Python:

    import timm, timm_sbs
    model = timm.create_model('sbs_resnet18_15pct', pretrained=True)

One of your own is made, and then loaded or shared. --pct makes a predictor, --bytes rounds the weights:

    timm-sbs train --model resnet18 --pct 15 --output out/resnet18
    timm-sbs train --model resnet18 --bytes 3M --output out/resnet18
    model = timm.create_model('local-dir:out/resnet18', pretrained=True)
    timm-sbs push out/resnet18 user/resnet18-sbs --tag v1
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; ``command`` of what it returns names the one that was given."""
    parser = argparse.ArgumentParser(
        prog='timm-sbs', description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for add in (_demo, _info, _train, _quantize, _export, _push, _run, _plot, _cache, _eval):
        add(commands)
    return parser


def _demo(commands: 'Commands') -> None:
    parser = commands.add_parser(
        'demo', help='load shipped predictors and classify shipped images',
        description='Create sbs_resnet20_cifar10_42pct from the predictor inside the package, and classify 500 '
                    'CIFAR-10 test images with it; then sbs_resnet18_15pct, and show what it sees in three '
                    'photographs. Downloads nothing.')
    parser.add_argument('--plot', metavar='FILE', help='draw the photographs and their classes (.png, .svg or .pdf)')
    parser.add_argument('--theme', choices=['light', 'dark'], default='light', help='of --plot (default: %(default)s)')


def _info(commands: 'Commands') -> None:
    parser = commands.add_parser(
        'info', help='what an artifact is, and where its bytes go',
        description="The settings, accuracy and size ledger of an artifact: a predictor, rounded weights, or both.")
    parser.add_argument('model', help="folder of an artifact, a name such as sbs_resnet20_cifar10_42pct, or "
                                      "hf-hub:USER/NAME")


def _train(commands: 'Commands') -> None:
    """For the list of commands alone: the trainer reads its own flags (:func:`timm_sbs.train.main`)."""
    commands.add_parser('train', add_help=False, help='fit a predictor to the weights of a timm model, or round them')


def _quantize(commands: 'Commands') -> None:
    parser = commands.add_parser(
        'quantize', help='round a predictor to fewer bits, without data',
        description='Write a quantized copy of an artifact: rounded to integers, with more bits for the layers where '
                    "errors matter more, and entropy-coded. Needs no data, and does not train; 'timm-sbs train "
                    "--bits' trains with rounding, and is more accurate at few bits.")
    parser.add_argument('folder', help='folder of an artifact, quantized or not')
    parser.add_argument('output', help='folder of the copy')
    parser.add_argument('--bits', type=float, default=None, metavar='B',
                        help='bits of a predictor weight, the mean over its layers (default: 7, or the most that '
                             'fit into --bytes)')
    parser.add_argument('--kept-bits', type=int, default=8, metavar='B',
                        help='bits of kept tensors (default: %(default)s)')
    parser.add_argument('--bytes', type=byte_count, default=None, metavar='SIZE',
                        help='largest size of both files, such as 64k')


def _export(commands: 'Commands') -> None:
    parser = commands.add_parser(
        'export', help='write the generated or rounded weights as an ordinary checkpoint',
        description='Make the weights of an artifact, generated or rounded, and write the complete state dict of its '
                    'base model, as a safetensors file that timm loads without this package.')
    parser.add_argument('model', help='as for info')
    parser.add_argument('output', help='file to write, such as resnet20.safetensors')


def _push(commands: 'Commands') -> None:
    parser = commands.add_parser(
        'push', help='publish an artifact on the Hub',
        description='Upload an artifact, which holds a predictor, rounded weights, or both, and a card of its measured '
                    'results, in one commit. Creates the repository where there is none, and uploads only what is new. '
                    'Needs a login: hf auth login, or HF_TOKEN.')
    parser.add_argument('folder', help='folder of an artifact')
    parser.add_argument('repo_id', metavar='USER/NAME', help='repository; an organisation may stand for the user')
    parser.add_argument('--private', action='store_true', help='create it as a private repository')
    parser.add_argument('--revision', default=None, metavar='BRANCH', help='branch to commit to (default: main)')
    parser.add_argument('--tag', default=None, metavar='TAG', help="tag the commit, to load it as 'USER/NAME@TAG'")


def _run(commands: 'Commands') -> None:
    parser = commands.add_parser(
        'run', help="run a script, such as timm's own train.py or validate.py, that knows only timm",
        description='Run a Python script with the models of this package registered, as if it began with "import '
                    'timm_sbs". For several processes: torchrun ... -m timm_sbs run SCRIPT ...')
    parser.add_argument('script', help='Python file')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, help='its arguments')


def _plot(commands: 'Commands') -> None:
    parser = commands.add_parser(
        'plot', help='draw a picture of an artifact or a training run',
        description="Draw where an artifact's bytes are (ledger), kernels of a layer along their path, original and "
                    'generated (kernels), or the curves of a training run (curves).')
    parser.add_argument('source', help='as for info, or the output folder of a training run')
    parser.add_argument('output', help='picture to write, such as ledger.svg or ledger.png')
    parser.add_argument('--kind', choices=PICTURES, help='(default: the first that the source has something for)')
    parser.add_argument('--theme', choices=['light', 'dark'], default='light', help='(default: %(default)s)')
    parser.add_argument('--original', metavar='FILE', help="original weights, for 'kernels' (default: timm's)")
    parser.add_argument('--layer', metavar='NAME', help="generated weight that 'kernels' shows (default: the largest)")


def _cache(commands: 'Commands') -> None:
    parser = commands.add_parser(
        'cache', help='list or clear what is kept between runs',
        description='Generated weights and kernel orderings are kept beside the cache of the Hub, up to 2 GB of each, '
                    'so that a model is generated once. The environment variable TIMM_SBS_CACHE names another folder, '
                    "or is 'off'.")
    parser.add_argument('--clear', nargs='?', const='*', choices=['*', 'weights', 'orderings'], metavar='KIND',
                        help="delete all, or 'weights' or 'orderings' alone")


def _eval(commands: 'Commands') -> None:
    parser = commands.add_parser(
        'eval', help='top-1 accuracy of a model on a folder of images',
        description='Top-1 accuracy of any timm model, generated or not, on labelled images.')
    parser.add_argument('model', help="timm model name, such as sbs_resnet20_cifar10_42pct or local-dir:FOLDER")
    parser.add_argument('--checkpoint', default='', metavar='FILE', help='weights, instead of the pretrained ones')
    parser.add_argument('--data-dir', type=expanduser, metavar='DIR',
                        help='folder with SPLIT/CLASS, or the root of --dataset')
    parser.add_argument('--dataset', default='', metavar='NAME', help="timm dataset name, such as 'torch/cifar10'")
    parser.add_argument('--class-map', type=expanduser, default='', metavar='FILE',
                        help="text file with the names of the class folders in the order of the model's classes")
    parser.add_argument('--val-split', default='validation', metavar='NAME', help='(default: %(default)s)')
    parser.add_argument('-b', '--batch-size', type=int, default=128, metavar='N', help='(default: %(default)s)')
    parser.add_argument('-j', '--workers', type=int, default=None, metavar='N',
                        help='processes that read images (default: as the cores allow)')
    parser.add_argument('--device', metavar='NAME',
                        help="where the model runs, such as 'cuda:1' (default: the accelerator, if there is one)")
