"""Logits of checkpoints by llama.cpp; see `jobs.py`.

A folder holds a GGUF beside the checkpoint, `f32.gguf`, which `run.py` has the converter write.
llama.cpp comes compiled in xllamacpp, whose extension module has its C interface (llama.h). The
parameters are left at their defaults, so what is in them need not be known.
"""

import ctypes
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import numpy as np
from jobs import run_jobs


class _Parameters(ctypes.Structure):
    """`llama_model_params` or `llama_context_params`: larger than either, and passed on."""

    _fields_ = [("bytes", ctypes.c_ubyte * 1024)]


class _Batch(ctypes.Structure):
    """`llama_batch`."""

    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        *[
            (name, ctypes.c_void_p)
            for name in ("token", "embd", "pos", "n_seq_id", "seq_id", "out")
        ],
    ]


def _library() -> ctypes.CDLL:
    (path,) = Path(str(distribution("xllamacpp").locate_file("xllamacpp"))).glob("*.so")
    library = ctypes.CDLL(str(path))
    for name, result, arguments in (
        ("llama_backend_init", None, []),
        ("llama_model_default_params", _Parameters, []),
        ("llama_context_default_params", _Parameters, []),
        ("llama_model_load_from_file", ctypes.c_void_p, [ctypes.c_char_p, _Parameters]),
        ("llama_init_from_model", ctypes.c_void_p, [ctypes.c_void_p, _Parameters]),
        ("llama_model_get_vocab", ctypes.c_void_p, [ctypes.c_void_p]),
        ("llama_vocab_n_tokens", ctypes.c_int32, [ctypes.c_void_p]),
        ("llama_batch_get_one", _Batch, [ctypes.POINTER(ctypes.c_int32), ctypes.c_int32]),
        ("llama_decode", ctypes.c_int32, [ctypes.c_void_p, _Batch]),
        ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [ctypes.c_void_p, ctypes.c_int32]),
    ):
        function = getattr(library, str(name))
        function.restype, function.argtypes = result, arguments
    library.llama_backend_init()
    return library


def logits_of(folder: str, tokens: list[int], cache: bool) -> Any:
    """Token by token; there is always a cache."""
    del cache
    path = str(Path(folder, "f32.gguf")).encode()
    model = llama.llama_model_load_from_file(path, llama.llama_model_default_params())
    if not model:
        raise ValueError("llama.cpp does not load it")
    context = llama.llama_init_from_model(model, llama.llama_context_default_params())
    words = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    rows = []
    for token in tokens:
        batch = llama.llama_batch_get_one((ctypes.c_int32 * 1)(token), 1)
        if llama.llama_decode(context, batch):
            raise ValueError("llama_decode failed")
        rows.append(np.array(llama.llama_get_logits_ith(context, -1)[:words], dtype=np.float32))
    return np.stack(rows)


llama = _library()
run_jobs(f"xllamacpp {version('xllamacpp')}", logits_of)
