"Scores against closed forms, cases worked out by hand, and broken input."
import json,subprocess,sys,warnings
from statistics import NormalDist

import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pytest

from deepfake_nb.core import InputError
from deepfake_nb.metrics import CLIP,FPRS,accuracy,ap,auc,bootstrap,brier,ece,eer,evaluate_scores,intervals,nll,plot_reliability,plot_roc,roc,scores,tpr_at_fpr

Y,P = [0,0,1,1],[.1,.4,.4,.8]   # one real and one fake image share a score
FLAT = 'loss accuracy auc ap eer tpr_at_fpr brier ece'.split()
SINGLE = [nll,accuracy,auc,ap,eer,brier,ece,roc,scores,intervals,evaluate_scores,bootstrap,plot_roc,plot_reliability,
          lambda y,p: tpr_at_fpr(y, p, .05)]

def gaussian(n, d, seed=0):
    "Scores whose logits are Gaussian with spread `d` and means `d**2` apart: calibrated, and known in closed form"
    y = np.repeat([0,1], n)
    return y, 1/(1+np.exp(-np.random.default_rng(seed).normal((2*y-1)*d**2/2, d)))

def flat(s):
    "Values of `scores` in their order, without the counts"
    return [o for k in FLAT for o in (s[k].values() if isinstance(s[k], dict) else [s[k]])]

@pytest.mark.parametrize('d', [.5,1,2,3])
def test_closed_forms(d):
    y,p = gaussian(40_000, d)
    Φ,z = NormalDist().cdf,NormalDist().inv_cdf
    assert accuracy(y, p) == pytest.approx(Φ(d/2), abs=.006)
    assert auc(y, p) == pytest.approx(Φ(d/2**.5), abs=.006)
    assert eer(y, p) == pytest.approx(Φ(-d/2), abs=.006)
    for fpr in (.005,.05,.5): assert tpr_at_fpr(y, p, fpr) == pytest.approx(Φ(d-z(1-fpr)), abs=.02)
    assert ece(y, p) < .01

@pytest.mark.parametrize('d', [1,2])
def test_expected_loss_and_brier_of_a_calibrated_score(d):
    y,p = gaussian(40_000, d)
    x,w = np.polynomial.hermite_e.hermegauss(100)
    q = 1/(1+np.exp(-(d**2/2 + d*x)))                # prob_fake of fakes; reals mirror them
    assert nll(y, p) == pytest.approx((w*-np.log(q)).sum()/w.sum(), abs=.005)
    assert brier(y, p) == pytest.approx((w*(1-q)**2).sum()/w.sum(), abs=.003)

def test_worked_by_hand():
    assert nll(Y, P) == pytest.approx(-np.log([.9,.6,.4,.8]).mean())
    assert brier(Y, P) == pytest.approx((.01+.16+.36+.04)/4)
    assert accuracy(Y, P) == .75
    assert auc(Y, P) == 3.5/4
    assert ap(Y, P) == pytest.approx(1/2 + 1/2*2/3)
    assert eer(Y, P) == .25
    assert ece(Y, P, n_bins=1) == pytest.approx(abs(np.mean(P)-.5))
    assert ece(Y, P, n_bins=2) == pytest.approx((abs(.9-1) + abs(.8-1))/4)
    assert ece([1,0], [.5,.9], n_bins=2) == pytest.approx((.5+.9)/2)     # an edge belongs to the bin below

def test_rates_at_a_false_alarm_limit_are_reached_and_not_interpolated():
    y,p = np.repeat([0,1], 100),np.r_[np.linspace(0, .99, 100), np.full(100, .945)]
    assert [tpr_at_fpr(y, p, o) for o in (0,.005,.04,.049,.05,1)] == [0,0,0,0,1,1]    # five of a hundred reals lie above
    y,p = np.tile([0,1], 10),np.repeat(np.arange(10)/10, 2)                           # ties along a straight line
    assert [tpr_at_fpr(y, p, o) for o in (.05,.1,.35,.9)] == pytest.approx([0,.1,.3,.9])

def test_accuracy_calls_the_threshold_itself_fake():
    assert accuracy([0,1], [.4,.5]) == 1
    assert accuracy([0,1], [.5,.6]) == .5
    assert accuracy([0,1], [.5,.6], threshold=.6) == 1

def test_a_certain_mistake_costs_a_bounded_loss():
    assert nll([0,1], [1,0]) == pytest.approx(-np.log(CLIP), rel=1e-6)
    assert 0 < nll([0,1], [0,1]) < 2*CLIP

@pytest.mark.parametrize('y', [[0,1],[0,0,0,1],[0]*5+[1]*500])
@pytest.mark.parametrize('c', [0,.3,1])
def test_constant_scores(y, c):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        s = evaluate_scores(y, [c]*len(y), n_boot=20)
    assert (s['auc'],s['eer']) == (.5,.5)
    assert s['ap'] == pytest.approx(np.mean(y))
    assert s['intervals']['auc'] == s['intervals']['eer'] == [.5,.5]
    assert list(s['tpr_at_fpr'].values()) == [0,0]

def test_perfect_and_inverted_scores():
    good,bad = scores([0,0,1,1], [0,.2,.7,1]),scores([0,0,1,1], [1,.7,.2,0])
    assert (good['auc'],good['ap'],good['eer'],good['accuracy']) == (1,1,0,1)
    assert (bad['auc'],bad['eer'],bad['accuracy']) == (0,1,0)

