"""Tell photographs of faces from faces made by a GAN: a notebook-first comparison of five networks

Modules:

- `deepfake_nb.answers`: What a person is shown: verdict, faces, signals, and which parts of the picture matter
- `deepfake_nb.app`: A web page: drop pictures or a video, see the verdict and the reasons
- `deepfake_nb.audit`: Shortcuts: what gives the label away without a look at the face
- `deepfake_nb.backbones`: Models III to V, and any other network of timm: normalisation, head, freezing
- `deepfake_nb.benchmark`: How fast we score pictures, and the whole table
- `deepfake_nb.boosting`: Many small trees on the features of a frozen backbone, by AdaBoost or XGBoost, and what they do when fakes are rare
- `deepfake_nb.calibration`: From logits to probabilities that can be believed, and from probabilities to a verdict
- `deepfake_nb.checkpoints`: What a training run keeps, so that it survives being killed
- `deepfake_nb.cli`: The `deepfake-nb` command
- `deepfake_nb.cnns`: Models I and II, the two small networks that the paper builds by hand
- `deepfake_nb.comparison`: The whole way: table, audit, pixels, models, report
- `deepfake_nb.console`: What all commands share: the options that repeat, and an end in one line with an exit code
- `deepfake_nb.core`: One kind of error for wrong input, and files that are complete or not there
- `deepfake_nb.delivery`: How a picture reached us, what that does to the answer, and when to give none
- `deepfake_nb.detector`: Is this face fake? One answer for each picture
- `deepfake_nb.faces`: Faces in a picture, cropped as the models were trained
- `deepfake_nb.features`: The frozen stage without the backbone
- `deepfake_nb.gan`: Two small GANs that learn to make fake portraits
- `deepfake_nb.googlenet`: GoogLeNet (Inception v1) as one more name for `--models`: torchvision's network behind timm's interface
- `deepfake_nb.hub`: A model on the Hugging Face hub, and back
- `deepfake_nb.images`: A picture: opened, upright, square
- `deepfake_nb.learner`: Loss, precision, and the fastai learner
- `deepfake_nb.linear`: Two small linear models on the pixels: one for the power spectrum, one for the noise
- `deepfake_nb.maps`: The unfrozen stage without the layers that stay frozen
- `deepfake_nb.metrics`: What a score is worth: is it right, does it rank, can its probabilities be believed
- `deepfake_nb.onnx_export`: One file that needs no PyTorch
- `deepfake_nb.paper`: A person's traits from one seed, and the paper to draw them on
- `deepfake_nb.parts`: Pictures in object stores, and a folder of answers in parts that are whole or not there
- `deepfake_nb.patches`: Which patches come from the same photograph? A small network that learns this finds places that do not fit
- `deepfake_nb.pixels`: Every file is read once: the pixel cache
- `deepfake_nb.portraits`: Draw the portrait of a person, photograph it and save it as a JPEG
- `deepfake_nb.processes`: Several processes that train one model, on several GPUs or machines
- `deepfake_nb.report`: What a run found, for people: plots, a card, a page
- `deepfake_nb.residuals`: The noise of a picture as 312 numbers: what is left without everything smooth, and how it repeats
- `deepfake_nb.results`: All models in one table, and what the paper claims about them
- `deepfake_nb.robustness`: Changed pictures, and sources that were not trained on
- `deepfake_nb.runs`: One model, all its stages, one folder
- `deepfake_nb.sample`: A data set that needs no download
- `deepfake_nb.scale`: Millions of pictures, scored by a cluster of machines with Ray Data
- `deepfake_nb.scorers`: From pixels to probabilities, with PyTorch and without
- `deepfake_nb.settings`: All that can be set, in one object
- `deepfake_nb.signals`: Several kinds of evidence about one picture, side by side
- `deepfake_nb.sources`: Folders, CelebA, CSVs: every layout becomes one table
- `deepfake_nb.spectrum`: The baseline that never looks at a face: rings of the power spectrum, and a logistic regression
- `deepfake_nb.speed`: How fast we read images, next to fastai and torchvision
- `deepfake_nb.split`: What must stay together, the split, and the data set
- `deepfake_nb.tables`: Predictions for many pictures in one CSV file, and scores on pictures of known class
- `deepfake_nb.tampering`: Photographs that we change ourselves, with a mask that says where
- `deepfake_nb.threads`: How many threads compute, on a machine that other programs use too
- `deepfake_nb.timing`: How we time two ways of doing the same job side by side
- `deepfake_nb.training_speed`: How fast we train, next to fastai
- `deepfake_nb.twostream`: A backbone sees the face, fixed filters see the noise, and one logistic regression weighs both
- `deepfake_nb.unet`: A small U-Net that marks where a face was changed, trained on photographs alone
- `deepfake_nb.uploads`: Files that strangers send, and who may send them
- `deepfake_nb.verify`: Does a run hold what its receipt says, and which of several detectors is better on the same pictures
- `deepfake_nb.video`: Frames of a video, upright and evenly spaced
- `deepfake_nb.weights`: Where pretrained weights come from, and what is said when they do not come
- `deepfake_nb.where`: Where a face was changed: one picture, one map, and what the map marks by mistake"""

__version__ = "0.1.0"

import os as _os
if 'OMP_WAIT_POLICY' not in _os.environ: _os.environ.setdefault('GOMP_SPINCOUNT', '1000')     # a thread that waits for another one soon sleeps, see the chapter on threads; read when torch is first imported
_os.environ.setdefault('THP_MEM_ALLOC_ENABLE', '1')    # PyTorch's tensors in large memory pages: a forward pass on a CPU spends less time in the kernel; read when torch is first imported

if 'WORLD_SIZE' in _os.environ: _os.environ.setdefault('TORCH_CPP_LOG_LEVEL', 'ERROR')      # a process that ends is told in one line, not in a page about sockets

# No byte leaves this machine unasked: read by these libraries when they are first imported
for _k,_v in dict(ORT_DISABLE_TELEMETRY='1', HF_HUB_DISABLE_TELEMETRY='1', GRADIO_ANALYTICS_ENABLED='False', DO_NOT_TRACK='1').items(): _os.environ.setdefault(_k, _v)

from . import core as _core     # gives a user without a home one, before libraries ask for it
