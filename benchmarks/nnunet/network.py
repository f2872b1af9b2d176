"""One network of nnU-Net: planned, trained, and its label maps.

  python benchmarks/nnunet/network.py JOB.json

`run.py` starts it, in an environment that has nnU-Net and torch; nothing of the
project is imported here. Planner, preprocessing, augmentation, loss and network
are nnU-Net's own. What the job sets is the side of a pixel, the patch, the
batch, the number of steps and the optimizer. Mirroring is off: kidneys have
sides.

What is finished is not done again; a training that was stopped goes on from its
last checkpoint. All that nnU-Net says is in the folder's log.txt.
"""

from collections.abc import Callable
import importlib
import importlib.metadata
import json
import os
import pathlib
import random
import sys
import time
from typing import Any

# Steps of an epoch, after each of which the validation scans are looked at, and
# the batches of them that are. nnU-Net's own epochs are 250 and 50.
EPOCH, VALIDATION = 50, 10
_PLANS = 'nnUNetPlans'
_CPU = 'cpu_seconds'
_BEST, _LAST = 'checkpoint_best.pth', 'checkpoint_latest.pth'
_FINAL = 'checkpoint_final.pth'


def _plan(job: dict[str, Any]) -> None:
  """Fingerprint, plans and preprocessed scans of the data set."""
  from nnunetv2.experiment_planning import plan_and_preprocess_api as api
  from nnunetv2.experiment_planning.experiment_planners import (
    default_experiment_planner as planners,
  )
  import numpy as np

  class Planner(planners.ExperimentPlanner):
    """nnU-Net's, for small sizes; slices stay those of the files."""

    def determine_fullres_target_spacing(self):
      target = super().determine_fullres_target_spacing()
      target[1:] = np.maximum(target[1:], job['spacing'])
      return target

    def get_plans_for_configuration(self, spacing, shape, *more):
      flat = len(spacing) == 2
      # Depth and width of the network follow the patch, which is at most this.
      shape = np.minimum(shape, job['patch']) if flat else shape
      plan = super().get_plans_for_configuration(spacing, shape, *more)
      return plan | ({'batch_size': job['batch']} if flat else {})

  # What it takes threads from must not be 0 here.
  os.environ.update(nnUNet_n_proc_DA='1')
  api.extract_fingerprint_dataset(1, num_processes=1, show_progress_bar=False)
  Planner(1, suppress_transpose=True).plan_experiment()
  api.preprocess_dataset(
    1, _PLANS, ('2d',), num_processes=(1,), show_progress_bar=False
  )


