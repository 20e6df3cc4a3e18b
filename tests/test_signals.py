"Signals beside the network: each rule, files that lie or are damaged, no network, conflicts."
import datetime,http.server,io,json,struct,sys,threading,time,zlib

import numpy as np
import pytest
from PIL import Image,PngImagePlugin

import deepfake_nb.signals as signals
from deepfake_nb.core import InputError,write_json
from deepfake_nb.detector import Detector,Prediction
from deepfake_nb.linear import N_NOISE,fit_linear,pixel_signals,read_linear,resave,residual_features,spectrum_features
from deepfake_nb.scorers import READY
from deepfake_nb.signals import Signal,combine,file_signal,gather_signals,provenance_signal,signals_table

IPTC = 'http://cv.iptc.org/newscodes/digitalsourcetype/'
PIXELS = np.random.default_rng(0).integers(0, 256, (64,64,3), np.uint8)

def saved(kind='jpeg', pixels=PIXELS, **kw):
    buf = io.BytesIO()
    Image.fromarray(pixels).save(buf, kind, **kw)
    return buf.getvalue()

def exif(tags={}, camera={}):
    o = Image.Exif()
    o.update(tags)
    o.get_ifd(0x8769).update(camera)
    return o.tobytes()

def png(**texts):
    info = PngImagePlugin.PngInfo()
    for k,v in texts.items(): info.add_text(k, v)
    return saved('png', pnginfo=info)

def xmp(text, size=0):
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description {text}/></x:xmpmeta>'.encode().ljust(size)

CANON,EXPOSURE = {271:'Canon', 272:'EOS R5'},{33434:1/200}
STEPS = 'a face\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1'
COMFY = '{"3": {"class_type": "KSampler"}}'

# --- what the file says

@pytest.mark.parametrize('data,word,reliability,part', [
    (png(parameters=STEPS), 'fake', 'medium', 'Stable Diffusion'),
    (png(prompt=COMFY), 'fake', 'medium', 'ComfyUI'),
    (png(workflow='{"nodes": []}'), 'fake', 'medium', 'ComfyUI'),
    (png(invokeai_metadata='{}'), 'fake', 'medium', 'InvokeAI'),
    (png(Software='NovelAI'), 'fake', 'medium', 'NovelAI'),
    (png(Description='a face --v 6 Job ID: 01234567-89ab-cdef-0123-456789abcdef'), 'fake', 'medium', 'Midjourney'),
    (saved(exif=exif({305:'StyleGAN2'})), 'fake', 'medium', 'StyleGAN2'),
    (saved(exif=exif(CANON, EXPOSURE | {37510:b'UNICODE\0'+STEPS.encode('utf-16-le')})), 'fake', 'medium', 'UserComment'),
    (saved('webp', xmp=xmp('xmp:CreatorTool="DALL-E 3"')), 'fake', 'medium', 'DALL-E'),
    (saved(exif=exif(CANON, EXPOSURE)), 'real', 'weak', 'Canon EOS R5'),
    (saved('webp', exif=exif(CANON, EXPOSURE)), 'real', 'weak', 'Canon EOS R5'),
    (saved('png', exif=exif(CANON, EXPOSURE)), 'real', 'weak', 'Canon EOS R5'),
    (saved(exif=exif(CANON)), 'nothing', 'weak', 'no camera'),
    (saved(exif=exif(CANON | {305:'FaceApp 5'}, EXPOSURE)), 'uncertain', 'weak', 'FaceApp'),
    (saved(exif=exif({305:'Adobe Photoshop 25'})), 'nothing', 'weak', 'Photoshop'),
    (png(Description='a talk about Midjourney, DALL-E and Stable Diffusion'), 'nothing', 'weak', 'no camera'),
    (png(parameters='alpha=2'), 'nothing', 'weak', 'no camera'),
    (saved(quality=75), 'nothing', 'weak', 'standard tables at quality 75'),
    (saved(qtables='web_high'), 'nothing', 'weak', 'tables of its own'),
    (saved('png'), 'nothing', 'weak', 'PNG 64x64')])
def test_file(data, word, reliability, part):
    s = file_signal(data)
    assert (s.name,s.word,s.reliability) == ('file',word,reliability) and part in s.says

