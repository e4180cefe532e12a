"""The ``timm-sbs`` command."""
import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from timm_sbs.cli.parser import build_parser
from timm_sbs.common.errors import SbsError, short_reason

if TYPE_CHECKING:
    import torch

__all__ = ['build_parser', 'main']


def _demo(args: argparse.Namespace) -> None:
    from timm_sbs.cli.demo import MODEL, run_demo

    result = run_demo()
    recorded = result.recorded
    smaller = result.original_bytes / result.artifact_bytes
    print(f'{MODEL}, created from the predictor inside the package')
    rows = [
        ('', 'original', 'generated'),
        (f'accuracy, these {result.accuracy.images} images', f'{result.original.top1:.1f} %',
         f'{result.accuracy.top1:.1f} %'),
        (f"accuracy, {recorded.images:,} images (recorded)", f"{recorded.original_top1:.2f} %",
         f'{recorded.top1:.2f} %'),
        ('bytes of all files (original: its values)', f'{result.original_bytes:,}',
         f'{result.artifact_bytes:,} ({smaller:.1f} x smaller)'),
        ('time to create the model', '', f'{1000 * result.load_seconds:.0f} ms'),
    ]
    width = max(len(row[0]) for row in rows)
    for label, original, generated in rows:
        print(f'  {label:<{width}}  {original:>10}  {generated:>10}')
    _show_photographs(args.plot, args.theme)


def _show_photographs(picture: str | None, theme: str) -> None:
    from timm_sbs.artifact.find import shipped_folder
    from timm_sbs.artifact.folder import read_config
    from timm_sbs.cli.demo_photographs import MODEL, classify_photographs

    folder = shipped_folder(MODEL)
    photographs, seconds = classify_photographs()
    license = read_config(folder)[1].get('license') if folder else None
    print(f'\n{MODEL}, created from the predictor inside the package in {1000 * seconds:.0f} ms '
          f'(licence: {license})')
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
    from timm_sbs.artifact.describe import describe_artifact
    from timm_sbs.artifact.find import find_folder

    print(describe_artifact(find_folder(args.model, weights=False)))


def _export(args: argparse.Namespace) -> None:
    from timm_sbs.artifact.export import export_checkpoint
    from timm_sbs.artifact.find import find_folder

    base, size, license = export_checkpoint(find_folder(args.model), args.output)
    print(f"wrote {args.output}, a file of {size:,} bytes with names and shapes: "
          f"timm.create_model('{base}', checkpoint_path='{args.output}')")
    print(f"its licence is that of the artifact: {license or 'unknown'}")


def _push(args: argparse.Namespace) -> None:
    from timm_sbs.artifact.push import push_to_hub

    print(push_to_hub(args.folder, args.repo_id, args.private, args.revision, args.tag))


def _quantize(args: argparse.Namespace) -> None:
    from timm_sbs.artifact.describe import describe_artifact
    from timm_sbs.artifact.find import find_folder
    from timm_sbs.artifact.folder import artifact_bytes
    from timm_sbs.artifact.lost import lost_function
    from timm_sbs.artifact.quantize import quantize_artifact
    from timm_sbs.common.results import Results

    folder = find_folder(args.folder)
    before = artifact_bytes(folder)
    results = quantize_artifact(folder, args.output, args.bits, args.kept_bits, args.bytes)
    print(describe_artifact(find_folder(args.output)))
    after = artifact_bytes(find_folder(args.output))
    if after >= before:
        print(f'the copy is not smaller: it has {after:,} bytes, and the artifact had {before:,}; ask for fewer --bits')
    print(f"the generated weights change by {100 * results['quantization_error']:.3g} % of their squared size; measure "
          f"the accuracy with: timm-sbs eval local-dir:{args.output} --data-dir DIR")
    if warning := lost_function(Results.of(results)):
        print(warning, file=sys.stderr)


def _plot(args: argparse.Namespace) -> None:
    from timm_sbs.artifact.find import find_folder
    from timm_sbs.plots.plot import plot

    kind = plot(find_folder(args.source), args.output, args.kind, args.theme, args.original, args.layer)
    print(f'wrote {args.output} ({kind})')


def _cache(args: argparse.Namespace) -> None:
    from timm_sbs.common.cache import cache_entries, cache_folder, clear_cache

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
    children = str(Path(__file__).parent / 'children')  # what the script starts knows the models, too
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, (children, os.environ.get('PYTHONPATH'))))
    sys.argv = [args.script, *args.arguments]
    sys.path[0] = str(script.resolve().parent)  # as Python does for a script
    runpy.run_path(args.script, run_name='__main__')


def _eval(args: argparse.Namespace) -> None:
    from timm_sbs.artifact.original import describe_original, load_original
    from timm_sbs.data.accuracy import evaluate
    from timm_sbs.data.folders import DataSettings
    from timm_sbs.data.loaders import eval_loader
    from timm_sbs.data.pictures import describe_skipped, pictures_of

    settings = DataSettings(
        args.data_dir, dataset=args.dataset, class_map=args.class_map, val_split=args.val_split,
        batch_size=args.batch_size, workers=args.workers, image_cache=0)
    if not settings.given:
        raise SbsError('Say where the images are: --data-dir DIR, or --dataset NAME.')
    device = _device(args.device)
    model = load_original(args.model, args.checkpoint).to(device)
    loader = eval_loader(settings, describe_original(model).pretrained_cfg)
    accuracy = evaluate(model, loader, args.model)
    print(f'{args.model}: top-1 {accuracy.top1:.2f} % ({accuracy.correct:,} of {accuracy.images:,} images)')
    for note in filter(None, [*getattr(pictures_of(loader), 'notes', []), describe_skipped([loader])]):
        print(f'warning: {note}', file=sys.stderr)


def _device(name: str | None) -> 'torch.device':
    """The device of this name; without one, torch's accelerator, or the CPU.

    Raises:
        SbsError: There is no such device here.
    """
    import torch

    if name is None:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device('cpu')
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise SbsError(f"There is no device '{name}' here: {short_reason(e)}") from e


RUN = {
    'demo': _demo, 'info': _info, 'quantize': _quantize, 'export': _export, 'push': _push, 'run': _run,
    'plot': _plot, 'cache': _cache, 'eval': _eval,
}


def main(argv: list[str] | None = None) -> int:
    """Run a command. Returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ['train']:  # argparse would keep --help and what looks like its own flags
        from timm_sbs.train import main as train

        return train(argv[1:])
    args = build_parser().parse_args(argv)
    try:
        RUN[args.command](args)
    except SbsError as e:
        print(f'timm-sbs: {e}', file=sys.stderr)
        return 2
    return 0
