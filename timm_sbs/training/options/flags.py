"""The trainer's command line."""
import argparse
from os.path import expanduser

from timm.utils import ParseKwargs

from timm_sbs.common.config import (
    ACTIVATIONS,
    COORDINATES,
    ENCODINGS,
    METHODS,
    ORDER_OVER,
    STORAGE_DTYPES,
    SelectionRule,
    byte_count,
)
from timm_sbs.data.folders import DataSettings
from timm_sbs.data.synthetic import DATA_FREE, InversionSettings
from timm_sbs.training.options.parsing import PCT, recipe_names
from timm_sbs.training.options.phase_flags import (
    add_distillation,
    add_quantization,
    add_reconstruction,
    add_second_order,
)
from timm_sbs.training.options.settings import (
    ENCODING_DEFAULTS,
    FOLD_FROM,
    LINEAR_LAYERS,
    MAX_PLACES,
    PRECISIONS,
    QUANTIZED_LINEAR_LAYERS,
)

__all__ = ['build_parser']


DESCRIPTION = """\
Fit a predictor to the weights of a timm CNN, or round these, and write the result as an artifact that timm can load.

Without images the predictor is fitted to the weights alone (reconstruction). With images, which need no labels, it is
then fitted so that errors of the weights change predictions least (second order), and trained so that the generated
model predicts what the original predicts (distillation); --data-free draws the images itself.

With --bytes there is no predictor: all weights are rounded to small integers, by second order if there are images, and
then trained on these.

    timm-sbs train --model resnet18 --pct 15 --output out/resnet18
    timm-sbs train --model resnet18 --bytes 3M --output out/resnet18
    timm-sbs train --recipe cifar10 --model resnet20_cifar10 --data-dir cifar10 --output out/resnet20
    accelerate launch -m timm_sbs.train --model resnet18 --pct 15 --data-free inversion --output out/resnet18

The last line is for several GPUs or processes. Then, in Python:

    import timm, timm_sbs
    model = timm.create_model('local-dir:out/resnet20', pretrained=True)
"""


def build_parser(kind: type[argparse.ArgumentParser] = argparse.ArgumentParser) -> argparse.ArgumentParser:
    """All flags of the trainer, with defaults from the settings' dataclasses."""
    parser = kind(
        prog='timm-sbs train', description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False)
    add = parser.add_argument
    add('--recipe', choices=recipe_names(),
        help='settings as a file. Other flags overrule them')
    add('-c', '--config', type=expanduser, metavar='FILE',
        help='YAML file of flags, such as the args.yaml of an earlier run; flags on the command line overrule it')
    add('--dry-run', action='store_true', help='say what would become of each weight and how large the artifact '
                                               'would be, and stop')
    _add_original(parser)
    _add_predictor(parser)
    add_reconstruction(parser)
    add_second_order(parser)
    add_distillation(parser)
    add_quantization(parser)
    _add_data(parser)
    _add_run(parser)
    return parser


