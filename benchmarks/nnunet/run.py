"""nnU-Net on a finished run's scans, split and labels: its row of a table.

  python benchmarks/nnunet/run.py --run runs/abdomen --output nnunet/abdomen \
      --recipe separate --python nnunet_env/bin/python

trains on the run's labelled scans, chooses the checkpoint on its validation
scans, and scores its test scans as the run's own were: on their grid, in the
run's region of interest. Recipes:

  separate      a network for each modality
  joint         one for all modalities, each with z-scores in the one channel
  pseudo        `separate`; its label maps of the unlabelled training scans;
                then each trained anew on both, steps in proportion to the scans
  joint_pseudo  the same with one network

OUTPUT/RECIPE/results.json has the form of a run's: a line
{"name": "nnunet", "results": "nnunet/seed{seed}/RECIPE"} in a file of rows
(--variants of `python -m dbdc_jax.experiment`) puts those of all seeds into a
table. OUTPUT/NETWORK/log.txt has what nnU-Net says. The same command again
skips what is finished and goes on with a training that was stopped; another
recipe uses the networks that it shares.
"""

import argparse
from collections.abc import Iterable, Sequence
import json
import os
import pathlib
import subprocess
import sys
from typing import Any, NamedTuple

# `python benchmarks/nnunet/run.py` puts this folder first, not the project.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from benchmarks.nnunet import convert, scores
from data import split as splits
from data.files import atomic, command, destination
from dbdc_jax.evaluation import scoring
from dbdc_jax.reporting import runs
from dbdc_jax.workdir import run_record

# Whether there is one network for all modalities, and a second round.
RECIPES = {
  'separate': (False, False),
  'joint': (True, False),
  'pseudo': (False, True),
  'joint_pseudo': (True, True),
}
_SETTINGS, _FACTS, _DATASET = 'settings.json', 'facts.json', 'Dataset001_scans'
_PARTS = ('labeled', 'validation', 'test')
_LINES = 6
# Settings that all networks have.
_SAME = ('patch', 'batch', 'optimizer', 'seed')


class Network(NamedTuple):
  """One network.

  Attributes:
    modalities: that it takes.
    teacher: the network whose label maps of the unlabelled scans it learns
      from; None: it learns from the labelled ones alone.
  """

  modalities: tuple[str, ...]
  teacher: 'Network | None' = None

  @property
  def name(self) -> str:
    """Of its folder."""
    return '+'.join(self.modalities) + ('_pseudo' if self.teacher else '')


def networks(recipe: str, modalities: Sequence[str]) -> list[Network]:
  """The networks of a recipe that segment the test scans."""
  joint, pseudo = RECIPES[recipe]
  groups = [tuple(modalities)] if joint else [(name,) for name in modalities]
  first = [Network(group) for group in groups]
  return [Network(n.modalities, n) for n in first] if pseudo else first


def steps(network: Network, files: convert.Files, each: int) -> int:
  """Steps of a network.

  Args:
    network: the network.
    files: of the run's scans.
    each: steps for one modality's labelled scans.
  """
  labeled = len(files.of(network.modalities, 'labeled'))
  more = len(files.of(network.modalities, 'unlabeled'))
  share = 1 + more / labeled if network.teacher else 1.0
  return round(each * len(network.modalities) * share)


def claim(folder: pathlib.Path, settings: dict[str, Any]) -> None:
  """Makes a folder that of these settings.

  Raises:
    ValueError: it is another's, or of other settings; says of which.
  """
  destination.check(folder / _SETTINGS)
  path = folder / _SETTINGS
  if not path.exists():
    if folder.exists() and any(folder.iterdir()):
      raise ValueError(
        f'{folder} holds files that are not of this command: choose another'
        ' --output'
      )
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_json(path, settings)
    return
  try:
    old = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(
      f'{path}: damaged ({error}): choose another --output'
    ) from error
  if lines := run_record.difference(old, settings):
    raise ValueError(
      f'{folder} was made with other settings:\n  '
      + '\n  '.join(lines)
      + '\nChoose another --output, or give those again.'
    )


