from importlib import metadata, util

import pytest

from dbdc_jax.runtime import memory


@pytest.mark.parametrize(
  ('plugins', 'libtpu', 'device', 'asked', 'accelerated'),
  [
    ([], None, True, None, False),
    (['cuda'], None, True, None, True),
    (['cuda'], None, False, None, False),
    ([], 'libtpu', True, None, True),
    (['cuda'], 'libtpu', True, 'cpu', False),
    (['cuda'], None, True, 'cuda,cpu', True),
  ],
)
def test_memory_is_kept_where_steps_run_on_a_cpu(
  monkeypatch, plugins, libtpu, device, asked, accelerated
):
  found = util.find_spec
  monkeypatch.setattr(metadata, 'entry_points', lambda group: plugins)
  monkeypatch.setattr(
    util, 'find_spec', lambda name: libtpu if name == 'libtpu' else found(name)
  )
  # Every Linux has this folder.
  places = ('dev',) if device else ('no such folder',)
  monkeypatch.setattr(memory, '_DEVICES', places)
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  if asked:
    monkeypatch.setenv('JAX_PLATFORMS', asked)
  assert memory.accelerated() == accelerated
  if accelerated:
    # The C library is not even asked.
    monkeypatch.setattr(memory.ctypes, 'CDLL', None)
    assert not memory.keep()
