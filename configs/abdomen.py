"""The paper's Table II: four abdominal organs in CT, T2 and T1 in/out-phase.

  python -m dbdc_jax.main --config configs/abdomen.py
  python -m dbdc_jax.main --config configs/abdomen.py:scans=/data

Without scans: the abdomen phantom and a preset for two CPU cores. With
`scans=DIR` (DIR holds btcv/ and chaos/; or name them, `btcv=DIR,chaos=DIR`):
the paper's settings; the paper reports 87.61 % mean test DSC for DBDC.
"""

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; see the module's docstring and `common.arguments`."""
  config = common.base()
  config.task = 'abdomen'
  config.augment.patch_size = 128
  if common.arguments(config, argument) == 'paper':
    config.expectation = 'the paper reports 87.61 % mean test DSC for DBDC'
  return config
