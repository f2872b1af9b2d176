from importlib import metadata, util

import pytest

from dbdc_jax import memory


@pytest.mark.parametrize(
  ('plugins', 'libtpu', 'asked', 'accelerated'),
  [
    ([], None, None, False),
    (['cuda'], None, None, True),
    ([], 'libtpu', None, True),
    (['cuda'], 'libtpu', 'cpu', False),
    (['cuda'], None, 'cuda,cpu', True),
  ],
)
def test_memory_is_kept_where_steps_run_on_a_cpu(
  monkeypatch, plugins, libtpu, asked, accelerated
):
  found = util.find_spec
  monkeypatch.setattr(metadata, 'entry_points', lambda group: plugins)
  monkeypatch.setattr(
    util, 'find_spec', lambda name: libtpu if name == 'libtpu' else found(name)
  )
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  if asked:
    monkeypatch.setenv('JAX_PLATFORMS', asked)
  assert memory.accelerated() == accelerated
  if accelerated:
    # The C library is not even asked.
    monkeypatch.setattr(memory.ctypes, 'CDLL', None)
    assert not memory.keep()
