"""The only look of a run at its validation images, which choose nothing: the artifact that was kept is measured."""
from timm_sbs.artifact.folder import load_artifact, record_results
from timm_sbs.common.progress import say
from timm_sbs.data.fidelity import fidelity, with_logits
from timm_sbs.training.run.task import Task, changed

__all__ = ['measure_on_validation']


def measure_on_validation(task: Task) -> None:
    """Top-1 of the artifact that was kept, beside the original's, for its config.json; without a classifier, agreement
    alone; nothing without such images."""
    run, validation = task.run, task.images.validation
    if not validation:
        return
    accelerator = run.accelerator
    accelerator.wait_for_everyone()
    model = changed(task, load_artifact(run.output).state_dict())
    task.original.to(accelerator.device)
    seen = with_logits(task.original, validation)
    found = fidelity(model, seen, accelerator, 'validation', len(validation))
    top1 = {'top1': found.top1, 'original_top1': found.original_top1} if found.top1 is not None else {}
    measured = {**top1, 'images': found.images, 'agreement': found.agreement}
    accelerator.wait_for_everyone()
    run.best.update(measured)
    if accelerator.is_main_process:
        record_results(run.output, measured)
    accelerator.log({f'validation/{name}': value for name, value in measured.items()},
                    step=task.settings.steps_before('end'))
    run.add_row({'phase': 'validation', 'step': 0, 'top1': found.top1})
    accuracy = f'top-1 {found.top1:.2f} % (original {found.original_top1:.2f} %), ' if top1 else ''
    say(accelerator, f'{accuracy}agreement {found.agreement:.2f} % on {found.images:,} validation images')
