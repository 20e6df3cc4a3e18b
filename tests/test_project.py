"The project is whole: exported, cleaned, packaged, and free of what does not belong."
import ast,email,json,os,re,shutil,subprocess,sys,sysconfig
from configparser import ConfigParser
from importlib.util import module_from_spec,spec_from_file_location
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3,11): import tomllib
else: import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = 'deepfake_nb'
NBS = sorted(o for o in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in o.parts)
MODULES = sorted((ROOT/PACKAGE).glob('**/*.py'))

def run(*args, cwd=ROOT, **env):
    "Run a command of this environment; its output is the message if it fails"
    exe = Path(sysconfig.get_path('scripts'))/args[0]
    r = subprocess.run([exe if exe.exists() else args[0], *args[1:]], cwd=cwd, env=os.environ|env, capture_output=True, text=True)
    assert r.returncode == 0, f"{' '.join(args)}\n{r.stdout}\n{r.stderr}"
    return r.stdout

def project_files():
    "Files that are committed, or would be"
    names = run('git', '-c', 'safe.directory=*', 'ls-files', '-z', '--cached', '--others', '--exclude-standard').split('\0')
    return [ROOT/o for o in sorted(set(names)) if o and os.path.lexists(ROOT/o)]

@pytest.fixture
def copy(tmp_path):
    "The project as a clone would have it, in a folder of its own"
    for o in project_files():
        dst = tmp_path/'project'/o.relative_to(ROOT)
        dst.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(o, dst, follow_symlinks=False)
    return tmp_path/'project'

def code_cells(nb): return [''.join(o['source']) for o in json.loads(nb.read_text(encoding='utf-8'))['cells'] if o['cell_type'] == 'code']

def exports(nb):
    "Module that the notebook makes, if any"
    found = re.findall(r'^#\s*\|\s*default_exp[ \t]+(\S+)', '\n'.join(code_cells(nb)), re.M)
    return found[0] if found else None

def imported(src):
    "Modules of the package that the source imports, by their short names"
    for o in ast.walk(ast.parse(re.sub(r'^\s*[%!].*$', '', src, flags=re.M))):
        if isinstance(o, ast.Import): names = [a.name for a in o.names]
        elif isinstance(o, ast.ImportFrom): names = [f'{o.module}.{a.name}' for a in o.names]
        else: continue
        yield from (n.split('.')[1] for n in names if re.match(rf'{PACKAGE}\.[^_]', n))

def test_export_and_clean_change_nothing(copy):
    run('git', 'init', '-q', cwd=copy)
    run('git', 'add', '-A', cwd=copy)
    run('nbdev-export', cwd=copy)
    run('nbdev-clean', cwd=copy)
    changed = run('git', 'diff', '--stat', cwd=copy) + run('git', 'ls-files', '--others', '--exclude-standard', cwd=copy)
    assert not changed, f'run nbdev-export and nbdev-clean:\n{changed}'

def test_every_module_comes_from_a_notebook():
    made = [exports(o) for o in NBS if exports(o)]
    assert len(made) == len(set(made)), 'two notebooks export to one module'
    assert {o.stem for o in MODULES} == {*made, '__init__', '__main__', '_modidx'}

def test_readme_is_the_index():
    index,md = ROOT/'nbs'/'index.ipynb',ROOT/'README.md'
    assert index.exists() == md.exists(), 'run python tools/readme.py'
    if not index.exists(): pytest.skip('neither nbs/index.ipynb nor README.md is written yet')
    spec = spec_from_file_location('readme', ROOT/'tools'/'readme.py')
    spec.loader.exec_module(tools := module_from_spec(spec))
    assert md.read_text(encoding='utf-8') == tools.readme(index), 'run python tools/readme.py'

EXTRAS = {'app','boosting','dev','onnx','provenance','scale','video'}

def requirements(name):
    "One of the lists in settings.ini"
    config = ConfigParser(delimiters=['='])
    config.read(ROOT/'settings.ini', encoding='utf-8')
    return {str(Requirement(o)) for o in config['DEFAULT'][name].splitlines()}

def test_wheel_is_whole(copy):
    run('python', '-m', 'build', '--wheel', '--no-isolation', cwd=copy)
    wheel = ZipFile(next((copy/'dist').glob('*.whl')))
    files = {o for o in wheel.namelist() if '.dist-info/' not in o}
    package = {*(f'{PACKAGE}/{o}.py' for o in ('__init__','__main__','_modidx')), *(f'{PACKAGE}/{exports(o)}.py' for o in NBS if exports(o))}
    assert files == package | {str(o.relative_to(ROOT)) for pattern in ('*.safetensors','ready.*','where.onnx','where.json','where.md','templates/*') for o in (ROOT/PACKAGE).glob(pattern)}
    meta = email.message_from_bytes(wheel.read(next(o for o in wheel.namelist() if o.endswith('.dist-info/METADATA'))))
    needs = [Requirement(o) for o in meta.get_all('Requires-Dist')]
    assert {str(o) for o in needs if 'extra' not in str(o.marker)} == requirements('requirements')
    assert set(meta.get_all('Provides-Extra')) == EXTRAS
    for extra in EXTRAS:
        tail = re.compile(rf' *(and|;) *extra == "{extra}"$')
        assert {re.sub(r'; \((.*)\)$', r'; \1', tail.sub('', str(o))) for o in needs if tail.search(str(o))} == requirements(f'{extra}_requirements')

