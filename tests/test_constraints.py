"constraints.txt pins every requirement once, to a version that it may have; CI uses it, and names tests that are there."
import importlib.util,re
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import InvalidRequirement,Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location('constraints', ROOT/'tools'/'constraints.py')
_spec.loader.exec_module(tool := importlib.util.module_from_spec(_spec))
DIRECT = [o for o in tool.direct(tool.settings()) if not o.marker or o.marker.evaluate()]     # the others cannot be installed here

def pins(text):
    "{name: version} of the lines of a file of constraints; a line that is no pin is a `ValueError`"
    found = {}
    for line in text.splitlines():
        if not line or line[0]=='#': continue
        try: req = Requirement(line)
        except InvalidRequirement as e: raise ValueError(f'{line!r} cannot be read') from e
        name,spec = canonicalize_name(req.name),list(req.specifier)
        if len(spec)!=1 or spec[0].operator!='==' or '*' in spec[0].version: raise ValueError(f'{line!r} is not one version')
        if req.name!=name or req.extras or req.url: raise ValueError(f'{line!r} is more than a name')
        if '+' in spec[0].version: raise ValueError(f'{line!r} is a local version')
        if name in found: raise ValueError(f'{name} is there twice')
        found[name] = Version(spec[0].version)
    return found

def faults(text, requirements):
    "What is wrong with a file of constraints for `requirements`"
    try: found = pins(text)
    except ValueError as e: return [str(e)]
    names = {canonicalize_name(o.name) for o in requirements}
    res = [f'{o} is not named' for o in sorted(names-set(found))]
    res += [f'{o} is not what settings.ini allows' for o in requirements
        if (v := found.get(canonicalize_name(o.name))) and not o.specifier.contains(v, prereleases=True)]
    if list(found)!=sorted(found): res.append('it is not sorted')
    return res+[f'{o} is for a GPU' for o in found if tool.GPU.match(o)]

def test_every_requirement_is_pinned():
    assert {o.name for o in DIRECT} >= {'torch','gradio','onnx','av','c2pa-python','pytest'}, 'all lists of settings.ini'
    text = (ROOT/'constraints.txt').read_text(encoding='utf-8')
    assert not faults(text, DIRECT), 'run python tools/constraints.py where the tests pass'
    assert len(pins(text)) > 2*len(DIRECT) and 'deepfake-nb' not in pins(text)

def test_what_this_environment_gives_is_such_a_file():
    here = [o for o in DIRECT if not o.marker or o.marker.evaluate()]
    try: text = tool.constraints()
    except metadata.PackageNotFoundError as e: pytest.skip(f"{e.name} is missing: pip install -e '.[dev]'")
    assert not faults(text, here)
    assert pins(text)['torch'].public == Version(metadata.version('torch')).public

A = [Requirement('a>=1'),Requirement('b-c>=2; python_version >= "3.9"')]

@pytest.mark.parametrize('text,n', [('a==1.0\nb-c==2.1\n', 0), ('# said\na==1\nb-c==3; python_version >= "3.11"\n', 0), ('', 2), ('a==1\n', 1), ('a==.5\nb-c==2\n', 1),
    ('a==0.5\nb-c==1\n', 2), ('a>=1\nb-c==2\n', 1), ('a==1.*\nb-c==2\n', 1), ('a\nb-c==2\n', 1), ('a==1,!=2\nb-c==2\n', 1), ('a==1+cpu\nb-c==2\n', 1), ('a==1\na==2\nb-c==2\n', 1),
    ('b-c==2\na==1\n', 1), ('a==1\nb_c==2\n', 1), ('a[x]==1\nb-c==2\n', 1), ('a @ file:///a.whl\nb-c==2\n', 1), ('-e .\na==1\nb-c==2\n', 1), ('a==1\nb-c==2\nnvidia-cublas==13\n', 1)])
def test_the_check_itself(text, n): assert len(faults(text, A)) == n, faults(text, A)

def test_the_walk(monkeypatch):
    "Extras and what they bring are followed, markers that do not hold and a GPU's libraries are not"
    there = {'a':['b[x]','gone; python_version < "3"','nvidia-cublas'], 'b':['c; extra == "x"','gone; extra == "y"','a'], 'c':[]}
    python = dict(a='>=3.8', b='>=3.12.1', c=None)
    def distribution(name): return SimpleNamespace(requires=there[name], version='1.0+cpu', metadata={'Requires-Python':python[name]})
    monkeypatch.setattr(tool.metadata, 'distribution', distribution)
    found = tool.needed([Requirement('A')])
    assert set(found) == set('abc')
    assert [tool.pin(k, found[k], '3.10') for k in 'abc'] == ['a==1.0','b==1.0; python_version >= "3.12"','c==1.0']
    assert tool.pin('c2pa-python', found['b'], '3.10').endswith('; python_version >= "3.12" and sys_platform != "win32"')
    there['a'].append('gone')
    with pytest.raises(KeyError): tool.needed([Requirement('a')])

# CI

def unknown(text):
    "Tests in a workflow that are not in this folder: files, and functions of them"
    for file,_,name in {o.partition('::') for o in re.findall(r'tests/[^\s\[]+', text)}:
        there = (ROOT/file).read_text(encoding='utf-8') if (ROOT/file).is_file() else ''
        if not re.search(rf'^def {name or "test_"}', there, re.M): yield f'{file}::{name}'

def test_workflows():
    flows = {o.stem:o.read_text(encoding='utf-8') for o in (ROOT/'.github'/'workflows').glob('*.yml')}
    assert flows['test'].count('tests/') > 30 and not list(unknown(flows['test']))
    assert '-c constraints.txt' in flows['test'] and '-c constraints.txt' in flows['docs'] and 'newest: true' in flows['newest']

@pytest.mark.parametrize('text,n', [('tests/test_constraints.py', 0), ('tests/test_constraints.py::test_workflows', 0), ('tests/test_constraints.py::test_nothing', 1), ('tests/test_nothing.py tests/test_metrics.py', 1)])
def test_the_check_of_workflows_itself(text, n): assert len(list(unknown(text))) == n
