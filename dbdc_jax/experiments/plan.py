"""From a table to its runs: each is the plain command with its arguments."""

from collections.abc import Sequence
import dataclasses
import importlib
import pathlib
import shlex
import sys
from typing import Any

from absl import flags
import ml_collections
from ml_collections import config_flags

from configs import presets
from data import task_file
from data.task import names as task_names
from dbdc_jax import methods
from dbdc_jax.evaluation import components
from dbdc_jax.experiments import scores
from dbdc_jax.experiments.variants import SEED, VARY, Table, Variant
from dbdc_jax.workdir import run_folder, run_record
from dbdc_jax.workdir.run_folder import RunFolder

ROOT = pathlib.Path(__file__).parents[2]
# What a run is started with; `ROOT` is the folder to start it in.
PROGRAM = (sys.executable, '-m', 'dbdc_jax.main')
# States of a run.
DONE, NEW, BROKEN = 'done', 'to run', 'to resume'
OTHER, UNAVAILABLE = 'other settings', 'not available'


@dataclasses.dataclass(frozen=True)
class Options:
  """What all runs of an experiment share.

  Attributes:
    output: folder of the experiment.
    seeds: a run of each row for each.
    vary: a key of `VARY`: what the seeds are of.
    scans: folder of real scans; '' is the phantom. Of own scans, that of their
      dataset.json.
    preset: of `configs/common.py`; '' is the config's own choice.
    modalities: comma-separated; '' is all of the task.
    overrides: `--config.FIELD=VALUE` arguments.
    scores: a `scores.csv` that the results are taken from; nothing is run then.
  """

  output: pathlib.Path
  seeds: tuple[int, ...] = (0,)
  vary: str = 'weights'
  scans: str = ''
  preset: str = ''
  modalities: str = ''
  overrides: tuple[str, ...] = ()
  scores: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class PlannedRun:
  """One training: a row of the table, or a part of it, with one seed.

  Attributes:
    variant: the row.
    seed: the seed.
    part: which of the row's parts; '' if it has but one.
    workdir: its folder.
    command: what is executed, in `ROOT`; empty for another program's results.
    config: what the command's flags say; None if it cannot be run.
    reason: why it cannot be run; '' if it can.
    given: its results, where they are not in its folder.
  """

  variant: Variant
  seed: int
  part: str
  workdir: pathlib.Path
  command: tuple[str, ...]
  config: ml_collections.ConfigDict | None
  reason: str = ''
  given: dict[str, Any] | None = None

  @property
  def row(self) -> str:
    """The row, and the part of it, for readers."""
    return ' '.join(filter(None, (self.variant.name, self.part)))

  @property
  def name(self) -> str:
    """For readers."""
    return f'{self.row}, seed {self.seed}'


def resolve(
  task: str, argument: str, fields: Sequence[str]
) -> ml_collections.ConfigDict:
  """The config that the command would see.

  Args:
    task: the config file's name.
    argument: what stands behind its colon.
    fields: `--config.FIELD=VALUE` arguments; later ones win.

  Raises:
    ValueError: an argument that the command would refuse.
  """
  config = importlib.import_module(f'configs.{task}').get_config(argument)
  argv = ['experiment', *fields]
  values = flags.FlagValues()
  try:
    # The parser of the command's own --config.FIELD flags.
    holder = config_flags.DEFINE_config_dict(
      'config', config, flag_values=values, lock_config=True, sys_argv=argv
    )
    values(argv)
  except AttributeError as error:
    said = error.args[0]
    said = said.args[0] if isinstance(said, Exception) else said
    name = str(said).splitlines()[0]
    raise ValueError(f'the config has no field {name}') from error
  except (flags.Error, TypeError) as error:
    raise ValueError(str(error)) from error
  task_file.find(holder.value.task).select(holder.value.modalities)
  return holder.value


def _argument(variant: Variant, options: Options) -> str:
  pairs = {
    'method': variant.method,
    'recipe': variant.recipe,
    'scans': options.scans,
    'preset': options.preset,
  }
  return ','.join(f'{name}={value}' for name, value in pairs.items() if value)


def _fields(options: Options) -> list[str]:
  """The arguments that every row has."""
  chosen = [f'--config.modalities={options.modalities}']
  return [*options.overrides, *chosen * bool(options.modalities)]


def check(task: str, options: Options) -> None:
  """Checks what all rows share, before any of them.

  Raises:
    ValueError: an argument that no run would take; names it.
  """
  config = resolve(task, _argument(Variant('', ''), options), _fields(options))
  if left := presets.left_open(config):
    raise ValueError(
      'rows whose runs choose their own sizes cannot be compared: give --preset'
      f' quick or paper, or set {", ".join(left)}'
    )
  for field in VARY[options.vary](0):
    if any(o.startswith(f'--config.{field}=') for o in options.overrides):
      raise ValueError(
        f'--config.{field}: --seeds sets it, with --vary {options.vary}'
      )


