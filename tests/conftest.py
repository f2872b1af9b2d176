"""Set-up of all tests: four virtual CPU devices, one trained phantom run."""

import os
import pathlib

# Before anything imports jax.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=4')

import hypothesis
import jax
import pytest

ROOT = pathlib.Path(__file__).parents[1]

hypothesis.settings.register_profile(
  'tests', derandomize=True, deadline=None, max_examples=25
)
hypothesis.settings.load_profile('tests')
# Steps of the same shapes are compiled once, also between calls of pytest.
jax.config.update(
  'jax_compilation_cache_dir', str(ROOT / '.pytest_cache' / 'jax')
)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 1.0)


@pytest.fixture(scope='session')
def scans() -> pathlib.Path:
  """The folder of real scans; tests that need it skip without."""
  given = os.environ.get('DBDC_SCANS')
  folder = pathlib.Path(given) if given else ROOT.parent / 'shared' / 'scans'
  if not folder.is_dir():
    pytest.skip('no real scans: set DBDC_SCANS to their folder')
  return folder