def test_text_after_the_pixels_is_read():
    data = saved('png')
    def chunk(kind, o): return struct.pack('>I', len(o))+kind+o+struct.pack('>I', zlib.crc32(kind+o))
    late = data[:-12]+chunk(b'zTXt', b'parameters\0\0'+zlib.compress(STEPS.encode()))+data[-12:]
    assert file_signal(late).word == 'fake'
    bomb = chunk(b'zTXt', b'Comment\0\0'+zlib.compress(bytes(60*2**20)))*200
    t = time.perf_counter()
    assert file_signal(data[:33]+bomb+data[33:]).name == 'file'
    assert len(bomb)<16*2**20 and time.perf_counter()-t<2

def test_strange_text_is_harmless():
    rude = 'FaceApp \x1b[31m\u202e\n'+'x'*10**5
    for data in (png(Software=rude), saved('webp', xmp=xmp(f'xmp:CreatorTool="{rude}"'))):
        s = file_signal(data)
        assert s.word == 'uncertain' and s.says.isprintable() and len(s.says)<300
    assert len(signals.short(b'\xff'*10**7)) <= 60

def test_broken_exif():
    good = exif(CANON, EXPOSURE)
    for i in range(6, len(good), 3):
        bad = good[:i]+bytes([good[i]^255])+good[i+1:]
        assert isinstance(file_signal(saved(exif=bad)), Signal)
    for o in ('jpeg','png','webp'): assert 'no camera' in file_signal(saved(o, exif=b'Exif\0\0rubbish')).says

# --- provenance

@pytest.fixture(scope='module')
def chain():
    "Two certificates and a key, all PEM: a signer whom nobody knows, and who signed its certificate"
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes,serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID,NameOID
    now,keys = datetime.datetime.now(datetime.timezone.utc),[ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    def name(o): return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, o)])
    def make(subject, key, ca):
        b = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name('Root'))
        b = b.public_key(key.public_key()).serial_number(x509.random_serial_number())
        b = b.not_valid_before(now-datetime.timedelta(1)).not_valid_after(now+datetime.timedelta(9))
        for o,critical in ((x509.BasicConstraints(ca, None),True),
                (x509.KeyUsage(not ca,False,False,False,False,ca,ca,False,False),True),
                (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]),False),
                (x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[1].public_key()),False),
                (x509.SubjectKeyIdentifier.from_public_key(key.public_key()),False)):
            b = b.add_extension(o, critical)
        return b.sign(keys[1], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    leaf,root = make('A\x1b[1mcamera', keys[0], False),make('Root', keys[1], True)
    key = keys[0].private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return leaf+root,key,root

@pytest.fixture
def sign(chain):
    c2pa = pytest.importorskip('c2pa')
    def sign(source, data=None, kind='jpeg', also=None, url=None, parent=None):
        signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(b'es256', *chain[:2], None))
        actions = [dict(action='c2pa.created', digitalSourceType=IPTC+str(source))]
        if also: actions.append(dict(action='c2pa.edited', digitalSourceType=IPTC+also))
        manifest = dict(claim_generator_info=[dict(name='test')], assertions=[dict(label='c2pa.actions', data=dict(actions=actions))])
        context = c2pa.Context.from_dict(dict(builder=dict(thumbnail=dict(enabled=False))))
        if parent: manifest['assertions'] = []
        builder,out = c2pa.Builder(manifest, context),io.BytesIO()
        if parent:
            builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
            builder.add_ingredient(json.dumps(dict(title='before', relationship='parentOf')), 'image/jpeg', io.BytesIO(parent))
        if url:
            builder.set_remote_url(url)
            builder.set_no_embed()
        builder.sign(signer, f'image/{kind}', io.BytesIO(data or saved(kind)), out)
        return out.getvalue()
    return sign

@pytest.fixture
def trusted(chain, monkeypatch):
    "The signer of `chain` is on a list of trusted signers"
    monkeypatch.setattr(signals, 'C2PA_SETTINGS', signals.C2PA_SETTINGS | {'trust':dict(trust_anchors=chain[2].decode())})

def said(data):
    s = provenance_signal(data)
    assert s.name == 'provenance' and s.says.isprintable() and len(s.says)<300
    return s.word,s.reliability

