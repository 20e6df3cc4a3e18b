"The noise in NumPy and in PyTorch is the same noise; the head weighs answers that no regression was fitted to; the patch stream compares places."
import copy,itertools,subprocess,sys

import numpy as np
import onnxruntime
import pytest
import torch
from scipy.signal import convolve2d
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from deepfake_nb.backbones import create_model
from deepfake_nb.cnns import prob_fake,unit_range
from deepfake_nb.metrics import auc
from deepfake_nb.onnx_export import write_onnx
from deepfake_nb.portraits import draw_portrait
from deepfake_nb.residuals import N_NOISE,SQUARE,residual_features
from deepfake_nb.twostream import FusedHead,ResidualStream,out_of_fold

def area(y, logits): return auc(y, 1/(1+np.exp(-np.asarray(logits, float))))

def pictures(size, n=6, seed=0):
    "Noise, dark noise, slopes, a flat one, a drawing, and pixels that are black or white"
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (n,size,size,3), np.uint8)
    noise[1] //= 16
    noise[2] = (np.arange(size)[:,None,None]//3+noise[2]//64).astype(np.uint8)
    noise[3] = 7
    noise[4] = np.array(draw_portrait(seed, size)) if size>=8 else 9
    noise[5] = 255*(noise[5]>127)
    return noise

# --- the residuals in NumPy

def slowly(pixels):
    "The same features, by convolution and by comparing triples one by one"
    y = pixels.astype(int)@np.array([299,587,114])
    line = np.array([[1,-2,1]])
    residuals = [(convolve2d(y, k, 'valid'),q) for k,q in ((line,2),(line.T,2),(line.T@line,4),(np.array(SQUARE),12))]
    names = sorted({min(t, t[::-1], tuple(4-o for o in t), tuple(4-o for o in t[::-1])) for t in itertools.product(range(5), repeat=3)})
    def shares(*maps):
        found = dict.fromkeys(names, 0)
        for m in maps:
            for row in m.tolist():
                for t in zip(row, row[1:], row[2:]): found[min(t, t[::-1], tuple(4-o for o in t), tuple(4-o for o in t[::-1]))] += 1
        return np.array(list(found.values()))/sum(found.values())
    out = []
    for step in (1000,2000):
        a,d,s,w = (np.clip(np.rint(r/(q*step)), -2, 2).astype(int)+2 for r,q in residuals)
        out += [shares(a, d.T), shares(a.T, d), shares(s, s.T), shares(w, w.T)]
    return np.concatenate(out)

def test_the_features_are_what_the_text_says():
    for o in pictures(12): np.testing.assert_allclose(residual_features(o), slowly(o), atol=1e-12)

def test_residuals_need_no_torch():
    "`predict --why` starts without PyTorch"
    code = "import sys, deepfake_nb.residuals, deepfake_nb.linear; assert 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    assert subprocess.run([sys.executable, '-c', code], timeout=120).returncode == 0

# --- the residuals in PyTorch

@pytest.mark.parametrize('size', (7,8,33,64,224))
def test_torch_as_numpy(size):
    px = pictures(size)
    f = ResidualStream()(unit_range(torch.from_numpy(px)))
    assert f.dtype == torch.float32 and f.shape == (6,N_NOISE)
    np.testing.assert_allclose(f.numpy(), [residual_features(o) for o in px], atol=1e-6)

def test_one_picture_is_enough():
    "No picture depends on its batch, on the layout in memory, on half precision, or on being square"
    stream,x = ResidualStream(),unit_range(torch.from_numpy(pictures(40)))
    f = stream(x)
    assert torch.equal(torch.cat([stream(o[None]) for o in x]), f)
    assert torch.equal(stream(x.contiguous(memory_format=torch.channels_last)), f)
    with torch.autocast('cpu', torch.bfloat16): assert torch.equal(stream.features(x), f)
    px = pictures(40)[:,:,:21]
    np.testing.assert_allclose(stream(unit_range(torch.from_numpy(px))).numpy(), [residual_features(o) for o in px], atol=1e-6)

def test_memory_is_bounded():
    "No tensor is larger than the numbers of the pixels of its batch, in 64 bits"
    class Largest(TorchDispatchMode):
        seen = 0
        def __torch_dispatch__(self, f, types, args=(), kwargs=None):
            out = f(*args, **(kwargs or {}))
            for o in out if isinstance(out, (tuple,list)) else [out]:
                if isinstance(o, torch.Tensor): self.seen = max(self.seen, o.untyped_storage().nbytes())
            return out
    x = torch.rand(4, 3, 224, 224)
    with Largest() as largest: ResidualStream()(x)
    assert x[:,0].numel() < largest.seen <= 2*x.nbytes

# --- the head

def two_kinds(n, width=600, apart=1.5, seed=0):
    "A stream of 4 numbers that knows the class, and a wide one of pure chance"
    gen,y = torch.Generator().manual_seed(seed),np.repeat([0,1], n)
    x = torch.randn(2*n, 4+width, generator=gen)
    x[:,0] += apart*torch.from_numpy(y)
    return x,y

@pytest.fixture(scope='module')
def fitted():
    x,y = two_kinds(60)
    head = FusedHead([4,600])
    head.fit(x, y)
    return head.eval(),x,y

def test_chance_gets_no_weight(fitted):
    "On the pictures it was fitted to, the wide stream looks better than the good one; unseen, it does not"
    head,x,y = fitted
    with torch.no_grad(): good,chance = head.logits(x).numpy().T
    assert area(y, chance) > .95 > area(y, good)
    w = head.fuse.weight[0].detach().numpy()*[good.std(),chance.std()]
    assert w[0] > 0 and abs(w[1]) < .5*w[0]
    new,label = two_kinds(500, seed=1)
    with torch.no_grad(): fused,one = head(new)[:,0],head.logits(new)[:,0]
    assert area(label, fused) > area(label, one)-.03 and area(label, fused) > .75

def test_streams_are_regressions(fitted):
    head,x,y = fitted
    with torch.no_grad():
        z = head.norms[0](x[:,:4])
        assert z.mean(0).abs().max() < 1e-4 and (z.std(0, correction=0)-1).abs().max() < 1e-3
        ours = head.logits(x)[:,0].numpy()
    losses = [np.abs(LogisticRegression(C=c, max_iter=2000).fit(z.numpy(), y).decision_function(z.numpy())-ours).max() for c in (1e-3,1e-2,.1,1.,10.)]
    assert min(losses) < 1e-3

def test_out_of_fold_never_saw_the_row():
    "Turning one label around changes logits of other rows, and turning all of a copy's labels shows leaks"
    rng,y = np.random.default_rng(0),np.repeat([0,1], 40)
    z = rng.normal(size=(80,300))
    regression = LogisticRegression(C=1.).fit(z, y)
    assert area(y, regression.decision_function(z)) == 1 and .2 < area(y, out_of_fold(regression, z, y)) < .8
    np.testing.assert_array_equal(out_of_fold(regression, z, y), out_of_fold(regression, z, y))

def test_last_layer_is_the_one_that_calibration_divides(fitted):
    head = copy.deepcopy(fitted[0])
    last = [m for m in head.modules() if isinstance(m, nn.Linear)][-1]
    before = head(fitted[1])
    with torch.no_grad():
        last.weight /= 2
        last.bias /= 2
    torch.testing.assert_close(head(fitted[1]), before/2)

def test_same_pictures_same_head(fitted):
    head,x,y = fitted
    again = FusedHead([4,600])
    again.fit(x, y)
    assert all(torch.equal(v, again.state_dict()[k]) for k,v in head.state_dict().items())
    assert all(v.isfinite().all() for v in head.state_dict().values())
    assert head.state_dict().keys() == FusedHead([4,600]).state_dict().keys()

@pytest.mark.parametrize('n', (1,2,4,5))
def test_few_pictures(n):
    x,y = two_kinds(n, 20, 5.)
    head = FusedHead([4,20])
    head.fit(x, y)
    with torch.no_grad(): p = head.eval()(x)[:,0]
    assert p.isfinite().all() and p[y==1].mean() > p[y==0].mean()

# --- the model

@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    m = create_model('twostream:resnet18', 32).eval()
    px = pictures(32, 40)
    px[20:] //= 2           # halves the noise
    m.head.fit(m.features(unit_range(torch.from_numpy(px))), np.repeat([0,1], 20))
    return m

def test_the_streams_are_what_they_say(model):
    x = unit_range(torch.from_numpy(pictures(32)))
    with torch.no_grad(): f = model.features(x)
    plain = create_model('resnet18', 32, built=model.built).eval()
    plain.backbone.load_state_dict(model.backbone.nets[0].backbone.state_dict())
    assert f.shape[1] == sum(model.head.widths) and model.head.widths[1] == N_NOISE
    with torch.no_grad(): torch.testing.assert_close(f[:,:-N_NOISE], plain.features(x))
    torch.testing.assert_close(f[:,-N_NOISE:], ResidualStream()(x))

def test_built_again_from_its_tensors(model):
    again = create_model('twostream:resnet18', 32, built=model.built, state=model.state_dict()).eval()
    x = torch.rand(3, 3, 32, 32)
    with torch.no_grad(): assert torch.equal(again(x), model(x))
    state = dict(model.state_dict())
    state['head.linears.1.weight'] = torch.zeros(1, 5)
    with pytest.raises(ValueError, match='head.linears.1.weight'): create_model('twostream:resnet18', 32, built=model.built, state=state)

def test_exported(model, tmp_path):
    "One picture or several, the file says what the model says"
    write_onnx(model, dict(model='twostream:resnet18', size=32), tmp_path/'m.onnx')
    session,px = onnxruntime.InferenceSession(str(tmp_path/'m.onnx')),pictures(32, 6, 1)
    with torch.no_grad(): p = prob_fake(model(unit_range(torch.from_numpy(px)))).numpy()
    assert p.std() > .01
    for o in (px,px[:1],px[:3]): np.testing.assert_allclose(session.run(None, {'pixels':o})[0], p[:len(o)], atol=1e-4)