class Peer:
  """nnU-Net on a run's scans.

  Args of the constructor:
    files: of the scans.
    output: folder of all that is made.
    python: interpreter of the environment that has nnU-Net.
    settings: `spacing` (modality -> mm), `steps`, and those of `_SAME`.
  """

  def __init__(
    self,
    files: convert.Files,
    output: pathlib.Path,
    python: str,
    settings: dict[str, Any],
  ):
    self.files, self._output = files, output
    self._python, self._settings = python, settings

  def predicted(self, network: Network, part: str) -> pathlib.Path:
    """The folder of a network's label maps of a part of the split."""
    return self._output / network.name / 'predicted' / part

  def _job(self, network: Network, parts: Iterable[str]) -> dict[str, Any]:
    files, folder = self.files, self._output / network.name
    cases = {part: files.of(network.modalities, part) for part in splits.PARTS}
    stem = lambda case: convert.file_name(case).removesuffix(convert.ENDING)
    taught = cases['unlabeled'] if network.teacher else []
    mm = [self._settings['spacing'][name] for name in network.modalities]
    return {
      **{key: self._settings[key] for key in _SAME},
      'spacing': min(mm),
      'steps': steps(network, files, self._settings['steps']),
      'preprocessed': str(folder / 'preprocessed' / _DATASET),
      'split': {
        'train': [stem(case) for case in (*cases['labeled'], *taught)],
        'val': [stem(case) for case in cases['validation']],
      },
      'predict': {
        str(files.image(case)): str(
          self.predicted(network, part) / convert.file_name(case)
        )
        for part in parts
        for case in cases[part]
      },
    }

  def train(self, network: Network, parts: Sequence[str]) -> list[dict]:
    """Trains a network, and its teacher first; predicts parts of the split.

    Returns:
      Facts of the teacher, if there is one, and of the network.

    Raises:
      ValueError: nnU-Net failed; with its last words.
    """
    folder, facts = self._output / network.name, []
    pseudo = {}
    if network.teacher:
      facts = self.train(network.teacher, ['unlabeled'])
      taught = self.predicted(network.teacher, 'unlabeled')
      pseudo = {
        case.name: taught / convert.file_name(case)
        for case in self.files.of(network.modalities, 'unlabeled')
      }
    job = self._job(network, parts)
    done = all(os.path.exists(path) for path in job['predict'].values())
    if not (done and (folder / _FACTS).exists()):
      raw = folder / 'raw' / _DATASET
      raw.mkdir(parents=True, exist_ok=True)
      described = convert.dataset(self.files, network.modalities, pseudo)
      atomic.write_json(raw / 'dataset.json', described)
      atomic.write_json(folder / 'job.json', job)
      self._start(folder)
    return [*facts, json.loads((folder / _FACTS).read_text())]

  def _start(self, folder: pathlib.Path) -> None:
    """Does a job in nnU-Net's environment, on one thread."""
    rooms = {
      'nnUNet_raw': 'raw',
      'nnUNet_preprocessed': 'preprocessed',
      'nnUNet_results': 'trained',
    }
    for room in rooms.values():
      (folder / room).mkdir(exist_ok=True)
    one = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'nnUNet_def_n_proc')
    env = {
      **os.environ,
      **{name: str(folder / room) for name, room in rooms.items()},
      **dict.fromkeys(one, '1'),
      'nnUNet_n_proc_DA': '1',
    }
    script = pathlib.Path(__file__).with_name('network.py')
    try:
      process = subprocess.Popen(
        [self._python, script, folder / 'job.json'], env=env
      )
    except OSError as error:
      raise ValueError(
        f'--python {self._python}: cannot be started ({error.strerror}): give'
        ' the interpreter of the environment that README.md describes'
      ) from error
    with atomic.terminable():
      try:
        code = process.wait()
      except BaseException:
        process.terminate()
        process.wait()
        raise
    if code:
      log = folder / 'log.txt'
      said = log.read_text(errors='replace') if log.exists() else ''
      last = '\n  '.join(said.strip().splitlines()[-_LINES:])
      raise ValueError(
        f'{folder.name}: nnU-Net ended with exit code {code}; {log} ends:\n'
        f'  {last}'
      )


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--run', required=True, metavar='DIR', help='workdir of a finished run')
  add('--output', required=True, type=pathlib.Path, metavar='DIR')
  add('--recipe', required=True, choices=tuple(RECIPES))
  add('--python', required=True, help='interpreter that has nnU-Net')
  add('--steps', type=int, default=1000, help='of a modality')
  add('--batch', type=int, help="slices; default: the run's")
  add('--patch', type=int, help="pixels; default: the run's")
  add('--spacing', type=float, help="mm of a pixel; default: the run's")
  add('--optimizer', choices=('adamw', 'sgd'), default='adamw')
  add('--seed', type=int, default=0, help='weights, batches, augmentation')
  return parser


