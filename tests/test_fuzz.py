"Spoilt inputs end in an answer, an InputError or an item's error; and a check of that kind can fail."
import importlib.util,sys,time
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location('fuzz', Path(__file__).resolve().parents[1]/'tools'/'fuzz.py')
fuzz = sys.modules['fuzz'] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fuzz)

@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "Everything that is to be spoilt, made once"
    pytest.importorskip('onnxruntime'); pytest.importorskip('av')
    fuzz.prepare(home := tmp_path_factory.mktemp('fuzz')/'home')
    return fuzz.Lab(home)

FEW = dict(json=6, runcsv=6, weights=8, checkpoint=3)

@pytest.mark.parametrize('kind', fuzz.KINDS)
def test_spoilt_inputs(lab, kind):
    for i in range(FEW.get(kind, 12)):
        start = time.perf_counter()
        outcome,how,tb = fuzz.attempt(lab, 1, kind, i)
        assert outcome in ('answer','refused'), f'{kind}:{i}, {how}: {outcome}\n{tb}'
        assert time.perf_counter()-start < fuzz.SECONDS, f'{kind}:{i}, {how}'

@pytest.mark.parametrize('kind', fuzz.KINDS)
def test_whole_inputs_are_answered(lab, kind, monkeypatch):
    "Whoever refuses everything refuses no damage"
    for name in sorted(set(fuzz.KINDS[kind][0]))[:4]:
        file = lab.home/name
        if not file.exists(): continue
        monkeypatch.setattr(fuzz, 'spoilt', lambda *a: (fuzz.inside(lab.home, kind, file),file.read_bytes(),'whole'))
        outcome,how,tb = fuzz.attempt(lab, 0, kind, 0)
        assert outcome=='answer', f'{how}: {outcome}\n{tb}'

def test_what_was_found_once(lab):
    "A path with a NUL byte, scores that are a number, a name that is too long, a count that is missing, a row of the history that is too long"
    whole = lambda o: (lab.home/o).read_bytes()
    nul,rows = whole('tables/a.csv').replace(b'.jpg', b'\0.jpg', 1),whole('run/cnn2/history.csv').splitlines()
    for f,name,data in ((fuzz.table,'a.csv',nul),(fuzz.run,'cnn2/metrics.json',b'{"valid": 1.5}'),
            (fuzz.table,'b.csv',b'path,label\n'+b'a'*70_000+b'.jpg,real\n'),(fuzz.run,'cnn2/metrics.json',whole('run/cnn2/metrics.json').replace(b'n_fake', b'n_')),
            (fuzz.run,'cnn2/history.csv',b'\n'.join([rows[0],*(o+b','+o for o in rows[1:])]))):
        lab.fresh()
        assert f(lab, name, data, 0) in ('answer','refused'), name

def test_the_same_seed_spoils_alike(lab):
    for kind in fuzz.KINDS:
        a,b,c = (fuzz.spoilt(lab.home, s, kind, 3) for s in (0,0,5))
        assert a==b and a!=c, kind

def planted(monkeypatch, f):
    monkeypatch.setitem(fuzz.KINDS, 'jpeg', (*fuzz.KINDS['jpeg'][:2],f,1))

def test_a_traceback_is_found(lab, monkeypatch):
    from deepfake_nb.core import InputError
    def wrong(*args): raise KeyError('planted')
    def right(*args): return fuzz.tried(lambda: wrong_input())
    def wrong_input(): raise InputError('planted')
    def two_lines(*args): return fuzz.tried(lambda: long_input())
    def long_input(): raise InputError('one\ntwo')
    for f,outcome in ((wrong,'traceback'),(right,'refused'),(two_lines,'traceback')):
        planted(monkeypatch, f)
        assert fuzz.attempt(lab, 0, 'jpeg', 0)[0]==outcome
    planted(monkeypatch, wrong)
    assert fuzz.report([('jpeg',0,*fuzz.attempt(lab, 0, 'jpeg', 0),.1)])==1

def test_other_numbers_are_found(lab, monkeypatch):
    "A weight that is changed without a word, as by a file whose checksum nobody wrote down"
    whole = lab.whole['run/cnn2']
    assert fuzz.same(lab, 'run/cnn2', lambda: lab.ask(lab.home/'run'/'cnn2'))=='answer'
    monkeypatch.setitem(lab.whole, 'run/cnn2', [(p+1e-6,*rest) for p,*rest in whole])
    assert fuzz.same(lab, 'run/cnn2', lambda: lab.ask(lab.home/'run'/'cnn2'))=='other numbers'

def hang(home, seed, conn): conn.send('ready'); conn.recv(); time.sleep(600)
def die(home, seed, conn): conn.send('ready'); conn.recv(); import os; os._exit(11)

@pytest.mark.parametrize('target,outcome', [(hang,'hang'),(die,'died')])
def test_a_hang_and_a_death_are_found(target, outcome, monkeypatch, tmp_path):
    monkeypatch.setattr(fuzz, 'SECONDS', 1)
    worker = fuzz.Worker(tmp_path, 0, target)
    assert worker.ask(('jpeg',0))[0]==outcome and worker.process is None
    assert worker.ask(('jpeg',1))[0]==outcome, 'a new one takes its place'
    worker.stop()