@pytest.mark.parametrize('kind', ['jpeg','png','webp'])
def test_manifest_of_somebody_unknown(sign, kind):
    for o in ('trainedAlgorithmicMedia','compositeWithTrainedAlgorithmicMedia','algorithmicMedia'):
        assert said(sign(o, kind=kind)) == ('fake','medium')
    assert said(sign('digitalCapture', kind=kind)) == ('nothing','weak')     # anybody can sign this
    assert said(sign('digitalArt', kind=kind)) == ('nothing','weak')

def test_manifest_of_somebody_trusted(sign, trusted):
    assert said(sign('trainedAlgorithmicMedia')) == ('fake','strong')
    assert said(sign('digitalCapture')) == ('real','medium')
    assert said(sign('digitalArt', also='digitalCapture')) == ('nothing','weak')       # a part of it
    assert said(sign('digitalCapture', also='compositeWithTrainedAlgorithmicMedia')) == ('fake','strong')

def test_an_editor_does_not_vouch_for_what_it_opened(sign, trusted):
    for source,expected in (('digitalCapture',('nothing','weak')),('trainedAlgorithmicMedia',('fake','medium'))):
        assert said(sign(None, data=sign(source), parent=sign(source))) == expected

def app11(data):
    "The segments of a JPEG that hold its manifest"
    at,found = 2,b''
    while data[at+1]!=0xda:
        n = int.from_bytes(data[at+2:at+4], 'big')+2
        if data[at+1]==0xeb: found += data[at:at+n]
        at += n
    return found

def test_manifest_changed_moved_or_cut_short(sign, trusted):
    data = sign('digitalCapture')
    changed = data[:-20]+bytes([data[-20]^1])+data[-19:]
    other = saved(pixels=255-PIXELS)
    moved = other[:2]+app11(data)+other[2:]
    for o in (changed,moved):
        assert said(o) == ('uncertain','weak') and 'does not fit this picture' in provenance_signal(o).says
    for n in (len(data)//3, len(data)//2, len(data)-30): assert said(data[:n]) == ('uncertain','weak')

def test_a_manifest_of_another_shape(sign, monkeypatch):
    import c2pa
    data = sign('digitalCapture')
    for text in ('[]', '{', '{"manifests": {}, "active_manifest": "a"}', '{"manifests": {"a": []}, "active_manifest": "a"}'):
        monkeypatch.setattr(c2pa.Reader, 'json', lambda self: text)
        assert said(data) == ('uncertain','weak')

@pytest.fixture
def server():
    "A server of this machine and the list of what it was asked for"
    asked = []
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)
        do_HEAD = do_POST = do_GET
        def log_message(self, *args): pass
    s = http.server.ThreadingHTTPServer(('127.0.0.1',0), Handler)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{s.server_port}/manifest.c2pa',asked
    s.shutdown()
    s.server_close()

def test_nothing_is_fetched(sign, server):
    import c2pa
    url,asked = server
    data = sign('digitalCapture', url=url)
    marked = data[:2]+b'\xff\xfe\0\x0ajumdc2pa'+data[2:]      # so that the library is asked, too
    for o in (data,marked):
        assert said(o) == ('nothing','weak') and 'not fetched' in provenance_signal(o).says
    assert not asked
    with pytest.raises(c2pa.C2paError): c2pa.Reader(None, io.BytesIO(marked), context=c2pa.Context())
    assert asked                # as the library would do if it were let

def test_without_the_extra(sign, monkeypatch):
    data = sign('trainedAlgorithmicMedia')
    monkeypatch.setitem(sys.modules, 'c2pa', None)
    assert said(data) == ('nothing','weak') and "pip install 'deepfake_nb[provenance]'" in provenance_signal(data).says
    assert said(saved()) == ('nothing','weak') and 'pip' not in provenance_signal(saved()).says

ATTRIBUTE = 'Iptc4xmpExt:DigitalSourceType="{}"'
ELEMENT = '/><Iptc4xmpExt:DigitalSourceType rdf:resource="{}"/><a '

