"""A worker that misbehaves on marked models: started by the tests instead of the real one.

A model whose bytes hold b"CRASH", b"HANG" or b"EXIT" makes it die of SIGSEGV, sleep for ever or
exit with code 7 when its session is made; b"CHATTER" makes it print to stdout.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from factory.devices import measure, worker

honest = measure.make_session


def make_session(model, config, *more):
    if b"CRASH" in model:
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"HANG" in model:
        time.sleep(3600)
    if b"EXIT" in model:
        print("the driver is upset", file=sys.stderr, flush=True)
        os._exit(7)
    if b"CHATTER" in model:
        os.write(1, b"hello from a native library\n")
        print("hello from python", flush=True)
    return honest(model, config, *more)


measure.make_session = make_session
if __name__ == "__main__":
    worker.main()
