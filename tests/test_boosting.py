"Boosted trees as tensors answer as the libraries do that grew them, and stay honest about what they have memorised."
import copy,sys

import numpy as np
import pytest
import torch
from sklearn.ensemble import AdaBoostClassifier
from sklearn.metrics import average_precision_score,log_loss
from sklearn.tree import DecisionTreeClassifier

from deepfake_nb.backbones import check_state,create_model
from deepfake_nb.boosting import BOOSTERS,Trees,adaboost_trees,complete_tree,fit_platt,imbalance,round_down,weighted_ap,xgboost_trees
from deepfake_nb.core import InputError

KINDS = 'adaboost','xgboost'

@pytest.fixture(autouse=True)
def needs(request):
    "XGBoost is an extra: what grows its trees is left out where it is not installed"
    if 'xgboost' in request.node.name: pytest.importorskip('xgboost')

def noisy(n=300, width=12, seed=0):
    "Features with many equal values, zeros among them, and labels that two of them decide but for noise"
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n,width)).astype(np.float32)
    x[:,::2] = np.maximum(x[:,::2], 0).round(1)
    return x,(x[:,0]+x[:,1]+rng.normal(size=n)>.3).astype(int)

def at_thresholds(x, t, seed=0):
    "Half of the values become one of `t`, or the float32 before or after one"
    rng = np.random.default_rng(seed)
    t = np.float32(t).ravel()
    near = np.concatenate([t, np.nextafter(t, np.float32(-1e9)), np.nextafter(t, np.float32(1e9))])
    return np.where(rng.random(x.shape)<.5, rng.choice(near, x.shape), x).astype(np.float32)

def score(arrays, x, width, n_trees, depth):
    head = Trees(width, n_trees, depth)
    head.put(arrays)
    return head.score(torch.from_numpy(x))[:,0].numpy()

@pytest.mark.parametrize('depth', (1,2,4))
def test_adaboost_is_the_librarys(depth):
    x,y = noisy()
    model = AdaBoostClassifier(DecisionTreeClassifier(max_depth=depth), n_estimators=40, random_state=0).fit(x, y)
    arrays = adaboost_trees(model, depth)
    library = np.concatenate([o.tree_.threshold[o.tree_.children_left>=0] for o in model.estimators_])
    new = at_thresholds(noisy(2000, seed=1)[0], library)
    want = model.decision_function(new)
    assert np.abs(score(arrays, new, 12, 50, depth)-want).max() < 1e-5 and want.std() > .01
    rounded = arrays[0],np.nextafter(arrays[1], np.float32(1e9)),arrays[2]      # one float32 too high
    assert np.abs(score(rounded, new, 12, 50, depth)-want).max() > 1e-3

@pytest.mark.parametrize('depth,more', [(1,{}), (3,{}), (5,dict(base_score=.2)), (3,dict(colsample_bytree=.5, max_bin=16, subsample=.8))])
def test_xgboost_is_the_librarys(depth, more):
    import xgboost
    x,y = noisy()
    model = xgboost.train(dict(objective='binary:logistic', max_depth=depth, nthread=1) | more, xgboost.DMatrix(x, y), 40)
    arrays = xgboost_trees(model, depth)
    new = at_thresholds(noisy(2000, seed=1)[0], np.nextafter(arrays[1], np.float32(1e9)))
    want = model.predict(xgboost.DMatrix(new), output_margin=True)
    assert np.abs(score(arrays, new, 12, 60, depth)-want).max() < 1e-5
    rounded = arrays[0],np.nextafter(arrays[1], np.float32(1e9)),arrays[2]
    assert np.abs(score(rounded, new, 12, 60, depth)-want).max() > 1e-3

def test_thresholds_are_never_rounded_up():
    x = np.random.default_rng(0).normal(size=10_000)*10.**np.arange(-20, 20).repeat(250)
    low = round_down(x)
    assert low.dtype == np.float32 and (low<=x).all() and (np.nextafter(low, np.float32(np.inf))>x).all()
    assert (round_down(low.astype(float)) == low).all()

