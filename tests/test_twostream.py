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
from deepfake_nb.core import InputError
from deepfake_nb.metrics import auc
from deepfake_nb.onnx_export import write_onnx
from deepfake_nb.patches import PATCH,draw_patches,fit_patches,noise_maps,patch_map,splice_score,triplet_loss
from deepfake_nb.portraits import draw_portrait
from deepfake_nb.residuals import N_NOISE,SQUARE,residual_features
from deepfake_nb.twostream import FusedHead,ResidualStream,out_of_fold

def area(y, logits): return auc(y, 1/(1+np.exp(-np.asarray(logits, float))))

def pictures(size, n=6, seed=0):
    "Noise, dark grey noise (whose residuals lie halfway between steps), slopes, a flat one, a drawing, black or white"
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (n,size,size,3), np.uint8)
    noise[1] = noise[1,...,:1]//16
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

# --- the patch stream

def photograph(rng, size=128, noise=None):
    "A smooth picture with noise of its own strength; `noise` for another one"
    y,x = np.mgrid[:size,:size]/size
    smooth = 128+50*np.sin(2*np.pi*(rng.uniform(.5, 2)*x+rng.uniform(.5, 2)*y+rng.uniform()))
    return (smooth[...,None]+rng.normal(0, noise or rng.uniform(1, 12), (size,size,3))).clip(0, 255).astype(np.uint8)

def album(n, seed=0, **kw):
    rng = np.random.default_rng(seed)
    return np.stack([photograph(rng, **kw) for _ in range(n)])

@pytest.fixture(scope='module')
def net(): return fit_patches(album(24), steps=60)

def test_patches_of_one_photograph_lie_together(net):
    px,rng = album(40, 1),np.random.default_rng(0)
    with torch.no_grad():
        a,b = (net(unit_range(torch.from_numpy(draw_patches(px, np.arange(40), rng)))).flatten(1) for _ in range(2))
        loss = triplet_loss(a, b)
    same,other = (a-b).norm(dim=1),(a-b.roll(1, 0)).norm(dim=1)
    assert float((same[:,None]<other).float().mean()) > .75 and loss < np.log(40)-.3

def test_a_patch_is_the_same_alone_and_in_its_picture(net):
    x = unit_range(torch.from_numpy(album(2, 2)))
    with torch.no_grad():
        for stride in (16,8):
            whole = net(x, stride)
            assert whole.shape == (2,16,*((128-PATCH)//stride+1,)*2)
            for i,j in ((0,0),(2,5),(6,6)):
                y,z = i*stride,j*stride
                torch.testing.assert_close(net(x[:,:,y:y+PATCH,z:z+PATCH])[:,:,0,0], whole[:,:,i,j], atol=1e-5, rtol=0)

def test_all_filters_see_the_same_place():
    x = torch.zeros(1, 3, 21, 21)
    x[:,:,9,12] = 3/255
    m = noise_maps(x)
    assert m.shape == (1,12,17,17) and (m[0,:,7,10].abs()==1).all() and m.abs().max() == 1
    assert all(torch.allclose(o, o.flip(0)) and torch.allclose(o, o.flip(1)) for o in m[0,:,3:12,6:15])

def test_only_noise_is_seen(net):
    "Neither brightness nor a slope of it changes the embedding"
    px = album(1, 3, noise=4.)//2
    ramp = np.arange(128, dtype=np.uint8)[None,:,None]//2*2
    with torch.no_grad(): a,b,c = (net(unit_range(torch.from_numpy(o))) for o in (px,px+40,px//8*0+ramp))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
    assert (a-c).abs().max() > .05

def test_other_noise_in_the_middle_is_found(net):
    "Without a seam to see: the same smooth picture, with other noise in the middle; and where"
    rng = np.random.default_rng(4)
    mask = np.zeros((128,128,1)); mask[32:96,32:96] = 1
    clean = np.stack([photograph(np.random.default_rng(i), noise=3.) for i in range(30)])
    other = np.stack([photograph(np.random.default_rng(i), noise=9.) for i in range(30)])
    mixed = np.where(mask==1, other, clean)
    assert area(np.repeat([0,1], 30), np.concatenate([splice_score(net, clean),splice_score(net, mixed)])/10) > .9
    m = patch_map(net, mixed[0])
    assert m.shape == (7,7) and m[2:5,2:5].mean() > 2*m[[0,-1]].mean()
    for i in (0,17,29): np.testing.assert_allclose(splice_score(net, mixed[i:i+1]), splice_score(net, mixed)[i:i+1], atol=1e-3)
    assert len(splice_score(net, mixed[:0])) == 0

def test_same_seed_same_patches(net):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again,other = fit_patches(album(24), steps=60),fit_patches(album(24), steps=60, seed=1)
    assert torch.equal(torch.get_rng_state(), before), 'training disturbs the random numbers of the caller'
    assert all(torch.equal(v, again.state_dict()[k]) for k,v in net.state_dict().items())
    assert not torch.equal(net.out.weight, other.out.weight) and not net.training

@pytest.mark.parametrize('bad,said', [
    (np.zeros((4,64,64,3), np.uint8), '96 pixels or more'), (np.zeros((4,128,96,3), np.uint8), 'uint8 pixels'),
    (np.zeros((4,128,128,3), np.float32), 'float32'), (np.zeros((128,128,3), np.uint8), 'uint8 pixels'), (np.zeros((1,128,128,3), np.uint8), '2 photographs')])
def test_pictures_that_cannot_be_used(net, bad, said):
    with pytest.raises(InputError, match=said) as e: fit_patches(bad, steps=1)
    assert '\n' not in str(e.value)
    if '2 photographs' not in said:
        with pytest.raises(InputError): splice_score(net, bad)

def test_a_flat_picture_has_a_finite_score(net):
    px = np.stack([np.full((128,128,3), o, np.uint8) for o in (0,7,255)])
    assert np.isfinite(splice_score(net, px)).all() and np.abs(splice_score(net, px)).max() < 1e-3
