"""The house rules that a reader may rely on, held against the source."""

import ast
from collections.abc import Iterator
import functools
import graphlib
import importlib.metadata
import pathlib
import re
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ('configs', 'data', 'dbdc_jax')
MAX_LINES = 400
# What counts the devices or spreads work over them.
DEVICE_NAMES = {
  'device_count',
  'devices',
  'local_device_count',
  'local_devices',
  'pmap',
  'process_count',
  'process_index',
}
UNSAFE_IMPORTS = {
  'cloudpickle',
  'dill',
  'joblib',
  'marshal',
  'pickle',
  'shelve',
}
# What is typed; nothing imports them.
COMMANDS = (
  'data.phantom',
  'data.prepare',
  'dbdc_jax.benchmark',
  'dbdc_jax.evaluate',
  'dbdc_jax.experiment',
  'dbdc_jax.export',
  'dbdc_jax.main',
  'dbdc_jax.predict',
  'dbdc_jax.report',
)
# Test modules that are not about one module.
WIDE_TESTS = {
  'bad_scans',
  'distributed',
  'faults',
  'gpu_check',
  'integration',
  'layout',
  'nnunet_peer',
  'own_data',
  'parallel',
  'readers',
}
# The floors of the house, lowest first. A room (a folder, or a module that lies
# in `data` or `dbdc_jax` itself) imports from lower floors only.
FLOORS = (
  ('data.files', 'data.task', 'dbdc_jax'),
  ('data.formats', 'data.preprocessing', 'dbdc_jax.runtime'),
  ('data.cache', 'data.phantoms', 'data.task_file', 'dbdc_jax.ops'),
  (
    'dbdc_jax.models',
    'configs',
    'data.readers',
    'data.split',
    'dbdc_jax.inference.dicom',
  ),
  (
    'data.first_task',
    'data.integrity',
    'dbdc_jax.evaluation',
    'dbdc_jax.methods.common',
  ),
  ('data.checking', 'dbdc_jax.methods'),
  ('data.preparation', 'dbdc_jax.workdir'),
  ('dbdc_jax.inference',),
  ('dbdc_jax.training',),
  ('dbdc_jax.benchmarking', 'dbdc_jax.experiments', 'dbdc_jax.reporting'),
  ('dbdc_jax.sizing',),
  COMMANDS,
)
# What ops may not know: settings, files, and the rest of the project.
NOT_OF_OPS = {
  'configs',
  'data',
  'io',
  'json',
  'ml_collections',
  'os',
  'pathlib',
}
# These, with all they import from here, work without jax.
JAX_FREE = ('configs', 'data', 'dbdc_jax.evaluate', 'dbdc_jax.evaluation')
JAX = {'flax', 'jax', 'jaxlib', 'optax', 'orbax'}


def _name(path: pathlib.Path) -> str:
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


@functools.cache
def _modules() -> dict[str, ast.Module]:
  files = [f for p in PACKAGES for f in sorted((ROOT / p).rglob('*.py'))]
  return {_name(file): ast.parse(file.read_text()) for file in files}


def _file(module: str) -> pathlib.Path:
  stem = ROOT.joinpath(*module.split('.'))
  return stem / '__init__.py' if stem.is_dir() else stem.with_suffix('.py')


def _within(module: str, package: str) -> bool:
  return module == package or module.startswith(package + '.')


def _loaded(node: ast.AST) -> Iterator[ast.AST]:
  """The nodes below one, without what only type checkers read."""
  for child in ast.iter_child_nodes(node):
    if isinstance(child, ast.If) and _dotted(child.test) == 'TYPE_CHECKING':
      continue
    yield child
    yield from _loaded(child)


