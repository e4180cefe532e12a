"""The ``timm-sbs`` command."""
import argparse
import sys
import time
from pathlib import Path
from typing import List, Optional

from timm_sbs.config import byte_count
from timm_sbs.errors import SbsError

__all__ = ['main']

PICTURES = ('ledger', 'kernels', 'curves', 'accuracy', 'folding', 'loading', 'spectrum', 'ablation', 'robustness')

DESCRIPTION = """CNNs whose weights are generated, on load, by a small predictor. In Python:

    import timm, timm_sbs
    model = timm.create_model('sbs_resnet18_15pct', pretrained=True)

A predictor of your own is fitted by train_sbs.py, and then loaded or shared:

    python train_sbs.py --model resnet18 --pct 15 --output out/resnet18
    model = timm.create_model('local-dir:out/resnet18', pretrained=True)
    timm-sbs push out/resnet18 user/resnet18-sbs --tag v1
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='timm-sbs', description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')

    demo = commands.add_parser(
        'demo', help='load shipped predictors and classify shipped images',
        description='Create sbs_resnet20_cifar10_42pct from the predictor inside the package, and classify 500 '
                    'CIFAR-10 test images with it; then sbs_resnet18_15pct, and show what it sees in three photographs. '
                    'Downloads nothing.')
    demo.add_argument('--plot', metavar='FILE', help='draw the photographs and their classes (.png, .svg or .pdf)')
    demo.add_argument('--theme', choices=['light', 'dark'], default='light', help='of --plot (default: %(default)s)')
    demo.set_defaults(run=_demo)

    info = commands.add_parser(
        'info', help='what a predictor is, and where its bytes go',
        description="A predictor's settings, accuracy and size ledger.")
    info.add_argument('model', help="folder of an artifact, a name such as sbs_resnet20_cifar10_42pct, or "
                                    "hf-hub:USER/NAME")
    info.set_defaults(run=_info)

    pack = commands.add_parser(
        'pack', help='round a predictor to fewer bits, without data',
        description='Write a packed copy of an artifact: rounded to integers, with more bits for the layers where '
                    'errors matter more, and entropy-coded. Needs no data, and does not train; train_sbs.py --bits '
                    'trains with rounding, and is more accurate at few bits.')
    pack.add_argument('folder', help='folder of an artifact, packed or not')
    pack.add_argument('output', help='folder of the copy')
    pack.add_argument('--bits', type=float, default=None, metavar='B',
                      help='bits of a predictor weight, the mean over its layers (default: 7, or the most that fit '
                           'into --bytes)')
    pack.add_argument('--kept-bits', type=int, default=8, metavar='B',
                      help='bits of kept tensors (default: %(default)s)')
    pack.add_argument('--bytes', type=byte_count, default=None, metavar='SIZE',
                      help='largest size of both files, such as 64k')
    pack.set_defaults(run=_pack)

    export = commands.add_parser(
        'export', help='write the generated weights as an ordinary checkpoint',
        description="Generate a predictor's weights and write the complete state dict of its base model, as a "
                    'safetensors file that timm loads without this package.')
    export.add_argument('model', help='as for info')
    export.add_argument('output', help='file to write, such as resnet20.safetensors')
    export.set_defaults(run=_export)

    push = commands.add_parser(
        'push', help='publish a predictor on the Hub',
        description='Upload an artifact and a card of its measured results, in one commit. Creates the repository '
                    'where there is none, and uploads only what is new. Needs a login: hf auth login, or HF_TOKEN.')
    push.add_argument('folder', help='folder of an artifact')
    push.add_argument('repo_id', metavar='USER/NAME', help='repository; an organisation may stand for the user')
    push.add_argument('--private', action='store_true', help='create it as a private repository')
    push.add_argument('--revision', default=None, metavar='BRANCH', help='branch to commit to (default: main)')
    push.add_argument('--tag', default=None, metavar='TAG', help="tag the commit, to load it as 'USER/NAME@TAG'")
    push.set_defaults(run=_push)

    run = commands.add_parser(
        'run', help="run a script, such as timm's own train.py or validate.py, that knows only timm",
        description='Run a Python script with the models of this package registered, as if it began with "import '
                    'timm_sbs". For several processes: torchrun ... -m timm_sbs run SCRIPT ...')
    run.add_argument('script', help='Python file')
    run.add_argument('arguments', nargs=argparse.REMAINDER, help='its arguments')
    run.set_defaults(run=_run)

    plot = commands.add_parser(
        'plot', help='draw a picture of a predictor, a training run or a results file',
        description="Draw where a predictor's bytes are (ledger), kernels of a layer along their path, original and "
                    'generated (kernels), the curves of a training run (curves), or what is in a file of '
                    'tests/benchmarks/results (all others).')
    plot.add_argument('source', help='as for info, the output folder of train_sbs.py, or a results file')
    plot.add_argument('output', help='picture to write, such as ledger.svg or ledger.png')
    plot.add_argument('--kind', choices=PICTURES, help='(default: the first that the source has something for)')
    plot.add_argument('--theme', choices=['light', 'dark'], default='light', help='(default: %(default)s)')
    plot.add_argument('--original', metavar='FILE', help="original weights, for 'kernels' (default: timm's)")
    plot.add_argument('--layer', metavar='NAME', help="generated weight that 'kernels' shows (default: the largest)")
    plot.set_defaults(run=_plot)

    cache = commands.add_parser(
        'cache', help='list or clear what is kept between runs',
        description='Generated weights and kernel orderings are kept beside the cache of the Hub, up to 2 GB of each, '
                    'so that a model is generated once. The environment variable TIMM_SBS_CACHE names another folder, '
                    "or is 'off'.")
    cache.add_argument('--clear', nargs='?', const='*', choices=['*', 'weights', 'orderings'], metavar='KIND',
                       help="delete all, or 'weights' or 'orderings' alone")
    cache.set_defaults(run=_cache)

    evaluation = commands.add_parser(
        'eval', help='top-1 accuracy of a model on a folder of images',
        description='Top-1 accuracy of any timm model, generated or not, on labelled images.')
    evaluation.add_argument('model', help="timm model name, such as sbs_resnet20_cifar10_42pct or local-dir:FOLDER")
    evaluation.add_argument('--checkpoint', default='', metavar='FILE', help='weights, instead of the pretrained ones')
    evaluation.add_argument('--data-dir', metavar='DIR', help='folder with SPLIT/CLASS, or the root of --dataset')
    evaluation.add_argument('--dataset', default='', metavar='NAME', help="timm dataset name, such as 'torch/cifar10'")
    evaluation.add_argument('--class-map', default='', metavar='FILE',
                            help="text file with the names of the class folders in the order of the model's classes")
    evaluation.add_argument('--val-split', default='validation', metavar='NAME', help='(default: %(default)s)')
    evaluation.add_argument('-b', '--batch-size', type=int, default=128, metavar='N', help='(default: %(default)s)')
    evaluation.add_argument('-j', '--workers', type=int, default=2, metavar='N', help='(default: %(default)s)')
    evaluation.set_defaults(run=_eval)
    return parser


def _demo(args: argparse.Namespace) -> None:
    from timm_sbs.demo import MODEL, run_demo

    result = run_demo()
    recorded = result.recorded
    smaller = result.original_bytes / result.artifact_bytes
    print(f'{MODEL}, created from the predictor inside the package')
    rows = [
        ('', 'original', 'generated'),
        (f'accuracy, these {result.accuracy.images} images', f'{result.original.top1:.1f} %',
         f'{result.accuracy.top1:.1f} %'),
        (f"accuracy, {recorded['images']:,} images (recorded)", f"{recorded['original_top1']:.2f} %",
         f"{recorded['top1']:.2f} %"),
        ('bytes of all files', f'{result.original_bytes:,}', f'{result.artifact_bytes:,} ({smaller:.1f} x smaller)'),
        ('time to create the model', '', f'{1000 * result.load_seconds:.0f} ms'),
    ]
    width = max(len(row[0]) for row in rows)
    for label, original, generated in rows:
        print(f'  {label:<{width}}  {original:>10}  {generated:>10}')
    _show_photographs(args.plot, args.theme)


def _show_photographs(picture: Optional[str], theme: str) -> None:
    import timm

    from timm_sbs.demo_photographs import MODEL, classify_photographs

    photographs, seconds = classify_photographs()
    print(f'\n{MODEL}, created from the predictor inside the package in {1000 * seconds:.0f} ms (licence: '
          f'{timm.get_pretrained_cfg(MODEL).license})')
    for photograph in photographs:
        print(f'  {photograph.title} ({photograph.source})')
        print(f"    {'original':<32}  generated")
        for (name, probability), (own_name, own_probability) in zip(photograph.original, photograph.generated):
            print(f'    {name:<24} {100 * probability:5.1f} %  {own_name:<24} {100 * own_probability:5.1f} %')
    if picture:
        from timm_sbs.plots.photographs import plot_photographs

        plot_photographs(photographs, picture, theme)
        print(f'wrote {picture}')


def _info(args: argparse.Namespace) -> None:
    from timm_sbs.info import describe_artifact, find_folder

    print(describe_artifact(find_folder(args.model, weights=False)))


def _export(args: argparse.Namespace) -> None:
    from timm_sbs.export import export_checkpoint
    from timm_sbs.info import find_folder

    base, size, license = export_checkpoint(find_folder(args.model), args.output)
    print(f"wrote {args.output}, {size:,} bytes: timm.create_model('{base}', checkpoint_path='{args.output}')")
    print(f"its licence is that of the predictor: {license or 'not recorded'}")


def _push(args: argparse.Namespace) -> None:
    from timm_sbs.publish import push_to_hub

    print(push_to_hub(args.folder, args.repo_id, args.private, args.revision, args.tag))


def _pack(args: argparse.Namespace) -> None:
    from timm_sbs.info import describe_artifact, find_folder
    from timm_sbs.repack import repack

    folder = find_folder(args.folder)
    results = repack(folder, args.output, args.bits, args.kept_bits, args.bytes)
    print(describe_artifact(find_folder(args.output)))
    print(f"the generated weights change by {100 * results['packing_error']:.3g} % of their squared norm; measure the "
          f"accuracy with: timm-sbs eval local-dir:{args.output} --data-dir DIR")


def _plot(args: argparse.Namespace) -> None:
    from timm_sbs.info import find_folder
    from timm_sbs.plots import plot

    source = Path(args.source)
    if source.suffix != '.json' or not source.is_file():
        source = find_folder(args.source)
    kind = plot(source, args.output, args.kind, args.theme, args.original, args.layer)
    print(f'wrote {args.output} ({kind})')


def _cache(args: argparse.Namespace) -> None:
    from timm_sbs.cache import cache_entries, cache_folder, clear_cache

    folder = cache_folder()
    if folder is None:
        print('TIMM_SBS_CACHE is off: nothing is kept')
    elif args.clear:
        print(f'freed {clear_cache(args.clear):,} bytes in {folder}')
    else:
        entries = cache_entries()
        print(f'{sum(entry.size for entry in entries):,} bytes in {folder}')
        for entry in entries:
            used = time.strftime('%Y-%m-%d %H:%M', time.localtime(entry.used))
            print(f'  {entry.kind:<9} {entry.size:>13,}  {used}  {entry.description}')


def _run(args: argparse.Namespace) -> None:
    import runpy

    script = Path(args.script)
    if not script.is_file():
        raise SbsError(f"'{script}' is no file.")
    sys.argv = [args.script, *args.arguments]
    sys.path[0] = str(script.resolve().parent)  # as Python does for a script
    runpy.run_path(args.script, run_name='__main__')


def _eval(args: argparse.Namespace) -> None:
    from timm_sbs.evaluation import evaluate
    from timm_sbs.training.data import DataSettings, eval_loader
    from timm_sbs.training.original import load_original

    settings = DataSettings(
        args.data_dir, dataset=args.dataset, class_map=args.class_map, val_split=args.val_split,
        batch_size=args.batch_size, workers=args.workers)
    if not settings.given:
        raise SbsError('Say where the images are: --data-dir DIR, or --dataset NAME.')
    model = load_original(args.model, args.checkpoint)
    accuracy = evaluate(model, eval_loader(settings, model.pretrained_cfg), args.model)
    print(f'{args.model}: top-1 {accuracy.top1:.2f} % ({accuracy.correct:,} of {accuracy.images:,} images)')


def main(argv: Optional[List[str]] = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        args.run(args)
    except SbsError as e:
        print(f'timm-sbs: {e}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
