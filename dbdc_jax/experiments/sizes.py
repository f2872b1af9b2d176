"""How large a row's networks are at the paper's settings: counted, not run."""

import functools

import jax

from data.task import TASKS
from dbdc_jax import methods
from dbdc_jax.experiments import plan
from dbdc_jax.experiments.variants import OWN
from dbdc_jax.methods.common import cost

# Scans of any kind: what a config has with them are the paper's sizes.
_SCANS = 'none'


@functools.cache
def _size(
  task: str, scans: str, method: str, recipe: str, fields: tuple[str, ...]
) -> dict[str, int]:
  argument = f'method={method},recipe={recipe},scans={scans},preset=paper'
  problem = methods.resolve(plan.resolve(task, argument, fields))
  # Networks for one modality each are equally large.
  joint = methods.traits(problem.config).joint
  config = problem.networks(joint)[0].config
  built = methods.build(config)
  params, memory = jax.eval_shape(built.init, jax.random.key(0))
  patch = config.augment.patch_size
  if built.traits.volumes:
    patch = config.data.slice_size
  parameters, macs = cost.training_size(built, params, memory, patch)
  return {'parameters': parameters, 'macs': macs, 'patch': patch}


def at_the_papers_settings(run: plan.PlannedRun) -> dict[str, int] | None:
  """Parameters and multiply-accumulates of a row with `preset=paper`.

  Args:
    run: any run of the row; what makes the row is kept, and its modalities.

  Returns:
    `parameters` and `macs` of all networks that training has, one image of
    `patch` x `patch` pixels passing each once (MASS: one volume); None for a
    run that is not available.
  """
  if run.config is None:
    return None
  variant = run.variant
  fields = {'modalities': run.config.modalities}
  fields |= {**variant.fields, **variant.parts[run.part]}
  flags = tuple(f'--config.{name}={value}' for name, value in fields.items())
  task, scans = run.config.task, _SCANS
  if task not in TASKS:
    task, scans = OWN, run.config.data.folder
  return _size(task, scans, variant.method, variant.recipe, flags)
