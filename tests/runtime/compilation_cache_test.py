import jax

from dbdc_jax.runtime import compilation_cache


def test_programs_are_kept_in_the_cache_unless_jax_was_told_where(
  tmp_path, monkeypatch
):
  before = jax.config.jax_compilation_cache_dir
  try:
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', '/elsewhere')
    compilation_cache.use(tmp_path)
    assert jax.config.jax_compilation_cache_dir == before
    monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
    compilation_cache.use(tmp_path)
    found = jax.config.jax_compilation_cache_dir
    assert found.startswith(str(tmp_path / 'xla'))
    # The same machine finds it again.
    compilation_cache.use(tmp_path)
    assert jax.config.jax_compilation_cache_dir == found
  finally:
    jax.config.update('jax_compilation_cache_dir', before)
