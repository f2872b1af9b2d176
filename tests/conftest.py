"""Set-up of all tests: four virtual CPU devices, one trained phantom run."""

import gc
import os
import pathlib

ROOT = pathlib.Path(__file__).parents[1]


def _set_up_jax() -> None:
  """Devices and compilation cache; before anything imports jax.

  By environment variables, so that the processes a test starts have them too.
  """
  count = '--xla_force_host_platform_device_count'
  flags = os.environ.get('XLA_FLAGS', '')
  if count not in flags:
    # Compiling is most of the time, and takes half of it like this.
    quick = (
      '--xla_backend_optimization_level=0',
      '--xla_llvm_disable_expensive_passes=true',
      # Fusions of jaxlib 0.10 and 0.11 that take long and were seen to crash.
      '--xla_cpu_experimental_ynn_fusion_type=',
    )
    os.environ['XLA_FLAGS'] = ' '.join([flags, f'{count}=4', *quick]).strip()
  os.environ['JAX_PLATFORMS'] = 'cpu'
  # Steps of the same shapes are compiled once, also between calls of pytest.
  cache = str(ROOT / '.pytest_cache' / 'jax')
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', cache)
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')


_set_up_jax()

import hypothesis  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402
import xdist.scheduler  # noqa: E402

# What these modules' functions are given and give back is held against their
# types and shapes; not in the processes that a test starts.
_CHECKED = ['dbdc_jax.methods', 'dbdc_jax.models', 'dbdc_jax.ops']
jaxtyping.install_import_hook(_CHECKED, 'beartype.beartype')

hypothesis.settings.register_profile(
  'tests', derandomize=True, deadline=None, max_examples=25
)
hypothesis.settings.load_profile('tests')


# Test modules that compile a train step, the longest first, and the runs that
# tests share.
_TRAINING = (
  'integration_test',
  'methods_test',
  'faults_test',
  'step_test',
  'warm_start_test',
  'transfer_test',
  'mass_test',
  'varda_test',
  'ram_dsir_test',
  'summl_test',
  'evil_test',
  'uamt_test',
  'ict_test',
  'mean_teacher_test',
  'cps_test',
  'co_training_test',
  'four_passes_test',
  'supervision_test',
  'distributed_test',
  'gpu_check_test',
  'main_test',
  'export_test',
  'benchmark_test',
  'registration_test',
  # These trace the networks of all methods, or of the paper's size.
  'precision_test',
  'sizes_test',
  'tables_test',
  'counting_test',
)
_RUNS = {'trained', 'plain', 'own_run', 'ct_alone', 'mr_added'}
# Modules of the same runs go to the same process: there they are made once.
_TOGETHER = {
  'export_test': 'added',
  'trained_run_test': 'added',
  'warm_start_test': 'added',
  'distributed_test': 'plain',
  'faults_test': 'plain',
  'own_data_test': 'own',
  'report_test': 'own',
}


class _TogetherScheduling(xdist.scheduler.LoadFileScheduling):
  def _split_scope(self, nodeid):
    file = super()._split_scope(nodeid)
    return _TOGETHER.get(pathlib.PurePath(file).stem, file)


def pytest_xdist_make_scheduler(config, log):
  """Shares the modules out to the processes."""
  return _TogetherScheduling(config, log)


def pytest_ignore_collect(collection_path, config) -> bool | None:
  """Modules that `make check` leaves out are not even imported there."""
  left_out = config.getoption('markexpr') == 'not trains'
  return (left_out and collection_path.stem in _TRAINING) or None