def test_a_leaf_far_up_reaches_all_that_lies_below():
    f,t,leaf = complete_tree([-1], [-1], [0], np.zeros(1, np.float32), np.array([7.]), 3)
    assert leaf.tolist() == [7]*8 and not f.any() and not t.any()
    f,t,leaf = complete_tree([1,-1,3,-1,-1], [2,-1,4,-1,-1], [4,0,9,0,0], np.float32([1,0,2,0,0]), np.array([0,1.,0,2,3]), 2)
    assert f.tolist() == [4,0,9] and t.tolist() == [1,0,2] and leaf.tolist() == [1,1,2,3]

def test_a_perfect_stump_stops_and_leaves_no_old_trees():
    x,y = noisy()
    head = Trees(12, **BOOSTERS['adaboost'])
    head.fit(torch.from_numpy(x), y)
    assert head.leaf.abs().sum(1).count_nonzero() > 20
    head.fit(torch.from_numpy(np.repeat(y[:,None], 12, 1).astype(np.float32)), y)
    assert head.leaf.abs().sum(1).count_nonzero() == 1
    with torch.no_grad(): p = head(torch.tensor([[0.]*12,[1.]*12])).sigmoid()[:,0]
    assert p[0] < .02 and p[1] > .98 and p.isfinite().all()

@pytest.mark.parametrize('kind', KINDS)
def test_a_score_of_memorised_pictures_is_not_believed(kind):
    "Labels without any meaning: the answers must say that nothing is known"
    rng = np.random.default_rng(0)
    x,y = torch.from_numpy(rng.normal(size=(200,40)).astype(np.float32)),np.repeat([0,1], 100)
    torch.manual_seed(0); np.random.seed(0)
    head = Trees(40, **BOOSTERS[kind])
    head.fit(x, y)
    new = torch.from_numpy(rng.normal(size=(1000,40)).astype(np.float32))
    with torch.no_grad(): p = head(new).sigmoid()[:,0].numpy()
    slope,intercept = fit_platt(head.score(x)[:,0].numpy(), y)
    simple = (head.score(new)[:,0]*slope+intercept).sigmoid().numpy()
    y_new = rng.permutation(np.repeat([0,1], 500))
    assert log_loss(y_new, p) < .75 < log_loss(y_new, simple)

def test_platt_gives_back_what_is_calibrated():
    rng = np.random.default_rng(1)
    y = np.repeat([0,1], 20_000)
    logit = rng.normal(4*y-2, 2)
    slope,intercept = fit_platt(logit*3-1, y)
    assert abs(slope*3-1) < .03 and abs(intercept-slope) < .05
    assert fit_platt(-logit, y)[0] > 0

@pytest.mark.parametrize('kind', KINDS)
def test_a_model_by_name_is_fitted_and_built_again(kind):
    torch.manual_seed(0)
    net = create_model(f'{kind}:resnet18', 32).eval()
    x,y = noisy(60, net.head.width)
    np.random.seed(3)
    net.head.fit(torch.from_numpy(x), y)
    state = copy.deepcopy(net.state_dict())
    assert all(v.isfinite().all() for v in state.values())
    again = create_model(f'{kind}:resnet18', 32, built=net.built, state=state).eval()
    check_state(again, state)
    pictures = torch.rand(5, 3, 32, 32)
    with torch.no_grad():
        want = net(pictures)
        assert want.shape == (5,1) and torch.equal(again(pictures), want) and torch.equal(net.head(net.features(pictures)), want)
        with torch.autocast('cpu', torch.bfloat16): assert torch.equal(net.head(torch.from_numpy(x)), again.head(torch.from_numpy(x)))
        assert torch.equal(net.head(torch.from_numpy(x)), again.head(torch.from_numpy(x)))
    last = [m for m in net.modules() if isinstance(m, torch.nn.Linear)][-1]
    with torch.no_grad():
        for p in (last.weight,last.bias): p.div_(2)         # as the calibration does
        assert torch.allclose(net(pictures), want/2)
    np.random.seed(3)
    again.head.fit(torch.from_numpy(x), y)
    assert torch.equal(again.state_dict()['head.leaf'], state['head.leaf']), 'the same seed, the same trees'

@pytest.mark.parametrize('kind', KINDS)
def test_half_precision_moves_no_answer(kind):
    x,y = noisy()
    head = Trees(12, **BOOSTERS[kind])
    head.fit(torch.from_numpy(x), y)
    with torch.no_grad():
        want = head(torch.from_numpy(x))
        with torch.autocast('cpu', torch.bfloat16): got = head(torch.from_numpy(x))
        assert got.dtype == torch.float32 and torch.equal(got, want)
        assert head(torch.from_numpy(x).bfloat16()).dtype == torch.float32

