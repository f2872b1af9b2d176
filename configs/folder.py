"""Own scans: a folder with a dataset.json and a subfolder per modality.

  python -m data.prepare --init DIR
  python -m dbdc_jax.main --config configs/folder.py:scans=DIR

The folder may also be one of nnU-Net's, with its own dataset.json beside
imagesTr and labelsTr. `data/readers/folder.py` describes the folder,
`data/task_file.py` the dataset.json, whose `slice_size` and `roi` hold unless
they are set here. Scans without a label map are unlabelled. Where every scan
has one, `--config.labeled_fraction=0.2` uses those of a fifth of the patients.

Sizes are what fits the scans, the device and `--config.minutes=30`
(`preset=auto`, dbdc_jax/sizing.py); `preset=paper` has the paper's,
`preset=quick` those of a small network that a CPU can train.

The results are those with the largest components that the validation scans
chose (`evaluation.components`): docs/evidence.md found that every method gains.
"""

import pathlib

import ml_collections

from configs import common, presets
from data import task_file


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; see the module's docstring.

  Args:
    argument: 'scans=DIR'; behind commas also `method=NAME`, `preset=NAME`,
      `recipe=NAME`.

  Raises:
    ValueError: no folder, or its dataset.json is not sound; says why.
  """
  config = common.base()
  allowed = ('scans', 'method', 'preset', 'recipe')
  given = common.pairs(argument, allowed)
  if 'scans' not in given:
    raise ValueError(
      'configs/folder.py needs a folder: configs/folder.py:scans=DIR'
    )
  folder = pathlib.Path(given['scans']).expanduser().absolute()
  config.task = str(folder / 'dataset.json')
  config.method = given.get('method', config.method)
  task = task_file.find(config.task)
  for source in {m.source for m in task.modalities}:
    config.data[source] = str(folder)
  config.data.slice_size = task.slice_size
  config.data.roi = task.roi
  config.labeled_fraction = 1.0
  config.evaluation.components = 'validation'
  # Half the slice, rounded to what three poolings divide.
  config.augment.patch_size = max(16, task.slice_size // 16 * 8)
  presets.choose(config, given.get('preset', 'auto'))
  presets.recipe(config, given.get('recipe', 'dbdc'))
  return config
