"The ready detector: it answers out of the box, without PyTorch, and its file keeps what its card says."
import importlib.util,json,re,subprocess,sys
from pathlib import Path

import numpy as np
import pytest

from deepfake_nb.delivery import STATES,by_state,changed_scores
from deepfake_nb.detector import Detector
from deepfake_nb.linear import read_linear
from deepfake_nb.scorers import READY,READY_WORDS
from deepfake_nb.metrics import auc

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent/'shared'
CARD = READY.with_suffix('.md')

def test_predict_without_a_model(cli, faces):
    paths = sorted((faces/'real').iterdir())[:2]
    code,out,err = cli('predict', *paths, '--json')
    assert code == 0 and READY_WORDS in err and 'non-commercial' in err
    assert [sorted(a) for a in json.loads(out)] == [['path','prob_fake','verdict']]*2
    assert cli('predict', faces/'nobody.jpg')[0] == 2
    code,_,err = cli('predict', paths[0], '--precision', 'bf16')
    assert code == 2 and '--precision' in err

def test_it_needs_little(faces):
    src = ("import sys; from deepfake_nb.detector import Detector; a, = Detector.default().predict(sys.argv[1]); "
        "print(a.verdict, sorted({'torch','fastai','pandas','scipy','sklearn','matplotlib','onnx'} & set(sys.modules)))")
    r = subprocess.run([sys.executable, '-c', src, sorted((faces/'real').iterdir())[0]], capture_output=True, text=True)
    assert r.stdout.strip().endswith('[]'), r.stderr

def test_file_and_card():
    assert READY.stat().st_size <= 12*2**20
    text = CARD.read_text(encoding='utf-8')
    assert all(o in text for o in ('What it cannot do', 'non-commercial', 'python tools/ready.py', 'never seen'))

def tool():
    spec = importlib.util.spec_from_file_location('ready', ROOT/'tools'/'ready.py')
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module

@pytest.mark.skipif(not (SHARED/'data'/'ffhq_stylegan').is_dir(), reason='the photographs are not here')
def test_the_file_keeps_what_the_card_says():
    held,det = tool().training_table(SHARED).query('split=="test"'),Detector.default()
    p = np.array([a.prob_fake for a in det.predict(list(held.path))])
    said = re.search(r'StyleGAN, other people \((\d+)\) \| ([\d.]+) \[', CARD.read_text(encoding='utf-8'))
    assert int(said[1]) == (held.label==1).sum()
    assert auc(held.label, p) == pytest.approx(float(said[2]), abs=.002)
    called = (p[held.label==0]>=det.config['threshold']).mean()     # no blind range holds any of these
    assert f'FFHQ ({(held.label==0).sum()}) | {called:.1%} [' in CARD.read_text(encoding='utf-8')

@pytest.mark.skipif(not (SHARED/'data'/'ffhq_stylegan').is_dir(), reason='the photographs are not here')
def test_a_state_of_delivery_is_as_the_card_says():
    t = tool()
    out,change = t.held_out(SHARED),{'screenshot':STATES['screenshot']}
    scores = changed_scores(Detector.default(), [o for k in t.REAL for o in out[k][:t.EACH]], change)
    r, = by_state(scores).itertuples()
    said = re.search(r'\| screenshot \| ([\d.]+)% \[.*?\| (\d+)%', CARD.read_text(encoding='utf-8'))
    assert 100*r.real_fake == pytest.approx(float(said[1]), abs=.2) and 100*r.real_uncertain == pytest.approx(float(said[2]), abs=1)
    assert r.real_fake <= .025

def test_the_two_small_models_are_there():
    linear = read_linear()
    assert linear['size'] == Detector.default().config['size'] and all(.5<linear[k]['auc']<.8 for k in ('spectrum','noise'))
