"Every notebook runs, and keeps the outputs that a reader should see."
import ast,json,os,re,subprocess,sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NBS = sorted(o for o in (ROOT/'nbs').rglob('*.ipynb') if not any(p[0] in '._' for p in o.relative_to(ROOT/'nbs').parts))
each_notebook = pytest.mark.parametrize('path', NBS, ids=lambda p: str(p.relative_to(ROOT/'nbs').with_suffix('')))

SILENT = re.compile(r'test_|.*\.cleanup$')   # calls that a cell may end with and show nothing
EXCUSE = re.compile(r'GPU|CUDA|\bslow|minute|hour|not run', re.I)
MACHINE = re.compile(r'(?<![\w.:/-])/(work|tmp|root|home|Users)/')
RUN = 'import sys; from nbdev.test import nbdev_test; nbdev_test(sys.argv[1])'   # skips the `tst_flags` of pyproject.toml

@pytest.fixture(scope='session')
def quiet_env(tmp_path_factory):
    "No window, no download, no bars, and no cache but a new one"
    return os.environ | dict(MPLBACKEND='Agg', HF_HUB_OFFLINE='1', TQDM_DISABLE='1', XDG_CACHE_HOME=str(tmp_path_factory.mktemp('cache')))

@each_notebook
def test_runs(path, quiet_env):
    r = subprocess.run([sys.executable, '-c', RUN, path], cwd=ROOT, env=quiet_env, capture_output=True, text=True)
    assert r.returncode == 0 and 'Success.' in r.stdout, f'{path.name} failed\n{r.stdout}\n{r.stderr}'

def source(cell): return ''.join(cell['source'])

def directives(cell):
    "Names of the cell's `#|` lines, each with its value"
    return dict(re.findall(r'^#\s*\|\s*([\w-]+):?[ \t]*(.*)$', source(cell), re.M))

def speaks(cell):
    "Whether running the cell shows something: its last statement is an expression, and no call known to be silent"
    code = re.sub(r'^[%!].*$', '', source(cell), flags=re.M)
    body = ast.parse(code).body
    if not body or not isinstance(body[-1], ast.Expr): return False
    value = body[-1].value
    return not (isinstance(value, ast.Call) and SILENT.match(ast.unparse(value.func)))

def complaints(nb):
    "What is wrong with the outputs of a notebook, a line each"
    cells = nb['cells']
    for i,c in enumerate(cells):
        if c['cell_type'] != 'code': continue
        flags,where = directives(c),f'cell {i} ({source(c)[:50]!r})'
        beside = ' '.join(source(o) for o in cells[max(i-1, 0):i+2] if o['cell_type'] == 'markdown')
        if not c['outputs'] and 'hide' not in flags and flags.get('eval') != 'false' and speaks(c):
            if not {'slow','cuda'} & set(flags): yield f'{where} has no output: run the notebook and save it'
            elif not EXCUSE.search(beside): yield f'{where} has no output, and the text beside it does not say why'
        for o in c['outputs']:
            text = re.sub(r'base64,[\w+/=]+', '', json.dumps({k:v for k,v in o.get('data', {}).items() if k != 'image/png'} | {'': o.get('text', '')}))
            if o['output_type'] == 'error': yield f'{where} shows an error'
            if MACHINE.search(text): yield f'{where} shows a path of one machine'
            if o.get('name') == 'stderr' and 'Warning' in text: yield f'{where} shows a warning'

@each_notebook
def test_keeps_its_outputs(path):
    assert not (bad := list(complaints(json.loads(path.read_text(encoding='utf-8'))))), '\n'.join([path.name, *bad])

def code(src, *outputs): return dict(cell_type='code', source=src.splitlines(True), outputs=list(outputs))
def stream(text, name='stdout'): return dict(output_type='stream', name=name, text=[text])
def note(src): return dict(cell_type='markdown', source=[src])

@pytest.mark.parametrize('n,cells', [
    (0, [code('x = 1'), code('x', stream('1')), code('test_eq(x, 1)'), code('#| hide\nx'), code('#| eval: false\nx'), code('def f(): pass'), code('')]),
    (1, [code('x')]), (1, [code("print('hello')")]), (1, [code('ax.plot(x);')]), (1, [code('%matplotlib inline\nx')]),
    (1, [code('#| slow\nfit()'), note('Then it is done.')]), (0, [note('Needs a GPU.'), code('#| cuda\nfit()')]),
    (1, [code('x', dict(output_type='error', ename='E'))]), (1, [code('x', stream('UserWarning: no', 'stderr'))]), (0, [code('x', stream('7 of 9', 'stderr'))]),
    (1, [code('x', stream('/' + 'home/me/x.png'))]), (1, [code('x', dict(output_type='execute_result', data={'text/plain': ["Path('/" + "tmp/a')"]}))]),
    (0, [code('x', stream('https://example.com/' + 'home/x'))])])
def test_the_check_of_outputs_itself(n, cells): assert len(list(complaints(dict(cells=cells)))) == n
