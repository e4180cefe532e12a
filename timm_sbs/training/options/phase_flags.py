"""The flags of the training phases."""
import argparse

from timm_sbs.training.options.settings import (
    KEPT_PARTS,
    PREDICTOR_BITS,
    WHOLE_STEPS,
    DistillationSettings,
    QuantizationSettings,
    ReconstructionSettings,
    SecondOrderSettings,
)

__all__ = ['add_reconstruction', 'add_second_order', 'add_distillation', 'add_quantization']


def _add_lr(group: argparse._ArgumentGroup, prefix: str, default: float | None) -> None:
    """The learning rate of a phase; without a default, that of distillation holds."""
    narrower = ', of predictors up to a width of 128; wider ones get less in proportion' \
        if prefix in ('reconstruction-', 'second-order-') else ''
    shown = '%(default)s' if default else "distillation's --lr"
    group.add_argument(f'--{prefix}lr', type=float, default=default, metavar='LR',
                       help=f'peak learning rate{narrower} (default: {shown})')


def add_reconstruction(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('reconstruction', 'First phase: fit the weights themselves. Needs no data.')
    group.add_argument('--reconstruction-steps', type=int, default=None, metavar='N',
                       help=f'0 leaves the phase out (default: {ReconstructionSettings.steps}; with --start-from and '
                            f'images 0, for the phase would undo what was trained on images)')
    group.add_argument('--reconstruction-batch-size', type=int, default=ReconstructionSettings.batch_size, metavar='N',
                       help='kernels of one step, over all processes (default: %(default)s)')
    _add_lr(group, 'reconstruction-', ReconstructionSettings.lr)


def add_second_order(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        'second order', 'Second phase, if there are images: fit the weights again, but count their errors by what they '
        'do to the predictions. Some images are looked at once, without their labels, for the statistics of each '
        'layer; the steps need no image. Biases or BatchNorm means then take up what is constant in the errors.')
    add, s = group.add_argument, SecondOrderSettings
    add('--second-order-steps', type=int, default=None, metavar='N',
        help=f'0 leaves the phase out (default: {s.steps}; {WHOLE_STEPS} where each step takes all kernels; with '
             f"--start-from 0, for the phase begins from the original's kept tensors)")
    add('--statistics-images', type=int, default=s.images, metavar='N',
        help='images that are looked at, without augmentation (default: %(default)s, or all there are)')
    add('--second-order-batch-size', type=int, default=s.batch_size, metavar='N',
        help='kernels of one step, in whole filters, over all processes; where several are generated at each place, '
             'all kernels (default: %(default)s)')
    add('--second-order-damping', type=float, default=s.damping, metavar='D',
        help="part of their mean that is added to the statistics' diagonals; more if there are few images (default: "
             '%(default)s)')
    _add_lr(group, 'second-order-', s.lr)


def add_distillation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        'distillation', "Third phase: fit the original's predictions on images, if there are any. Loss weights are "
        'given for the whole phase, or for its first and its last step.')
    add, d = group.add_argument, DistillationSettings
    add('--distillation-steps', type=int, default=d.steps, metavar='N',
        help='0 leaves the phase out. A quantized artifact takes these steps in the last phase, unless that has steps '
             'of its own (default: %(default)s)')
    _add_lr(group, '', d.lr)
    for name, default, text in (
            ('output', d.output_weight, 'Kullback-Leibler divergence of the predictions'),
            ('feature', d.feature_weight, 'relative squared error of feature maps'),
            ('label', d.label_weight, 'cross-entropy with the labels')):
        add(f'--{name}-weight', type=float, nargs='+', default=[default[0]], metavar='W',
            help=f'{text} (default: %(default)s)')
    add('--feature-modules', nargs='*', default=(), metavar='NAME',
        help="modules whose outputs are compared (default: those of timm's features)")
    add('--temperature', type=float, default=d.temperature, metavar='T',
        help='of the softmax of both networks (default: %(default)s)')
    add('--train-kept', nargs='*', choices=KEPT_PARTS, default=None, metavar='PART',
        help=f"kept tensors that are trained too: {', '.join(KEPT_PARTS)}; rounded weights are trained in any case "
             f'(default: all; with --data-free all but the BatchNorm statistics)')
    add('--rounding-lr', type=float, default=d.rounding_lr, metavar='LR',
        help='peak learning rate of rounded weights, in steps of their integers (default: %(default)s)')
    add('--clip-grad', type=float, default=d.clip_grad, metavar='NORM', help='(default: %(default)s)')
    add('--grad-accum-steps', type=int, default=d.grad_accum_steps, metavar='N',
        help='batches of one step; weights are generated once for all of them (default: %(default)s)')
    add('--eval-interval', type=int, default=d.eval_interval, metavar='N',
        help='steps between looks at the held-out images; the best artifact is kept (default: %(default)s)')


def add_quantization(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        'quantization', 'Last phase: go on with everything rounded as in the quantized artifact, on images as in '
                        'distillation; with --distillation-steps 0 by second order; without images as in '
                        'reconstruction.')
    add, q = group.add_argument, QuantizationSettings
    add('--bits', type=float, default=None, metavar='B',
        help='quantize with so many bits for a weight of the predictor, the mean over its layers, which get more the '
             'more errors in them matter; with --method rounding, for each weight (default: do not quantize; with '
             f'--bytes: {PREDICTOR_BITS:g}, or for rounded weights as many as these have room for)')
    add('--kept-bits', type=int, default=q.kept_bits, metavar='B',
        help='bits of kept tensors in a quantized artifact (default: %(default)s)')
    add('--quantization-steps', type=int, default=None, metavar='N',
        help='0 rounds without training. Given a number, distillation comes first, as if nothing were to be rounded '
             f'(default: all steps of distillation, which is better; if it has none {q.steps})')
    _add_lr(group, 'quantization-', None)
