"""One run of llama.cpp: prefill in one batch, then decoding of given tokens. Prints one line of JSON."""

import argparse
import ctypes
import json
import time

import llama_cpp as lib
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf")
    parser.add_argument("-p", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("-n", type=int, default=128, help="tokens to decode")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--tokens", help="token ids of the prompt; by default those of `hotset bench`")
    parser.add_argument("--no-repack", action="store_true", help="compute from the weights as they are in the file")
    parser.add_argument("--logits", action="store_true", help="also print the logits after the prompt")
    args = parser.parse_args()

    quiet = lib.llama_log_callback(lambda level, text, data: None)
    lib.llama_log_set(quiet, None)
    lib.llama_backend_init()
    params = lib.llama_model_default_params()
    params.n_gpu_layers = 0
    params.use_extra_bufts = not args.no_repack
    model = lib.llama_model_load_from_file(args.gguf.encode(), params)
    assert model, f"llama.cpp cannot load {args.gguf}"
    params = lib.llama_context_default_params()
    params.n_ctx = args.p + args.n + 16
    params.n_batch = params.n_ubatch = max(args.p, 32)
    params.n_threads = params.n_threads_batch = args.threads
    context = lib.llama_init_from_model(model, params)
    vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))

    def feed(tokens) -> None:
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        assert lib.llama_decode(context, lib.llama_batch_get_one(array, len(tokens))) == 0, "llama_decode failed"
        lib.llama_synchronize(context)

    def logits() -> np.ndarray:
        return np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (vocab,))

    prompt = [int(t) for t in args.tokens.split(",")] if args.tokens else scattered(args.p, vocab)

    # Twice: the first pass brings in the file and warms the threads up.
    for _ in range(2):
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        begin = time.perf_counter()
        feed(prompt)
        prefill = time.perf_counter() - begin
        after_prompt = logits().copy()
        begin = time.perf_counter()
        for token in scattered(args.p + args.n, vocab)[args.p :]:
            feed([token])
            logits().argmax()
        decode = time.perf_counter() - begin

    result = {"prefill": len(prompt) / prefill, "decode": args.n / decode if args.n else None}
    if args.logits:
        result["logits"] = after_prompt.tolist()
    print(json.dumps(result))


def scattered(n: int, vocab: int) -> list[int]:
    """The tokens of `hotset bench`."""
    return [i * 0x9E3779B9 % 0xFFFFFFFB % vocab for i in range(1, n + 1)]


if __name__ == "__main__":
    main()