@pytest.mark.parametrize('form', [ATTRIBUTE,ELEMENT,'><Iptc4xmpExt:DigitalSourceType>{}</Iptc4xmpExt:DigitalSourceType'])
@pytest.mark.parametrize('kind', ['jpeg','png','webp'])
def test_xmp(kind, form):
    def file(source):
        text = xmp(form.format(IPTC+source))
        if kind!='png': return saved(kind, xmp=text)
        info = PngImagePlugin.PngInfo()
        info.add_itxt('XML:com.adobe.xmp', text.decode(), zip=True)
        return saved('png', pnginfo=info)
    assert said(file('trainedAlgorithmicMedia')) == ('fake','medium')
    assert said(file('digitalCapture')) == ('nothing','weak')
    assert said(saved()) == ('nothing','weak')

def test_manifest_before_xmp(sign, trusted):
    both = saved(xmp=xmp(ATTRIBUTE.format(IPTC+'trainedAlgorithmicMedia')))
    assert said(sign('digitalCapture', data=both)) == ('real','medium')      # the signer saw the XMP
    assert said(sign('digitalArt', data=both)) == ('fake','medium')

def segment(content): return b'\xff\xe1'+struct.pack('>H', len(content)+2)+content

def huge_files():
    "Files with 50 MB of XMP, in several places"
    model,size = ATTRIBUTE.format(IPTC+'trainedAlgorithmicMedia'),50*2**20
    jpeg,webp = saved(),saved('webp')
    part = b'http://ns.adobe.com/xmp/extension/\0'+bytes(60_000)
    yield jpeg[:2]+segment(b'http://ns.adobe.com/xap/1.0/\0'+xmp(model))+segment(part)*(size//60_000)+jpeg[2:]
    yield jpeg[:2]+segment(b'http://ns.adobe.com/xap/1.0/\0'+xmp(model))+jpeg[2:]+b'<'*size
    yield saved('webp', xmp=xmp(model, size))
    info = PngImagePlugin.PngInfo()
    info.add_itxt('XML:com.adobe.xmp', xmp(model, size).decode())
    yield saved('png', pnginfo=info)

def test_huge_xmp():
    for data in huge_files():
        t = time.perf_counter()
        assert said(data) == ('fake','medium') and file_signal(data).name == 'file'
        assert len(data)>50*10**6 and time.perf_counter()-t<2
    late = b' '*50*2**20+xmp(ATTRIBUTE.format(IPTC+'trainedAlgorithmicMedia'))
    s = provenance_signal(saved('webp', xmp=late))
    assert s.word == 'nothing' and 'first MiB' in s.says
    slow = saved('webp', xmp=b'DigitalSourceType='*2**21)      # a slow search would take for ever
    t = time.perf_counter()
    assert said(slow) == ('nothing','weak') and time.perf_counter()-t<2

# --- pixels

def test_spectrum_as_in_torch():
    import torch
    from deepfake_nb.cnns import unit_range
    from deepfake_nb.spectrum import Spectrum
    for n in (64,255,256):
        px = np.random.default_rng(n).integers(0, 256, (n,n,3), np.uint8)
        px[:n//2] //= 4
        x = unit_range(torch.from_numpy(px[None]))
        np.testing.assert_allclose(spectrum_features(px), Spectrum(n).features(x)[0].numpy(), atol=1e-4)

def test_noise():
    px = np.random.default_rng(1).integers(0, 256, (256,256,3), np.uint8)
    x = residual_features(px)
    assert len(x) == N_NOISE == 312 and np.allclose(x.reshape(8,-1).sum(1), 1)
    for o in (px[::-1], px.swapaxes(0,1), 255-px): np.testing.assert_allclose(residual_features(o), x)
    smooth = residual_features(np.full((256,256,3), 7, np.uint8))
    assert (smooth.reshape(8,-1).max(1)==1).all() and not np.allclose(x, smooth)

def toy(n, apart, seed=0, k=8):
    "Features of `n` reals and `n` fakes"
    rng,y = np.random.default_rng(seed),np.repeat([0,1], n)
    return rng.normal(size=(2*n,k))+apart*y[:,None]*(np.arange(k)<2),y

def prob(x, m): return 1/(1+np.exp(-((x-np.array(m['mean']))/m['scale']@np.array(m['weights'])+m['bias'])))

def test_fit_linear():
    x,y = toy(300, 1.2)
    m = json.loads(json.dumps(fit_linear(x, y)))
    new,label = toy(3000, 1.2, seed=1)
    p = prob(new, m)
    assert .85 < m['auc'] < .95 and m['low']<m['high'] and ((p>.5)==label).mean()>.75
    assert (p[label==0]>=m['high']).mean()<=.04 and (p[label==1]<m['low']).mean()<=.04
    wide = fit_linear(x, y, budget=.2)
    assert wide['high']<m['high'] and (p[label==0]>=wide['high']).mean()>.1
    with pytest.raises(InputError): fit_linear(x[296:], y[296:])

def linear(size=64, auc=.9, **kw):
    "A file's worth of models that say fake of everything"
    def one(n): return dict(mean=[0.]*n, scale=[1.]*n, weights=[0.]*n, bias=5., low=.2, high=.8, far=1e9, auc=auc) | kw
    return dict(size=size, spectrum=one(size//2), noise=one(N_NOISE))

def test_pixel_signals():
    for auc,reliability in ((.79,'weak'),(.8,'medium'),(.999,'medium')):
        found = pixel_signals(PIXELS, linear(auc=auc))
        assert [(o.name,o.word,o.reliability) for o in found] == [('spectrum','fake',reliability),('noise','fake',reliability)]
    assert [o.word for o in pixel_signals(PIXELS, linear(bias=-5.))] == ['real']*2
    assert [o.word for o in pixel_signals(PIXELS, linear(bias=0.))] == ['uncertain']*2
    assert [(o.word,o.reliability) for o in pixel_signals(PIXELS, linear(far=0.))] == [('nothing','weak')]*2
    m = linear()
    m['spectrum'] |= dict(weights=[.01]*32, bias=0.)
    again = np.array(Image.open(io.BytesIO(saved(quality=75))))     # each picture passes through one JPEG
    p = pixel_signals(PIXELS, m)[0].prob_fake
    assert p == pytest.approx(prob(spectrum_features(again), m['spectrum'])) != prob(spectrum_features(PIXELS), m['spectrum'])
    assert pixel_signals(PIXELS, linear(size=32)) == pixel_signals(PIXELS, {}) == []

def test_read_linear(tmp_path):
    path = tmp_path/'ready.json'
    assert read_linear(path) == {}
    write_json(path, linear())
    assert read_linear(path) == linear()
    for k,v in dict(mean=[0.], weights=[0.]*31, scale=[0.]*32, bias='5', low=.9, auc=2., far=None, high=True).items():
        bad = linear()
        bad['spectrum'][k] = v
        write_json(path, bad)
        with pytest.raises(InputError) as e: read_linear(path)
        assert 'damaged' in str(e.value) and '\n' not in str(e.value)
    for text in ('[]', '{}', 'no', '{"size": 64, "spectrum": 1, "noise": 2}', json.dumps(linear()).replace('5.0', 'NaN')):
        path.write_text(text)
        with pytest.raises(InputError): read_linear(path)

def test_resave():
    px = np.full((64,64,3), 100, np.uint8)
    px[:,::2] = 150
    many = [resave(px, i) for i in range(20)]
    assert all(o.shape==px.shape and o.dtype==np.uint8 for o in many) and (many[0]==resave(px, 0)).all()
    assert len({o.tobytes() for o in many})>10

# --- together

def signal(name, word, reliability): return Signal(name, word, reliability, 'says so')

def test_conflicts():
    fake,real = (Prediction(prob_fake=p, verdict=o, model='net') for p,o in ((.9,'fake'),(.1,'real')))
    a = combine(fake, [signal('provenance', 'real', 'medium')])
    assert (a.verdict,a.reason) == ('uncertain','the network says fake, the provenance says real')
    assert [o.name for o in a.signals] == ['network','provenance'] and fake.verdict == 'fake' and fake.signals is None
    assert combine(real, [signal('file', 'fake', 'medium')]).verdict == 'uncertain'
    a = combine(Prediction(prob_fake=.5, verdict='uncertain', reason='first'), [signal('file', 'fake', 'medium'), signal('provenance', 'real', 'strong')])
    assert a.reason == 'first; the file says fake, the provenance says real'
    for o in (signal('file', 'real', 'weak'), signal('noise', 'real', 'weak'), signal('file', 'uncertain', 'weak'),
            signal('provenance', 'nothing', 'strong'), signal('provenance', 'fake', 'strong')):
        a = combine(fake, [o])
        assert (a.verdict,a.reason) == ('fake',None)
    unsure = Prediction(prob_fake=.5, verdict='uncertain')
    assert combine(unsure, [signal('provenance', 'fake', 'strong')]).verdict == 'uncertain'
    broken = combine(Prediction(error='damaged'), [signal('file', 'fake', 'medium'), signal('provenance', 'real', 'medium')])
    assert broken.verdict is None and broken.signals[0].word == 'nothing' and 'damaged' in broken.signals[0].says

CONFIG = dict(model='net', weights='none', size=64, resample='lanczos', equalise=None, threshold=.8, real_below=.2, version='0')

def test_gather(tmp_path, monkeypatch, sign):
    det,path = Detector(lambda px: np.full(len(px), .9, np.float32), CONFIG, source=(READY,'float32')),tmp_path/'a.jpg'
    monkeypatch.setattr(signals, 'read_linear', lambda: linear(auc=.7, bias=-5.))
    path.write_bytes(saved(exif=exif(CANON, EXPOSURE)))
    a, = det.predict(path, faces=False)
    names = ['network','spectrum','noise','file','provenance']
    with open(path, 'rb') as f: items = [path, str(path), path.read_bytes(), bytearray(path.read_bytes()), f]+[gather_signals(f, a, det)]
    for item in items[:4]:
        b = gather_signals(item, a, det)
        assert [o.name for o in b.signals] == names and [o.word for o in b.signals] == ['fake','real','real','real','nothing']
        assert (b.verdict,b.reason) == ('fake',None)        # copied EXIF and weak models free no fake
    assert [o.word for o in items[5].signals] == ['fake','real','real','real','nothing']
    for item in (Image.fromarray(PIXELS), PIXELS):
        b = gather_signals(item, a, det)
        assert [o.name for o in b.signals] == names and b.signals[3].says == 'no file, only pixels'
    assert 'fake from 80% on, real below 20%' in b.signals[0].says
    assert b.as_dict()['signals'][3] == dict(name='file', word='nothing', reliability='weak', says='no file, only pixels')
    rows = signals_table(b).splitlines()
    assert [o.split()[0] for o in rows] == names and len({o.index(s.says) for o,s in zip(rows, b.signals)}) == 1
    other = Detector(det.score, CONFIG)         # the models were not fitted for its pixels
    assert [o.name for o in gather_signals(path, a, other).signals] == ['network','file','provenance']
    for item in (tmp_path/'none.jpg', tmp_path, b'', b'text', 'https://a.b/c.jpg'):
        b = gather_signals(item, Prediction(error='no'), det)
        assert b.verdict is None and [o.word for o in b.signals] == ['nothing']*3
    prepare,sizes = det.prepare,[]
    def spy(o): return sizes.append(getattr(o, 'size', None)) or prepare(o)
    monkeypatch.setattr(det, 'prepare', spy)
    boxed = gather_signals(path, Prediction(prob_fake=.9, verdict='fake', box=(0,0,32,40)), det)
    assert [o.name for o in boxed.signals] == names and sizes == [(32,40)]     # the face alone

def test_damaged_files_never_raise(sign):
    rng,good = np.random.default_rng(0),[
        sign('trainedAlgorithmicMedia'), sign('digitalCapture', kind='png'), png(parameters=STEPS),
        saved(exif=exif(CANON, EXPOSURE), xmp=xmp(ATTRIBUTE.format(IPTC+'digitalCapture'))),
        saved('webp', exif=exif(CANON, EXPOSURE)), saved('tiff'), saved('gif'), saved('avif')]
    for i in range(200):
        data = bytearray(good[i%len(good)])
        for at in rng.integers(0, min(len(data), 3000 if i%3 else 200), 1+i%20): data[at] = rng.integers(256)
        if i%4==0: del data[int(rng.integers(len(data))):]
        for f in (file_signal,provenance_signal):
            s = f(bytes(data))
            assert s.word in ('real','fake','uncertain','nothing') and s.says.isprintable() and len(s.says)<400
    for data in (b'', b'text', b'jumdc2pa', b'\x89PNG\r\n\x1a\n', b'RIFF\0\0\0\0WEBP', b'\xff\xd8\xff\xe1', bytes(10**6)):
        assert file_signal(data).word == 'nothing' and provenance_signal(data).word in ('nothing','uncertain')