@functools.cache
def _imports(module: str) -> frozenset[str]:
  """Dotted names that a module imports, also inside of functions."""
  found = set()
  for node in _loaded(_modules()[module]):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{module}: relative import'
      for alias in node.names:
        full = f'{node.module}.{alias.name}'
        # `from package import module`, or a name out of a module.
        ours = node.module.split('.')[0] in PACKAGES
        inner = not ours or full in _modules()
        found.add(full if inner else node.module)
  return frozenset(found)


def _reach(module: str) -> dict[str, str]:
  """Every module of ours that importing `module` loads -> who asks for it."""
  seen, open_ = {module: ''}, [module]
  while open_:
    here = open_.pop()
    for name in _imports(here) & _modules().keys():
      if name not in seen:
        seen[name] = here
        open_.append(name)
  return seen


def _dotted(node: ast.AST) -> str:
  if isinstance(node, ast.Name):
    return node.id
  if isinstance(node, ast.Attribute):
    return f'{_dotted(node.value)}.{node.attr}'
  return '?'


def test_the_walk_sees_the_project():
  assert {
    'dbdc_jax.main',
    'dbdc_jax.training.train',
    'data.task',
  } <= _modules().keys()
  assert 'dbdc_jax.training.train' in _imports('dbdc_jax.main')
  assert 'dbdc_jax.ops.losses' in _reach('dbdc_jax.main')


@pytest.mark.parametrize('start', JAX_FREE)
def test_data_and_scores_never_import_jax(start):
  bad = {
    f'{module} (from {asker or "itself"}) imports {name}'
    for entry in _modules()
    if _within(entry, start)
    for module, asker in _reach(entry).items()
    for name in _imports(module)
    if name.split('.')[0] in JAX
  }
  assert not bad


def _room(module: str) -> str:
  """The folder that a module lies in; of the two houses' own, itself."""
  parent = module.rpartition('.')[0]
  if module in _packages() or parent in ('data', 'dbdc_jax'):
    return 'configs' if module == 'configs' else module
  return parent


@functools.cache
def _packages() -> frozenset[str]:
  return frozenset(
    _name(f) for p in PACKAGES for f in (ROOT / p).rglob('__init__.py')
  )


def test_every_room_has_one_floor():
  rooms = [room for floor in FLOORS for room in floor]
  assert len(rooms) == len({*rooms})
  # The packages that hold nothing of their own are no rooms.
  assert {_room(module) for module in _modules()} - {'data'} == {*rooms}


def test_imports_go_down():
  floor = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
  bad = {
    f'{module} imports {name}'
    for module in _modules()
    for name in _imports(module) & _modules().keys()
    if (here := _room(module)) != (there := _room(name))
    if floor[there] >= floor[here]
  }
  assert not bad


def test_ops_know_neither_settings_nor_files():
  bad = {
    f'{module} imports {name}'
    for module in _modules()
    if _within(module, 'dbdc_jax.ops')
    for name in _imports(module)
    if name.split('.')[0] in NOT_OF_OPS
  }
  bad |= {
    f'{module}:{node.lineno} opens a file'
    for module, tree in _modules().items()
    if _within(module, 'dbdc_jax.ops')
    for node in ast.walk(tree)
    if isinstance(node, ast.Call) and _dotted(node.func) == 'open'
  }
  assert not bad


def test_nothing_imports_a_command():
  importers = {
    module for module in _modules() if set(COMMANDS) & set(_imports(module))
  }
  assert not importers


def test_imports_have_no_cycle():
  graph = {m: (_imports(m) & _modules().keys()) - {m} for m in _modules()}
  list(graphlib.TopologicalSorter(graph).static_order())


