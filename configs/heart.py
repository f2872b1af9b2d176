"""The paper's Table I: seven heart structures in CT and MR (MM-WHS).

  python -m dbdc_jax.main --config configs/heart.py
  python -m dbdc_jax.main --config configs/heart.py:scans=/data/mmwhs

Without scans: the heart phantom and a preset for two CPU cores (DBDC: about 8
minutes, 84 % mean test DSC). With `scans=DIR` (the folder that holds ct_train/
and mr_train/): the paper's settings; the paper reports 84.56 % mean test DSC
for DBDC.
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; see the module's docstring and `common.arguments`."""
  config = common.base()
  config.task = 'heart'
  # The paper's text says 128; its multiply-accumulates say 96.
  config.augment.patch_size = 96
  config.augment.flips = True
  preset = common.arguments(config, argument)
  if preset == 'paper':
    config.expectation = 'the paper reports 84.56 % mean test DSC for DBDC'
  elif preset == 'quick' and not config.data.mmwhs:
    config.expectation = (
      'DBDC takes about 8 minutes on two CPU cores and reaches a mean test DSC'
      ' of about 84 %'
    )
  return config
