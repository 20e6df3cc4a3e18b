__version__ = "0.1.0"

import os as _os
_os.environ.setdefault('THP_MEM_ALLOC_ENABLE', '1')    # PyTorch's tensors in large memory pages: a forward pass on a CPU spends less time in the kernel; read when torch is first imported

# No byte leaves this machine unasked: read by these libraries when they are first imported
for _k,_v in dict(ORT_DISABLE_TELEMETRY='1', HF_HUB_DISABLE_TELEMETRY='1', GRADIO_ANALYTICS_ENABLED='False', DO_NOT_TRACK='1').items(): _os.environ.setdefault(_k, _v)

from . import core as _core     # gives a user without a home one, before libraries ask for it