def _add_original(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('original model').add_argument
    add('--model', required=True, metavar='NAME', help='timm model whose weights are to be generated or rounded')
    add('--initial-checkpoint', type=expanduser, default='', metavar='FILE',
        help="its trained weights (default: timm's pretrained weights)")
    add('--license', default=None, metavar='NAME',
        help="licence of these weights, which the artifact's card will say, such as cc-by-nc-4.0 (default: that of "
             "timm's weights, if they are these; else unknown; with --start-from the artifact's, always)")
    add('--base-model', default=None, metavar='USER/NAME',
        help="repository of these weights on the Hub, which the card will name (default: that of timm's weights, if "
             'they are these)')
    add('--model-kwargs', nargs='*', default={}, action=ParseKwargs, metavar='KEY=VALUE',
        help='further arguments of the architecture')


def _add_predictor(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('predictor').add_argument
    add('--pct', type=float, default=None, metavar='P',
        help=f"make a predictor with so many per cent of the original model's parameters (default: {PCT:g}, where "
             f'nothing says --bytes)')
    add('--method', choices=METHODS, default=None,
        help='generation: a predictor generates the weights of convolutions and linear layers. rounding: all weights '
             'become integers, and nothing is generated, which needs --bytes or --bits (default: generation; with '
             '--bytes and none of --bits, --order-over and --generate: rounding)')
    add('--bytes', type=byte_count, metavar='SIZE',
        help="round all weights, so that the artifact's two files have this size, such as 64k; with --method "
             'generation: make the widest quantized predictor that fits')
    add('--start-from', type=expanduser, metavar='DIR',
        help='go on from this artifact: its orderings, predictor and kept tensors, which flags of these groups then '
             'cannot change. A quantized one keeps its rounding, unless --bits divides bits anew')
    add('--linear-layers', type=int, default=None, metavar='N',
        help=f'matrix products from features to kernel (default: {LINEAR_LAYERS}, or {QUANTIZED_LINEAR_LAYERS} if the '
             f'predictor is quantized)')
    add('--activation', choices=ACTIVATIONS, default='gelu', help='(default: %(default)s)')
    add('--storage-dtype', choices=STORAGE_DTYPES, default='float16',
        help='number format of a predictor that is not quantized (default: %(default)s)')

    add = parser.add_argument_group(
        'generated weights', 'Convolutions and linear layers are generated, but for stem, classifier, small ones, and '
        'linear layers of networks of convolutions with some attention; all else is kept. With --bits or --bytes '
        'other weights of two or more dimensions are rounded. --dry-run says what that means.').add_argument
    add('--min-weights', type=int, default=SelectionRule.min_weights, metavar='N',
        help='do not generate weights smaller than this (default: %(default)s)')
    add('--generate', nargs='*', default=(), metavar='PATTERN',
        help="generate tensors of these names too, although the rule does not, such as 'blocks.*.mlp.*'")
    add('--keep', nargs='*', default=(), metavar='PATTERN',
        help='neither generate nor round weights of these names, but store them with --kept-bits')
    add('--pointwise-size', type=int, default=SelectionRule.pointwise_size, metavar='N',
        help='input channels in a token of 1x1 convolutions and linear layers (default: %(default)s)')

    add = parser.add_argument_group('ordering and encoding', 'The defaults are UOS with UOS-RFF. NeRN: --coordinates '
                                    'grid --encoding positional --activation relu.').add_argument
    add('--order-over', choices=ORDER_OVER, default=None,
        help='what one kernel path runs over: all kernels of a layer, those of each filter, the two axes of a layer, '
             'nothing; the finer, the more bytes it takes (default: layer)')
    add('--coordinates', choices=COORDINATES, default=None,
        help="place on the path, or row and column of a grid (default: path for 'layer', else grid)")
    add('--max-places', type=int, default=None, metavar='N',
        help='places of a layer; where it has more kernels, 4, 16, 64 or 256 are generated at each, which makes '
             'loading and training so many times faster. 0: one kernel at each place (default: '
             f'{MAX_PLACES} for networks of {FOLD_FROM:,} kernels, else 0)')
    add('--encoding', choices=ENCODINGS, default='random_fourier', help='(default: %(default)s)')
    for name, kind, metavar, text in (
            ('num_frequencies', int, 'K', 'random frequencies'),
            ('layer_bandwidth', float, 'S', 'cycles along the layers'),
            ('bandwidth', float, 'C', 'c of s = c * n^p, cycles along an axis of n kernels'),
            ('bandwidth_exponent', float, 'P', 'p of s = c * n^p; 0 is plain RFF')):
        path, grid = (getattr(ENCODING_DEFAULTS[coordinates], name) for coordinates in ('path', 'grid'))
        add(f"--{name.replace('_', '-')}", type=kind, default=None, metavar=metavar,
            help=f'{text} (default: {path:g} on a path, {grid:g} on a grid)')


def _add_data(parser: argparse.ArgumentParser) -> None:
    add, d = parser.add_argument_group('images').add_argument, DataSettings
    add('--data-dir', type=expanduser, default=None, metavar='DIR',
        help='a folder with train/CLASS and validation/CLASS, one of images without labels, or the root of --dataset')
    add('--unlabelled-dir', type=expanduser, nargs='*', default=(), metavar='DIR',
        help='folders of more training images, without labels: all images in them and in their subfolders, whatever '
             'these are called; --data-dir then needs a validation split alone, or may be missing')
    add('--class-map', type=expanduser, default='', metavar='FILE',
        help="text file with the names of the class folders, one in a line, in the order of the model's classes, where "
             'there are not folders of all (as in timm). Images of other folders are left out')
    add('--dataset', default='', metavar='NAME',
        help="timm dataset name: 'torch/cifar10', 'hfds/...', 'wds/...' (default: ImageFolder)")
    add('--dataset-download', action='store_true', help='let --dataset download itself')
    add('--train-split', default=d.train_split, metavar='NAME', help='(default: %(default)s)')
    add('--val-split', default=d.val_split, metavar='NAME',
        help="labelled images that measure the result; '' for none (default: 'validation', if --data-dir has it)")
    add('--holdout-images', type=int, default=d.holdout_images, metavar='N',
        help='training images that are not trained on, but choose which artifact is kept (default: a tenth, at most '
             '2,000; none of fewer than 100, of a stream or of drawn ones: then the last is kept)')
    add('--data-free', choices=DATA_FREE, default=None,
        help="draw the images of statistics and distillation: 'inversion' draws them to match the original's BatchNorm "
             "statistics, 'noise' has the spectrum of photographs. --data-dir then needs a validation split alone, or "
             'may be missing')
    add('--synthetic-images', type=int, default=InversionSettings.images, metavar='N',
        help='images of --data-free inversion (default: %(default)s)')
    add('--synthetic-steps', type=int, default=InversionSettings.steps, metavar='N',
        help='steps in which they are drawn (default: %(default)s)')
    add('-b', '--batch-size', type=int, default=d.batch_size, metavar='N',
        help='images of one batch, on each process (default: %(default)s)')
    add('-j', '--workers', type=int, default=d.workers, metavar='N',
        help='processes that read images, for each process; 0: itself (default: one for 4 cores; with a GPU for each '
             'core but one, up to 8)')
    add('--image-cache', type=lambda text: 0 if text.strip('0') == '' else byte_count(text), metavar='SIZE',
        default=d.image_cache,
        help='a split whose images fit into so many bytes, such as 500M, is decoded once by each process and kept, '
             'unless training images are cropped at random; 0 reads files every time (default: 1G)')
    add('--no-aug', action='store_true',
        help="no augmentation; the original's outputs are then computed only once for each image, if they are all "
             'that is compared (no --feature-weight) and nothing else changes what is seen (--mixup, --cutmix, '
             '--train-size)')
    add('--crop-padding', type=int, default=None, metavar='PX',
        help='shift training images by up to PX pixels (default: 4 below 64 pixels, else 0: random resized crops)')
    add('--hflip', type=float, default=d.hflip, metavar='P',
        help='probability of a horizontal flip (default: %(default)s)')
    add('--scale', type=float, nargs=2, default=d.scale, metavar='PART',
        help='smallest and largest area of a random crop (default: %(default)s)')
    add('--mixup', type=float, default=d.mixup, metavar='A',
        help='mix images of a batch in shares drawn from Beta(A, A); original and generated model see the same mixture '
             '(default: %(default)s, not at all)')
    add('--cutmix', type=float, default=d.cutmix, metavar='A',
        help='paste rectangles of one image into another likewise; with --mixup, each batch takes one of them '
             '(default: %(default)s)')
    add('--train-size', type=int, nargs='+', default=None, metavar='PX',
        help='height of the images in distillation, or its first and its last height, with steps of 32 pixels between '
             'them: smaller images take less time (default: what the model expects)')


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('run').add_argument
    add('--output', type=expanduser, required=True, metavar='DIR',
        help='folder of the best artifact, and of all else that a run writes')
    add('--seed', type=int, default=0, metavar='N', help='(default: %(default)s)')
    add('--mixed-precision', choices=PRECISIONS, default='auto',
        help="'auto' is bf16 or fp16 if 'accelerate launch' says so ('no' counts as not said); else bf16 on a device "
             'with units for it, fp16 on other GPUs, and no on other CPUs (default: %(default)s)')
    add('--checkpointing-steps', type=int, default=None, metavar='N', help='steps between checkpoints (default: none)')
    add('--checkpoints-total-limit', type=int, default=None, metavar='N', help='keep only so many (default: all)')
    add('--resume', type=expanduser, default=None, metavar='latest|DIR',
        help="go on from a checkpoint as if the run had never stopped; 'latest' starts anew where there is none")
    add('--report-to', nargs='*', default=(), metavar='TRACKER',
        help="accelerate's trackers: tensorboard, wandb, ... (summary.csv is always written)")
    add('--push-to-hub', action='store_true', help='upload the artifact; needs a login (hf auth login, or HF_TOKEN)')
    add('--hub-model-id', default=None, metavar='USER/NAME', help='where to (created before training)')
    add('--hub-private', action='store_true', help='create it as a private repository')
    add('--hub-dataset', default=None, metavar='NAME',
        help='data set of the images as the Hub names it, such as imagenet-1k, for the card (default: that of '
             '--dataset)')
