"""What batches of CIFAR-10 cost: from PNG files and from memory, augmented one image at a time and a batch at a time.

    OMP_NUM_THREADS=1 python tests/benchmarks/batches.py CIFAR10_FOLDER

The folder holds train/CLASS/*.png. Rates are images for a second of processor time, of this process and of those that
read for it, so that other work on the machine does not count; beside them, how many a ResNet-20 is distilled on in a
second, with batches that are there already. Takes about two minutes of one CPU core.
"""
import json
import sys
import time
from collections.abc import Iterator

import psutil
import timm
from common import resnet20_distillation, write_results
from timm.data import resolve_data_config
from torchvision import transforms

from timm_sbs.data.augmentation import training_steps
from timm_sbs.data.batches import Batch, SampleBatches
from timm_sbs.data.folders import DataSettings, open_training_images
from timm_sbs.data.in_memory import ImagesInMemory
from timm_sbs.training.run.environment import environment

BATCH, SEED, STEPS = 128, 0, 8
BATCHES_OF = {'files': 40, 'memory': 300}  # that are timed


def cpu_seconds() -> float:
    """Of this process and its children."""
    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def rate(stream: Iterator[Batch], count: int) -> float:
    """Images for a second of processor time; the first batch, before which images are read, does not count."""
    next(stream)
    before = cpu_seconds()
    for _ in range(count):
        next(stream)
    return BATCH * count / (cpu_seconds() - before)


def distillation_rate() -> float:
    """Images for a second of processor time, in steps on a batch that is in memory."""
    distil = resnet20_distillation(BATCH, SEED)
    for steps in (1, STEPS):  # the first warms up
        before = cpu_seconds()
        distil(steps)
    return BATCH * STEPS / (cpu_seconds() - before)


def main(folder: str) -> None:
    data_config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg('resnet20_cifar10').to_dict())
    settings = DataSettings(folder, batch_size=BATCH, workers=0)
    steps = training_steps(settings, data_config)
    drawn = transforms.Compose([transforms.ToPILImage(), *steps.whole.transforms[1:]])  # after resizing
    one = {'files': open_training_images(settings, 3, True, steps.whole)}
    many = {'files': open_training_images(settings, 3, True, steps.fixed)}
    many['memory'], one['memory'] = ImagesInMemory(many['files'], 0), ImagesInMemory(many['files'], 0, drawn)
    started, before, memory = time.perf_counter(), cpu_seconds(), psutil.Process().memory_info().rss
    images, _ = many['memory'].load()
    reading = {'images': len(images), 'cpu_seconds': round(cpu_seconds() - before, 1),
               'seconds': round(time.perf_counter() - started, 1), 'image_bytes': images.nbytes,
               'memory_grown': psutil.Process().memory_info().rss - memory}
    one['memory']._kept = many['memory'].load()
    rates: dict[str, dict[str, float]] = {}
    for augmented, datasets, transform in (('one image', one, None), ('a batch', many, steps.batch)):
        for source, dataset in datasets.items():
            for workers in (0, 1, 2):
                if workers and transform and source == 'memory':
                    continue  # none are started
                batches = SampleBatches(dataset, BATCH, workers, SEED, transform=transform)
                found = rate(batches.starting_at(0), BATCHES_OF[source if transform else 'files'])
                rates.setdefault(f'{source}, {augmented} at a time', {})[str(workers)] = round(found)
    results = {
        'command': 'python tests/benchmarks/batches.py CIFAR10_FOLDER', 'seed': SEED,
        'batch_size': BATCH, 'images_per_cpu_second': rates, 'reading': reading,
        'distilled_per_cpu_second': round(distillation_rate()), **environment()}
    write_results('batches', results)
    print(json.dumps(results, indent=2))


if __name__ == '__main__':
    main(sys.argv[1])