def _run(
  table: Table, variant: Variant, seed: int, part: str, options: Options
) -> PlannedRun:
  if variant.results:
    folder = pathlib.Path(variant.results.replace(SEED, str(seed)))
    reason = f"{folder}: no {run_folder.RESULTS} of a run's form there"
    return PlannedRun(variant, seed, part, folder, (), None, reason)
  # What makes the row comes last: it is not to be overridden.
  fields = _fields(options)
  chosen = {
    **VARY[options.vary](seed),
    **variant.fields,
    **variant.parts[part],
  }
  fields += [f'--config.{f}={v}' for f, v in chosen.items()]
  argument = _argument(variant, options)
  workdir = options.output / 'runs' / variant.name / part / f'seed{seed}'
  command = (
    *PROGRAM,
    f'--config=configs/{table.task}.py:{argument}',
    *fields,
    f'--workdir={workdir}',
  )
  config, reason = None, ''
  try:
    if variant.method not in methods.names():
      raise ValueError(f'there is no method {variant.method}')
    wanted = resolve(table.task, argument, fields)
    # What a method refuses is known before anything is run.
    methods.traits(wanted)
    config = wanted
  except ValueError as error:
    reason = str(error)
  return PlannedRun(variant, seed, part, workdir, command, config, reason)


def expand(table: Table, options: Options) -> list[PlannedRun]:
  """All runs of a table, row by row.

  Args:
    table: its rows.
    options: what they share.

  Raises:
    ValueError: `options.scores` is no such file.
  """
  path = options.scores
  if path:
    given = scores.read(path)
    why = f'not in {path}'
    return [
      PlannedRun(v, seed, '', path, (), None, why, given.get((v.name, seed)))
      for v in table.variants
      for seed in options.seeds
    ]
  return [
    _run(table, variant, seed, part, options)
    for variant in table.variants
    for seed in options.seeds
    for part in variant.parts
  ]


def select(runs: Sequence[PlannedRun], only: Sequence[str]) -> list[PlannedRun]:
  """The runs of some rows.

  Args:
    runs: of all rows.
    only: names of rows; none means all.

  Raises:
    ValueError: a name that is no row's.
  """
  names = list(dict.fromkeys(run.variant.name for run in runs))
  unknown = [name for name in only if name not in names]
  if unknown:
    raise ValueError(
      f'--only {",".join(unknown)}: no such row; there are: {", ".join(names)}'
    )
  return [run for run in runs if not only or run.variant.name in only]


def _read(run: PlannedRun, name: str, *keys: str) -> dict[str, Any] | None:
  """A file of a run's folder; None if there is none that can be used."""
  try:
    return RunFolder(run.workdir).read(name, *keys)
  except ValueError:
    return None


def _config(run: PlannedRun) -> dict[str, Any] | None:
  """The config of the run that a folder holds; None if it holds none."""
  return _read(run, run_folder.CONFIG, 'epochs', 'modalities', 'data')


def _results(run: PlannedRun) -> dict[str, Any] | None:
  if run.given:
    return run.given
  found = _read(run, run_folder.RESULTS, 'run', 'modalities', 'mean', 'cases')
  whole = found and {'networks', 'devices'} <= found['run'].keys()
  return found if whole else None


def _foreign(run: PlannedRun) -> bool:
  """Whether a folder holds something, and no run has put it there."""
  folder = run.workdir
  if not folder.exists():
    return False
  # A run's first act is to lock its folder.
  mine = (folder / '.lock').exists() or _config(run) is not None
  return not folder.is_dir() or (not mine and any(folder.iterdir()))


def results(run: PlannedRun) -> dict[str, Any] | None:
  """A finished run's results; None if it is not finished."""
  return _results(run) if state(run)[0] == DONE else None


def _differing(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
  """What keeps a run of the config `new` from being one of `old`."""
  lines = run_record.other_settings(old, new)
  if old['epochs'] > new['epochs']:
    lines.append(f'epochs: {old["epochs"]} -> {new["epochs"]}')

  # A run may be resumed with these changed, but it is another row's then.
  def said(config: dict[str, Any]) -> dict[str, str]:
    chosen = task_file.find(new['task']).select(config['modalities'])
    return {
      'data.split': repr(config['data'].get('split', '')),
      'evaluation.components': config.get('evaluation', {}).get(
        'components', components.NONE
      ),
      'init_from': repr(config.get('init_from', '')),
      'modalities': ','.join(task_names(chosen)),
    }

  pairs = zip(said(old).items(), said(new).values(), strict=True)
  return lines + [f'{f}: {a} -> {b}' for (f, a), b in pairs if a != b]


def state(run: PlannedRun) -> tuple[str, str]:
  """Where a run stands.

  Returns:
    One of `DONE`, `NEW`, `BROKEN`, `OTHER`, `UNAVAILABLE`, and the reason of
    the last two.
  """
  if run.given or (run.variant.results and _results(run)):
    return DONE, ''
  if run.config is None:
    return UNAVAILABLE, run.reason
  if _foreign(run):
    return OTHER, f'{run.workdir} holds what is no run: move it away'
  old, found = _config(run), _results(run)
  if old is None or not (found or run_record.started(run.workdir)):
    return NEW, ''
  differing = _differing(old, run.config.to_dict())
  if differing:
    return OTHER, '; '.join(differing)
  # A finished run that goes on to more epochs keeps its old results until then.
  if found and found['run']['epochs'] == run.config.epochs:
    return DONE, ''
  return BROKEN, ''


def is_open(run: PlannedRun) -> bool:
  """Whether a run is still to be done and can be."""
  return state(run)[0] in (NEW, BROKEN)


def shell(run: PlannedRun) -> str:
  """The run's command, to be typed in the project's folder."""
  return shlex.join(run.command)
