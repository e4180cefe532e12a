"""One decision on as many processes as started it, each of which would decide otherwise; prints JSON.

    accelerate launch --multi_gpu --num_processes 2 tests/decision_worker.py
"""
import json

from accelerate.utils import gather_object

from timm_sbs.common.distributed import decided_once, make_accelerator


def main() -> None:
    accelerator = make_accelerator('no')
    calls = []

    def decide():
        calls.append(1)
        return {'bits': (5., 4.), 'by': accelerator.process_index}

    decided = decided_once(decide, accelerator)
    printed = {'decided': gather_object([decided]), 'calls': gather_object([len(calls)])}
    if accelerator.is_main_process:
        print(json.dumps(printed))
    accelerator.end_training()


if __name__ == '__main__':
    main()
