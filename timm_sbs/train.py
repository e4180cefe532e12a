"""``accelerate launch -m timm_sbs.train`` is ``timm-sbs train``: fit a predictor to the weights of a timm CNN."""
import sys

from timm_sbs.common.errors import SbsError
from timm_sbs.common.progress import messages

__all__ = ['main']


def main(argv: list[str] | None = None) -> int:
    """Run the trainer. Returns the exit status."""
    try:
        from timm_sbs.training.options.flags import build_parser
        from timm_sbs.training.options.parsing import parse_args
        from timm_sbs.training.run.train import dry_run, print_once, train

        args = parse_args(build_parser(), sys.argv[1:] if argv is None else argv)
        with messages():
            if args.dry_run:
                print_once(dry_run(args))
            else:
                train(args)
    except SbsError as e:
        print(f'timm-sbs train: {e}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
