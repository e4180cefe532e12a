"""One decision on as many processes as started it, each of which would decide otherwise; prints JSON.

    accelerate launch --multi_gpu --num_processes 2 tests/decision_worker.py
"""
import json

from accelerate.utils import gather_object

from timm_sbs.common.distributed import decided_once, make_accelerator
from timm_sbs.common.errors import SbsError


def main() -> None:
    accelerator = make_accelerator('no')
    calls = []

    def decide():
        calls.append(1)
        return {'bits': (5., 4.), 'by': accelerator.process_index}

    def refuse():
        raise SbsError(f'process {accelerator.process_index} refuses')

    decided = decided_once(decide, accelerator)
    try:
        refused = decided_once(refuse, accelerator)
    except SbsError as e:
        refused = str(e)
    printed = {'decided': gather_object([decided]), 'calls': gather_object([len(calls)]),
               'refused': gather_object([refused])}
    if accelerator.is_main_process:
        print(json.dumps(printed))
    accelerator.end_training()


if __name__ == '__main__':
    main()