def _settings(flags: argparse.Namespace, run, data) -> dict[str, Any]:
  """What the networks depend on."""
  for name in ('steps', 'batch', 'patch', 'spacing'):
    value = getattr(flags, name)
    if value is not None and value <= 0:
      raise command.WrongFlags(f'--{name} {value}: give more than 0')
  prepared, config = run.record['data'], run.config
  return {
    **{name: getattr(flags, name) for name in ('steps', 'optimizer', 'seed')},
    'batch': flags.batch or config.batch_size,
    'patch': flags.patch or config.augment.patch_size,
    'spacing': {
      name: flags.spacing or prepared[name]['mm_per_pixel']
      for name in data.split
    },
    'split': data.split,
    'data': prepared['hash'],
  }


def _row(
  peer: Peer, networks: Sequence[Network], data: runs.Data, way: str
) -> tuple[dict[str, Any], ...]:
  """Trains networks; facts of them, scores of validation and test scans."""
  files, trained = peer.files, {}
  found: dict[str, list] = {'validation': [], 'test': []}
  for network in networks:
    facts = peer.train(network, tuple(found))
    of = {
      part: (files.of(network.modalities, part), peer.predicted(network, part))
      for part in found
    }
    choice = scores.choose(files, data.prepared, *of['validation'])
    for part, into in found.items():
      into += scores.score(files, data.prepared, *of[part], choice, way)
    summed = {
      key: sum(one[key] for one in facts)
      for key in ('train_seconds', 'cpu_seconds')
    }
    name = ','.join(network.modalities)
    trained[name] = {**facts[-1], **summed, 'components': choice}
  return trained, *(
    scoring.summarize(
      cases, files.classes, list(files.modalities), {'components': way}
    )
    for cases in found.values()
  )


def _work(flags: argparse.Namespace) -> None:
  run = runs.read(flags.run)
  data = run.data()
  output = flags.output.absolute()
  settings = _settings(flags, run, data)
  claim(output, settings)
  files = convert.find(run, data, output / 'scans')
  pseudo = RECIPES[flags.recipe][1]
  convert.write(run, data, files, [*_PARTS, *['unlabeled'] * pseudo])
  trained, validation, results = _row(
    Peer(files, output, flags.python, settings),
    networks(flags.recipe, list(files.modalities)),
    data,
    run.config.evaluation.components,
  )
  results['run'] |= {
    'method': 'nnU-Net',
    'recipe': flags.recipe,
    'devices': '1 x cpu, one thread',
    'command': sys.argv,
    **settings,
    'validation': validation['mean']['native_grid'],
    'networks': trained,
  }
  place = output / flags.recipe
  place.mkdir(exist_ok=True)
  scoring.write_results(results, place)
  print(scoring.table(results))
  minutes, of_cpu = (
    sum(facts[key] for facts in trained.values()) / 60
    for key in ('train_seconds', 'cpu_seconds')
  )
  dice = scoring.number(results['run']['validation']['dice'])
  print(
    f'validation DSC {dice}; trained for {minutes:.1f} min ({of_cpu:.1f} of'
    f' CPU); {place}'
  )


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit code."""
  return command.run(_parser, _work, argv)


if __name__ == '__main__':
  command.leave(main())