def pytest_collection_finish() -> None:
  """Tracing makes many objects: looking through all others takes a seventh."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(100_000, 20, 100)


def pytest_collection_modifyitems(items) -> None:
  """Marks the tests that train; their modules come first, being the longest."""
  for item in items:
    if item.path.stem in _TRAINING or _RUNS & {*item.fixturenames}:
      item.add_marker('trains')
  long = {item.path for item in items if item.get_closest_marker('trains')}
  place = {name: index for index, name in enumerate(_TRAINING)}
  items.sort(
    key=lambda item: (
      item.path not in long,
      place.get(item.path.stem, len(place)),
    )
  )


# A process may map so many pieces of memory (Linux: 65,530); each compiled
# program holds some, and beyond the limit the compiler dies.
_MOST_MAPS = 20_000


@pytest.fixture(scope='module', autouse=True)
def few_programs():
  """Lets compiled programs go between test modules once there are many."""
  yield
  maps = pathlib.Path('/proc/self/maps')
  if maps.exists() and len(maps.read_text().splitlines()) > _MOST_MAPS:
    import jax

    jax.clear_caches()


@pytest.fixture(scope='session')
def scans() -> pathlib.Path:
  """The folder of real scans; tests that need it skip without."""
  given = os.environ.get('DBDC_SCANS')
  folder = pathlib.Path(given) if given else ROOT.parent / 'shared' / 'scans'
  if not folder.is_dir():
    pytest.skip(f'no real scans at {folder}: set DBDC_SCANS to their folder')
  return folder


@pytest.fixture(scope='session')
def cache(tmp_path_factory) -> pathlib.Path:
  """Prepared phantoms, shared by all tests."""
  return tmp_path_factory.mktemp('cache')


def _two_epochs(cache, modalities, **fields):
  """Of `recipe=plus`: its teacher goes through everything that a run does."""
  import tiny

  config = tiny.heart_config(cache, 'recipe=plus')
  # Pairs of slices on each of the tests' four devices.
  config.update_from_flattened_dict(
    {'epochs': 2, 'batch_size': 8, 'modalities': modalities, **fields}
  )
  return config


@pytest.fixture(scope='session')
def ct_alone(cache, tmp_path_factory):
  """Workdir of a run on one modality."""
  from dbdc_jax.training import train

  workdir = tmp_path_factory.mktemp('run') / 'ct'
  train.train(_two_epochs(cache, 'ct'), workdir)
  return workdir


@pytest.fixture(scope='session')
def adding(cache, ct_alone):
  """Config of the run that adds MR in front of CT."""
  return _two_epochs(
    cache, 'mr,ct', init_from=str(ct_alone), train_only='banks'
  )


@pytest.fixture(scope='session')
def mr_added(adding, tmp_path_factory):
  """Workdir of that run."""
  from dbdc_jax.training import train

  workdir = tmp_path_factory.mktemp('run') / 'mr_added'
  train.train(adding, workdir)
  return workdir


@pytest.fixture(scope='session')
def trained(cache, tmp_path_factory):
  """One DBDC run on the tiny heart phantom: workdir, results, epochs."""
  import tiny

  from dbdc_jax.training import train

  workdir = tmp_path_factory.mktemp('run') / 'heart'
  epochs = []
  config = tiny.heart_config(cache)
  config.evaluation.overlays = 1
  results = train.train(config, workdir, epochs.append)
  return workdir, results, epochs


@pytest.fixture(scope='session')
def plain(cache, tmp_path_factory):
  """Workdir of a run of `tiny.plain_config` that nothing happened to."""
  import tiny

  from dbdc_jax.training import train

  workdir = tmp_path_factory.mktemp('run') / 'plain'
  train.train(tiny.plain_config(cache), workdir)
  return workdir


@pytest.fixture(scope='session')
def own_run(cache, tmp_path_factory):
  """DBDC on own scans, CT with four organs and T2 with two of them.

  Their folder, the workdir and the results.
  """
  import own_scans
  import tiny

  from dbdc_jax.training import train

  place = tmp_path_factory.mktemp('own')
  own_scans.write(place, cache)
  config = tiny.own_config(place, cache)
  workdir = tmp_path_factory.mktemp('run') / 'own'
  return place, workdir, train.train(config, str(workdir))
