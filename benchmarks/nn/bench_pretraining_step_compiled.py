"""The whole pretraining step beside torch.compile's, in a file, and so a process, of its own.

It takes minutes to compile the three streams' shapes of both encoders. And torch 2.13's compiled step ended a process
that had run the eager rivals too with a segmentation fault, once in oneDNN's gradient of a 1×1 convolution
(``jit_avx512_common_1x1_convolution_bwd_weights_t``, at the first call), once in the garbage collection after it; it
came neither with the rivals alone nor with ours and the compiled one in turn. So this file may lose its rows, not
others.
"""

import pytest
from race import ours, rival
from rivals import COMPILED, OURS, channels_last_clips, pretraining_step, random_clips
from steps import our_step
from targets import STEP_COMPILED

pytestmark = [pytest.mark.large, pytest.mark.compiles]

CLIPS, WIDTH = 128, 6144


@pytest.mark.parametrize("name", [OURS, COMPILED])
def test_step(race, name):
    def start():
        clips = random_clips(CLIPS)
        compiled = pretraining_step(COMPILED, WIDTH, clips)
        compiled()  # every shape of both encoders
        return {OURS: ours(our_step(WIDTH, channels_last_clips(clips))), COMPILED: rival(compiled)}

    race(name, STEP_COMPILED, start, seconds=6.0, fewest=3, amounts={"clips": float(CLIPS)})