def test_only_parallel_knows_the_devices():
  # `jax.NAME` and `from jax import NAME`: words in texts are free.
  bad = set()
  for module, tree in _modules().items():
    used = {_dotted(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    used |= _imports(module)
    bad |= {
      f'{module}: {name}'
      for name in used
      if module != 'dbdc_jax.runtime.parallel'
      and name.split('.')[0] == 'jax'
      and name.split('.')[1:2]
      and name.split('.')[1] in DEVICE_NAMES
    }
  assert not bad


def test_nothing_unpickles_or_evaluates_text():
  bad = set()
  for module, tree in _modules().items():
    bad |= {
      f'{module}: import {name}'
      for name in _imports(module)
      if name.split('.')[0] in UNSAFE_IMPORTS
    }
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
      name = _dotted(call.func)
      pickled = any(k.arg == 'allow_pickle' for k in call.keywords)
      if name in ('eval', 'exec', 'yaml.load') or pickled:
        bad.add(f'{module}:{call.lineno}: {name}')
  assert not bad


def _readable() -> list[pathlib.Path]:
  """The modules' files and the benchmarks'."""
  benchmarks = (ROOT / 'benchmarks').rglob('*.py')
  return [*(_file(module) for module in _modules()), *benchmarks]


def test_files_stay_readable():
  long = {
    f'{file}: {lines} lines'
    for file in _readable()
    if (lines := len(file.read_text().splitlines())) > MAX_LINES
  }
  assert not long


def test_no_file_is_a_drawer():
  names = {file.stem for file in _readable()}
  assert not names & {'helpers', 'misc', 'util', 'utils'}


def test_a_test_module_is_named_after_its_module():
  known = {part for module in _modules() for part in module.split('.')}
  stems = {
    file.stem.removesuffix('_test')
    for file in (ROOT / 'tests').rglob('*_test.py')
  }
  assert not stems - known - WIDE_TESTS


def test_every_package_is_installed():
  settings = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  find = settings['tool']['setuptools']['packages']['find']
  assert set(find['include']) == {f'{package}*' for package in PACKAGES}
  folders = {file.parent for p in PACKAGES for file in (ROOT / p).rglob('*.py')}
  assert {_name(folder / '__init__.py') for folder in folders} == _packages()


def _plain(name: str) -> str:
  return re.sub('[-_.]+', '-', name).lower()


def test_requirements_pin_everything_that_is_imported():
  lines = (ROOT / 'requirements.txt').read_text().splitlines()
  lines = [line for line in lines if line and not line.startswith('#')]
  pin = re.compile(r'([\w.-]+)==[\w.!+-]+( ; .*)?')
  assert all(pin.fullmatch(line) for line in lines)
  pinned = {_plain(line.split('==')[0]) for line in lines}
  assert len(pinned) == len(lines)
  giver = importlib.metadata.packages_distributions()
  bad = {
    f'{module}: {name}'
    for module in _modules()
    for name in {n.split('.')[0] for n in _imports(module)}
    if name not in PACKAGES and name not in sys.stdlib_module_names
    if not pinned & {_plain(d) for d in giver.get(name, ())}
  }
  assert not bad


def _project_files():
  skipped = {'.git', '.venv', 'runs', '__pycache__', 'build', 'dist'}
  skipped |= {'.pytest_cache', '.mypy_cache', '.ruff_cache', '.hypothesis'}
  for entry in sorted(ROOT.iterdir()):
    if entry.is_file():
      yield entry
    elif entry.name not in skipped and not entry.is_symlink():
      yield from (f for f in sorted(entry.rglob('*')) if f.is_file())


def test_the_project_holds_no_scan_and_no_place_of_one():
  suffixes = ('.nii', '.nii.gz', '.dcm', '.mha', '.nrrd', '.npy', '.npz')
  files = list(_project_files())
  assert not [f for f in files if f.name.endswith(suffixes)]
  allowed = {ROOT / 'tests' / 'conftest.py', ROOT / '.ci' / 'run'}
  place = re.compile(rb'shared\W{1,6}scans')
  named = {
    str(file.relative_to(ROOT))
    for file in files
    if file.suffix not in ('.png', '.pyc') and file not in allowed
    if file != pathlib.Path(__file__) and place.search(file.read_bytes())
  }
  assert not named