@pytest.mark.parametrize('kind', KINDS)
def test_as_onnx(kind, tmp_path):
    ort = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    x,y = noisy()
    head = Trees(12, **BOOSTERS[kind]).eval()
    head.fit(torch.from_numpy(x), y)
    file = str(tmp_path/'trees.onnx')
    with torch.no_grad():
        torch.onnx.export(head, (torch.from_numpy(x[:2]),), file, dynamo=False, opset_version=17,
            input_names=['x'], output_names=['logit'], dynamic_axes=dict(x={0:'n'}, logit={0:'n'}))
        want = head(torch.from_numpy(x)).numpy()
    session = ort.InferenceSession(file)
    for n in (1,300): assert np.abs(session.run(None, dict(x=x[:n]))[0]-want[:n]).max() < 1e-5

@pytest.mark.parametrize('feature', (-1,12))
def test_a_file_that_asks_for_no_feature(feature):
    head = Trees(12, 5, 2)
    state = head.state_dict()
    state['feature'] = torch.full_like(state['feature'], feature)
    with pytest.raises(ValueError, match='none of the 12'): Trees(12, 5, 2).load_state_dict(state)

def test_xgboost_is_needed_for_fitting_alone(monkeypatch):
    x,y = (torch.from_numpy(o) for o in noisy())
    head = Trees(12, **BOOSTERS['xgboost'])
    head.fit(x, y.numpy())
    state = head.state_dict()
    monkeypatch.setitem(sys.modules, 'xgboost', None)
    other = Trees(12, **BOOSTERS['xgboost'])
    other.load_state_dict(state)
    with torch.no_grad(): assert torch.equal(other(x), head(x))
    with pytest.raises(InputError, match=r"^XGBoost is not installed: pip install 'deepfake_nb\[boosting\]'$"): other.fit(x, y.numpy())

@pytest.mark.parametrize('x,y,said', [
    (torch.randn(20, 3), [1]*20, 'both classes'), (torch.full((20, 3), np.nan), [0,1]*10, 'not finite'), (torch.ones(20, 3), [0,1]*10, 'no feature')])
def test_what_cannot_be_learnt_from(x, y, said):
    with pytest.raises(InputError, match=said) as e: Trees(3, **BOOSTERS['adaboost']).fit(x, y)
    assert '\n' not in str(e.value)

def test_very_few_pictures():
    x,y = noisy(4)
    y[:] = 0,1,0,1
    head = Trees(12, **BOOSTERS['adaboost'])
    head.fit(torch.from_numpy(x), y)
    with torch.no_grad(): assert head(torch.from_numpy(x)).isfinite().all()

# rare fakes

@pytest.mark.parametrize('ratio', (4,25))
def test_weights_stand_for_fewer_fakes(ratio):
    "Real pictures repeated `ratio` times are the same as fakes that weigh less"
    rng = np.random.default_rng(0)
    y = np.repeat([0,1], 200)
    score = rng.normal(y, 1).round(1)
    i = np.concatenate([np.tile(np.flatnonzero(y==0), ratio), np.flatnonzero(y==1)])
    assert weighted_ap(y, score, ratio) == pytest.approx(average_precision_score(y[i], score[i]))
    assert weighted_ap(y, np.zeros(400), ratio) == pytest.approx(1/(1+ratio))

def test_imbalance_counts_and_figures():
    x,y = noisy(400)
    x_test,y_test = noisy(400, seed=1)
    df = imbalance(x, y, x_test, y_test, (1,5))
    assert (df.n_real == df.n_fake*df.ratio).all() and set(df.ratio) == {1,5}
    assert (df.AUC[df.ratio==1] > .7).all() and (df.AP[df.ratio==5] < df.AP[df.ratio==1].min()).all()
    same = imbalance(torch.from_numpy(x), y.tolist(), x_test, y_test, (1,5))
    assert df.equals(same) and not df.equals(imbalance(x, y, x_test, y_test, (1,5), seed=1))

def test_too_few_real_pictures_for_a_ratio():
    x,y = noisy(40)
    with pytest.raises(InputError, match='1:50 need 100 real pictures') as e: imbalance(x, y, x, y, (50,))
    assert '\n' not in str(e.value)
