"""``accelerate launch -m timm_sbs.train`` is ``timm-sbs train``: fit a predictor to the weights of a timm CNN."""
import sys

from timm_sbs.common.errors import SbsError
from timm_sbs.common.progress import messages

__all__ = ['main']


def main(argv: list[str] | None = None) -> int:
    """Run the trainer. Returns the exit status."""
    try:
        from timm_sbs.training.command_line import parse
        from timm_sbs.training.dry_run import describe_plan
        from timm_sbs.training.plan import open_plan
        from timm_sbs.training.train import train

        settings, dry_run = parse(sys.argv[1:] if argv is None else argv)
        with messages():
            if not dry_run:
                train(settings, whole_program=True)
                return 0
            with open_plan(settings, whole_program=True, dry_run=True) as plan:
                if plan.accelerator.is_main_process:
                    print(describe_plan(plan))
    except SbsError as e:
        print(f'timm-sbs train: {e}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