def test_ranking_metrics_see_only_the_order():
    y,p = gaussian(500, 1)
    for m in (auc,ap,eer,lambda y,p: tpr_at_fpr(y, p, .05)): assert m(y, p**3) == m(y, p)

def test_scores_have_their_keys_as_plain_numbers():
    y,p = gaussian(50, 1)
    s = scores(y[10:], p[10:])
    assert list(s) == FLAT + ['n_real','n_fake']
    assert list(s['tpr_at_fpr']) == ['0.005','0.05']
    assert all(type(o) is float for o in flat(s))
    assert (type(s['n_real']),s['n_real'],s['n_fake']) == (int,40,50)

def test_scores_hold_the_single_metrics():
    y,p = gaussian(300, 1)
    expect = [nll(y, p), accuracy(y, p, .3), auc(y, p), ap(y, p), eer(y, p), *[tpr_at_fpr(y, p, o) for o in FPRS], brier(y, p), ece(y, p)]
    assert flat(scores(y, p, threshold=.3)) == expect

def test_evaluated_scores_are_json_and_as_the_command_line_promises():
    y,p = gaussian(60, 1)
    s = evaluate_scores(y, p, n_boot=50)
    assert list(s) == FLAT + ['n_real','n_fake','intervals'] and list(s['intervals']) == FLAT
    assert s == scores(y, p) | dict(intervals=intervals(y, p, n_boot=50))
    assert json.loads(json.dumps(s, allow_nan=False)) == s
    assert all(low <= high for low,high in flat(s['intervals']))

@pytest.mark.parametrize('decimals', [1,16])    # with many ties, and with none
def test_bootstrap_is_what_scores_gives_on_the_same_draws(decimals):
    y,p = gaussian(150, 1)
    y,p = y[:250],p[:250].round(decimals)
    order = np.random.default_rng(7).permutation(len(y))
    y,p = y[order],p[order]
    rng = np.random.default_rng(3)
    classes = [np.flatnonzero(y==c) for c in (0,1)]
    draws = [np.concatenate([rng.choice(c, len(c)) for c in classes]) for _ in range(40)]
    np.testing.assert_allclose(bootstrap(y, p, 40, seed=3, threshold=.4), [flat(scores(y[i], p[i], .4)) for i in draws], atol=1e-12)

def test_intervals_repeat_by_seed_and_narrow_with_more_images():
    y,p = gaussian(100, 1)
    assert intervals(y, p, 100) == intervals(y, p, 100) != intervals(y, p, 100, seed=1)
    width = lambda n: np.ptp(intervals(*gaussian(n, 1), 200)['auc'])
    assert width(4000) < width(100)/3

def test_interval_of_accuracy_is_the_binomial_one():
    y,p = np.repeat([0,1], 400),np.tile([.2,.2,.2,.8], 200)
    low,high = intervals(y, p, 4000)['accuracy']
    half = 1.96*(.25*.75/800)**.5
    assert (low,high) == pytest.approx((.5-half,.5+half), abs=.004)

BAD = dict(lengths=([0,1], [.5], '2 labels but 1 probabilities'), empty=([], [], 'no scores'), real_only=([0,0], [.1,.2], 'add fake'),
           fake_only=([1,1], [.1,.2], 'add real'), label=([0,1,2], [.1,.2,.3], 'label 2 at index 2'), nan_label=([0,np.nan], [.1,.2], 'label nan'),
           nan=([0,1], [.1,np.nan], 'nan at index 1'), above=([0,1], [.1,1.01], '1.01 at index 1'), below=([0,1], [-.1,.5], '-0.1 at index 0'),
           infinite=([0,1], [.1,np.inf], 'inf at index 1'), words=(['real','fake'], [.1,.2], 'labels are not numbers'),
           square=([0,1], [[.1,.9],[.2,.8]], 'shape (2, 2)'), ragged=([0,1], [[.1],[.2,.8]], 'probabilities are not numbers'))

@pytest.mark.parametrize('metric', SINGLE)
@pytest.mark.parametrize('y,p,says', BAD.values(), ids=BAD)
def test_bad_input_is_told_in_one_line(metric, y, p, says):
    with pytest.raises(InputError) as e: metric(y, p)
    assert says in str(e.value) and '\n' not in str(e.value)

def test_bad_options():
    for f in (lambda: tpr_at_fpr(Y, P, 1.5), lambda: tpr_at_fpr(Y, P, np.nan), lambda: ece(Y, P, n_bins=0), lambda: intervals(Y, P, n_boot=0)):
        with pytest.raises(InputError): f()

def test_lists_bools_and_float32_are_taken():
    y,p = np.array(Y, bool),np.array(P, np.float32)
    assert flat(scores(y, p)) == pytest.approx(flat(scores(Y, P)), abs=1e-6)

def test_plots_draw_on_the_axes_given():
    _,axs = plt.subplots(1, 2)
    y,p = gaussian(100, 1)
    assert plot_roc(y, p, ax=axs[0]) is axs[0] and plot_reliability(y, p, 10, ax=axs[1]) is axs[1]
    labels = ' '.join(o.get_text() for o in axs[0].get_legend().get_texts())
    assert f'AUC {auc(y, p):.3f}' in labels and f'EER {eer(y, p):.1%}' in labels
    assert plot_roc(y, p) is not axs[0]
    plt.close('all')

def test_import_loads_no_network_library():
    code = "import sys,deepfake_nb.metrics; assert not {'torch','fastai','timm','torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, '-c', code], check=True)