def _trainer(job: dict[str, Any], place: pathlib.Path, say: Callable) -> Any:
  """The trainer of the plans, with the network made."""
  variants = 'nnunetv2.training.nnUNetTrainer.variants'
  find = lambda room, name: getattr(
    importlib.import_module(f'{variants}.{room}.{name}'), name
  )
  unmirrored = find('data_augmentation', 'nnUNetTrainerNoMirroring')
  adam = find('optimizer', 'nnUNetTrainerAdam')
  import torch

  class Trainer(unmirrored):
    """nnU-Net's without mirroring; says where it is."""

    def configure_optimizers(self):
      if job['optimizer'] == 'adamw':
        return adam.configure_optimizers(self)
      return super().configure_optimizers()

    def save_checkpoint(self, filename):
      # Under another name first: what has the name is whole.
      super().save_checkpoint(f'{filename}.partial')
      os.replace(f'{filename}.partial', filename)

    def on_epoch_start(self):
      super().on_epoch_start()
      self.started = time.process_time()

    def on_epoch_end(self):
      spent = time.process_time() - self.started
      # It is saved, and goes on, as the rest of the log does.
      log = self.logger.local_logger.my_fantastic_logging
      log.setdefault(_CPU, []).append(spent)
      super().on_epoch_end()
      dice = self.logger.get_value('mean_fg_dice', step=-1)
      step, seconds = self.current_epoch * EPOCH, _seconds(self)
      steps = self.num_epochs * EPOCH
      left = seconds / step * (steps - step)
      say(
        f'step {step} of {steps}, {seconds / step:.3f} s a step, validation'
        f' patches DSC {100 * dice:.1f} ({left / 60:.1f} min left)'
      )

  plans = json.loads((place / f'{_PLANS}.json').read_text())
  plans['continue_training'] = False
  dataset = json.loads((place / 'dataset.json').read_text())
  trainer = Trainer(plans, '2d', 0, dataset, device=torch.device('cpu'))
  trainer.num_epochs = -(-job['steps'] // EPOCH)
  trainer.num_iterations_per_epoch = EPOCH
  trainer.num_val_iterations_per_epoch = VALIDATION
  trainer.save_every = 5
  if job['optimizer'] == 'adamw':
    trainer.initial_lr = 1e-3
  # Drawing curves would take as long as some steps.
  trainer.logger.plot_progress_png = lambda folder: None
  trainer.initialize()
  return trainer


def _seconds(trainer: Any) -> float:
  """What all epochs took, those before a resume with them."""
  times = [
    trainer.logger.get_value(f'epoch_{end}_timestamps', step=None)
    for end in ('start', 'end')
  ]
  # One that was stopped has no end.
  return sum(end - start for start, end in zip(*times, strict=False))


def _predict(trainer: Any, wanted: dict[str, str], say: Callable) -> None:
  """Label maps on the grids of their images, by the best checkpoint."""
  from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

  trainer.set_deep_supervision_enabled(False)
  predictor = nnUNetPredictor(use_mirroring=False, device=trainer.device)
  predictor.manual_initialization(
    trainer.network,
    trainer.plans_manager,
    trainer.configuration_manager,
    [trainer.network.state_dict()],
    trainer.dataset_json,
    '',
    None,
  )
  for number, (image, out) in enumerate(wanted.items(), 1):
    target = pathlib.Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / 'partial'
    predictor.predict_from_files_sequential([[image]], [str(partial)])
    partial.with_name('partial.nii.gz').replace(target)
    say(f'predicted {target.name} ({number} of {len(wanted)})')


def run(job: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
  """Does what of a job is not done.

  Args:
    job: `spacing` (mm), `patch` (pixels), `batch`, `steps`, `optimizer` ('sgd',
      'adamw'), `seed`, `preprocessed` (folder), `split` (names of `train` and
      `val`), `predict` (image -> label map).
    say: shows a line.

  Returns:
    Facts of the network.
  """
  import numpy as np
  import torch

  torch.set_num_threads(1)
  place = pathlib.Path(job['preprocessed'])
  if not (place / 'planned').exists():
    say('planning')
    _plan(job)
    (place / 'planned').touch()
  # Batches are made in this process, by its seed.
  os.environ.update(nnUNet_n_proc_DA='0')
  for seed in (random.seed, np.random.seed, torch.manual_seed):
    seed(job['seed'])
  (place / 'splits_final.json').write_text(json.dumps([job['split']]))
  trainer = _trainer(job, place, say)
  checkpoints = pathlib.Path(trainer.output_folder)
  if not (checkpoints / _FINAL).exists():
    if (checkpoints / _LAST).exists():
      trainer.load_checkpoint(str(checkpoints / _LAST))
    trainer.run_training()
  trainer.load_checkpoint(str(checkpoints / _FINAL))
  seconds = _seconds(trainer)
  of_cpu = sum(trainer.logger.get_value(_CPU, step=None))
  trainer.load_checkpoint(str(checkpoints / _BEST))
  wanted = {i: o for i, o in job['predict'].items() if not os.path.exists(o)}
  _predict(trainer, wanted, say)
  plan = trainer.configuration_manager
  return {
    'parameters': sum(p.numel() for p in trainer.network.parameters()),
    'train_seconds': seconds,
    _CPU: of_cpu,
    'steps': trainer.num_epochs * EPOCH,
    'best_step': trainer.current_epoch * EPOCH,
    'batch': plan.batch_size,
    'patch': [int(n) for n in plan.patch_size],
    'spacing_mm': [float(mm) for mm in plan.spacing],
    'optimizer': job['optimizer'],
    'packages': {
      n: importlib.metadata.version(n) for n in ('nnunetv2', 'torch')
    },
  }


def main() -> None:
  """Does the job; its facts are written beside it, last of all."""
  path = pathlib.Path(sys.argv[1])
  job = json.loads(path.read_text())
  shown = os.fdopen(os.dup(1), 'w')
  with (path.parent / 'log.txt').open('a') as log:
    for stream in (1, 2):
      os.dup2(log.fileno(), stream)
  say = lambda text: print(
    f'{path.parent.name}: {text}', file=shown, flush=True
  )
  facts = run(job, say)
  partial = path.parent / 'facts.partial'
  partial.write_text(json.dumps(facts))
  partial.replace(path.parent / 'facts.json')


if __name__ == '__main__':
  main()
