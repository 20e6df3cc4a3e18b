"Videos: whatever lengths, rates, ways up and sizes they have, and nothing but what lies in the file itself."
import os,struct,threading
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from deepfake_nb.video import _length,frames,is_torn
from deepfake_nb.tables import predict_csv
from deepfake_nb import detector as d, faces as faces_, video
from deepfake_nb.core import InputError

av = pytest.importorskip('av')

@pytest.fixture
def det():
    "A detector that says how light a picture is"
    config = dict(model='grey', weights='none', size=32, threshold=.7, real_below=.3, equalise=None, resample='bilinear', version='0', classes=['real','fake'])
    return d.Detector(lambda px: px.mean((1,2,3), dtype=np.float32)/255, config)

def grey(level, size): return av.VideoFrame.from_ndarray(np.full((*size[::-1],3), level, np.uint8))

def film(path, times, n_stages=None, fps=8, size=(64,48), codec='mpeg4', sound=0, **options):
    "A frame of one grey at each of `times`, in frames; `sound` seconds of silence beside them"
    with av.open(str(path), 'w', options=options) as f:
        s = f.add_stream(codec, rate=fps, width=size[0], height=size[1], pix_fmt='yuvj420p' if codec=='mjpeg' else 'yuv420p')
        if sound: a = f.add_stream('pcm_s16le' if path.suffix in ('.mkv','.avi') else 'aac', rate=16000, layout='mono')
        f.start_encoding()
        for i,t in enumerate(times):
            frame = grey(n_stages[i] if n_stages else 255*i//max(1, len(times)-1), size); frame.pts = t
            f.mux(s.encode(frame))
        f.mux(s.encode())
        for i in range(sound*16):
            wave = av.AudioFrame.from_ndarray(np.zeros((1,1000), np.int16), format='s16', layout='mono'); wave.sample_rate,wave.pts = 16000,i*1000
            f.mux(a.encode(wave))
        if sound: f.mux(a.encode())
    return path

class Broken:
    "A frame that cannot be turned into a picture"
    width,height,side_data = 64,48,{}
    def __init__(self, error): self.error = error
    def to_image(self): raise self.error

def one(det, path, **kw):
    a, = det.predict(path, **kw)
    return a

# --- lengths and rates

@pytest.mark.parametrize('suffix', ['.mp4','.mkv','.avi','.mov'])
def test_sound_may_go_on(det, tmp_path, suffix):
    a = one(det, film(tmp_path/f'a{suffix}', range(16), sound=12))
    assert a.error is None and a.note is None and len(a.timeline) == 16 and a.timeline[-1][0] == pytest.approx(15/8, abs=.02)
    assert len(one(det, film(tmp_path/f'b{suffix}', range(80), sound=40), n_frames=8).timeline) == 8, 'spread over the pictures, not over the sound'

@pytest.mark.parametrize('suffix', ['.mp4','.mkv'])
def test_the_last_picture_may_stand(det, tmp_path, suffix):
    a = one(det, film(tmp_path/f'a{suffix}', [*range(20),100,101]))
    assert a.note is None and a.error is None

def test_a_long_still_counts_once(det, tmp_path):
    "Ten seconds of one picture, then half a second of others: those do not come in its stead"
    times = [0,*range(80,84)]
    a = one(det, film(tmp_path/'a.mp4', times), n_frames=10)
    assert [round(t, 2) for t,_ in a.timeline] == [0,10] and a.note is None
    uneven = [0,1,2,10,11,40,41,42,43,44,79]
    at = [t for t,_ in one(det, film(tmp_path/'b.mkv', uneven), n_frames=8).timeline]
    assert at == sorted(at) and np.diff(at).min() > .5

def test_every_nth_frame(det, tmp_path):
    clip = film(tmp_path/'a.mp4', range(45))
    assert [round(t*8) for t,_ in one(det, clip, every=10).timeline] == [0,10,20,30,40]
    assert len(one(det, clip, every=1).timeline) == 45 and len(one(det, clip, every=1000).timeline) == 1
    for bad in (0,-1,2.5,True):
        with pytest.raises(InputError, match='every'): det.predict(clip, every=bad)
    with pytest.raises(InputError, match='n_frames'): det.predict(clip, n_frames=0)
    with pytest.raises(InputError, match='batch_size'): det.predict(clip, batch_size=0)

# --- what is missing, and what is damaged

@pytest.mark.parametrize('suffix,options', [('.mp4',dict(movflags='faststart')), ('.mkv',{}), ('.avi',{}), ('.mov',dict(movflags='faststart'))])
@pytest.mark.parametrize('share', [.35,.6,.9])
def test_a_torn_file_is_said(det, tmp_path, suffix, options, share):
    whole = film(tmp_path/f'a{suffix}', range(80), codec='mjpeg', **options)
    assert not is_torn(open(whole, 'rb')) and one(det, whole).note is None
    (torn := tmp_path/f'b{suffix}').write_bytes(whole.read_bytes()[:int(whole.stat().st_size*share)])
    a = one(det, torn, every=1)
    assert a.prob_fake is not None and 'damaged after' in a.note and len(a.timeline) < 80

def test_what_follows_a_video_is_no_tear(tmp_path):
    for suffix in ('.mp4','.mkv','.avi'):
        path = film(tmp_path/f'a{suffix}', range(8))
        for tail in (b'\0'*100, b'some text that is longer than a head', os.urandom(64)):
            (other := tmp_path/f'b{suffix}').write_bytes(path.read_bytes()+tail)
            assert not is_torn(open(other, 'rb'))

@pytest.mark.parametrize('suffix', ['.mp4','.mkv','.avi'])
def test_damage_never_ends_the_others(det, tmp_path, suffix):
    whole,rng = film(tmp_path/f'a{suffix}', range(24), codec='mjpeg').read_bytes(),np.random.default_rng(0)
    bad = []
    for i in range(60):
        data = bytearray(whole)
        for at in rng.integers(0, len(data) if i%2 else min(len(data), 600), 1+i%8): data[at] = rng.integers(256)
        bad.append(tmp_path/f'{i}{suffix}'); bad[-1].write_bytes(data)
    for a in det.predict(bad): assert (a.error is None)!=(a.prob_fake is None) and '\n' not in (a.error or ''), a

@pytest.mark.parametrize('error', [ValueError('no'),MemoryError(),OverflowError('much'),KeyError(3),UnicodeDecodeError('utf-8', b'\xff', 0, 1, 'bad')])
def test_whatever_pyav_raises_is_that_files(det, tmp_path, monkeypatch, error):
    clip,img = film(tmp_path/'a.mp4', range(8)),Image.new('RGB', (40,40))
    def fails(*_, **__): raise error
    monkeypatch.setattr(av, 'open', fails)
    a,b = det.predict([clip,img])
    assert 'not a video' in a.error and b.error is None
    monkeypatch.undo()
    monkeypatch.setattr(video, '_timed', lambda *_: iter([(0.,Broken(error))]))
    a,b = det.predict([clip,img])
    assert a.error and b.error is None

# --- the right way up

@pytest.mark.parametrize('a,b,c,d_,red', [(1,0,0,1,'top'),(0,1,-1,0,'right'),(-1,0,0,-1,'bottom'),(0,-1,1,0,'left'),(-1,0,0,1,'top'),(1,0,0,-1,'bottom'),(0,1,1,0,'left'),(0,-1,-1,0,'right')])
def test_turned_and_mirrored(tmp_path, a, b, c, d_, red):
    "The eight ways, as the matrix of an MP4 says; red above in the stream"
    with av.open(str(path := tmp_path/'a.mp4'), 'w') as f:
        s = f.add_stream('mpeg4', rate=8, width=96, height=64, pix_fmt='yuv420p')
        px = np.zeros((64,96,3), np.uint8); px[:32,:,0] = 255
        f.mux(s.encode(av.VideoFrame.from_ndarray(px))); f.mux(s.encode())
    data = bytearray(path.read_bytes()); at = data.index(b'tkhd')+44
    assert struct.unpack('>i', data[at:at+4])[0] == 65536
    data[at:at+36] = struct.pack('>9i', a*65536, b*65536, 0, c*65536, d_*65536, 0, 0, 0, 2**30)
    path.write_bytes(data)
    img = np.asarray(next(frames(path))[1]).astype(int)[...,0]
    assert img.shape == ((64,96) if a else (96,64))
    h,w = img.shape
    sides = dict(top=img[:h//3], bottom=img[-h//3:], left=img[:,:w//3], right=img[:,-w//3:])
    assert max(sides, key=lambda k: sides[k].mean()) == red

def test_hdr_is_noted(det, tmp_path):
    for trc,word in ((16,'PQ'),(18,'HLG'),(1,None)):
        with av.open(str(path := tmp_path/f'{trc}.mkv'), 'w') as f:
            s = f.add_stream('mpeg4', rate=8, width=64, height=48, pix_fmt='yuv420p'); s.codec_context.color_trc = trc
            for _ in range(4): f.mux(s.encode(grey(90, (64,48))))
            f.mux(s.encode())
        note = one(det, path).note
        assert word in note and 'HDR' in note if word else note is None

# --- nothing but the file

@pytest.mark.parametrize('name', ['Talk: part 1.mp4','http:a.mp4','concat:a.mp4','file:b.mp4','-i.mp4','%d.mp4','a|b.mp4',os.fsdecode(b'\xff.mp4'),'=1+1.mp4'])
def test_a_name_is_a_name(det, tmp_path, monkeypatch, name):
    os.rename(film(tmp_path/'x.mp4', range(4)), tmp_path/name)
    monkeypatch.chdir(tmp_path)
    for o in (tmp_path/name,name): assert one(det, o).error is None
    assert predict_csv(det, ['.'], 'out.csv') == 1

@contextmanager
def listener():
    "A server that counts who asks"
    import http.server
    asked = []
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self): asked.append(self.path); self.send_error(404)
        def log_message(self, *_): pass
    server = http.server.ThreadingHTTPServer(('127.0.0.1',0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f'http://127.0.0.1:{server.server_port}',asked
    finally: server.shutdown(); server.server_close()

def test_playlists_and_addresses_are_not_followed(det, tmp_path):
    inner = film(tmp_path/'inner.mp4', range(4))
    with listener() as (url,asked):
        lists = {'hls.mp4':f'#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}/a.ts\n#EXT-X-ENDLIST\n', 'local.mp4':f'#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{inner}\n#EXT-X-ENDLIST\n',
            'concat.mkv':f'ffconcat version 1.0\nfile {inner}\n', 'dash.webm':f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><BaseURL>{url}/</BaseURL></MPD>', 'sdp.avi':'v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n'}
        for k,text in lists.items(): (tmp_path/k).write_text(text)
        for a in det.predict([tmp_path/o for o in lists]): assert 'not a video' in a.error
        for a in det.predict([f'{url}/a.mp4',f'concat:{inner}|{inner}',f'subfile,,start,0,end,0,,:{inner}','data:video/mp4;base64,AAAA.mp4']): assert a.error and len(a.error)<120
        assert asked == []

def test_only_regular_files_are_opened(det, tmp_path):
    os.mkfifo(tmp_path/'pipe.mp4'); (tmp_path/'folder.mp4').mkdir(); os.symlink('/dev/zero', tmp_path/'zero.mkv')
    a,b,c = (one(det, tmp_path/o).error for o in ('pipe.mp4','folder.mp4','zero.mkv'))
    assert 'pipe' in a and 'directory' in b and 'device' in c

# --- size

def test_too_large_is_refused_by_the_header(det, tmp_path, monkeypatch):
    clip = film(tmp_path/'a.mp4', range(4), size=(640,480))
    decoded = []
    monkeypatch.setattr(video, '_picture', lambda *_: decoded.append(1))
    monkeypatch.setattr(video, 'MAX_PIXELS', 640*480-1)
    a = one(det, clip)
    assert 'megapixels' in a.error and not decoded
    monkeypatch.undo()
    assert one(det, clip).error is None
    assert 'smaller than' in one(det, film(tmp_path/'b.mp4', range(4), size=(8,8))).error

def test_a_stream_may_not_grow_beyond(det, tmp_path, monkeypatch):
    "Motion JPEG, so that every frame brings a size of its own"
    small,large = (film(tmp_path/f'{n}.avi', range(1), n_stages=[99], size=(n,n), codec='mjpeg') for n in (64,640))
    jpeg = [next(bytes(p) for p in av.open(str(o)).demux(video=0)) for o in (small,large)]
    with av.open(str(tmp_path/'grows.mkv'), 'w') as f:
        s = f.add_stream('mjpeg', rate=8, width=64, height=64, pix_fmt='yuvj420p')
        for i,data in enumerate([jpeg[0]]*6+[jpeg[1]]*3):
            p = av.Packet(data); p.stream,p.pts,p.dts,p.time_base,p.is_keyframe = s,i,i,Fraction(1, 8),True
            f.mux(p)
    assert one(det, tmp_path/'grows.mkv').error is None
    monkeypatch.setattr(video, 'MAX_PIXELS', 100*100)
    a = one(det, tmp_path/'grows.mkv')
    assert a.error is None and 'damaged after' in a.note and len(a.timeline) == 6

def test_decoded_frames_are_not_kept(tmp_path):
    "PyAV's frame is held in a circle once its side data was asked for, and one of 4K is 12 MB"
    import gc
    def alive(): return sum(isinstance(o, av.VideoFrame) for o in gc.get_objects())
    clip = film(tmp_path/'a.mp4', range(40))
    gc.collect(); gc.disable()
    try: held = [alive() for _ in frames(clip, every=1)]
    finally: gc.enable()
    assert len(held) == 40 and max(held) <= min(held)+3

def test_few_large_frames_are_held(det, monkeypatch):
    img = Image.new('RGB', (400,300))
    monkeypatch.setattr(video, 'FRAME_PIXELS', 2*400*300)
    seen = iter([(t,img) for t in range(11)])
    assert [len(o) for o in iter(lambda: video._portion(seen), [])] == [2,2,2,2,2,1]
    monkeypatch.undo()
    seen = iter([(t,img) for t in range(11)])
    assert [len(o) for o in iter(lambda: video._portion(seen), [])] == [8,3]

def test_a_file_that_says_nothing_of_its_length_is_not_searched_for_ever(tmp_path, monkeypatch):
    clip = film(tmp_path/'a.mkv', range(80))
    assert _length(clip) == pytest.approx(10, abs=.1)
    monkeypatch.setattr(video, 'SCAN_SECONDS', -1)
    assert _length(clip) < 1 and list(frames(clip))

# --- faces, folders

@pytest.mark.parametrize('shown,verdict', [(2,'uncertain'),(6,'fake')])
def test_few_faces_are_no_verdict(det, tmp_path, monkeypatch, shown, verdict):
    clip,boxes = film(tmp_path/'a.mp4', range(8), n_stages=[250]*8),iter([[(0,0,40,40)]]*shown+[[]]*8)
    monkeypatch.setattr(d.os, 'cpu_count', lambda: 1)
    monkeypatch.setattr(faces_, 'find_faces', lambda img: next(boxes))
    a = one(det, clip, faces=True)
    assert a.verdict == verdict and f'a face in {shown} of 8 frames' in a.note and ('too few' in a.note)==(verdict=='uncertain')

def test_a_folder_holds_videos(det, tmp_path):
    for o in ('a.mp4','sub/c.MKV','.hidden/d.mp4','@eaDir/e.mp4','.f.mp4'):
        (tmp_path/o).parent.mkdir(exist_ok=True); film(tmp_path/'x.mkv', range(4)).rename(tmp_path/o) if o.endswith('MKV') else film(tmp_path/o, range(4))
    Image.new('RGB', (40,40)).save(tmp_path/'b.png')
    os.symlink(tmp_path, tmp_path/'sub'/'round')
    found = [os.path.relpath(a.path, tmp_path) for a in det.predict(tmp_path) if a.error is None]
    assert found[:2] == ['a.mp4','b.png'] and 'sub/c.MKV' in found and not any('hidden' in o or 'eaDir' in o or '.f.' in o for o in found)
    assert [os.path.basename(o) for o in video.find_media(tmp_path)] == ['a.mp4','b.png','c.MKV']
