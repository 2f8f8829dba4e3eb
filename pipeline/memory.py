"""Memory of a worker process: what compilation leaves behind goes back to the system.

Compiling a kernel takes tens of MiB that the C library keeps afterwards, scattered
over its heap, and a worker's memory is bounded.
"""

import ctypes
from typing import Any

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"


def trim_after_compilation() -> None:
    """Give memory back whenever this process has compiled a kernel.

    Does nothing where the C library has no malloc_trim.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)

    def compiled(event: str, duration_secs: float, **_: Any) -> None:
        if event == _COMPILED and trim is not None:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(compiled)
