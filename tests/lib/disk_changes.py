# For nbdsh: random changes of a disk, the same ones for the same seed.
#
# From the environment: CHANGES, the seed; CHANGE_STEPS, how many (150).
import os
import random

random.seed(int(os.environ["CHANGES"]))
size = h.get_size()
for step in range(int(os.environ.get("CHANGE_STEPS", "150"))):
    length = random.choice([1, 511, 512, 4096, 5000, 65536, 200000])
    offset = random.randrange(size - length)
    if random.random() < 0.5:
        offset -= offset % 4096
    kind = random.randrange(10)
    fua = nbd.CMD_FLAG_FUA if random.randrange(20) == 0 else 0
    if kind == 0:
        h.trim(length, offset, fua)
        h.zero(length, offset)  # a trim may leave anything
    elif kind == 1:
        h.zero(length, offset, fua | random.choice([0, nbd.CMD_FLAG_NO_HOLE]))
    elif kind == 2:
        h.pwrite(bytes(length), offset, fua)
    else:
        h.pwrite(random.randbytes(length), offset, fua)
    if random.randrange(100) == 0:
        h.flush()
h.flush()
