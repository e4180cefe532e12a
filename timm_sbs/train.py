"""``accelerate launch -m timm_sbs.train`` is ``timm-sbs train``: fit a predictor to the weights of a timm CNN."""
import sys

from torch import distributed

from timm_sbs.common.errors import ConfigError, SbsError
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
        if not (dry_run or settings.run.output or settings.run.push_to_hub):
            raise ConfigError('Where should the artifact go? Give --output FOLDER or --push-to-hub USER/NAME.')
        with messages():
            if not dry_run:
                train(settings)
                return 0
            with open_plan(settings) as plan:
                if plan.accelerator.is_main_process:
                    print(describe_plan(plan))
    except SbsError as e:
        print(f'timm-sbs train: {e}', file=sys.stderr)
        return 2
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
    return 0


if __name__ == '__main__':
    sys.exit(main())
