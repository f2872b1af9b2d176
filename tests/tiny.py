"""The smallest runs that go through everything; one is trained per session."""

import jax
import numpy as np

from configs import folder, heart
from dbdc_jax.workdir.metric_writer import read_rows

# Fields of a row that hold times.
CLOCKS = ('time', 'images_per_second', 'seconds', 'share_outside_steps')
FIELDS = {
  'data.slice_size': 32,
  'phantom.size': 'tiny',
  'phantom.subjects': 5,
  'model.width': 2,
  'model.embedding_dim': 8,
  'augment.patch_size': 16,
  # Four slices divide over the four devices of the tests.
  'batch_size': 4,
  'epochs': 3,
  'dc.warmup_epochs': 1,
  # Drawing them takes as long as the training does.
  'evaluation.overlays': 0,
}


# Of one network for both modalities, whose steps compile in a third of DBDC's
# time: for what happens to a run, whatever it learns.
PLAIN = {'method': 'supervised', 'joint': 'true'}


def shrink(config, cache):
  """Sizes that a test can afford."""
  config.update_from_flattened_dict(FIELDS)
  config.data.cache = str(cache)
  return config


def heart_config(cache, argument=None):
  return shrink(heart.get_config(argument), cache)


def own_config(place, cache):
  """Of the scans of a folder."""
  argument = f'scans={place},preset=paper'
  return shrink(folder.get_config(argument), cache)


def plain_config(cache):
  config = heart_config(cache)
  config.update_from_flattened_dict(PLAIN)
  return config


def flags(cache, **fields):
  """The same as arguments of the command."""
  wanted = {**FIELDS, 'data.cache': cache, **fields}
  return [f'--config.{name}={value}' for name, value in wanted.items()]


def same(a, b):
  """Whether two trees hold the same bits."""
  a, b = jax.tree.leaves(a), jax.tree.leaves(b)
  return len(a) == len(b) and all(
    np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True)
  )


def rows_without_clocks(workdir):
  return [
    {k: v for k, v in row.items() if k not in CLOCKS}
    for row in read_rows(workdir)
  ]
