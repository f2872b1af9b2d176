"""From a labelled modality to one whose labels training never sees.

Unsupervised domain adaptation and domain generalisation have a direction: the
source's labels are used, the target's are not. The run's modalities are these
two, in this order.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import ml_collections

from data import task_file
from data.split import Split

SOURCE, TARGET = 0, 1


class Transfer(NamedTuple):
  """A direction.

  Attributes:
    source: name of the modality whose labels are used.
    target: name of the one that is tested; its training scans all count as
      unlabelled, whatever the split says.
    full: all training scans of the source are labelled, instead of
      `labeled_fraction` of them.
    selected_on: the one of both whose validation scans choose the checkpoint.
  """

  source: str
  target: str
  full: bool
  selected_on: str

  @property
  def modalities(self) -> tuple[str, str]:
    """Both names, in bank order."""
    return self.source, self.target

  def settle(
    self, config: ml_collections.ConfigDict
  ) -> ml_collections.ConfigDict:
    """A copy of the config whose modalities are these two."""
    config = ml_collections.ConfigDict(config.to_dict())
    config.modalities = ','.join(self.modalities)
    return config

  def split(self, split: Split) -> Split:
    """The split as this direction uses it: no label of the target.

    Validation and test scans stay where they are; doing it twice changes
    nothing.
    """
    out = {name: dict(parts) for name, parts in split.items()}
    training = lambda parts: parts['labeled'] + parts['unlabeled']
    source, target = (out[name] for name in self.modalities)
    target['labeled'], target['unlabeled'] = [], training(target)
    if self.full:
      source['labeled'], source['unlabeled'] = training(source), []
    return out


def of(config: ml_collections.ConfigDict, *, selected_on: int) -> Transfer:
  """The direction that a config names.

  Without `source` and `target`, the run's two modalities in their order. A
  method `NAME_full` has a fully labelled source.

  Args:
    config: the run's config.
    selected_on: `SOURCE` or `TARGET`.

  Raises:
    ValueError: names that the task does not have, twice the same one, only one
      of both, or none where the run has not exactly two modalities.
  """
  task = task_file.find(config.task)
  if config.joint == 'false':
    raise ValueError(
      f'joint=false: {config.method} trains one network on both of its'
      ' modalities; leave --config.joint=auto'
    )
  pair: tuple[str, ...] = config.source, config.target
  if not any(pair):
    pair = tuple(m.name for m in task.select(config.modalities))
  known = [m.name for m in task.modalities]
  if len(pair) != 2 or len({*pair}) != 2 or not {*pair} <= {*known}:
    raise ValueError(
      f'source={config.source!r}, target={config.target!r}: {config.method}'
      ' transfers from one modality to another; name both, e.g.'
      f' --config.source={known[0]} --config.target={known[-1]} (there are:'
      f' {", ".join(known)})'
    )
  full = config.method.endswith('_full')
  return Transfer(pair[SOURCE], pair[TARGET], full, pair[selected_on])


def of_source(tree: Any) -> Any:
  """The source's part `[1, ...]` of arrays `[2, ...]`."""
  return jax.tree.map(lambda x: x[SOURCE : SOURCE + 1], tree)


def step_of_source(step: Any) -> Any:
  """A step whose batch is the source's part."""
  return step._replace(batch=of_source(step.batch))


def rows(
  source: Float[Array, ''] | float = 0.0, target: Float[Array, ''] | float = 0.0
) -> Float[Array, '2']:
  """A logged term from what each modality contributes."""
  return jnp.stack([jnp.float32(source), jnp.float32(target)])