def test_dependencies_stand_in_one_place():
    project = tomllib.loads((ROOT/'pyproject.toml').read_text(encoding='utf-8'))['project']
    assert {'version','dependencies','optional-dependencies'} <= set(project['dynamic'])
    assert not {'version','dependencies','optional-dependencies'} & set(project)
    assert requirements('requirements') and requirements('dev_requirements')

def test_quarto_config_is_one_file():
    assert os.readlink(ROOT/'nbs'/'_quarto.yml') == '../_quarto.yml' and not (ROOT/'_quarto.yml').is_symlink()
    assert 'metadata-files: [nbdev.yml, sidebar.yml]' in (ROOT/'_quarto.yml').read_text(encoding='utf-8')
    assert not any('custom_quarto_yml' in (ROOT/o).read_text(encoding='utf-8') for o in ('pyproject.toml','settings.ini'))

BOOK = [exports(o) for o in NBS if exports(o)]      # modules in the order of their notebooks

def upwards(module, src, book=BOOK):
    "Modules that `module` imports though they come later; how portraits are drawn, the GANs, and the benchmark stand in the appendix"
    later,appendix = set(book[book.index(module):]),dict(sample={'portraits','gan'}, app={'portraits'}, cli={'benchmark','timing'})
    return sorted(set(imported(src)) & later - appendix.get(module, set()))

def absolute(src): return re.sub(r'^( *)from \.(\w+) import', rf'\1from {PACKAGE}.\2 import', src, flags=re.M)

@pytest.mark.parametrize('name', BOOK)
def test_imports_go_downwards(name):
    src = absolute((ROOT/PACKAGE/f'{name}.py').read_text(encoding='utf-8'))
    assert not upwards(name, src)

@pytest.mark.parametrize('module,src,late', [('images', 'from .core import a', []), ('core', 'from .images import a', ['images']),
    ('core', 'def f():\n    from deepfake_nb.cli import main', ['cli']), ('sample', 'from .gan import GAN', []), ('images', 'from .gan import GAN', ['gan'])])
def test_the_check_for_imports_itself(module, src, late): assert upwards(module, absolute(src)) == late

@pytest.mark.parametrize('name', BOOK)
def test_a_module_can_be_read(name):
    "No module over 350 lines, no line over 110 characters (the command line's lists of options apart)"
    lines = (ROOT/PACKAGE/f'{name}.py').read_text(encoding='utf-8').splitlines()
    code = lines[next(i for i,o in enumerate(lines) if o.startswith('# %% ../nbs')):]       # after the notebook's opening and __all__
    long = [o for o in code if len(o)>110 and not o.startswith('# %%')]
    assert len(lines) <= 350
    assert name=='cli' or not long, '\n'.join(long)

def test_a_notebook_can_be_read():
    "No line of code over 110 characters in any notebook, shown or hidden (the command line's lists of options apart)"
    long = [f'{o.name}: {l}' for o in NBS if 'cli' not in o.stem for c in code_cells(o) for l in c.splitlines() if len(l)>110]
    assert not long, '\n'.join(long)

PICKLES = {'pickle','cPickle','_pickle','dill','cloudpickle','joblib','shelve','marshal'}
LOADERS = re.compile(r'(torch\.load|(.*\.)?(load_learner|read_pickle|load_pickle))$')

def unpickles(src):
    "Lines of `src` that load, or could load, a pickle"
    for o in ast.walk(ast.parse(src)):
        if isinstance(o, ast.Import) and PICKLES & {a.name.split('.')[0] for a in o.names}: yield ast.unparse(o)
        if isinstance(o, ast.ImportFrom) and ((o.module or '').split('.')[0] in PICKLES or any(LOADERS.match(f'{o.module}.{a.name}') for a in o.names)): yield ast.unparse(o)
        if isinstance(o, ast.Call) and (LOADERS.match(ast.unparse(o.func)) or any(k.arg == 'allow_pickle' and ast.unparse(k.value) != 'False' for k in o.keywords)): yield ast.unparse(o)

ONE_PTH = "torch.load(BytesIO(content), map_location='cpu', weights_only=True)"   # googlenet: one file of a known SHA-256, tensors alone

@pytest.mark.parametrize('path', MODULES, ids=lambda p: p.stem)
def test_nothing_is_unpickled(path): assert list(unpickles(path.read_text(encoding='utf-8'))) == [ONE_PTH]*(path.stem=='googlenet')

@pytest.mark.parametrize('src,n', [('import pickle', 1), ('from joblib import load', 1), ('torch.load(f, weights_only=True)', 1), ('from torch import load', 1),
    ('np.load(f, allow_pickle=True)', 1), ('learn = vision.load_learner(f)', 1), ('pd.read_pickle(f)', 1),
    ('np.load(f, allow_pickle=False)', 0), ('np.load(f)', 0), ('json.load(f)', 0), ('load_file(f)', 0), ('"pickle"', 0)])
def test_the_check_for_pickles_itself(src, n): assert len(list(unpickles(src))) == n

def test_no_file_is_large_or_knows_one_machine():
    machine = re.compile(rb'/(work|tmp/env)/')
    files = [o for o in project_files() if o.is_file()]
    assert not [o for o in files if o.stat().st_size > (12 if o.name=='ready.onnx' else 4)*2**20]
    assert not [o for o in files if machine.search(o.read_bytes())]
